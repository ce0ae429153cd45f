//! The eBPF object: entry points, and what each verdict does. Decisions are in the library beside it.
//!
//! Built for `bpfel-unknown-none` by the agent's build script and embedded in `weftd`. On the host it is an empty program,
//! so that the workspace builds and lints as a whole.
//!
//! Read `entry.rs` for the programs, `maps.rs` for the maps, `skb.rs` and `sock_addr.rs` for how the kernel's contexts are read.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod entry;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod skb;
#[cfg(target_arch = "bpf")]
mod sock_addr;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
