//! A real etcd in the fabric's namespace, which can be killed and started again with its data.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::eventually::{SOON, eventually};
use crate::place::{Daemon, Output, Place, finish};
use crate::topology::FABRIC;

/// etcd, and how to ask it.
#[derive(Debug)]
pub struct EtcdHandle {
    place: Place,
    dir: PathBuf,
    listen: Vec<IpAddr>,
    process: Mutex<Option<Daemon>>,
}

/// What `--etcd-endpoints` takes, by this address.
pub(crate) fn endpoint_at(address: IpAddr) -> String {
    format!("http://{}", SocketAddr::new(address, 2379))
}

impl EtcdHandle {
    /// Describes it; [`EtcdHandle::start`] starts it.
    pub(crate) fn new(place: Place, dir: PathBuf, listen: Vec<IpAddr>) -> Self {
        Self { place, dir, listen, process: Mutex::new(None) }
    }

    /// What `--etcd-endpoints` takes, reachable from every host that has IPv4.
    #[must_use]
    pub fn endpoint(&self) -> String {
        endpoint_at(FABRIC.into())
    }

    fn process(&self) -> MutexGuard<'_, Option<Daemon>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts it, with the data it had, and waits until it answers. It runs on if it did already.
    ///
    /// # Errors
    /// When it does not answer soon; its log is in the error.
    pub fn start(&self) -> Result<()> {
        let mut process = self.process();
        if process.is_some() {
            return Ok(());
        }
        let data = self.dir.join("etcd");
        let urls: Vec<String> = self.listen.iter().map(|address| endpoint_at(*address)).collect();
        let urls = urls.join(",");
        let args = [
            "etcd".to_owned(),
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls={urls}"),
            format!("--advertise-client-urls={urls}"),
            // Its own namespace: no other etcd listens there.
            "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
            "--logger=zap".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        let daemon = self.place.spawn(&self.dir, "etcd", args)?;
        eventually("etcd answers", SOON, || {
            if let Some(status) = daemon.ended()? {
                bail!("etcd ended: {status}\n{}", daemon.stderr());
            }
            self.ctl(["endpoint", "health"])?.success()
        })?;
        *process = Some(daemon);
        Ok(())
    }

    /// Kills it with SIGKILL. Its data stays.
    ///
    /// # Errors
    /// When it is not running.
    pub fn stop(&self) -> Result<()> {
        self.process().take().context("etcd is not running")?.kill9()
    }

    /// Kills it and loses all its data, as a broken disk would.
    ///
    /// # Errors
    /// When it is not running, or its data cannot be removed.
    pub fn lose_everything(&self) -> Result<()> {
        self.stop()?;
        std::fs::remove_dir_all(self.dir.join("etcd")).context("remove etcd's data")
    }

    /// How to ask it from the fabric.
    #[must_use]
    pub fn client(&self) -> Client {
        Client { place: self.place.clone(), endpoint: self.endpoint() }
    }

    /// How to ask it from another place, as a program there would.
    #[must_use]
    pub fn client_at(&self, place: &Place) -> Client {
        Client { place: place.clone(), endpoint: self.endpoint() }
    }

    /// As [`Client::ctl`].
    ///
    /// # Errors
    /// As there.
    pub fn ctl<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<Output> {
        self.client().ctl(args)
    }

    /// As [`Client::get`].
    ///
    /// # Errors
    /// As there.
    pub fn get(&self, key: &str) -> Result<Option<String>> {
        self.client().get(key)
    }

    /// As [`Client::list`].
    ///
    /// # Errors
    /// As there.
    pub fn list(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        self.client().list(prefix)
    }

    /// As [`Client::put`].
    ///
    /// # Errors
    /// As there.
    pub fn put(&self, key: &str, value: &str) -> Result<()> {
        self.client().put(key, value)
    }

    /// As [`Client::delete`].
    ///
    /// # Errors
    /// As there.
    pub fn delete(&self, key: &str) -> Result<()> {
        self.client().delete(key)
    }

    /// Tells of every change below `prefix` from revision `from` on; what it hears is kept in the topology's directory.
    ///
    /// # Errors
    /// As [`Client::watch`].
    pub fn watch(&self, prefix: &str, from: i64) -> Result<Watch> {
        self.client().watch(&self.dir, prefix, from)
    }

    /// What it said.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("etcd.log")).unwrap_or_default()
    }
}

