//! `netctl dns`: what this host's name server answers.

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use weft_api::{DnsAnswer, DnsRecord};

use super::Context;
use crate::error::{DONE, Error, REFUSED};
use crate::format::{Cell, Page, Tone, cell, col};
use crate::parse;

/// `netctl dns …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask this host's name server; exit 1 where the name has nothing of that type
    Query(QueryArgs),
}

/// Arguments of `dns query`.
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
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let Self::Query(args) = self;
        let client = context.agent.client();
        let name = if args.name.contains('.') {
            args.name
        } else {
            in_domain(&args.name, &context.agent.ask(client.config()).await?.dns_domain)
        };
        let answer = context.agent.ask(client.dns_query(&name, &args.kind)).await?;
        context.printer.show(&answer, draw)?;
        Ok(if answer.answers.is_empty() { REFUSED } else { DONE })
    }
}

fn in_domain(name: &str, domain: &str) -> String {
    format!("{name}.{}", domain.trim_start_matches('.'))
}

fn draw(answer: &DnsAnswer, page: &mut Page) {
    page.field("question", cell(format_args!("{} {}", answer.name, answer.kind)));
    let tone = if answer.answers.is_empty() { Tone::Bad } else { Tone::Good };
    let authority = if answer.authoritative { "authoritative" } else { "from upstream" };
    page.field("answer", Cell::toned(format_args!("{}, {authority}", answer.rcode), tone));
    for (heading, records) in [("ANSWER", &answer.answers), ("AUTHORITY", &answer.authority), ("ADDITIONAL", &answer.additional)]
    {
        if !records.is_empty() {
            page.heading(heading);
            page.table([col("NAME"), col("TTL"), col("TYPE"), col("DATA")], records.iter().map(row));
        }
    }
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
    fn a_name_without_dots_is_put_into_the_domain() {
        assert_eq!(in_domain("myapp", "skydns.local."), "myapp.skydns.local.");
    }
}
