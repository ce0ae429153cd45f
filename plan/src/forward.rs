//! Other owners' forward chains: whether they would drop our packets, and the one jump that lets them pass.
//!
//! An accept in our own table does not undo a drop in another's (dockerd sets the policy of FORWARD to DROP). So where
//! iptables would drop what containers send and get, a chain of our own is made, [`CHAIN`], and exactly one jump leads into
//! it: from `DOCKER-USER`, which Docker keeps for that, else from FORWARD. Nothing else of the filter table is touched.
//!
//! The chain lets pass what comes from our devices with a source of the network, answers to it from outside, and what reaches
//! containers by a published port of the host. Other new connections from outside stay the owner's to judge. Rules with conditions
//! are not judged here: that a rule drops *everything* is what can be known.

use std::collections::BTreeMap;
use std::fmt;

use ipnet::Ipv4Net;

use crate::links::PREFIX;

/// Our chain.
pub const CHAIN: &str = "WEFT-FORWARD";

/// The chain that every forwarded packet goes through.
const FORWARD: &str = "FORWARD";

/// The chain that Docker leaves to others, before its own rules.
const DOCKER_USER: &str = "DOCKER-USER";

/// How deep chains may call each other; the kernel allows for no circles.
const DEPTH: u32 = 32;

/// The filter table of iptables, as `iptables -S` tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    chains: BTreeMap<String, Chain>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Chain {
    policy: Option<String>,
    rules: Vec<Rule>,
}

/// A rule's words, without `-A CHAIN`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule(Vec<String>);

/// What becomes of a forwarded packet that no condition singles out.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Accepted,
    Dropped(Drops),
    /// It comes to our chain first.
    Ours,
    /// The chain ends without a verdict.
    Returned,
}

/// What drops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drops {
    chain: String,
    how: String,
}

impl fmt::Display for Drops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chain {} ({})", self.chain, self.how)
    }
}

/// One call of iptables: the arguments behind `-w -t filter`.
pub type Call = Vec<String>;

impl Filter {
    /// Reads what `iptables -t filter -S` prints. Lines that are none of its own are passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut filter = Self::default();
        for line in text.lines() {
            let mut words = words(line).into_iter();
            let (Some(what), Some(chain)) = (words.next(), words.next()) else { continue };
            match what.as_str() {
                "-P" => filter.chains.entry(chain).or_default().policy = words.next(),
                "-N" => drop(filter.chains.entry(chain).or_default()),
                "-A" => filter.chains.entry(chain).or_default().rules.push(Rule(words.collect())),
                _ => {}
            }
        }
        filter
    }

    /// What would drop our packets if our jump were not there.
    #[must_use]
    pub fn drops(&self) -> Option<Drops> {
        match self.without_us().end(FORWARD, DEPTH) {
            End::Dropped(drops) => Some(drops),
            _ => None,
        }
    }

    fn without_us(&self) -> Self {
        let mut others = self.clone();
        for chain in others.chains.values_mut() {
            chain.rules.retain(|rule| rule.target() != Some(CHAIN));
        }
        others
    }

    fn end(&self, name: &str, depth: u32) -> End {
        let Some(chain) = self.chains.get(name).filter(|_| depth > 0) else { return End::Returned };
        let dropped = |how: String| End::Dropped(Drops { chain: name.to_owned(), how });
        for rule in chain.rules.iter().filter(|rule| rule.matches_all()) {
            let Some(target) = rule.target() else { continue };
            match target {
                CHAIN => return End::Ours,
                "ACCEPT" => return End::Accepted,
                "DROP" | "REJECT" => return dropped(format!("rule {}", rule.0.join(" "))),
                "RETURN" => break,
                next => match self.end(next, depth - 1) {
                    End::Returned if rule.goes() => break,
                    End::Returned => {}
                    end => return end,
                },
            }
        }
        match chain.policy.as_deref() {
            Some("DROP") => dropped("policy DROP".to_owned()),
            Some("ACCEPT") => End::Accepted,
            _ => End::Returned,
        }
    }

    /// The chain that the jump belongs in: `DOCKER-USER` if packets come there before anything drops them.
    fn place(&self) -> &'static str {
        let mut there = self.without_us();
        let Some(docker) = there.chains.get_mut(DOCKER_USER) else { return FORWARD };
        docker.rules.insert(0, Rule(vec!["-j".to_owned(), CHAIN.to_owned()]));
        if there.end(FORWARD, DEPTH) == End::Ours { DOCKER_USER } else { FORWARD }
    }
}

