//! The pinned maps as typed tables: read whole, write and delete rows, sum counters.
//!
//! The agent is the only writer of all tables but `reverse` and `ports_back`, which the programs write. The order in which rows that refer
//! to one another are written is the caller's (see `weft_abi::maps`).

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, MapType, PerCpuArray};
use weft_abi::maps::{capacity, name};
use weft_abi::{
    Backend, Be32, Be128, Config, Counter, Endpoint, Frontend, FrontendKey, Network, Peer, PeerKey, PeerKey6, PortBackKey,
    PortKey, PortTarget, RangeKey, Reverse, ReverseKey, SlotKey, Verdict, Vtep, VtepKey,
};

use super::glance::{Budget, Glance};
use super::{BpfError, sys};

/// All maps of the datapath.
pub struct Maps {
    /// Container address to its device: who may send from it, and where it is handed over.
    pub endpoints: Table<Be32, Endpoint>,
    /// The same for IPv6 addresses.
    pub endpoints6: Table<Be128, Endpoint>,
    /// A network's peer subnet to the peer.
    pub peers: Table<PeerKey, Peer>,
    /// The same for IPv6 subnets.
    pub peers6: Table<PeerKey6, Peer>,
    /// Every peer's outer address, by VNI.
    pub vteps: Table<VtepKey, Vtep>,
    /// Address range to network.
    pub ranges: Table<RangeKey, u32>,
    /// Network namespace cookie to network: whose sockets are translated.
    pub netns: Table<u64, u32>,
    /// Virtual address and port to a list of backends.
    pub frontends: Table<FrontendKey, Frontend>,
    /// The lists: backend ids.
    pub slots: Table<SlotKey, u32>,
    /// Backend id to address.
    pub backends: Table<u32, Backend>,
    /// What sockets were sent where; written by the programs.
    pub reverse: Table<ReverseKey, Reverse>,
    /// Published port at a loopback address to container.
    pub ports: Table<PortKey, PortTarget>,
    /// What sockets named that were sent to a container by a published port; written by the programs.
    pub ports_back: Table<PortBackKey, PortTarget>,
    config: Array<MapData, Config>,
    networks: Array<MapData, Network>,
    counters: PerCpuArray<MapData, Counter>,
    /// Each map once more, to pin it by.
    descriptors: Vec<(&'static str, OwnedFd)>,
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}

impl Maps {
    /// Opens the maps pinned in `pins`.
    pub(super) fn open(pins: &Path) -> Result<Self, BpfError> {
        Ok(Self {
            endpoints: Table::open(pins, name::ENDPOINTS)?,
            endpoints6: Table::open(pins, name::ENDPOINTS6)?,
            peers: Table::open(pins, name::PEERS)?,
            peers6: Table::open(pins, name::PEERS6)?,
            vteps: Table::open(pins, name::VTEPS)?,
            ranges: Table::open(pins, name::RANGES)?,
            netns: Table::open(pins, name::NETNS)?,
            frontends: Table::open(pins, name::FRONTENDS)?,
            slots: Table::open(pins, name::SLOTS)?,
            backends: Table::open(pins, name::BACKENDS)?,
            reverse: Table::open(pins, name::REVERSE)?,
            ports: Table::open(pins, name::PORTS)?,
            ports_back: Table::open(pins, name::PORTS_BACK)?,
            config: open(pins, name::CONFIG, |data| Map::Array(data).try_into())?,
            networks: open(pins, name::NETWORKS, |data| Map::Array(data).try_into())?,
            counters: open(pins, name::COUNTERS, |data| Map::PerCpuArray(data).try_into())?,
            descriptors: name::ALL.into_iter().map(|name| descriptor(pins, name)).collect::<Result<_, _>>()?,
        })
    }

    /// Pins those maps in `pins` that are not pinned there. Returns how many.
    pub(super) fn restore_pins(&self, pins: &Path) -> Result<u64, BpfError> {
        let mut restored = 0;
        for (name, descriptor) in &self.descriptors {
            let path = pins.join(name);
            let failed = |op| move |source: io::Error| BpfError::Map { op, map: name, source: source.into() };
            if !path.try_exists().map_err(failed("look for pin of"))? {
                sys::obj_pin(descriptor.as_fd(), &path).map_err(failed("pin"))?;
                restored += 1;
            }
        }
        Ok(restored)
    }

    /// The first of them that is not pinned in `pins`.
    pub(super) fn unpinned(&self, pins: &Path) -> Option<&'static str> {
        self.descriptors.iter().map(|(name, _)| *name).find(|name| !pins.join(name).exists())
    }

    /// Remembers how many rows each map has, as [`Table::settle`] does. Those that programs write are left out.
    pub fn settle(&mut self) {
        self.endpoints.settle();
        self.endpoints6.settle();
        self.peers.settle();
        self.peers6.settle();
        self.vteps.settle();
        self.ranges.settle();
        self.netns.settle();
        self.frontends.settle();
        self.slots.settle();
        self.backends.settle();
        self.ports.settle();
    }

