//! The eBPF object in this binary: loading it on pinned maps, and its programs by name.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use aya::programs::{ProgramError, ProgramFd};
use aya::{Ebpf, EbpfLoader};

use super::{BpfError, sys};

/// Made by the build script from the crate `weft-ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weft"));

/// The compiler that made the embedded eBPF object.
pub const BUILT_WITH: &str = env!("WEFT_EBPF_BUILT_WITH");

/// A program of the object. The names are those of the functions in `weft-ebpf`, and of the socket programs' links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Program {
    /// What a container sends.
    FromContainer,
    /// What arrives at the uplink.
    FromUplink,
    /// connect() with an IPv4 address.
    Connect4,
    /// connect() with an IPv6 address.
    Connect6,
    /// sendmsg() with an IPv4 address.
    Sendmsg4,
    /// sendmsg() with an IPv6 address.
    Sendmsg6,
    /// recvmsg() on an IPv4 socket.
    Recvmsg4,
    /// recvmsg() on an IPv6 socket.
    Recvmsg6,
    /// getpeername() on an IPv4 socket.
    Getpeername4,
    /// getpeername() on an IPv6 socket.
    Getpeername6,
}

impl Program {
    /// All of them, each at the index of its number.
    pub const ALL: [Self; 10] = [
        Self::FromContainer,
        Self::FromUplink,
        Self::Connect4,
        Self::Connect6,
        Self::Sendmsg4,
        Self::Sendmsg6,
        Self::Recvmsg4,
        Self::Recvmsg6,
        Self::Getpeername4,
        Self::Getpeername6,
    ];

    /// Those of the cgroup. The way back comes first: nothing is translated that could not be shown as it was named.
    pub const SOCKETS: [Self; 8] = [
        Self::Getpeername4,
        Self::Getpeername6,
        Self::Recvmsg4,
        Self::Recvmsg6,
        Self::Sendmsg4,
        Self::Sendmsg6,
        Self::Connect4,
        Self::Connect6,
    ];

    /// The name in the object.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FromContainer => "from_container",
            Self::FromUplink => "from_uplink",
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Sendmsg4 => "sendmsg4",
            Self::Sendmsg6 => "sendmsg6",
            Self::Recvmsg4 => "recvmsg4",
            Self::Recvmsg6 => "recvmsg6",
            Self::Getpeername4 => "getpeername4",
            Self::Getpeername6 => "getpeername6",
        }
    }

    /// Where the kernel runs it.
    pub(super) const fn attach_type(self) -> u32 {
        use sys::attach;
        match self {
            Self::FromContainer | Self::FromUplink => attach::TCX_INGRESS,
            Self::Connect4 => attach::CGROUP_INET4_CONNECT,
            Self::Connect6 => attach::CGROUP_INET6_CONNECT,
            Self::Sendmsg4 => attach::CGROUP_UDP4_SENDMSG,
            Self::Sendmsg6 => attach::CGROUP_UDP6_SENDMSG,
            Self::Recvmsg4 => attach::CGROUP_UDP4_RECVMSG,
            Self::Recvmsg6 => attach::CGROUP_UDP6_RECVMSG,
            Self::Getpeername4 => attach::CGROUP_INET4_GETPEERNAME,
            Self::Getpeername6 => attach::CGROUP_INET6_GETPEERNAME,
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The object's programs, all verified by the kernel.
#[derive(Debug)]
pub(super) struct Object {
    /// In the order of [`Program::ALL`].
    programs: Vec<ProgramFd>,
}

impl Object {
    /// Loads everything. Maps pinned in `pins` are used as they are, others created and pinned there.
    pub(super) fn load(pins: &Path) -> Result<Self, BpfError> {
        let mut ebpf = EbpfLoader::new()
            .default_map_pin_directory(pins)
            .load(OBJECT)
            .map_err(|source| BpfError::Load { pins: pins.to_owned(), source: source.into() })?;
        let programs = Program::ALL.into_iter().map(|program| load_one(&mut ebpf, program)).collect::<Result<_, _>>()?;
        Ok(Self { programs })
    }

    /// The program's descriptor.
    pub(super) fn fd(&self, program: Program) -> BorrowedFd<'_> {
        self.programs[program as usize].as_fd()
    }
}

fn load_one(ebpf: &mut Ebpf, program: Program) -> Result<ProgramFd, BpfError> {
    use aya::programs::Program as Loaded;
    let name = program.as_str();
    let result = match ebpf.program_mut(name) {
        Some(Loaded::SchedClassifier(p)) => p.load().and_then(|()| Ok(p.fd()?.try_clone()?)),
        Some(Loaded::CgroupSockAddr(p)) => p.load().and_then(|()| Ok(p.fd()?.try_clone()?)),
        // The object is part of this binary: this would be a broken build.
        Some(_) => Err(ProgramError::UnexpectedProgramType),
        None => Err(ProgramError::InvalidName { name: name.to_owned() }),
    };
    result.map_err(|error| match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            BpfError::Verify { program: name, log: verifier_log.to_string(), source: io_error }
        }
        ProgramError::IOError(source) => BpfError::Verify { program: name, log: String::new(), source },
        other => BpfError::Verify { program: name, log: String::new(), source: io::Error::other(other) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_stand_at_their_numbers() {
        for (i, program) in Program::ALL.into_iter().enumerate() {
            assert_eq!(program as usize, i);
        }
    }
}
