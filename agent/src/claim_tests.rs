//! Which subnet a host takes, keeps and rewrites.

use weft_model::keys::Layout;
use weft_model::stored::{Change, Entry};
use weft_model::subnet::Tree;
use weft_store::embedded::EmbeddedStore;
use weft_store::{Store, Txn};

use super::*;

const CONFIG: (&str, &str) = ("/coreos.com/network/config", r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#);
const CLAIM: Option<LeaseId> = Some(LeaseId(7));

fn snapshot(entries: &[(&str, &str)]) -> Snapshot {
    let mut s = Snapshot::complete(Arc::new(Layout::default()), Revision(1), Vec::new(), None);
    let changes = entries.iter().map(|(key, value)| {
        let lease = key.contains("/subnets/").then_some(LeaseId(7));
        Change::Put(Entry { key: (*key).into(), value: (*value).into(), lease, created: Revision(2), modified: Revision(3) })
    });
    s.apply(Revision(3), changes.collect());
    s
}

fn facts() -> Facts {
    Facts {
        node: "h1".parse().unwrap(),
        public_ip: Some(Ipv4Addr::new(192, 0, 2, 1)),
        public_ipv6: None,
        has_ipv6: true,
        vtep_mac: Mac([2, 0, 0, 0, 0, 1]),
        vtep_mac6: Mac([2, 0, 0, 0, 0, 6]),
        boot: "b".into(),
        mtu: 1450,
        preferred: None,
        preferred6: None,
    }
}

/// On a host without containers.
fn decide(snapshot: &Snapshot, facts: &Facts, claim: Option<LeaseId>) -> Todo {
    super::decide(snapshot, facts, claim, &Addresses::new())
}

fn written(todo: Todo) -> (SubnetKey, Lease, Option<Revision>, Option<LeaseId>) {
    match todo {
        Todo::Write { key, lease, over, on } => (key, *lease, Some(over), on),
        Todo::Claim(new) => (new.key, new.lease, new.over, Some(new.on)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_configuration_the_reason_says_what_to_type() {
    let Todo::Wait(why) = decide(&snapshot(&[]), &facts(), CLAIM) else { panic!() };
    assert_eq!(why, "waiting for /coreos.com/network/config: netctl network init --cidr 10.244.0.0/16");
    let Todo::Wait(why) = decide(&snapshot(&[(CONFIG.0, "{")]), &facts(), CLAIM) else { panic!() };
    assert!(why.starts_with("/coreos.com/network/config does not parse"), "{why}");
}

#[test]
fn what_it_writes_is_what_it_keeps() {
    let (key, lease, over, on) = written(decide(&snapshot(&[CONFIG]), &facts(), CLAIM));
    assert_eq!((over, on), (None, CLAIM));
    let path = Layout::default().subnet(&key);
    let json = lease.to_json();
    let after = snapshot(&[CONFIG, (&path, &json)]);
    let own = Own { subnet: key.subnet, subnet6: None, vtep_mac: facts().vtep_mac, vtep_mac6: facts().vtep_mac6 };
    assert_eq!(decide(&after, &facts(), CLAIM), Todo::Keep(own, None));
}

#[test]
fn a_lost_state_directory_changes_neither_subnet_nor_mac() {
    let lease = r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:99"},"weft":{"node":"h1","boot":"b","mtu":1450}}"#;
    let s = snapshot(&[CONFIG, ("/coreos.com/network/subnets/10.244.9.0-24", lease)]);
    let Todo::Keep(own, None) = decide(&s, &facts(), CLAIM) else { panic!() };
    assert_eq!((own.subnet.to_string().as_str(), own.vtep_mac), ("10.244.9.0/24", Mac([2, 0, 0, 0, 0, 0x99])));
}

#[test]
fn a_new_claim_lease_or_address_rewrites_the_same_subnet_by_compare() {
    let lease = r#"{"PublicIP":"192.0.2.7","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:01"},"weft":{"node":"h1","boot":"b","mtu":1450}}"#;
    let s = snapshot(&[CONFIG, ("/coreos.com/network/subnets/10.244.9.0-24", lease)]);
    let (key, lease, over, _) = written(decide(&s, &facts(), CLAIM));
    assert_eq!((key.to_string().as_str(), over), ("10.244.9.0-24", Some(Revision(3))));
    assert_eq!(lease.public_ip, Some(Ipv4Addr::new(192, 0, 2, 1)));
    let (_, _, _, on) = written(decide(&s, &facts(), Some(LeaseId(8))));
    assert_eq!(on, Some(LeaseId(8)));
}

#[test]
fn a_former_flannelds_lease_of_our_address_is_adopted_and_another_weft_nodes_is_not() {
    let flannel = r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"2e:ce:51:c6:8f:1b"}}"#;
    let s = snapshot(&[CONFIG, ("/coreos.com/network/subnets/10.244.9.0-24", flannel)]);
    let (key, lease, over, _) = written(decide(&s, &facts(), CLAIM));
    assert_eq!((key.to_string().as_str(), over.is_some()), ("10.244.9.0-24", true));
    assert_eq!(lease.vtep_mac(1).unwrap().to_string(), "2e:ce:51:c6:8f:1b");
    let other =
        r#"{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VtepMAC":"2e:ce:51:c6:8f:1b"},"weft":{"node":"h2"}}"#;
    let s = snapshot(&[CONFIG, ("/coreos.com/network/subnets/10.244.9.0-24", other)]);
    assert_ne!(written(decide(&s, &facts(), CLAIM)).0.to_string(), "10.244.9.0-24");
}

const DUAL: (&str, &str) =
    (CONFIG.0, r#"{"EnableIPv6":true,"Network":"10.244.0.0/16","IPv6Network":"fd00:10:244::/48","Backend":{"Type":"vxlan"}}"#);

#[test]
fn a_dual_stack_claim_has_the_same_number_in_both_families_and_is_kept() {
    let facts = Facts { public_ipv6: Some("2001:db8::1".parse().unwrap()), ..facts() };
    let (key, lease, ..) = written(decide(&snapshot(&[DUAL]), &facts, CLAIM));
    let third = key.subnet.addr().octets()[2];
    assert_eq!(key.v6.unwrap().to_string(), format!("fd00:10:244:{third:x}::/64"));
    assert_eq!((lease.vtep_mac(1), lease.vtep_mac6(1)), (Some(facts.vtep_mac), Some(facts.vtep_mac6)));
    assert!(lease.weft.as_ref().unwrap().udp6zero);
    let path = Layout::default().subnet(&key);
    let json = lease.to_json();
    let after = snapshot(&[DUAL, (&path, &json)]);
    // With a state directory that was lost, the Ethernet addresses are those of the lease.
    let lost = Facts { vtep_mac: Mac([2; 6]), vtep_mac6: Mac([4; 6]), ..facts.clone() };
    let own = Own { subnet: key.subnet, subnet6: key.v6, vtep_mac: facts.vtep_mac, vtep_mac6: facts.vtep_mac6 };
    assert_eq!(decide(&after, &lost, CLAIM), Todo::Keep(own, None));
}

#[test]
fn a_network_that_becomes_dual_stack_gives_the_lease_another_key_and_no_other_subnet() {
    let s = snapshot(&[DUAL, (LEASE_9, OURS)]);
    let Todo::Rename { from, over, to, lease, on } = decide(&s, &facts(), CLAIM) else { panic!() };
    assert_eq!((from.to_string().as_str(), over, on), ("10.244.9.0-24", Revision(3), CLAIM));
    assert_eq!(to.to_string(), "10.244.9.0-24&fd00:10:244:9::-64");
    // And back.
    let path = Layout::default().subnet(&to);
    let json = lease.to_json();
    let Todo::Rename { to, .. } = decide(&snapshot(&[CONFIG, (&path, &json)]), &facts(), CLAIM) else { panic!() };
    assert_eq!(to, from);
    // A kernel without IPv6 stays what it is, and says so.
    let Todo::Keep(own, Some(odd)) = decide(&s, &Facts { has_ipv6: false, ..facts() }, CLAIM) else { panic!() };
    assert_eq!(own.subnet6, None);
    assert!(odd.contains("IPv6 turned off") && odd.contains("fd00:10:244::/48"), "{odd}");
}

#[test]
fn an_ipv6_subnet_that_another_host_has_is_not_taken() {
    let other = ("/coreos.com/network/subnets/10.244.7.0-24&fd00:10:244:9::-64", FOREIGN);
    let Todo::Rename { to, .. } = decide(&snapshot(&[DUAL, (LEASE_9, OURS), other]), &facts(), CLAIM) else { panic!() };
    assert_eq!(to.subnet.to_string(), "10.244.9.0/24");
    assert!(!to.v6.unwrap().to_string().starts_with("fd00:10:244:9:"), "{to}");
    // Another host in the same place, at the same moment, chooses another.
    let h2 = Facts { node: "h2".parse().unwrap(), ..facts() };
    let theirs = OURS.replace("h1", "h2");
    let Todo::Rename { to: to2, .. } = decide(&snapshot(&[DUAL, (LEASE_9, &theirs), other]), &h2, CLAIM) else { panic!() };
    assert_ne!(to.v6, to2.v6);
}

/// Leases, the older first.
fn in_order(config: (&str, &str), leases: &[(&str, &str)]) -> Snapshot {
    let mut s = snapshot(&[config]);
    for (n, (key, value)) in (10..).zip(leases) {
        let at = Revision(n);
        let (key, value) = ((*key).into(), (*value).into());
        s.apply(at, vec![Change::Put(Entry { key, value, lease: Some(LeaseId(7)), created: at, modified: at })]);
    }
    s
}

#[test]
fn of_two_hosts_with_one_ipv6_subnet_the_younger_takes_another() {
    let ours = ("/coreos.com/network/subnets/10.244.9.0-24&fd00:10:244:9::-64", OURS);
    let other = ("/coreos.com/network/subnets/10.244.7.0-24&fd00:10:244:9::-64", FOREIGN);
    let s = in_order(DUAL, &[other, ours]);
    // What it remembers to have had counts no more than the lease.
    let facts = Facts { preferred6: Some("fd00:10:244:9::/64".parse().unwrap()), ..facts() };
    let Todo::Rename { from, to, .. } = decide(&s, &facts, CLAIM) else { panic!() };
    assert_eq!((to.subnet, to.tree), (from.subnet, from.tree));
    assert!(s.taken6(to.v6.unwrap()).is_none(), "{to}");
    let Todo::Keep(own, Some(odd)) = super::decide(&s, &facts, CLAIM, &containers(&["10.244.9.2"])) else { panic!() };
    assert_eq!(own.subnet6.unwrap().to_string(), "fd00:10:244:9::/64");
    assert!(odd.contains("fd00:10:244:9::/64 is also that of 192.0.2.9"), "{odd}");
    assert!(odd.contains("detach container c0, and this host takes another by itself"), "{odd}");
    let s = in_order(DUAL, &[ours, other]);
    assert!(matches!(super::decide(&s, &facts, CLAIM, &Addresses::new()), Todo::Keep(_, None)), "the older one stays");
}

#[test]
fn of_two_hosts_with_one_subnet_the_younger_moves_and_with_containers_raises_an_alarm() {
    let other = ("/coreos.com/network/subnets/10.244.9.0-24&fd00:10:244:7::-64", FOREIGN);
    let s = in_order(CONFIG, &[other, (LEASE_9, OURS)]);
    let Todo::Claim(new) = decide(&s, &facts(), CLAIM) else { panic!() };
    assert!(s.taken(new.key.subnet).is_none(), "{}", new.key);
    assert_eq!(new.leaving, Some(("10.244.9.0-24".parse().unwrap(), Revision(11))));
    let Todo::Keep(own, Some(odd)) = super::decide(&s, &facts(), CLAIM, &containers(&["10.244.9.2"])) else { panic!() };
    assert_eq!(own.subnet.to_string(), "10.244.9.0/24");
    assert!(
        odd.contains("10.244.9.0/24 is also that of 192.0.2.9, whose lease 10.244.9.0-24&fd00:10:244:7::-64 is older"),
        "{odd}"
    );
    assert!(odd.contains("detach container c0, and this host moves to another by itself"), "{odd}");
    let s = in_order(CONFIG, &[(LEASE_9, OURS), other]);
    assert!(matches!(super::decide(&s, &facts(), CLAIM, &Addresses::new()), Todo::Keep(_, None)), "the older one stays");
    // A flanneld that ran on this host is no other.
    let flannels = FOREIGN.replace("192.0.2.9", "192.0.2.1");
    let s = in_order(CONFIG, &[(other.0, &flannels), (LEASE_9, OURS)]);
    assert!(matches!(super::decide(&s, &facts(), CLAIM, &Addresses::new()), Todo::Keep(_, None)));
}

#[test]
fn a_host_without_ipv4_claims_where_flannel_does_not_look_and_says_so() {
    let facts = Facts { public_ip: None, public_ipv6: Some("2001:db8::1".parse().unwrap()), ..facts() };
    let (key, lease, ..) = written(decide(&snapshot(&[DUAL]), &facts, CLAIM));
    assert_eq!((key.tree, lease.public_ip), (Tree::Weft, None));
    assert_eq!((lease.vtep_mac(1), lease.vtep_mac6(1)), (None, Some(facts.vtep_mac6)));
    let path = Layout::default().subnet(&key);
    assert!(path.starts_with("/weft/v1/subnets/default/"), "{path}");
    let json = lease.to_json();
    let there = snapshot(&[DUAL, (&path, &json)]);
    let Todo::Keep(own, Some(odd)) = decide(&there, &facts, CLAIM) else { panic!() };
    assert_eq!((own.subnet, own.subnet6), (key.subnet, key.v6));
    assert!(odd.contains("hosts that run flannel cannot see it"), "{odd}");
    // An uplink that is away for a moment moves nothing; one that gets IPv4 moves the lease, not the subnet.
    let away = Facts { public_ipv6: None, mtu: 0, ..facts.clone() };
    assert!(matches!(decide(&there, &away, CLAIM), Todo::Keep(same, _) if same == own));
    let with_v4 = Facts { public_ip: Some(Ipv4Addr::new(192, 0, 2, 1)), ..facts };
    let Todo::Rename { from, to, .. } = decide(&there, &with_v4, CLAIM) else { panic!() };
    assert_eq!((from, to), (key, key.in_tree(Tree::Network)));
}

#[test]
fn a_full_network_is_said_to_be_full() {
    let config = (CONFIG.0, r#"{"Network":"10.244.0.0/22","SubnetLen":24}"#);
    let lease = r#"{"PublicIP":"192.0.2.9","BackendType":"host-gw"}"#;
    let keys: Vec<String> = (0..4).map(|n| format!("/coreos.com/network/subnets/10.244.{n}.0-24")).collect();
    let mut entries = vec![config];
    entries.extend(keys.iter().map(|k| (k.as_str(), lease)));
    let Todo::Wait(why) = decide(&snapshot(&entries), &facts(), CLAIM) else { panic!() };
    assert!(why.starts_with("claim subnet: 10.244.0.0/22 has no free /24"), "{why}");
}

#[test]
fn a_subnet_that_a_changed_network_does_not_give_is_kept_while_containers_are_in_it() {
    for (network, gives, cut) in [
        (r#"{"Network":"10.245.0.0/16","Backend":{"Type":"vxlan"}}"#, "10.245.0.0/16 in pieces of /24", true),
        (r#"{"Network":"10.244.0.0/16","SubnetLen":25,"Backend":{"Type":"vxlan"}}"#, "10.244.0.0/16 in pieces of /25", false),
    ] {
        let s = snapshot(&[(CONFIG.0, network), (LEASE_9, OURS)]);
        let Todo::Keep(own, Some(odd)) = super::decide(&s, &facts(), CLAIM, &containers(&["10.244.9.2"])) else { panic!() };
        assert_eq!(own.subnet.to_string(), "10.244.9.0/24");
        assert!(odd.contains(&format!("10.244.9.0/24 is none that {gives} gives any more; detach container c0")), "{odd}");
        assert_eq!(odd.contains("cannot be reached"), cut, "{odd}");
        let Todo::Claim(new) = decide(&s, &facts(), CLAIM) else { panic!() };
        assert!(s.network().unwrap().could_give(new.key.subnet), "{}", new.key);
        assert_eq!(new.leaving.unwrap().0.to_string(), "10.244.9.0-24");
    }
    let wider = r#"{"Network":"10.0.0.0/8","SubnetLen":24,"Backend":{"Type":"vxlan"}}"#;
    let s = snapshot(&[(CONFIG.0, wider), (LEASE_9, OURS)]);
    assert!(matches!(decide(&s, &facts(), CLAIM), Todo::Keep(_, None)), "a wider one disturbs nobody");
}

const OURS: &str = r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:01"},"weft":{"node":"h1","boot":"b","mtu":1450}}"#;
const FOREIGN: &str = r#"{"PublicIP":"192.0.2.9","BackendType":"host-gw"}"#;
const LEASE_9: &str = "/coreos.com/network/subnets/10.244.9.0-24";
const LEASE_5: &str = "/coreos.com/network/subnets/10.244.5.0-24";
const RESERVED_5: &str = "/weft/v1/reservations/default/10.244.5.0-24";

/// Containers with these addresses.
fn containers(addresses: &[&str]) -> Addresses {
    addresses.iter().enumerate().map(|(n, a)| (format!("c{n}").parse().unwrap(), a.parse().unwrap())).collect()
}

#[test]
fn a_reserved_subnet_is_claimed_by_its_host_and_by_no_other() {
    let s = snapshot(&[CONFIG, (RESERVED_5, r#"{"node":"h1"}"#)]);
    let Todo::Claim(new) = decide(&s, &facts(), CLAIM) else { panic!() };
    assert_eq!((new.key.to_string().as_str(), new.reserved, new.over), ("10.244.5.0-24", Some(Revision(3)), None));
    // Over the placeholder that flannelds see.
    let mut s = s;
    let placeholder = Entry {
        key: LEASE_5.into(),
        value: weft_model::reservation::Reservation::of(facts().node).placeholder().to_json().into(),
        lease: None,
        created: Revision(4),
        modified: Revision(4),
    };
    s.apply(Revision(4), vec![Change::Put(placeholder)]);
    let Todo::Claim(new) = decide(&s, &facts(), CLAIM) else { panic!() };
    assert_eq!((new.key.to_string().as_str(), new.over), ("10.244.5.0-24", Some(Revision(4))));
    // Another host never gets it, not even if it remembers it as its own.
    let other = Facts { node: "h2".parse().unwrap(), preferred: Some("10.244.5.0/24".parse().unwrap()), ..facts() };
    for n in 0..200 {
        let other = Facts { node: format!("h{}", n + 2).parse().unwrap(), ..other.clone() };
        assert_ne!(written(decide(&s, &other, CLAIM)).0.to_string(), "10.244.5.0-24");
    }
}

#[test]
fn a_reserved_subnet_that_another_has_is_waited_for_and_named() {
    let s = snapshot(&[CONFIG, (RESERVED_5, r#"{"node":"h1"}"#), (LEASE_5, FOREIGN)]);
    let Todo::Wait(why) = decide(&s, &facts(), CLAIM) else { panic!() };
    assert!(why.contains("192.0.2.9 has 10.244.5.0/24; netctl network unreserve h1"), "{why}");
    // Who has one already keeps it.
    let s = snapshot(&[CONFIG, (RESERVED_5, r#"{"node":"h1"}"#), (LEASE_5, FOREIGN), (LEASE_9, OURS)]);
    let Todo::Keep(own, Some(odd)) = decide(&s, &facts(), CLAIM) else { panic!() };
    assert!(own.subnet.to_string() == "10.244.9.0/24" && odd.ends_with("this host stays in 10.244.9.0/24"), "{odd}");
}

#[test]
fn a_host_moves_to_its_reserved_subnet_when_no_container_is_left() {
    let s = snapshot(&[CONFIG, (RESERVED_5, r#"{"node":"h1"}"#), (LEASE_9, OURS)]);
    let Todo::Keep(own, Some(odd)) = super::decide(&s, &facts(), CLAIM, &containers(&["10.244.9.2"])) else { panic!() };
    assert_eq!(own.subnet.to_string(), "10.244.9.0/24");
    assert!(odd.contains("10.244.5.0/24 is reserved for this host, which has 10.244.9.0/24 with container c0; detach"), "{odd}");
    let Todo::Claim(new) = decide(&s, &facts(), CLAIM) else { panic!() };
    assert_eq!(new.key.to_string(), "10.244.5.0-24");
    assert_eq!(new.leaving, Some(("10.244.9.0-24".parse().unwrap(), Revision(3))));
    assert_eq!(new.lease.vtep_mac(1), Some(Mac([2, 0, 0, 0, 0, 1])), "the MAC stays");
}

#[test]
fn a_lost_subnet_with_containers_is_asked_for_before_the_reserved_one() {
    let s = snapshot(&[CONFIG, (RESERVED_5, r#"{"node":"h1"}"#)]);
    let facts = Facts { preferred: Some("10.244.9.0/24".parse().unwrap()), ..facts() };
    let Todo::Claim(new) = super::decide(&s, &facts, CLAIM, &containers(&["10.244.9.2"])) else { panic!() };
    assert_eq!((new.key.to_string().as_str(), new.reserved), ("10.244.9.0-24", None));
    let Todo::Claim(new) = decide(&s, &facts, CLAIM) else { panic!() };
    assert_eq!(new.key.to_string(), "10.244.5.0-24");
}

#[test]
fn containers_in_a_subnet_that_another_owner_took_are_an_alarm_that_stays() {
    let facts = Facts { preferred: Some("10.244.9.0/24".parse().unwrap()), ..facts() };
    let there = containers(&["10.244.9.2", "10.244.9.3", "10.244.9.4", "10.244.9.5"]);
    let s = snapshot(&[CONFIG, (LEASE_9, FOREIGN)]);
    let Todo::Claim(new) = super::decide(&s, &facts, CLAIM, &there) else { panic!() };
    assert_ne!(new.key.to_string(), "10.244.9.0-24", "nobody is written over");
    let s = snapshot(&[CONFIG, (LEASE_9, FOREIGN), (LEASE_5, OURS)]);
    for _ in 0..2 {
        let Todo::Keep(own, Some(odd)) = super::decide(&s, &facts, CLAIM, &there) else { panic!() };
        assert_eq!(own.subnet.to_string(), "10.244.5.0/24");
        assert!(odd.contains("containers c0, c1, c2 and 1 more cannot be reached from other hosts"), "{odd}");
        assert!(odd.contains("10.244.9.0/24 belongs to 192.0.2.9 now; start them anew (netctl detach, then attach)"), "{odd}");
    }
    let Todo::Keep(_, None) = super::decide(&s, &facts, CLAIM, &containers(&["10.244.5.2"])) else { panic!() };
}

#[test]
fn an_own_lease_made_unreadable_is_written_anew_by_compare() {
    let mut s = snapshot(&[CONFIG, (LEASE_9, OURS)]);
    let junk = Entry { key: LEASE_9.into(), value: b"junk".to_vec(), lease: None, created: Revision(3), modified: Revision(7) };
    s.apply(Revision(7), vec![Change::Put(junk)]);
    let (key, lease, over, on) = written(decide(&s, &facts(), CLAIM));
    assert_eq!(
        (key.to_string().as_str(), lease.to_json().as_str()),
        ("10.244.9.0-24", OURS.replace("\"mtu\"", "\"udp6zero\":false,\"mtu\"").as_str())
    );
    assert_eq!((over, on), (Some(Revision(7)), CLAIM));
}

/// A claim that runs against a real store, and what it says.
struct Running {
    registry: Registry,
    view: View,
    own: watch::Receiver<Option<Own>>,
    reason: watch::Receiver<Option<String>>,
    _senders: Senders,
    _dir: tempfile::TempDir,
}

type Senders = (watch::Sender<Option<Facts>>, watch::Sender<Option<Me>>, watch::Sender<Arc<Published>>);

/// Runs with the name h1; `before` writes what is there first.
async fn running(facts: Facts, before: impl AsyncFnOnce(&Registry)) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(dir.path().join("store.redb")).await.unwrap());
    let layout = Arc::new(Layout::default());
    let registry = Registry::new(store.clone(), layout.clone());
    store.transact(Txn::new().put(CONFIG.0, CONFIG.1)).await.unwrap();
    before(&registry).await;
    let (view_tx, view) = watch::channel(None);
    let (health, _) = watch::channel(crate::view::Health::default());
    tokio::spawn(crate::view::run(
        weft_store::follow::follow(store.clone(), layout.watched()),
        layout,
        view_tx,
        health,
        std::sync::Arc::default(),
    ));
    let me = Me {
        node: facts.node.clone(),
        public_ip: facts.public_ip,
        public_ipv6: None,
        capabilities: Vec::new(),
        boot: facts.boot.clone(),
        instance: "i".into(),
        since: "2026-01-01T00:00:00Z".into(),
    };
    let (facts_tx, facts) = watch::channel(Some(facts));
    let (me_tx, me) = watch::channel(Some(me));
    let (own_tx, own) = watch::channel(None);
    let (reason_tx, reason) = watch::channel(None);
    let claim = crate::session::keep(store, "claim", Duration::from_secs(60), None);
    let (published_tx, published) = watch::channel(Arc::default());
    let network = NetworkName::default_network();
    let inputs = Inputs { network, registry: registry.clone(), view: view.clone(), facts, me, published, claim };
    tokio::spawn(run(inputs, own_tx, reason_tx));
    tokio::spawn(crate::placeholders::keep(registry.clone(), view.clone()));
    Running { registry, view, own, reason, _senders: (facts_tx, me_tx, published_tx), _dir: dir }
}

const BOUND: Duration = Duration::from_secs(30);

impl Running {
    async fn sees(&mut self, what: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let seen = self.view.wait_for(|s| s.as_ref().is_some_and(|s| what(s)));
        tokio::time::timeout(BOUND, seen).await.expect("in time").unwrap().clone().unwrap()
    }
}

#[tokio::test]
async fn a_subnet_key_lost_in_the_first_run_is_claimed_again_unchanged() {
    let facts = facts();
    // Somebody has the subnet that this host would choose first.
    let (first, ..) = written(decide(&snapshot(&[CONFIG]), &facts, CLAIM));
    let taken = first;
    let mut t = running(facts.clone(), async move |registry: &Registry| {
        let other = Lease::parse(br#"{"PublicIP":"192.0.2.9","BackendType":"host-gw"}"#).unwrap();
        registry.write_lease(&taken, &other, None, None).await.unwrap();
    })
    .await;
    let own = tokio::time::timeout(BOUND, t.own.wait_for(Option::is_some)).await.unwrap().unwrap().clone().unwrap();
    assert_ne!(own.subnet, first.subnet);
    // The other one leaves, and then this host's key is lost.
    let layout = Layout::default();
    let own_key = SubnetKey::v4(own.subnet);
    let at = t.sees(|s| s.lease_of(&facts.node).is_some()).await.lease_of(&facts.node).unwrap().1.created;
    let txn = Txn::new().delete(layout.subnet(&first)).delete(layout.subnet(&own_key));
    t.registry.store().transact(txn).await.unwrap();
    let s = t.sees(|s| s.lease_of(&facts.node).is_some_and(|(_, l)| l.created > at)).await;
    assert_eq!(s.lease_of(&facts.node).unwrap().0, &own_key, "its containers have addresses from it");
}

#[tokio::test]
async fn no_subnet_is_claimed_under_a_name_that_another_host_holds() {
    let facts = facts();
    let mut t = running(facts.clone(), async |registry: &Registry| {
        let other = r#"{"node":"h1","public_ip":"192.0.2.2","boot":"x","instance":"x","since":"2026-01-01T00:00:00Z"}"#;
        let node = serde_json::from_str(other).unwrap();
        let lease = registry.store().grant(Duration::from_secs(600)).await.unwrap();
        registry.write_node(&node, None, lease).await.unwrap();
    })
    .await;
    let told = t.reason.wait_for(|r| r.as_ref().is_some_and(|r| r.starts_with("node name h1 is held by")));
    drop(tokio::time::timeout(BOUND, told).await.expect("told").unwrap());
    let s = t.sees(|_| true).await;
    assert!(s.lease_of(&facts.node).is_none());
    // When that host is gone, the name and with it the subnet are free.
    t.registry.store().transact(Txn::new().delete(Layout::default().node(&facts.node))).await.unwrap();
    t.sees(|s| s.lease_of(&facts.node).is_some()).await;
}

#[tokio::test]
async fn a_host_without_containers_moves_in_one_step_and_a_placeholder_keeps_what_is_promised() {
    let facts = facts();
    let mut t = running(facts.clone(), async |_: &Registry| {}).await;
    let s = t.sees(|s| s.lease_of(&facts.node).is_some()).await;
    let first = *s.lease_of(&facts.node).unwrap().0;
    let layout = Layout::default();
    let promised: SubnetKey = "10.244.200.0-24".parse().unwrap();
    let other: SubnetKey = "10.244.201.0-24".parse().unwrap();
    let txn = Txn::new()
        .put(layout.reservation(&NetworkName::default_network(), promised.subnet), r#"{"node":"h1"}"#)
        .put(layout.reservation(&NetworkName::default_network(), other.subnet), r#"{"node":"h9"}"#);
    t.registry.store().transact(txn).await.unwrap();
    let s = t.sees(|s| s.lease_of(&facts.node).is_some_and(|(key, _)| *key == promised) && s.taken(other.subnet).is_some()).await;
    assert!(s.taken(first.subnet).is_none(), "the one it had is free");
    let (_, placeholder) = s.leases().find(|(key, _)| **key == other).unwrap();
    assert!(placeholder.value.is_placeholder() && placeholder.lease.is_none());
    // Its key deleted by hand: it is claimed again, or the placeholder of the reservation stands until it is.
    let at = s.lease_of(&facts.node).unwrap().1.created;
    t.registry.store().transact(Txn::new().delete(layout.subnet(&promised))).await.unwrap();
    let s = t.sees(|s| s.lease_of(&facts.node).is_some_and(|(_, l)| l.modified > at)).await;
    assert_eq!(s.lease_of(&facts.node).unwrap().0, &promised);
}

#[tokio::test]
async fn a_placeholder_beside_a_lease_of_its_subnet_goes() {
    let mut t = running(facts(), async |registry: &Registry| {
        let layout = Layout::default();
        let reservation = weft_model::reservation::Reservation::of("h9".parse().unwrap());
        let held = "10.244.200.0-24&fd00:10:244:200::-64".parse().unwrap();
        let free: SubnetKey = "10.244.201.0-24".parse().unwrap();
        let other = Lease::parse(FOREIGN.as_bytes()).unwrap();
        registry.write_lease(&held, &other, None, None).await.unwrap();
        let placeholder = reservation.placeholder().to_json();
        let txn = Txn::new()
            .put(layout.reservation(&NetworkName::default_network(), held.subnet), r#"{"node":"h9"}"#)
            .put(layout.subnet(&SubnetKey::v4(held.subnet)), placeholder.clone())
            .put(layout.subnet(&free), placeholder);
        registry.store().transact(txn).await.unwrap();
    })
    .await;
    let of = |s: &Snapshot, key: &str| s.leases().any(|(there, _)| there.to_string() == key);
    let s = t.sees(|s| s.network().is_some() && !of(s, "10.244.200.0-24")).await;
    assert!(of(&s, "10.244.200.0-24&fd00:10:244:200::-64") && of(&s, "10.244.201.0-24"), "nothing else goes");
}

#[tokio::test]
async fn what_was_said_before_wakes_nobody() {
    let (reason, mut told) = watch::channel(None);
    assert!(tell(&reason, Some("no subnet".to_owned())) && told.has_changed().unwrap());
    told.borrow_and_update();
    assert!(!tell(&reason, Some("no subnet".to_owned())) && !told.has_changed().unwrap());
    assert!(tell(&reason, None) && told.has_changed().unwrap());
}