    /// Whether each map has as many rows as when they were settled.
    #[must_use]
    pub fn have_as_many_rows(&self) -> bool {
        self.endpoints.has_as_many_rows()
            && self.endpoints6.has_as_many_rows()
            && self.peers.has_as_many_rows()
            && self.peers6.has_as_many_rows()
            && self.vteps.has_as_many_rows()
            && self.ranges.has_as_many_rows()
            && self.netns.has_as_many_rows()
            && self.frontends.has_as_many_rows()
            && self.slots.has_as_many_rows()
            && self.backends.has_as_many_rows()
            && self.ports.has_as_many_rows()
    }

    /// The host's own row; all zero before it is written for the first time.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn config(&self) -> Result<Config, BpfError> {
        self.config.get(&0, 0).map_err(failed("read", name::CONFIG))
    }

    /// Writes the host's own row. A program that runs meanwhile may see part of the old and part of the new one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_config(&mut self, config: &Config) -> Result<(), BpfError> {
        self.config.set(0, config, 0).map_err(failed("write", name::CONFIG))
    }

    /// The rows of networks that are in use.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn networks(&self) -> Result<BTreeMap<u32, Network>, BpfError> {
        let mut rows = BTreeMap::new();
        for network in 0..capacity::NETWORKS {
            let row = self.network(network)?;
            if row != Network::default() {
                rows.insert(network, row);
            }
        }
        Ok(rows)
    }

    /// A network's row; all zero: there is no such network.
    ///
    /// # Errors
    /// The number is not below [`capacity::NETWORKS`], or the kernel refuses.
    pub fn network(&self, network: u32) -> Result<Network, BpfError> {
        self.networks.get(&network, 0).map_err(failed("read", name::NETWORKS))
    }

    /// Writes a network's row; all zero: there is no such network. A program that runs meanwhile may see part of the old and
    /// part of the new one.
    ///
    /// # Errors
    /// The number is not below [`capacity::NETWORKS`], or the kernel refuses.
    pub fn set_network(&mut self, network: u32, row: &Network) -> Result<(), BpfError> {
        self.networks.set(network, row, 0).map_err(failed("write", name::NETWORKS))
    }

    /// How often each verdict was reached since the maps were made, over all CPUs.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn counters(&self) -> Result<BTreeMap<Verdict, Counter>, BpfError> {
        let mut sums = BTreeMap::new();
        for verdict in Verdict::ALL {
            let rows = self.counters.get(&(*verdict as u32), 0).map_err(failed("read", name::COUNTERS))?;
            let mut sum = Counter::default();
            for row in rows.iter() {
                sum.packets = sum.packets.wrapping_add(row.packets);
                sum.bytes = sum.bytes.wrapping_add(row.bytes);
            }
            sums.insert(*verdict, sum);
        }
        Ok(sums)
    }
}

/// A hash map or a trie with typed rows. The calls for both are the same; a trie finds a row by its whole key here.
pub struct Table<K: Pod, V: Pod> {
    name: &'static str,
    map: HashMap<MapData, K, V>,
    glance: Glance<K>,
}

impl<K: Pod, V: Pod> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Table").field(&self.name).finish()
    }
}

impl<K: Pod + Ord, V: Pod> Table<K, V> {
    fn open(pins: &Path, name: &'static str) -> Result<Self, BpfError> {
        let map = open(pins, name, |data| if is_lru(name) { Map::LruHashMap(data) } else { Map::HashMap(data) }.try_into())?;
        let (_, descriptor) = descriptor(pins, name)?;
        let info = MapInfo::from_pin(pins.join(name)).map_err(failed("open", name))?;
        let is_hash = matches!(info.map_type(), Ok(MapType::Hash));
        Ok(Self { name, map, glance: Glance::new(descriptor, is_hash.then(|| info.max_entries())) })
    }

    /// Remembers that the map holds what it should: [`Table::look`] compares with now.
    pub fn settle(&mut self) {
        self.glance.settle();
    }

    /// Whether the map has as many rows as when it was settled. Costs two microseconds, whatever its size. Always true where
    /// the kernel does not tell (before 6.4).
    #[must_use]
    pub fn has_as_many_rows(&self) -> bool {
        self.glance.has_as_many_rows()
    }

