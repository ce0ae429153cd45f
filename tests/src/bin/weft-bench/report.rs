//! What was measured, and what that means: a table for people, JSON and plots for later.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use owo_colors::{OwoColorize, Stream, Style};
use serde_json::{Value, json};

use crate::plot;
use crate::stats::Quartiles;

/// One kind of figure, measured in several ways in turn.
pub struct Quantity {
    /// Of the files.
    name: &'static str,
    /// For people.
    title: &'static str,
    unit: &'static str,
    /// A sample per round for each variant.
    variants: Vec<(String, Vec<f64>)>,
}

impl Quantity {
    /// Puts samples together.
    pub fn new(name: &'static str, title: &'static str, unit: &'static str, variants: Vec<(String, Vec<f64>)>) -> Self {
        Self { name, title, unit, variants }
    }

    /// The samples of a variant.
    pub fn samples(&self, variant: &str) -> Option<&[f64]> {
        self.variants.iter().find(|(name, _)| name == variant).map(|(_, samples)| samples.as_slice())
    }

    /// The samples of two variants, round by round.
    fn paired<'a>(&'a self, a: &str, b: &str) -> impl Iterator<Item = (f64, f64)> + 'a {
        let of = |name: &str| self.samples(name).unwrap_or_default();
        of(a).iter().copied().zip(of(b).iter().copied())
    }
}

/// What is wanted.
#[derive(Clone, Copy)]
pub enum Goal {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Goal {
    fn met(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
        }
    }

    fn spell(self) -> String {
        match self {
            Self::AtMost(0.0) => "0".to_owned(),
            Self::AtMost(bound) => format!("≤ {bound:.2}"),
            Self::AtLeast(bound) => format!("≥ {bound:.2}"),
        }
    }
}

/// One line of the table.
pub struct Row {
    what: String,
    unit: &'static str,
    ours: Option<Quartiles>,
    against: String,
    theirs: Option<Quartiles>,
    /// What the goal is about.
    figure: Option<Quartiles>,
    goal: Option<Goal>,
}

impl Row {
    fn new(what: &str, unit: &'static str, ours: Option<Quartiles>) -> Self {
        Self { what: what.to_owned(), unit, ours, against: String::new(), theirs: None, figure: None, goal: None }
    }

    /// One variant over another.
    pub fn ratio(what: &str, q: &Quantity, ours: &str, theirs: &str) -> Self {
        let ratios: Vec<f64> = q.paired(ours, theirs).map(|(a, b)| a / b).collect();
        Self {
            against: theirs.to_owned(),
            theirs: q.samples(theirs).and_then(Quartiles::of),
            figure: Quartiles::of(&ratios),
            ..Self::new(what, q.unit, q.samples(ours).and_then(Quartiles::of))
        }
    }

