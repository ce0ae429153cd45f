//! Devices, addresses, neighbours and routes by routing netlink: what is ours is read back, what a plan says is done.
//!
//! Nothing here decides anything: [`Netlink::observe`] gives the rows of ours as `weft-plan` has them, [`Netlink::apply`]
//! carries out one of its actions. What a restarted agent with no memory knows as its own:
//!
//! | object | ours are |
//! |---|---|
//! | VXLAN devices | named `weft.<VNI>` and `weft6.<VNI>` |
//! | veth host ends | named `weft` and ten hexadecimal digits |
//! | addresses | all addresses of those devices but link-local ones without our mark; elsewhere those that bear our protocol number (`IFA_PROTO`, kernel 5.18) |
//! | neighbours, forwarding entries | the permanent ones of those devices |
//! | routes | those of the main table with our protocol number |
//!
//! Read [`apply`](Netlink::apply) for what counts as done, [`events`] for how a change by others is noticed, [`uplink`] for
//! the one thing that is read of devices that are not ours.

mod act;
pub mod events;
mod link;
mod observe;
mod on_link;
mod removal;
mod socket;
pub mod uplink;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use netlink_packet_route::link::{InfoKind, LinkAttribute};
use weft_model::mac::Mac;
use weft_plan::Table;
use weft_plan::kernel::{Action, Rows};
use weft_plan::links::{is_veth_name, is_vxlan_name};
use weft_plan::routes::Route;
use weft_plan::sysctls::Sysctl;

use super::netns::NetNs;
use super::sysctl::{self, SysctlError};
pub(crate) use act::{
    add_address, add_neighbor, add_route, device_by_name, no_autoconf, remove_device, set_link, unless_without_ipv6,
};
pub(crate) use observe::{addresses_of as addresses, devices, list_routes, local, local6, output};
pub use socket::Answer;
pub(crate) use socket::{Socket, grow, messages};

/// The alias of a veth's host end whose making was finished.
pub(crate) const FINISHED: &str = "weft";

/// Why the kernel's tables could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("open a netlink socket{}", place.as_ref().map(|p| format!(" in {p}")).unwrap_or_default())]
    Open {
        /// The namespace, unless it is the agent's own.
        place: Option<String>,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A table could not be listed.
    #[error("list {table}")]
    List {
        /// The table.
        table: &'static str,
        /// What the kernel said.
        #[source]
        source: Answer,
    },
    /// A change was refused.
    #[error("{what}")]
    Refused {
        /// The change, with its subject.
        what: String,
        /// What the kernel said.
        #[source]
        source: Answer,
    },
    /// Something that is not ours has the place.
    #[error("{what}: there is one that is not ours, which is left alone; remove it, or change what both claim")]
    InTheWay {
        /// The change, with its subject.
        what: String,
        /// What the kernel said.
        #[source]
        source: Answer,
    },
    /// A setting could not be read or written.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The runtime is shutting down.
    #[error("{what}: the agent is ending")]
    Ending {
        /// What was to be done.
        what: &'static str,
    },
}

impl NetlinkError {
    /// The kernel's error number, 0 if there is none.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::List { source, .. } | Self::Refused { source, .. } | Self::InTheWay { source, .. } => source.code(),
            Self::Open { source, .. } => source.raw_os_error().unwrap_or(0),
            Self::Sysctl(_) | Self::Ending { .. } => 0,
        }
    }
}

/// A VXLAN device, as far as it can be in another's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanDevice {
    /// Its name.
    pub name: String,
    /// Whether the name is one that we give.
    pub ours: bool,
    /// Whether it is set up.
    pub up: bool,
    /// Its network identifier; 0 for one that takes any (`external`).
    pub vni: u32,
    /// Its UDP port.
    pub port: u16,
}

/// A handle on the tables of one network namespace. Clones share it; what they do is done one after the other.
#[derive(Clone, Debug)]
pub struct Netlink {
    socket: Arc<Mutex<Socket>>,
    /// Where it is, if not where the agent is: settings have no socket.
    netns: Option<Arc<NetNs>>,
}

impl Netlink {
    /// A handle on the network namespace of the calling thread.
    ///
    /// # Errors
    /// When there can be no socket.
    pub fn new() -> Result<Self, NetlinkError> {
        let socket = Socket::open().map_err(|source| NetlinkError::Open { place: None, source })?;
        Ok(Self { socket: Arc::new(Mutex::new(socket)), netns: None })
    }

    /// A handle on another network namespace. It stays usable (and the namespace alive) as long as it is kept.
    ///
    /// # Errors
    /// When the namespace cannot be entered or there can be no socket.
    pub fn in_namespace(netns: Arc<NetNs>) -> Result<Self, NetlinkError> {
        let socket = open_in(&netns)?;
        Ok(Self { socket: Arc::new(Mutex::new(socket)), netns: Some(netns) })
    }

    /// All rows of ours, and the settings that are asked about (with what they are set to; those that this kernel lacks are
    /// left out).
    ///
    /// # Errors
    /// When a table cannot be listed. What cannot be known is never taken for gone.
    pub async fn observe(&self, settings: &Table<Sysctl>) -> Result<Rows, NetlinkError> {
        let (settings, netns) = (settings.clone(), self.netns.clone());
        self.with("list the kernel's tables", move |socket| {
            let mut rows = observe::rows(socket)?;
            rows.sysctls = visit(netns.as_deref(), || sysctl::read_all(&settings))?;
            Ok(rows)
        })
        .await
    }

