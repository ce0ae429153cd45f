//! A host that behaves as one with flanneld on it does, in etcd mode with the `vxlan` backend.
//!
//! [`FlannelShaped`] is **not flanneld**: flannel is in no package registry that the tests may use, so it is played. What it
//! does that another host can see is flannel's: the claim (transaction on "version is 0", a lease of 24 h, the value to the
//! letter), the take-over of a key by PublicIP, renewal by a new lease and an unconditional put, the device `flannel.<VNI>`
//! with a random MAC, what is programmed for a peer and in which order, `subnet.env`, the end when its own key goes, and what
//! it does about keys that it cannot read ([`reading`]). etcd is real and so is the kernel.
//!
//! What is not played, because nobody else sees it or no test needs it: ten tries with doubling delays at each failed
//! netlink call (so entries of a table that was emptied go at once, and not after some 155 s), one TimeToLive call per key,
//! packet filter rules, `--ip-masq`, etcd's compaction, backends other than `vxlan`, the last subnet of a dual-stack host.
//!
//! Containers on such a host are [`bridge`](crate::bridge)'s, as flannel's CNI plugin has them made.

mod kernel;
pub mod reading;

use std::io::Read;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::etcd::{Client, Entry, EtcdHandle, Watch};
use crate::eventually::{SOON, eventually};
use crate::flannel::kernel::Device;
use crate::flannel::reading::{Key, Lease, Subnet, Table, Todo, attrs, key};
use crate::host::Host;

/// Where flannel keeps its keys unless told otherwise.
pub const PREFIX: &str = "/coreos.com/network";

/// What its leases last, in seconds.
const TTL: u64 = 86_400;

/// How many free subnets it chooses from.
const CHOICE: usize = 100;

/// How often it looks whether its watch has heard something.
const LOOK: Duration = Duration::from_millis(10);

/// flanneld's part of one host. Dropping it stops it, as SIGTERM stops flanneld: what is in the kernel and in etcd stays.
#[derive(Debug)]
pub struct FlannelShaped {
    inner: Arc<Inner>,
    worker: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    own: Key,
    value: String,
    /// The first is that of IPv4; on a dual-stack network there is one of IPv6.
    devices: Vec<Device>,
    env: PathBuf,
    stop: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    table: Table,
    /// Why it has ended by itself.
    ended: Option<String>,
    /// What went wrong so far.
    log: Vec<String>,
}

impl FlannelShaped {
    /// Starts it on a host, which must have no agent of Weft's: waits for the configuration, makes the device or keeps the one
    /// that is there, takes a subnet, and programs the peers that are listed.
    ///
    /// # Errors
    /// When etcd or the kernel refuses, or the network is full.
    pub fn start(host: &Host, etcd: &EtcdHandle) -> Result<Self> {
        let client = etcd.client_at(host.place());
        let config = eventually("the network's configuration", SOON, || {
            let text = client.get(&format!("{PREFIX}/config"))?.context("none yet")?;
            serde_json::from_str::<Value>(&text).context("read the configuration")
        })?;
        let backend = &config["Backend"];
        let mut devices = vec![Device::ensure(host.place(), backend, host.address().into())?];
        if config["EnableIPv6"] == true {
            devices.push(Device::ensure(host.place(), backend, host.address6().into())?);
        }
        let env = env_file(host);
        let value = value(host, backend["VNI"].as_u64().unwrap_or(1), &devices);
        let own = acquire(&client, &config, host.address(), &env, &value)?;
        for device in &devices {
            device.configure(own)?;
        }
        write_env(&env, &config, own, devices[0].mtu)?;

        let (entries, revision) = client.entries(&format!("{PREFIX}/subnets"))?;
        let watch = client.watch(host.dir(), &format!("{PREFIX}/subnets"), revision + 1)?;
        let state = Mutex::new(State { table: Table::new(own), ended: None, log: Vec::new() });
        let inner = Inner { client, own, value, devices, env, stop: AtomicBool::new(false), state };
        let todo = inner.state().table.reset(listed(&entries));
        inner.apply(&todo);
        let inner = Arc::new(inner);
        let worker = std::thread::spawn({
            let inner = inner.clone();
            move || inner.follow(&watch)
        });
        Ok(Self { inner, worker: Some(worker) })
    }

