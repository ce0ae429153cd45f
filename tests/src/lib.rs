//! Hosts made of network namespaces, real agents and a real etcd in them: what the scenarios in `tests/` and the demo stand on.
//!
//! Nothing here imitates a part of Weft: `weftd` and `netctl` run as the binaries that users get, etcd is etcd, a host is a
//! network namespace with its own cgroup, bpffs, run and state directory. This crate knows Weft only by its command line,
//! its JSON and its keys in etcd; it links neither the agent nor the store.
//!
//! The one thing that is played is somebody else's: [`flannel`], a host of another overlay in the same network.
//!
//! Read [`topology`] first: it draws what is built. Then [`node`] (agents), [`container`], [`traffic`] and [`dns`] (what goes on
//! in them), [`wire`] (what is seen of it between hosts), [`clients`] (podman and the like on a host), [`mod@eventually`] (how to wait) and [`teardown`] (how nothing stays behind).

pub mod api;
pub mod bridge;
pub mod cgroup;
pub mod clients;
pub mod container;
pub mod dns;
pub mod etcd;
pub mod eventually;
pub mod flannel;
pub mod host;
pub mod node;
pub mod pki;
pub mod place;
pub mod plugin;
pub mod schema;
pub mod signals;
pub mod teardown;
pub mod topology;
pub mod traffic;
pub mod wire;

pub use container::Container;
pub use eventually::eventually;
pub use host::Host;
pub use node::Node;
pub use place::{Daemon, Output, Place};
pub use topology::Topology;
