//! Running a command with less than root has.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// `struct seccomp_data { int nr; __u32 arch; … }`: the number stands at its beginning.
const OFFSET_OF_NUMBER: u32 = 0;

/// Becomes `command`, for which bpf(2) gives EPERM from now on; all else is as before.
pub fn without_bpf(command: &[OsString]) -> Result<()> {
    let (program, args) = command.split_first().context("no command given")?;
    let number = u32::try_from(libc::SYS_bpf).context("the number of bpf(2)")?;
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, OFFSET_OF_NUMBER),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs()),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program_of_filter = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the filter and its description live in this frame during the call, which copies them (seccomp(2)). As root
    // it needs no NO_NEW_PRIVS.
    let refused = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program_of_filter) };
    if refused != 0 {
        return Err(std::io::Error::last_os_error()).context("forbid bpf(2)");
    }
    let error = Command::new(program).args(args).exec();
    bail!("start {}: {error}", program.to_string_lossy())
}
