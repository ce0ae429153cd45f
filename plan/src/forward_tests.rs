//! What iptables prints, what would drop, and the calls that follow.

use proptest::prelude::*;

use super::*;

const NETWORK: &str = "10.244.0.0/16";

/// What dockerd leaves (29 and before alike but for names).
const DOCKER: &str = r#"-P INPUT ACCEPT
-P FORWARD DROP
-P OUTPUT ACCEPT
-N DOCKER
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-USER -m comment --comment "of the operator's" -j RETURN
"#;

fn network() -> Option<Ipv4Net> {
    Some(NETWORK.parse().unwrap())
}

fn plan(text: &str) -> Vec<String> {
    diff(network(), &Filter::parse(text)).iter().map(|call| call.join(" ")).collect()
}

/// Does what a call says, as iptables does.
fn apply(filter: &mut Filter, call: &Call) {
    let words: Vec<&str> = call.iter().map(String::as_str).collect();
    let rule = |words: &[&str]| Rule(words.iter().map(|w| (*w).to_owned()).collect());
    match words.as_slice() {
        ["-N", chain] => assert!(filter.chains.insert((*chain).to_owned(), Chain::default()).is_none(), "{call:?}"),
        ["-F", chain] => filter.chains.get_mut(*chain).unwrap().rules.clear(),
        ["-X", chain] => {
            assert!(filter.chains.remove(*chain).unwrap().rules.is_empty(), "{call:?}");
            let used = filter.chains.values().flat_map(|c| &c.rules).any(|r| r.target() == Some(*chain));
            assert!(!used, "{call:?}: it is in use");
        }
        ["-A", chain, rest @ ..] => filter.chains.get_mut(*chain).unwrap().rules.push(rule(rest)),
        ["-I", chain, "1", rest @ ..] => filter.chains.get_mut(*chain).unwrap().rules.insert(0, rule(rest)),
        ["-D", chain, rest @ ..] => {
            let rules = &mut filter.chains.get_mut(*chain).unwrap().rules;
            let at = rules.iter().position(|r| *r == rule(rest)).expect("such a rule");
            rules.remove(at);
        }
        other => panic!("{other:?}"),
    }
}

fn settle(filter: &mut Filter, network: Option<Ipv4Net>) {
    for call in diff(network, filter) {
        apply(filter, &call);
    }
    assert_eq!(diff(network, filter), Vec::<Call>::new());
}

#[test]
fn a_policy_that_accepts_needs_nothing() {
    for text in ["", "-P FORWARD ACCEPT\n", "-P FORWARD DROP\n-A FORWARD -m comment --comment \"all of it\" -j ACCEPT\n"] {
        assert_eq!(plan(text), Vec::<String>::new(), "{text}");
        assert_eq!(Filter::parse(text).drops(), None, "{text}");
    }
}

#[test]
fn what_drops_is_named() {
    let drops = |text: &str| Filter::parse(text).drops().unwrap().to_string();
    assert_eq!(drops("-P FORWARD DROP\n"), "chain FORWARD (policy DROP)");
    assert_eq!(drops(DOCKER), "chain FORWARD (policy DROP)");
    let rule = "-P FORWARD ACCEPT\n-N OWN\n-A FORWARD -j OWN\n-A OWN -j REJECT --reject-with icmp-host-prohibited\n";
    assert_eq!(drops(rule), "chain OWN (rule -j REJECT --reject-with icmp-host-prohibited)");
}

#[test]
fn the_jump_stands_where_docker_leaves_room_else_first_in_forward() {
    let chain = [
        "-N WEFT-FORWARD",
        "-A WEFT-FORWARD -s 10.244.0.0/16 -i weft+ -j ACCEPT",
        "-A WEFT-FORWARD -d 10.244.0.0/16 -o weft+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A WEFT-FORWARD -d 10.244.0.0/16 -o weft+ -m conntrack --ctstate DNAT -j ACCEPT",
    ];
    assert_eq!(plan("-P FORWARD DROP\n"), [&chain[..], &["-I FORWARD 1 -j WEFT-FORWARD"]].concat());
    assert_eq!(plan(DOCKER), [&chain[..], &["-I DOCKER-USER 1 -j WEFT-FORWARD"]].concat());
}