    /// Looks whether the map still holds `expected`, as far as `budget` goes; the next look goes on where this one ended.
    /// Returns what is wrong.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn look(&mut self, expected: &BTreeMap<K, V>, budget: &mut Budget) -> Result<Option<&'static str>, BpfError>
    where
        V: PartialEq,
    {
        let get = |key: &K| match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(failed("read", self.name)(error)),
        };
        self.glance.look(self.name, expected, budget, get)
    }

    /// All rows. Those that are written or deleted meanwhile may be there or not.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn rows(&self) -> Result<BTreeMap<K, V>, BpfError> {
        let mut rows = BTreeMap::new();
        for row in self.map.iter() {
            match row {
                Ok((key, value)) => {
                    rows.insert(key, value);
                }
                // Deleted between being found and being read.
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(failed("list", self.name)(error)),
            }
        }
        Ok(rows)
    }

    /// One row.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn get(&self, key: &K) -> Result<Option<V>, BpfError> {
        match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(failed("read", self.name)(error)),
        }
    }

    /// Writes a row, new or not. Programs see the old row or the new one, never a mixture.
    ///
    /// # Errors
    /// The map is full (E2BIG), or the kernel refuses.
    pub fn put(&mut self, key: impl Borrow<K>, value: impl Borrow<V>) -> Result<(), BpfError> {
        self.map.insert(key, value, 0).map_err(failed("write", self.name))
    }

    /// Deletes a row. One that is not there is no error.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn delete(&mut self, key: &K) -> Result<(), BpfError> {
        match self.map.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            Err(error) => Err(failed("delete from", self.name)(error)),
        }
    }
}

/// Whether the oldest rows of a map make room for new ones.
fn is_lru(map: &str) -> bool {
    [name::REVERSE, name::PORTS_BACK].contains(&map)
}

/// Key size, value size and rows of every map.
const LAYOUT: [(&str, usize, usize, u32); name::ALL.len()] = [
    (name::CONFIG, 4, size_of::<Config>(), 1),
    (name::NETWORKS, 4, size_of::<Network>(), capacity::NETWORKS),
    (name::ENDPOINTS, size_of::<Be32>(), size_of::<Endpoint>(), capacity::ENDPOINTS),
    (name::ENDPOINTS6, size_of::<Be128>(), size_of::<Endpoint>(), capacity::ENDPOINTS),
    (name::PEERS, size_of::<PeerKey>(), size_of::<Peer>(), capacity::PEERS),
    (name::PEERS6, size_of::<PeerKey6>(), size_of::<Peer>(), capacity::PEERS),
    (name::VTEPS, size_of::<VtepKey>(), size_of::<Vtep>(), capacity::VTEPS),
    (name::RANGES, size_of::<RangeKey>(), 4, capacity::RANGES),
    (name::NETNS, 8, 4, capacity::NETNS),
    (name::FRONTENDS, size_of::<FrontendKey>(), size_of::<Frontend>(), capacity::FRONTENDS),
    (name::SLOTS, size_of::<SlotKey>(), 4, capacity::SLOTS),
    (name::BACKENDS, 4, size_of::<Backend>(), capacity::BACKENDS),
    (name::REVERSE, size_of::<ReverseKey>(), size_of::<Reverse>(), capacity::REVERSE),
    (name::PORTS, size_of::<PortKey>(), size_of::<PortTarget>(), capacity::PORTS),
    (name::PORTS_BACK, size_of::<PortBackKey>(), size_of::<PortTarget>(), capacity::PORTS_BACK),
    (name::COUNTERS, 4, size_of::<Counter>(), Verdict::COUNT),
];

/// Key size, value size and rows of a map of this layout.
pub(super) fn shape_of(map: &str) -> Option<(usize, usize, u32)> {
    LAYOUT.into_iter().find(|(name, ..)| *name == map).map(|(_, key, value, rows)| (key, value, rows))
}

/// Checks that what is pinned in `pins` is what this version means by the names. The loader takes pins as they are, and
/// programs on maps of another layout would read beyond their rows' ends or be refused with a riddle.
pub(super) fn check(pins: &Path) -> Result<(), BpfError> {
    for (name, key, value, rows) in LAYOUT {
        let path = pins.join(name);
        if !path.exists() {
            continue;
        }
        let info = MapInfo::from_pin(&path).map_err(failed("open", name))?;
        let found = (info.key_size() as usize, info.value_size() as usize, info.max_entries());
        if found != (key, value, rows) {
            let why = format!(
                "has rows of {}+{} bytes and room for {} of them, not {key}+{value} and {rows}",
                found.0, found.1, found.2
            );
            return Err(BpfError::Layout { path, why });
        }
    }
    Ok(())
}

/// Opens a pin.
fn open<M>(pins: &Path, name: &'static str, typed: impl FnOnce(MapData) -> Result<M, MapError>) -> Result<M, BpfError> {
    MapData::from_pin(pins.join(name)).and_then(typed).map_err(failed("open", name))
}

fn descriptor(pins: &Path, name: &'static str) -> Result<(&'static str, OwnedFd), BpfError> {
    let fd = sys::obj_get(&pins.join(name));
    fd.map(|fd| (name, fd)).map_err(|source| BpfError::Map { op: "open", map: name, source: source.into() })
}

fn failed(op: &'static str, map: &'static str) -> impl Fn(MapError) -> BpfError {
    move |source| BpfError::Map { op, map, source: source.into() }
}