    /// What one variant takes more than the base, over what another takes more.
    pub fn extra(what: &str, q: &Quantity, ours: &str, theirs: &str, base: &str) -> Self {
        let over = |name: &str| -> Vec<f64> { q.paired(name, base).map(|(a, b)| a - b).collect() };
        let (a, b) = (over(ours), over(theirs));
        let ratios: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a / b).collect();
        Self {
            against: theirs.to_owned(),
            theirs: Quartiles::of(&b),
            figure: Quartiles::of(&ratios),
            ..Self::new(what, q.unit, Quartiles::of(&a))
        }
    }

    /// One variant over a fixed figure, another's median.
    pub fn relative(what: &str, q: &Quantity, ours: &str, theirs: &str, base: f64) -> Self {
        let samples = q.samples(ours).unwrap_or_default();
        let ratios: Vec<f64> = samples.iter().map(|s| s / base).collect();
        Self {
            against: theirs.to_owned(),
            theirs: q.samples(theirs).and_then(Quartiles::of),
            figure: Quartiles::of(&ratios),
            ..Self::new(what, q.unit, Quartiles::of(samples))
        }
    }

    /// A variant that is compared with nothing.
    pub fn alone(what: &str, q: &Quantity, ours: &str) -> Self {
        Self::new(what, q.unit, q.samples(ours).and_then(Quartiles::of))
    }

    /// A variant whose own figures are what the goal is about.
    pub fn itself(what: &str, q: &Quantity, ours: &str) -> Self {
        let own = q.samples(ours).and_then(Quartiles::of);
        Self { against: ours.to_owned(), figure: own, ..Self::new(what, q.unit, own) }
    }

    /// The smallest and the largest sample of a variant.
    pub fn bounds(what: &str, q: &Quantity, of: &str, (low, high): (f64, f64)) -> Self {
        let median = q.samples(of).and_then(Quartiles::of).map(|q| q.median);
        let ours = median.map(|median| Quartiles { low, median, high });
        Self { against: format!("{of} (least…most)"), ..Self::new(what, q.unit, ours) }
    }

    /// A number that was counted once.
    pub fn count(what: &str, number: f64, of: &str) -> Self {
        let once = Quartiles::of(&[number]);
        Self { against: of.to_owned(), figure: once, ..Self::new(what, "", once) }
    }

    /// Sets what is wanted of it.
    #[must_use]
    pub fn goal(self, goal: Goal) -> Self {
        Self { goal: Some(goal), ..self }
    }

    fn met(&self) -> Option<bool> {
        Some(self.goal?.met(self.figure?.median))
    }

    fn is_count(&self) -> bool {
        self.unit.is_empty()
    }

    fn cells(&self) -> [String; 6] {
        let with_unit = |q: Option<Quartiles>| q.map_or(String::new(), |q| format!("{} {}", spread(q), self.unit));
        let ours =
            if self.is_count() { self.ours.map_or(String::new(), |q| format!("{}", q.median)) } else { with_unit(self.ours) };
        let theirs = self.theirs.map_or(self.against.clone(), |_| format!("{}: {}", self.against, with_unit(self.theirs)));
        let figure = if self.is_count() { String::new() } else { self.figure.map_or(String::new(), spread) };
        let met = self.met().map_or("", |met| if met { "met" } else { "not met" });
        [self.what.clone(), ours, theirs, figure, self.goal.map_or(String::new(), Goal::spell), met.to_owned()]
    }

    fn json(&self) -> Value {
        let q = |q: Option<Quartiles>| q.map_or(Value::Null, |q| json!({"low": q.low, "median": q.median, "high": q.high}));
        json!({
            "what": self.what, "unit": self.unit, "ours": q(self.ours), "against": self.against, "theirs": q(self.theirs),
            "figure": q(self.figure), "goal": self.goal.map(Goal::spell), "met": self.met(),
        })
    }
}

/// `2.98 (2.95…3.03)`, with as many digits as the size calls for.
fn spread(q: Quartiles) -> String {
    let digits = if q.median.abs() >= 100.0 { 0 } else { 2 };
    format!("{:.digits$} ({:.digits$}…{:.digits$})", q.median, q.low, q.high)
}

/// Everything that a run found.
pub struct Report {
    bench: &'static str,
    quick: bool,
    took: Duration,
    machine: Value,
    rows: Vec<Row>,
    quantities: Vec<Quantity>,
    failures: Vec<String>,
}

impl Report {
    /// Empty.
    pub fn new(bench: &'static str, quick: bool) -> Self {
        let (rows, quantities, failures) = (Vec::new(), Vec::new(), Vec::new());
        Self { bench, quick, took: Duration::ZERO, machine: machine(), rows, quantities, failures }
    }

    /// Adds a line.
    pub fn row(&mut self, mut row: Row) {
        if row.what.is_empty() {
            // A further comparison of the line before.
            row.what = self.rows.last().map(|r| r.what.clone()).unwrap_or_default();
        }
        self.rows.push(row);
    }

    /// Adds what lines were made from.
    pub fn quantity(&mut self, quantity: Quantity) {
        self.quantities.push(quantity);
    }

    /// Adds why something is not there.
    pub fn not_measured(&mut self, what: &str, error: &anyhow::Error) {
        self.failures.push(format!("{what}: {error:#}"));
    }

