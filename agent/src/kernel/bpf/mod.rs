//! The eBPF half of the datapath: loading, pinning, attaching, and reading and writing its maps.
//!
//! Nothing is decided here: the reconcile loop says which rows and which attachments there are to be. The programs
//! themselves are in the crate `weft-ebpf`; rows, names and verdicts in `weft-abi`.
//!
//! ```text
//!  <bpffs>/v<LAYOUT_VERSION>/weft_config, weft_peers, ...   maps: what the programs know outlives the agent
//!  <bpffs>/v<LAYOUT_VERSION>/links/uplink                   links: what is attached stays attached
//!                                 /container-<name>
//!                                 /connect4, connect6, sendmsg4, ...
//! ```
//!
//! Stopping the agent changes none of it. A new agent finds the maps by their pins, loads its own programs on them, and
//! puts each into the link that is there (`BPF_LINK_UPDATE`): no packet meets a gap. So does an agent of another layout, which
//! keeps its pins in another folder ([`upgrade`]). [`cleanup`] takes everything away.
//!
//! All calls are quick system calls (loading takes some tens of milliseconds) and may be made from async code. Network
//! devices are looked up in the network namespace of the calling thread.
//!
//! Read [`Datapath`] first; then [`mounts`] for where the two file systems come from.

mod glance;
mod linker;
pub mod links;
pub mod maps;
pub mod mounts;
pub mod netns;
mod object;
pub mod passive;
mod pins;
pub mod run;
mod sys;
pub mod upgrade;

use std::io;
use std::path::{Path, PathBuf};

use weft_abi::LAYOUT_VERSION;

pub use glance::Budget;
pub use linker::{LetGo, Linker, Made};
pub use links::LinkState;
pub use maps::{Maps, Table};
pub use netns::{netns_cookie, netns_cookie_of};
pub use object::{BUILT_WITH, Program};
pub use passive::Passive;

use links::Links;
use object::Object;
use pins::Pins;

