//! What flannel can read: keys by its regular expression, values by Go's rules for JSON, and its table of peers with the
//! mistake that makes one unreadable key forget all of them.
//!
//! Pure. Taken from flannel's `pkg/subnet`, `pkg/subnet/etcd` and `pkg/lease` (v0.22.3 and later are alike here).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

/// A subnet; `A` is the kind of address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subnet<A = Ipv4Addr> {
    /// Its first address.
    pub address: A,
    /// The length of its prefix.
    pub len: u8,
}

impl<A: fmt::Display> fmt::Display for Subnet<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl std::str::FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(a, len)| Some((a.parse().ok()?, len.parse().ok()?)));
        match parts {
            Some((address, len @ 0..=32)) => Ok(Self { address, len }),
            _ => Err(format!("{text:?} is no subnet")),
        }
    }
}

impl Subnet {
    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0)
    }

    /// The subnet that an address with this prefix length is in.
    #[must_use]
    pub fn truncated(self) -> Self {
        Self { address: (self.address.to_bits() & self.mask()).into(), ..self }
    }

    /// Whether they have an address in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        let mask = self.mask() & other.mask();
        self.address.to_bits() & mask == other.address.to_bits() & mask
    }

    /// The `number`-th address in it, if it is that large.
    #[must_use]
    pub fn nth(self, number: u32) -> Option<Ipv4Addr> {
        (number <= !self.mask()).then(|| (self.address.to_bits() + number).into())
    }
}

impl Subnet<Ipv6Addr> {
    /// The `number`-th address in it, counted as far as 64 bits go.
    #[must_use]
    pub fn nth(self, number: u64) -> Ipv6Addr {
        (self.address.to_bits() + u128::from(number)).into()
    }

    /// The `number`-th block of its size behind it.
    #[must_use]
    pub fn block(self, number: u64) -> Self {
        let size = 1_u128 << (128 - u32::from(self.len));
        Self { address: (self.address.to_bits() + size * u128::from(number)).into(), ..self }
    }
}

impl std::str::FromStr for Subnet<Ipv6Addr> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(a, len)| Some((a.parse().ok()?, len.parse().ok()?)));
        match parts {
            Some((address, len @ 0..=128)) => Ok(Self { address, len }),
            _ => Err(format!("{text:?} is no IPv6 subnet")),
        }
    }
}

/// What a key says: the subnets of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// IPv4, which is always there.
    pub v4: Subnet,
    /// IPv6 of a host with both.
    pub v6: Option<Subnet<Ipv6Addr>>,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.v4.address, self.v4.len)?;
        self.v6.map_or(Ok(()), |v6| write!(f, "&{}-{}", v6.address, v6.len))
    }
}

/// Reads a key as `(\d+\.\d+\.\d+\.\d+)-(\d+)(?:&([a-f\d:]+)-(\d+))?$` does, which is not bound to the beginning of the key,
/// and then as `net.ParseIP` and `strconv.ParseUint` with 5 and 7 bits do.
#[must_use]
pub fn key(text: &str) -> Option<Key> {
    // The first place where the expression fits is the one that counts.
    let fits = text.char_indices().find_map(|(at, _)| fit(&text[at..]))?;
    let number = |text: &str, below: u32| text.parse::<u32>().ok().filter(|n| *n < below)?.try_into().ok();
    let v4 = Subnet { address: fits.v4.parse().ok()?, len: number(fits.len4, 32)? };
    let v6 = match fits.v6 {
        Some((address, len)) => Some(Subnet { address: address.parse().ok()?, len: number(len, 128)? }),
        None => None,
    };
    Some(Key { v4, v6 })
}

/// The groups of the expression.
struct Fit<'a> {
    v4: &'a str,
    len4: &'a str,
    v6: Option<(&'a str, &'a str)>,
}

fn fit(text: &str) -> Option<Fit<'_>> {
    let while_ = |text: &str, of: fn(u8) -> bool| text.bytes().take_while(|b| of(*b)).count();
    let digits = |text: &str| Some(while_(text, |b| b.is_ascii_digit())).filter(|n| *n > 0);
    let mut end = digits(text)?;
    for _ in 0..3 {
        let rest = text[end..].strip_prefix('.')?;
        end += 1 + digits(rest)?;
    }
    let (v4, rest) = text.split_at(end);
    let rest = rest.strip_prefix('-')?;
    let (len4, rest) = rest.split_at(digits(rest)?);
    if rest.is_empty() {
        return Some(Fit { v4, len4, v6: None });
    }
    let rest = rest.strip_prefix('&')?;
    let (v6, rest) = rest.split_at(while_(rest, |b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b) || b == b':'));
    let len6 = rest.strip_prefix('-')?;
    (!v6.is_empty() && digits(len6)? == len6.len()).then_some(Fit { v4, len4, v6: Some((v6, len6)) })
}

