//! How the C library's allocator is to behave: an agent is long-lived, mostly idle, and on every host.
//!
//! glibc (2.36) gives threads heaps of their own, up to eight for each CPU, and keeps in each what was freed there: after start, when
//! the kernel's BTF was parsed and the whole store read by whichever thread came first, several MB. With two heaps and with large
//! pieces as mappings of their own, which go back when they are freed, an idle agent of a 100-host cluster is 28 MB instead of 33;
//! `cargo xtask bench agent` measures it. Nothing here is hot: packets are the kernel's business.

/// How many heaps there are at most.
const HEAPS: i32 = 2;

/// From how many bytes on a piece is a mapping of its own. Set, it no longer grows with what is freed.
const LARGE: i32 = 64 << 10;

/// Sets it, before there are other threads. What the environment says for all programs (`MALLOC_ARENA_MAX`) is as glibc has it: the
/// later one counts, which is this.
pub fn frugal() {
    #[cfg(target_env = "gnu")]
    for (what, value) in [(libc::M_ARENA_MAX, HEAPS), (libc::M_MMAP_THRESHOLD, LARGE)] {
        // SAFETY: mallopt takes two numbers and locks the allocator itself; what it does not know it refuses and changes nothing.
        if unsafe { libc::mallopt(what, value) } == 0 {
            tracing::debug!(what, value, "the allocator stays as it is");
        }
    }
}
