//! Weft's name server, as a library that the agent runs.
//!
//! [`zone`] is the brain: a pure function from a snapshot and a question to an answer. [`server`] is the adapter around it:
//! sockets, limits, EDNS, truncation. [`forward`] asks others about names that are not ours. Nothing here knows the store;
//! every answer comes from memory, from one revision, whether the store is in reach or not.
//!
//! ```text
//!   Snapshot ── Maker::update ─▶ watch<Option<Arc<Zone>>> ─▶ Server ── Zone::answer ─▶ client
//!                                                                    └── Forwarder ─▶ upstream servers
//! ```
//!
//! Read [`zone`] first, then [`server`].

pub mod forward;
pub mod metrics;
pub mod server;
pub mod zone;

pub use forward::resolv_conf_servers;
pub use hickory_proto;
pub use metrics::Metrics;
pub use server::{ListenError, Server};
pub use zone::{Answer, Basis, Maker, Mark, Meaning, Next, Question, Silence, Speaker, Step, Then, Touched, Zone};