/// What a value says.
#[derive(Clone, Debug, PartialEq)]
pub struct Attrs {
    /// `PublicIP`; 0.0.0.0 if it is not there.
    pub public_ip: Ipv4Addr,
    /// `PublicIPv6`.
    pub public_ipv6: Option<IpAddr>,
    /// `BackendType`.
    pub backend_type: String,
    /// `BackendData`, not read yet.
    pub backend_data: Value,
    /// `BackendV6Data`, not read yet.
    pub backend_v6_data: Value,
}

/// Reads a value as `json.Unmarshal` into flannel's `LeaseAttrs` does: names without regard to case, what is unknown is
/// ignored, null is nothing; but an IPv4 address is read by a function of flannel's own that knows no null.
///
/// # Errors
/// What flannel cannot read.
pub fn attrs(text: &str) -> Result<Attrs, String> {
    let value: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let mut attrs = Attrs {
        public_ip: Ipv4Addr::UNSPECIFIED,
        public_ipv6: None,
        backend_type: String::new(),
        backend_data: Value::Null,
        backend_v6_data: Value::Null,
    };
    let members = match value {
        Value::Null => return Ok(attrs),
        Value::Object(members) => members,
        other => return Err(format!("{other} is no object")),
    };
    for (name, value) in members {
        let wrong = |what: &str| Err(format!("{name} is {value}, which is {what}"));
        match (name.to_lowercase().as_str(), &value) {
            ("publicip", Value::String(ip)) => match ip.parse::<IpAddr>() {
                Ok(IpAddr::V4(ip)) => attrs.public_ip = ip,
                Ok(IpAddr::V6(ip)) => match ip.to_ipv4_mapped() {
                    Some(ip) => attrs.public_ip = ip,
                    None => return wrong("an IPv6 address: flanneld would panic"),
                },
                Err(_) => return wrong("no address"),
            },
            ("publicip", _) => return wrong("no address"),
            ("publicipv6", Value::Null) => attrs.public_ipv6 = None,
            ("publicipv6", Value::String(ip)) => match ip.parse() {
                Ok(ip) => attrs.public_ipv6 = Some(ip),
                Err(_) => return wrong("no address"),
            },
            ("publicipv6", _) => return wrong("no address"),
            ("backendtype", Value::Null) => {}
            ("backendtype", Value::String(text)) => attrs.backend_type.clone_from(text),
            ("backendtype", _) => return wrong("no text"),
            ("backenddata", data) => attrs.backend_data = data.clone(),
            ("backendv6data", data) => attrs.backend_v6_data = data.clone(),
            _ => {}
        }
    }
    Ok(attrs)
}

/// The VTEP's MAC in the data of a `vxlan` lease, with the types that flannel wants there.
///
/// # Errors
/// What flannel cannot read; such a lease is left out, and hurts no other.
pub fn vtep_mac(data: &Value) -> Result<String, String> {
    match &data["VNI"] {
        Value::Null => {}
        vni if vni.as_u64().is_some_and(|n| n <= u64::from(u16::MAX)) => {}
        vni => return Err(format!("VNI is {vni}, which is no uint16")),
    }
    let mac = data["VtepMAC"].as_str().unwrap_or_default();
    let bytes: Vec<&str> = mac.split(':').collect();
    let is_byte = |b: &&str| b.len() == 2 && u8::from_str_radix(b, 16).is_ok();
    if bytes.len() == 6 && bytes.iter().all(is_byte) {
        return Ok(mac.to_lowercase());
    }
    Err(format!("VtepMAC is {}, which is no address of a device", data["VtepMAC"]))
}

/// A lease in flannel's table.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    /// Whose.
    pub key: Key,
    /// What it says.
    pub attrs: Attrs,
}

/// What is to be done about the kernel's entries.
#[derive(Clone, Debug, PartialEq)]
pub enum Todo {
    /// Program them, whatever is there.
    Add(Lease),
    /// Remove them.
    Remove(Lease),
}

/// flannel's table of leases, `LeaseWatcher`.
#[derive(Clone, Debug)]
pub struct Table {
    own: Key,
    leases: Vec<Lease>,
}

impl Table {
    /// An empty one.
    #[must_use]
    pub fn new(own: Key) -> Self {
        Self { own, leases: Vec::new() }
    }

    /// The subnets it knows, its own among them once it was in a listing.
    #[must_use]
    pub fn subnets(&self) -> Vec<Subnet> {
        self.leases.iter().map(|l| l.key.v4).collect()
    }

    /// Takes a listing over. Only subnets are compared: what changed of a lease that is known is not noticed.
    pub fn reset(&mut self, leases: Vec<Lease>) -> Vec<Todo> {
        let mut todo = Vec::new();
        for lease in leases.iter().filter(|l| l.key != self.own) {
            match self.leases.iter().position(|known| known.key == lease.key) {
                Some(at) => drop(self.leases.remove(at)),
                None => todo.push(Todo::Add(lease.clone())),
            }
        }
        todo.extend(std::mem::replace(&mut self.leases, leases).into_iter().map(Todo::Remove));
        todo
    }

