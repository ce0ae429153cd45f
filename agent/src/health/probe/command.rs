//! A program in the endpoint's network namespace, as the agent's user, without a shell and with an environment of its own. It and all
//! that it starts in its process group is killed when its time is over.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use weft_agent::kernel::netns::NetNs;

use super::{Text, broken};
use crate::health::target::{Target, TargetId};

/// How much of what it prints is kept, in bytes; the rest is read and dropped.
const MAX_PRINTED: usize = 4096;

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
    let start = move || -> Result<tokio::process::Child, String> {
        // A child is in the network namespace of the thread that starts it; tokio watches for its end.
        let spawn = move || {
            let _entered = runtime.enter();
            let mut command = tokio::process::Command::from(command);
            command.kill_on_drop(true).spawn()
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
    let mut child = started?;
    let mut group = Group(child.id().and_then(|pid| i32::try_from(pid).ok()));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (ended, printed, complained) = tokio::join!(child.wait(), beginning(stdout), beginning(stderr));
    // Reaped and silent: its number may be another's from now on.
    group.0 = None;
    let status = ended.map_err(|e| broken("wait for the command", &e))?;
    let said = if printed.is_empty() { complained } else { printed };
    let said = Text(&said);
    if status.success() { Ok(format!("{status}: {said}")) } else { Err(format!("{status}: {said}")) }
}

/// A process group that is killed with its owner: a command whose time is over, and what it has started.
struct Group(Option<i32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

/// What a pipe gives, as far as it is kept, read to its end.
async fn beginning(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut pipe) = pipe else { return kept };
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        let room = MAX_PRINTED.saturating_sub(kept.len());
        kept.extend_from_slice(buffer.get(..read.min(room)).unwrap_or_default());
    }
    kept
}