    /// Sets how long it took.
    pub fn took(&mut self, took: Duration) {
        self.took = took;
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut lines = vec![["what", "ours", "others", "ratio", "goal", ""].map(str::to_owned)];
        lines.extend(self.rows.iter().map(Row::cells));
        let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 6] = std::array::from_fn(width);
        let mut text = format!("{}: median of the rounds (middle half); {} s\n\n", self.bench, self.took.as_secs());
        for (number, line) in lines.iter().enumerate() {
            let cells: Vec<_> = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            let line = cells.join("  ");
            let row = number.checked_sub(1).and_then(|n| self.rows.get(n));
            let style = match row.map(Row::met) {
                None => Style::new().dimmed(),
                Some(Some(true)) => Style::new().green(),
                Some(Some(false)) => Style::new().yellow(),
                Some(None) => Style::new(),
            };
            // Writing into a string does not fail.
            let _ = writeln!(text, "{}", line.trim_end().if_supports_color(Stream::Stdout, |l| l.style(style)));
        }
        let judged: Vec<bool> = self.rows.iter().filter_map(Row::met).collect();
        let _ = writeln!(text, "\n{} of {} goals met", judged.iter().filter(|met| **met).count(), judged.len());
        for failure in &self.failures {
            let _ = writeln!(text, "not measured: {failure}");
        }
        text
    }

    /// Writes `<bench>.json` and a plot per quantity. The files' paths.
    pub fn write(&self, dir: &Path) -> Result<Vec<String>> {
        let mut files = vec![(format!("{}.json", self.bench), format!("{:#}\n", self.json()))];
        for q in &self.quantities {
            let bars =
                q.variants.iter().filter_map(|(label, s)| Some(plot::Bar { label: label.clone(), value: Quartiles::of(s)? }));
            files.push((format!("{}-{}.svg", self.bench, q.name), plot::bars(q.title, q.unit, &bars.collect::<Vec<_>>())));
        }
        let mut written = Vec::new();
        for (name, text) in files {
            let path = dir.join(name);
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            written.push(path.display().to_string());
        }
        Ok(written)
    }

    fn json(&self) -> Value {
        let quantities = self.quantities.iter().map(|q| {
            let variants: serde_json::Map<_, _> = q.variants.iter().map(|(name, s)| (name.clone(), json!(s))).collect();
            json!({"name": q.name, "title": q.title, "unit": q.unit, "samples": variants})
        });
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        json!({
            "bench": self.bench, "quick": self.quick, "ended_unix_seconds": now, "took_seconds": self.took.as_secs(),
            "machine": self.machine, "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
            "quantities": quantities.collect::<Vec<_>>(), "not_measured": self.failures,
        })
    }
}

/// What the figures are of, and how busy it was before.
fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ").map(|(_, m)| m.to_owned()));
    json!({
        "kernel": read("/proc/sys/kernel/osrelease"), "cpu": model,
        "cpus": info.lines().filter(|l| l.starts_with("processor")).count(), "load_before": read("/proc/loadavg"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantity() -> Quantity {
        let of = |name: &str, samples: &[f64]| (name.to_owned(), samples.to_vec());
        let variants = vec![of("ours", &[3.0, 6.0, 3.0]), of("theirs", &[4.0, 8.0, 4.0]), of("base", &[2.0, 4.0, 2.0])];
        Quantity::new("x", "x", "us", variants)
    }

    #[test]
    fn a_round_that_took_twice_as_long_for_all_changes_no_ratio() {
        let row = Row::ratio("x", &quantity(), "ours", "theirs");
        assert_eq!(row.figure, Some(Quartiles { low: 0.75, median: 0.75, high: 0.75 }));
        let row = Row::extra("x", &quantity(), "ours", "theirs", "base");
        assert_eq!(row.figure, Some(Quartiles { low: 0.5, median: 0.5, high: 0.5 }));
        assert_eq!(row.ours.unwrap().median, 1.0);
    }

    #[test]
    fn a_goal_is_met_at_its_bound_and_not_beyond() {
        assert!(Goal::AtMost(0.3).met(0.3) && !Goal::AtMost(0.3).met(0.31));
        assert!(Goal::AtLeast(1.4).met(1.4) && !Goal::AtLeast(1.4).met(1.39));
        assert!(!Goal::AtMost(0.0).met(1.0));
    }

    #[test]
    fn what_was_not_measured_meets_no_goal_and_breaks_none() {
        let row = Row::ratio("x", &quantity(), "ours", "nobody").goal(Goal::AtMost(1.0));
        assert_eq!(row.met(), None);
    }
}
