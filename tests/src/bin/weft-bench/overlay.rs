//! Packets between containers: Weft's fast path and its kernel path, flannel's layout, the bare wire; one host and two.
//!
//! Which rows there are and what is wanted of them is written down once, here.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use weft_tests::signals;

use crate::measure::{Pair, Sockets};
use crate::progress::Progress;
use crate::report::{Goal, Quantity, Report, Row};
use crate::stage::Stage;
use crate::stats::median;
use crate::{death, heal, peers, programs};

/// How much is measured.
struct Effort {
    /// Rounds of what takes less than a second.
    rounds: usize,
    /// Rounds of streams.
    stream_rounds: usize,
    /// Of round trips.
    ping: Duration,
    /// Of small packets at full rate.
    blast: Duration,
    /// How many peers there are in turn.
    peers: &'static [u16],
    /// How long agents are dead.
    dead: Duration,
    /// How often they are upgraded.
    upgrades: usize,
}

const FULL: Effort = Effort {
    rounds: 15,
    stream_rounds: 15,
    ping: Duration::from_millis(300),
    blast: Duration::from_millis(500),
    peers: &[1, 100, 1_000, 5_000],
    dead: Duration::from_secs(60),
    upgrades: 5,
};

const QUICK: Effort = Effort {
    rounds: 5,
    stream_rounds: 5,
    ping: Duration::from_millis(150),
    blast: Duration::from_millis(250),
    peers: &[1, 1_000],
    dead: Duration::from_secs(3),
    upgrades: 2,
};

/// Names of variants, as table and plots have them.
const WEFT: &str = "Weft";
const KERNEL: &str = "Weft, kernel path";
const FLANNEL: &str = "flannel's layout";
const WIRE: &str = "bare wire";
const BRIDGE: &str = "bridge, two veths";
const BARE: &str = "bare veth pair";

/// Measures everything.
pub fn run(quick: bool) -> Result<Report> {
    let effort = if quick { QUICK } else { FULL };
    let mut bench = Bench { effort, progress: Progress::new(), report: Report::new("overlay", quick) };
    let cpus = two_cpus()?;
    bench.progress.phase("hosts come up: two with programs, two without, two with flannel's layout", 0);
    let stage = Stage::build(cpus)?;
    bench.attempt("half round trips", &stage, Bench::half_rtt)?;
    bench.attempt("streams", &stage, Bench::streams)?;
    bench.attempt("one host", &stage, Bench::one_host)?;
    bench.attempt("small packets", &stage, Bench::small_packets)?;
    bench.attempt("agents killed", &stage, Bench::agents_killed)?;
    bench.attempt("agents upgraded", &stage, Bench::agents_upgraded)?;
    bench.attempt("healing", &stage, Bench::healing)?;
    bench.attempt("time in programs", &stage, Bench::time_in_programs)?;
    bench.attempt("peers", &stage, Bench::peers)?;
    bench.progress.phase("hosts go down", 0);
    drop(stage);
    bench.report.took(bench.progress.elapsed());
    Ok(bench.report)
}

/// The CPUs for the two ends of a stream; the first is where latency is measured.
fn two_cpus() -> Result<[usize; 2]> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("ask which CPUs there are")?;
    // The last ones: the first serves most interrupts.
    let mut cpus = (0..CpuSet::count()).rev().filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let (first, second) = (cpus.next(), cpus.next());
    ensure!(second.is_some(), "two CPUs are needed, one for each end of a stream");
    Ok([first, second].map(Option::unwrap_or_default))
}

/// One way of measuring: its name, and a sample.
type Variant<'a> = (&'static str, Box<dyn Fn() -> Result<f64> + 'a>);

struct Bench {
    effort: Effort,
    progress: Progress,
    report: Report,
}

impl Bench {
    /// A part that cannot be measured is told, and the others are measured.
    fn attempt(&mut self, what: &str, stage: &Stage, part: fn(&mut Self, &Stage) -> Result<()>) -> Result<()> {
        let outcome = part(self, stage);
        ensure!(!signals::ending(), "interrupted");
        if let Err(e) = outcome {
            self.progress.trouble(&format!("{what}: {e:#}"));
            self.report.not_measured(what, &e);
        }
        Ok(())
    }