    /// Carries out one action. Done already is done: what is to be removed may be gone, and a route that is to be added may
    /// be there, if it is exactly that one.
    ///
    /// # Errors
    /// Names the action and what the kernel said.
    pub async fn apply(&self, action: &Action) -> Result<(), NetlinkError> {
        let (action, netns) = (action.clone(), self.netns.clone());
        self.with("change the kernel's tables", move |socket| match &action {
            Action::Sysctl(step) => visit(netns.as_deref(), || sysctl::write(step.row())),
            action => act::apply(socket, action),
        })
        .await
    }

    /// Adds a route before those of others that have its destination and metric: it counts, and theirs stay.
    ///
    /// # Errors
    /// As [`Netlink::apply`]. In IPv6 Linux puts such a route last, so there it is refused.
    pub async fn add_route_before(&self, route: &Route) -> Result<(), NetlinkError> {
        let route = route.clone();
        self.with("change the kernel's tables", move |socket| {
            act::add_route_before(socket, &route).map_err(|source| act::refused(format!("add {route} before others"), source))
        })
        .await
    }

    /// Removes a device by name, whatever it is; one that is not there is removed.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_device(&self, name: &str) -> Result<(), NetlinkError> {
        let name = name.to_owned();
        self.with("remove a link", move |socket| act::remove_device(socket, &name)).await
    }

    /// A VXLAN device of somebody else's with this network identifier and UDP port: Linux has one of each pair.
    ///
    /// # Errors
    /// When devices cannot be listed.
    pub async fn foreign_vxlan(&self, vni: u32, port: u16) -> Result<Option<String>, NetlinkError> {
        self.with("list devices", move |socket| {
            let is_it = |d: &link::Device| d.kind.as_deref() == Some("vxlan") && (d.vxlan.vni, d.vxlan.port) == (vni, port);
            let mut devices = observe::devices(socket, Some(InfoKind::Vxlan))?.into_iter();
            Ok(devices.find(|d| is_it(d) && !is_vxlan_name(&d.name)).map(|d| d.name))
        })
        .await
    }

    /// Removes veth pairs of ours that were not made to their end ([`super::veth::create`] marks those that were): whoever
    /// made them was killed.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_unfinished_veths(&self) -> Result<(), NetlinkError> {
        self.with("remove a link", move |socket| {
            let devices = observe::devices(socket, Some(InfoKind::Veth))?;
            let ours = devices.iter().filter(|d| d.kind.as_deref() == Some("veth") && is_veth_name(&d.name));
            for device in ours.filter(|d| d.alias.as_deref() != Some(FINISHED)) {
                act::remove_device(socket, &device.name)?;
            }
            Ok(())
        })
        .await
    }

    /// All VXLAN devices, anybody's.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn vxlans(&self) -> Result<Vec<VxlanDevice>, NetlinkError> {
        self.with("list the VXLAN devices", move |socket| {
            let devices = observe::devices(socket, Some(InfoKind::Vxlan))?;
            let vxlans = devices.into_iter().filter(|d| d.kind.as_deref() == Some("vxlan"));
            Ok(vxlans
                .map(|d| VxlanDevice {
                    ours: is_vxlan_name(&d.name),
                    up: d.up,
                    vni: d.vxlan.vni,
                    port: d.vxlan.port,
                    name: d.name,
                })
                .collect())
        })
        .await
    }

    /// Gives a veth's end that bears this Ethernet address its name back, if it is there under another. Whether it is.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn restore_veth_name(&self, mac: Mac, name: &str) -> Result<bool, NetlinkError> {
        let name = name.to_owned();
        self.with("rename a link", move |socket| {
            let renamed =
                observe::devices(socket, Some(InfoKind::Veth))?.into_iter().find(|d| d.mac == Some(mac) && d.name != name);
            let Some(device) = renamed.filter(|d| d.kind.as_deref() == Some("veth")) else { return Ok(false) };
            // Linux renames a device that is up since 6.2 (commit bd039b5ea2a9).
            let named = set_link(socket, device.index, vec![LinkAttribute::IfName(name.clone())], None);
            named.map_err(|source| act::refused(format!("rename link {} to {name}", device.name), source))?;
            Ok(true)
        })
        .await
    }

    /// Runs `work` with the socket on a thread that may block. If the caller gives up waiting, the work is finished all the
    /// same, so that nothing is left half done.
    pub(crate) async fn with<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&mut Socket) -> Result<T, NetlinkError> + Send + 'static,
    ) -> Result<T, NetlinkError> {
        let socket = Arc::clone(&self.socket);
        let done = tokio::task::spawn_blocking(move || {
            // A panic in between leaves at most an unread answer, which the next request skips by its number.
            let mut socket = socket.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut socket)
        });
        match done.await {
            Ok(result) => result,
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(_) => Err(NetlinkError::Ending { what }),
        }
    }
}

/// Does something with settings where the handle is.
fn visit<T: Send>(netns: Option<&NetNs>, work: impl FnOnce() -> Result<T, SysctlError> + Send) -> Result<T, NetlinkError> {
    let done = match netns {
        None => work(),
        Some(netns) => netns.run(work).map_err(|source| enter(netns, source))?,
    };
    Ok(done?)
}

fn enter(netns: &NetNs, source: io::Error) -> NetlinkError {
    NetlinkError::Open { place: Some(netns.path().display().to_string()), source }
}

/// A socket in another network namespace.
pub(crate) fn open_in(netns: &NetNs) -> Result<Socket, NetlinkError> {
    netns.run(Socket::open).and_then(|opened| opened).map_err(|source| enter(netns, source))
}
