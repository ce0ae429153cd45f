//! Makes a machine able to build and test Weft: says what it does, asks nothing, and is done at once when nothing is missing.
//!
//! eBPF in Rust needs a compiler with its library sources (`-Z build-std=core`) and bpf-linker. There are two ways to them:
//!
//! * rustup's nightly with `rust-src`, and any bpf-linker: taken when both are there;
//! * Debian's `rustc-web`, which comes with its sources and stands in /usr/bin beside rustup's, made known to rustup as the
//!   toolchain `weft-ebpf`; and bpf-linker built against Debian's LLVM of the same release.
//!
//! The tests of whole hosts drive netavark, podman's network program, which Debian 12 has in no version that knows plugins: it is
//! built once, into `target/tools`, and installed nowhere. Another drives schemathesis, a Python program that makes requests of
//! the API's own document: it has an environment of its own there.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::metadata::Workspace;
use crate::{packages, sh};

/// bpf-linker must speak the LLVM of the compiler: this one, LLVM 22, which is rustc-web's.
const LINKER_VERSION: &str = "0.13.0";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// The toolchain by which rustup knows Debian's compiler; the agent's build script asks for it.
const TOOLCHAIN: &str = "weft-ebpf";

/// The netavark that the tests drive: plugins came with 1.6.
const NETAVARK_VERSION: &str = "2.1.0";

/// The schemathesis that the tests drive, from PyPI.
const SCHEMATHESIS_VERSION: &str = "4.32.5";

/// What the machine is to be able to do; each can do what those before it can.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// Build, and run the tests that make no hosts.
    Build,
    /// Run all tests.
    Tests,
    /// Run benchmarks as well.
    Benchmarks,
}

/// How much to say when nothing is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// That nothing is.
    Full,
    /// Nothing.
    Quiet,
}

/// The way to eBPF that is there, or that is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// rustup's nightly.
    Nightly,
    /// Debian's compiler.
    Debian,
}

impl Way {
    /// Nightly where it will do, else Debian's.
    ///
    /// # Errors
    /// When rustup's directory is unknown.
    fn find() -> Result<Self> {
        Ok(if nightly_will_do()? { Self::Nightly } else { Self::Debian })
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nightly => "rustup's nightly with rust-src",
            Self::Debian => "Debian's rustc-web, as rustup's toolchain weft-ebpf",
        })
    }
}

/// What is missing.
struct Missing {
    way: Way,
    packages: BTreeSet<&'static str>,
    linker: bool,
    toolchain: bool,
    /// The directory below which netavark is to be installed.
    netavark: Option<PathBuf>,
    /// The directory in which schemathesis is to have its environment.
    schemathesis: Option<PathBuf>,
}

impl Missing {
    fn look(extent: Extent) -> Result<Self> {
        let way = Way::find()?;
        let with_bench = extent == Extent::Benchmarks;
        let netavark = if extent >= Extent::Tests { netavark_missing()? } else { None };
        let schemathesis = if extent >= Extent::Tests { schemathesis_missing()? } else { None };
        if way == Way::Nightly {
            let packages = packages::missing(false, with_bench);
            return Ok(Self { way, packages, linker: false, toolchain: false, netavark, schemathesis });
        }
        Ok(Self {
            way,
            packages: packages::missing(true, with_bench),
            linker: linker_version() != Some(format!("bpf-linker {LINKER_VERSION}")),
            toolchain: !toolchains()?.join(TOOLCHAIN).join("bin/rustc").exists(),
            netavark,
            schemathesis,
        })
    }

    fn nothing(&self) -> bool {
        self.packages.is_empty() && !self.linker && !self.toolchain && self.netavark.is_none() && self.schemathesis.is_none()
    }

    /// The commands that would install it, in order.
    fn commands(&self) -> Vec<String> {
        let mut commands = Vec::new();
        if !self.packages.is_empty() {
            commands.push("apt-get update".to_owned());
            commands.push(format!("apt-get {}", apt_words(&self.packages).join(" ")));
        }
        if self.linker {
            commands.push(format!("LLVM_PREFIX={LLVM_PREFIX} cargo {}", linker_words().join(" ")));
        }
        if self.toolchain {
            commands.push(format!("rustup toolchain link {TOOLCHAIN} /usr"));
        }
        if let Some(root) = &self.netavark {
            commands.push(format!("cargo {}", netavark_words(root).join(" ")));
        }
        if let Some(dir) = &self.schemathesis {
            commands.push(format!("python3 -m venv --clear {}", dir.display()));
            commands.push(format!("{} {}", dir.join("bin/pip").display(), pip_words().join(" ")));
        }
        commands
    }
}

