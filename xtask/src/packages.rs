//! What comes from Debian: which package brings what, and how to see that it is there without asking apt.

use std::collections::BTreeSet;
use std::path::Path;

use crate::sh;

/// How to see that something is there.
#[derive(Clone, Copy)]
enum Sign {
    /// A program that can be found, wherever it comes from.
    Program(&'static str),
    /// A file.
    File(&'static str),
    /// A file in one of the folders whose name begins so: parent, beginning, rest.
    Below(&'static str, &'static str, &'static str),
    /// The package itself, installed: what matters is that it is this one.
    Installed,
}

/// One Debian package.
struct Package {
    name: &'static str,
    sign: Sign,
}

const fn package(name: &'static str, sign: Sign) -> Package {
    Package { name, sign }
}

/// What building and testing need.
const ALWAYS: &[Package] = &[
    // Linking, and the few C sources of dependencies.
    package("gcc", Sign::Program("cc")),
    package("libc6-dev", Sign::File("/usr/include/stdio.h")),
    // The etcd client is generated from its protocol files.
    package("protobuf-compiler", Sign::Program("protoc")),
    // The tests: a real etcd, hosts, and the clients that users have.
    package("etcd-server", Sign::Program("etcd")),
    package("etcd-client", Sign::Program("etcdctl")),
    package("iproute2", Sign::Program("ip")),
    package("nftables", Sign::Program("nft")),
    package("iptables", Sign::Program("iptables-legacy")),
    package("iputils-ping", Sign::Program("ping")),
    package("bind9-dnsutils", Sign::Program("dig")),
    package("dnsmasq-base", Sign::Program("dnsmasq")),
    // Certificates, and an authority of one's own.
    package("openssl", Sign::Program("openssl")),
    package("curl", Sign::Program("curl")),
    package("tcpdump", Sign::Program("tcpdump")),
    package("bpftool", Sign::Program("bpftool")),
    // Plain processes: nspawn (and systemd-analyze, of the systemd that it depends on), lxc, bubblewrap.
    package("systemd-container", Sign::Program("systemd-nspawn")),
    package("lxc", Sign::Program("lxc-execute")),
    package("bubblewrap", Sign::Program("bwrap")),
    // The tools that start containers. runc is named with podman, so that apt takes it and not crun, podman's first choice.
    package("docker.io", Sign::File("/usr/sbin/dockerd")),
    package("podman", Sign::Program("podman")),
    package("conmon", Sign::Program("conmon")),
    package("runc", Sign::Program("runc")),
    package("containerd", Sign::Program("ctr")),
    // Plugins of others, in one list with ours.
    package("containernetworking-plugins", Sign::File("/usr/lib/cni/portmap")),
    // Root file systems of containers. The dynamic one of package busybox would not run in an empty one.
    package("busybox-static", Sign::Installed),
    // http.server; python3-minimal has none.
    package("python3", Sign::Below("/usr/lib", "python3", "http/server.py")),
    // An environment for schemathesis, which is not in Debian.
    package("python3-venv", Sign::Below("/usr/lib", "python3", "ensurepip/__init__.py")),
];

/// A second Rust with its library sources, and the LLVM that its bpf-linker is built against.
const EBPF: &[Package] = &[
    package("rustc-web", Sign::Installed),
    package("cargo-web", Sign::Installed),
    package("rust-web-src", Sign::Installed),
    package("llvm-22-dev", Sign::Installed),
    package("libpolly-22-dev", Sign::Installed),
];

/// What benchmarks need beside.
const BENCH: &[Package] = &[package("iperf3", Sign::Program("iperf3"))];

/// The packages that are missing, in alphabetical order.
#[must_use]
pub fn missing(with_ebpf: bool, with_bench: bool) -> BTreeSet<&'static str> {
    let status = std::fs::read_to_string("/var/lib/dpkg/status").unwrap_or_default();
    let wanted = ALWAYS.iter().chain(if with_ebpf { EBPF } else { &[] }).chain(if with_bench { BENCH } else { &[] });
    wanted.filter(|p| !present(p, &status)).map(|p| p.name).collect()
}

fn present(package: &Package, status: &str) -> bool {
    match package.sign {
        Sign::Program(name) => sh::which(name).is_some(),
        Sign::File(path) => Path::new(path).exists(),
        Sign::Below(parent, beginning, rest) => {
            let Ok(entries) = std::fs::read_dir(parent) else { return false };
            entries
                .flatten()
                .filter(|e| e.file_name().to_string_lossy().starts_with(beginning))
                .any(|e| e.path().join(rest).exists())
        }
        Sign::Installed => is_installed(package.name, status),
    }
}

/// Looks a package up in dpkg's own table: paragraphs with `Package:` first and `Status:` among the next lines.
fn is_installed(name: &str, status: &str) -> bool {
    let head = format!("Package: {name}");
    let paragraph = status.split("\n\n").find(|p| p.lines().next() == Some(&head));
    paragraph.is_some_and(|p| p.lines().any(|l| l == "Status: install ok installed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Package: rustc-web\nStatus: install ok installed\nVersion: 1\n\n\
        Package: rustc\nStatus: deinstall ok config-files\n\nPackage: curl\nStatus: install ok installed\n";

    #[test]
    fn an_installed_package_is_seen() {
        assert!(is_installed("rustc-web", STATUS));
        assert!(is_installed("curl", STATUS));
    }

    #[test]
    fn a_package_whose_configuration_alone_is_left_is_missing() {
        assert!(!is_installed("rustc", STATUS));
    }

    #[test]
    fn the_beginning_of_a_name_is_another_package() {
        assert!(!is_installed("rust", STATUS));
    }
}
