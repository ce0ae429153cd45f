//! Limits of a command: memory, CPU time, processes, each by the cgroup hierarchy that has its controller.
//!
//! A controller is in one hierarchy at a time (cgroups(7)): in the unified one, version 2, where every cgroup on the way down
//! must hand it on by `cgroup.subtree_control`; or in one of version 1, mounted by itself or with others, as on hosts that
//! are called hybrid. Here is found which, and what is to be written; the cgroups themselves are made in [`super::cgroup`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

/// The period over which CPU time is measured, in microseconds: the kernel's default.
const PERIOD_US: u64 = 100_000;

/// The options.
#[derive(Clone, Debug, Default, Args)]
pub struct LimitOptions {
    /// How much memory it may use, in bytes or with k, m, g, t (powers of 1024); and as much of swap
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// How much CPU time it may use, in CPUs: 0.5 is half of one
    #[arg(long, value_name = "NUMBER", value_parser = quota)]
    cpus: Option<u64>,
    /// How many processes and threads it may have
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pids_limit: Option<u32>,
}

/// Bytes.
fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is no size: the form is 512m, 2g or a number of bytes");
    let lower = text.to_ascii_lowercase();
    // As docker, podman and systemd take it: m, mb and mib are one.
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match lower.get(digits.len()..) {
        Some("" | "b") => 0,
        Some("k" | "kb" | "kib") => 10,
        Some("m" | "mb" | "mib") => 20,
        Some("g" | "gb" | "gib") => 30,
        Some("t" | "tb" | "tib") => 40,
        _ => return Err(bad()),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    // The kernel counts in pages, and takes numbers up to the highest signed one.
    match number.checked_mul(1 << shift) {
        Some(bytes) if i64::try_from(bytes).is_ok() && bytes >= 4096 => Ok(bytes),
        Some(bytes) if bytes < 4096 => Err(format!("{text:?} is less than one page of memory (4096 bytes)")),
        _ => Err(format!("{text:?} is more memory than there can be")),
    }
}

/// CPUs, as microseconds in each period.
fn quota(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is no number of CPUs: the form is 2, 1.5 or 0.25");
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 3 {
        return Err(bad());
    }
    let thousandths: u64 = format!("{part:0<3}").parse().map_err(|_| bad())?;
    let whole: u64 = whole.parse().map_err(|_| bad())?;
    let quota = whole.checked_mul(PERIOD_US).and_then(|us| us.checked_add(thousandths * (PERIOD_US / 1000)));
    match quota {
        // The kernel takes no quota below a millisecond.
        Some(us) if us < 1000 => Err(format!("{text:?} is less than a hundredth of a CPU")),
        Some(us) if whole <= 1_000_000 => Ok(us),
        _ => Err(bad()),
    }
}

/// Why a limit cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// No hierarchy has the controller where the command will be.
    #[error("{option}: {}", missing(controller, agent, *.why))]
    Missing {
        /// The option.
        option: &'static str,
        /// The controller.
        controller: &'static str,
        /// The agent's cgroup.
        agent: PathBuf,
        /// Where it is instead.
        why: Absence,
    },
    /// The controller cannot be handed down.
    #[error("{option}: hand controller {controller} down from cgroup {}{}", path.display(), advice(source))]
    HandDown {
        /// The option.
        option: &'static str,
        /// The controller.
        controller: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A value is refused.
    #[error("{option}: write {value} to {}", path.display())]
    Write {
        /// The option.
        option: &'static str,
        /// What was written.
        value: String,
        /// Where to.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Why a controller is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// The kernel has been built without it.
    NotBuilt,
    /// It is switched off on the kernel's command line.
    SwitchedOff,
    /// It is in the unified hierarchy, but a cgroup above the agent's does not hand it down.
    NotHandedDown,
    /// It is in a hierarchy of version 1 that is not mounted here.
    NotMounted,
}

fn missing(controller: &str, agent: &Path, why: Absence) -> String {
    match why {
        Absence::NotBuilt => format!("this kernel has no {controller} controller"),
        Absence::SwitchedOff => {
            format!(
                "the {controller} controller is switched off: cgroup_enable={controller} on the kernel's command line, and boot"
            )
        }
        Absence::NotHandedDown => format!(
            "cgroup {} has no {controller} controller: write +{controller} to the cgroup.subtree_control of each cgroup above it",
            agent.display()
        ),
        Absence::NotMounted => format!(
            "the {controller} controller belongs to a hierarchy of cgroup v1 that is not mounted here: \
             mkdir -p /sys/fs/cgroup/{controller} && mount -t cgroup -o {controller} none /sys/fs/cgroup/{controller}"
        ),
    }
}

fn advice(source: &io::Error) -> &'static str {
    // "No internal processes", cgroups(7): only the root may have both.
    if source.kind() == io::ErrorKind::ResourceBusy {
        " (processes live in it: give the agent a --cgroup in which none do)"
    } else {
        ""
    }
}

