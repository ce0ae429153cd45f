//! `netctl doctor`: what is wrong with this host's part of the network, and what to do about it.

use std::time::Duration;

use clap::Args;
use tokio::time::sleep;
use weft_api::{CheckResult, Checkup, CheckupStart, Finding};

use super::Context;
use crate::agent::Patience;
use crate::error::{DONE, Error, REFUSED};
use crate::format::{Cell, Page, Tone, cell, col};

/// How often a checkup is looked at.
const PERIOD: Duration = Duration::from_millis(100);

/// Subjects that are named in one line.
const MOST_SUBJECTS: usize = 3;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Probes go to the other hosts' agents' kernels, over the overlay and beside it: echoes of a few sizes, a TCP handshake to
port 9. They are sent from this host and from a container that is attached for the time of the checkup.

Exit codes: 0 nothing has failed (there may be warnings), 1 something has, 2 usage, 3 no agent.")]
pub struct DoctorArgs {
    /// Probe the path to this host only, given by name, tunnel address or subnet (repeatable) [default: all]
    #[arg(long = "peer", value_name = "HOST")]
    peers: Vec<String>,
    /// Send nothing to other hosts: look at this one only
    #[arg(long, conflicts_with = "peers")]
    local: bool,
    /// How long all of it may take; what is not done by then is skipped
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

impl DoctorArgs {
    /// Does it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let start = CheckupStart {
            peers: self.peers,
            local: self.local,
            timeout_ms: Some(u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX)),
        };
        let client = context.agent.client();
        let mut checkup = context.agent.ask(client.checkup_start(&start)).await?;
        let mut patience = Patience::begin();
        while !checkup.done {
            patience.tell(&how_far(&checkup));
            sleep(PERIOD).await;
            checkup = context.agent.ask(client.checkup(checkup.id)).await?;
        }
        drop(patience);
        context.printer.show(&checkup, draw)?;
        Ok(if checkup.healthy { DONE } else { REFUSED })
    }
}

fn how_far(checkup: &Checkup) -> String {
    let Checkup { finished, total, now, .. } = checkup;
    format!("{finished} of {total} done; now {}", now.join(", "))
}

fn draw(checkup: &Checkup, page: &mut Page) {
    let count = |result| checkup.findings.iter().filter(|f| f.result == result).count();
    let (failed, warned, skipped) = (count(CheckResult::Fail), count(CheckResult::Warn), count(CheckResult::Skipped));
    page.field("node", cell(&checkup.node));
    let (verdict, tone) = match (checkup.healthy, warned) {
        (true, 0) => ("yes".to_owned(), Tone::Good),
        (true, _) => (format!("yes, with {warned} warnings"), Tone::Warn),
        (false, _) => (format!("no: {failed} failed, {warned} warnings"), Tone::Bad),
    };
    page.field("healthy", Cell::toned(verdict, tone));
    if skipped > 0 {
        page.field("skipped", cell(skipped));
    }
    page.heading("CHECKS");
    let rows = if page.is_wide() { checkup.findings.iter().map(Row::of).collect() } else { folded(&checkup.findings) };
    page.table(
        [col("RESULT"), col("CHECK"), col("SUBJECT"), col("FOUND")],
        rows.into_iter().map(|row| {
            [Cell::toned(row.result.as_str(), tone_of(row.result)), cell(row.check), cell(row.subject), cell(row.what)]
        }),
    );
    let advice: Vec<&Finding> = checkup.findings.iter().filter(|f| f.result >= CheckResult::Warn && f.next.is_some()).collect();
    if advice.is_empty() {
        return;
    }
    page.heading("WHAT TO DO");
    page.table(
        [col("CHECK"), col("SUBJECT"), col("NEXT")],
        advice.into_iter().map(|f| [cell(&f.check), cell(&f.subject), cell(f.next.as_deref().unwrap_or_default())]),
    );
}

