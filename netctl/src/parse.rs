//! Arguments that are more than a word, as clap's value parsers: text in, value or a sentence out.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weft_model::ids::check_ifname;

/// `ADDRESS[:PORT]`; IPv6 with a port is written in brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: Option<u16>,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self { address, port: None });
        }
        match text.parse::<SocketAddr>() {
            Ok(place) if place.port() != 0 => Ok(Self { address: place.ip(), port: Some(place.port()) }),
            _ => Err(format!("{text:?} is no address: the form is 10.0.0.5, 10.0.0.5:80, fd00::5 or [fd00::5]:80")),
        }
    }
}

/// One `KEY=VALUE`.
///
/// # Errors
/// A sentence that names the text.
pub fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no label: the form is KEY=VALUE")),
    }
}

/// Labels as a map.
///
/// # Errors
/// Names a key that is given twice with different values.
pub fn labels(given: &[(String, String)]) -> Result<BTreeMap<String, String>, String> {
    let mut map = BTreeMap::new();
    for (key, value) in given {
        if let Some(before) = map.insert(key.clone(), value.clone())
            && before != *value
        {
            return Err(format!("label {key:?} is given twice: {before:?} and {value:?}"));
        }
    }
    Ok(map)
}

/// A network of IPv4.
///
/// # Errors
/// A sentence that names the text and shows the form.
pub fn ipv4_network(text: &str) -> Result<Ipv4Net, String> {
    text.parse().map_err(|_| format!("{text:?} is no IPv4 network: the form is 10.244.0.0/16"))
}

/// An IPv6 network.
///
/// # Errors
/// A sentence that names the text and shows the form.
pub fn ipv6_network(text: &str) -> Result<Ipv6Net, String> {
    text.parse().map_err(|_| format!("{text:?} is no IPv6 network: the form is fd00:10:244::/48"))
}

/// A network of IPv4 or IPv6.
///
/// # Errors
/// A sentence that names the text and shows the form.
pub fn network(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| format!("{text:?} is no network: the form is 10.112.0.0/16 or fd00:112::/112"))
}

/// A host's name, as long as the kernel takes one (`HOST_NAME_MAX`).
///
/// # Errors
/// Names the text and what is wrong with it.
pub fn hostname(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    if text.is_empty() || text.len() > 64 || !text.bytes().all(allowed) {
        return Err(format!("{text:?} is no host name: letters, digits, hyphens and dots, 64 at most"));
    }
    Ok(text.to_owned())
}

/// A device's name.
///
/// # Errors
/// Names the text and what is wrong with it.
pub fn ifname(text: &str) -> Result<String, String> {
    check_ifname(text).map(|()| text.to_owned()).map_err(|why| format!("{text:?} {why}"))
}

/// The types of DNS records that can be asked for, as the agent's name server reads them.
const RECORD_TYPES: &[&str] = &[
    "A",
    "AAAA",
    "ANAME",
    "ANY",
    "AXFR",
    "CAA",
    "CDNSKEY",
    "CDS",
    "CERT",
    "CNAME",
    "CSYNC",
    "DNAME",
    "DNSKEY",
    "DS",
    "HINFO",
    "HTTPS",
    "KEY",
    "MX",
    "NAPTR",
    "NS",
    "NSEC",
    "NSEC3",
    "NSEC3PARAM",
    "NULL",
    "OPENPGPKEY",
    "PTR",
    "RRSIG",
    "SIG",
    "SMIMEA",
    "SOA",
    "SRV",
    "SSHFP",
    "SVCB",
    "TLSA",
    "TSIG",
    "TXT",
];

/// A DNS record's type, in capitals.
///
/// # Errors
/// A sentence that names the text.
pub fn record_type(text: &str) -> Result<String, String> {
    let kind = text.to_ascii_uppercase();
    if RECORD_TYPES.contains(&kind.as_str()) {
        Ok(kind)
    } else {
        Err(format!("{text:?} is no record type: A, AAAA, SRV, TXT, CNAME, PTR, NS, SOA and ANY are some"))
    }
}

/// A length of time: `30s`, `500ms`, `2m`; a number alone is seconds.
///
/// # Errors
/// A sentence that names the text.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no length of time: the form is 500ms, 30s or 2m");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let millis = match unit {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    millis.map(Duration::from_millis).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_address_and_perhaps_a_port() {
        let parse = |t: &str| t.parse::<Place>().map(|p| (p.address.to_string(), p.port));
        for (text, address, port) in [
            ("10.0.0.5", "10.0.0.5", None),
            ("10.0.0.5:80", "10.0.0.5", Some(80)),
            ("fd00::5", "fd00::5", None),
            ("[fd00::5]", "fd00::5", None),
            ("[fd00::5]:80", "fd00::5", Some(80)),
        ] {
            assert_eq!(parse(text), Ok((address.to_owned(), port)));
        }
        for bad in ["", "host", "10.0.0.5:", "10.0.0.5:0", "10.0.0.5:65536", "10.0.0", "[fd00::5", "[10.0.0.5"] {
            assert!(parse(bad).is_err_and(|e| e.contains(&format!("{bad:?} is no address"))), "{bad}");
        }
    }

    #[test]
    fn labels_have_a_key_and_one_value() {
        assert_eq!(label("tier=web"), Ok(("tier".to_owned(), "web".to_owned())));
        assert_eq!(label("url=a=b"), Ok(("url".to_owned(), "a=b".to_owned())));
        assert!(label("tier").is_err());
        assert!(label("=web").is_err());
        let pairs = |texts: &[&str]| labels(&texts.iter().map(|t| label(t).unwrap()).collect::<Vec<_>>());
        assert_eq!(pairs(&["a=1", "b=2", "a=1"]).unwrap().len(), 2);
        assert_eq!(pairs(&["a=1", "a=2"]), Err("label \"a\" is given twice: \"1\" and \"2\"".to_owned()));
    }

    #[test]
    fn record_types_are_those_of_the_name_server() {
        use hickory_proto::rr::RecordType;
        for kind in RECORD_TYPES {
            assert!(kind.parse::<RecordType>().is_ok(), "{kind}");
        }
        for kind in (0..=u16::MAX).map(|code| RecordType::from(code).to_string()).filter(|k| k.parse::<RecordType>().is_ok()) {
            assert_eq!(record_type(&kind.to_ascii_lowercase()), Ok(kind));
        }
        assert!(record_type("FOO").is_err_and(|e| e.starts_with("\"FOO\" is no record type")));
    }

    #[test]
    fn lengths_of_time_have_units() {
        for (text, millis) in [("30s", 30_000), ("30", 30_000), ("500ms", 500), ("2m", 120_000), ("0", 0), ("1h", 3_600_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "s", "-1s", "1.5s", "1d", "99999999999999999999s", "18446744073709551615m"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