/// Says what is missing. Whether nothing is.
///
/// # Errors
/// When the machine cannot be looked at.
pub fn check(extent: Extent) -> Result<bool> {
    let missing = Missing::look(extent)?;
    println!("eBPF toolchain: {}", missing.way);
    if missing.nothing() {
        println!("nothing is missing");
    } else {
        println!("missing; `cargo xtask setup` would run:\n  {}", missing.commands().join("\n  "));
    }
    Ok(missing.nothing())
}

/// Installs what is missing.
///
/// # Errors
/// When root is needed and we are not (the commands are in the error), or a step fails.
pub fn install(extent: Extent, voice: Voice) -> Result<()> {
    let missing = Missing::look(extent)?;
    if missing.nothing() {
        if voice == Voice::Full {
            eprintln!("setup: nothing is missing (eBPF toolchain: {})", missing.way);
        }
        return Ok(());
    }
    if !missing.packages.is_empty() {
        install_packages(&missing)?;
    }
    if missing.linker {
        let mut cargo = sh::cargo();
        cargo.args(linker_words()).env("LLVM_PREFIX", LLVM_PREFIX);
        // What a caller chose for our own build is not for this one.
        cargo.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
        sh::quiet(&format!("build bpf-linker {LINKER_VERSION} (a minute or two)"), &mut cargo)?;
    }
    if missing.toolchain {
        let mut rustup = Command::new("rustup");
        rustup.args(["toolchain", "link", TOOLCHAIN, "/usr"]);
        sh::quiet(&format!("make /usr/bin/rustc known to rustup as {TOOLCHAIN}"), &mut rustup)?;
    }
    if let Some(root) = &missing.netavark {
        let mut cargo = sh::cargo();
        cargo.args(netavark_words(root)).env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
        // Half of the time and nine tenths of the size would be for a debugger.
        cargo.env("CARGO_PROFILE_DEV_DEBUG", "0");
        sh::quiet(&format!("build netavark {NETAVARK_VERSION} for the tests (some minutes, once)"), &mut cargo)?;
    }
    if let Some(dir) = &missing.schemathesis {
        let why = "make an environment of Python's for the tests of the API (python3-venv brings what it needs)";
        sh::quiet("make schemathesis an environment", Command::new("python3").args(["-m", "venv", "--clear"]).arg(dir))
            .context(why)?;
        let mut pip = Command::new(dir.join("bin/pip"));
        pip.args(pip_words());
        sh::quiet(&format!("install schemathesis {SCHEMATHESIS_VERSION} for the tests"), &mut pip).context(
            "install schemathesis from PyPI (the tests of the API drive it; without a way to PyPI set PIP_INDEX_URL to a mirror)",
        )?;
    }
    let still = Missing::look(extent)?;
    if !still.nothing() {
        bail!("setup ran, and this is still missing:\n  {}", still.commands().join("\n  "));
    }
    eprintln!("setup: all there (eBPF toolchain: {})", still.way);
    Ok(())
}

fn install_packages(missing: &Missing) -> Result<()> {
    let list = missing.packages.iter().copied().collect::<Vec<_>>().join(" ");
    if sh::which("apt-get").is_none() {
        bail!(
            "this is no Debian, so install by hand what these packages bring: {list}\n\
             For the eBPF part, rustup's nightly will do instead of rustc-web and llvm:\n  \
             rustup toolchain install nightly --component rust-src\n  cargo install bpf-linker"
        );
    }
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "installing packages needs root. Run as root, then `cargo xtask setup` again:\n  {}",
            missing.commands().join("\n  ")
        );
    }
    eprintln!("setup: missing Debian packages: {list}");
    if missing.packages.contains("etcd-server") {
        eprintln!("setup: (on a machine with systemd, etcd-server also starts a service of its own, which Weft leaves alone)");
    }
    sh::quiet("refresh the package lists", Command::new("apt-get").arg("update").env("DEBIAN_FRONTEND", "noninteractive"))?;
    let mut apt = Command::new("apt-get");
    apt.args(apt_words(&missing.packages)).env("DEBIAN_FRONTEND", "noninteractive");
    sh::quiet(&format!("install {} packages", missing.packages.len()), &mut apt).context(
        "install Debian packages (if rustc-web or llvm-22-dev is not to be had: rustup's nightly with rust-src and bpf-linker will do)",
    )
}

