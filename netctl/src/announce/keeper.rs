//! A small process that kills a command's group when its time is over, or when `netctl` is gone.
//!
//! `netctl` itself cannot promise that: it may be stopped (Ctrl-Z, SIGSTOP) while the lead goes to another host, or be killed
//! (SIGKILL, out of memory) with the command's children running on; that the kernel kills the command with it (prctl(2),
//! `PR_SET_PDEATHSIG`) reaches the command alone. The keeper is a fork in a process group of its own that shares nothing but a pipe:
//!
//! ```text
//!   netctl ── until when, or that it has ended ──▶ pipe ──▶ keeper ── time over, or no netctl at the other end ──▶ SIGKILL to the group
//! ```
//!
//! It is called `weft-keeper`, not `netctl`: whoever kills all that is called `netctl` must not get both. One that was killed itself is
//! noticed when it is next told a time, and another one takes its place: the command has done nothing to be stopped for, and for
//! as long as `netctl` can notice it sees to the command's end itself.
//!
//! Times are of `CLOCK_BOOTTIME`, which goes on in suspend: on waking, the command is killed before anything else is asked. Of the
//! group's number the keeper makes use only as long as `netctl` has not reaped the command, or is itself gone: then within a moment.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe2, write};
use weft_api::clock::BootTime;

/// The order that there is nothing to keep any more.
const ENDED: u64 = u64::MAX;

/// How long a timer sleeps at a time: it does not notice that the host was suspended before it fires.
const SLICE: Duration = Duration::from_millis(500);

/// Returns at a time of [`BootTime`], after a suspend within half a second of waking.
pub async fn sleep_until(at: BootTime) {
    loop {
        let left = at.saturating_duration_since(BootTime::now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(SLICE)).await;
    }
}

/// What the process is called; the kernel keeps 15 bytes.
const NAME: &CStr = c"weft-keeper";

/// The keeper of a process group. Dropped without [`Keeper::dismiss`], it kills.
#[derive(Debug)]
pub struct Keeper {
    group: Pid,
    pid: Pid,
    orders: Option<OwnedFd>,
}

impl Keeper {
    /// Watches over `group` from now on, without an end of its time.
    ///
    /// # Errors
    /// The kernel makes no pipe or process.
    pub fn start(group: Pid) -> io::Result<Self> {
        let (read, orders) = pipe2(OFlag::O_CLOEXEC)?;
        // SAFETY: the child makes system calls on numbers and its own stack, and ends by _exit: nothing there allocates, locks or
        // returns, whatever threads there were.
        match unsafe { fork() }? {
            ForkResult::Child => keep(group.as_raw(), read.as_raw_fd()),
            ForkResult::Parent { child } => Ok(Self { group, pid: child, orders: Some(orders) }),
        }
    }

    /// From then on the group is killed. A keeper that is gone is replaced.
    ///
    /// # Errors
    /// It is gone, and another one cannot be started: nobody keeps the group.
    pub fn until(&mut self, at: BootTime) -> io::Result<()> {
        let at = u64::try_from(at.since_boot().as_nanos()).unwrap_or(ENDED).clamp(1, ENDED - 1);
        if self.order(at).is_err() {
            // If it has done its work meanwhile, there is nothing left to kill for the next one.
            let next = Self::start(self.group)?;
            next.order(at)?;
            *self = next;
        }
        Ok(())
    }

    /// The group is none of its business any more.
    pub fn dismiss(self) {
        // One that is gone needs no word.
        let _ = self.order(ENDED);
    }

    /// EPIPE if nobody reads any more. The runtime of Rust ignores SIGPIPE.
    fn order(&self, order: u64) -> io::Result<()> {
        let orders = self.orders.as_ref().ok_or(Errno::EPIPE)?;
        write(orders, &order.to_ne_bytes())?;
        Ok(())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.orders.take());
        // It ends at once, by its order or without.
        while waitpid(self.pid, None) == Err(Errno::EINTR) {}
    }
}

