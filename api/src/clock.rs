//! The clock by which both ends count how long a lease certainly lives.
//!
//! `CLOCK_BOOTTIME` (Linux 2.6.39) goes on while the host is suspended, as the store's clock does; `std::time::Instant` is
//! `CLOCK_MONOTONIC`, which stands still then, and a host that wakes after an hour would go on leading by it. What is only waited for
//! is waited for by the usual timers: on waking, they go on where they were.

use std::time::Duration;

/// A point in time since the boot. Two processes of one host mean the same by it, unless one is in a time namespace of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(Duration);

impl BootTime {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the kernel writes one timespec to where it is told, and `time` is one. It knows the clock since 2.6.39, so there is
        // no error to look for.
        unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
        Self(Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0)))
    }

    /// So much later; none if there is no such time.
    #[must_use]
    pub fn checked_add(self, duration: Duration) -> Option<Self> {
        self.0.checked_add(duration).map(Self)
    }

    /// So much later.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// So much earlier, or the boot.
    #[must_use]
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration))
    }

    /// How long after `earlier` it is; zero if it is before.
    #[must_use]
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Since the boot.
    #[must_use]
    pub fn since_boot(self) -> Duration {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_time_since_the_boot() {
        let uptime = || -> f64 { std::fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap() };
        let (before, now, after) = (uptime(), BootTime::now(), uptime());
        // The file has hundredths of a second, and CLOCK_BOOTTIME (proc_uptime(5), fs/proc/uptime.c).
        let now = now.since_boot().as_secs_f64();
        assert!(before - 0.01 <= now && now <= after + 0.02, "{before} {now} {after}");
    }

    #[test]
    fn times_are_counted_without_an_end_or_a_beginning_in_the_way() {
        let (now, second) = (BootTime::now(), Duration::from_secs(1));
        let later = now.saturating_add(second);
        assert_eq!((later.saturating_duration_since(now), now.saturating_duration_since(later)), (second, Duration::ZERO));
        assert_eq!(later.saturating_sub(second), now);
        assert!(now.checked_add(Duration::MAX).is_none() && now.saturating_sub(Duration::MAX).since_boot().is_zero());
    }
}
