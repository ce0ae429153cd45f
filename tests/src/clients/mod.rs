//! The tools that people start containers with, as they are, on hosts of a topology.
//!
//! podman, containerd and dockerd keep what they know at fixed paths, so on one machine there is one of each. [`Home`] gives
//! a host paths of its own, [`rootfs`] makes a root file system without any registry, and then there is a file per tool.

pub mod home;
pub mod rootfs;

pub use home::Home;