/// Where a controller is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Home {
    /// In the unified hierarchy, at the agent's cgroup.
    Unified,
    /// In a hierarchy of version 1 that is mounted here.
    Legacy(PathBuf),
}

/// One limit, and where it is to be written.
#[derive(Clone, Debug)]
pub struct Limit {
    option: &'static str,
    controller: &'static str,
    home: Home,
    /// File names and values, for the hierarchy that it is in.
    settings: Vec<Setting>,
}

/// A file of a cgroup, and what is written to it.
#[derive(Clone, Debug)]
struct Setting {
    file: &'static str,
    value: String,
    /// Whether it is left out where there is no such file.
    optional: bool,
}

impl Setting {
    fn new(file: &'static str, value: impl ToString) -> Self {
        Self { file, value: value.to_string(), optional: false }
    }

    /// Swap is not counted everywhere: not by kernels without it, nor by v1 with swapaccount=0.
    fn of_swap(file: &'static str, value: u64) -> Self {
        Self { optional: true, ..Self::new(file, value) }
    }
}

impl LimitOptions {
    /// Finds the hierarchy of each limit that is wanted.
    ///
    /// # Errors
    /// When one has none here.
    pub fn locate(&self, agent: &Path) -> Result<Vec<Limit>, LimitError> {
        let place = Controllers::read(agent);
        let mut limits = Vec::new();
        let mut add = |option, controller, unified: Vec<Setting>, legacy| {
            let missing = |why| LimitError::Missing { option, controller, agent: agent.to_owned(), why };
            let home = place.home(controller).map_err(missing)?;
            let settings = if home == Home::Unified { unified } else { legacy };
            limits.push(Limit { option, controller, home, settings });
            Ok(())
        };
        if let Some(bytes) = self.memory {
            let unified = vec![Setting::new("memory.max", bytes), Setting::of_swap("memory.swap.max", bytes)];
            // Version 1 counts memory and swap together, and takes no less for both than for memory.
            let both = Setting::of_swap("memory.memsw.limit_in_bytes", bytes.saturating_mul(2));
            add("--memory", "memory", unified, vec![Setting::new("memory.limit_in_bytes", bytes), both])?;
        }
        if let Some(us) = self.cpus {
            let legacy = vec![Setting::new("cpu.cfs_period_us", PERIOD_US), Setting::new("cpu.cfs_quota_us", us)];
            add("--cpus", "cpu", vec![Setting::new("cpu.max", format!("{us} {PERIOD_US}"))], legacy)?;
        }
        if let Some(count) = self.pids_limit {
            let setting = vec![Setting::new("pids.max", count)];
            add("--pids-limit", "pids", setting.clone(), setting)?;
        }
        Ok(limits)
    }
}

impl Limit {
    /// The mount point of its hierarchy, if that is one of version 1.
    #[must_use]
    pub fn legacy(&self) -> Option<&Path> {
        match &self.home {
            Home::Unified => None,
            Home::Legacy(mount) => Some(mount),
        }
    }

