//! A real netavark, podman's network program from 4.5 on, driven as podman drives it: JSON in a file, a namespace by path.
//!
//! podman itself is not there in such a version, so a container is a namespace of the host's `/run/netns` and whatever the
//! test runs in it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::clients::Home;
use crate::host::Host;
use crate::node::{binary, tool};
use crate::place::{Output, Place};

/// netavark on a host.
#[derive(Debug)]
pub struct Netavark<'a> {
    home: &'a Home,
    dir: PathBuf,
}

impl<'a> Netavark<'a> {
    /// Puts the plugin into a directory for it.
    ///
    /// # Errors
    /// When netavark or the plugin was not built, or the kernel refuses.
    pub fn new(host: &Host, home: &'a Home) -> Result<Self> {
        let dir = host.dir().join("netavark");
        std::fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
        let plugin = dir.join("weft");
        std::os::unix::fs::symlink(binary("weft-cni")?, &plugin).with_context(|| format!("link {}", plugin.display()))?;
        tool("netavark")?;
        Ok(Self { home, dir })
    }

    /// `podman network create --driver weft --opt …`: the network, as it came back.
    ///
    /// # Errors
    /// When it is refused.
    pub fn create(&self, name: &str, options: &Value) -> Result<Value> {
        let network = json!({
            // podman names networks by 64 hexadecimal digits.
            "name": name, "id": format!("{:0>64}", hex(name)), "driver": "weft", "options": options,
            "dns_enabled": true, "internal": false, "ipv6_enabled": false,
        });
        let pools = json!([{ "base": "10.89.0.0/16", "size": 24 }]);
        let rest = json!({ "subnet_pools": pools, "default_interface_name": "podman", "check_used_subnets": false });
        let used = json!({ "interfaces": [], "names": {}, "subnets": [] });
        self.netavark(&["create"], &json!({ "network": network, "used": used, "options": rest }))?.json()
    }

    /// A container's namespace, empty.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn namespace(&self, container: &str) -> Result<Place> {
        self.home.exec(["ip", "netns", "add", container])?.success()?;
        Ok(Place { netns: self.home.outside(&path(container)), ..self.home.place().clone() })
    }

    /// Removes it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_namespace(&self, container: &str) -> Result<()> {
        self.home.exec(["ip", "netns", "delete", container])?.success().map(drop)
    }

    /// Sets a container up in a network; more options of the container in that network are in `own`. What comes back is per
    /// network: interfaces, name servers, domains.
    ///
    /// # Errors
    /// When netavark cannot be run. Its exit code is not judged.
    pub fn setup(&self, network: &Value, container: &str, own: &Value) -> Result<Output> {
        self.netavark(&["setup", &path(container)], &self.options(network, container, own)?)
    }

    /// Takes it down again.
    ///
    /// # Errors
    /// As [`Netavark::setup`].
    pub fn teardown(&self, network: &Value, container: &str, own: &Value) -> Result<Output> {
        self.netavark(&["teardown", &path(container)], &self.options(network, container, own)?)
    }

    fn options(&self, network: &Value, container: &str, own: &Value) -> Result<Value> {
        let name = network["name"].as_str().context("a network has a name")?;
        let mut own = own.clone();
        own["interface_name"] = "eth0".into();
        Ok(json!({
            "container_id": format!("{:0>64}", hex(container)), "container_name": container,
            "networks": { name: own }, "network_info": { name: network },
        }))
    }

    fn netavark(&self, verb: &[&str], input: &Value) -> Result<Output> {
        let file = self.dir.join("input.json");
        std::fs::write(&file, input.to_string()).with_context(|| format!("write {}", file.display()))?;
        let mut words = vec![tool("netavark")?.into_os_string()];
        words.extend(["--config", "/run/containers/networks", "--plugin-directory"].map(Into::into));
        words.extend([self.dir.clone().into_os_string(), "--file".into(), file.into_os_string()]);
        words.extend(verb.iter().map(Into::into));
        self.home.exec(words)
    }
}

fn path(container: &str) -> String {
    format!("/run/netns/{container}")
}

/// Digits that no other name has.
fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}
