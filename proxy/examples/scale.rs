//! How long a whole round takes: from the snapshot of a big cluster to the rows, and the difference to what is there.
//!
//! `cargo run --release -p weft-proxy --example scale -- [SERVICES] [BACKENDS OF EACH]`

use std::collections::BTreeMap;
use std::error::Error;
use std::net::Ipv4Addr;
use std::time::Instant;

use weft_model::ids::Revision;
use weft_model::keys::Layout;
use weft_model::snapshot::Snapshot;
use weft_model::stored::{Change, Entry};
use weft_proxy::{Context, Ids, Limits, Rows, desired, diff, resolve, wanted};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let services: u32 = args.next().map_or(Ok(50_000), |text| text.parse())?;
    let each: u32 = args.next().map_or(Ok(5), |text| text.parse())?;
    println!("{services} services with {each} backends each");

    let mut snapshot = timed("snapshot", || cluster(services, each));
    let mut maps = Rows::default();
    let mut ids = Ids::seeded(&maps);
    round("first round", &snapshot, &mut maps, &mut ids);
    round("nothing changed", &snapshot, &mut maps, &mut ids);

    let mut ids = timed("ids after a restart", || Ids::seeded(&maps));
    round("nothing changed since the restart", &snapshot, &mut maps, &mut ids);

    let revision = Revision(2);
    let gone = (0..services).step_by(100).map(|s| Change::Delete { key: part(s, 0).into_bytes(), revision });
    snapshot.apply(revision, gone.collect());
    round("one service in 100 lost a backend", &snapshot, &mut maps, &mut ids);
    Ok(())
}

fn round(what: &str, snapshot: &Snapshot, maps: &mut Rows, ids: &mut Ids) {
    println!("{what}:");
    let context = timed("  context", || Context::of(snapshot));
    let services = timed("  resolve", || resolve(snapshot, &context));
    let wanted = timed("  wanted", || wanted(&services, &BTreeMap::new()));
    let desired = timed("  desired", || desired(&wanted, maps, ids, &Limits::default()));
    let actions = timed("  diff", || diff(&desired.rows, maps));
    for action in &actions {
        maps.apply(action);
    }
    let rows = &desired.rows;
    println!(
        "  {} frontends, {} slots, {} backends, {} not programmed; {} actions",
        rows.frontends.len(),
        rows.slots.len(),
        rows.backends.len(),
        desired.unprogrammed.len(),
        actions.len()
    );
}

fn timed<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let out = run();
    println!("{what:<40} {:>8.1} ms", start.elapsed().as_secs_f64() * 1000.0);
    out
}

fn part(service: u32, nth: u32) -> String {
    format!("/skydns/local/skydns/s{service}/e{nth}/4")
}

fn cluster(services: u32, each: u32) -> Snapshot {
    let put = |key: String, value: String| Entry {
        key: key.into_bytes(),
        value: value.into_bytes(),
        lease: None,
        created: Revision(1),
        modified: Revision(1),
    };
    let mut entries = Vec::new();
    for service in 0..services {
        let vip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 112, 0, 2)) + service);
        let value = format!(r#"{{"ports":[{{"port":80}}],"vips":["{vip}"]}}"#);
        entries.push(put(format!("/weft/v1/services/default/s{service}"), value));
        entries.push(put(format!("/weft/v1/vips/{vip}"), format!(r#"{{"service":"default/s{service}"}}"#)));
        for nth in 0..each {
            let host = Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 0, 0)) + service * each + nth);
            let value = format!(r#"{{"host":"{host}","port":8080,"weft":{{"id":"e{nth}","node":"h1"}}}}"#);
            entries.push(put(part(service, nth), value));
        }
    }
    Snapshot::complete(Layout::default().into(), Revision(1), entries, None)
}