    /// Its subnet, as `status` of an agent shows one: `10.244.9.0/24`.
    #[must_use]
    pub fn subnet(&self) -> String {
        self.inner.own.v4.to_string()
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> String {
        self.inner.path()
    }

    /// What it wrote there.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.inner.value
    }

    /// The MAC of its VXLAN device.
    #[must_use]
    pub fn vtep_mac(&self) -> &str {
        &self.inner.devices[0].mac
    }

    /// The name of its VXLAN device.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.inner.devices[0].name
    }

    /// Its `subnet.env`.
    #[must_use]
    pub fn env(&self) -> &Path {
        &self.inner.env
    }

    /// The subnets of the peers that it knows.
    #[must_use]
    pub fn peers(&self) -> Vec<String> {
        let own = self.inner.own.v4;
        self.inner.state().table.subnets().into_iter().filter(|s| *s != own).map(|s| s.to_string()).collect()
    }

    /// What went wrong so far.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.inner.state().log.clone()
    }

    /// Why it has ended by itself, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<String> {
        self.inner.state().ended.clone()
    }

    /// Renews its lease now, as it would an hour before the end: a new lease, and the key put whatever is there.
    ///
    /// # Errors
    /// When etcd refuses.
    pub fn renew(&self) -> Result<()> {
        put(&self.inner.client, &self.key(), &self.inner.value)
    }

    /// Stops it.
    pub fn stop(mut self) {
        self.halt();
    }

    fn halt(&mut self) {
        self.inner.stop.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            // What it did wrong is in its log.
            let _ = worker.join();
        }
    }
}

impl Drop for FlannelShaped {
    fn drop(&mut self) {
        self.halt();
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self) -> String {
        format!("{PREFIX}/subnets/{}", self.own)
    }

    fn apply(&self, todo: &[Todo]) {
        for step in todo {
            let (Todo::Add(lease) | Todo::Remove(lease)) = step;
            let mut devices = self.devices.iter().take(if lease.key.v6.is_some() { 2 } else { 1 });
            // A lease of both families whose data of one cannot be read is passed over as a whole, before anything is done.
            let readable: Result<Vec<String>> = devices.clone().map(|device| device.mac_of(lease)).collect();
            let done: Result<()> = match (lease.attrs.backend_type.as_str(), readable) {
                ("vxlan", Err(e)) => Err(e),
                _ => devices.try_for_each(|device| device.apply(step)),
            };
            if let Err(e) = done {
                self.state().log.push(format!("{}: {e:#}", lease.key));
            }
        }
    }

    /// Carries out what the watch hears, until it is stopped or its own key is gone.
    fn follow(&self, watch: &Watch) {
        let mut done = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let heard = match watch.heard() {
                Ok(heard) => heard,
                Err(e) => return self.state().log.push(format!("{e:#}")),
            };
            for Entry { key, value, .. } in heard.iter().skip(done) {
                if *key == self.path() && value.is_none() {
                    self.state().ended = Some("lease has been revoked".to_owned());
                    return;
                }
                let todo = self.state().table.change(key, value.as_deref());
                self.apply(&todo);
            }
            done = heard.len();
            std::thread::sleep(LOOK);
        }
    }
}

/// Where the file for other tools is on a host.
#[must_use]
pub fn env_file(host: &Host) -> PathBuf {
    host.dir().join("flannel/subnet.env")
}

/// A key for which TimeToLive or JSON fails is passed over in a listing.
fn listed(entries: &[Entry]) -> Vec<Lease> {
    entries.iter().filter_map(|e| Some(Lease { key: key(&e.key)?, attrs: attrs(e.value.as_deref()?).ok()? })).collect()
}

