//! The three rungs of tests, and the demo.
//!
//! | rung | what | needs |
//! |---|---|---|
//! | unit | unit tests, documentation tests, and integration tests that touch no kernel | nothing |
//! | kernel | `*/tests/kernel_*.rs`; against a real etcd the store's `tests/*.rs` and the agent's `churn_tests` | root |
//! | e2e | `tests/tests/*.rs`: whole hosts | root |

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::counts::Counts;
use crate::leftovers::{Before, RUN_MARK};
use crate::metadata::Workspace;
use crate::sh::{self, Tested};

/// A rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rung {
    /// No root, milliseconds
    Unit,
    /// Programs and tables in a real kernel; the store against a real etcd
    Kernel,
    /// Whole hosts
    E2e,
}

impl Rung {
    /// All of them, cheapest first.
    pub const ALL: [Self; 3] = [Self::Unit, Self::Kernel, Self::E2e];

    /// Those that were asked for, or all.
    pub fn chosen(asked: &[Self]) -> Vec<Self> {
        if asked.is_empty() { Self::ALL.to_vec() } else { asked.to_vec() }
    }

    /// Where an integration test belongs.
    fn of(package: &str, test: &str) -> Self {
        match package {
            "weft-tests" => Self::E2e,
            "weft-store" => Self::Kernel,
            _ if test.starts_with("kernel_") => Self::Kernel,
            _ => Self::Unit,
        }
    }

    /// The integration tests of this rung: cargo's words that choose them; none if there are none.
    fn targets(self, workspace: &Workspace) -> Vec<String> {
        let mut words = BTreeSet::new();
        for package in &workspace.packages {
            for test in package.tests.iter().filter(|test| Self::of(&package.name, test) == self) {
                words.insert(format!("--package={}", package.name));
                words.insert(format!("--test={test}"));
            }
        }
        words.into_iter().collect()
    }
}

/// Where the tests find our binaries.
pub const BIN_DIR: &str = "WEFT_BIN_DIR";

/// Builds, runs and counts. What is left behind on the machine counts as a failed test.
///
/// # Errors
/// When a rung needs root and we are not, or cargo cannot be run.
pub fn run(rungs: &[Rung], filter: Option<&str>) -> Result<Counts> {
    if rungs.iter().any(|r| *r != Rung::Unit) && !nix::unistd::geteuid().is_root() {
        bail!("the kernel and e2e rungs need root (`cargo xtask test unit` does not)");
    }
    sh::outlive_interrupts()?;
    let workspace = Workspace::read()?;
    if !sh::open(sh::cargo().arg("build"))? {
        return Ok(Counts { passed: 0, failed: 1 });
    }
    let mut counts = Counts::default();
    let lines = |rung: &Rung| invocations(*rung, &workspace, filter);
    // Built first, so that what the compiler leaves running (a build cache, say) does not bear the mark of the tests.
    for rung in rungs {
        for Line { mut words, .. } in lines(rung) {
            // Documentation tests are built as they are run.
            if !words.iter().any(|w| w == "--doc") {
                words.push("--no-run".to_owned());
                if !sh::open(sh::cargo().args(["test", "--quiet"]).args(words))? {
                    return Ok(Counts { passed: 0, failed: 1 });
                }
            }
        }
    }
    let before = Before::look()?;
    let mut unsteady = Vec::new();
    for rung in rungs {
        for Line { words, harness } in lines(rung) {
            if sh::interrupted() {
                break;
            }
            let test = || {
                let mut test = sh::cargo();
                test.args(["test", "--no-fail-fast"]).args(&words);
                test.env(BIN_DIR, workspace.binaries()).env(RUN_MARK, before.mark());
                let colour = if std::io::stdout().is_terminal() { "always" } else { "never" };
                test.args(["--color", colour, "--", "--color", colour]);
                test
            };
            let mut first = test();
            if *rung == Rung::E2e {
                // Each is a few hosts, and most of their time is spent waiting.
                first.arg("--test-threads=2");
            }
            let Tested { counts: mut of_these, failed, crashed } = sh::count_tests(first.args(&harness).args(filter))?;
            if crashed == 0 && second_try_is_due(*rung, of_these, &failed) && !sh::interrupted() {
                println!("once more, by themselves: {}", failed.join(", "));
                let again = sh::count_tests(test().args(["--test-threads=1", "--exact"]).args(&failed))?.counts;
                if again.failed == 0 && again.passed >= of_these.failed {
                    of_these = Counts { passed: of_these.passed + of_these.failed, failed: 0 };
                    unsteady.extend(failed);
                }
            }
            counts.add(of_these);
        }
    }
    if !unsteady.is_empty() {
        println!("unsteady, passed only at the second try; each is a bug, of the test or of what it tests:");
        unsteady.iter().for_each(|test| println!("  {test}"));
    }
    let left = before.left()?;
    if !left.is_empty() {
        println!("left behind on this machine:\n  {}", left.join("\n  "));
        counts.failed += 1;
    }
    if sh::interrupted() {
        println!("interrupted");
        counts.failed += 1;
    }
    if counts == Counts::default()
        && let Some(filter) = filter
    {
        println!("no test has {filter:?} in its name");
    }
    Ok(counts)
}

