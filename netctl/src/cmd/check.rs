//! Health checks: the options that say one, and what the checks of an endpoint say.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Args;
use weft_api::{CheckView, HealthView};
use weft_model::check::{Check, milliseconds};

use crate::error::Error;
use crate::format::{Cell, Page, Tone, cell, list, or_none};

/// How something is checked.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// How it is asked whether it is well: tcp, http:/PATH, https:/PATH, grpc[:PORT[/SERVICE]], each with a PORT before the path
    /// if it is not the endpoint's own, and with options: http:8080/healthz,interval=5s,status=200-299,body=TEXT,host=NAME; of
    /// https the certificate is verified (for NAME or the address, see weftd --check-ca) if ,verify is added. Or
    /// command:/PROGRAM ARGUMENTS, in the container's network namespace, without a shell
    #[arg(long, value_name = "CHECK")]
    check: Option<Check>,
    /// How long from one check to the next [default: 2s]
    #[arg(long, value_name = "TIME", value_parser = milliseconds, requires = "check")]
    check_interval: Option<u64>,
    /// How long an answer may take [default: 2s]
    #[arg(long, value_name = "TIME", value_parser = milliseconds, requires = "check")]
    check_timeout: Option<u64>,
    /// How many in a row must be well until it is up again [default: 2]
    #[arg(long, value_name = "COUNT", requires = "check")]
    check_rise: Option<u32>,
    /// How many in a row must fail until it is down [default: 2]
    #[arg(long, value_name = "COUNT", requires = "check")]
    check_fall: Option<u32>,
    /// How long it may take to be well for the first time [default: 0s]
    #[arg(long, value_name = "TIME", value_parser = milliseconds, requires = "check")]
    check_grace: Option<u64>,
}

impl CheckArgs {
    /// The check, if one was said.
    ///
    /// # Errors
    /// A number that cannot be.
    pub fn check(self) -> Result<Option<Check>, Error> {
        let Some(mut check) = self.check else { return Ok(None) };
        check.interval_ms = self.check_interval.unwrap_or(check.interval_ms);
        check.timeout_ms = self.check_timeout.unwrap_or(check.timeout_ms);
        check.rise = self.check_rise.unwrap_or(check.rise);
        check.fall = self.check_fall.unwrap_or(check.fall);
        check.grace_ms = self.check_grace.unwrap_or(check.grace_ms);
        check.validate().map_err(Error::Usage)?;
        Ok(Some(check))
    }
}

/// What the checks of an endpoint say.
pub fn draw(health: &HealthView, page: &mut Page) {
    page.field("id", cell(&health.id));
    for check in &health.checks {
        draw_check(check, page);
    }
}

fn draw_check(check: &CheckView, page: &mut Page) {
    page.field("check", cell(&check.text));
    page.field(
        "of",
        check.service.as_ref().map_or_else(|| cell("the endpoint itself"), |service| cell(format_args!("service {service}"))),
    );
    let at = |address: IpAddr| check.port.map_or_else(|| address.to_string(), |port| SocketAddr::new(address, port).to_string());
    let places: Vec<String> = std::iter::once(check.address).chain(check.further.iter().copied()).map(at).collect();
    page.field("asks", list(&places));
    page.field("state", super::endpoint::state(check.state));
    page.field("since", cell(&check.since));
    page.field("in a row", cell(format_args!("{} well, {} failed; {} well bring it up", check.well, check.failed, check.needed)));
    page.field("so far", cell(format_args!("{} asked, {} failed, {} times down", check.runs, check.failures, check.falls)));
    if let Some(late) = check.late_ms {
        let waits = Duration::from_millis(late);
        page.field(
            "late",
            Cell::toned(format_args!("waits for its turn for {waits:.1?}: too many checks here are slow"), Tone::Bad),
        );
    }
    let tone = |well: bool| if well { Tone::Good } else { Tone::Bad };
    page.field("last", or_none(check.last.as_ref().map(|last| &last.at)));
    if let Some(last) = &check.last {
        page.field("said", Cell::toned(&last.said, tone(last.well)));
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::format::drawn;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: CheckArgs,
    }

    fn typed(words: &[&str]) -> Result<Option<String>, String> {
        let line = Line::try_parse_from([&["x"], words].concat()).map_err(|e| e.to_string())?;
        line.args.check().map(|check| check.map(|check| check.to_string())).map_err(|e| e.to_string())
    }

    #[test]
    fn a_check_is_what_was_typed() {
        assert_eq!(typed(&[]), Ok(None));
        assert_eq!(
            typed(&["--check", "http:/x,interval=9s", "--check-interval", "500ms", "--check-fall", "3", "--check-grace", "1m"]),
            Ok(Some("http:/x,interval=500ms,grace=1m,fall=3".to_owned()))
        );
        assert_eq!(typed(&["--check", "command:/bin/true", "--check-timeout", "1s"]), Ok(Some("command:/bin/true".to_owned())));
        for (bad, why) in [
            (&["--check", "ping"][..], "is no check"),
            (&["--check", "tcp", "--check-fall", "0"], "rise and fall"),
            (&["--check-fall", "2"], "--check <CHECK>"),
        ] {
            let said = typed(bad).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn what_a_check_said_last_is_shown() {
        let health: HealthView = serde_json::from_str(
            r#"{"id":"web-1","checks":[{"check":{"kind":"http"},"text":"http:/x","address":"10.244.3.2","further":["fd00::2"],"port":80,"state":"down",
                "since":"2026-01-02T03:04:05.000Z","well":0,"failed":3,"needed":4,"runs":9,"failures":5,"falls":2,"late_ms":7250,
                "last":{"at":"2026-01-02T03:04:09.000Z","took_us":900,"well":false,"said":"GET /x: 503 Service Unavailable"}}]}"#,
        )
        .unwrap();
        let shown = drawn(false, |page| draw(&health, page));
        for part in [
            "10.244.3.2:80",
            "[fd00::2]:80",
            "down",
            "4 well bring it up",
            "9 asked, 5 failed, 2 times down",
            "turn for 7.2s",
            "503 Service Unavailable",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }
}
