//! What survives the process: the state directory.
//!
//! | file | holds |
//! |---|---|
//! | `node.json` | who this host is: instance, VTEP MACs, last subnets |
//! | `networks.json` | further networks: the numbers that rows know them by, and the subnet last had in each |
//! | `attachments.log` | who has which address, and when an address was last given back: see [`journal`] |
//! | `registrations.json` | what programs of this host have registered: see `registered` |
//! | `store.redb` | the embedded store, on a host without etcd |
//! | `lock` | held while an agent runs |
//!
//! Files but the log are replaced whole: written beside, synced, renamed. They are for their owner only: checks may bear passwords, and
//! a registration's session is what keeps others from saying something in its place. Losing the directory loses no network: subnet, MAC and leases
//! are read back from the store, and attachments and registrations from copies in the run directory, which last as long as they can:
//! until the next boot. The run directory also has `uplink.json`, the uplink of the last agent (`last_uplink`).

pub mod journal;
mod registered;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use weft_model::attachment::{Description, Instance, Owner};
use weft_model::check::Check;
use weft_model::ids::{EndpointId, NetworkName, ServiceLabel, ServiceName};
use weft_model::mac::Mac;
use weft_model::publish::Publish;
use weft_model::record::Proto;

use crate::attach::handed::Handed;
use crate::last_uplink::LastUplink;
use crate::networks::Remembered;
use journal::Log;

/// The mode of all that is written here.
const PRIVATE: u32 = 0o600;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file operation went wrong.
    #[error("{op} {}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what we wrote.
    #[error("read {}: it is damaged; move it away to start without it", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Where.
        #[source]
        source: serde_json::Error,
    },
    /// Another agent runs on it.
    #[error("{} is in use by another weftd; stop that one, or set --state-dir and --run-dir", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

/// The state directory, held by this process.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    run_dir: PathBuf,
    _lock: nix::fcntl::Flock<File>,
}

/// Who this host is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// Random; made with the directory.
    pub instance: String,
    /// MAC of the VXLAN device over IPv4.
    pub vtep_mac: Mac,
    /// The same of the one over IPv6.
    #[serde(default = "unset")]
    pub vtep_mac6: Mac,
    /// The subnet it last had.
    #[serde(default)]
    pub subnet: Option<Ipv4Net>,
    /// The same of IPv6.
    #[serde(default)]
    pub subnet6: Option<Ipv6Net>,
}

/// What stands for an address that an earlier version did not have.
fn unset() -> Mac {
    Mac([0; 6])
}

/// An attached namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The endpoint's id.
    pub id: EndpointId,
    /// The namespace, as it was given.
    pub netns: PathBuf,
    /// Device and inode of the namespace: what it really is.
    pub netns_id: (u64, u64),
    /// The kernel's cookie for it, which socket programs see.
    pub netns_cookie: u64,
    /// The interface in it.
    pub ifname: String,
    /// The device on the host's side.
    pub host_ifname: String,
    /// The network it is in; none is the default one.
    #[serde(default)]
    pub network: Option<NetworkName>,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its IPv6 address.
    #[serde(default)]
    pub address6: Option<Ipv6Addr>,
    /// Its MAC.
    pub mac: Mac,
    /// Its gateway.
    pub gateway: Ipv4Addr,
    /// Where the gateway leads to.
    #[serde(default = "everywhere")]
    pub routes: Vec<IpNet>,
    /// Its MTU, bytes: what it was set to last.
    pub mtu: u32,
    /// The boot it was attached in; namespaces do not outlive one.
    pub boot: String,
    /// When it was attached, in milliseconds since 1970; 0 is unknown.
    #[serde(default)]
    pub born: u64,
    /// What people call it.
    #[serde(default)]
    pub name: Option<String>,
    /// The service it is an instance of.
    #[serde(default)]
    pub service: Option<ServiceName>,
    /// The port it serves there.
    #[serde(default)]
    pub port: Option<u16>,
    /// The port's protocol.
    #[serde(default)]
    pub proto: Proto,
    /// Labels for selectors.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether its namespace had an interface of ours before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub further: bool,
    /// Whether it is being detached: nobody is sent there any more, and a new agent makes an end of it.
    #[serde(default)]
    pub withdrawing: bool,
    /// The tool that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Further names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<ServiceLabel>,
    /// What it is an instance of beside `service`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<Instance>,
    /// What its runtime says of its container, where the agent follows that runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned: Option<Description>,
    /// Ports of the host that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<Publish>,
    /// How it is asked whether it is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
}