/// Never removes anything: that would be the user's.
fn apt_words<'a>(packages: &BTreeSet<&'a str>) -> Vec<&'a str> {
    let mut words = vec!["install", "--yes", "--no-install-recommends", "--no-remove"];
    words.extend(packages);
    words
}

fn linker_words() -> Vec<&'static str> {
    let mut words = vec!["install", "bpf-linker", "--version", LINKER_VERSION];
    words.extend(["--no-default-features", "--features", "llvm-22", "--force"]);
    words
}

/// Where netavark is to be installed, if it is not there in this version.
fn netavark_missing() -> Result<Option<PathBuf>> {
    let root = Workspace::read()?.target.join("tools");
    let said = sh::read(Command::new(root.join("bin/netavark")).arg("--version")).unwrap_or_default();
    Ok((said.trim() != format!("netavark {NETAVARK_VERSION}")).then_some(root))
}

/// Not optimised: it is started a few times only.
fn netavark_words(root: &Path) -> Vec<String> {
    let root = root.to_string_lossy();
    let words = ["install", "netavark", "--version", NETAVARK_VERSION, "--locked", "--debug", "--force", "--root", &root];
    words.map(str::to_owned).to_vec()
}

/// Where schemathesis is to have its environment, if it is not there in this version. Its package is looked at and not the program,
/// which takes a second to say what it is.
fn schemathesis_missing() -> Result<Option<PathBuf>> {
    let dir = Workspace::read()?.target.join("tools/schemathesis");
    let wanted = format!("schemathesis-{SCHEMATHESIS_VERSION}.dist-info");
    let packages = |lib: std::fs::DirEntry| lib.path().join("site-packages").join(&wanted).join("RECORD");
    let there = std::fs::read_dir(dir.join("lib")).is_ok_and(|libs| libs.flatten().map(packages).any(|record| record.exists()));
    // Its Python may have gone with an upgrade of the system's.
    Ok((!there || !dir.join("bin/python").exists()).then_some(dir))
}

fn pip_words() -> Vec<String> {
    let package = format!("schemathesis=={SCHEMATHESIS_VERSION}");
    ["install", "--quiet", "--disable-pip-version-check", "--no-input", &package].map(str::to_owned).to_vec()
}

/// Whether rustup's nightly has its sources and there is a bpf-linker.
fn nightly_will_do() -> Result<bool> {
    if linker_version().is_none() {
        return Ok(false);
    }
    let Ok(entries) = std::fs::read_dir(toolchains()?) else { return Ok(false) };
    let core = |e: std::fs::DirEntry| e.path().join("lib/rustlib/src/rust/library/core/Cargo.toml");
    // `nightly-2026-01-01-…` is not what `nightly` means.
    let is_nightly = |e: &std::fs::DirEntry| {
        let name = e.file_name();
        let host = name.to_string_lossy().strip_prefix("nightly-").map(str::to_owned);
        host.is_some_and(|host| host.starts_with(char::is_alphabetic))
    };
    Ok(entries.flatten().filter(is_nightly).any(|e| core(e).exists()))
}

/// What bpf-linker calls itself.
fn linker_version() -> Option<String> {
    let in_cargo = home("CARGO_HOME", ".cargo").ok()?.join("bin/bpf-linker");
    let program = if in_cargo.exists() { in_cargo } else { sh::which("bpf-linker")? };
    Some(sh::read(Command::new(program).arg("--version")).ok()?.trim().to_owned())
}

fn toolchains() -> Result<PathBuf> {
    Ok(home("RUSTUP_HOME", ".rustup")?.join("toolchains"))
}

fn home(variable: &str, default: &str) -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os(variable) {
        return Ok(PathBuf::from(dir));
    }
    let home = std::env::home_dir().with_context(|| format!("neither {variable} nor HOME is set"))?;
    Ok(home.join(default))
}
