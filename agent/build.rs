//! Builds the eBPF objects from `ebpf/` and leaves them as `$OUT_DIR/weft` and `$OUT_DIR/weft_passive`, which the loader embeds.
//!
//! It needs a Rust toolchain with the standard library's sources (there is no ready `core` for the BPF target), and
//! `bpf-linker`. Taken is the first of: the rustup toolchain named by `WEFT_EBPF_TOOLCHAIN`; rustup's `nightly` with
//! `rust-src`; a rustup toolchain `weft-ebpf`; Debian's `rustc-web`, `cargo-web` and `rust-web-src` in `/usr`. The choice
//! goes into the binary as `WEFT_EBPF_BUILT_WITH`. Nothing is built when nothing below `ebpf/` changed.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Where the sources of `core` are below a toolchain's directory.
const CORE_SOURCES: &str = "lib/rustlib/src/rust/library/core";

/// The objects, by the names of their binaries.
const OBJECTS: [&str; 2] = ["weft", "weft_passive"];

fn main() -> ExitCode {
    match build() {
        Ok(built_with) => {
            println!("cargo::rustc-env=WEFT_EBPF_BUILT_WITH={built_with}");
            eprintln!("eBPF object built with {built_with}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<String, String> {
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let root = manifest_dir.parent().ok_or("the agent is not in the workspace's folder")?;

    for source in ["ebpf/src", "ebpf/Cargo.toml", "ebpf/abi/src", "ebpf/abi/Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=WEFT_EBPF_TOOLCHAIN");

    let (name, toolchain) = toolchain()?;
    let linker = linker().ok_or("bpf-linker, which the eBPF object needs, is not installed: run `cargo xtask setup`")?;
    let target = match variable("CARGO_CFG_TARGET_ENDIAN")?.to_str() {
        Some("big") => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    // The layout of pt_regs and the like, which aya-ebpf asks for; ours does not look at any.
    let arch = variable("CARGO_CFG_TARGET_ARCH")?.to_string_lossy().into_owned();
    let flags = [
        format!("--cfg=bpf_target_arch=\"{}\"", if arch.starts_with("riscv64") { "riscv64" } else { &arch }),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];

    let target_dir = out_dir.join("ebpf-target");
    let mut cargo = Command::new(toolchain.join("bin/cargo"));
    forget_outer_build(&mut cargo);
    cargo
        .current_dir(root)
        .env("RUSTC", toolchain.join("bin/rustc"))
        // A release compiler takes -Z and unstable features only when told so.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env(format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_")), linker)
        .args(["build", "--locked", "--release", "--package", "weft-ebpf", "--bins"])
        .args(["-Z", "build-std=core", "--target", target])
        // The release profile is made for the host's binaries.
        .args(["--config", "profile.release.lto=false", "--config", "profile.release.strip=false"])
        .args(["--config", "profile.release.codegen-units=1", "--config", "profile.release.panic=\"abort\""])
        .arg("--target-dir")
        .arg(&target_dir);
    let status = cargo.status().map_err(|e| format!("{}: {e}: run `cargo xtask setup`", toolchain.display()))?;
    if !status.success() {
        return Err(format!(
            "the eBPF object does not build with {name} (above is why; if it is the toolchain, run `cargo xtask setup`)"
        ));
    }
    for name in OBJECTS {
        let object = target_dir.join(target).join("release").join(name);
        std::fs::copy(&object, out_dir.join(name)).map_err(|e| format!("copy {}: {e}", object.display()))?;
    }
    Ok(name)
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set: this runs under cargo only"))
}

/// The compiler's name for people, and its directory.
fn toolchain() -> Result<(String, PathBuf), String> {
    let known = rustup_toolchains();
    let of_rustup = |wanted: &str| {
        // `nightly` is listed with its host: nightly-x86_64-unknown-linux-gnu.
        let mut matching = known.iter().filter(|(name, _)| name == wanted || name.starts_with(&format!("{wanted}-")));
        matching.find(|(_, dir)| usable(dir)).map(|(name, dir)| (format!("rustup's {name}"), dir.clone()))
    };
    if let Some(wanted) = env::var_os("WEFT_EBPF_TOOLCHAIN") {
        let wanted = wanted.to_string_lossy();
        return of_rustup(&wanted)
            .map(with_version)
            .ok_or_else(|| format!("WEFT_EBPF_TOOLCHAIN={wanted}: rustup knows no such toolchain with library sources"));
    }
    let debian = PathBuf::from("/usr");
    of_rustup("nightly")
        .or_else(|| of_rustup("weft-ebpf"))
        .or_else(|| usable(&debian).then(|| ("Debian's toolchain".to_owned(), debian)))
        .map(with_version)
        .ok_or_else(|| {
            "no Rust toolchain with the library sources that the eBPF object needs is installed: run `cargo xtask setup`"
                .to_owned()
        })
}

fn usable(dir: &Path) -> bool {
    ["bin/cargo", "bin/rustc", CORE_SOURCES].iter().all(|part| dir.join(part).exists())
}

fn with_version((name, dir): (String, PathBuf)) -> (String, PathBuf) {
    let version = Command::new(dir.join("bin/rustc")).arg("--version").output();
    match version {
        Ok(output) if output.status.success() => (format!("{name}, {}", String::from_utf8_lossy(&output.stdout).trim()), dir),
        _ => (name, dir),
    }
}

/// Names and directories, as far as there is a rustup.
fn rustup_toolchains() -> Vec<(String, PathBuf)> {
    let Ok(output) = Command::new("rustup").args(["toolchain", "list", "--verbose"]).output() else { return Vec::new() };
    let listing = String::from_utf8_lossy(&output.stdout).into_owned();
    // A line is `name [(active, default)] path`.
    listing
        .lines()
        .filter_map(|line| Some((line.split_whitespace().next()?.to_owned(), PathBuf::from(&line[line.find(" /")? + 1..]))))
        .collect()
}

/// Where bpf-linker is: on the path, or where cargo installs to.
fn linker() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    env::split_paths(&path).chain(home.map(|home| home.join("bin"))).map(|dir| dir.join("bpf-linker")).find(|file| file.is_file())
}

/// Takes out of the environment what the outer build (cargo, clippy, a wrapper, RUSTFLAGS) left for its own compiler.
fn forget_outer_build(cargo: &mut Command) {
    const OURS: [&str; 12] = [
        "CARGO_BUILD_",
        "CARGO_CFG_",
        "CARGO_ENCODED_",
        "CARGO_FEATURE_",
        "CARGO_INCREMENTAL",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
        "CARGO_UNSTABLE_",
        "RUSTC",
        "RUSTDOC",
    ];
    const ALSO: [&str; 9] =
        ["CARGO", "RUSTFLAGS", "RUSTUP_TOOLCHAIN", "TARGET", "HOST", "OUT_DIR", "OPT_LEVEL", "PROFILE", "DEBUG"];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if OURS.iter().any(|prefix| text.starts_with(prefix)) || ALSO.contains(&text.as_ref()) {
            cargo.env_remove(&name);
        }
    }
}