/// What it writes, to the letter: members as they stand in Go's type, `BackendV6Data` only if there is some.
fn value(host: &Host, vni: u64, devices: &[Device]) -> String {
    let data = |device: &Device| format!(r#"{{"VNI":{vni},"VtepMAC":"{}"}}"#, device.mac);
    let (public_ipv6, v6_data) = match devices.get(1) {
        Some(device) => (format!("\"{}\"", host.address6()), format!(",\"BackendV6Data\":{}", data(device))),
        None => ("null".to_owned(), String::new()),
    };
    format!(
        r#"{{"PublicIP":"{}","PublicIPv6":{public_ipv6},"BackendType":"vxlan","BackendData":{}{v6_data}}}"#,
        host.address(),
        data(&devices[0])
    )
}

/// Takes a subnet: the one that has our address, else the last one had, else one of the first that are free.
fn acquire(client: &Client, config: &Value, public_ip: std::net::Ipv4Addr, env: &Path, value: &str) -> Result<Key> {
    let range = Range::of(config)?;
    let (entries, _) = client.entries(&format!("{PREFIX}/subnets"))?;
    let leases = listed(&entries);
    if let Some(found) = leases.iter().find(|l| l.attrs.public_ip == public_ip) {
        let path = format!("{PREFIX}/subnets/{}", found.key);
        if range.gives(found.key.v4) && found.key.v6.map(|v6| v6.len) == range.v6.map(|v6| v6.len) {
            put(client, &path, value)?;
            return Ok(found.key);
        }
        client.delete(&path)?;
    }
    let taken: Vec<Subnet> = leases.iter().map(|l| l.key.v4).collect();
    let last = last_subnet(env).filter(|last| range.v6.is_none() && range.gives(*last) && !taken.contains(last));
    let subnet = match last {
        Some(last) => last,
        None => {
            let free: Vec<Subnet> = range.all().filter(|s| taken.iter().all(|t| !t.overlaps(*s))).take(CHOICE).collect();
            let number = usize::from(u16::from_be_bytes(random()?));
            *free.get(number % free.len().max(1)).context("out of subnets")?
        }
    };
    let taken6: Vec<_> = leases.iter().filter_map(|l| l.key.v6).collect();
    // The first block is never given, and the families are chosen independently.
    let mut blocks = range.v6.into_iter().flat_map(|first| (1..=CHOICE as u64).map(move |n| first.block(n)));
    let own = Key { v4: subnet, v6: blocks.find(|block| !taken6.contains(block)) };
    let lease = client.grant(TTL)?;
    if !client.create_on(lease, &format!("{PREFIX}/subnets/{own}"), value)? {
        client.revoke(lease)?;
        // flanneld ends here, and whoever runs it starts it anew.
        bail!("subnet {subnet} already exists");
    }
    Ok(own)
}

/// A new lease, and the key put whatever is there: renewal and take-over are the same.
fn put(client: &Client, key: &str, value: &str) -> Result<()> {
    let lease = client.grant(TTL)?;
    client.put_on(lease, key, value).inspect_err(|_| {
        // The first error is the one to tell.
        let _ = client.revoke(lease);
    })
}

/// Which subnets a configuration gives.
struct Range {
    min: Subnet,
    max: Subnet,
    /// The first block of the IPv6 network, if there is one.
    v6: Option<Subnet<Ipv6Addr>>,
}

impl Range {
    fn of(config: &Value) -> Result<Self> {
        let network = config["Network"].as_str().with_context(|| format!("no Network in {config}"))?;
        let network: Subnet = network.parse().map_err(|e: String| anyhow!(e))?;
        let usual = if network.len <= 22 { 24 } else { network.len + 2 };
        let len = config["SubnetLen"].as_u64().filter(|l| *l != 0).map_or(Ok(usual), u8::try_from)?;
        let size = 1_u32 << (32 - len);
        let bound = |name: &str, or: u32| match config[name].as_str() {
            Some(text) => text.parse().with_context(|| format!("{name} in {config}")),
            None => Ok(or.into()),
        };
        let first = network.address.to_bits();
        let end = u64::from(first) + (1_u64 << (32 - network.len));
        let min = bound("SubnetMin", first + size)?;
        let max = bound("SubnetMax", u32::try_from(end - u64::from(size))?)?;
        let v6 = match config["IPv6Network"].as_str().filter(|_| config["EnableIPv6"] == true) {
            Some(network) => {
                let network: Subnet<Ipv6Addr> = network.parse().map_err(|e: String| anyhow!(e))?;
                let usual = if network.len <= 62 { 64 } else { network.len + 2 };
                let len = config["IPv6SubnetLen"].as_u64().filter(|l| *l != 0).map_or(Ok(usual), u8::try_from)?;
                Some(Subnet { len, ..network })
            }
            None => None,
        };
        Ok(Self { min: Subnet { address: min, len }, max: Subnet { address: max, len }, v6 })
    }

    fn gives(&self, subnet: Subnet) -> bool {
        subnet.len == self.min.len && (self.min.address..=self.max.address).contains(&subnet.address)
    }

    fn all(&self) -> impl Iterator<Item = Subnet> {
        let (len, last) = (self.min.len, self.max.address.to_bits());
        let next = move |s: &Subnet| s.address.to_bits().checked_add(1 << (32 - len)).filter(|a| *a <= last);
        std::iter::successors(Some(self.min), move |s| Some(Subnet { address: next(s)?.into(), len }))
    }
}

/// What `subnet.env` says of the last time.
fn last_subnet(env: &Path) -> Option<Subnet> {
    let text = std::fs::read_to_string(env).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("FLANNEL_SUBNET="))?;
    Some(line.parse::<Subnet>().ok()?.truncated())
}

