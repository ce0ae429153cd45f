//! The bpf() system calls that aya has no public wrapper for: links by any name, many rows at once, and test runs.
//!
//! Layouts are those of `union bpf_attr` in linux/bpf.h; each call zeroes what it does not set, and the kernel refuses
//! sizes it does not know only if the rest is not zero.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;

/// Attach types (enum bpf_attach_type).
pub(super) mod attach {
    pub(crate) const CGROUP_SOCK_OPS: u32 = 3;
    pub(crate) const CGROUP_INET4_CONNECT: u32 = 10;
    pub(crate) const CGROUP_INET6_CONNECT: u32 = 11;
    pub(crate) const CGROUP_UDP4_SENDMSG: u32 = 14;
    pub(crate) const CGROUP_UDP6_SENDMSG: u32 = 15;
    pub(crate) const CGROUP_UDP4_RECVMSG: u32 = 19;
    pub(crate) const CGROUP_UDP6_RECVMSG: u32 = 20;
    pub(crate) const CGROUP_INET4_GETPEERNAME: u32 = 29;
    pub(crate) const CGROUP_INET6_GETPEERNAME: u32 = 30;
    pub(crate) const TCX_INGRESS: u32 = 46;
}

/// Link types (enum bpf_link_type).
const LINK_CGROUP: u32 = 3;
const LINK_TCX: u32 = 11;

/// What a link is attached to. Zero: what it was attached to is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttachedTo {
    Device(u32),
    Cgroup(u64),
    Other,
}

/// Calls bpf(2).
///
/// # Safety
/// `attr` is laid out as the command wants it, and its pointers are good for what the command does with them.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the caller answers for the contents; the size is that of what is passed.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: libc::c_long) -> OwnedFd {
    // SAFETY: the command returned a new descriptor, which nobody else owns; descriptors fit an int.
    unsafe { OwnedFd::from_raw_fd(result as i32) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    // A descriptor is not negative.
    fd.as_raw_fd() as u32
}

#[repr(C)]
#[derive(Default)]
struct ObjAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Opens a pinned object.
pub(super) fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = ObjAttr { pathname: path.as_ptr() as u64, ..ObjAttr::default() };
    // SAFETY: the path is a C string that lives through the call.
    unsafe { bpf(BPF_OBJ_GET, &mut attr) }.map(owned)
}

/// Pins an object.
pub(super) fn obj_pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = ObjAttr { pathname: path.as_ptr() as u64, bpf_fd: raw(fd), file_flags: 0 };
    // SAFETY: the path is a C string that lives through the call.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr) }.map(drop)
}

#[repr(C)]
#[derive(Default)]
struct LinkCreateAttr {
    prog_fd: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    pad: u32,
    expected_revision: u64,
}

/// Attaches a program to a device (`target` is an ifindex of this thread's network namespace) or to a cgroup (`target` is
/// an open descriptor of it), behind what others attached.
pub(super) fn link_create(program: BorrowedFd<'_>, target: u32, attach_type: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkCreateAttr { prog_fd: raw(program), target, attach_type, ..LinkCreateAttr::default() };
    // SAFETY: no pointers.
    unsafe { bpf(BPF_LINK_CREATE, &mut attr) }.map(owned)
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Puts another program into a link, at once.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr { link_fd: raw(link), new_prog_fd: raw(program), ..LinkUpdateAttr::default() };
    // SAFETY: no pointers.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The beginning of struct bpf_link_info. `first` is an ifindex in its lower half (tcx), or a cgroup's id.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    first: [u32; 2],
    rest: [u32; 2],
}

/// What a link is: what it is attached to, and the id of the program in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attached {
    pub(super) to: AttachedTo,
    pub(super) program: u32,
}

