//! `subnet.env`: what flannel leaves for tools that make containers themselves (its CNI plugin, `mk-docker-opts.sh`).
//!
//! ```text
//!   FLANNEL_NETWORK=10.244.0.0/16
//!   FLANNEL_SUBNET=10.244.3.1/24
//!   FLANNEL_IPV6_NETWORK=fd00:10:244::/48          where there is IPv6
//!   FLANNEL_IPV6_SUBNET=fd00:10:244:3::1/64
//!   FLANNEL_MTU=1450
//!   FLANNEL_IPMASQ=true
//! ```
//!
//! flannel writes the file once, at its start. Here it follows the subnet, the network and the uplink's MTU, and comes back
//! when somebody removes it. As long as something of it is not known (the store has not been read, there is no subnet or no uplink yet)
//! the file stays as it is. Attachments do not need it, and such a tool does not know of attachments: on one host either
//! the one or the other gives out addresses. (Those of a tool's bridge take the whole subnet for on-link, so they reach the
//! containers of all hosts but the attachments beside them.)

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};
use weft_plan::{Host, ipam};

use crate::config::{MasqueradeMode, Settings};
use crate::reconcile::Report;

/// How often the file is looked at: nobody tells of a file that somebody else changes.
const LOOK: Duration = Duration::from_secs(2);

/// The file's text; none for a host without a network, a subnet or an uplink, whose MTU it has. `masquerade` is whether this host gives its own address to
/// what leaves the network; tools do it themselves if not.
fn text(host: &Host, masquerade: bool) -> Option<String> {
    let overlay = host.overlay()?;
    let (config, subnet) = (overlay.config, overlay.subnet);
    let mut text = String::new();
    // Writing into a string does not fail.
    let _ = writeln!(text, "FLANNEL_NETWORK={}", config.network);
    let _ = writeln!(text, "FLANNEL_SUBNET={}/{}", ipam::gateway(subnet), subnet.prefix_len());
    if let (Some(range), Some(subnet)) = (&config.v6, host.subnet6) {
        let _ = writeln!(text, "FLANNEL_IPV6_NETWORK={}", range.network);
        let _ = writeln!(text, "FLANNEL_IPV6_SUBNET={}/{}", ipam::gateway6(subnet), subnet.prefix_len());
    }
    let _ = writeln!(text, "FLANNEL_MTU={}", overlay.mtu());
    let _ = writeln!(text, "FLANNEL_IPMASQ={masquerade}");
    Some(text)
}

/// Keeps the file as it should be until the process ends; `reason` says why it is not.
pub async fn run(
    path: PathBuf,
    masquerade: MasqueradeMode,
    mut report: watch::Receiver<Report>,
    reason: watch::Sender<Option<String>>,
) {
    let masquerade = masquerade == MasqueradeMode::Auto;
    loop {
        let wanted = report.borrow_and_update().host.as_ref().and_then(|host| text(host, masquerade));
        if let Some(wanted) = wanted {
            let why = match keep(&path, &wanted) {
                Ok(written) => {
                    if written {
                        info!(path = %path.display(), "wrote subnet file");
                    }
                    None
                }
                Err(e) => Some(format!("write {}: {e}; name another file with --subnet-file, or off", path.display())),
            };
            if let Some(why) = why.as_ref().filter(|why| reason.borrow().as_ref() != Some(why)) {
                warn!(error = why, "subnet file not written");
            }
            reason.send_if_modified(|there| {
                let changed = *there != why;
                *there = why;
                changed
            });
        }
        if let Ok(Err(_)) = tokio::time::timeout(LOOK, report.changed()).await {
            return;
        }
    }
}

/// Replaces the file whole, unless it says this already. Returns whether it did.
fn keep(path: &Path, wanted: &str) -> std::io::Result<bool> {
    if std::fs::read(path).is_ok_and(|there| there == wanted.as_bytes()) {
        return Ok(false);
    }
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let beside = beside(path);
    // Left by an agent that was killed, or put there by somebody: what a link leads to is not to be written to.
    match std::fs::remove_file(&beside) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = std::fs::File::create_new(&beside)?;
    file.write_all(wanted.as_bytes())?;
    // As flannel's: tools that read it need not be root, whatever the umask is.
    file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    std::fs::rename(&beside, path).inspect_err(|_| {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&beside);
    })?;
    Ok(true)
}

