//! Asking for names as users do: with `dig`, and reading what it prints.

use anyhow::{Context, Result, ensure};

use crate::place::Place;

/// A resource record as `dig` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Owner, with its final dot.
    pub name: String,
    /// Time to live, seconds.
    pub ttl: u32,
    /// Type.
    pub kind: String,
    /// Data.
    pub data: String,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// `NOERROR`, `NXDOMAIN`, …
    pub rcode: String,
    /// `aa`, `tc`, …
    pub flags: Vec<String>,
    /// The answer section.
    pub answers: Vec<Record>,
    /// The authority section.
    pub authority: Vec<Record>,
    /// The additional section.
    pub additional: Vec<Record>,
}

impl Answer {
    /// The data of all answers of one type, sorted.
    #[must_use]
    pub fn data(&self, kind: &str) -> Vec<String> {
        let mut data: Vec<_> = self.answers.iter().filter(|r| r.kind == kind).map(|r| r.data.clone()).collect();
        data.sort();
        data
    }

    /// Whether the authority section has a SOA, as negative answers need it to be cached (RFC 2308).
    #[must_use]
    pub fn has_soa(&self) -> bool {
        self.authority.iter().any(|r| r.kind == "SOA")
    }
}

/// Asks `server` once, from `place`. `words` are the name, the type if it is not A, and further options of `dig`.
///
/// # Errors
/// When there is no answer within two seconds.
pub fn dig(place: &Place, server: &str, words: &[&str]) -> Result<Answer> {
    let at = format!("@{server}");
    let fixed = ["dig", &at, "+time=2", "+tries=1", "+noall", "+comments", "+answer", "+authority", "+additional"];
    let output = place.exec(fixed.iter().chain(words))?.success()?;
    let answer = parse(&output.stdout);
    ensure!(!answer.rcode.is_empty(), "{}: no answer: {}", output.command, output.stdout);
    Ok(answer)
}

fn parse(text: &str) -> Answer {
    let mut answer = Answer::default();
    let mut section = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix(";; ->>HEADER<<-") {
            answer.rcode = between(rest, "status: ", ",").unwrap_or_default();
        } else if let Some(rest) = line.strip_prefix(";; flags: ") {
            let flags = rest.split(';').next().unwrap_or_default();
            answer.flags = flags.split_whitespace().map(str::to_owned).collect();
        } else if line.starts_with(";;") {
            section = match line {
                ";; ANSWER SECTION:" => Some(&mut answer.answers),
                ";; AUTHORITY SECTION:" => Some(&mut answer.authority),
                ";; ADDITIONAL SECTION:" => Some(&mut answer.additional),
                _ => None,
            };
        } else if let (Some(section), Some(record)) = (&mut section, record(line)) {
            section.push(record);
        }
    }
    answer
}

fn between(text: &str, before: &str, after: &str) -> Option<String> {
    let start = text.find(before)? + before.len();
    Some(text[start..].split(after).next()?.to_owned())
}

/// `web.skydns.local.  60  IN  A  10.244.1.2`
fn record(line: &str) -> Option<Record> {
    if line.starts_with(';') {
        return None;
    }
    let mut words = line.split_whitespace();
    let name = words.next()?.to_owned();
    let ttl = words.next()?.parse().ok()?;
    let _class = words.next()?;
    let kind = words.next()?.to_owned();
    Some(Record { name, ttl, kind, data: words.collect::<Vec<_>>().join(" ") })
}

/// The address part of an agent's first DNS listener, as `status` shows it.
///
/// # Errors
/// When it listens nowhere.
pub fn server_of(status: &serde_json::Value) -> Result<String> {
    let listener = status["dns"][0].as_str().with_context(|| format!("no DNS listener in {status}"))?;
    let (address, _port) = listener.rsplit_once(':').with_context(|| format!("{listener} has no port"))?;
    Ok(address.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SRV: &str = "\
;; Got answer:
;; ->>HEADER<<- opcode: QUERY, status: NOERROR, id: 4711
;; flags: qr aa rd ra; QUERY: 1, ANSWER: 1, AUTHORITY: 0, ADDITIONAL: 2

;; OPT PSEUDOSECTION:
; EDNS: version: 0, flags:; udp: 1232
;; ANSWER SECTION:
web.skydns.local.\t30\tIN\tSRV\t10 100 8080 a.web.skydns.local.

;; ADDITIONAL SECTION:
a.web.skydns.local.\t30\tIN\tA\t10.244.1.2
";

    #[test]
    fn sections_are_told_apart() {
        let answer = parse(SRV);
        assert_eq!(answer.rcode, "NOERROR");
        assert_eq!(answer.flags, ["qr", "aa", "rd", "ra"]);
        assert_eq!(answer.data("SRV"), ["10 100 8080 a.web.skydns.local."]);
        assert_eq!(answer.additional.len(), 1);
        assert_eq!(answer.additional[0].ttl, 30);
        assert!(!answer.has_soa());
    }
}