/// What a link is attached to, and the program in it.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<Attached> {
    let mut info = LinkInfo::default();
    get_info(link, &mut info)?;
    let [low, high] = info.first;
    let to = match info.kind {
        LINK_TCX => AttachedTo::Device(low),
        // Two halves of a u64 as the machine has it.
        LINK_CGROUP if cfg!(target_endian = "little") => AttachedTo::Cgroup(u64::from(high) << 32 | u64::from(low)),
        LINK_CGROUP => AttachedTo::Cgroup(u64::from(low) << 32 | u64::from(high)),
        _ => AttachedTo::Other,
    };
    Ok(Attached { to, program: info.prog_id })
}

/// The beginning of struct bpf_prog_info.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
}

/// A program's id, by which [`link_info`] names it.
pub(super) fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = ProgramInfo::default();
    get_info(program, &mut info)?;
    Ok(info.id)
}

/// Integers of which any are valid, laid out as the beginning of what the kernel tells of a kind of object.
trait Info {}
impl Info for LinkInfo {}
impl Info for ProgramInfo {}

fn get_info<T: Info>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attr = InfoAttr { bpf_fd: raw(object), info_len: size_of::<T>() as u32, info: std::ptr::from_mut(info) as u64 };
    // SAFETY: the kernel writes at most `info_len` bytes to `info`, which lives through the call and is made of integers.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }.map(drop)
}

#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The place in a hash map where the next rows are read; what is in it is the kernel's affair.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position(u64);

/// Rows of a hash map, and where the rest of them begins, if there is any.
#[derive(Debug)]
pub(super) struct Batch<K, V> {
    pub(super) rows: Vec<(K, V)>,
    pub(super) rest: Option<Position>,
}

/// Up to `room` rows of a hash map, from a position on or from the beginning.
/// The kernel gives whole buckets only, and says ENOSPC if the first of them does not fit (kernel 5.6).
pub(super) fn lookup_batch<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    from: Option<Position>,
    room: usize,
) -> io::Result<Batch<K, V>> {
    let (mut keys, mut values) = (Vec::<K>::with_capacity(room), Vec::<V>::with_capacity(room));
    let mut next = Position(0);
    let mut attr = BatchAttr {
        in_batch: from.as_ref().map_or(0, |from| std::ptr::from_ref(&from.0) as u64),
        out_batch: std::ptr::from_mut(&mut next.0) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: u32::try_from(room).unwrap_or(u32::MAX),
        map_fd: raw(map),
        ..BatchAttr::default()
    };
    // SAFETY: there is room for `count` keys and values of the map's sizes, which the table was opened with; a position is
    // four bytes of a hash map (kernel/bpf/hashtab.c) and may be eight here. All of it lives through the call.
    let rest = match unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) } {
        Ok(_) => Some(next),
        // That was the last bucket.
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => None,
        Err(e) => return Err(e),
    };
    let count = (attr.count as usize).min(room);
    // SAFETY: the kernel wrote `count` of each, at most as many as there is room for; any bytes are valid ones (Pod).
    unsafe {
        keys.set_len(count);
        values.set_len(count);
    }
    Ok(Batch { rows: keys.into_iter().zip(values).collect(), rest })
}

#[repr(C)]
#[derive(Default)]
struct TestRunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// Runs a program once on `data` and the beginning of a context. The return value, and how much of `out` was written.
pub(super) fn test_run(program: BorrowedFd<'_>, data: &[u8], ctx: &[u8], out: &mut [u8]) -> io::Result<(u32, usize)> {
    let mut attr = TestRunAttr {
        prog_fd: raw(program),
        data_size_in: data.len() as u32,
        data_size_out: out.len() as u32,
        data_in: data.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat: 1,
        ctx_size_in: ctx.len() as u32,
        ctx_in: ctx.as_ptr() as u64,
        ..TestRunAttr::default()
    };
    // SAFETY: the buffers have the sizes given beside them and live through the call.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attr) }?;
    Ok((attr.retval, (attr.data_size_out as usize).min(out.len())))
}
