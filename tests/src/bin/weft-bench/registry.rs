//! What a change of one endpoint costs an agent that knows 50,000 of them: from the store's change to who stands behind which
//! service, by name and by label selector. In this process: neither a store nor a kernel takes part.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use weft_model::ids::{Revision, ServiceName};
use weft_model::keys::Layout;
use weft_model::snapshot::Snapshot;
use weft_model::stored::{Change, Entry};
use weft_proxy::{Changed, Ids, Limits, Resolver, Rows, desired, diff, wanted};

use crate::progress::Progress;
use crate::report::{Goal, Quantity, Report, Row};

/// How many endpoints there are.
const ENDPOINTS: usize = 50_000;

/// How many services by name, and how many by selector.
const SERVICES: usize = 5_000;

/// The most that a change may cost at the median, milliseconds.
const MOST: f64 = 1.0;

/// Names of variants, as table and plots have them.
const BY_NAME: &str = "service by name";
const BY_LABEL: &str = "service by label";
const BY_SET: &str = "service by a set of labels";
const ANEW: &str = "all services anew";
const ROWS: &str = "the maps' rows";

/// Measures all of it.
pub fn run(quick: bool) -> Result<Report> {
    let progress = Progress::new();
    let mut report = Report::new("registry", quick);
    progress.phase("a registry of 50,000 endpoints", 0);
    let mut world = World::new()?;
    let rounds = if quick { 200 } else { 2_000 };
    progress.phase("changes of one endpoint", rounds);
    let mut samples: [Vec<f64>; 3] = Default::default();
    for round in 0..rounds {
        for (kind, samples) in samples.iter_mut().enumerate() {
            samples.push(world.change(round, kind)?);
        }
        progress.step();
    }
    progress.phase("all of it resolved anew", 0);
    let anew: Vec<f64> = (0..if quick { 5 } else { 15 }).map(|_| world.anew()).collect();
    progress.phase("rows of maps", 0);
    let rows: Result<Vec<f64>> = (0..if quick { 5 } else { 15 }).map(|round| world.rows(round)).collect();
    let [by_name, by_label, by_set] = samples;
    let of = |name: &str, samples: Vec<f64>| (name.to_owned(), samples);
    let variants = vec![of(BY_NAME, by_name), of(BY_LABEL, by_label), of(BY_SET, by_set), of(ANEW, anew), of(ROWS, rows?)];
    let quantity = Quantity::new("change", "one endpoint of 50,000 changes, 10,000 services", "ms", variants);
    for variant in [BY_NAME, BY_LABEL, BY_SET] {
        report.row(Row::itself("a change of one endpoint", &quantity, variant).goal(Goal::AtMost(MOST)));
    }
    report.row(Row::itself("for comparison", &quantity, ANEW));
    report.row(Row::itself("and what follows from it", &quantity, ROWS));
    report.quantity(quantity);
    report.took(progress.elapsed());
    Ok(report)
}

/// A registry, and what an agent makes of it.
struct World {
    snapshot: Snapshot,
    resolver: Resolver,
    revision: i64,
    maps: Rows,
    ids: Ids,
}

/// Which service an endpoint stands below: ten to one, so that each selector means twenty.
fn home(endpoint: usize) -> usize {
    endpoint % SERVICES
}

fn record(endpoint: usize, state: &str) -> String {
    let [a, b] = u16::try_from(endpoint).unwrap_or_default().to_be_bytes();
    let (group, tier) = (endpoint % (SERVICES / 2), if endpoint.is_multiple_of(3) { "front" } else { "back" });
    format!(
        r#"{{"host":"10.244.{a}.{b}","port":8080,"weft":{{"id":"e{endpoint}","state":"{state}","labels":{{"group":"g{group}","tier":"{tier}"}}}}}}"#
    )
}

fn entry(key: String, value: &str, revision: i64) -> Entry {
    let at = Revision(revision);
    Entry { key: key.into_bytes(), value: value.as_bytes().to_vec(), lease: None, created: at, modified: at }
}

fn endpoint_key(endpoint: usize) -> String {
    format!("/skydns/local/skydns/s{}/e{endpoint}/4", home(endpoint))
}