fn tone_of(result: CheckResult) -> Tone {
    match result {
        CheckResult::Ok => Tone::Good,
        CheckResult::Skipped => Tone::Weak,
        CheckResult::Warn => Tone::Warn,
        CheckResult::Fail => Tone::Bad,
    }
}

/// A line of the table.
struct Row {
    result: CheckResult,
    check: String,
    subject: String,
    what: String,
}

impl Row {
    fn of(finding: &Finding) -> Self {
        Self {
            result: finding.result,
            check: finding.check.clone(),
            subject: finding.subject.clone(),
            what: finding.what.clone(),
        }
    }
}

/// What is well is one line for each check; everything else has a line of its own.
fn folded(findings: &[Finding]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for same in findings.chunk_by(|a, b| a.check == b.check) {
        let well: Vec<&Finding> = same.iter().filter(|f| f.result == CheckResult::Ok).collect();
        rows.extend(match well.as_slice() {
            [] => None,
            [one] => Some(Row::of(one)),
            [first, others @ ..] => {
                let mut subject = well.iter().take(MOST_SUBJECTS).map(|f| f.subject.as_str()).collect::<Vec<_>>().join(", ");
                if well.len() > MOST_SUBJECTS {
                    subject.push_str(&format!(" and {} more", well.len() - MOST_SUBJECTS));
                }
                let alike = others.iter().all(|f| f.what == first.what);
                let what = if alike { first.what.clone() } else { "all well; -o wide shows each".to_owned() };
                Some(Row { subject, what, ..Row::of(first) })
            }
        });
        rows.extend(same.iter().filter(|f| f.result != CheckResult::Ok).map(Row::of));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::drawn;

    fn checkup(findings: Vec<Finding>) -> Checkup {
        let healthy = findings.iter().all(|f| f.result != CheckResult::Fail);
        Checkup { id: 1, node: "h1".parse().unwrap(), done: true, healthy, findings, finished: 3, total: 3, now: Vec::new() }
    }

    #[test]
    fn a_healthy_host_is_a_line_for_each_check() {
        let path = |n: u32| Finding::ok("path", format!("h{n}"), format!("0.{n} ms"));
        let mut findings = vec![Finding::ok("kernel", "h1", "Linux 6.18.5")];
        findings.extend((2..7).map(path));
        let text = "\
node     h1
healthy  yes

CHECKS
RESULT  CHECK   SUBJECT                FOUND
ok      kernel  h1                     Linux 6.18.5
ok      path    h2, h3, h4 and 2 more  all well; -o wide shows each
";
        assert_eq!(drawn(false, |p| draw(&checkup(findings.clone()), p)), text);
        assert!(drawn(true, |p| draw(&checkup(findings), p)).contains("ok      path    h6       0.6 ms\n"));
    }

    #[test]
    fn what_is_wrong_has_a_line_of_its_own_and_advice() {
        let findings = vec![
            Finding::ok("path", "h2", "well"),
            Finding::fail("path", "h3", "lost", "find it"),
            Finding::skipped("path", "h4", "no time"),
            Finding::warn("store", "etcd", "slow", "quicken it"),
        ];
        assert_eq!(
            drawn(false, |p| draw(&checkup(findings), p)),
            "\
node     h1
healthy  no: 1 failed, 1 warnings
skipped  1

CHECKS
RESULT   CHECK  SUBJECT  FOUND
ok       path   h2       well
fail     path   h3       lost
skipped  path   h4       no time
warn     store  etcd     slow

WHAT TO DO
CHECK  SUBJECT  NEXT
path   h3       find it
store  etcd     quicken it
"
        );
    }

    #[test]
    fn progress_names_what_is_waited_for() {
        let mut under_way = checkup(Vec::new());
        under_way.now = vec!["path h2".to_owned(), "path h3".to_owned()];
        assert_eq!(how_far(&under_way), "3 of 3 done; now path h2, path h3");
    }
}