/// Now, in milliseconds since 1970: what ages are told by; 0 if the clock stands before.
#[must_use]
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What attachments had before there was a choice.
pub fn everywhere() -> Vec<IpNet> {
    vec![Ipv4Net::default().into(), Ipv6Net::default().into()]
}

/// All attachments of a host, and the history of its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// By id.
    pub attachments: BTreeMap<EndpointId, Attachment>,
    /// When an address was given back, in a count that only grows: the least recently used is given first.
    #[serde(default)]
    pub released: BTreeMap<Ipv4Addr, u64>,
    /// What tools hold beside.
    #[serde(default, skip_serializing_if = "Handed::is_empty")]
    pub handed: Handed,
}

impl StateDir {
    /// Takes hold of the directory, making it if need be.
    ///
    /// # Errors
    /// It cannot be made, or another agent has it.
    pub fn open(path: &Path, run_dir: &Path) -> Result<Self, StateError> {
        let io = |op, path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io { op, path, source }
        };
        std::fs::create_dir_all(path).map_err(io("make", path))?;
        std::fs::create_dir_all(run_dir).map_err(io("make", run_dir))?;
        let lock = path.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&lock).map_err(io("open", &lock))?;
        match nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path: path.to_owned(), run_dir: run_dir.to_owned(), _lock: lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(StateError::InUse { path: path.to_owned() }),
            Err((_, errno)) => Err(io("lock", &lock)(errno.into())),
        }
    }

    /// Where the embedded store is.
    #[must_use]
    pub fn store_path(&self) -> PathBuf {
        self.path.join("store.redb")
    }

    /// Where this boot's things are: the socket, and the requests of those who found nobody there.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// Who this host is; made up if nobody knows.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn node(&self) -> Result<NodeState, StateError> {
        if let Some(state) = read::<NodeState>(&self.path.join("node.json"))? {
            if state.vtep_mac6 != unset() {
                return Ok(state);
            }
            let state = NodeState { vtep_mac6: Mac::local_from(random()?), ..state };
            self.write_node(&state)?;
            return Ok(state);
        }
        let instance: String = random::<8>()?.iter().map(|b| format!("{b:02x}")).collect();
        let mac = || Ok::<_, StateError>(Mac::local_from(random()?));
        let state = NodeState { instance, vtep_mac: mac()?, vtep_mac6: mac()?, subnet: None, subnet6: None };
        self.write_node(&state)?;
        Ok(state)
    }

    /// Remembers who this host is.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_node(&self, state: &NodeState) -> Result<(), StateError> {
        write(&self.path.join("node.json"), state, true)
    }

    /// The networks besides the default one.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn networks(&self) -> Result<BTreeMap<NetworkName, Remembered>, StateError> {
        Ok(read(&self.path.join("networks.json"))?.unwrap_or_default())
    }

    /// Remembers the networks besides the default one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_networks(&self, networks: &BTreeMap<NetworkName, Remembered>) -> Result<(), StateError> {
        write(&self.path.join("networks.json"), networks, true)
    }

    /// The attachments, and the log that goes on with them.
    ///
    /// # Errors
    /// A file cannot be read, is damaged, or cannot be written.
    pub fn journal(&self) -> Result<(Journal, Log), StateError> {
        Log::open(&self.path, &self.run_dir)
    }

    /// Forgets all attachments, whatever is known of them.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn forget_attachments(&self) -> Result<(), StateError> {
        Log::anew(&self.path, &self.run_dir, &Journal::default()).map(drop)
    }

    /// The uplink of the last agent.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn uplink(&self) -> Result<Option<LastUplink>, StateError> {
        read(&self.run_dir.join("uplink.json"))
    }

    /// Remembers the uplink, for the next agent of this boot.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_uplink(&self, uplink: &LastUplink) -> Result<(), StateError> {
        write(&self.run_dir.join("uplink.json"), uplink, false)
    }

    /// Forgets it.
    ///
    /// # Errors
    /// The file is there and cannot be removed.
    pub fn forget_uplink(&self) -> Result<(), StateError> {
        let path = self.run_dir.join("uplink.json");
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(StateError::Io { op: "remove", path, source }),
            _ => Ok(()),
        }
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateError> {
    match std::fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).map_err(|source| StateError::Damaged { path: path.to_owned(), source })
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StateError::Io { op: "read", path: path.to_owned(), source }),
    }
}

