//! A program in the endpoint's network namespace, as the agent's user, without a shell and with an environment of its own. It and all
//! that it starts in its process group is killed when its time is over, and what is left of the group when the program has ended.
//!
//! A group is killed by its number, which is free for others as soon as nobody of it is left, zombies included. So the program
//! is reaped last: its end is seen by a pidfd (pidfd_open(2), Linux 5.3), the group is killed, then its exit code is taken.

use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, Interest};
use tokio::process::Child;
use weft_agent::kernel::netns::NetNs;

use super::{Text, broken};
use crate::health::target::{Target, TargetId};

/// How much of what it prints is kept, in bytes; the rest is read and dropped.
const MAX_PRINTED: usize = 4096;

/// How long its pipes are read on when it has ended. What it has printed is in them by then; a process that has left its group
/// can hold them for as long as it likes.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Runs it, and waits for its end.
///
/// # Errors
/// Why it is not well.
pub(super) async fn ask(id: &TargetId, target: &Target) -> Result<String, String> {
    let (program, arguments) = target.check.command.split_first().ok_or("its check has no command")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("WEFT_ID", id.id.as_str())
        .env("WEFT_ADDRESS", target.address.to_string())
        .env("WEFT_PORT", target.port.map(|port| port.to_string()).unwrap_or_default())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let (netns, runtime) = (target.netns.clone(), tokio::runtime::Handle::current());
    let start = move || -> Result<Started, String> {
        // A child is in the network namespace of the thread that starts it.
        let spawn = move || {
            let _entered = runtime.enter();
            let mut command = tokio::process::Command::from(command);
            command.kill_on_drop(true).spawn().map(Started::from)
        };
        let Some(there) = netns else { return spawn().map_err(|e| broken("start the command", &e)) };
        let open = NetNs::open(&there.path).map_err(|e| broken("its command", &e))?;
        if (open.id(), open.cookie()) != (there.id, there.cookie) {
            return Err(format!("{} is another network namespace by now", there.path.display()));
        }
        let started = open.run(spawn).map_err(|e| broken("enter its network namespace", &e))?;
        started.map_err(|e| broken("start the command", &e))
    };
    let started = tokio::task::spawn_blocking(start).await.map_err(|e| broken("start the command", &e))?;
    let mut started = started?;
    let end = started.group.end()?;
    let (stdout, stderr) = (started.child.stdout.take(), started.child.stderr.take());
    let (mut printed, mut complained) = (Vec::new(), Vec::new());
    let status = {
        let reading = async { tokio::join!(beginning(stdout, &mut printed), beginning(stderr, &mut complained)) };
        tokio::pin!(reading);
        let mut silent = false;
        loop {
            tokio::select! {
                _ = &mut reading, if !silent => silent = true,
                ended = end.readable() => break ended.map(drop).map_err(|e| broken("wait for the command", &e))?,
            }
        }
        let status = started.reap().await.map_err(|e| broken("wait for the command", &e))?;
        if !silent {
            let _ = tokio::time::timeout(LAST_WORDS, reading).await;
        }
        status
    };
    let said = if printed.is_empty() { complained } else { printed };
    let said = Text(&said);
    if status.success() { Ok(format!("{status}: {said}")) } else { Err(format!("{status}: {said}")) }
}

/// A program that runs. Its fields are dropped in this order: nobody else reaps it, so its number is its own until its group is
/// killed.
struct Started {
    group: Group,
    child: Child,
}

impl From<Child> for Started {
    fn from(child: Child) -> Self {
        Self { group: Group(child.id().and_then(|pid| i32::try_from(pid).ok())), child }
    }
}

impl Started {
    /// Kills what is left of the group of a program that has ended, and takes its exit code.
    async fn reap(&mut self) -> std::io::Result<std::process::ExitStatus> {
        self.group.kill();
        self.child.wait().await
    }
}

/// A process group that is killed with its owner: a command whose time is over, and what it has started.
struct Group(Option<i32>);

impl Group {
    /// What becomes readable when its first process, not reaped yet, has ended.
    fn end(&self) -> Result<AsyncFd<OwnedFd>, String> {
        let pid = self.0.ok_or("wait for the command: it has no number")?;
        let failed = |e: std::io::Error| broken("wait for the command", &e);
        // SAFETY: the call takes two numbers and answers with a descriptor or an error.
        let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).map_err(|e| failed(e.into()))?;
        let fd = i32::try_from(fd).map_err(|e| failed(std::io::Error::other(e)))?;
        // SAFETY: the kernel has just made this descriptor, and nobody else knows of it. It is close-on-exec by itself.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: an OwnedFd gives the same descriptor as long as it lives, and the AsyncFd owns it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        fd.map_err(|e| failed(e.into()))
    }

    /// Kills it once; its number is not looked at again.
    fn kill(&mut self) {
        if let Some(group) = self.0.take() {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads a pipe to its end, and keeps the beginning.
async fn beginning(pipe: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        let room = MAX_PRINTED.saturating_sub(kept.len());
        kept.extend_from_slice(buffer.get(..read.min(room)).unwrap_or_default());
    }
}
