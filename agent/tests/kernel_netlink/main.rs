//! Plans carried out on a real kernel: devices, addresses, neighbours, routes, veth pairs, namespaces.
//!
//! Needs root, iproute2 and ping. Every namespace is one without a name, so it ends with the test, however that ends, and two
//! runs side by side never meet. [`lab`] draws the hosts.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod dual;
mod events;
mod hosts;
mod lab;
mod netns;
mod on_link;
mod tables;
mod uplink;
mod veth;
