//! The only code that touches a kernel: `observe` reads back what is ours, `apply` carries out an action. No choices are made
//! here; `weft-plan` makes them.

pub mod bpf;
pub mod host;
pub mod iptables;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod probe;
mod program;
pub mod sysctl;
pub mod veth;
