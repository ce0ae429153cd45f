//! Running a packet through a program by hand (`BPF_PROG_TEST_RUN`): the real program and the real maps, nothing is sent.

use std::os::fd::BorrowedFd;

use super::{BpfError, Program, sys};

/// A packet as the hook would see it.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Beginning with the Ethernet header, at least 14 bytes. Its destination decides, against the device's own
    /// address, whether it counts as sent to this host.
    pub bytes: &'a [u8],
    /// The device it comes in by, of the calling thread's network namespace.
    pub ifindex: u32,
    /// The payload of each segment, if it stands for several; else 0.
    pub gso_size: u32,
}

/// What the program did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What it returned: a TC_ACT code.
    pub action: i32,
    /// The packet afterwards.
    pub bytes: Vec<u8>,
}

impl Outcome {
    /// TC_ACT_UNSPEC: the next program, then the stack.
    pub const STACK: i32 = -1;
    /// TC_ACT_SHOT: dropped.
    pub const DROP: i32 = 2;
    /// TC_ACT_REDIRECT: sent on.
    pub const REDIRECT: i32 = 7;
}

/// The kernel's own limit for test packets is the page less some room; this leaves room for outer headers as well.
const OUT: usize = 8192;

// Offsets in struct __sk_buff (linux/bpf.h).
const IFINDEX: usize = 40;
const GSO_SEGS: usize = 164;
const GSO_SIZE: usize = 176;
const SK_BUFF: usize = 192;

pub(super) fn run(program: Program, fd: BorrowedFd<'_>, packet: &Packet<'_>) -> Result<Outcome, BpfError> {
    let mut ctx = [0_u8; SK_BUFF];
    let mut set = |at: usize, value: u32| ctx[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    set(IFINDEX, packet.ifindex);
    if packet.gso_size != 0 {
        set(GSO_SIZE, packet.gso_size);
        set(GSO_SEGS, (packet.bytes.len() as u32).div_ceil(packet.gso_size));
    }
    let mut out = vec![0; OUT];
    let (action, len) = sys::test_run(fd, packet.bytes, &ctx, &mut out).map_err(|source| BpfError::Run {
        program: program.as_str(),
        len: packet.bytes.len(),
        source,
    })?;
    out.truncate(len);
    Ok(Outcome { action: action as i32, bytes: out })
}
