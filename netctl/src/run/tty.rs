//! A terminal for the command (`--tty`), and netctl's own, which is raw meanwhile.
//!
//! ```text
//!   keyboard ─▶ netctl's terminal (raw) ─▶ input thread ──▶ ┌────────┐
//!   screen  ◀─ netctl's output ◀────────── output thread ◀─ │ master │ ◀═▶ slave: the command's 0, 1, 2 and its session's
//!                                                           └────────┘     controlling terminal
//! ```
//!
//! Raw means that netctl's terminal makes no signals and no echo: Ctrl-C goes through as a byte, and the command's terminal
//! makes a signal of it, for whatever runs in its foreground.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, grantpt, posix_openpt, unlockpt};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{Uid, dup, fchown, pipe2};
use tokio::sync::oneshot;

use super::RunError;

/// How much is moved at once.
const CHUNK: usize = 16 * 1024;

/// A terminal of the command's own.
#[derive(Debug)]
pub struct Tty {
    master: Arc<File>,
    slave: OwnedFd,
    own: Option<OwnTerminal>,
    /// Closing it tells the output thread that nobody writes any more.
    stop: OwnedFd,
    /// Ends when nobody reads netctl's output any more.
    unread: oneshot::Receiver<()>,
    drained: oneshot::Receiver<()>,
}

impl Tty {
    /// Makes one, as large as netctl's own, which is raw from here on. `owner` is whom the command runs as, if that is another.
    ///
    /// # Errors
    /// When the kernel has none, or netctl's own cannot be made raw.
    pub fn open(owner: Option<Uid>) -> Result<Self, RunError> {
        let failed = |step| move |e: nix::Error| RunError::Terminal { step, source: e.into() };
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).map_err(failed("open /dev/ptmx"))?;
        grantpt(&master).and_then(|()| unlockpt(&master)).map_err(failed("unlock it"))?;
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        // By descriptor (Linux 4.13), as /dev/pts may be another one here.
        // SAFETY: the request takes flags and answers with a new descriptor or an error; the master is open.
        let slave = Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags.bits()) })
            .map_err(failed("open its other end"))?;
        // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
        let slave = unsafe { OwnedFd::from_raw_fd(slave) };
        if let Some(owner) = owner {
            // So that it can be opened by name, as /dev/tty or by ttyname(3).
            fchown(&slave, Some(owner), None).map_err(failed("give it to the user"))?;
        }
        let master = Arc::new(File::from(OwnedFd::from(master)));
        let (stopped, stop) = pipe2(OFlag::O_CLOEXEC).map_err(failed("make a pipe"))?;
        let (drain, drained) = oneshot::channel();
        let (refused, unread) = oneshot::channel();
        let from = Arc::clone(&master);
        spawn("output", move || {
            // What the command writes after an error here is as lost as on a terminal that is gone.
            let _ = show(&from, &stopped, &mut io::stdout(), refused);
            let _ = drain.send(());
        })?;
        let mut own = OwnTerminal::find();
        if let Some(own) = &mut own {
            own.copy_size(&master);
            own.make_raw().map_err(|source| RunError::Terminal { step: "make netctl's own raw", source })?;
        }
        Ok(Self { master, slave, own, stop, unread, drained })
    }

    /// The command's end of it.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn slave(&self) -> Result<OwnedFd, RunError> {
        self.slave.try_clone().map_err(|source| RunError::Terminal { step: "copy its other end", source })
    }

    /// From here on what is typed goes to the command.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn listen(&self) -> Result<(), RunError> {
        let to = Arc::clone(&self.master);
        spawn("input", move || {
            // The command's end is no error here, and netctl's end ends this thread.
            let _ = type_in(&mut io::stdin(), &to);
        })
    }

    /// Returns once, when nobody reads netctl's output any more.
    pub async fn unread(&mut self) {
        if self.unread.is_terminated() || (&mut self.unread).await.is_err() {
            // Told before, or never.
            std::future::pending().await
        }
    }

    /// Takes over the size of netctl's own terminal; the kernel tells whatever runs in the foreground. False if there is none.
    pub fn resize(&self) -> bool {
        self.own.as_ref().is_some_and(|own| own.copy_size(&self.master))
    }

    /// Gives netctl's own terminal back for a while, as when netctl is stopped.
    pub fn release(&mut self) {
        if let Some(own) = &mut self.own {
            own.restore();
        }
    }

    /// Takes it again.
    pub fn retake(&mut self) {
        if let Some(own) = &mut self.own {
            // One that is gone has nobody at it.
            let _ = own.make_raw();
            own.copy_size(&self.master);
        }
    }

    /// The command and all that it started have ended: what they wrote last is shown, then netctl's own terminal is as it was.
    pub async fn finish(self) {
        let Self { slave, stop, drained, own, master, unread: _ } = self;
        drop((slave, stop));
        // A thread that is gone has shown what it could.
        let _ = drained.await;
        drop((own, master));
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), RunError> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map(drop).map_err(|source| RunError::Terminal { step: "start a thread", source })
}