fn write_env(path: &Path, config: &Value, own: Key, mtu: u64) -> Result<()> {
    let dir = path.parent().context("a file without a directory")?;
    std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let text = |name: &str| config[name].as_str().unwrap_or_default().to_owned();
    let first = Subnet { address: own.v4.nth(1).context("a subnet of one address")?, ..own.v4 };
    let mut lines = format!("FLANNEL_NETWORK={}\nFLANNEL_SUBNET={first}\n", text("Network"));
    if let Some(v6) = own.v6 {
        let first = Subnet { address: v6.nth(1), ..v6 };
        lines.push_str(&format!("FLANNEL_IPV6_NETWORK={}\nFLANNEL_IPV6_SUBNET={first}\n", text("IPv6Network")));
    }
    lines.push_str(&format!("FLANNEL_MTU={mtu}\nFLANNEL_IPMASQ=false\n"));
    std::fs::write(path, lines).with_context(|| format!("write {}", path.display()))
}

/// Random bytes from the kernel.
fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut file = std::fs::File::open("/dev/urandom").context("open /dev/urandom")?;
    file.read_exact(&mut bytes).context("read /dev/urandom")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_block_is_never_given() {
        let range = Range::of(&json!({"Network": "10.5.0.0/22"})).unwrap();
        let all: Vec<_> = range.all().map(|s| s.to_string()).collect();
        assert_eq!(all, ["10.5.1.0/24", "10.5.2.0/24", "10.5.3.0/24"]);
        let range = Range::of(&json!({"Network": "10.5.0.0/24", "SubnetLen": 26, "SubnetMax": "10.5.0.128"})).unwrap();
        let all: Vec<_> = range.all().map(|s| s.to_string()).collect();
        assert_eq!(all, ["10.5.0.64/26", "10.5.0.128/26"]);
        assert!(!range.gives("10.5.0.192/26".parse().unwrap()) && !range.gives("10.5.0.64/27".parse().unwrap()));
    }
}
