//! Running other programs: openly, or behind one line with a clock.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::counts::{self, Counts};

/// The cargo that runs us, else the one in the path.
#[must_use]
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
}

/// Where a program is: in the path, or where root's programs are.
#[must_use]
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    dirs.map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// The command as one would type it.
fn spell(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    words.join(" ")
}

/// Runs a command that talks to the terminal itself. Whether it ended well.
///
/// # Errors
/// When it cannot be started.
pub fn open(command: &mut Command) -> Result<bool> {
    let status = command.status().with_context(|| format!("run {}", spell(command)))?;
    Ok(status.success())
}

/// Runs a command and gives its standard output.
///
/// # Errors
/// When it cannot be started or ends badly; what it said is in the error.
pub fn read(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {}", spell(command)))?;
    if !output.status.success() {
        bail!("{}: {}\n{}", spell(command), output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a long command behind one line: what it is for, how long it takes and, on a terminal, what it says at the moment.
///
/// # Errors
/// When it cannot be started or ends badly; the end of what it said is in the error.
pub fn quiet(what: &str, command: &mut Command) -> Result<()> {
    let spelled = spell(command);
    let start = Instant::now();
    let bar = if std::io::stderr().is_terminal() {
        let bar = ProgressBar::new_spinner();
        bar.set_style(ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg}")?);
        bar.set_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    } else {
        eprintln!("setup: {what} …");
        ProgressBar::hidden()
    };

    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("run {spelled}"))?;
    let (send, said) = mpsc::channel();
    relay(child.stdout.take(), send.clone());
    relay(child.stderr.take(), send);
    let mut lines = Vec::new();
    for line in said {
        bar.set_message(line.clone());
        lines.push(line);
    }
    let status = child.wait().with_context(|| format!("wait for {spelled}"))?;
    bar.finish_and_clear();
    if !status.success() {
        let end = &lines[lines.len().saturating_sub(25)..];
        bail!("{spelled}: {status}; its last lines:\n{}", end.join("\n"));
    }
    eprintln!("setup: {what}: done in {} s", start.elapsed().as_secs());
    Ok(())
}

fn relay(pipe: Option<impl Read + Send + 'static>, to: mpsc::Sender<String>) {
    let Some(pipe) = pipe else { return };
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if to.send(line).is_err() {
                return;
            }
        }
    });
}

/// Set by Ctrl-C.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_interrupt(_: i32) {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// Whether Ctrl-C came.
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// From now on Ctrl-C ends what we run, which gets it as well, but not us: the tests take down what they built, and we wait.
///
/// A handler and not "ignore", because only the latter would be handed on to what we run.
///
/// # Errors
/// When the kernel refuses.
pub fn outlive_interrupts() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(on_interrupt), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler only stores to an atomic.
    unsafe { sigaction(Signal::SIGINT, &action) }.context("handle Ctrl-C")?;
    Ok(())
}

/// What a run of tests said.
#[derive(Debug, Default)]
pub struct Tested {
    /// What the executables closed with; one that crashed is one failure.
    pub counts: Counts,
    /// The names of the tests that failed.
    pub failed: Vec<String>,
    /// Executables that began and did not close: what was in them nobody knows.
    pub crashed: usize,
}

impl Tested {
    /// Reads what is said, line by line. `show` is given each.
    fn read(lines: impl Iterator<Item = std::io::Result<Vec<u8>>>, show: impl Fn(&str)) -> std::io::Result<Self> {
        let mut tested = Self::default();
        let (mut begun, mut closed) = (0_usize, 0_usize);
        for line in lines {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            show(&line);
            if let Some(more) = Counts::from_line(&line) {
                tested.counts.add(more);
                closed += 1;
            }
            begun += usize::from(counts::begins(&line));
            tested.failed.extend(counts::failed_test(&line));
        }
        tested.crashed = begun.abs_diff(closed);
        if tested.crashed > 0 {
            tested.counts.failed += 1;
        }
        Ok(tested)
    }
}

/// Runs `cargo test …`, shows what it says and counts what it closes with.
///
/// A run that ends badly without any failed test (a build error, say) counts as one failure.
///
/// # Errors
/// When it cannot be started or read.
pub fn count_tests(command: &mut Command) -> Result<Tested> {
    let spelled = spell(command);
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("run {spelled}"))?;
    let stdout = child.stdout.take().context("the pipe that was asked for")?;
    let read = Tested::read(BufReader::new(stdout).split(b'\n'), |line| println!("{line}"));
    let mut tested = read.with_context(|| format!("read from {spelled}"))?;
    let status = child.wait().with_context(|| format!("wait for {spelled}"))?;
    if tested.crashed > 0 {
        eprintln!("{spelled}: test executables that did not come to their end: {}", tested.crashed);
    }
    if !status.success() && tested.counts.failed == 0 {
        eprintln!("{spelled}: {status}");
        tested.counts.failed = 1;
    }
    Ok(tested)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tested(text: &str) -> Tested {
        Tested::read(text.lines().map(|line| Ok(line.as_bytes().to_vec())), |_| {}).unwrap()
    }

    #[test]
    fn an_executable_that_crashed_is_a_failure_beside_those_that_it_and_others_named() {
        const CLOSED: &str =
            "running 2 tests\ntest a ... ok\ntest b ... FAILED\ntest result: FAILED. 1 passed; 1 failed; 0 ignored\n";
        let well = tested(CLOSED);
        assert_eq!((well.counts, well.crashed), (Counts { passed: 1, failed: 1 }, 0));
        assert_eq!(well.failed, ["b"]);
        let crashed = tested(&format!("{CLOSED}running 3 tests\ntest c ... ok\n"));
        assert_eq!((crashed.counts, crashed.crashed), (Counts { passed: 1, failed: 2 }, 1));
        let alone = tested("running 3 tests\ntest c ... FAILED\n");
        assert_eq!((alone.counts, alone.crashed), (Counts { passed: 0, failed: 1 }, 1));
    }
}
