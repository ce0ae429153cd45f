//! A root file system for containers, of the machine's static busybox and its bash: no registry is asked.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// Where Debian's busybox-static puts it.
const BUSYBOX: &str = "/bin/busybox";

/// The shell that can connect by name.
const BASH: &str = "/bin/bash";

/// The programs of busybox that a container has under their own names.
const PROGRAMS: [&str; 14] =
    ["sh", "cat", "echo", "grep", "hostname", "httpd", "ip", "mkdir", "nc", "nslookup", "ping", "sleep", "true", "wget"];

/// Makes one in a directory, in place of what is there. A tool may write into it, so each container has its own.
///
/// # Errors
/// When busybox is missing, or the kernel refuses.
pub fn make(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).with_context(|| format!("empty {}", dir.display())),
        _ => {}
    }
    for name in ["bin", "dev", "etc", "proc", "run", "sys", "tmp", "var"] {
        fs::create_dir_all(dir.join(name)).with_context(|| format!("create {}/{name}", dir.display()))?;
    }
    let busybox = dir.join("bin/busybox");
    fs::copy(BUSYBOX, &busybox).with_context(|| format!("copy {BUSYBOX} (package busybox-static)"))?;
    for name in PROGRAMS {
        let link = dir.join("bin").join(name);
        symlink("busybox", &link).with_context(|| format!("link {}", link.display()))?;
    }
    bash(dir)
}

/// Debian's bash, and the libraries that it is linked with: busybox 1.35.0, linked statically with glibc, dies within
/// `getaddrinfo`, be it of a name or of an address.
fn bash(dir: &Path) -> Result<()> {
    let ldd = Command::new("ldd").arg(BASH).output().context("run ldd")?;
    let listed = String::from_utf8_lossy(&ldd.stdout).into_owned();
    // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, or the loader's path alone.
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    for path in libraries.chain([BASH]) {
        let copy = dir.join(path.trim_start_matches('/'));
        let above = copy.parent().with_context(|| format!("{path} is no file's path"))?;
        fs::create_dir_all(above).with_context(|| format!("create {}", above.display()))?;
        fs::copy(path, &copy).with_context(|| format!("copy {path}"))?;
    }
    Ok(())
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

/// The words of a command that asks such a server once, at `NAME:PORT` or `ADDRESS:PORT` (80 if none is said); it prints what was
/// said.
#[must_use]
pub fn ask(to: &str) -> Vec<String> {
    let (host, port) = to.split_once(':').unwrap_or((to, "80"));
    let script = format!(
        r"exec 3<>/dev/tcp/{host}/{port} && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && while read -r line; do last=$line; done <&3 && echo $last"
    );
    ["/bin/busybox", "timeout", "5", "/bin/bash", "-c", &script].map(str::to_owned).to_vec()
}
