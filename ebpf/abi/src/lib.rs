//! What both halves of Weft's datapath share: map keys and values, their names, and the name of every verdict.
//!
//! Only data lives here: integers and byte arrays with explicit padding and a fixed size, so that a row written by the
//! agent is the row the programs read. No logic but conversions of byte order. Feature `user` marks the types as
//! [`aya::Pod`](https://docs.rs/aya/0.14/aya/trait.Pod.html); the crate is `no_std` and has no other dependency.
//!
//! A changed layout, meaning or map size raises [`LAYOUT_VERSION`], which is part of the path that maps are pinned under:
//! old and new programs never share a map.
//!
//! Read [`maps`] for who looks up what; [`verdict`] for what becomes of a packet.
#![no_std]

pub mod maps;
pub mod order;
pub mod passive;
pub mod verdict;

pub use maps::{
    Backend, Cidr4, Config, Counter, Endpoint, Frontend, FrontendKey, Mac, Network, NextHop, Peer, PeerKey, PeerKey6,
    PortBackKey, PortKey, PortTarget, RangeKey, Reverse, ReverseKey, SlotKey, Vtep, VtepKey,
};
pub use order::{Be16, Be32, Be128};
pub use verdict::{Action, Hook, Verdict};

/// The version of everything in this crate. Maps are pinned below `<bpffs>/v<LAYOUT_VERSION>/`.
pub const LAYOUT_VERSION: u32 = 2;

/// What outer headers over IPv4 add to an inner packet: IPv4 20 + UDP 8 + VXLAN 8 + inner Ethernet 14, in bytes. The longest
/// inner packet is the uplink's MTU less this.
pub const ENCAP_OVERHEAD: u32 = 50;

/// What outer headers over IPv6 add: IPv6 40 instead of IPv4 20.
pub const ENCAP_OVERHEAD6: u32 = 70;
