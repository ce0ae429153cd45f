//! `netctl cni`: puts the plugin and a network configuration where container runtimes look for them, and takes them back.
//!
//! Files are replaced whole, and only those that this command wrote: a configuration bears its mark, a plugin its own words.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Map, Value, json};
use weft_model::attachment::Instance;
use weft_model::ids::NetworkName;

use super::Context;
use crate::error::{DONE, Error};
use crate::format::{Page, cell, col};
use crate::parse;

/// The plugin as it is built.
const PLUGIN: &str = "weft-cni";

/// The plugin's name where runtimes look for it: the `type` of the configuration, the `driver` of a netavark network.
const TYPE: &str = "weft";

/// What every plugin of ours says of itself, whatever its version.
const OWN_WORDS: &[u8] = b"weft-cni attaches containers to Weft.";

/// The member by which a configuration is known to be ours.
const MARK: (&str, &str) = ("installedBy", "netctl cni install");

/// Why a file is not in place.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// There is no plugin to install.
    #[error("no {PLUGIN} beside netctl or on PATH; say where it is with --plugin")]
    NoPlugin,
    /// What is to be installed is something else.
    #[error("{} is not {PLUGIN}", path.display())]
    OtherPlugin {
        /// The file.
        path: PathBuf,
    },
    /// There is a file that somebody else wrote.
    #[error("{} is there and was not written by netctl; move it away, or use --force", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A file operation went wrong.
    #[error("{op} {}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// `netctl cni …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Put the plugin and a network configuration in place
    Install(Box<InstallArgs>),
    /// Take away what install put there
    Uninstall(Places),
}

/// Where the files are.
#[derive(Debug, Args)]
pub struct Places {
    /// The network's name for the runtimes (podman run --network NAME)
    #[arg(long, default_value = TYPE, value_parser = list_name)]
    name: String,
    /// Where runtimes look for plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// Where they look for configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// Where podman 5 (netavark) looks for plugins, for example /usr/local/lib/netavark; without it, that is left alone
    #[arg(long, value_name = "DIR")]
    netavark_dir: Option<PathBuf>,
}

/// Arguments of `cni install`.
#[derive(Debug, Args)]
pub struct InstallArgs {
    #[command(flatten)]
    places: Places,
    /// The plugin to install [default: weft-cni beside netctl, or on PATH]
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    /// Weft's network that containers get into [default: default]
    #[arg(long, value_name = "NETWORK")]
    network: Option<NetworkName>,
    /// The service that every container of this network is an instance of
    #[arg(long, value_name = "NAME[:[PORTNAME=]PORT[/tcp|udp]]", value_parser = parse_service)]
    service: Option<String>,
    /// A label of every container of this network; repeat it for several
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::label)]
    labels: Vec<(String, String)>,
    /// Replace files that netctl did not write
    #[arg(long)]
    force: bool,
    /// Only print the configuration
    #[arg(long)]
    print: bool,
}

/// What has become of a file.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Placed {
    path: PathBuf,
    what: &'static str,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// It was not there, or another one was.
    Written,
    /// It was there as it should be.
    Unchanged,
    /// It was there and is not any more.
    Removed,
    /// It was not there.
    Absent,
}

impl Command {
    /// How it is called, for messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Install(_) => "cni install",
            Self::Uninstall(_) => "cni uninstall",
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let placed = match self {
            Self::Install(args) => {
                let list = args.list(context.agent.client().socket().unwrap_or(weft_api::DEFAULT_SOCKET.as_ref()))?;
                if args.print {
                    context.printer.raw(&list)?;
                    return Ok(DONE);
                }
                args.install(&list)?
            }
            Self::Uninstall(places) => places.uninstall()?,
        };
        context.printer.show(&placed, |placed, page| draw(placed, page))?;
        Ok(DONE)
    }
}

