//! House rules that no compiler checks: which crate may point at which, how long a file may be, what no file may say.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::metadata::Workspace;
use crate::sh;

/// A file has one subject; beyond this it has more.
const MOST_LINES: usize = 700;

/// Which crate may point at which of ours. What is not listed may point at none.
///
/// The proxy needs the abi as well as the model: it chooses backends for the same maps that the kernel half reads.
const ARROWS: &[(&str, &[&str])] = &[
    ("weft-abi", &[]),
    ("weft-model", &[]),
    ("weft-store", &["weft-model"]),
    ("weft-api", &["weft-model"]),
    ("weft-dns", &["weft-model"]),
    ("weft-proxy", &["weft-model", "weft-abi"]),
    ("weft-plan", &["weft-model", "weft-abi"]),
    ("weft-ebpf", &["weft-abi"]),
    ("weft-agent", &["weft-abi", "weft-api", "weft-dns", "weft-model", "weft-plan", "weft-proxy", "weft-store"]),
    ("netctl", &["weft-api", "weft-model"]),
    ("weft-cni", &["weft-api", "weft-model"]),
    ("weft-tests", &["weft-api", "weft-model", "weft-proxy"]),
    ("xtask", &[]),
];

/// What no file may say, in two halves each so that this one does not either: paths of somebody's machine, and hosts of
/// package registries (which cargo and apt know by themselves).
const FORBIDDEN: &[(&str, &str)] = &[
    ("/wo", "rk/"),
    ("/ro", "ot/"),
    ("index.crates", ".io"),
    ("static.crates", ".io"),
    ("deb.debian", ".org"),
    ("proxy.golang", ".org"),
    ("registry.npmjs", ".org"),
    ("files.pythonhosted", ".org"),
];

/// Checks all; tells each fault. Whether there is none.
///
/// # Errors
/// When cargo or git does not answer.
pub fn run() -> Result<bool> {
    let workspace = Workspace::read()?;
    let mut faults = Vec::new();
    for package in &workspace.packages {
        if package.description.is_none() {
            faults.push(format!("{}: no description in its Cargo.toml", package.name));
        }
        faults.extend(wrong_arrows(&package.name, &package.ours));
    }
    let files = sh::read(Command::new("git").arg("-C").arg(&workspace.root).args(["ls-files", "-z"]))?;
    for name in files.split('\0').filter(|name| !name.is_empty()) {
        let path = workspace.root.join(name);
        // Deleted and not yet committed.
        if !path.exists() {
            continue;
        }
        let bytes = std::fs::read(&path).with_context(|| format!("read {name}"))?;
        // What is no text says nothing.
        if let Ok(text) = std::str::from_utf8(&bytes) {
            faults.extend(faults_of(name, text));
        }
    }
    for fault in &faults {
        println!("tidy: {fault}");
    }
    Ok(faults.is_empty())
}

fn wrong_arrows(name: &str, ours: &[String]) -> Vec<String> {
    let Some((_, allowed)) = ARROWS.iter().find(|(package, _)| *package == name) else {
        return vec![format!("{name}: not in the table of arrows (xtask/src/tidy.rs); say what it may point at")];
    };
    let wrong = ours.iter().filter(|to| !allowed.contains(&to.as_str()));
    wrong.map(|to| format!("{name} may not point at {to}")).collect()
}

fn faults_of(name: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if Path::new(name).extension().is_some_and(|e| e == "rs") {
        let lines = text.lines().count();
        if lines > MOST_LINES {
            faults.push(format!("{name}: {lines} lines; at most {MOST_LINES}"));
        }
    }
    for (number, line) in text.lines().enumerate() {
        for (a, b) in FORBIDDEN {
            let word = format!("{a}{b}");
            if line.contains(&word) {
                faults.push(format!("{name}:{}: says {word}", number + 1));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_points_at_nothing_of_ours() {
        assert_eq!(wrong_arrows("weft-model", &["weft-store".into()]), ["weft-model may not point at weft-store"]);
        assert!(wrong_arrows("weft-store", &["weft-model".into()]).is_empty());
    }

    #[test]
    fn an_unknown_crate_must_be_given_its_arrows() {
        assert_eq!(wrong_arrows("weft-new", &[]).len(), 1);
    }

    #[test]
    fn a_path_of_a_machine_is_found_with_its_line() {
        let text = format!("fine\nsee {}{}x\n", "/ro", "ot/");
        let faults = faults_of("README.md", &text);
        assert_eq!(faults.len(), 1);
        assert!(faults[0].starts_with("README.md:2:"));
    }

    #[test]
    fn a_long_source_file_is_told() {
        assert_eq!(faults_of("a.rs", &"\n".repeat(MOST_LINES + 1)).len(), 1);
        assert!(faults_of("a.md", &"\n".repeat(MOST_LINES + 1)).is_empty());
    }
}
