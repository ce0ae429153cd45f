//! How long the programs themselves run, by the kernel's own clock.

use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use weft_tests::Host;

/// `BPF_ENABLE_STATS` of `enum bpf_cmd` (linux/bpf.h, Linux 5.8).
const ENABLE_STATS: libc::c_int = 32;

/// While it lives, the kernel takes the time of every run of every program, which costs each some tens of nanoseconds.
pub struct Clock(#[expect(dead_code, reason = "closing it ends the measurement")] OwnedFd);

impl Clock {
    /// Begins.
    pub fn start() -> Result<Self> {
        // `union bpf_attr`: __u32 type, of which BPF_STATS_RUN_TIME is 0.
        let attr = [0_u32; 4];
        // SAFETY: the attribute lives in this frame and is as long as is said.
        let fd = unsafe { libc::syscall(libc::SYS_bpf, ENABLE_STATS, attr.as_ptr(), size_of_val(&attr)) };
        ensure!(fd >= 0, "measure programs: {}", std::io::Error::last_os_error());
        let fd = libc::c_int::try_from(fd).context("a descriptor's number")?;
        // SAFETY: the kernel has just made it, and nobody else knows of it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

/// How often a program ran, and for how long in all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Runs {
    count: u64,
    nanoseconds: u64,
}

impl Runs {
    /// Nanoseconds per run since `before`; `None` if it did not run.
    pub fn each_since(self, before: Self) -> Option<f64> {
        let count = self.count.checked_sub(before.count).filter(|c| *c > 0)?;
        Some(self.nanoseconds.saturating_sub(before.nanoseconds) as f64 / count as f64)
    }
}

/// The programs that packets meet.
pub const PACKET_HOOKS: [&str; 2] = ["from_container", "from_uplink"];

/// The runs of a program of [`PACKET_HOOKS`] on this host.
pub fn runs(host: &Host, program: &str) -> Result<Runs> {
    // All links of a kind have one program.
    let links = pinned(&host.agent.bpffs(), "links")?;
    let beginning = program.trim_start_matches("from_");
    let entries = std::fs::read_dir(&links).with_context(|| format!("list {}", links.display()))?;
    let link = entries.flatten().find(|e| e.file_name().to_string_lossy().starts_with(beginning));
    let link = link.with_context(|| format!("no link of {program} in {}", links.display()))?.path();
    let shown = host.exec(["bpftool", "-j", "link", "show", "pinned", &link.to_string_lossy()])?.json()?;
    let id = shown["prog_id"].as_u64().with_context(|| format!("no program in {shown}"))?;
    let shown = host.exec(["bpftool", "-j", "prog", "show", "id", &id.to_string()])?.json()?;
    let number = |key: &str| shown[key].as_u64().unwrap_or(0);
    Ok(Runs { count: number("run_cnt"), nanoseconds: number("run_time_ns") })
}

/// Where a map is pinned: below the layout's version, of which a fresh bpffs has one.
pub fn pinned(bpffs: &Path, name: &str) -> Result<PathBuf> {
    let entries = std::fs::read_dir(bpffs).with_context(|| format!("list {}", bpffs.display()))?;
    let found = entries.flatten().map(|e| e.path().join(name)).find(|path| path.exists());
    found.with_context(|| format!("no {name} in {}", bpffs.display()))
}
