//! Every map, and the library's view of them. Names and sizes are those of `weft_abi::maps`.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use weft_abi::maps::capacity;
use weft_abi::{
    Backend, Be32, Be128, Config, Counter, Endpoint, Frontend, FrontendKey, Network, Peer, PeerKey, PeerKey6, PortBackKey,
    PortKey, PortTarget, Reverse, ReverseKey, SlotKey, Verdict, Vtep, VtepKey,
};
use weft_ebpf::tables::Tables;

#[map(name = "weft_config")]
static CONFIG: Array<Config> = Array::pinned(1, 0);
#[map(name = "weft_networks")]
static NETWORKS: Array<Network> = Array::pinned(capacity::NETWORKS, 0);
#[map(name = "weft_endpoints")]
static ENDPOINTS: HashMap<Be32, Endpoint> = HashMap::pinned(capacity::ENDPOINTS, BPF_F_NO_PREALLOC);
#[map(name = "weft_endpoints6")]
static ENDPOINTS6: HashMap<Be128, Endpoint> = HashMap::pinned(capacity::ENDPOINTS, BPF_F_NO_PREALLOC);
#[map(name = "weft_peers")]
static PEERS: HashMap<PeerKey, Peer> = HashMap::pinned(capacity::PEERS, BPF_F_NO_PREALLOC);
#[map(name = "weft_peers6")]
static PEERS6: HashMap<PeerKey6, Peer> = HashMap::pinned(capacity::PEERS, BPF_F_NO_PREALLOC);
#[map(name = "weft_vteps")]
static VTEPS: HashMap<VtepKey, Vtep> = HashMap::pinned(capacity::VTEPS, BPF_F_NO_PREALLOC);
/// A trie's key is [`weft_abi::RangeKey`]; the library's own type for it has the same layout.
#[map(name = "weft_ranges")]
static RANGES: LpmTrie<Be128, u32> = LpmTrie::pinned(capacity::RANGES, 0);
#[map(name = "weft_netns")]
static NETNS: HashMap<u64, u32> = HashMap::pinned(capacity::NETNS, BPF_F_NO_PREALLOC);
#[map(name = "weft_frontends")]
static FRONTENDS: HashMap<FrontendKey, Frontend> = HashMap::pinned(capacity::FRONTENDS, BPF_F_NO_PREALLOC);
#[map(name = "weft_slots")]
static SLOTS: HashMap<SlotKey, u32> = HashMap::pinned(capacity::SLOTS, BPF_F_NO_PREALLOC);
#[map(name = "weft_backends")]
static BACKENDS: HashMap<u32, Backend> = HashMap::pinned(capacity::BACKENDS, BPF_F_NO_PREALLOC);
#[map(name = "weft_reverse")]
static REVERSE: LruHashMap<ReverseKey, Reverse> = LruHashMap::pinned(capacity::REVERSE, 0);
#[map(name = "weft_ports")]
static PORTS: HashMap<PortKey, PortTarget> = HashMap::pinned(capacity::PORTS, BPF_F_NO_PREALLOC);
#[map(name = "weft_ports_back")]
static PORTS_BACK: LruHashMap<PortBackKey, PortTarget> = LruHashMap::pinned(capacity::PORTS_BACK, 0);
#[map(name = "weft_counters")]
static COUNTERS: PerCpuArray<Counter> = PerCpuArray::pinned(Verdict::COUNT, 0);

/// A copy of a row, if there is one.
macro_rules! row {
    ($map:ident, $key:expr) => {
        // SAFETY: the pointer is from a lookup in this run of the program. Rows of these maps are not preallocated, so
        // one that is deleted meanwhile stays readable until the run ends (RCU); the kernel replaces rows as a whole.
        $map.get_ptr($key).map(|row| unsafe { *row })
    };
}

/// A row itself, if there is one: it stays as it was found until the run ends (see [`row`]).
macro_rules! row_ref {
    ($map:ident, $key:expr) => {
        // SAFETY: as for `row`; rows of these maps are only ever replaced as a whole.
        $map.get_ptr($key).map(|row| unsafe { &*row })
    };
}

/// Counts a verdict. Returns how many packets this CPU had counted for it before.
#[inline(always)]
pub(crate) fn count(verdict: Verdict, packets: u64, bytes: u64) -> u64 {
    let Some(row) = COUNTERS.get_ptr_mut(verdict as u32) else { return 0 };
    // SAFETY: the row is this CPU's own, and programs are not preempted by one another on one hook.
    unsafe {
        let before = (*row).packets;
        (*row).packets = before + packets;
        (*row).bytes += bytes;
        before
    }
}