    /// Takes one change over: the key, and the value unless it was deleted.
    ///
    /// What cannot be read becomes a result without an event, which the receiver takes for a listing, and an empty one: all
    /// that it knows goes. This is flannel's mistake, not ours; it is here so that a test can show that Weft never causes it.
    pub fn change(&mut self, text: &str, value: Option<&str>) -> Vec<Todo> {
        let Some(key) = key(text) else { return self.reset(Vec::new()) };
        let at = self.leases.iter().position(|known| known.key == key);
        match value.map(attrs) {
            Some(Err(_)) => self.reset(Vec::new()),
            Some(Ok(_)) | None if key == self.own => Vec::new(),
            Some(Ok(attrs)) => {
                let lease = Lease { key, attrs };
                match at {
                    Some(at) => self.leases[at] = lease.clone(),
                    None => self.leases.push(lease.clone()),
                }
                vec![Todo::Add(lease)]
            }
            None => at.map(|at| Todo::Remove(self.leases.remove(at))).into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE: &str = r#"{"PublicIP":"192.168.50.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"2e:ce:51:c6:8f:1b"}}"#;

    #[test]
    fn keys_are_read_from_their_end() {
        assert_eq!(key("/coreos.com/network/subnets/10.5.34.0-24").unwrap().v4.to_string(), "10.5.34.0/24");
        assert_eq!(key("/coreos.com/network/subnets-weft/10.5.202.0-24").unwrap().v4.to_string(), "10.5.202.0/24");
        let dual = key("/x/10.5.34.0-24&fd00:5::-64").unwrap();
        assert_eq!(dual.v6.unwrap().to_string(), "fd00:5::/64");
        assert_eq!(dual.to_string(), "10.5.34.0-24&fd00:5::-64");
        for bad in ["/x/foo", "/x/10.5.34.0-24/weft", "/x/10.5.34.0", "/x/10.5.34.0-32", "/x/300.5.34.0-24", "/x/fd00::-64", ""] {
            assert_eq!(key(bad), None, "{bad}");
        }
    }

    #[test]
    fn values_are_read_as_go_reads_them() {
        let read = attrs(VALUE).unwrap();
        assert_eq!((read.public_ip.to_string().as_str(), read.backend_type.as_str()), ("192.168.50.1", "vxlan"));
        assert_eq!(vtep_mac(&read.backend_data).unwrap(), "2e:ce:51:c6:8f:1b");
        assert!(attrs(r#"{"publicip":"192.0.2.1","weft":{"node":"h1"}}"#).is_ok(), "names in any case, more than it knows");
        assert!(attrs("{}").is_ok());
        for bad in [
            r#"{"PublicIP":null}"#,
            r#"{"PublicIP":"fd00::1"}"#,
            r#"{"PublicIP":"h1"}"#,
            r#"{"PublicIPv6":""}"#,
            r#"{"BackendType":1}"#,
            "bar",
            "[]",
        ] {
            assert!(attrs(bad).is_err(), "{bad}");
        }
        assert!(vtep_mac(&serde_json::json!({"VNI": 70_000, "VtepMAC": "2e:ce:51:c6:8f:1b"})).is_err());
    }

    fn table() -> Table {
        let lease = |n: u8| Lease { key: key(&format!("10.5.{n}.0-24")).unwrap(), attrs: attrs(VALUE).unwrap() };
        let mut table = Table::new(lease(1).key);
        assert_eq!(table.reset(vec![lease(1), lease(2), lease(3)]).len(), 2);
        table
    }

    #[test]
    fn a_peer_comes_changes_and_goes() {
        let mut table = table();
        assert!(matches!(table.change("10.5.4.0-24", Some(VALUE))[..], [Todo::Add(_)]));
        assert!(matches!(table.change("10.5.4.0-24", Some(VALUE))[..], [Todo::Add(_)]));
        assert!(matches!(table.change("10.5.4.0-24", None)[..], [Todo::Remove(_)]));
        assert_eq!(table.change("10.5.1.0-24", Some(VALUE)), []);
        assert_eq!(table.subnets().len(), 3);
    }

    #[test]
    fn one_key_that_cannot_be_read_empties_the_table() {
        for (key, value) in [("foo", Some("bar")), ("foo", None), ("10.5.9.0-24", Some(r#"{"PublicIP":null}"#))] {
            let mut table = table();
            let todo = table.change(key, value);
            // Its own subnet first, which was never programmed; then those of the peers.
            assert_eq!(todo.len(), 3, "{todo:?}");
            assert!(todo.iter().all(|t| matches!(t, Todo::Remove(_))) && table.subnets().is_empty());
        }
    }
}
