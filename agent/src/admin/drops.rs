//! `GET /v1/drops`: the counters of the programs' verdicts, and of the same reasons in the nft table, where packets of the kernel
//! path are checked.

use weft_abi::{Counter, Hook, Verdict};
use weft_api::{Drops, VerdictView};

use super::Admin;
use crate::datapath;
use crate::refusal::Refusal;

impl Admin {
    /// Verdicts that drop, or all of them, in the order of their numbers.
    pub(super) async fn drops(&self, all: bool) -> Result<Drops, Refusal> {
        let shared = self.datapath.clone();
        // Whoever changes the datapath holds it for a while.
        let read = tokio::task::spawn_blocking(move || datapath::lock(&shared).counters()).await;
        let counters = read.map_err(|e| Refusal::internal("drops", &e))?;
        let not_loaded = || {
            let why = self.report.borrow().why_not_fast.clone();
            why.unwrap_or_else(|| "no programs are loaded yet".to_owned())
        };
        let why_not = counters.is_empty().then(not_loaded);
        let mut verdicts: Vec<_> =
            counters.into_iter().filter(|(v, _)| all || v.is_drop()).map(|(v, counter)| view(v, counter)).collect();
        // Without nft there is no table that could drop; status says that it is missing.
        let filter = self.filter.counts().await.unwrap_or_default();
        verdicts.extend(filter.into_iter().map(|(name, (packets, bytes))| filtered(name, packets, bytes)));
        Ok(Drops { why_not, verdicts })
    }
}

/// A counter of the nft table, which is named as the verdict of the programs that drops for the same reason.
fn filtered(verdict: String, packets: u64, bytes: u64) -> VerdictView {
    let direction = if verdict.starts_with(Hook::Uplink.as_str()) { "in" } else { "out" };
    VerdictView { verdict, hook: "filter".to_owned(), direction: direction.to_owned(), action: "drop".to_owned(), packets, bytes }
}

fn view(verdict: Verdict, counter: Counter) -> VerdictView {
    let direction = match verdict.hook() {
        Hook::Container => "out",
        Hook::Uplink => "in",
        Hook::Socket => "call",
    };
    VerdictView {
        verdict: verdict.as_str().to_owned(),
        hook: verdict.hook().as_str().to_owned(),
        direction: direction.to_owned(),
        action: verdict.action().as_str().to_owned(),
        packets: counter.packets,
        bytes: counter.bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_of_the_table_has_the_direction_of_the_program_of_its_name() {
        for verdict in [Verdict::ContainerSpoofed, Verdict::UplinkUnknownPeer] {
            let programs = view(verdict, Counter::default());
            let tables = filtered(verdict.as_str().to_owned(), 1, 98);
            assert_eq!((tables.direction, tables.action), (programs.direction, "drop".to_owned()));
        }
    }

    #[test]
    fn a_verdict_is_shown_in_the_kernels_words() {
        let shown = view(Verdict::ContainerSpoofed, Counter { packets: 3, bytes: 294 });
        assert_eq!((shown.verdict.as_str(), shown.hook.as_str()), ("container_spoofed_source", "container"));
        assert_eq!((shown.direction.as_str(), shown.action.as_str()), ("out", "drop"));
        assert_eq!((shown.packets, shown.bytes), (3, 294));
        assert_eq!(view(Verdict::SocketUnlisted, Counter::default()).direction, "call");
    }
}
