//! A root file system for containers, of the machine's static busybox: no registry is asked.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};

/// Where Debian's busybox-static puts it.
const BUSYBOX: &str = "/bin/busybox";

/// The programs of busybox that a container has under their own names.
const PROGRAMS: [&str; 14] =
    ["sh", "cat", "echo", "grep", "hostname", "httpd", "ip", "mkdir", "nc", "nslookup", "ping", "sleep", "true", "wget"];

/// Makes one in a directory that is not there yet. A tool may write into it, so each container has its own.
///
/// # Errors
/// When busybox is missing, or the kernel refuses.
pub fn make(dir: &Path) -> Result<()> {
    for name in ["bin", "dev", "etc", "proc", "run", "sys", "tmp", "var"] {
        fs::create_dir_all(dir.join(name)).with_context(|| format!("create {}/{name}", dir.display()))?;
    }
    let busybox = dir.join("bin/busybox");
    fs::copy(BUSYBOX, &busybox).with_context(|| format!("copy {BUSYBOX} (package busybox-static)"))?;
    for name in PROGRAMS {
        let link = dir.join("bin").join(name);
        symlink("busybox", &link).with_context(|| format!("link {}", link.display()))?;
    }
    // busybox 1.35.0 as Debian 12 links it dies of a name that is found in /etc/hosts (a static program loads no NSS module
    // of another glibc); names are DNS's to answer here.
    fs::write(dir.join("etc/nsswitch.conf"), "hosts: dns\n").context("write nsswitch.conf")
}

/// The words of a command that serves `say` by HTTP, for ever. TERM ends it at once, although it is the first process.
#[must_use]
pub fn serve(port: u16, say: &str) -> Vec<String> {
    let script = format!(
        "mkdir -p /tmp/www && echo {say} > /tmp/www/index.html && busybox httpd -p {port} -h /tmp/www \
         && trap 'exit 0' TERM && while true; do sleep 100000 & wait $!; done"
    );
    vec!["/bin/sh".to_owned(), "-c".to_owned(), script]
}

/// The words of a command that asks such a server once, by name or address; it prints what was said.
#[must_use]
pub fn ask(to: &str) -> Vec<String> {
    ["/bin/wget", "-q", "-O", "-", "-T", "5", &format!("http://{to}/")].map(str::to_owned).to_vec()
}