impl Rule {
    /// The words but for comments, which are no condition.
    fn plain(&self) -> Vec<&str> {
        let words: Vec<&str> = self.0.iter().map(String::as_str).collect();
        let mut plain = Vec::new();
        let mut rest = words.as_slice();
        while let Some((first, tail)) = rest.split_first() {
            rest = match (*first, tail) {
                ("-m", ["comment", tail @ ..]) | ("--comment", [_, tail @ ..]) => tail,
                _ => {
                    plain.push(*first);
                    tail
                }
            };
        }
        plain
    }

    fn matches_all(&self) -> bool {
        self.plain().first().is_some_and(|word| matches!(*word, "-j" | "-g"))
    }

    fn goes(&self) -> bool {
        self.plain().contains(&"-g")
    }

    fn target(&self) -> Option<&str> {
        let at = self.0.iter().position(|word| word == "-j" || word == "-g")?;
        self.0.get(at + 1).map(String::as_str)
    }

    /// The words in an order that does not depend on who prints them.
    fn sorted(&self) -> Vec<&str> {
        let mut words: Vec<&str> = self.0.iter().map(String::as_str).collect();
        words.sort_unstable();
        words
    }
}

/// The words of a line; a word with white space stands between double quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let (mut quoted, mut escaped) = (false, false);
    for c in line.chars() {
        match c {
            _ if escaped => {
                word.get_or_insert_default().push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// What our chain holds.
fn rules(network: Ipv4Net) -> Vec<Rule> {
    let ours = format!("{PREFIX}+");
    let from = format!("-s {network} -i {ours} -j ACCEPT");
    let answers = format!("-d {network} -o {ours} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
    // Whose destination was another one: published ports.
    let published = format!("-d {network} -o {ours} -m conntrack --ctstate DNAT -j ACCEPT");
    [from, answers, published].iter().map(|rule| Rule(words(rule))).collect()
}

/// The calls that make the filter table as it should be: with our chain and one jump into it if `network` is given and
/// something drops, without both otherwise. Each can be the last: the next look finds what is missing.
#[must_use]
pub fn diff(network: Option<Ipv4Net>, filter: &Filter) -> Vec<Call> {
    let wanted = network.filter(|_| filter.drops().is_some());
    let ours = filter.chains.get(CHAIN);
    let mut calls: Vec<Call> = Vec::new();
    let mut call = |text: &str, rest: &[String]| calls.push(words(text).into_iter().chain(rest.iter().cloned()).collect());
    let jumps = |name: &str, chain: &Chain| {
        let jumps = chain.rules.iter().filter(|rule| rule.target() == Some(CHAIN)).map(|rule| (name.to_owned(), rule.clone()));
        jumps.collect::<Vec<_>>()
    };
    let jumps: Vec<(String, Rule)> = filter.chains.iter().flat_map(|(name, chain)| jumps(name, chain)).collect();
    let Some(network) = wanted else {
        for (chain, jump) in &jumps {
            call(&format!("-D {chain}"), &jump.0);
        }
        if ours.is_some() {
            call(&format!("-F {CHAIN}"), &[]);
            call(&format!("-X {CHAIN}"), &[]);
        }
        return calls;
    };
    let rules = rules(network);
    let there = ours.map(|chain| chain.rules.iter().map(Rule::sorted).collect::<Vec<_>>());
    match there {
        None => call(&format!("-N {CHAIN}"), &[]),
        Some(there) if !there.is_empty() && there != rules.iter().map(Rule::sorted).collect::<Vec<_>>() => {
            call(&format!("-F {CHAIN}"), &[]);
        }
        Some(_) => {}
    }
    if ours.is_none_or(|chain| chain.rules.iter().map(Rule::sorted).ne(rules.iter().map(Rule::sorted))) {
        for rule in &rules {
            call(&format!("-A {CHAIN}"), &rule.0);
        }
    }
    let place = filter.place();
    let right = matches!(jumps.as_slice(), [(chain, jump)] if chain == place && jump.matches_all());
    if !right || filter.end(FORWARD, DEPTH) != End::Ours {
        // A rule is removed by what it says, which would hit the new one if that came first.
        for (chain, jump) in &jumps {
            call(&format!("-D {chain}"), &jump.0);
        }
        call(&format!("-I {place} 1 -j {CHAIN}"), &[]);
    }
    calls
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