/// Opens a file to write, anew, that nobody but its owner can read, whoever made it.
fn create(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new().create(true).truncate(true).write(true).mode(PRIVATE).open(path)?;
    // One that was there has the mode that it was made with.
    file.set_permissions(Permissions::from_mode(PRIVATE))?;
    Ok(file)
}

/// Replaces a file whole. With `durable` it is on the disk when this returns.
fn write<T: Serialize>(path: &Path, value: &T, durable: bool) -> Result<(), StateError> {
    let beside = path.with_extension("new");
    let attempt = || -> std::io::Result<()> {
        let mut file = create(&beside)?;
        file.write_all(&serde_json::to_vec_pretty(value)?)?;
        if durable {
            file.sync_all()?;
        }
        std::fs::rename(&beside, path)?;
        match path.parent().filter(|_| durable) {
            // The rename itself is durable only once the directory is.
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    };
    attempt().map_err(|source| StateError::Io { op: "write", path: path.to_owned(), source })
}

/// Random bytes from the kernel.
fn random<const N: usize>() -> Result<[u8; N], StateError> {
    use std::io::Read;
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; N];
    let read = File::open(path).and_then(|mut f| f.read_exact(&mut bytes));
    read.map_err(|source| StateError::Io { op: "read", path: path.to_owned(), source })?;
    Ok(bytes)
}

/// The kernel's id of this boot.
///
/// # Errors
/// procfs cannot be read.
pub fn boot_id() -> Result<String, StateError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = std::fs::read_to_string(path).map_err(|source| StateError::Io { op: "read", path: path.to_owned(), source })?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path(), &dir.path().join("run")).unwrap().node().unwrap();
        assert_eq!(StateDir::open(dir.path(), &dir.path().join("run")).unwrap().node().unwrap(), first);
    }

    #[test]
    fn an_identity_of_an_earlier_version_is_completed_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("node.json"), r#"{"instance":"i","vtep_mac":"02:00:00:00:00:01"}"#).unwrap();
        let open = || StateDir::open(dir.path(), &dir.path().join("run")).unwrap().node().unwrap();
        let first = open();
        assert_eq!((first.instance.as_str(), first.vtep_mac.to_string().as_str()), ("i", "02:00:00:00:00:01"));
        assert!(first.vtep_mac6 != unset() && first.vtep_mac6 != first.vtep_mac);
        assert_eq!(open(), first);
    }

    #[test]
    fn a_second_agent_is_refused_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let held = StateDir::open(dir.path(), &dir.path().join("run")).unwrap();
        assert!(StateDir::open(dir.path(), &dir.path().join("run")).unwrap_err().to_string().contains("in use by another weftd"));
        std::fs::write(dir.path().join("attachments.json"), "{").unwrap();
        assert!(held.journal().unwrap_err().to_string().contains("attachments.json"));
    }
}
