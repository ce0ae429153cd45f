//! `weftd cleanup`: takes everything of Weft's out of this host's kernel.

use anyhow::Context;
use tracing::info;
use weft_agent::kernel::bpf::{self, Paths, mounts};
use weft_agent::kernel::netlink::Netlink;
use weft_plan::kernel;

use crate::config::Settings;
use crate::firewall::Firewall;
use crate::state::StateDir;
use crate::subnet_env;

/// Removes programs, maps, packet filter rules, devices, addresses and routes. The store is left alone: the subnet stays this host's.
///
/// # Errors
/// An agent is running, or something could not be removed.
pub async fn run(settings: &Settings) -> anyhow::Result<()> {
    let state = StateDir::open(&settings.state_dir, &settings.run_dir)?;
    let cgroup = settings.cgroup.clone().or_else(mounts::find_cgroup2).unwrap_or_default();
    // Programs first: they would go on with devices that are about to go.
    bpf::cleanup(&Paths { bpffs: settings.bpffs.clone(), cgroup })?;
    let netlink = Netlink::new().context("netlink")?;
    let nothing = kernel::Rows::default();
    let actual = netlink.observe(&nothing.sysctls).await?;
    let actions = kernel::diff(&nothing, &actual);
    for action in &actions {
        println!("{action}");
        netlink.apply(action).await?;
    }
    // Last: as long as there is a device, its packets are checked.
    for line in Firewall::new(settings).remove().await? {
        println!("{line}");
    }
    if let Some(path) = subnet_env::remove(settings).context("remove the subnet file")? {
        println!("remove file {}", path.display());
    }
    state.forget_attachments()?;
    state.forget_uplink()?;
    mounts::release_cgroup2(&settings.run_dir)?;
    info!(removed = actions.len(), "nothing of Weft's is left in the kernel");
    Ok(())
}
