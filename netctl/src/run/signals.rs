//! Signals, received one by one instead of ending `netctl`, so that each reaches the command exactly once.
//!
//! On a terminal the command is in `netctl`'s own process group: Ctrl-C, Ctrl-\, a hang-up and a resize reach both by the
//! kernel, and are not handed on. Without a terminal the command has a group of its own, so that whoever signals `netctl`'s
//! group does not reach it twice.

use std::fs::File;
use std::io;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::io::unix::AsyncFd;

use super::RunError;

/// What is handed on. SIGTSTP and SIGCONT keep their meaning for `netctl` itself: on a terminal both stop and go on together.
const FORWARDED: [Signal; 7] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGWINCH];

/// `si_code` of what the kernel itself sends (asm-generic/siginfo.h): the terminal's signals to the foreground group.
const SI_KERNEL: i32 = 0x80;

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
    /// inherit what is blocked.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn block() -> Result<Self, RunError> {
        let failed = RunError::Signals;
        let set: SigSet = FORWARDED.into_iter().collect();
        let before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK).map_err(|e| failed(e.into()))?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map_err(|e| failed(e.into()))?;
        // SAFETY: a SignalFd owns its descriptor and gives the same one as long as it lives; the AsyncFd owns the SignalFd.
        let fd = unsafe { AsyncFd::register(fd) }.map_err(|e| failed(e.into()))?;
        // Opening it succeeds only for those who have a controlling terminal (tty(4)).
        Ok(Self { fd, before, terminal: File::open("/dev/tty").is_ok() })
    }

    /// The next signal that the command would not get otherwise.
    pub async fn next(&mut self) -> Signal {
        loop {
            match self.receive().await {
                Ok((signal, code)) if !(self.terminal && code == SI_KERNEL) => return signal,
                Ok(_) => {}
                // A descriptor that cannot be read any more will not get better: no signal comes.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// The next signal that asks for an end, wherever it comes from.
    pub async fn ending(&mut self) -> Signal {
        loop {
            match self.receive().await {
                Ok((signal @ (Signal::SIGHUP | Signal::SIGINT | Signal::SIGQUIT | Signal::SIGTERM), _)) => return signal,
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
