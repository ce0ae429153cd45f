//! What the eBPF programs decide and how they change packets, without the kernel.
//!
//! Everything is generic over a [`packet::Packet`] and over the maps ([`tables::Tables`],
//! [`sockets::Tables`]), so the same code runs in the programs (`src/main.rs`) and in tests on the host. Kernel helpers,
//! map definitions and entry points are not here.
//!
//! ```text
//!  container ──▶ from_container ──▶ another container here          container::decide, then deliver::hand_over
//!                      │        └─▶ outer headers, uplink           container::decide, then encap::write
//!                      └─ stack
//!  uplink ─────▶ from_uplink ─────▶ outer headers off, container    uplink::decide, then deliver::hand_over
//!                      └─ stack, drop
//!  connect(), sendmsg() ──▶ a backend instead of the virtual address      sockets::outbound
//!                         └▶ a container instead of the host's own loopback    published::outbound
//!  recvmsg(), getpeername() ──▶ the virtual address instead of the backend  sockets::inbound
//! ```
//!
//! Both families go inside and outside, in all four combinations. [`neighbour`] and [`chain`] serve the checks of what a
//! container may send: in whose name it speaks on its link, and what stands behind IPv6 extension headers.
#![cfg_attr(not(test), no_std)]

pub mod chain;
pub mod checksum;
pub mod container;
pub mod deliver;
pub mod ecn;
pub mod encap;
#[cfg(test)]
mod mutation_tests;
pub mod neighbour;
pub mod packet;
pub mod published;
pub mod sockets;
pub mod tables;
#[cfg(test)]
mod testing;
pub mod uplink;
pub mod wire;
