//! What this kernel is and what this process may do with it.

use std::fs;
use std::io;

/// A capability that the agent uses, with its number (include/uapi/linux/capability.h) and what it is used for.
pub const CAPABILITIES: [(&str, u32, &str); 6] = [
    ("CAP_NET_BIND_SERVICE", 10, "to answer DNS on port 53"),
    ("CAP_NET_ADMIN", 12, "to make devices, routes and rules"),
    ("CAP_NET_RAW", 13, "to probe paths"),
    ("CAP_SYS_ADMIN", 21, "to enter containers' namespaces and mount bpffs"),
    ("CAP_PERFMON", 38, "to load eBPF programs"),
    ("CAP_BPF", 39, "to load eBPF programs"),
];

/// The effective capabilities of this process that [`CAPABILITIES`] lists and it does not have.
///
/// # Errors
/// /proc is not there.
pub fn missing_capabilities() -> io::Result<Vec<(&'static str, &'static str)>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let effective = effective(&status).ok_or_else(|| io::Error::other("no CapEff in /proc/self/status"))?;
    Ok(CAPABILITIES.iter().filter(|(_, bit, _)| effective & (1 << bit) == 0).map(|(name, _, why)| (*name, *why)).collect())
}

fn effective(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(value.trim(), 16).ok()
}

/// The kernel's release, such as `6.18.5`, and its first two numbers.
#[must_use]
pub fn release() -> (String, Option<(u32, u32)>) {
    let release = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    let numbers = numbers(&release);
    (release, numbers)
}

fn numbers(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_are_read() {
        assert_eq!(numbers("6.18.5"), Some((6, 18)));
        assert_eq!(numbers("5.14.0-427.el9.x86_64"), Some((5, 14)));
        assert_eq!(numbers("6.6-rc1"), Some((6, 6)));
        assert_eq!(numbers("strange"), None);
    }

    #[test]
    fn the_effective_set_is_found_among_the_others() {
        let status = "Name:\tx\nCapInh:\t0000000000000000\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000003000\n";
        assert_eq!(effective(status), Some(0x3000));
        assert!(missing_capabilities().is_ok());
    }
}
