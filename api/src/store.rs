//! What is in the store, as a document: for backups, and to move from one store to another.
//!
//! Keys and values are bytes. Where they are text they stand as text, so that a person can read the document; where they are
//! not, in base64 (RFC 4648 section 4, with padding).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The form of the document that this version writes and reads.
pub const FORM: u32 = 1;

/// The prefixes below which keys are exported, and imported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StorePrefixes {
    /// `--network-prefix`.
    pub network: String,
    /// `--dns-prefix`.
    pub dns: String,
    /// `--weft-prefix`.
    pub weft: String,
}

/// One key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoreEntry {
    /// The key, if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// The value, if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The value, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
    /// Whether it hangs on a lease: whoever keeps that writes it anew, so it is not imported.
    #[serde(default)]
    pub leased: bool,
}

/// `GET /v1/store/export`: a page of the document, or, with all pages' entries, the document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoreExport {
    /// [`FORM`].
    pub weft_store: u32,
    /// The store's revision at which all of it held.
    pub revision: i64,
    /// What was exported.
    pub prefixes: StorePrefixes,
    /// In the order of keys.
    pub entries: Vec<StoreEntry>,
    /// What to ask the next page with (`from=`); absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// `POST /v1/store/import`: a part of a document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoreImport {
    /// [`FORM`].
    pub weft_store: u32,
    /// What is to be there.
    pub entries: Vec<StoreEntry>,
    /// Whether to write over what is there and differs.
    #[serde(default)]
    pub replace: bool,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// What became of a part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoreImported {
    /// Keys that were not there and are now, or would be.
    pub written: u64,
    /// Keys that were there with this value.
    pub same: u64,
    /// Keys that hang on leases, which are left to those who keep them.
    pub leased: u64,
    /// Keys that are there with another value; with `replace` they have been, or would be, written over.
    pub differ: Vec<String>,
}

impl StoreImported {
    /// Adds what became of another part.
    pub fn add(&mut self, other: Self) {
        self.written += other.written;
        self.same += other.same;
        self.leased += other.leased;
        self.differ.extend(other.differ);
    }
}

impl StoreEntry {
    /// A key as it stands in a store.
    #[must_use]
    pub fn new(key: Vec<u8>, value: Vec<u8>, leased: bool) -> Self {
        let (key, key_base64) = split(key);
        let (value, value_base64) = split(value);
        Self { key, key_base64, value, value_base64, leased }
    }

    /// The key and the value.
    ///
    /// # Errors
    /// Which of the two is missing, there twice, or no base64.
    pub fn bytes(&self) -> Result<(Vec<u8>, Vec<u8>), String> {
        let key = join("key", self.key.as_deref(), self.key_base64.as_deref())?;
        let value = join("value", self.value.as_deref(), self.value_base64.as_deref())
            .map_err(|why| format!("{}: {why}", String::from_utf8_lossy(&key).escape_debug()))?;
        Ok((key, value))
    }
}

fn split(bytes: Vec<u8>) -> (Option<String>, Option<String>) {
    match String::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(e) => (None, Some(base64(e.as_bytes()))),
    }
}

fn join(what: &str, text: Option<&str>, base64: Option<&str>) -> Result<Vec<u8>, String> {
    match (text, base64) {
        (Some(text), None) => Ok(text.as_bytes().to_vec()),
        (None, Some(text)) => unbase64(text).ok_or_else(|| format!("{what}_base64 is no base64")),
        (None, None) => Err(format!("an entry has neither {what} nor {what}_base64")),
        (Some(_), Some(_)) => Err(format!("an entry has both {what} and {what}_base64")),
    }
}

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for at in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= three.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

fn unbase64(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let body = text.strip_suffix("==").or_else(|| text.strip_suffix('=')).unwrap_or(text);
    let mut bytes = Vec::with_capacity(body.len() / 4 * 3 + 2);
    for four in body.as_bytes().chunks(4) {
        let mut bits = 0_u32;
        for letter in four {
            let value = LETTERS.iter().position(|l| l == letter)?;
            bits = bits << 6 | u32::try_from(value).ok()?;
        }
        bits <<= 6 * (4 - four.len());
        let all = bits.to_be_bytes();
        bytes.extend_from_slice(all.get(1..four.len())?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_what_the_standard_says() {
        // RFC 4648 section 10.
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
            assert_eq!(unbase64(text).unwrap(), bytes.as_bytes());
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unbase64(&base64(&all)).unwrap(), all);
        for junk in ["Z", "Zg", "Zg=", "Z===", "Zm9v\n", "Zm 9", "Zg==Zg==", "===="] {
            assert_eq!(unbase64(junk), None, "{junk:?}");
        }
    }

    #[test]
    fn what_is_text_is_read_as_text_and_nothing_is_lost() {
        let plain = StoreEntry::new(b"/a".to_vec(), "ä".into(), false);
        assert_eq!((plain.key.as_deref(), plain.value.as_deref()), (Some("/a"), Some("ä")));
        for (key, value) in [(&b"/a\xff"[..], &b"\x00\xfe"[..]), (b"", b"")] {
            let entry = StoreEntry::new(key.to_vec(), value.to_vec(), true);
            let again: StoreEntry = serde_json::from_str(&serde_json::to_string(&entry).unwrap()).unwrap();
            assert_eq!(again.bytes().unwrap(), (key.to_vec(), value.to_vec()));
        }
        let twice = StoreEntry { key: Some("/a".into()), value: Some(String::new()), value_base64: Some(String::new()), ..plain };
        assert_eq!(twice.bytes().unwrap_err(), "/a: an entry has both value and value_base64");
    }
}