#[test]
fn a_jump_that_is_in_place_is_left_alone_and_one_behind_a_drop_is_moved() {
    let mut filter = Filter::parse(DOCKER);
    settle(&mut filter, network());
    // dockerd puts its own jumps first again when it starts; ours stands in its chain and stays.
    assert_eq!(diff(network(), &filter), Vec::<Call>::new());
    let operator = Rule(words("-j DROP"));
    filter.chains.get_mut(DOCKER_USER).unwrap().rules.insert(0, operator);
    let calls: Vec<String> = diff(network(), &filter).iter().map(|call| call.join(" ")).collect();
    assert_eq!(calls, ["-D DOCKER-USER -j WEFT-FORWARD", "-I DOCKER-USER 1 -j WEFT-FORWARD"]);
}

#[test]
fn the_jump_follows_docker_when_it_comes_and_when_it_goes() {
    let mut filter = Filter::parse("-P FORWARD DROP\n");
    settle(&mut filter, network());
    filter.chains.entry(DOCKER_USER.to_owned()).or_default();
    filter.chains.get_mut(FORWARD).unwrap().rules.insert(0, Rule(words("-j DOCKER-USER")));
    settle(&mut filter, network());
    let jumps = |filter: &Filter, chain: &str| filter.chains[chain].rules.iter().filter(|r| r.target() == Some(CHAIN)).count();
    assert_eq!((jumps(&filter, FORWARD), jumps(&filter, DOCKER_USER)), (0, 1));
}

#[test]
fn nothing_is_left_when_the_drop_has_gone_or_the_network() {
    let before = Filter::parse(DOCKER);
    let mut filter = before.clone();
    settle(&mut filter, network());
    assert_ne!(filter, before);
    settle(&mut filter, None);
    assert_eq!(filter, before);

    settle(&mut filter, network());
    filter.chains.get_mut(FORWARD).unwrap().policy = Some("ACCEPT".to_owned());
    settle(&mut filter, network());
    assert!(!filter.chains.contains_key(CHAIN));
}

#[test]
fn quoted_words_are_one() {
    assert_eq!(
        words(r#"-A X -m comment --comment "a \"b\" c" -j Y"#),
        ["-A", "X", "-m", "comment", "--comment", "a \"b\" c", "-j", "Y"]
    );
}

proptest! {
    #[test]
    fn any_table_settles_even_if_interrupted(
        lines in prop::collection::vec(prop::sample::select(vec![
            "-A FORWARD -j DROP", "-A FORWARD -j DOCKER-USER", "-A FORWARD -j WEFT-FORWARD", "-A FORWARD -i x -j WEFT-FORWARD",
            "-A DOCKER-USER -j RETURN", "-A DOCKER-USER -j WEFT-FORWARD", "-A DOCKER-USER -j DROP", "-A FORWARD -j ACCEPT",
            "-A WEFT-FORWARD -j ACCEPT", "-P FORWARD DROP", "-P FORWARD ACCEPT",
        ]), 0..10),
        stop in 0..12usize,
        wanted in any::<bool>(),
    ) {
        // A chain that is jumped to exists.
        let text = format!("-P FORWARD ACCEPT\n-N DOCKER-USER\n-N WEFT-FORWARD\n{}", lines.join("\n"));
        let network = network().filter(|_| wanted);
        let mut filter = Filter::parse(&text);
        for call in diff(network, &filter).iter().take(stop) {
            apply(&mut filter, call);
        }
        settle(&mut filter, network);
        prop_assert_eq!(filter.chains.contains_key(CHAIN), wanted && filter.drops().is_some());
    }
}
