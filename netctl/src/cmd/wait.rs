//! `netctl wait`: until the cluster, as this host sees it, is as a script needs it.

use std::time::{Duration, Instant};

use clap::{ArgGroup, Args};
use tokio::time::sleep;
use weft_api::{Client, ClientError, Code, ListQuery};
use weft_model::endpoint::EndpointState;
use weft_model::ids::{NodeName, Revision, ServiceName};

use super::Context;
use crate::agent::Patience;
use crate::error::{DONE, Error};
use crate::parse;

/// How often the agent is asked.
const PERIOD: Duration = Duration::from_millis(200);

/// Arguments of `wait`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true))]
pub struct WaitArgs {
    /// Until this host's view, names and kernel have reached this revision of the store
    #[arg(long, value_name = "N", group = "what")]
    revision: Option<i64>,
    /// Until this service has backends that are up: NAME or NAMESPACE/NAME
    #[arg(long, value_name = "SERVICE", group = "what")]
    service: Option<ServiceName>,
    // `requires` would not do: clap does not ask for an option that one which is there excludes.
    /// So many of them
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["revision", "endpoint", "node", "leader"], default_value_t = 1)]
    ready: usize,
    /// Until there is an endpoint of this id
    #[arg(long, value_name = "ID", group = "what")]
    endpoint: Option<String>,
    /// In this state: up, draining, lost, starting, down
    #[arg(long, value_name = "STATE", conflicts_with_all = ["revision", "service", "node", "leader"], default_value = "up", value_parser = state)]
    state: EndpointState,
    /// Until this host's agent lives
    #[arg(long, value_name = "NAME", group = "what")]
    node: Option<NodeName>,
    /// Until this service or name has a leader, or until this endpoint leads it
    #[arg(long, value_name = "NAME[=ID]", group = "what", value_parser = leader)]
    leader: Option<(ServiceName, Option<String>)>,
    /// How long at most
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse::duration)]
    timeout: Duration,
}

/// An endpoint's state by its word.
///
/// # Errors
/// Names those there are.
pub fn state(text: &str) -> Result<EndpointState, String> {
    use EndpointState::{Down, Draining, Lost, Starting, Up};
    let known = [Up, Draining, Lost, Starting, Down];
    let found = known.into_iter().find(|state| state.as_str() == text);
    found.ok_or_else(|| format!("{text:?} is no state: {}", known.map(EndpointState::as_str).join(", ")))
}

/// A service, and who is to lead it.
fn leader(text: &str) -> Result<(ServiceName, Option<String>), String> {
    let (name, id) = text.split_once('=').map_or((text, None), |(name, id)| (name, Some(id.to_owned())));
    if id.as_deref() == Some("") {
        return Err("after the = comes an endpoint's id".to_owned());
    }
    Ok((name.parse().map_err(|e| format!("{e}"))?, id))
}

impl WaitArgs {
    /// Does it.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Waited`] when the time is over.
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let until = Instant::now() + self.timeout;
        let mut patience = Patience::begin();
        loop {
            let missing = match context.agent.ask(self.missing(context.agent.client())).await {
                Ok(None) => return Ok(DONE),
                Ok(Some(missing)) => missing,
                Err(e @ Error::Client(_)) if is_passing(&e) && Instant::now() < until => e.chain(),
                Err(e) => return Err(e),
            };
            if Instant::now() >= until {
                return Err(Error::Waited { after: self.timeout, why: missing });
            }
            patience.tell(&missing);
            sleep(PERIOD).await;
        }
    }

    /// What is not yet as it is waited for.
    async fn missing(&self, client: &Client) -> Result<Option<String>, ClientError> {
        if let Some(revision) = self.revision.map(Revision) {
            let views = client.status().await?.views;
            let behind = [("api", views.api), ("dns", views.dns), ("proxy", views.proxy), ("kernel", views.kernel)];
            let behind: Vec<String> =
                behind.iter().filter(|(_, at)| *at < revision).map(|(view, at)| format!("{view} at {at}")).collect();
            return Ok((!behind.is_empty()).then(|| format!("revision {revision} is not reached: {}", behind.join(", "))));
        }
        if let Some(name) = &self.service {
            let up = match client.service(name).await {
                Ok(service) => service.backends.iter().filter(|b| b.used && b.state == EndpointState::Up).count(),
                Err(e) => return absent(e).map(Some),
            };
            return Ok((up < self.ready).then(|| format!("{up} of {} backends of {name} are up", self.ready)));
        }
        if let Some(id) = &self.endpoint {
            let all = client.endpoints_where(&ListQuery::default()).await?.items;
            let found: Vec<EndpointState> = all.iter().filter(|e| e.id == *id).map(|e| e.state).collect();
            if found.contains(&self.state) {
                return Ok(None);
            }
            return Ok(Some(match found.first() {
                Some(state) => format!("endpoint {id} is {state}"),
                None => format!("there is no endpoint {id}"),
            }));
        }
        if let Some((name, wanted)) = &self.leader {
            let leads = client.leader(name).await?.leader.map(|leader| leader.id);
            let is_so = leads.is_some() && (wanted.is_none() || leads == *wanted);
            let who = leads.map_or_else(|| "nobody leads".to_owned(), |id| format!("{id} leads"));
            return Ok((!is_so).then(|| format!("{who} {name}")));
        }
        let Some(name) = &self.node else { return Ok(None) };
        match client.node(name).await {
            Ok(node) if node.alive == Some(false) => Ok(Some(format!("the agent of {name} is dead"))),
            Ok(_) => Ok(None),
            Err(e) => absent(e).map(Some),
        }
    }
}

/// What is not there may come.
fn absent(error: ClientError) -> Result<String, ClientError> {
    match error {
        ClientError::Refused { code: Code::NotFound, message } => Ok(message),
        other => Err(other),
    }
}

fn is_passing(error: &Error) -> bool {
    matches!(error, Error::Client(e) if e.is_passing())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: WaitArgs,
    }

    #[test]
    fn one_thing_is_waited_for_and_its_options_belong_to_it() {
        let parse = |words: &str| Line::try_parse_from(["wait"].into_iter().chain(words.split_whitespace()));
        for good in [
            "--revision 5",
            "--service web --ready 3",
            "--endpoint a --state draining --timeout 5s",
            "--node h1",
            "--leader web",
            "--leader prod/web=a",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "--revision 5 --node h1",
            "--ready 3 --node h1",
            "--state up --revision 5",
            "--endpoint a --state dead",
            "--leader web --ready 2",
            "--leader web=",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
