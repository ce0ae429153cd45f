//! The store, and what this host has in it: its subnet, its entry, what others wrote that cannot be used.
//!
//! Leases that ran out unseen, subnets and addresses that two hosts claim, keys that nobody can parse (flannel #904, #1240,
//! #1182, #1546, #2073, #2470).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_api::Finding;
use weft_model::keys::Place;
use weft_model::snapshot::Snapshot;
use weft_plan::peers::{self, Skipped, Why};
use weft_store::Condition;

use crate::admin::Admin;
use crate::session::CLAIM_TTL;
use crate::view::chain;

/// How long the quicker of some answers may take. Leases of seconds are renewed by such answers.
const SLOW: Duration = Duration::from_millis(500);

/// etcd's own limit of its database where it does not tell (3.5: `--quota-backend-bytes`), in bytes.
const USUAL_QUOTA: u64 = 2 << 30;

/// How often the store is asked for that.
const TRIES: usize = 3;

/// Values that do not parse, shown at most.
const MOST_VALUES: usize = 50;

/// Whether the store answers, and how soon.
pub(super) async fn store(admin: Arc<Admin>) -> Vec<Finding> {
    const CHECK: &str = "store";
    let store = admin.registry.store().clone();
    let kind = store.kind().as_str();
    let health = admin.health.borrow().clone();
    let Ok(snapshot) = admin.snapshot() else {
        let why = health.away.map_or_else(|| "it has not been read yet".to_owned(), |(error, _)| error);
        let what = format!("it has not been read since the agent started: {why}");
        return vec![Finding::fail(
            CHECK,
            kind,
            what,
            "see that etcd runs and that --etcd-endpoints and its certificates are right",
        )];
    };
    let key = snapshot.layout().network_config();
    let mut quickest: Option<Duration> = None;
    for _ in 0..TRIES {
        let begun = Instant::now();
        match store.get(key.as_bytes()).await {
            Ok(_) => quickest = Some(quickest.map_or(begun.elapsed(), |q| q.min(begun.elapsed()))),
            Err(e) => {
                let since = health.away.map(|(_, since)| format!(" for {} s", since.elapsed().as_secs())).unwrap_or_default();
                let what = format!(
                    "it is away{since}; what is attached works on, nothing new is claimed, registered or seen: {}",
                    chain(&e)
                );
                let next = "see that etcd runs and is reached from here; everything catches up by itself";
                return vec![Finding::fail(CHECK, kind, what, next)];
            }
        }
    }
    let took = quickest.unwrap_or_default();
    let ms = took.as_secs_f64() * 1000.0;
    let condition = match store.condition().await {
        Ok(condition) => condition.as_ref().map(|c| judge_condition(CHECK, kind, c)),
        Err(e) => Some(Finding::skipped(CHECK, format!("{kind} database"), chain(&e))),
    };
    let finding = if took > SLOW {
        let what = format!("it takes {ms:.0} ms to answer: leases of a few seconds may run out, and hosts seem dead");
        Finding::warn(CHECK, kind, what, "look at etcd's disk and load (etcdctl check perf), or raise --lease-ttl")
    } else {
        Finding::ok(CHECK, kind, format!("it answers within {ms:.1} ms; revision {}", snapshot.revision()))
    };
    let finding = finding.with("latency_us", u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    std::iter::once(finding).chain(condition).collect()
}

/// What the store says of itself: alarms, a leader, the size of its database (etcd refuses all writes when it is full).
fn judge_condition(check: &str, kind: &str, condition: &Condition) -> Finding {
    let Condition { version, size, quota, led, alarms } = condition;
    let subject = format!("{kind} database");
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let limit = quota.unwrap_or(USUAL_QUOTA);
    let finding = if alarms.iter().any(|a| a == "NOSPACE") {
        let what = format!(
            "it raises the alarm NOSPACE ({}): it takes no writes, so nothing new is claimed or registered",
            megabytes(*size)
        );
        Finding::fail(
            check,
            subject,
            what,
            "etcdctl compact, then etcdctl defrag, then etcdctl alarm disarm; or a larger --quota-backend-bytes",
        )
    } else if !alarms.is_empty() {
        let what = format!("it raises the alarm {}", alarms.join(", "));
        Finding::fail(
            check,
            subject,
            what,
            "etcd's documentation says what to do with a corrupt member; etcdctl alarm list names it",
        )
    } else if !led {
        let what = "its members have no leader: nothing is written".to_owned();
        Finding::fail(
            check,
            subject,
            what,
            "see that most of etcd's members run and reach each other (etcdctl endpoint status --cluster)",
        )
    } else if *size >= limit / 10 * 8 {
        let what = format!("it has {} of {}: when it is full it takes no writes", megabytes(*size), megabytes(limit));
        Finding::warn(
            check,
            subject,
            what,
            "etcdctl compact and etcdctl defrag, or --auto-compaction-retention; or a larger --quota-backend-bytes",
        )
    } else {
        Finding::ok(check, subject, format!("version {version}, {}, no alarm", megabytes(*size)))
    };
    finding.with("size_bytes", *size)
}

/// This host's subnet: that it is in the store, under its name, on a lease that is kept alive.
pub(super) async fn lease(admin: Arc<Admin>) -> Vec<Finding> {
    const CHECK: &str = "lease";
    let Ok(snapshot) = admin.snapshot() else {
        return vec![Finding::skipped(CHECK, &admin.node, "the store has not been read yet")];
    };
    let Some((key, stored)) = snapshot.lease_of(&admin.node) else {
        let had = admin.report.borrow().subnet;
        let (what, next) = match had {
            Some(subnet) => (
                format!("{subnet} is not in the store any more: other hosts have no way to the containers here"),
                "it is claimed again by itself as soon as the store takes it; netctl status says what is in the way",
            ),
            None => ("this host has no subnet: no container can be attached".to_owned(), "netctl status says what it waits for"),
        };
        return vec![Finding::fail(CHECK, &admin.node, what, next)];
    };
    let subject = snapshot.layout().subnet(key);
    let Some(lease) = stored.lease else {
        return vec![Finding::ok(CHECK, subject, "ours without a time limit (a reservation)")];
    };
    match admin.registry.store().time_to_live(lease).await {
        Ok(left) => vec![judge_claim(CHECK, &subject, left)],
        Err(e) => vec![Finding::skipped(CHECK, subject, format!("how long it lasts is not known: {}", chain(&e)))],
    }
}

/// It is renewed every ten minutes: what is much shorter is not being renewed.
fn judge_claim(check: &str, subject: &str, left: Option<Duration>) -> Finding {
    let Some(left) = left else {
        let what = "its lease has ended: the key is about to go, and with it the way to the containers here";
        return Finding::fail(check, subject, what, "it is claimed again by itself; netctl status says what is in the way");
    };
    let hours = left.as_secs_f64() / 3600.0;
    let finding = if left < CLAIM_TTL / 2 {
        let what = format!("it lasts {hours:.1} h more and has not been renewed for long");
        Finding::warn(check, subject, what, "see that this host reaches the store: the check store says more")
    } else {
        Finding::ok(check, subject, format!("ours for {hours:.1} h more, and renewed"))
    };
    finding.with("left_s", left.as_secs())
}

/// This host's entry: that it is there and this agent's.
pub(super) async fn node(admin: Arc<Admin>) -> Vec<Finding> {
    const CHECK: &str = "node";
    let Ok(snapshot) = admin.snapshot() else {
        return vec![Finding::skipped(CHECK, &admin.node, "the store has not been read yet")];
    };
    let subject = snapshot.layout().node(&admin.node);
    let Some(stored) = snapshot.node(&admin.node) else {
        let what = "this host's entry is not in the store: others take it for dead and send nothing new to it";
        return vec![Finding::fail(
            CHECK,
            subject,
            what,
            "it is written by itself as soon as the store takes it; netctl status says more",
        )];
    };
    let Some(lease) = stored.lease else {
        let what = "this host's entry has no lease: if the host dies, it stays alive in everybody's eyes";
        return vec![Finding::warn(CHECK, subject, what, "delete the key; weftd writes it anew")];
    };
    match admin.registry.store().time_to_live(lease).await {
        Ok(Some(left)) => {
            let ttl = admin.doctor.settings.lease_ttl.as_secs();
            let what = format!("announced since {}; {} of {ttl} s left, and renewed", stored.value.since, left.as_secs());
            vec![Finding::ok(CHECK, subject, what).with("left_s", left.as_secs())]
        }
        Ok(None) => {
            let what = "the lease of this host's entry has ended: others are about to take it for dead";
            vec![Finding::warn(CHECK, subject, what, "it is written anew by itself; the check store says whether etcd is slow")]
        }
        Err(e) => vec![Finding::skipped(CHECK, subject, format!("how long it lasts is not known: {}", chain(&e)))],
    }
}

/// Values that do not parse. Each hurts only itself here; real flannelds forget all their peers at one below their prefix.
pub(super) async fn values(admin: Arc<Admin>) -> Vec<Finding> {
    const CHECK: &str = "values";
    let Ok(snapshot) = admin.snapshot() else {
        return vec![Finding::skipped(CHECK, &admin.node, "the store has not been read yet")];
    };
    let prefix = admin.doctor.settings.network_prefix.clone();
    let mut found: Vec<Finding> =
        snapshot.bad().take(MOST_VALUES).map(|(key, bad)| judge_value(CHECK, key, &bad.why, &prefix)).collect();
    found.extend(snapshot.shadowed().take(MOST_VALUES).map(|path| {
        let down = snapshot.layout().place(&Place::served(path.clone()).opposite());
        let what = format!("{} stands as well, and counts: a record is in one of the two trees", snapshot.layout().record(path));
        Finding::warn(CHECK, &down, what, "the host that a record names puts it right; delete one of the two if no host does")
    }));
    if found.is_empty() {
        found.push(Finding::ok(CHECK, admin.registry.store().kind().as_str(), "every value below our prefixes can be read"));
    }
    found
}

fn judge_value(check: &str, key: &str, why: &str, network_prefix: &str) -> Finding {
    let next = "correct it, or delete it if nobody needs it";
    if key.starts_with(network_prefix) {
        let what = format!("it does not parse, so it is left out here; flannelds forget all their peers at such a key: {why}");
        return Finding::warn(check, key, what, next);
    }
    Finding::warn(check, key, format!("it does not parse, so it is left out: {why}"), next)
}

/// Leases of others that cannot be used, and addresses that two hosts claim.
pub(super) async fn other_leases(admin: Arc<Admin>) -> Vec<Finding> {
    const CHECK: &str = "other-leases";
    let (snapshot, host) = (admin.snapshot(), admin.report.borrow().host.clone());
    let (Ok(snapshot), Some(host)) = (snapshot, host) else {
        return vec![Finding::skipped(CHECK, &admin.node, "this host has no subnet yet")];
    };
    let peers = peers::of(&snapshot, &host);
    let mut found: Vec<Finding> = peers.skipped.iter().filter(|s| s.why.is_odd()).map(|s| judge_skipped(CHECK, s)).collect();
    // What claims ours was told just now.
    let ours: Vec<IpAddr> = host.uplink.iter().flat_map(|u| u.addresses()).collect();
    found.extend(twice(CHECK, &snapshot, &ours));
    if found.is_empty() {
        let other = peers.skipped.len();
        let beside = if other == 0 { String::new() } else { format!("; {other} of another overlay are left alone") };
        found
            .push(Finding::ok(CHECK, &admin.node, format!("{} peers{beside}", peers.used.len())).with("peers", peers.used.len()));
    }
    found
}

fn judge_skipped(check: &str, skipped: &Skipped) -> Finding {
    let what = format!("{skipped}: nothing is sent there");
    match skipped.why {
        Why::OurAddress => Finding::fail(
            check,
            skipped.key,
            what,
            "two hosts with one address, or a lease that an earlier life of this host left: delete the key if nobody keeps it, else give one of them another --public-ip",
        ),
        _ => Finding::warn(check, skipped.key, what, "correct or delete the key, or wait until its lease runs out"),
    }
}

/// Public addresses that more than one lease names (flannel #1182, #1546): one is left over, or two hosts share it.
fn twice(check: &str, snapshot: &Snapshot, ours: &[IpAddr]) -> Vec<Finding> {
    let mut keys: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for (key, stored) in snapshot.leases() {
        let lease = &stored.value;
        let addresses = lease.public_ip.map(IpAddr::from).into_iter().chain(lease.public_ipv6.map(IpAddr::from));
        for address in addresses.filter(|a| !a.is_unspecified() && !ours.contains(a)) {
            keys.entry(address).or_default().push(key.to_string());
        }
    }
    let doubled = keys.into_iter().filter(|(_, keys)| keys.len() > 1);
    doubled
        .map(|(address, keys)| {
            let what = format!("{} all name it: one of them is left over, or hosts share an address", keys.join(", "));
            let next = "delete the key of the host that is no more; if both live, give one another --public-ip";
            Finding::warn(check, address, what, next)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use weft_api::CheckResult;

    use super::*;

    #[test]
    fn a_claim_that_is_not_renewed_is_noticed_long_before_it_ends() {
        let result = |left: Option<u64>| judge_claim("lease", "k", left.map(Duration::from_secs)).result;
        assert_eq!(result(Some(86_000)), CheckResult::Ok);
        assert_eq!(result(Some(40_000)), CheckResult::Warn);
        assert_eq!(result(None), CheckResult::Fail);
    }

    #[test]
    fn a_store_that_takes_no_writes_is_a_fault_and_one_that_soon_will_not_a_warning() {
        let well = Condition { version: "3.5.0".into(), size: 1 << 20, quota: None, led: true, alarms: Vec::new() };
        let result = |c: Condition| judge_condition("store", "etcd", &c).result;
        assert_eq!(result(well.clone()), CheckResult::Ok);
        assert_eq!(result(Condition { alarms: vec!["NOSPACE".into()], ..well.clone() }), CheckResult::Fail);
        assert_eq!(result(Condition { alarms: vec!["CORRUPT".into()], ..well.clone() }), CheckResult::Fail);
        assert_eq!(result(Condition { led: false, ..well.clone() }), CheckResult::Fail);
        assert_eq!(result(Condition { size: 1800 << 20, ..well.clone() }), CheckResult::Warn);
        assert_eq!(result(Condition { size: 1800 << 20, quota: Some(8 << 30), ..well }), CheckResult::Ok);
    }

    #[test]
    fn an_address_that_is_ours_is_a_fault_and_another_odd_lease_a_warning() {
        let skipped = |why| Skipped {
            key: "10.244.9.0-24".parse().unwrap(),
            public_ip: std::net::Ipv4Addr::new(192, 0, 2, 1).into(),
            node: None,
            v6_only: false,
            why,
        };
        assert_eq!(judge_skipped("other-leases", &skipped(Why::OurAddress)).result, CheckResult::Fail);
        assert_eq!(judge_skipped("other-leases", &skipped(Why::BadMac)).result, CheckResult::Warn);
    }

    #[test]
    fn junk_where_flannel_reads_is_said_to_hurt_flannel() {
        assert!(
            judge_value("values", "/coreos.com/network/subnets/x", "no key", "/coreos.com/network").what.contains("flannelds")
        );
        assert!(!judge_value("values", "/skydns/x", "no record", "/coreos.com/network").what.contains("flannelds"));
    }
}