/// `subnet.env.new` beside `subnet.env`.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Takes the file away, as `weftd cleanup` does. Returns whether there was one.
///
/// # Errors
/// It is there and cannot be removed.
pub fn remove(settings: &Settings) -> std::io::Result<Option<PathBuf>> {
    let Some(path) = settings.subnet_file() else { return Ok(None) };
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(Some(path)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use weft_model::mac::Mac;
    use weft_model::network::NetworkConfig;
    use weft_plan::Uplink;

    use super::*;

    fn host() -> Host {
        Host {
            node: "h1".parse().unwrap(),
            config: Some(NetworkConfig::parse(br#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#).unwrap()),
            subnet: Some("10.244.3.0/24".parse().unwrap()),
            subnet6: None,
            vtep_mac: Mac([2, 0, 0, 0, 0, 1]),
            vtep_mac6: weft_model::mac::Mac([2; 6]),
            uplink: Some(Uplink {
                name: "eth0".into(),
                index: 2,
                address: Some([192, 0, 2, 1].into()),
                address6: None,
                public_ip: Some([192, 0, 2, 1].into()),
                public_ipv6: None,
                mtu: 9000,
                ethernet: true,
                on_link: weft_plan::OnLink::default(),
            }),
            attachments: Vec::new(),
            netns_cookie: 1,
            networks: Vec::new(),
        }
    }

    #[test]
    fn the_text_is_flannels_to_the_letter() {
        let wanted = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\nFLANNEL_MTU=8950\nFLANNEL_IPMASQ=true\n";
        assert_eq!(text(&host(), true).unwrap(), wanted);
        assert!(text(&host(), false).unwrap().ends_with("FLANNEL_IPMASQ=false\n"));
        assert_eq!(text(&Host { subnet: None, ..host() }, true), None);
        assert_eq!(text(&Host { config: None, ..host() }, true), None);
        // What the MTU would be over Ethernet is a guess, and the file may have the truth.
        assert_eq!(text(&Host { uplink: None, ..host() }, true), None);
        let host_gw = NetworkConfig::parse(br#"{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}"#).unwrap();
        assert!(text(&Host { config: Some(host_gw), ..host() }, true).unwrap().contains("FLANNEL_MTU=9000\n"));
    }

    #[test]
    fn ipv6_stands_where_flannel_has_it_once_there_is_a_subnet() {
        let config =
            br#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:244::/48","Backend":{"Type":"vxlan"}}"#;
        let dual = Host { config: Some(NetworkConfig::parse(config).unwrap()), ..host() };
        let names = |host: &Host| -> Vec<String> {
            text(host, true).unwrap().lines().map(|l| l.split('=').next().unwrap().to_owned()).collect()
        };
        let v4 = ["FLANNEL_NETWORK", "FLANNEL_SUBNET", "FLANNEL_MTU", "FLANNEL_IPMASQ"];
        assert_eq!(names(&dual), v4);
        let dual = Host { subnet6: Some("fd00:10:244:3::/64".parse().unwrap()), ..dual };
        assert_eq!(names(&dual), [&v4[..2], &["FLANNEL_IPV6_NETWORK", "FLANNEL_IPV6_SUBNET"], &v4[2..]].concat());
        let text = text(&dual, true).unwrap();
        assert!(text.contains("\nFLANNEL_IPV6_NETWORK=fd00:10:244::/48\nFLANNEL_IPV6_SUBNET=fd00:10:244:3::1/64\n"), "{text}");
    }

    #[test]
    fn it_is_written_once_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flannel/subnet.env");
        assert!(keep(&path, "a\n").unwrap());
        assert!(!keep(&path, "a\n").unwrap());
        assert!(keep(&path, "b\n").unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "b\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        let left: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["subnet.env"]);
    }

    #[test]
    fn a_link_in_the_place_of_the_temporary_file_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("subnet.env"), dir.path().join("other"));
        std::fs::write(&other, "theirs").unwrap();
        std::os::unix::fs::symlink(&other, beside(&path)).unwrap();
        assert!(keep(&path, "a\n").unwrap());
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "theirs");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a\n");
        assert!(path.symlink_metadata().unwrap().is_file());
    }

    #[test]
    fn what_cannot_be_replaced_is_an_error_that_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("subnet.env");
        std::fs::create_dir(&path).unwrap();
        assert!(keep(&path, "a\n").is_err());
        assert!(!beside(&path).exists());
    }
}
