//! Signals, received one by one instead of ending `netctl`, so that each reaches the command exactly once.
//!
//! On a terminal the command is in `netctl`'s own process group: Ctrl-C, Ctrl-\, a hang-up and a resize reach both by the
//! kernel, and are not handed on. Without a terminal the command has a group of its own, so that whoever signals `netctl`'s
//! group does not reach it twice. With a terminal of its own (`--tty`) it has a session of its own, and gets all from here.

use std::fs::File;
use std::io;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::io::unix::AsyncFd;

use super::RunError;

/// What is handed on. With SIGTSTP and SIGCONT `netctl` itself stops and goes on too, so that whoever waits for it sees that.
const FORWARDED: [Signal; 10] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGWINCH,
    Signal::SIGTSTP,
    Signal::SIGCONT,
];

/// `si_code` of what the kernel itself sends (asm-generic/siginfo.h): the terminal's signals to the foreground group.
const SI_KERNEL: i32 = 0x80;

/// One signal.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Which.
    pub signal: Signal,
    /// Whether the terminal has sent it to the command as well.
    pub shared: bool,
}

/// The stream of signals.
#[derive(Debug)]
pub struct Signals {
    fd: AsyncFd<SignalFd>,
    /// What was blocked before, as it shall be for the command: a child inherits its parent's mask.
    pub before: SigSet,
    /// Whether there is a terminal that signals the command by itself.
    pub terminal: bool,
}

impl Signals {
    /// Blocks the signals that are handed on, and receives them here. To be called before any other thread is started: threads
    /// inherit what is blocked. `apart` is for a command with a terminal of its own.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn block(apart: bool) -> Result<Self, RunError> {
        let failed = RunError::Signals;
        let set: SigSet = FORWARDED.into_iter().collect();
        let before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK).map_err(|e| failed(e.into()))?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map_err(|e| failed(e.into()))?;
        // SAFETY: a SignalFd owns its descriptor and gives the same one as long as it lives; the AsyncFd owns the SignalFd.
        let fd = unsafe { AsyncFd::register(fd) }.map_err(|e| failed(e.into()))?;
        // Opening it succeeds only for those who have a controlling terminal (tty(4)).
        Ok(Self { fd, before, terminal: !apart && File::open("/dev/tty").is_ok() })
    }

    /// The next signal.
    pub async fn next(&mut self) -> Received {
        match self.receive().await {
            Ok((signal, code)) => Received { signal, shared: self.terminal && code == SI_KERNEL },
            // A descriptor that cannot be read any more will not get better: no signal comes.
            Err(_) => std::future::pending().await,
        }
    }

    /// The next signal that asks for an end, wherever it comes from.
    pub async fn ending(&mut self) -> Signal {
        loop {
            match self.receive().await {
                Ok((signal @ (Signal::SIGHUP | Signal::SIGINT | Signal::SIGQUIT | Signal::SIGTERM), _)) => return signal,
                Ok((Signal::SIGTSTP, _)) => stop(),
                Ok(_) => {}
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// What comes of `work`, unless a signal asks for an end before.
    ///
    /// # Errors
    /// [`RunError::Interrupted`]; then `work` is dropped.
    pub async fn unless_ended<T>(&mut self, work: impl Future<Output = T>) -> Result<T, RunError> {
        tokio::select! {
            done = work => Ok(done),
            signal = self.ending() => Err(RunError::Interrupted(signal)),
        }
    }

    async fn receive(&mut self) -> io::Result<(Signal, i32)> {
        loop {
            let mut ready = self.fd.readable().await?;
            match ready.try_io(|fd| fd.get_ref().read_signal()?.ok_or_else(|| io::ErrorKind::WouldBlock.into())) {
                Ok(Ok(info)) => {
                    let number = i32::try_from(info.ssi_signo).map_err(io::Error::other)?;
                    return Ok((Signal::try_from(number)?, info.ssi_code));
                }
                Ok(Err(e)) => return Err(e),
                Err(_would_block) => {}
            }
        }
    }
}

/// Stops `netctl`, as SIGTSTP would have done if it were not received here: not at all where it is ignored, or where no shell
/// could let it go on ("orphaned process group", setpgid(2)). Returns when it goes on.
pub fn stop() {
    let only: SigSet = [Signal::SIGTSTP].into_iter().collect();
    // To this thread, whose mask is changed: it stops in the middle of the second call, and the whole process with it.
    if raise(Signal::SIGTSTP).is_ok() && only.thread_unblock().is_ok() {
        // Blocked before it can come again, so an error could only mean that the kernel knows no such signal.
        let _ = only.thread_block();
    }
}