impl Places {
    fn conflist(&self) -> PathBuf {
        self.conf_dir.join(format!("10-{}.conflist", self.name))
    }

    fn plugins(&self) -> impl Iterator<Item = PathBuf> + '_ {
        [Some(&self.bin_dir), self.netavark_dir.as_ref()].into_iter().flatten().map(|dir| dir.join(TYPE))
    }

    fn uninstall(&self) -> Result<Vec<Placed>, InstallError> {
        let mut placed = vec![remove(self.conflist(), "configuration", is_our_list)?];
        // Another network may still need the plugin.
        if !self.has_other_lists() {
            for path in self.plugins() {
                placed.push(remove(path, "plugin", is_our_plugin)?);
            }
        }
        Ok(placed)
    }

    /// Whether another configuration in the directory names the plugin.
    fn has_other_lists(&self) -> bool {
        let entries = fs::read_dir(&self.conf_dir).into_iter().flatten().flatten();
        let names_us = |text: Vec<u8>| {
            let list: Value = serde_json::from_slice(&text).unwrap_or_default();
            list["plugins"].as_array().into_iter().flatten().any(|plugin| plugin["type"] == TYPE)
        };
        entries.filter_map(|entry| fs::read(entry.path()).ok()).any(names_us)
    }
}

impl InstallArgs {
    /// The configuration, as text.
    fn list(&self, socket: &Path) -> Result<Vec<u8>, Error> {
        let mut plugin = Map::new();
        plugin.insert("type".to_owned(), TYPE.into());
        // Those that the plugin reads: a runtime fills in what is declared only.
        plugin.insert(
            "capabilities".to_owned(),
            json!({ "portMappings": true, "ips": true, "mac": true, "aliases": true, "dns": true }),
        );
        if socket != Path::new(weft_api::DEFAULT_SOCKET) {
            plugin.insert("socket".to_owned(), socket.to_string_lossy().into());
        }
        if let Some(network) = self.network.as_ref().filter(|network| !network.is_default()) {
            plugin.insert("network".to_owned(), network.as_str().into());
        }
        if let Some(service) = &self.service {
            plugin.insert("service".to_owned(), service.as_str().into());
        }
        let labels = parse::labels(&self.labels).map_err(Error::Usage)?;
        if !labels.is_empty() {
            plugin.insert("labels".to_owned(), json!(labels));
        }
        let list = json!({
            // The newest that podman 4 and containerd 1.6 read; newer runtimes choose from the others.
            "cniVersion": "1.0.0",
            "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
            "name": self.places.name,
            (MARK.0): MARK.1,
            "plugins": [plugin],
        });
        Ok(format!("{list:#}\n").into_bytes())
    }

    fn install(&self, list: &[u8]) -> Result<Vec<Placed>, InstallError> {
        let source = self.plugin.clone().or_else(beside_or_on_path).ok_or(InstallError::NoPlugin)?;
        let program = fs::read(&source).map_err(io_error("read", &source))?;
        if !contains(&program, OWN_WORDS) {
            return Err(InstallError::OtherPlugin { path: source });
        }
        // All that may be refused is looked at before anything is written.
        let conflist = self.places.conflist();
        let plugins: Vec<PathBuf> = self.places.plugins().collect();
        for path in &plugins {
            check_ours(path, is_our_plugin, self.force)?;
        }
        check_ours(&conflist, is_our_list, self.force)?;
        // The plugin first: a configuration that names one that is not there breaks every container's start.
        let mut placed = Vec::new();
        for path in plugins {
            placed.push(write(path, "plugin", &program, 0o755)?);
        }
        placed.push(write(conflist, "configuration", list, 0o644)?);
        Ok(placed)
    }
}

fn draw(placed: &[Placed], page: &mut Page) {
    let state = |state| match state {
        State::Written => "written",
        State::Unchanged => "unchanged",
        State::Removed => "removed",
        State::Absent => "not there",
    };
    let rows = placed.iter().map(|p| [cell(p.path.display()), cell(p.what), cell(state(p.state))]);
    page.table([col("FILE"), col("WHAT"), col("STATE")], rows);
}

