//! `netctl run` on a terminal, and with one of the command's own.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag};
use nix::pty::Winsize;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

use crate::LISTEN;
use crate::stage::{Agent, Running, eventually, state, told};

/// A window.
const SMALL: Winsize = Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };

/// Where a person sits: the terminal that netctl is started on.
struct Desk {
    keyboard: File,
    slave: OwnedFd,
}

impl Desk {
    fn type_in(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    fn resize(&self, size: Winsize) {
        // SAFETY: the request reads one winsize, which `size` is; the terminal is open.
        let done = unsafe { libc::ioctl(self.keyboard.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(done, 0);
    }

    /// Whether what is typed goes through as it is.
    fn is_raw(&self) -> bool {
        !tcgetattr(&self.slave).unwrap().local_flags.intersects(LocalFlags::ISIG | LocalFlags::ICANON | LocalFlags::ECHO)
    }
}

/// `netctl run` on a terminal of its own.
fn on_terminal(agent: &Agent, options: &[&str], command: &[&str]) -> (Running, Desk) {
    let mut netctl = agent.server.netctl();
    netctl.arg("run").args(options).arg("--").args(command);
    at_desk(netctl)
}

/// A command as the leader of a session, on a terminal of its own.
fn at_desk(mut netctl: Command) -> (Running, Desk) {
    let pty = nix::pty::openpty(Some(&SMALL), None).unwrap();
    for fd in [&pty.master, &pty.slave] {
        nix::fcntl::fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    }
    let slave = pty.slave.try_clone().unwrap();
    netctl.stdin(pty.slave.try_clone().unwrap()).stdout(pty.slave.try_clone().unwrap()).stderr(pty.slave);
    // SAFETY: two system calls between fork and exec: a new session, and descriptor 0 as its terminal.
    unsafe {
        netctl.pre_exec(|| {
            nix::unistd::setsid()?;
            nix::errno::Errno::result(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
            Ok(())
        });
    }
    let child = netctl.spawn().unwrap();
    let master = File::from(pty.master);
    (Running::reading(child, Terminal(master.try_clone().unwrap())), Desk { keyboard: master, slave })
}

#[test]
fn ctrl_c_on_a_terminal_reaches_the_command() {
    let agent = Agent::start();
    let (mut running, mut desk) = on_terminal(&agent, &[], &["sh", "-c", LISTEN]);
    assert_eq!(running.line(), running.netctl.id().to_string());
    desk.keyboard.write_all(b"\x03").unwrap();
    // The terminal shows what is typed.
    assert_eq!(running.line().trim_start_matches("^C"), "int");
    running.signal(Signal::SIGUSR2);
    drop(desk);
    assert_eq!(running.rest(), Vec::<String>::new());
    assert_eq!(running.exit_code(), Some(5));
    agent.assert_clean();
}

#[test]
fn what_a_terminal_sends_by_itself_is_not_sent_again() {
    let agent = Agent::start();
    // Out of the terminal's reach, the command would only get what netctl hands on.
    let (mut running, mut desk) = on_terminal(&agent, &[], &["setsid", "sh", "-c", LISTEN]);
    assert_ne!(running.line(), running.netctl.id().to_string());
    // The terminal shows it when it has sent the signal.
    desk.keyboard.write_all(b"\x03\n").unwrap();
    assert_eq!(running.line(), "^C");
    running.signal(Signal::SIGTERM);
    assert_eq!(running.line(), "term");
    running.signal(Signal::SIGUSR2);
    drop(desk);
    assert_eq!(running.rest(), Vec::<String>::new());
    assert_eq!(running.exit_code(), Some(5));
    agent.assert_clean();
}

#[test]
fn ctrl_z_stops_netctl_and_the_command_and_the_shell_lets_both_go_on() {
    let agent = Agent::start();
    let netctl = env!("CARGO_BIN_EXE_netctl");
    let socket = agent.server.socket().display().to_string();
    let script =
        format!("set -m; {netctl} --socket {socket} run -- sh -c 'echo $$; exec cat'; echo stopped $?; fg >&2; echo ended $?");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]);
    let (mut running, mut desk) = at_desk(shell);
    let command: u32 = running.line().parse().unwrap();
    desk.type_in(b"\x1a");
    // 128 and the signal's number, as shells tell of jobs; then its own "fg" has let both go on.
    let line = loop {
        let line = running.line();
        if line.contains("stopped") {
            break line;
        }
    };
    assert!(line.ends_with("stopped 148"), "{line}");
    eventually("the command goes on", || state(command) == 'S');
    desk.type_in(b"again\n\x04");
    let mut rest = Vec::new();
    while !rest.last().is_some_and(|line: &String| line.contains("ended")) {
        rest.push(running.line());
    }
    // The terminal's echo, and what cat made of it.
    assert_eq!(rest.iter().filter(|line| line.ends_with("again")).count(), 2, "{rest:?}");
    assert_eq!(rest.last().unwrap(), "ended 0");
    assert_eq!(running.exit_code(), Some(0));
    agent.assert_clean();
}

#[test]
fn a_command_has_a_terminal_where_netctl_has_none() {
    let agent = Agent::start();
    let script = "test -t 0 && test -t 1 && test -t 2 && echo terminal > /dev/tty; \
                  ps -o pid=,sid=,tpgid= -p $$ | awk '$1 == $2 && $1 == $3 { print \"leads\" }'; exit 7";
    let (code, out, err) = told(&agent.command_with(&["-t"], &["sh", "-c", script]).output().unwrap());
    assert_eq!((code, out.as_str(), err.as_str()), (7, "terminal\r\nleads\r\n", ""));
    agent.assert_clean();
}

#[test]
fn input_that_is_no_terminal_is_typed_in_to_its_end() {
    let agent = Agent::start();
    let mut netctl = agent.command_with(&["-it"], &["sh", "-c", "stty -echo; echo ready; wc -c; wc -c"]);
    let (input, mut keyboard) = std::io::pipe().unwrap();
    netctl.stdin(input);
    let mut running = Running::start(netctl);
    assert_eq!(running.line(), "ready");
    // In the middle of a line: what is there is handed over, and the end comes after it.
    keyboard.write_all(b"one\ntwo").unwrap();
    drop(keyboard);
    assert_eq!(running.line(), "7");
    running.signal(Signal::SIGHUP);
    assert_eq!(running.exit_code(), Some(129));
    agent.assert_clean();
}

#[test]
fn the_terminal_has_netctls_size_and_follows_it() {
    let agent = Agent::start();
    let script = "$SIG{WINCH} = sub { system('stty size') }; system('stty size'); sleep 1 while 1";
    let (mut running, desk) = on_terminal(&agent, &["--tty"], &["perl", "-e", script]);
    assert_eq!(running.line(), "40 100");
    desk.resize(Winsize { ws_row: 50, ws_col: 120, ..SMALL });
    assert_eq!(running.line(), "50 120");
    running.signal(Signal::SIGTERM);
    assert_eq!(running.exit_code(), Some(143));
    agent.assert_clean();
}

#[test]
fn keys_go_to_the_commands_terminal_which_makes_signals_of_them() {
    let agent = Agent::start();
    let (mut running, mut desk) = on_terminal(&agent, &["-t"], &["sh", "-c", LISTEN]);
    assert_ne!(running.line(), running.netctl.id().to_string());
    assert!(desk.is_raw());
    desk.type_in(b"\x03");
    assert_eq!(running.line().trim_start_matches("^C"), "int");
    desk.type_in(b"\x1c");
    assert_eq!(running.line().trim_start_matches("^\\"), "quit");
    // From elsewhere they come once as well.
    running.signal(Signal::SIGTERM);
    assert_eq!(running.line(), "term");
    running.signal(Signal::SIGUSR2);
    assert_eq!(running.exit_code(), Some(5));
    assert!(!desk.is_raw());
    agent.assert_clean();
}

#[test]
fn netctls_terminal_is_given_back_at_every_end() {
    let agent = Agent::start();
    for (command, signal, wanted) in [
        (&["sh", "-c", "exit 3"][..], None, 3),
        (&["sh", "-c", "kill -KILL $$"], None, 137),
        (&["no-such-command"], None, 127),
        (&["/"], None, 126),
        (&["sleep", "1000"], Some(Signal::SIGTERM), 143),
        (&["sleep", "1000"], Some(Signal::SIGHUP), 129),
        (&["sleep", "1000"], Some(Signal::SIGQUIT), 131),
    ] {
        let (mut running, desk) = on_terminal(&agent, &["-t"], command);
        if let Some(signal) = signal {
            eventually("the terminal is raw", || desk.is_raw());
            running.signal(signal);
        }
        assert_eq!(running.exit_code(), Some(wanted), "{command:?}");
        assert!(!desk.is_raw(), "{command:?}");
        agent.assert_clean();
    }
}

#[test]
fn a_netctl_that_is_stopped_gives_the_terminal_back_meanwhile() {
    let agent = Agent::start();
    let netctl = env!("CARGO_BIN_EXE_netctl");
    let socket = agent.server.socket().display().to_string();
    let line = format!("{netctl} --socket {socket} run -t -- sh -c 'echo $PPID; exec cat'");
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("set -m; {line}; echo stopped $?; read next; fg >&2; echo ended $?")]);
    let (mut running, mut desk) = at_desk(shell);
    let netctl: i32 = running.line().parse().unwrap();
    eventually("the terminal is raw", || desk.is_raw());
    kill(Pid::from_raw(netctl), Signal::SIGTSTP).unwrap();
    assert!(running.line().ends_with("stopped 148"));
    assert!(!desk.is_raw());
    desk.type_in(b"\n");
    eventually("the terminal is raw again", || desk.is_raw());
    desk.type_in(b"\x04");
    while running.line() != "ended 0" {}
    assert!(!desk.is_raw());
    assert_eq!(running.exit_code(), Some(0));
    agent.assert_clean();
}

#[test]
fn a_reader_that_goes_away_ends_the_command_as_a_closed_terminal_does() {
    let agent = Agent::start();
    let mut netctl = agent.command_with(&["-t"], &["sh", "-c", "while :; do echo line; sleep 0.01; done"]);
    let mut child = netctl.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 4]).unwrap();
    drop(out);
    eventually("netctl ends", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(129));
    agent.assert_clean();
}

/// The master of a pseudo-terminal: when the last slave is closed, Linux says EIO where others say end of file.
struct Terminal(File);

impl Read for Terminal {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(buffer) {
            Err(e) if e.raw_os_error() == Some(libc::EIO) => Ok(0),
            other => other,
        }
    }
}