    /// Lets the cgroups below `dir` have the controller. It stays so: others may have come to need it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn hand_down(&self, dir: &Path) -> Result<(), LimitError> {
        let file = dir.join("cgroup.subtree_control");
        let already = fs::read_to_string(&file).unwrap_or_default();
        if already.split_whitespace().any(|word| word == self.controller) {
            return Ok(());
        }
        let Self { option, controller, .. } = *self;
        fs::write(&file, format!("+{controller}")).map_err(|source| LimitError::HandDown {
            option,
            controller,
            path: dir.to_owned(),
            source,
        })
    }

    /// Writes it to a cgroup of its hierarchy.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set(&self, dir: &Path) -> Result<(), LimitError> {
        for Setting { file, value, optional } in &self.settings {
            let path = dir.join(file);
            if *optional && !path.exists() {
                continue;
            }
            let failed = |source| LimitError::Write { option: self.option, value: value.clone(), path: path.clone(), source };
            fs::write(&path, value).map_err(failed)?;
        }
        Ok(())
    }

    /// How many processes the kernel has killed in a cgroup of its hierarchy because of it; only memory kills.
    #[must_use]
    pub fn killed(&self, dir: &Path) -> u64 {
        if self.controller != "memory" {
            return 0;
        }
        let file = if self.home == Home::Unified { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
        text.lines().find_map(|l| l.strip_prefix("oom_kill ")).and_then(|n| n.trim().parse().ok()).unwrap_or(0)
    }
}