/// A list's name is a file's name too.
fn list_name(text: &str) -> Result<String, String> {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let fits = text.len() <= 100 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if first && fits {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?}: up to 100 of A-Z, a-z, 0-9, '_', '.' and '-', a letter or digit first"))
}

/// The plugin reads it as it is typed.
fn parse_service(text: &str) -> Result<String, String> {
    text.parse::<Instance>().map(|_| text.to_owned())
}

fn beside_or_on_path() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(PLUGIN)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join(PLUGIN));
    beside.into_iter().chain(on_path).find(|file| file.is_file())
}

fn is_our_list(text: &[u8]) -> bool {
    serde_json::from_slice::<Value>(text).is_ok_and(|list| list[MARK.0] == MARK.1)
}

fn is_our_plugin(program: &[u8]) -> bool {
    contains(program, OWN_WORDS)
}

fn contains(bytes: &[u8], words: &[u8]) -> bool {
    bytes.windows(words.len()).any(|window| window == words)
}

fn io_error(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError + use<> {
    let path = path.to_owned();
    move |source| InstallError::Io { op, path, source }
}

/// What is at a path; nothing is nothing.
fn read(path: &Path) -> Result<Option<Vec<u8>>, InstallError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error("read", path)(e)),
    }
}

fn check_ours(path: &Path, is_ours: fn(&[u8]) -> bool, force: bool) -> Result<(), InstallError> {
    match read(path)? {
        Some(there) if !force && !is_ours(&there) => Err(InstallError::Foreign { path: path.to_owned() }),
        _ => Ok(()),
    }
}

/// Replaces a file whole: a runtime that looks meanwhile sees the old one or the new one, and a plugin that runs goes on.
fn write(path: PathBuf, what: &'static str, bytes: &[u8], mode: u32) -> Result<Placed, InstallError> {
    let is_there = read(&path)?.is_some_and(|there| there == bytes);
    let has_mode = || fs::metadata(&path).is_ok_and(|m| m.permissions().mode() & 0o7777 == mode);
    if is_there && has_mode() {
        return Ok(Placed { path, what, state: State::Unchanged });
    }
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).map_err(io_error("make", dir))?;
    // Its name ends as none that runtimes read does.
    let mut beside = tempfile::Builder::new().suffix(".new").tempfile_in(dir).map_err(io_error("write into", dir))?;
    let made = beside.write_all(bytes).and_then(|()| beside.as_file().set_permissions(Permissions::from_mode(mode)));
    made.and_then(|()| beside.as_file().sync_all()).map_err(io_error("write", beside.path()))?;
    beside.persist(&path).map_err(|e| io_error("replace", &path)(e.error))?;
    Ok(Placed { path, what, state: State::Written })
}