/// The child: nothing but system calls.
fn keep(group: i32, orders: RawFd) -> ! {
    // SAFETY: system calls on numbers; each pointer is to a local that is large enough for what the call reads or writes there. What
    // is open belongs to the parent's image, of which no destructor runs here: to close it takes nothing from anybody.
    unsafe {
        libc::setpgid(0, 0);
        libc::prctl(libc::PR_SET_NAME, NAME.as_ptr());
        // Nobody waits for the end of a pipe that is open here only.
        if libc::dup2(orders, 0) != 0 || libc::syscall(libc::SYS_close_range, 1_u32, u32::MAX, 0_u32) != 0 {
            for fd in (1..1024).filter(|fd| *fd != orders) {
                libc::close(fd);
            }
        }
        let timer = libc::timerfd_create(libc::CLOCK_BOOTTIME, libc::TFD_CLOEXEC);
        loop {
            let mut ready = [0, timer].map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
            if libc::poll(ready.as_mut_ptr(), 2, -1) < 0 {
                continue;
            }
            if ready[0].revents != 0 {
                let mut order = [0_u8; 8];
                let got = libc::read(0, order.as_mut_ptr().cast(), order.len());
                match (got, u64::from_ne_bytes(order)) {
                    (8, ENDED) => libc::_exit(0),
                    (8, at) => {
                        let at = libc::timespec {
                            tv_sec: (at / 1_000_000_000).cast_signed(),
                            tv_nsec: (at % 1_000_000_000).cast_signed(),
                        };
                        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
                        let spec = libc::itimerspec { it_interval: never, it_value: at };
                        if libc::timerfd_settime(timer, libc::TFD_TIMER_ABSTIME, &raw const spec, std::ptr::null_mut()) == 0 {
                            continue;
                        }
                    }
                    (-1, _) if *libc::__errno_location() == libc::EINTR => continue,
                    _ => {}
                }
            }
            // The time is over, nobody is there to say more, or it could not be kept.
            libc::kill(-group, libc::SIGKILL);
            libc::_exit(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, Command};

    use nix::sys::signal::{Signal, kill, killpg};
    use nix::sys::wait::{Id, WaitPidFlag, waitid};

    use super::*;

    /// A command that ends by no signal but SIGKILL, in a group of its own.
    fn group() -> (Child, Pid) {
        let child =
            Command::new("sh").args(["-c", "trap '' TERM; while :; do sleep 600; done"]).process_group(0).spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        (child, pid)
    }

    fn is_killed(mut child: Child) {
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn the_group_is_killed_when_nobody_is_there_to_say_more() {
        let (child, group) = group();
        drop(Keeper::start(group).unwrap());
        is_killed(child);
    }

    #[test]
    fn the_group_is_killed_when_its_time_is_over_and_the_last_word_counts() {
        let (child, group) = group();
        let mut keeper = Keeper::start(group).unwrap();
        keeper.until(BootTime::now().saturating_add(Duration::from_secs(3600))).unwrap();
        let end = BootTime::now().saturating_add(Duration::from_millis(200));
        keeper.until(end).unwrap();
        is_killed(child);
        assert!(BootTime::now() >= end);
        keeper.until(BootTime::now()).unwrap();
        keeper.dismiss();
    }

    #[test]
    fn a_keeper_is_not_called_netctl_and_one_that_was_killed_is_replaced() {
        let (mut child, group) = group();
        let mut keeper = Keeper::start(group).unwrap();
        let first = keeper.pid;
        let comm = format!("/proc/{first}/comm");
        let long = BootTime::now().saturating_add(Duration::from_secs(60));
        while std::fs::read_to_string(&comm).unwrap().trim_end() != "weft-keeper" {
            assert!(BootTime::now() < long, "it has no name of its own");
            std::thread::yield_now();
        }
        keeper.until(BootTime::now().saturating_add(Duration::from_secs(3600))).unwrap();
        kill(first, Signal::SIGKILL).unwrap();
        // Once it can be waited for it has closed what it had open.
        waitid(Id::Pid(first), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
        assert!(child.try_wait().unwrap().is_none(), "the command goes on");
        keeper.until(BootTime::now().saturating_add(Duration::from_secs(3600))).unwrap();
        assert!(keeper.pid != first && child.try_wait().unwrap().is_none());
        keeper.until(BootTime::now()).unwrap();
        is_killed(child);
    }

    #[test]
    fn a_keeper_that_is_dismissed_lets_the_group_be() {
        let (mut child, group) = group();
        let mut keeper = Keeper::start(group).unwrap();
        keeper.until(BootTime::now().saturating_add(Duration::from_secs(3600))).unwrap();
        keeper.dismiss();
        // It has ended by now, whatever it has done.
        assert!(child.try_wait().unwrap().is_none());
        killpg(group, Signal::SIGKILL).unwrap();
        is_killed(child);
    }
}
