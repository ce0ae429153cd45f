//! What a virtual IP stands for, and the map rows that say so.
//!
//! Pure: a snapshot goes in, rows and actions come out. No sockets, clocks, tasks or kernel here, and no packet passes: the
//! programs in `weft-ebpf` do the work where a connection is made, with the rows that the agent writes as told here.
//!
//! ```text
//!   Snapshot ─▶ Context::of ─┐
//!       └──────────────────▶ pick::resolve ─▶ Services ─▶ lists::wanted ─▶ lists::desired ─▶ Rows ─▶ rows::diff ─▶ actions
//!                                 │                                            ▲   ▲                    ▲
//!                                 └─▶ service show, DNS                      Ids   └── what is pinned ──┘
//! ```
//!
//! | module | what it decides |
//! |---|---|
//! | [`context`] | which addresses are never backends, and who owns a virtual IP |
//! | [`pick`] | which endpoints stand behind each port of a service |
//! | [`quarantine`] | which backends this host has had no luck with |
//! | [`resolver`] | the same for all services, at the cost of what changed |
//! | [`vip`] | the virtual IP of a new service |
//! | [`lists`] | ids, and where in its list each backend stands |
//! | [`rows`] | the maps' contents, and the order of writing |

pub mod context;
pub mod lists;
pub mod pick;
pub mod quarantine;
pub mod resolver;
pub mod rows;
pub mod vip;

pub use context::Context;
pub use lists::{Desired, Ids, Limits, desired, wanted};
pub use pick::{Resolved, Services, backends, resolve, resolve_some};
pub use quarantine::Quarantine;
pub use resolver::{Changed, Resolver};
pub use rows::{Action, Rows, diff};
pub use vip::choose_vip;
