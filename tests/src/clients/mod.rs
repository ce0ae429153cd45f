//! The tools that people start containers with, as they are, on hosts of a topology.
//!
//! podman, containerd and dockerd keep what they know at fixed paths, so on one machine there is one of each. [`Home`] gives
//! a host paths of its own, [`rootfs`] makes a root file system without any registry, and then there is a file per tool.
//! [`install_cni`] does what an administrator does on each host, and [`nothing_left`] looks whether all is gone again.

pub mod ctr;
pub mod docker;
pub mod home;
pub mod netavark;
pub mod podman;
pub mod rootfs;

use std::fs;
use std::io;

use anyhow::{Context, Result, ensure};

use crate::dns::{Answer, dig, server_of};
use crate::etcd::EtcdHandle;
use crate::eventually::{SOON, eventually};
use crate::host::Host;
use crate::place::Output;
use crate::topology::Topology;

pub use ctr::Ctr;
pub use docker::Docker;
pub use home::Home;
pub use netavark::Netavark;
pub use podman::Podman;

/// A home for every host of a topology in which nothing runs yet, with the agents in them; then starts the cluster.
///
/// # Errors
/// When a home or an agent does not come up.
pub fn cluster_at_home(topology: &Topology) -> Result<Vec<Home>> {
    let homes: Vec<Home> = topology.hosts().iter().map(Home::open).collect::<Result<_>>()?;
    for (host, home) in topology.hosts().iter().zip(&homes) {
        host.agent.live_in(home);
    }
    topology.start_cluster()?;
    Ok(homes)
}

/// Puts the CNI plugin in place as an administrator does, with `netctl cni install`, and one list per entry: its name, and
/// further options of that command.
///
/// # Errors
/// When `netctl` refuses.
pub fn install_cni(host: &Host, home: &Home, lists: &[(&str, &[&str])]) -> Result<()> {
    // The network that podman's package brings is none of ours, and ctr takes the first of all lists.
    home.empty("/etc/cni/net.d")?;
    for (name, options) in lists {
        host.netctl([&["cni", "install", "--name", name], *options].concat())?.success()?;
    }
    Ok(())
}

/// What a host's name server answers.
///
/// # Errors
/// When it does not.
pub fn ask_dns(host: &Host, name: &str) -> Result<Answer> {
    dig(host.place(), &server_of(&host.agent.status()?)?, &[name])
}

/// Waits until a name has exactly these IPv4 addresses on a host.
///
/// # Errors
/// When it has not soon.
pub fn resolves(host: &Host, name: &str, addresses: &[&str]) -> Result<()> {
    eventually(&format!("{name} on {} is {addresses:?}", host.name()), SOON, || {
        let answer = ask_dns(host, name)?;
        ensure!(answer.data("A") == addresses, "{answer:?}");
        Ok(())
    })
}

/// Waits until a command prints this and nothing else.
///
/// # Errors
/// When it does not soon.
pub fn says(what: &str, wanted: &str, mut run: impl FnMut() -> Result<Output>) -> Result<()> {
    eventually(&format!("{what}: {wanted}"), SOON, || {
        let said = run()?.success()?;
        ensure!(said.stdout.trim() == wanted, "{said:?}");
        Ok(())
    })
}

/// Waits until a host whose containers have all been removed has nothing of them: no attachment, device, queued request,
/// record, or namespace.
///
/// # Errors
/// When something stays.
pub fn nothing_left(host: &Host, home: &Home, etcd: &EtcdHandle) -> Result<()> {
    eventually(&format!("nothing is left on {}", host.name()), SOON, || {
        let status = host.agent.status()?;
        ensure!(status["attachments"] == 0, "{status}");
        let links = home.exec(["ip", "-json", "link"])?.json()?;
        let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
        let ours: Vec<_> = names.filter(|name| name.len() == 14 && name.starts_with("weft")).collect();
        ensure!(ours.is_empty(), "devices {ours:?}");
        for dir in [host.agent.run_dir().join("queue"), home.run().join("netns")] {
            let found = match fs::read_dir(&dir) {
                Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
                Err(e) => return Err(e).with_context(|| format!("list {}", dir.display())),
            };
            ensure!(found.is_empty(), "{found:?}");
        }
        let mine = format!("\"node\":\"{}\"", host.name());
        let records: Vec<_> = etcd.list("/skydns/")?.into_iter().filter(|(_, value)| value.contains(&mine)).collect();
        ensure!(records.is_empty(), "{records:?}");
        Ok(())
    })
}