/// The packet hooks' view of the maps.
pub(crate) struct PacketTables;

#[inline(always)]
fn config() -> Option<&'static Config> {
    // SAFETY: an array's row is there for as long as the map, which outlives the program.
    CONFIG.get_ptr(0).map(|row| unsafe { &*row })
}

/// Whether ports of the host are published.
#[inline(always)]
pub(crate) fn is_publishing() -> bool {
    config().is_some_and(Config::is_publishing)
}

impl Tables for PacketTables {
    #[inline(always)]
    fn config(&self) -> Option<&Config> {
        config()
    }
    /// The agent writes a row while programs run; what they read of it then is part old, part new, as with [`config`]: a packet
    /// or two at such a moment may go by the stack or be dropped as from nobody.
    #[inline(always)]
    fn network(&self, number: u32) -> Option<&Network> {
        // SAFETY: an array's row is there for as long as the map, which outlives the program.
        NETWORKS.get_ptr(number).map(|row| unsafe { &*row })
    }
    #[inline(always)]
    fn endpoint(&self, addr: Be32) -> Option<&Endpoint> {
        row_ref!(ENDPOINTS, addr)
    }
    #[inline(always)]
    fn endpoint6(&self, addr: Be128) -> Option<&Endpoint> {
        row_ref!(ENDPOINTS6, addr)
    }
    #[inline(always)]
    fn peer(&self, key: &PeerKey) -> Option<&Peer> {
        row_ref!(PEERS, key)
    }
    #[inline(always)]
    fn peer6(&self, key: &PeerKey6) -> Option<&Peer> {
        row_ref!(PEERS6, key)
    }
    #[inline(always)]
    fn vtep(&self, key: &VtepKey) -> Option<&Vtep> {
        row_ref!(VTEPS, key)
    }
    #[inline(always)]
    fn range(&self, addr: Be128) -> u32 {
        // Not an option: of a copied one without a value, LLVM 22 reads the value's register, which the verifier refuses.
        RANGES.get(Key::new(128, addr)).map_or(0, |network| *network)
    }
}

/// The maps as the socket hooks see them; what is the caller's own they add themselves.
pub(crate) struct SocketTables;

impl SocketTables {
    #[inline(always)]
    pub(crate) fn config(&self) -> Option<&Config> {
        config()
    }
    #[inline(always)]
    pub(crate) fn network(&self, netns_cookie: u64) -> Option<u32> {
        row!(NETNS, netns_cookie)
    }
    #[inline(always)]
    pub(crate) fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        row!(FRONTENDS, key)
    }
    #[inline(always)]
    pub(crate) fn slot(&self, key: &SlotKey) -> Option<u32> {
        row!(SLOTS, key)
    }
    #[inline(always)]
    pub(crate) fn backend(&self, id: u32) -> Option<Backend> {
        row!(BACKENDS, id)
    }
    #[inline(always)]
    pub(crate) fn recall(&self, key: &ReverseKey) -> Option<Reverse> {
        // The LRU map is preallocated: a row may be given to another key while it is read. Then the record would be
        // another socket's; `sockets::inbound` believes it only if the service stands behind the address it names.
        row!(REVERSE, key)
    }
    #[inline(always)]
    pub(crate) fn remember(&self, key: &ReverseKey, value: &Reverse) -> bool {
        REVERSE.insert(key, value, 0).is_ok()
    }
    #[inline(always)]
    pub(crate) fn forget(&self, key: &ReverseKey) {
        // Gone already is as good.
        let _ = REVERSE.remove(key);
    }
    #[inline(always)]
    pub(crate) fn port(&self, key: &PortKey) -> Option<PortTarget> {
        row!(PORTS, key)
    }
    #[inline(always)]
    pub(crate) fn recall_port(&self, key: &PortBackKey) -> Option<PortTarget> {
        // As with `recall`: believed only if the port that it names leads to where the packet came from.
        row!(PORTS_BACK, key)
    }
    #[inline(always)]
    pub(crate) fn remember_port(&self, key: &PortBackKey, value: &PortTarget) -> bool {
        PORTS_BACK.insert(key, value, 0).is_ok()
    }
    #[inline(always)]
    pub(crate) fn forget_port(&self, key: &PortBackKey) {
        // Gone already is as good.
        let _ = PORTS_BACK.remove(key);
    }
}
