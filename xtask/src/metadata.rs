//! What cargo knows of the workspace.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::sh;

/// The workspace.
pub struct Workspace {
    /// Where its manifest is.
    pub root: PathBuf,
    /// Where cargo builds.
    pub target: PathBuf,
    /// Its packages.
    pub packages: Vec<Package>,
}

/// One of its packages.
pub struct Package {
    /// Its name.
    pub name: String,
    /// What it says it is.
    pub description: Option<String>,
    /// The names of its integration tests.
    pub tests: Vec<String>,
    /// The packages of ours that it points at, in whatever way.
    pub ours: Vec<String>,
}

impl Workspace {
    /// Asks cargo.
    ///
    /// # Errors
    /// When cargo does not answer, or in an unknown form.
    pub fn read() -> Result<Self> {
        let text = sh::read(sh::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
        let all: Value = serde_json::from_str(&text).context("parse cargo metadata")?;
        let packages = all["packages"].as_array().context("cargo metadata has no packages")?;
        Ok(Self {
            root: path(&all["workspace_root"])?,
            target: path(&all["target_directory"])?,
            packages: packages.iter().map(package).collect::<Result<_>>()?,
        })
    }

    /// Where a release build puts the binaries.
    pub fn release_binaries(&self) -> PathBuf {
        self.target.join("release")
    }

    /// Where a plain build puts the binaries.
    pub fn binaries(&self) -> PathBuf {
        self.target.join("debug")
    }
}

fn path(value: &Value) -> Result<PathBuf> {
    Ok(PathBuf::from(value.as_str().context("cargo metadata lacks a path")?))
}

fn package(value: &Value) -> Result<Package> {
    let list = |key: &str| value[key].as_array().cloned().unwrap_or_default();
    let name = |v: &Value| v["name"].as_str().map(str::to_owned);
    let is_test = |v: &&Value| v["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|k| k == "test"));
    Ok(Package {
        name: name(value).context("cargo metadata has a package without name")?,
        description: value["description"].as_str().map(str::to_owned),
        tests: list("targets").iter().filter(is_test).filter_map(name).collect(),
        ours: list("dependencies").iter().filter(|d| d["path"].is_string()).filter_map(name).collect(),
    })
}