    /// Samples of all variants in turn, every round beginning with another one.
    fn interleave(&self, what: &str, rounds: usize, variants: &[Variant<'_>]) -> Result<Vec<(String, Vec<f64>)>> {
        self.progress.phase(what, rounds * variants.len());
        let mut samples: Vec<_> = variants.iter().map(|(name, _)| ((*name).to_owned(), Vec::new())).collect();
        for round in 0..rounds {
            for number in 0..variants.len() {
                let at = (round + number) % variants.len();
                let (name, take) = &variants[at];
                ensure!(!signals::ending(), "interrupted");
                // Once more, because on a busy machine an end may come too late.
                let sample = take().or_else(|_| take()).with_context(|| format!("{what}: {name}"))?;
                samples[at].1.push(sample);
                self.progress.step();
            }
        }
        Ok(samples)
    }

    fn half_rtt(&mut self, stage: &Stage) -> Result<()> {
        let across = [(WEFT, &stage.fast), (KERNEL, &stage.kernel), (FLANNEL, &stage.flannel), (WIRE, &stage.wire)];
        let ping = self.effort.ping;
        for (sockets, name, title) in [
            (Sockets::Connected, "half-rtt", "half round trip over the wire's, two hosts"),
            (Sockets::Unconnected, "half-rtt-unconnected", "the same by sendto and recvfrom"),
        ] {
            let variants: Vec<_> = across.map(|(name, pair)| variant(name, move || pair.half_rtt(sockets, ping))).into();
            let samples = self.interleave(title, self.effort.rounds, &variants)?;
            let q = Quantity::new(name, "UDP half round trip, 64 bytes, two hosts, one CPU", "us", samples);
            self.report.row(Row::extra(title, &q, WEFT, FLANNEL, WIRE).goal(Goal::AtMost(0.30)));
            if sockets == Sockets::Connected {
                self.report.row(Row::extra("the same, kernel path", &q, KERNEL, FLANNEL, WIRE));
            }
            self.report.quantity(q);
        }
        Ok(())
    }

    fn streams(&mut self, stage: &Stage) -> Result<()> {
        let across = [(WEFT, &stage.fast), (KERNEL, &stage.kernel), (FLANNEL, &stage.flannel), (WIRE, &stage.wire)];
        let q = self.stream("stream", "TCP stream, one flow, two hosts", &across)?;
        self.report.row(Row::ratio("TCP stream, two hosts", &q, WEFT, WIRE).goal(Goal::AtLeast(0.95)));
        self.report.row(Row::ratio("", &q, WEFT, FLANNEL).goal(Goal::AtLeast(1.08)));
        self.report.row(Row::ratio("the same, kernel path", &q, KERNEL, FLANNEL));
        self.report.quantity(q);
        Ok(())
    }

    fn stream(&self, name: &'static str, title: &'static str, pairs: &[(&'static str, &Pair)]) -> Result<Quantity> {
        let variants: Vec<_> = pairs.iter().map(|(name, pair)| variant(name, move || pair.stream())).collect();
        Ok(Quantity::new(name, title, "Gbit/s", self.interleave(title, self.effort.stream_rounds, &variants)?))
    }

    fn one_host(&mut self, stage: &Stage) -> Result<()> {
        let pairs = [(WEFT, &stage.local), (BRIDGE, &stage.bridge), (BARE, &stage.bare)];
        let ping = self.effort.ping;
        let variants: Vec<_> = pairs.map(|(name, pair)| variant(name, move || pair.half_rtt(Sockets::Connected, ping))).into();
        let title = "half round trip, one host";
        let samples = self.interleave(title, self.effort.rounds, &variants)?;
        let q = Quantity::new("local-half-rtt", "UDP half round trip, 64 bytes, one host, one CPU", "us", samples);
        self.report.row(Row::ratio(title, &q, WEFT, BRIDGE).goal(Goal::AtMost(0.88)));
        self.report.row(Row::ratio("", &q, WEFT, BARE).goal(Goal::AtMost(1.08)));
        self.report.quantity(q);
        let q = self.stream("local-stream", "TCP stream, one flow, one host", &pairs)?;
        self.report.row(Row::ratio("TCP stream, one host", &q, WEFT, BRIDGE).goal(Goal::AtLeast(1.0)));
        self.report.quantity(q);
        Ok(())
    }

    fn small_packets(&mut self, stage: &Stage) -> Result<()> {
        let pairs = [(WEFT, &stage.fast), (KERNEL, &stage.kernel), (FLANNEL, &stage.flannel), (WIRE, &stage.wire)];
        let blast = self.effort.blast;
        let variants: Vec<_> = pairs.map(|(name, pair)| variant(name, move || pair.rate(blast))).into();
        let title = "small packets, one core";
        let samples = self.interleave(title, self.effort.rounds, &variants)?;
        let q = Quantity::new("rate", "UDP, 64 bytes, two hosts, what one core sends and forwards", "thousand/s", samples);
        self.report.row(Row::ratio(title, &q, WEFT, FLANNEL).goal(Goal::AtLeast(1.4)));
        self.report.row(Row::ratio("the same, kernel path", &q, KERNEL, FLANNEL));
        self.report.quantity(q);
        Ok(())
    }

    fn agents_killed(&mut self, stage: &Stage) -> Result<()> {
        let dead = self.effort.dead;
        self.progress.phase(&format!("both agents killed, dead for {} s, started again", dead.as_secs()), 0);
        let seen = death::run(&stage.cluster, dead)?;
        let what = format!("lost, agents killed, dead {} s, started", dead.as_secs());
        self.report.row(Row::count(&what, seen.lost(), &format!("of {} to and fro", seen.sent)).goal(Goal::AtMost(0.0)));
        Ok(())
    }

    fn agents_upgraded(&mut self, stage: &Stage) -> Result<()> {
        let times = self.effort.upgrades;
        self.progress.phase(&format!("both agents upgraded {times} times under load"), 0);
        let seen = death::upgrade(&stage.cluster, times)?;
        let what = format!("lost, agents upgraded {times} times");
        self.report.row(Row::count(&what, seen.lost(), &format!("of {} to and fro", seen.sent)).goal(Goal::AtMost(0.0)));
        Ok(())
    }

    fn healing(&mut self, stage: &Stage) -> Result<()> {
        let host = &stage.cluster.topology.hosts()[0];
        let variants: Vec<_> =
            heal::OBJECTS.iter().enumerate().map(|(number, name)| variant(name, move || heal::time(host, number))).collect();
        let samples = self.interleave("what is taken out of the kernel's tables", self.effort.rounds, &variants)?;
        let q = Quantity::new("heal", "time until what somebody took out of the kernel's tables is back", "ms", samples);
        for name in heal::OBJECTS {
            self.report.row(Row::alone(&format!("healed: {name}"), &q, name));
        }
        self.report.quantity(q);
        Ok(())
    }

    fn time_in_programs(&mut self, stage: &Stage) -> Result<()> {
        let hosts = stage.cluster.topology.hosts();
        let rounds = self.effort.rounds;
        self.progress.phase("time in programs", rounds);
        let _clock = programs::Clock::start()?;
        let mut samples: Vec<_> = programs::PACKET_HOOKS.map(|name| (name.to_owned(), Vec::new())).into();
        for _ in 0..rounds {
            ensure!(!signals::ending(), "interrupted");
            let before: Vec<_> = programs::PACKET_HOOKS.iter().map(|p| programs::runs(&hosts[0], p)).collect::<Result<_>>()?;
            stage.fast.half_rtt(Sockets::Connected, self.effort.ping)?;
            for ((name, samples), before) in samples.iter_mut().zip(before) {
                let each = programs::runs(&hosts[0], name)?.each_since(before);
                samples.push(each.with_context(|| format!("{name} did not run"))?);
            }
            self.progress.step();
        }
        let q = Quantity::new("programs", "time in a program per packet, 64 bytes, its clock included", "ns", samples);
        for name in programs::PACKET_HOOKS {
            self.report.row(Row::alone(&format!("program {name}, per packet"), &q, name));
        }
        self.report.quantity(q);
        Ok(())
    }

    fn peers(&mut self, stage: &Stage) -> Result<()> {
        let (ping, rounds) = (self.effort.ping, self.effort.rounds);
        let (mut written, mut costs) = (1, Vec::new());
        for &count in self.effort.peers {
            let what = format!("{count} peers");
            self.progress.phase(&what, 0);
            // One of them is real.
            peers::write(&stage.cluster.topology, written, count)?;
            written = count;
            peers::wait(&stage.cluster.topology, usize::from(count))?;
            let variants = [
                variant(WEFT, || stage.fast.half_rtt(Sockets::Connected, ping)),
                variant(WIRE, || stage.wire.half_rtt(Sockets::Connected, ping)),
            ];
            let samples = self.interleave(&what, rounds, &variants)?;
            // In units of the wire's at the same time: counts cannot take turns, and the machine may have changed its pace.
            let cost = samples[0].1.iter().zip(&samples[1].1).map(|(fast, wire)| fast / wire).collect();
            costs.push((what, cost));
        }
        let q = Quantity::new("peers", "half round trip, two hosts, in half round trips of the wire", "wires", costs);
        let first = self.effort.peers.first().map(|count| format!("{count} peers")).unwrap_or_default();
        let base = q.samples(&first).and_then(median).context("nothing to compare with")?;
        for count in self.effort.peers.iter().skip(1) {
            let what = format!("half round trip with {count} peers");
            self.report.row(Row::relative(&what, &q, &format!("{count} peers"), &first, base).goal(Goal::AtMost(1.05)));
        }
        self.report.quantity(q);
        Ok(())
    }
}

fn variant<'a>(name: &'static str, take: impl Fn() -> Result<f64> + 'a) -> Variant<'a> {
    (name, Box::new(take))
}
