//! The filter tables of iptables: the one that nftables keeps and the older one, each with its own program.
//!
//! What belongs there is [`weft_plan::forward`]'s choice; here the tables are read and the calls are made. Only programs that
//! are there are used. The older table is looked at only where it exists, because looking makes it (seen with 1.8.9).

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use weft_plan::forward::{Call, Filter};

use super::netns::NetNs;
use super::program;

/// The tables that the older iptables has in the namespace of the reading thread.
const LEGACY_TABLES: &str = "/proc/thread-self/net/ip_tables_names";

/// How long to wait for others who use iptables, in seconds: they hold a lock.
const LOCK_SECONDS: &str = "2";

/// Why a filter table could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum IptablesError {
    /// The program does not start.
    #[error("run {}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It refuses.
    #[error("{what}: {said}")]
    Refused {
        /// The call.
        what: String,
        /// Its words.
        said: String,
    },
    /// There is a table and nothing to read it with.
    #[error("the filter table of {flavour} cannot be read: its program is not installed; packets may be dropped there")]
    NoProgram {
        /// Which.
        flavour: Flavour,
    },
}

impl IptablesError {
    /// Whether trying again soon is of no use: something must be installed, or rules that only nft understands removed.
    #[must_use]
    pub fn stays(&self) -> bool {
        match self {
            Self::NoProgram { .. } => true,
            Self::Refused { said, .. } => said.contains("incompatible"),
            Self::Run { .. } => false,
        }
    }
}

/// Which iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flavour {
    /// The one on top of nftables.
    Nft,
    /// The one with tables of its own.
    Legacy,
}

impl Flavour {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Nft, Self::Legacy];

    /// The program's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nft => "iptables-nft",
            Self::Legacy => "iptables-legacy",
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A handle on the filter tables of one network namespace.
#[derive(Clone, Debug, Default)]
pub struct Iptables {
    netns: Option<Arc<NetNs>>,
}

impl Iptables {
    /// Those of the network namespace that the process is in.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Those of another network namespace.
    #[must_use]
    pub fn in_namespace(netns: Arc<NetNs>) -> Self {
        Self { netns: Some(netns) }
    }

    /// Whether the older iptables has a filter table here; cheap.
    #[must_use]
    pub fn has_legacy_filter(&self) -> bool {
        let look = || fs::read_to_string(LEGACY_TABLES).unwrap_or_default();
        let names = match &self.netns {
            None => look(),
            Some(netns) => netns.run(look).unwrap_or_default(),
        };
        names.lines().any(|name| name == "filter")
    }

    /// The filter table; `None` where there is none, or no program that it could have been made with. Blocks.
    ///
    /// # Errors
    /// When the program fails.
    pub fn observe(&self, flavour: Flavour) -> Result<Option<Filter>, IptablesError> {
        if flavour == Flavour::Legacy && !self.has_legacy_filter() {
            return Ok(None);
        }
        match self.program(flavour) {
            Some(program) => Ok(Some(Filter::parse(&self.call(&program, &["-S".to_owned()])?))),
            None if flavour == Flavour::Legacy => Err(IptablesError::NoProgram { flavour }),
            None => Ok(None),
        }
    }

    /// Makes a call. Blocks.
    ///
    /// # Errors
    /// When the program fails; its words are in the error.
    pub fn apply(&self, flavour: Flavour, call: &Call) -> Result<(), IptablesError> {
        let program = self.program(flavour).ok_or(IptablesError::NoProgram { flavour })?;
        self.call(&program, call).map(drop)
    }

    fn call(&self, program: &PathBuf, call: &[String]) -> Result<String, IptablesError> {
        let fixed = ["-w", LOCK_SECONDS, "-t", "filter"];
        let args: Vec<&str> = fixed.into_iter().chain(call.iter().map(String::as_str)).collect();
        let output = program::run(self.netns.as_deref(), program, &args, "");
        let output = output.map_err(|source| IptablesError::Run { program: program.clone(), source })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let what = format!("{} {}", program.file_name().unwrap_or_default().to_string_lossy(), args.join(" "));
        Err(IptablesError::Refused { what, said: program::said(&output) })
    }

    /// The program by its full name, or plain `iptables` if it says that it is that one. Versions before 1.8 say nothing.
    fn program(&self, flavour: Flavour) -> Option<PathBuf> {
        if let Some(program) = program::find(flavour.name()) {
            return Some(program);
        }
        let plain = program::find("iptables")?;
        let output = program::run(self.netns.as_deref(), &plain, &["--version"], "").ok()?;
        let is_nft = String::from_utf8_lossy(&output.stdout).contains("nf_tables");
        (is_nft == (flavour == Flavour::Nft)).then_some(plain)
    }
}