/// The mount points of the version 1 hierarchies in which a command may have had a cgroup.
#[must_use]
pub fn legacy_mounts() -> Vec<PathBuf> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = ["memory", "cpu", "pids"].into_iter().filter_map(|c| mount_of(&mountinfo, c)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// What the kernel tells of its controllers.
#[derive(Debug)]
struct Controllers {
    /// `cgroup.controllers` of the agent's cgroup.
    handed_down: String,
    mountinfo: String,
    /// `/proc/cgroups`: name, hierarchy (0 is the unified one), number of cgroups, enabled.
    table: String,
}

impl Controllers {
    /// A file that cannot be read names no controller.
    fn read(agent: &Path) -> Self {
        let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        Self {
            handed_down: text(&agent.join("cgroup.controllers")),
            mountinfo: text(Path::new("/proc/self/mountinfo")),
            table: text(Path::new("/proc/cgroups")),
        }
    }

    fn home(&self, controller: &str) -> Result<Home, Absence> {
        if self.handed_down.split_whitespace().any(|word| word == controller) {
            return Ok(Home::Unified);
        }
        if let Some(mount) = mount_of(&self.mountinfo, controller) {
            return Ok(Home::Legacy(mount));
        }
        let row =
            self.table.lines().map(|l| l.split_whitespace().collect::<Vec<_>>()).find(|row| row.first() == Some(&controller));
        match row.as_deref() {
            Some([_, _, _, "0"]) => Err(Absence::SwitchedOff),
            Some([_, "0", ..]) => Err(Absence::NotHandedDown),
            Some(_) => Err(Absence::NotMounted),
            // From 6.11 on a kernel may be built without version 1, and the table is then without controllers that have none.
            None => Err(Absence::NotBuilt),
        }
    }
}

/// Where the version 1 hierarchy of a controller is mounted: proc(5), with the controllers among the last field's options.
fn mount_of(mountinfo: &str, controller: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let (kind, _source, options) = (right.next()?, right.next()?, right.next()?);
        let has = kind == "cgroup" && options.split(',').any(|option| option == controller);
        // Blanks in paths are written as octal.
        has.then(|| left.split(' ').nth(4).map(|point| PathBuf::from(point.replace("\\040", " "))))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(size("65536"), Ok(65536));
        assert_eq!(size("512m"), Ok(512 << 20));
        assert_eq!((size("2G"), size("2gib"), size("1t")), (Ok(2 << 30), Ok(2 << 30), Ok(1 << 40)));
        assert_eq!(size("8K"), Ok(8192));
        for bad in ["", "m", "1.5g", "-1", "12x", "1kk", "\u{fc}"] {
            assert!(size(bad).unwrap_err().contains("is no size"), "{bad:?}");
        }
        assert!(size("1k").unwrap_err().contains("less than one page"));
        assert!(size("99999999t").unwrap_err().contains("more memory than there can be"));
    }

    #[test]
    fn cpus_are_microseconds_of_a_tenth_of_a_second() {
        assert_eq!((quota("1"), quota("0.5"), quota("1.25"), quota("0.01")), (Ok(100_000), Ok(50_000), Ok(125_000), Ok(1_000)));
        for bad in ["", ".5", "1.", "1.2345", "x", "-1", "1e3", "99999999999999999999", "1000001"] {
            assert!(quota(bad).unwrap_err().contains("is no number of CPUs"), "{bad:?}");
        }
        assert!(quota("0.005").unwrap_err().contains("hundredth"), "{:?}", quota("0.005"));
        assert!(quota("0").is_err());
    }

    const HYBRID: &str = "\
30 29 0:25 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
31 29 0:26 / /sys/fs/cgroup/a\\040b rw,relatime - cgroup cgroup rw,memory
32 29 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,memory_recursiveprot
";
    const TABLE: &str = "\
#subsys_name\thierarchy\tnum_cgroups\tenabled
cpu\t3\t1\t1
memory\t4\t22\t1
pids\t0\t8\t1
hugetlb\t5\t1\t1
rdma\t0\t1\t0
";

    fn controllers(handed_down: &str) -> Controllers {
        Controllers { handed_down: handed_down.to_owned(), mountinfo: HYBRID.to_owned(), table: TABLE.to_owned() }
    }

    #[test]
    fn each_controller_is_found_in_the_hierarchy_that_has_it() {
        let place = controllers("hugetlb io\n");
        assert_eq!(place.home("io"), Ok(Home::Unified));
        assert_eq!(place.home("cpu"), Ok(Home::Legacy("/sys/fs/cgroup/cpu,cpuacct".into())));
        assert_eq!(place.home("memory"), Ok(Home::Legacy("/sys/fs/cgroup/a b".into())));
        assert_eq!(controllers("cpu memory pids").home("memory"), Ok(Home::Unified));
    }

    #[test]
    fn an_absent_controller_is_explained() {
        let place = controllers("");
        for (controller, why, words) in [
            ("pids", Absence::NotHandedDown, "write +pids to the cgroup.subtree_control"),
            ("hugetlb", Absence::NotMounted, "mount -t cgroup -o hugetlb"),
            ("rdma", Absence::SwitchedOff, "cgroup_enable=rdma"),
            ("dmem", Absence::NotBuilt, "this kernel has no dmem controller"),
        ] {
            assert_eq!(place.home(controller), Err(why), "{controller}");
            assert!(missing(controller, Path::new("/cg"), why).contains(words), "{controller}");
        }
    }

    #[test]
    fn a_controller_is_handed_down_where_it_is_not_yet_and_the_value_written_as_the_unified_hierarchy_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        fs::write(file("cgroup.controllers"), "cpu memory pids\n").unwrap();
        let options = LimitOptions { memory: Some(64 << 20), cpus: Some(50_000), pids_limit: Some(7) };
        fs::write(file("memory.swap.max"), "max\n").unwrap();
        let limits = options.locate(dir.path()).unwrap();
        assert!(limits.iter().all(|limit| limit.legacy().is_none()));
        for limit in &limits {
            fs::write(file("cgroup.subtree_control"), "io\n").unwrap();
            limit.hand_down(dir.path()).unwrap();
            let wanted = format!("+{}", limit.controller);
            assert_eq!(fs::read_to_string(file("cgroup.subtree_control")).unwrap(), wanted);
            let already = format!("io {}\n", limit.controller);
            fs::write(file("cgroup.subtree_control"), &already).unwrap();
            limit.hand_down(dir.path()).unwrap();
            assert_eq!(fs::read_to_string(file("cgroup.subtree_control")).unwrap(), already);
            limit.set(dir.path()).unwrap();
        }
        let value = |name: &str| fs::read_to_string(file(name)).unwrap();
        assert_eq!(
            (value("memory.max"), value("cpu.max"), value("pids.max")),
            ("67108864".into(), "50000 100000".into(), "7".into())
        );
        assert_eq!(value("memory.swap.max"), "67108864");
        fs::write(file("memory.events"), "oom 3\noom_kill 2\n").unwrap();
        assert_eq!(limits.iter().map(|limit| limit.killed(dir.path())).sum::<u64>(), 2);
    }
}
