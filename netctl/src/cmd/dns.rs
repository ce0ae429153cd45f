//! `netctl dns`: what this host's name server answers.

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use weft_api::{DnsAnswer, DnsRecord, DnsSpeaker, DnsWhy};

use super::Context;
use crate::error::{DONE, Error, REFUSED};
use crate::format::{Cell, Page, Tone, cell, col};
use crate::parse;

/// `netctl dns …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask this host's name server; exit 1 where the name has nothing of that type
    Query(QueryArgs),
    /// Tell which records, rules and services make the answer; exit 1 where there is none
    Why(QueryArgs),
}

/// Arguments of `dns query` and `dns why`.
#[derive(Debug, Args)]
pub struct QueryArgs {
    /// The name. One without any dot is looked for in the cluster's domain
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// The type: A, AAAA, SRV, TXT, …
    #[arg(value_name = "TYPE", default_value = "A", value_parser = parse::record_type)]
    kind: String,
}

impl Command {
    /// How it is called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Query(_) => "dns query",
            Self::Why(_) => "dns why",
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let (Self::Query(args) | Self::Why(args)) = &self;
        let client = context.agent.client();
        let name = if args.name.contains('.') {
            args.name.clone()
        } else {
            in_domain(&args.name, &context.agent.ask(client.config()).await?.dns_domain)
        };
        let answer = if let Self::Why(_) = self {
            let why = context.agent.ask(client.dns_why(&name, &args.kind)).await?;
            context.printer.show(&why, draw_why)?;
            why.answer
        } else {
            let answer = context.agent.ask(client.dns_query(&name, &args.kind)).await?;
            context.printer.show(&answer, draw)?;
            answer
        };
        Ok(if answer.answers.is_empty() { REFUSED } else { DONE })
    }
}

fn in_domain(name: &str, domain: &str) -> String {
    format!("{name}.{}", domain.trim_start_matches('.'))
}

fn draw(answer: &DnsAnswer, page: &mut Page) {
    page.field("question", cell(format_args!("{} {}", answer.name, answer.kind)));
    let tone = if answer.answers.is_empty() { Tone::Bad } else { Tone::Good };
    let authority = match &answer.forward {
        Some(name) => format!("without {name}, which others would have to be asked for: ask on the host itself"),
        None if answer.authoritative => "authoritative".to_owned(),
        None => "from upstream".to_owned(),
    };
    page.field("answer", Cell::toned(format_args!("{}, {authority}", answer.rcode), tone));
    for (heading, records) in [("ANSWER", &answer.answers), ("AUTHORITY", &answer.authority), ("ADDITIONAL", &answer.additional)]
    {
        if !records.is_empty() {
            page.heading(heading);
            page.table([col("NAME"), col("TTL"), col("TYPE"), col("DATA")], records.iter().map(row));
        }
    }
}

fn draw_why(why: &DnsWhy, page: &mut Page) {
    draw(&why.answer, page);
    page.field("revision", cell(why.revision));
    for step in &why.steps {
        page.heading("ON THE WAY");
        page.field("name", cell(&step.name));
        page.field("is", cell(&step.is));
        page.field("then", cell(&step.then));
        if !step.records.is_empty() {
            let columns = [col("RECORD"), col("HOST"), col("TTL"), col("STATE"), col("REVISION"), col("USED")];
            page.table(columns, step.records.iter().map(speaker));
        }
    }
}

fn speaker(record: &DnsSpeaker) -> [Cell; 6] {
    let revision = record.revision.map_or_else(|| "-".to_owned(), |revision| revision.to_string());
    let host = if record.host.is_empty() { "-" } else { &record.host };
    let used = match &record.why_not {
        None => Cell::toned("yes", Tone::Good),
        Some(why_not) => Cell::toned(format_args!("no: {why_not}"), Tone::Bad),
    };
    [cell(&record.path), cell(host), cell(record.ttl), cell(&record.standing), cell(revision), used]
}

fn row(record: &DnsRecord) -> [Cell; 4] {
    [cell(&record.name), cell(record.ttl), cell(&record.kind), cell(&record.data)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::drawn;

    #[test]
    fn an_answer_has_its_sections() {
        let answer: DnsAnswer = serde_json::from_str(
            r#"{"name":"myapp.skydns.local.","type":"SRV","rcode":"NOERROR","authoritative":true,
                "answers":[{"name":"myapp.skydns.local.","ttl":60,"type":"SRV","data":"10 100 8080 web-1.myapp.skydns.local."}],
                "authority":[],"additional":[{"name":"web-1.myapp.skydns.local.","ttl":60,"type":"A","data":"10.244.3.5"}]}"#,
        )
        .unwrap();
        assert_eq!(
            drawn(false, |p| draw(&answer, p)),
            "\
question  myapp.skydns.local. SRV
answer    NOERROR, authoritative

ANSWER
NAME                 TTL  TYPE  DATA
myapp.skydns.local.  60   SRV   10 100 8080 web-1.myapp.skydns.local.

ADDITIONAL
NAME                       TTL  TYPE  DATA
web-1.myapp.skydns.local.  60   A     10.244.3.5
"
        );
    }

    #[test]
    fn the_way_to_an_answer_says_of_each_record_whether_it_is_used() {
        let why: DnsWhy = serde_json::from_str(
            r#"{"revision":42,"answer":{"name":"web.skydns.local.","type":"A","rcode":"NOERROR","authoritative":true,
                "answers":[{"name":"web.skydns.local.","ttl":30,"type":"A","data":"10.244.3.5"}],"authority":[],"additional":[]},
                "steps":[{"name":"web.skydns.local.","is":"service default/web","then":"10.244.3.5","records":[
                  {"path":"local/skydns/web/a/4","revision":7,"host":"10.244.3.5","ttl":30,"standing":"up","used":true},
                  {"path":"local/skydns/web/b/4","host":"10.244.3.6","ttl":5,"standing":"draining","used":false,"why_not":"others stand better"}]}]}"#,
        )
        .unwrap();
        assert_eq!(
            drawn(false, |p| draw_why(&why, p)),
            "\
question  web.skydns.local. A
answer    NOERROR, authoritative

ANSWER
NAME               TTL  TYPE  DATA
web.skydns.local.  30   A     10.244.3.5

revision  42

ON THE WAY
name  web.skydns.local.
is    service default/web
then  10.244.3.5

RECORD                HOST        TTL  STATE     REVISION  USED
local/skydns/web/a/4  10.244.3.5  30   up        7         yes
local/skydns/web/b/4  10.244.3.6  5    draining  -         no: others stand better
"
        );
    }

    #[test]
    fn a_name_without_dots_is_put_into_the_domain() {
        assert_eq!(in_domain("myapp", "skydns.local."), "myapp.skydns.local.");
    }
}
