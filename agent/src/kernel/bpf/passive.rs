//! The second object: how connections to backends go (`ebpf/src/passive.rs`).
//!
//! Nothing of it is pinned: link, maps and ring buffer belong to this value and end with it, so an agent that is stopped leaves
//! nothing of it, and one that starts has nothing to take over. It reads the pinned `weft_reverse`, which must be there.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use aya::maps::{HashMap, Map, MapData, RingBuf};
use aya::programs::{Program as Loaded, ProgramError};
use aya::{Ebpf, EbpfLoader};
use weft_abi::passive::{Pair, TOLD, Told, WATCHED};
use weft_abi::{Be16, Be32, FrontendKey};

use super::sys::AttachedTo;
use super::{BpfError, Paths, sys};

/// Made by the build script from the crate `weft-ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weft_passive"));

/// The name of the program in the object, and of its link in errors.
const PROGRAM: &str = "passive";

/// The program at the cgroup, and what it tells.
pub struct Passive {
    /// Closing it detaches the program.
    link: OwnedFd,
    watched: HashMap<MapData, FrontendKey, u32>,
    rows: BTreeSet<FrontendKey>,
    told: RingBuf<MapData>,
}

impl fmt::Debug for Passive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passive").field("link", &self.link).field("rows", &self.rows.len()).finish_non_exhaustive()
    }
}

impl Passive {
    /// Loads it and attaches it to the cgroup whose sockets are translated. Nothing is watched yet.
    ///
    /// # Errors
    /// The first object's maps are not pinned, or the kernel refuses.
    pub fn attach(paths: &Paths) -> Result<Self, BpfError> {
        let pins = paths.pins();
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| BpfError::Load { pins: pins.clone(), source };
        // The loader would make and pin a map that is not there, and the first object's programs would go on with another.
        let reverse = pins.join(weft_abi::maps::name::REVERSE);
        sys::obj_get(&reverse).map_err(|source| BpfError::Path { op: "open map", path: reverse, source })?;
        let mut ebpf = EbpfLoader::new().default_map_pin_directory(&pins).load(OBJECT).map_err(|e| failed(e.into()))?;
        let program = load(&mut ebpf)?;
        let watched = take(&mut ebpf, WATCHED, HashMap::try_from)?;
        let told = take(&mut ebpf, TOLD, RingBuf::try_from)?;
        let link = attach(&program, &paths.cgroup)?;
        Ok(Self { link, watched, rows: BTreeSet::new(), told })
    }

    /// Connections by way of these frontends are told of, and of no others.
    ///
    /// # Errors
    /// The first row that could not be written or taken away; it is tried again by the next call.
    pub fn watch(&mut self, wanted: &BTreeSet<FrontendKey>) -> Result<(), BpfError> {
        let failed = |op| move |e: aya::maps::MapError| BpfError::Map { op, map: WATCHED, source: e.into() };
        let gone: Vec<FrontendKey> = self.rows.difference(wanted).copied().collect();
        for key in gone {
            self.watched.remove(&key).map_err(failed("delete row of"))?;
            self.rows.remove(&key);
        }
        for key in wanted {
            if !self.rows.contains(key) {
                self.watched.insert(key, 1, 0).map_err(failed("write row of"))?;
                self.rows.insert(*key);
            }
        }
        Ok(())
    }

    /// Whether the program is still at its cgroup: nobody has detached it, and the cgroup is there.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        sys::link_info(self.link.as_fd()).is_ok_and(|now| !matches!(now.to, AttachedTo::Cgroup(0) | AttachedTo::Other))
    }

    /// What was told next, if anything was. What finds no room in 64 KiB is not told.
    pub fn next_told(&mut self) -> Option<Told> {
        loop {
            let item = self.told.next()?;
            if let Some(told) = parse(&item) {
                return Some(told);
            }
        }
    }
}

/// An entry of the ring buffer; none if it has another size than it should.
fn parse(bytes: &[u8]) -> Option<Told> {
    let bytes: &[u8; size_of::<Told>()] = bytes.try_into().ok()?;
    let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
    let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let frontend = FrontendKey { vip: Be32::from_bits(word(0)), port: Be16::from_bits(half(4)), proto: bytes[6], pad: bytes[7] };
    let pair = Pair { frontend, addr: Be32::from_bits(word(8)), port: Be16::from_bits(half(12)), pad: half(14) };
    Some(Told { pair, outcome: word(16) })
}

fn load(ebpf: &mut Ebpf) -> Result<OwnedFd, BpfError> {
    let result = match ebpf.program_mut(PROGRAM) {
        Some(Loaded::SockOps(p)) => p.load().and_then(|()| Ok(p.fd()?.as_fd().try_clone_to_owned()?)),
        // The object is part of this binary: this would be a broken build.
        Some(_) => Err(ProgramError::UnexpectedProgramType),
        None => Err(ProgramError::InvalidName { name: PROGRAM.to_owned() }),
    };
    result.map_err(|error| {
        let (log, source) = match error {
            ProgramError::LoadError { io_error, verifier_log } => (verifier_log.to_string(), io_error),
            ProgramError::IOError(source) => (String::new(), source),
            other => (String::new(), io::Error::other(other)),
        };
        BpfError::Verify { program: PROGRAM, log, source }
    })
}

fn take<M, E: std::error::Error + Send + Sync + 'static>(
    ebpf: &mut Ebpf,
    name: &'static str,
    typed: impl FnOnce(Map) -> Result<M, E>,
) -> Result<M, BpfError> {
    let failed = |source| BpfError::Map { op: "open", map: name, source };
    let map = ebpf.take_map(name).ok_or_else(|| failed("it is not in the object".into()))?;
    typed(map).map_err(|e| failed(e.into()))
}

fn attach(program: &OwnedFd, cgroup: &Path) -> Result<OwnedFd, BpfError> {
    let open = |source| BpfError::Path { op: "open cgroup", path: cgroup.to_owned(), source };
    let cgroup = File::open(cgroup).map_err(open)?;
    sys::link_create(program.as_fd(), cgroup.as_raw_fd() as u32, sys::attach::CGROUP_SOCK_OPS).map_err(|source| BpfError::Link {
        op: "attach link",
        link: PROGRAM.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_it_lies_in_memory_and_no_other() {
        let frontend = FrontendKey { vip: Be32::from_bits(0x0102_0304), port: Be16::from_bits(0x0506), proto: 6, pad: 0 };
        let pair = Pair { frontend, addr: Be32::from_bits(0x0708_090a), port: Be16::from_bits(0x0b0c), pad: 0 };
        let mut bytes = Vec::new();
        bytes.extend(0x0102_0304_u32.to_ne_bytes());
        bytes.extend(0x0506_u16.to_ne_bytes());
        bytes.extend([6, 0]);
        bytes.extend(0x0708_090a_u32.to_ne_bytes());
        bytes.extend(0x0b0c_u16.to_ne_bytes());
        bytes.extend([0, 0]);
        bytes.extend(Told::UNANSWERED.to_ne_bytes());
        assert_eq!(parse(&bytes), Some(Told { pair, outcome: Told::UNANSWERED }));
        assert_eq!(parse(&bytes[1..]), None);
    }
}
