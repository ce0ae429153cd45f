//! The brain: what a host's kernel should hold, computed from a snapshot, and the actions that get it there.
//!
//! Pure: no tokio, aya, netlink, files or clock. What is wanted depends on the inputs alone, never on history, so an agent
//! that has just started and one that has run for a year plan the same.
//!
//! ```text
//!   Snapshot ─┐                      ┌─▶ kernel::Rows ─┐
//!             ├─ desired() ─ Desired ┤                 ├─ diff(desired, actual) ─▶ ordered actions
//!   Host ─────┘                      └─▶ maps::Rows ───┘
//! ```
//!
//! Read [`host`] for what is taken as given, [`peers`] for which leases count, [`kernel`] for the order of actions. One module
//! per kernel table says what its rows are: [`links`], [`addresses`], [`routes`], [`neighbors`], [`sysctls`], [`maps`].
//! [`nft`] is the packet filter's table, [`forward`] the way past other owners' filters. [`ipam`] chooses subnets and addresses.
//! [`publish`] says which ports of the host lead to which container. [`reasons`] says what a row is there for.

pub mod addresses;
pub mod diff;
pub mod forward;
pub mod host;
pub mod ipam;
pub mod kernel;
pub mod links;
pub mod maps;
pub mod neighbors;
pub mod nft;
pub mod peers;
pub mod publish;
pub mod reasons;
pub mod routes;
pub mod sysctls;

pub use diff::{Row, Step, Table};
pub use host::{Attachment, Host, Membership, OnLink, Uplink};
pub use peers::{Peer, Peers, Skipped, Way};

use std::fmt;

use ipnet::IpNet;
use weft_abi::maps::SERVICE_CIDRS;
use weft_model::snapshot::Snapshot;

/// What the host should hold.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// The kernel path.
    pub kernel: kernel::Rows,
    /// The fast path's maps.
    pub maps: maps::Rows,
    /// The other hosts, for `status`.
    pub peers: Peers,
    /// What could not be taken into account, for `status` and the log.
    pub warnings: Vec<Warning>,
}

/// Something in the snapshot that this host cannot follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// A lease that is not used, and why.
    Lease(Skipped),
    /// More service ranges than the programs can hold: this one is on the kernel path's `unreachable` routes only.
    ServiceRange(IpNet),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lease(skipped) => skipped.fmt(f),
            Self::ServiceRange(range) => {
                write!(f, "service range {range} is left out of the programs: they hold {SERVICE_CIDRS} ranges")
            }
        }
    }
}

/// What `host` should hold, given the cluster as `snapshot` shows it.
#[must_use]
pub fn desired(snapshot: &Snapshot, host: &Host) -> Desired {
    let peers = peers::of(snapshot, host);
    let cluster = snapshot.cluster();
    let warnings = peers
        .of_all()
        .flat_map(|(_, peers)| &peers.skipped)
        .filter(|skipped| skipped.why.is_odd())
        .cloned()
        .map(Warning::Lease)
        .chain(maps::ranges_left_out(&cluster).map(Warning::ServiceRange))
        .collect();
    let kernel = kernel::desired(&cluster, host, &peers);
    let maps = maps::desired(&cluster, host, &peers);
    Desired { kernel, maps, peers, warnings }
}