/// Shows what comes out of the command's terminal, until `stopped` ends and nothing is left in it.
/// Where it cannot be shown any more, that is told once, and the rest is thrown away: the command is not to wait for readers.
fn show(master: &File, stopped: &OwnedFd, to: &mut impl Write, refused: oneshot::Sender<()>) -> io::Result<()> {
    let mut refused = Some(refused);
    let mut chunk = [0; CHUNK];
    let mut going = true;
    loop {
        let mut watched = [PollFd::new(master.as_fd(), PollFlags::POLLIN), PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
        // What was written before the last writer's end is here at once: the kernel looks into its own buffers (n_tty_poll).
        let timeout = if going { PollTimeout::NONE } else { PollTimeout::ZERO };
        match poll(&mut watched, timeout) {
            Err(Errno::EINTR) => continue,
            Err(e) => return Err(e.into()),
            Ok(_) => {}
        }
        let [out, end] = watched.map(|fd| fd.revents().is_some_and(|events| !events.is_empty()));
        if out {
            match (&*master).read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    let text = chunk.get(..count).unwrap_or_default();
                    if refused.is_some()
                        && to.write_all(text).and_then(|()| to.flush()).is_err()
                        && let Some(refused) = refused.take()
                    {
                        let _ = refused.send(());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Linux's way to say that nobody has the other end any more.
                Err(e) if e.raw_os_error() == Some(libc::EIO) => return Ok(()),
                Err(e) => return Err(e),
            }
        } else if !going {
            return Ok(());
        }
        going &= !end;
    }
}

/// Types in what comes from `from`. At its end the command's terminal gets what a person would type there.
fn type_in(from: &mut impl Read, master: &File) -> io::Result<()> {
    let mut chunk = [0; CHUNK];
    let mut in_line = false;
    loop {
        match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => {
                let typed = chunk.get(..count).unwrap_or_default();
                (&*master).write_all(typed)?;
                in_line = typed.last().is_some_and(|last| *last != b'\n' && *last != b'\r');
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let modes = tcgetattr(master)?;
    if let Some(end) = end_of_input(&modes) {
        // In the middle of a line the first one only hands the line over (termios(3), VEOF).
        let keys = [end, end];
        (&*master).write_all(if in_line { &keys } else { keys.get(..1).unwrap_or_default() })?;
    }
    Ok(())
}

/// The character that ends the input, where the terminal knows one.
fn end_of_input(modes: &Termios) -> Option<u8> {
    let key = modes.control_chars.get(SpecialCharacterIndices::VEOF as usize).copied()?;
    (modes.local_flags.contains(LocalFlags::ICANON) && key != 0).then_some(key)
}

/// netctl's own terminal. Dropping it gives it back as it was.
#[derive(Debug)]
struct OwnTerminal {
    fd: OwnedFd,
    /// Whether it is also where the input comes from: else it is only looked at.
    keyboard: bool,
    /// How it was, while it is raw.
    before: Option<Termios>,
}

impl OwnTerminal {
    fn find() -> Option<Self> {
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let all: [(BorrowedFd<'_>, bool); 3] = [(stdin.as_fd(), true), (stdout.as_fd(), false), (stderr.as_fd(), false)];
        let (fd, keyboard) = all.into_iter().find(|(fd, _)| size(fd.as_raw_fd()).is_some())?;
        Some(Self { fd: dup(fd).ok()?, keyboard, before: None })
    }

    fn copy_size(&self, to: &File) -> bool {
        let Some(size) = size(self.fd.as_raw_fd()) else { return false };
        // SAFETY: the request reads one winsize, which `size` is; the descriptor is open.
        unsafe { libc::ioctl(to.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) == 0 }
    }

    fn make_raw(&mut self) -> io::Result<()> {
        if !self.keyboard || self.before.is_some() {
            return Ok(());
        }
        let before = tcgetattr(&self.fd)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&self.fd, SetArg::TCSADRAIN, &raw)?;
        self.before = Some(before);
        Ok(())
    }

    fn restore(&mut self) {
        let Some(before) = self.before.take() else { return };
        // From the background this would stop netctl (termios(3)), which has nothing else left to do.
        let quiet: SigSet = [Signal::SIGTTOU].into_iter().collect();
        let blocked = quiet.thread_block();
        let _ = tcsetattr(&self.fd, SetArg::TCSADRAIN, &before);
        if blocked.is_ok() {
            let _ = quiet.thread_unblock();
        }
    }
}

impl Drop for OwnTerminal {
    fn drop(&mut self) {
        self.restore();
    }
}

/// A terminal's size; nothing else has one.
fn size(fd: std::os::fd::RawFd) -> Option<Winsize> {
    // SAFETY: winsize is four integers: all zeroes is a value of it.
    let mut size: Winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the request writes one winsize, which `size` is. A descriptor that is no terminal gives an error.
    let done = unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, &raw mut size) };
    (done == 0).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::termios::InputFlags;

    fn terminal() -> (File, OwnedFd) {
        let pair = nix::pty::openpty(None, None).unwrap();
        (File::from(pair.master), pair.slave)
    }

    #[test]
    fn a_raw_terminal_is_given_back_as_it_was() {
        let (_master, slave) = terminal();
        let before = tcgetattr(&slave).unwrap();
        let mut own = OwnTerminal { fd: slave.try_clone().unwrap(), keyboard: true, before: None };
        own.make_raw().unwrap();
        own.make_raw().unwrap();
        assert!(!tcgetattr(&slave).unwrap().local_flags.intersects(LocalFlags::ISIG | LocalFlags::ECHO));
        drop(own);
        let after = tcgetattr(&slave).unwrap();
        assert_eq!((after.local_flags, after.input_flags), (before.local_flags, before.input_flags));
        assert!(after.input_flags.contains(InputFlags::ICRNL));
    }

    #[test]
    fn what_was_written_last_is_shown_although_somebody_holds_the_terminal_open() {
        let (master, slave) = terminal();
        let (stopped, stop) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let text = "line\n".repeat(500);
        File::from(slave.try_clone().unwrap()).write_all(text.as_bytes()).unwrap();
        drop(stop);
        let mut shown = Vec::new();
        show(&master, &stopped, &mut shown, oneshot::channel().0).unwrap();
        assert_eq!(shown, text.replace('\n', "\r\n").as_bytes());
        drop(slave);
    }

    /// A closed pipe.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn output_that_nobody_reads_is_told_and_thrown_away() {
        let (master, slave) = terminal();
        let (stopped, stop) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let (refused, mut told) = oneshot::channel();
        let shower = thread::spawn(move || show(&master, &stopped, &mut Closed, refused));
        // More than any buffer holds.
        File::from(slave.try_clone().unwrap()).write_all(&vec![b'x'; 1 << 20]).unwrap();
        drop(stop);
        shower.join().unwrap().unwrap();
        assert_eq!(told.try_recv(), Ok(()));
        drop(slave);
    }

    #[test]
    fn the_end_of_the_input_ends_the_commands_too_in_the_middle_of_a_line() {
        for (text, wanted) in [("one\ntwo", "one\ntwo"), ("one\n", "one\n"), ("", "")] {
            let (master, slave) = terminal();
            type_in(&mut text.as_bytes(), &master).unwrap();
            let mut read = String::new();
            File::from(slave).read_to_string(&mut read).unwrap();
            assert_eq!(read, wanted);
        }
    }

    #[test]
    fn what_is_no_terminal_has_no_size() {
        assert!(size(File::open("/dev/null").unwrap().as_raw_fd()).is_none());
        let (_master, slave) = terminal();
        assert!(size(slave.as_raw_fd()).is_some());
    }
}