/// How many tests of one `cargo test` may have a second try.
const SECOND_TRIES: usize = 2;

/// Tests that meet a real kernel, a real etcd and the clock of a machine shared with others get one second try, by themselves,
/// so that one stall in half an hour does not hide what the other thousand say. They are named at the end all the same. Unit
/// tests have no such excuse, and a change that breaks more than a few has broken something.
fn second_try_is_due(rung: Rung, counts: Counts, failed: &[String]) -> bool {
    rung != Rung::Unit
        && (1..=SECOND_TRIES).contains(&failed.len())
        && usize::try_from(counts.failed).is_ok_and(|n| n == failed.len())
}

/// A `cargo test` command line, without what all have.
struct Line {
    /// For cargo.
    words: Vec<String>,
    /// For the test harness: tests to leave out, or the only ones to run.
    harness: Vec<String>,
}

/// Tests beside the agent's own parts, because they run those, that meet a real etcd: not of the unit rung.
const WITH_ETCD: &str = "churn_tests::";

/// The command lines of a rung. What a filter cannot mean is left out.
fn invocations(rung: Rung, workspace: &Workspace, filter: Option<&str>) -> Vec<Line> {
    let owned = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let line = |words: &[&str], harness: &[&str]| Line { words: owned(words), harness: owned(harness) };
    let mut lines = Vec::new();
    if rung == Rung::Unit {
        lines.push(line(&["--workspace", "--lib", "--bins"], &["--skip", WITH_ETCD]));
    }
    // Two filters mean "one or the other" to the harness.
    if rung == Rung::Kernel && filter.is_none_or(|filter| filter.contains(WITH_ETCD)) {
        let only: &[&str] = if filter.is_none() { &[WITH_ETCD] } else { &[] };
        lines.push(line(&["--package=weft-agent", "--bin=weftd"], only));
    }
    let targets = rung.targets(workspace);
    if !targets.is_empty() {
        lines.push(Line { words: targets, harness: Vec::new() });
    }
    if rung == Rung::Unit {
        lines.push(line(&["--workspace", "--doc"], &[]));
    }
    lines
}

/// Builds and becomes the demo, so that Ctrl-C and the exit code are its own.
///
/// # Errors
/// When we are not root, or it cannot be built or started.
pub fn demo(keep: bool) -> Result<bool> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the demo makes network namespaces, which needs root");
    }
    let workspace = Workspace::read()?;
    for words in [&["build"][..], &["build", "--package=weft-tests", "--bin=weft-demo"]] {
        if !sh::open(sh::cargo().args(words))? {
            return Ok(false);
        }
    }
    let mut demo = Command::new(workspace.binaries().join("weft-demo"));
    demo.env(BIN_DIR, workspace.binaries());
    if keep {
        demo.arg("--keep");
    }
    let error = demo.exec();
    bail!("start {}: {error}", demo.get_program().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_tests_that_met_the_kernel_have_a_second_try_and_nothing_else_has() {
        let failed = |n: u64| Counts { passed: 100, failed: n };
        let names = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        assert!(second_try_is_due(Rung::E2e, failed(1), &names[..1]));
        assert!(second_try_is_due(Rung::Kernel, failed(2), &names[..2]));
        assert!(!second_try_is_due(Rung::E2e, failed(3), &names));
        assert!(!second_try_is_due(Rung::E2e, failed(0), &[]));
        assert!(!second_try_is_due(Rung::Unit, failed(1), &names[..1]));
        assert!(!second_try_is_due(Rung::E2e, failed(2), &names[..1]), "one was skipped, or an executable crashed");
    }

    #[test]
    fn every_integration_test_belongs_to_a_rung() {
        assert_eq!(Rung::of("weft-tests", "e2e_names"), Rung::E2e);
        assert_eq!(Rung::of("weft-store", "conformance"), Rung::Kernel);
        assert_eq!(Rung::of("weft-agent", "kernel_netlink"), Rung::Kernel);
        assert_eq!(Rung::of("weft-plan", "data"), Rung::Unit);
    }
}