/// Why something of the datapath could not be done. [`BpfError::is_not_permitted`] tells whether trying again as the same
/// user is of any use.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// The object itself: its maps could not be created or opened, or it does not fit this kernel.
    #[error("load the eBPF object with its maps below {}", pins.display())]
    Load {
        /// Where maps are pinned.
        pins: PathBuf,
        /// What aya or the kernel said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel does not take a program.
    #[error("load eBPF program {program}{}", log_line(log))]
    Verify {
        /// Its name.
        program: &'static str,
        /// The verifier's log, empty when it did not come to that.
        log: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A pinned map is not what this version needs, although its path says so.
    #[error("map {}: {why}; `weftd cleanup` removes it", path.display())]
    Layout {
        /// The pin.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A bpffs would hide what is there.
    #[error("mount bpffs on {}: {why}; choose an empty directory with --bpffs", path.display())]
    InUse {
        /// Where it was to be mounted.
        path: PathBuf,
        /// What is there.
        why: &'static str,
    },
    /// What was pinned is gone with its file system, and what was attached by it is detached.
    #[error("no bpffs at {} any more: it was unmounted; restart weftd, which mounts it again", path.display())]
    Unmounted {
        /// Where it was.
        path: PathBuf,
    },
    /// A file system operation.
    #[error("{op} {}", path.display())]
    Path {
        /// The operation.
        op: &'static str,
        /// Its subject.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Attaching, replacing or inspecting a link.
    #[error("{op} {link}")]
    Link {
        /// The operation.
        op: &'static str,
        /// The link's name.
        link: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Reading or writing a map's rows.
    #[error("{op} map {map}")]
    Map {
        /// The operation.
        op: &'static str,
        /// The map's name.
        map: &'static str,
        /// What aya or the kernel said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Asking about a network namespace.
    #[error("cookie of network namespace {netns}")]
    Netns {
        /// Which one.
        netns: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Running a program on a packet by hand.
    #[error("run {program} on a packet of {len} bytes")]
    Run {
        /// Its name.
        program: &'static str,
        /// The packet's length.
        len: usize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// The last line of a verifier log, as a part of a message.
fn log_line(log: &str) -> String {
    log.lines().rev().find(|line| !line.trim().is_empty()).map(|line| format!(": {line}")).unwrap_or_default()
}

impl BpfError {
    /// Whether the kernel refused for lack of privilege (EPERM, EACCES without a verifier's complaint): then the agent
    /// runs on the kernel path alone.
    #[must_use]
    pub fn is_not_permitted(&self) -> bool {
        if let Self::Verify { log, .. } = self
            && !log.trim().is_empty()
        {
            return false;
        }
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES));
            }
            cause = error.source();
        }
        false
    }
}

/// Where the datapath lives on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// A folder on a bpffs: [`mounts::Bpffs::path`].
    pub bpffs: PathBuf,
    /// The cgroup (v2) whose sockets are translated: the folder itself.
    pub cgroup: PathBuf,
}

/// The folder of links among the pins of a layout.
const LINKS: &str = "links";

impl Paths {
    /// The folder of this layout's pins.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.bpffs.join(format!("v{LAYOUT_VERSION}"))
    }
}

/// The loaded programs, their maps, and what they are attached to. Dropping it detaches nothing.
#[derive(Debug)]
pub struct Datapath {
    bpffs: PathBuf,
    pins: PathBuf,
    object: Object,
    links: Links,
    maps: Maps,
    pinned: Pins,
    others: Vec<upgrade::Other>,
}

/// Something of ours that somebody else changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disturbed {
    /// A link was detached, or another program put into it.
    Link(String),
    /// Something is pinned no more: which.
    Pin(String),
}

impl Datapath {
    /// Loads all programs on the maps pinned below `paths`, or on new ones, which are pinned. Attaches nothing: what an
    /// earlier agent attached goes on with that agent's programs until the `attach_` call that replaces them, also if it was
    /// of another layout.
    ///
    /// # Errors
    /// The object does not load. [`BpfError::is_not_permitted`] tells whether that is a matter of privilege.
    pub fn open(paths: &Paths) -> Result<Self, BpfError> {
        let pins = paths.pins();
        create_dir(&pins)?;
        let others = upgrade::others(&paths.bpffs)?;
        upgrade::share(&pins, &others, &upgrade::SHARED)?;
        maps::check(&pins)?;
        let object = Object::load(&pins)?;
        let maps = Maps::open(&pins)?;
        let links_of_others = others.iter().map(|other| other.pins.join(LINKS)).collect();
        let links = Links::open(pins.join(LINKS), paths.cgroup.clone(), links_of_others)?;
        Ok(Self { bpffs: paths.bpffs.clone(), pins, object, links, maps, pinned: Pins::default(), others })
    }

    /// The folders of other layouts that were found by [`Datapath::open`] and are not retired yet.
    #[must_use]
    pub fn others(&self) -> &[upgrade::Other] {
        &self.others
    }

    /// Removes what agents of other layouts left, once everything that is wanted is attached: links that were not taken over
    /// are detached by it.
    ///
    /// # Errors
    /// The first folder that could not be removed; it is tried again by the next call.
    pub fn retire_others(&mut self) -> Result<(), BpfError> {
        for other in &self.others {
            remove_pins_in(&other.pins)?;
        }
        self.others.clear();
        self.links.forget_others();
        Ok(())
    }

    /// Pins the maps again whose pins somebody removed: an agent that is started later would begin with empty ones. Makes
    /// the folders again too, that of the links included; links are made by the `attach_` calls. Returns how many maps
    /// were not pinned. Costs a look at each pin.
    ///
    /// # Errors
    /// There is no bpffs any more ([`BpfError::Unmounted`]), or the kernel refuses.
    pub fn restore_pins(&mut self) -> Result<u64, BpfError> {
        if !mounts::on_bpffs(&self.bpffs) {
            return Err(BpfError::Unmounted { path: self.bpffs.clone() });
        }
        create_dir(&self.pins)?;
        self.links.make_dir()?;
        self.maps.restore_pins(&self.pins)
    }

    /// Whether links and pins are as this agent left them; what is found first if they are not. Costs half a microsecond a link,
    /// of which it asks 256 and the next ones the next time, and little for the pins.
    pub fn disturbed(&mut self) -> Option<Disturbed> {
        if let Some(link) = self.links.disturbed() {
            return Some(Disturbed::Link(link));
        }
        let Self { pins, links, maps, pinned, .. } = self;
        let unpinned = || match maps.unpinned(pins) {
            Some(map) => Some(format!("the pin of map {map}")),
            None => links.unpinned().map(|link| format!("the pin of link {link}")),
        };
        pinned.disturbed(&[pins, links.dir()], unpinned).map(Disturbed::Pin)
    }

    /// Attaches the socket programs to the cgroup, or puts them into the links that are there.
    ///
    /// # Errors
    /// The first link that could not be made; those before it stay.
    pub fn attach_sockets(&mut self) -> Result<(), BpfError> {
        for program in Program::SOCKETS {
            self.links.attach_cgroup(program, self.object.fd(program))?;
        }
        Ok(())
    }

    /// Attaches `from_uplink` to a device, or puts it into the link that is there. A link to another device is removed
    /// first: there is one uplink.
    ///
    /// # Errors
    /// The device is gone, or the kernel refuses (before 6.6 there are no TCX links).
    pub fn attach_uplink(&mut self, ifindex: u32) -> Result<(), BpfError> {
        self.links.attach_device(links::UPLINK, ifindex, self.object.fd(Program::FromUplink))
    }

    /// Attaches `from_container` to the host side of a container's veth, or puts it into the link that is there. The
    /// container's row in `weft_endpoints` must be there before, or what it sends is dropped as spoofed.
    ///
    /// `name` is any text that tells the containers of this host apart, up to about 80 bytes.
    ///
    /// # Errors
    /// The device is gone, or the kernel refuses.
    pub fn attach_container(&mut self, name: &str, ifindex: u32) -> Result<(), BpfError> {
        self.links.attach_device(&links::container(name), ifindex, self.object.fd(Program::FromContainer))
    }

    /// What makes links of containers without this datapath, which meanwhile does other things.
    ///
    /// # Errors
    /// When this process has too many files open.
    pub fn linker(&self) -> io::Result<Linker> {
        let program = self.object.fd(Program::FromContainer).try_clone_to_owned()?;
        Ok(Linker { dir: self.links.dir().to_owned(), program })
    }

    /// Takes over a link that a [`Linker`] has made: it is looked after like those of [`Datapath::attach_container`].
    pub fn hold(&mut self, made: Made) {
        self.links.hold(made);
    }

    /// As [`Datapath::detach`], but for what may take its time. Not while there are [`Datapath::others`].
    #[must_use]
    pub fn let_go(&mut self, link: &str) -> LetGo {
        self.links.let_go(link)
    }

    /// Removes a link by its name, as [`LinkState::name`] has it. One that is not there is no error.
    ///
    /// # Errors
    /// The pin could not be removed.
    pub fn detach(&mut self, link: &str) -> Result<(), BpfError> {
        self.links.detach(link)
    }

    /// All links that are pinned, in the order of names, with what they are attached to.
    ///
    /// # Errors
    /// The folder could not be read.
    pub fn links(&self) -> Result<Vec<LinkState>, BpfError> {
        self.links.list()
    }

    /// The maps.
    #[must_use]
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// The maps, to write.
    pub fn maps_mut(&mut self) -> &mut Maps {
        &mut self.maps
    }

    /// Runs a program on a packet without sending anything (`BPF_PROG_TEST_RUN`), with the maps as they are. Counters move.
    ///
    /// # Errors
    /// The kernel refuses, as for packets shorter than an Ethernet header.
    pub fn run(&self, program: Program, packet: &run::Packet<'_>) -> Result<run::Outcome, BpfError> {
        run::run(program, self.object.fd(program), packet)
    }
}

/// Removes every pin of any layout, which detaches the programs, and the folder; then unmounts what
/// [`mounts::ensure_bpffs`] mounted. What is not there is no error.
///
/// `paths.bpffs` is the path that `ensure_bpffs` was given; by the one that it returned only the pins are removed.
///
/// # Errors
/// The first thing that could not be removed.
pub fn cleanup(paths: &Paths) -> Result<(), BpfError> {
    mounts::wherever_mounted(|| remove_pins(&paths.bpffs))?;
    mounts::release_bpffs(&paths.bpffs)
}

fn remove_pins(bpffs: &Path) -> Result<(), BpfError> {
    let listing = |source| BpfError::Path { op: "list", path: bpffs.to_owned(), source };
    let entries = match std::fs::read_dir(bpffs) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(listing(source)),
    };
    for entry in entries {
        let entry = entry.map_err(listing)?;
        if layout_of(&entry.file_name().to_string_lossy()).is_some() {
            remove_pins_in(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_pins_in(folder: &Path) -> Result<(), BpfError> {
    match std::fs::remove_dir_all(folder) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(BpfError::Path { op: "remove", path: folder.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// The layout whose folder this is: `v` and a number.
fn layout_of(name: &str) -> Option<u32> {
    let digits = name.strip_prefix('v').filter(|n| n.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse().ok()
}

/// Makes a folder with its parents; one that is there is fine.
fn create_dir(path: &Path) -> Result<(), BpfError> {
    std::fs::create_dir_all(path).map_err(|source| BpfError::Path { op: "create folder", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lack_of_privilege_is_told_from_a_program_that_is_refused() {
        let denied = || io::Error::from_raw_os_error(libc::EPERM);
        let load = BpfError::Load { pins: "/x".into(), source: Box::new(denied()) };
        assert!(load.is_not_permitted());
        let refused = BpfError::Verify { program: "connect4", log: "R1 invalid\n\n".into(), source: denied() };
        assert!(!refused.is_not_permitted());
        assert_eq!(refused.to_string(), "load eBPF program connect4: R1 invalid");
        let gone = io::Error::from_raw_os_error(libc::ENODEV);
        assert!(!BpfError::Link { op: "attach", link: "uplink".into(), source: gone }.is_not_permitted());
    }

    #[test]
    fn only_layout_folders_are_removed() {
        assert_eq!((layout_of("v1"), layout_of("v20")), (Some(1), Some(20)));
        assert!(["v", "v1a", "v+1", "other", ""].into_iter().all(|name| layout_of(name).is_none()));
    }
}