/// `etcdctl` (API version 3) in one place.
#[derive(Clone, Debug)]
pub struct Client {
    place: Place,
    endpoint: String,
}

/// A key as etcd has it, or had it when it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its value; none if this tells of its deletion.
    pub value: Option<String>,
    /// The lease it hangs on; 0 is none.
    pub lease: i64,
    /// The revision that it was written or deleted at.
    pub modified: i64,
}

impl Client {
    fn words(&self) -> impl Iterator<Item = String> + use<> {
        let endpoints = format!("--endpoints={}", self.endpoint);
        ["env", "ETCDCTL_API=3", "etcdctl", &endpoints].map(str::to_owned).into_iter()
    }

    /// Runs `etcdctl` to its end.
    ///
    /// # Errors
    /// When `etcdctl` cannot be started or does not end.
    pub fn ctl<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<Output> {
        let bounds = ["--command-timeout=5s", "--dial-timeout=2s"];
        let words = self.words().chain(bounds.into_iter().chain(args).map(str::to_owned));
        self.place.exec_within(BOUND, words)
    }

    /// The value of one key, or `None`.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub fn get(&self, key: &str) -> Result<Option<String>> {
        let mut found = self.list_with(&[key])?;
        Ok(found.pop().map(|(_, value)| value))
    }

    /// All keys below `prefix` with their values, in the order of keys.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub fn list(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        self.list_with(&[prefix, "--prefix"])
    }

    fn list_with(&self, args: &[&str]) -> Result<Vec<(String, String)>> {
        let output = self.ctl(["get"].into_iter().chain(args.iter().copied()))?.success()?;
        // One line for the key, one for the value: neither flannel's, SkyDNS's nor our values have line breaks.
        let mut lines = output.stdout.lines().map(str::to_owned);
        Ok(std::iter::from_fn(|| Some((lines.next()?, lines.next()?))).collect())
    }

    /// All keys below `prefix` with all that etcd knows of them, in the order of keys, and the revision of the listing.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub fn entries(&self, prefix: &str) -> Result<(Vec<Entry>, i64)> {
        let answer = self.ctl(["get", prefix, "--prefix", "-w", "json"])?.json()?;
        let revision = answer["header"]["revision"].as_i64().with_context(|| format!("no revision in {answer}"))?;
        let found: Result<Vec<Entry>> = answer["kvs"].as_array().into_iter().flatten().map(|kv| entry(kv, true)).collect();
        Ok((found?, revision))
    }

    /// Writes one key.
    ///
    /// # Errors
    /// When etcd does not take it.
    pub fn put(&self, key: &str, value: &str) -> Result<()> {
        self.ctl(["put", "--", key, value])?.success().map(drop)
    }

    /// Writes one key that hangs on a lease, whatever is there.
    ///
    /// # Errors
    /// When etcd does not take it.
    pub fn put_on(&self, lease: i64, key: &str, value: &str) -> Result<()> {
        self.ctl(["put", &format!("--lease={lease:x}"), "--", key, value])?.success().map(drop)
    }

    /// Writes one key that hangs on a lease, unless it is there. Returns whether it was not.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub fn create_on(&self, lease: i64, key: &str, value: &str) -> Result<bool> {
        // What etcdctl reads: comparisons, writes if they hold, writes if not (none); an empty line after each. Words are
        // quoted as Go's are, which JSON's strings are too.
        let (key, value) = (serde_json::to_string(key)?, serde_json::to_string(value)?);
        let text = format!("version({key}) = \"0\"\n\nput --lease={lease:x} {key} {value}\n\n\n");
        let (input, mut pen) = std::io::pipe().context("make a pipe")?;
        pen.write_all(text.as_bytes()).context("tell etcdctl")?;
        drop(pen);
        let words: Vec<String> = self.words().collect();
        let mut command = self.place.command(&words[0])?;
        command.args(&words[1..]).args(["--command-timeout=5s", "-w", "json", "txn"]).stdin(Stdio::from(input));
        let answer = finish(command, &format!("etcdctl txn (create {key})"), BOUND)?.json()?;
        Ok(answer["succeeded"] == true)
    }

    /// Deletes one key.
    ///
    /// # Errors
    /// When etcd does not take it.
    pub fn delete(&self, key: &str) -> Result<()> {
        self.ctl(["del", "--", key])?.success().map(drop)
    }

    /// A new lease of this many seconds.
    ///
    /// # Errors
    /// When etcd gives none.
    pub fn grant(&self, seconds: u64) -> Result<i64> {
        let answer = self.ctl(["lease", "grant", &seconds.to_string(), "-w", "json"])?.json()?;
        answer["ID"].as_i64().with_context(|| format!("no lease in {answer}"))
    }

    /// Ends a lease, and the keys that hang on it.
    ///
    /// # Errors
    /// When etcd does not take it.
    pub fn revoke(&self, lease: i64) -> Result<()> {
        self.ctl(["lease", "revoke", &format!("{lease:x}")])?.success().map(drop)
    }

    /// Tells of every change below `prefix` from revision `from` on; what it hears is kept in a file in `dir`.
    ///
    /// # Errors
    /// When `etcdctl` cannot be started.
    pub fn watch(&self, dir: &Path, prefix: &str, from: i64) -> Result<Watch> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let rev = format!("--rev={from}");
        let words = ["watch", prefix, "--prefix", rev.as_str(), "-w", "json"].map(str::to_owned);
        let name = format!("watch-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Ok(Watch { daemon: self.place.spawn(dir, &name, self.words().chain(words))? })
    }
}