fn remove(path: PathBuf, what: &'static str, is_ours: fn(&[u8]) -> bool) -> Result<Placed, InstallError> {
    let state = match read(&path)? {
        None => State::Absent,
        Some(there) if is_ours(&there) => {
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
            State::Removed
        }
        Some(_) => return Err(InstallError::Foreign { path }),
    };
    Ok(Placed { path, what, state })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    struct Stage(tempfile::TempDir);

    impl Stage {
        fn new() -> Self {
            let stage = Self(tempfile::tempdir().unwrap());
            fs::write(stage.path("plugin"), [b"\x7fELF".as_slice(), OWN_WORDS, b"\0"].concat()).unwrap();
            stage
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn run(&self, verb: &str, words: &[&str]) -> Result<Vec<State>, String> {
            let (bin, conf, netavark) = (self.path("bin"), self.path("conf"), self.path("netavark"));
            let mut line = vec!["cni".to_owned(), verb.to_owned()];
            for (option, dir) in [("--bin-dir", bin), ("--conf-dir", conf), ("--netavark-dir", netavark)] {
                line.extend([option.to_owned(), dir.display().to_string()]);
            }
            if verb == "install" {
                line.extend(["--plugin".to_owned(), self.path("plugin").display().to_string()]);
            }
            line.extend(words.iter().map(|w| (*w).to_owned()));
            let placed = match Line::try_parse_from(line).map_err(|e| e.to_string())?.command {
                Command::Install(args) => {
                    let list = args.list(Path::new("/run/other.sock")).map_err(|e| e.chain())?;
                    args.install(&list)
                }
                Command::Uninstall(places) => places.uninstall(),
            };
            Ok(placed.map_err(|e| e.to_string())?.iter().map(|p| p.state).collect())
        }
    }

    #[test]
    fn what_is_installed_is_what_was_asked_and_a_second_time_changes_nothing() {
        let stage = Stage::new();
        let words = ["--network", "blue", "--service", "prod/web:8080/udp", "--label", "tier=front"];
        assert_eq!(stage.run("install", &words).unwrap(), [State::Written; 3]);
        assert_eq!(stage.run("install", &words).unwrap(), [State::Unchanged; 3]);
        let list: Value = serde_json::from_slice(&fs::read(stage.path("conf/10-weft.conflist")).unwrap()).unwrap();
        let plugin = &list["plugins"][0];
        assert_eq!((&list["name"], &plugin["type"], &plugin["network"]), (&json!("weft"), &json!("weft"), &json!("blue")));
        assert_eq!((&plugin["service"], &plugin["labels"]), (&json!("prod/web:8080/udp"), &json!({ "tier": "front" })));
        assert_eq!(plugin["socket"], "/run/other.sock");
        for dir in ["bin", "netavark"] {
            let file = stage.path(dir).join("weft");
            assert_eq!(fs::read(&file).unwrap(), fs::read(stage.path("plugin")).unwrap());
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o755);
            assert_eq!(fs::read_dir(stage.path(dir)).unwrap().count(), 1, "nothing beside it");
        }
        assert_eq!(stage.run("uninstall", &[]).unwrap(), [State::Removed; 3]);
        assert_eq!(stage.run("uninstall", &[]).unwrap(), [State::Absent; 3]);
    }

    #[test]
    fn what_others_wrote_is_neither_replaced_nor_removed() {
        let stage = Stage::new();
        fs::create_dir(stage.path("conf")).unwrap();
        let theirs = stage.path("conf/10-weft.conflist");
        fs::write(&theirs, r#"{"name":"weft","plugins":[]}"#).unwrap();
        for (verb, words) in [("install", &[][..]), ("uninstall", &[])] {
            let why = stage.run(verb, words).unwrap_err();
            assert!(why.ends_with("was not written by netctl; move it away, or use --force"), "{why}");
        }
        assert!(!stage.path("bin").exists(), "nothing is half installed");
        assert_eq!(stage.run("install", &["--force"]).unwrap(), [State::Written; 3]);
        // A second network keeps the plugin.
        assert_eq!(stage.run("install", &["--name", "blue"]).unwrap().last(), Some(&State::Written));
        assert_eq!(stage.run("uninstall", &["--name", "blue"]).unwrap(), [State::Removed]);
        assert_eq!(stage.run("uninstall", &[]).unwrap(), [State::Removed; 3]);
    }

    #[test]
    fn what_is_no_plugin_or_no_name_is_refused() {
        let stage = Stage::new();
        fs::write(stage.path("plugin"), "#!/bin/sh\n").unwrap();
        assert!(stage.run("install", &[]).unwrap_err().ends_with("plugin is not weft-cni"));
        for name in ["", "../x", "a/b", ".x", "-x", "a b"] {
            assert!(stage.run("uninstall", &[&format!("--name={name}")]).is_err(), "{name:?}");
        }
    }
}
