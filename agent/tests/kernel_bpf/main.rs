//! The eBPF datapath on a real kernel, as root: loading and pinning, single packets through the programs, two hosts with
//! containers and a wire between them, and virtual addresses at real sockets.
//!
//! Every test makes its own namespaces, bpffs and cgroup with names of its own, and takes them away, also when it fails.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test helper fails the test that called it")]

mod dual;
mod heal;
mod lab;
mod links;
mod packets;
mod packets6;
mod passive;
mod published;
mod sockets;
mod steady;
mod upgrade;
mod wire;
mod wire6;
