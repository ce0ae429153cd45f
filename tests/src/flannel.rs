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
//! packet filter rules, `--ip-masq`, etcd's compaction, backends other than `vxlan`, IPv6.
//!
//! Containers on such a host are [`bridge`](crate::bridge)'s, as flannel's CNI plugin has them made.

mod kernel;
pub mod reading;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

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
    device: Device,
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
        let device = Device::ensure(host.place(), &config["Backend"], host.address())?;
        let env = env_file(host);
        let value = json!({
            "PublicIP": host.address().to_string(),
            "PublicIPv6": null,
            "BackendType": "vxlan",
            "BackendData": {"VNI": config["Backend"]["VNI"].as_u64().unwrap_or(1), "VtepMAC": device.mac},
        });
        let value = to_the_letter(&value);
        let own = acquire(&client, &config, host.address(), &env, &value)?;
        device.configure(own.v4)?;
        write_env(&env, &config, own.v4, device.mtu)?;

        let (entries, revision) = client.entries(&format!("{PREFIX}/subnets"))?;
        let watch = client.watch(host.dir(), &format!("{PREFIX}/subnets"), revision + 1)?;
        let state = Mutex::new(State { table: Table::new(own), ended: None, log: Vec::new() });
        let inner = Inner { client, own, value, device, env, stop: AtomicBool::new(false), state };
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
        &self.inner.device.mac
    }

    /// The name of its VXLAN device.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.inner.device.name
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
            if let Err(e) = self.device.apply(step) {
                self.state().log.push(format!("{e:#}"));
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

/// serde_json orders members by name; Go as they stand in the type.
fn to_the_letter(value: &Value) -> String {
    let data = &value["BackendData"];
    format!(
        r#"{{"PublicIP":{},"PublicIPv6":{},"BackendType":{},"BackendData":{{"VNI":{},"VtepMAC":{}}}}}"#,
        value["PublicIP"], value["PublicIPv6"], value["BackendType"], data["VNI"], data["VtepMAC"]
    )
}

/// Takes a subnet: the one that has our address, else the last one had, else one of the first that are free.
fn acquire(client: &Client, config: &Value, public_ip: std::net::Ipv4Addr, env: &Path, value: &str) -> Result<Key> {
    let range = Range::of(config)?;
    let (entries, _) = client.entries(&format!("{PREFIX}/subnets"))?;
    let leases = listed(&entries);
    if let Some(found) = leases.iter().find(|l| l.attrs.public_ip == public_ip) {
        let path = format!("{PREFIX}/subnets/{}", found.key);
        if range.gives(found.key.v4) && found.key.v6.is_none() {
            put(client, &path, value)?;
            return Ok(found.key);
        }
        client.delete(&path)?;
    }
    let taken: Vec<Subnet> = leases.iter().map(|l| l.key.v4).collect();
    let last = last_subnet(env).filter(|last| range.gives(*last) && !taken.contains(last));
    let subnet = match last {
        Some(last) => last,
        None => {
            let free: Vec<Subnet> = range.all().filter(|s| taken.iter().all(|t| !t.overlaps(*s))).take(CHOICE).collect();
            let number = usize::from(u16::from_be_bytes(random()?));
            *free.get(number % free.len().max(1)).context("out of subnets")?
        }
    };
    let own = Key { v4: subnet, v6: None };
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
        Ok(Self { min: Subnet { address: min, len }, max: Subnet { address: max, len } })
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

fn write_env(path: &Path, config: &Value, subnet: Subnet, mtu: u64) -> Result<()> {
    let dir = path.parent().context("a file without a directory")?;
    std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let network = config["Network"].as_str().unwrap_or_default();
    let first = Subnet { address: subnet.nth(1).context("a subnet of one address")?, ..subnet };
    let text = format!("FLANNEL_NETWORK={network}\nFLANNEL_SUBNET={first}\nFLANNEL_MTU={mtu}\nFLANNEL_IPMASQ=false\n");
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
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

    #[test]
    fn the_value_is_flannels_to_the_letter() {
        let value = json!({"PublicIP": "192.168.50.1", "PublicIPv6": null, "BackendType": "vxlan",
            "BackendData": {"VtepMAC": "2e:ce:51:c6:8f:1b", "VNI": 1}});
        let wanted = r#"{"PublicIP":"192.168.50.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"2e:ce:51:c6:8f:1b"}}"#;
        assert_eq!(to_the_letter(&value), wanted);
    }
}