impl World {
    fn new() -> Result<Self> {
        let records = (0..ENDPOINTS).map(|n| entry(endpoint_key(n), &record(n, "up"), 1));
        let vip = |n: usize| format!("10.112.{}.{}", n / 250, n % 250 + 2);
        let named = (0..SERVICES).map(|n| {
            let value = format!(r#"{{"ports":[{{"port":80}}],"vips":["{}"]}}"#, vip(n));
            entry(format!("/weft/v1/services/default/s{n}"), &value, 1)
        });
        let selecting = (0..SERVICES).map(|n| {
            let vip = vip(SERVICES + n);
            let group = n / 2;
            // Half of them by equality, half by a set and by what is not there.
            let chosen = if n % 2 == 0 {
                format!(r#""selector":{{"group":"g{group}"}}"#)
            } else {
                format!(
                    r#""expressions":[{{"key":"group","operator":"In","values":["g{group}","none"]}},{{"key":"old","operator":"DoesNotExist"}}]"#
                )
            };
            let value = format!(r#"{{"ports":[{{"port":80}}],"vips":["{vip}"],{chosen}}}"#);
            entry(format!("/weft/v1/services/default/l{n}"), &value, 1)
        });
        let entries: Vec<Entry> = records.chain(named).chain(selecting).collect();
        let snapshot = Snapshot::complete(Layout::default().into(), Revision(1), entries, None);
        ensure!(snapshot.bad().next().is_none(), "a value of the benchmark does not parse");
        ensure!(snapshot.endpoints().count() == ENDPOINTS, "endpoints are missing");
        let mut resolver = Resolver::default();
        resolver.update(&snapshot, &Arc::default());
        let maps = Rows::default();
        let ids = Ids::seeded(&maps);
        let mut world = Self { snapshot, resolver, revision: 1, maps, ids };
        world.fill();
        Ok(world)
    }

    /// Milliseconds from a change to the services that are resolved again: one by name, or with those by label.
    fn change(&mut self, round: usize, kind: usize) -> Result<f64> {
        self.revision += 1;
        let endpoint = (round * 7919 + kind * 31) % ENDPOINTS;
        let state = if round.is_multiple_of(2) { "draining" } else { "up" };
        let text = record(endpoint, state);
        // What bears no label is of the service of its name alone.
        let (text, least) = match kind {
            0 => (text.replace(r#""group":"#, r#""none":"#), 1),
            1 => (text.replace(r#""tier":"#, r#""old":"#), 2),
            _ => (text, 3),
        };
        let change = Change::Put(entry(endpoint_key(endpoint), &text, self.revision));
        let changes = vec![change];
        // As the view does: readers keep the snapshot before.
        let before = self.snapshot.clone();
        let begun = Instant::now();
        self.snapshot.apply(Revision(self.revision), changes);
        let changed = self.resolver.update(&self.snapshot, &Arc::default());
        let took = begun.elapsed().as_secs_f64() * 1e3;
        drop(before);
        let Changed::Some(names) = changed else { anyhow::bail!("all was resolved anew") };
        let own: ServiceName = format!("s{}", home(endpoint)).parse().context("a service's name")?;
        ensure!(names.len() >= least && names.contains(&own), "{own} was not resolved again: {names:?}");
        ensure!(self.resolver.services().len() == 2 * SERVICES, "services are missing");
        Ok(took)
    }

    /// Writes the rows that follow from the services into the maps' image. How many there were.
    fn fill(&mut self) -> usize {
        let wanted = wanted(self.resolver.services(), &BTreeMap::new());
        let rows = desired(&wanted, &self.maps, &mut self.ids, &Limits::default()).rows;
        let actions = diff(&rows, &self.maps);
        self.maps = rows;
        actions.len()
    }

    /// Milliseconds from services that are resolved, after a change of one endpoint, to the writes that the maps need.
    fn rows(&mut self, round: usize) -> Result<f64> {
        self.fill();
        self.change(round, 1)?;
        let begun = Instant::now();
        self.fill();
        Ok(begun.elapsed().as_secs_f64() * 1e3)
    }

    /// Milliseconds to resolve all services, as an agent does once when it starts.
    fn anew(&self) -> f64 {
        let begun = Instant::now();
        let mut resolver = Resolver::default();
        resolver.update(&self.snapshot, &Arc::default());
        begun.elapsed().as_secs_f64() * 1e3
    }
}
