//! A real etcd in the fabric's namespace, which can be killed and started again with its data.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::eventually::{SOON, eventually};
use crate::place::{Daemon, Output, Place};

/// etcd, and how to ask it.
#[derive(Debug)]
pub struct EtcdHandle {
    place: Place,
    dir: PathBuf,
    address: Ipv4Addr,
    process: Mutex<Option<Daemon>>,
}

impl EtcdHandle {
    /// Describes it; [`EtcdHandle::start`] starts it.
    pub(crate) fn new(place: Place, dir: PathBuf, address: Ipv4Addr) -> Self {
        Self { place, dir, address, process: Mutex::new(None) }
    }

    /// What `--etcd-endpoints` takes, reachable from every host.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}:2379", self.address)
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
        let url = self.endpoint();
        let args = [
            "etcd".to_owned(),
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls={url}"),
            format!("--advertise-client-urls={url}"),
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

    /// Runs `etcdctl` (API version 3) against it.
    ///
    /// # Errors
    /// When `etcdctl` cannot be started or does not end.
    pub fn ctl<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<Output> {
        let endpoints = format!("--endpoints={}", self.endpoint());
        let own = ["env", "ETCDCTL_API=3", "etcdctl", &endpoints, "--command-timeout=5s", "--dial-timeout=2s"];
        let words = own.into_iter().map(str::to_owned).chain(args.into_iter().map(str::to_owned));
        self.place.exec_within(Duration::from_secs(20), words)
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

    /// Writes one key.
    ///
    /// # Errors
    /// When etcd does not take it.
    pub fn put(&self, key: &str, value: &str) -> Result<()> {
        self.ctl(["put", "--", key, value])?.success().map(drop)
    }

    /// Deletes one key.
    ///
    /// # Errors
    /// When etcd does not take it.
    pub fn delete(&self, key: &str) -> Result<()> {
        self.ctl(["del", "--", key])?.success().map(drop)
    }

    /// What it said.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("etcd.log")).unwrap_or_default()
    }
}
