//! `GET /v1/drops`: what became of packets and socket calls in the programs and in the nft table, counted.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The counters of the programs' verdicts, over all CPUs, since the maps were made, and of the nft table's reasons to drop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Drops {
    /// The verdicts: those that drop, or all with `?all=true`. Only those of the nft table while no programs are loaded.
    pub verdicts: Vec<VerdictView>,
    /// Why no program counts, if that is so.
    #[serde(default)]
    pub why_not: Option<String>,
}

/// How often a verdict was reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VerdictView {
    /// Its name; metrics call it the same.
    pub verdict: String,
    /// The program that reaches it: `container`, `uplink` or `socket`; `filter` for the nft table.
    pub hook: String,
    /// Which way the packet went: `out` of a container, `in` from another host; `call` for a socket's.
    pub direction: String,
    /// What the kernel does next: `drop` (for sockets: refuse), `stack` (hand on untouched) or `fast`.
    pub action: String,
    /// Packets as they go on the wire, or calls.
    pub packets: u64,
    /// Bytes with Ethernet headers; 0 for calls.
    pub bytes: u64,
}