/// How long one command may take.
const BOUND: Duration = Duration::from_secs(20);

/// A watch that goes on in the background.
#[derive(Debug)]
pub struct Watch {
    daemon: Daemon,
}

impl Watch {
    /// All that it has heard since it began.
    ///
    /// # Errors
    /// When it has ended, or says what cannot be read.
    pub fn heard(&self) -> Result<Vec<Entry>> {
        if let Some(status) = self.daemon.ended()? {
            bail!("{} has ended: {status}: {}", self.daemon.command(), self.daemon.stderr());
        }
        let said = self.daemon.stdout();
        // A line without its end is still being written.
        let whole = said.rfind('\n').map_or("", |end| &said[..end]);
        let mut heard = Vec::new();
        for line in whole.lines() {
            let answer: Value = serde_json::from_str(line).with_context(|| format!("a watch said {line:?}"))?;
            for event in answer["Events"].as_array().into_iter().flatten() {
                // A put is 0, which etcdctl leaves out.
                heard.push(entry(&event["kv"], event["type"].as_i64().unwrap_or(0) == 0)?);
            }
        }
        Ok(heard)
    }
}

fn entry(kv: &Value, is_there: bool) -> Result<Entry> {
    let text = |of: &Value| String::from_utf8(base64(of.as_str().unwrap_or_default())?).context("text that is none");
    Ok(Entry {
        key: text(&kv["key"])?,
        value: is_there.then(|| text(&kv["value"])).transpose()?,
        lease: kv["lease"].as_i64().unwrap_or(0),
        modified: kv["mod_revision"].as_i64().unwrap_or(0),
    })
}

/// Standard base64 with padding (RFC 4648 section 4), as etcdctl prints bytes in JSON.
fn base64(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for letter in text.bytes().filter(|b| *b != b'=') {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            other => bail!("{:?} is no base64", char::from(other)),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_as_the_standard_says() {
        // RFC 4648 section 10.
        for (text, bytes) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmFy", "foobar")] {
            assert_eq!(base64(text).unwrap(), bytes.as_bytes(), "{text}");
        }
        assert_eq!(base64("+/8=").unwrap(), [0xfb, 0xff]);
        assert!(base64("a b").is_err());
    }
}
