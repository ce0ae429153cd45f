//! Ctrl-C and SIGTERM: every topology of this process is undone before it ends.
//!
//! A signal handler may do next to nothing, so it writes the signal's number into a pipe; a thread at the other end does
//! the work. The same work is registered to be done at a plain exit, for topologies that live in statics.

use std::io::{Read, Write};
use std::os::fd::IntoRawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard};

use anyhow::{Context, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::teardown;

/// The pipe's writing end, for the handler.
static PIPE: AtomicI32 = AtomicI32::new(-1);
static ENDING: AtomicBool = AtomicBool::new(false);
/// The exit code after a signal; below 0: 128 and the signal's number, as shells say it.
static EXIT: AtomicI32 = AtomicI32::new(-1);

/// Read by whoever makes something that must be undone, written (and kept) by the teardown after a signal.
static GATE: RwLock<()> = RwLock::new(());

/// Whether a signal has come; nothing new is to be made then.
#[must_use]
pub fn ending() -> bool {
    ENDING.load(Ordering::SeqCst)
}

/// Leave to make something that outlives the process unless it is undone. Hold it while making it.
///
/// # Errors
/// When a signal has come: what would be made now, nobody would undo.
pub fn gate() -> Result<RwLockReadGuard<'static, ()>> {
    let gate = GATE.read().unwrap_or_else(PoisonError::into_inner);
    anyhow::ensure!(!ending(), "interrupted");
    Ok(gate)
}

/// From now on an interrupt is the expected end, and the process exits with 0.
pub fn interrupt_is_success() {
    EXIT.store(0, Ordering::SeqCst);
}

/// Puts handler and thread in place, once.
///
/// # Errors
/// When the kernel refuses.
pub fn install() -> Result<()> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    let done = DONE.get_or_init(|| install_now().map_err(|e| format!("{e:#}")));
    done.clone().map_err(anyhow::Error::msg)
}

fn install_now() -> Result<()> {
    let (reader, writer) = std::io::pipe().context("make a pipe for signals")?;
    PIPE.store(writer.into_raw_fd(), Ordering::SeqCst);
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || wait_for_signal(reader))
        .context("start the thread for signals")?;
    let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: `on_signal` only stores to an atomic and calls `write`, both allowed in a handler (signal-safety(7)).
        unsafe { sigaction(signal, &action) }.with_context(|| format!("handle {signal}"))?;
    }
    // SAFETY: `at_exit` is a plain function that lives as long as the program.
    let refused = unsafe { libc::atexit(at_exit) };
    anyhow::ensure!(refused == 0, "register the teardown at exit");
    Ok(())
}

extern "C" fn on_signal(number: libc::c_int) {
    ENDING.store(true, Ordering::SeqCst);
    let byte = u8::try_from(number).unwrap_or(0);
    // SAFETY: one byte from this frame into a descriptor that is never closed. A full pipe means that a signal is already
    // being dealt with.
    unsafe { libc::write(PIPE.load(Ordering::SeqCst), (&raw const byte).cast(), 1) };
}

fn wait_for_signal(mut reader: std::io::PipeReader) {
    let mut byte = [0u8];
    if reader.read_exact(&mut byte).is_err() {
        return;
    }
    // On its own line, below what the terminal shows of Ctrl-C.
    let _ = writeln!(std::io::stderr(), "\ninterrupted: taking everything down");
    // Never given back.
    let _gate = GATE.write().unwrap_or_else(PoisonError::into_inner);
    let clean = teardown::wreck_all();
    let wanted = EXIT.load(Ordering::SeqCst);
    let code = match (clean, wanted) {
        (false, _) => 1,
        (true, ..0) => 128 + i32::from(byte[0]),
        (true, code) => code,
    };
    // Not `exit`: other threads are in the middle of things that have just been taken from under them.
    // SAFETY: ends the process; there is nothing left to keep in order.
    unsafe { libc::_exit(code) }
}

extern "C" fn at_exit() {
    if !teardown::wreck_all() {
        // SAFETY: ends the process with a code that says so; `exit` is already running and may not be called again.
        unsafe { libc::_exit(1) }
    }
}

/// Sleeps until a signal ends the process.
pub fn wait_for_the_end() -> ! {
    loop {
        std::thread::park();
    }
}
