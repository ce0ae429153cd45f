//! `netctl service set`: what is named of a service changes, the rest stays.
//!
//! The service is read, changed here and written back as it was read; if somebody else has changed it meanwhile it is read
//! again, so that of two who change different things at once neither undoes the other's.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use clap::{ArgGroup, Args};
use weft_api::{ClientError, Code, Precondition, ServiceCreated, ServiceSpec, ServiceView};
use weft_model::check::Check;
use weft_model::ids::ServiceName;
use weft_model::passive::Passive;
use weft_model::policy::{Affinity, Algorithm, Prefer};
use weft_model::record::Proto;
use weft_model::selector::Selector;
use weft_model::service::{ServicePort, check_external_name, check_ports, parse_ports};

use crate::agent::{Agent, Deadline};
use crate::error::Error;
use crate::parse;

/// How often a change is made again because somebody else was faster.
const TRIES: usize = 8;

/// Arguments of `service set`.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("changes").required(true).multiple(true))]
pub struct SetArgs {
    /// Its name: NAME or NAMESPACE/NAME
    #[arg(value_name = "NAME")]
    service: ServiceName,
    /// A further port, or another meaning of one that it has; repeat it for several
    #[arg(long, value_name = "[NAME=]PORT[:TARGET][/tcp|udp|tcp+udp]", group = "changes", value_parser = parse_ports)]
    add_port: Vec<Vec<ServicePort>>,
    /// A port that goes, by number or name; repeat it for several
    #[arg(long, value_name = "PORT[/tcp|udp]|NAME", group = "changes")]
    rm_port: Vec<String>,
    /// Only endpoints with these labels, in place of the selector that it has; '' is those below the service's name
    #[arg(long, value_name = "SELECTOR", group = "changes")]
    selector: Vec<Selector>,
    /// A label of the service's own; repeat it for several
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::label, group = "changes")]
    labels: Vec<(String, String)>,
    /// A label of its own that goes; repeat it for several
    #[arg(long, value_name = "KEY", group = "changes")]
    rm_label: Vec<String>,
    /// These virtual IPs in place of those that it has; repeat it for several
    #[arg(long, value_name = "ADDRESS", group = "changes")]
    vip: Vec<IpAddr>,
    /// Without virtual IP, or (false) with one
    #[arg(long, value_name = "true|false", group = "changes", num_args = 0..=1, default_missing_value = "true", conflicts_with = "vip")]
    headless: Option<bool>,
    /// The name stands for this one; '' is for its endpoints again
    #[arg(long, value_name = "NAME", group = "changes", conflicts_with_all = ["vip", "headless"], value_parser = external_name_or_none)]
    external_name: Option<String>,
    /// Whether addresses of hosts may be backends
    #[arg(long, value_name = "true|false", group = "changes", num_args = 0..=1, default_missing_value = "true")]
    allow_hosts: Option<bool>,
    /// Below how many percent of healthy endpoints checks are not believed; at 0 only when they would leave none
    #[arg(long, value_name = "PERCENT", group = "changes", value_parser = percent)]
    panic: Option<u8>,
    /// How its endpoints are asked whether they are well, as service create has it, with options behind commas; 'none' ends that
    #[arg(long, value_name = "CHECK|none", group = "changes", value_parser = or_none::<Check>)]
    check: Option<Choice<Check>>,
    /// When hosts ask other backends first because connections to one fail, as service create has it; 'none' ends that
    #[arg(long, value_name = "failures=5,within=10s,for=30s|none", group = "changes", value_parser = or_none::<Passive>)]
    passive: Option<Choice<Passive>>,
    /// How a backend is chosen: random, weighted, maglev or least. Kept; this version chooses at random
    #[arg(long, value_name = "HOW", group = "changes")]
    algorithm: Option<Algorithm>,
    /// A client stays with its backend so long after its last connection; 'none' ends that. Kept; not yet applied by
    /// this version
    #[arg(long, value_name = "client[,600s]|none", group = "changes", value_parser = or_none::<Affinity>)]
    affinity: Option<Choice<Affinity>>,
    /// Which endpoints are asked first: node, zone, local, or 'none' in particular. Kept; not yet applied by this version
    #[arg(long, value_name = "WHICH", group = "changes", value_parser = or_none::<Prefer>)]
    prefer: Option<Choice<Prefer>>,
    /// How long to wait until there is an agent and it can do it; 0 is not at all
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse::duration)]
    timeout: Duration,
}

/// Something, or that there is to be nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Choice<T>(Option<T>);

fn or_none<T: std::str::FromStr<Err = String>>(text: &str) -> Result<Choice<T>, String> {
    if text == "none" { Ok(Choice(None)) } else { text.parse().map(|value| Choice(Some(value))) }
}

/// A percentage.
///
/// # Errors
/// Names the text, and what it may be.
pub fn percent(text: &str) -> Result<u8, String> {
    text.strip_suffix('%').unwrap_or(text).parse().ok().filter(|n| *n <= 100).ok_or_else(|| format!("{text:?}: 0 to 100"))
}

/// A name that another one may stand for, as it is kept.
///
/// # Errors
/// Names it, and what it may be.
pub fn external_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    check_external_name(&name).map(|()| name)
}

fn external_name_or_none(text: &str) -> Result<String, String> {
    if text.is_empty() { Ok(String::new()) } else { external_name(text) }
}

/// Several selectors as one.
///
/// # Errors
/// Nothing could have what they ask for.
pub fn selector(given: Vec<Selector>) -> Result<Selector, String> {
    given.into_iter().try_fold(Selector::default(), Selector::and)
}

impl SetArgs {
    /// Does it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(self, agent: &Agent) -> Result<ServiceCreated, Error> {
        let deadline = Deadline::after(self.timeout);
        let mut tries = 0;
        loop {
            tries += 1;
            let there = agent.ask_until(deadline, |_| agent.client().service(&self.service)).await?;
            let spec = self.changed(&there, tries > 1)?;
            let condition = Precondition::At(there.revision);
            let put = |_| agent.client().service_put(&self.service, &spec, condition, false);
            match agent.ask_until(deadline, put).await {
                Err(Error::Client(ClientError::Refused { code: Code::Changed, .. })) if tries < TRIES => {}
                answer => return answer,
            }
        }
    }

    /// What the service is to be. Tried again, what has gone meanwhile has gone as was wished.
    fn changed(&self, there: &ServiceView, again: bool) -> Result<ServiceSpec, Error> {
        let mut spec = ServiceSpec::from(there);
        for gone in &self.rm_port {
            let before = spec.ports.len();
            let meant = meant(gone);
            spec.ports.retain(|port| !meant(port));
            if spec.ports.len() == before && !again {
                let ports = spec.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                return Err(Error::Usage(format!("--rm-port {gone}: {} has no such port; it has {ports}", self.service)));
            }
        }
        for port in self.add_port.iter().flatten() {
            match spec.ports.iter_mut().find(|p| (p.port, p.proto) == (port.port, port.proto)) {
                Some(same) => *same = port.clone(),
                None => spec.ports.push(port.clone()),
            }
        }
        check_ports(&spec.ports).map_err(Error::Usage)?;
        if !self.selector.is_empty() {
            let selector = selector(self.selector.clone()).map_err(Error::Usage)?;
            (spec.selector, spec.expressions) = (selector.equal, selector.expressions);
        }
        spec.labels.retain(|key, _| !self.rm_label.contains(key));
        let labels: BTreeMap<String, String> = parse::labels(&self.labels).map_err(Error::Usage)?;
        spec.labels.extend(labels);
        if !self.vip.is_empty() {
            spec.vips = Some(self.vip.clone());
            spec.headless = false;
        }
        if let Some(headless) = self.headless {
            spec.headless = headless;
        }
        if let Some(name) = &self.external_name {
            spec.external_name = Some(name.clone()).filter(|name| !name.is_empty());
            if spec.external_name.is_some() {
                spec.headless = false;
            }
        }
        spec.allow_hosts = self.allow_hosts.unwrap_or(spec.allow_hosts);
        spec.panic = self.panic.unwrap_or(spec.panic);
        if let Some(choice) = &self.check {
            spec.check.clone_from(&choice.0);
        }
        spec.passive = self.passive.map_or(spec.passive, |choice| choice.0);
        spec.algorithm = self.algorithm.or(spec.algorithm);
        spec.affinity = self.affinity.map_or(spec.affinity, |choice| choice.0);
        spec.prefer = self.prefer.map_or(spec.prefer, |choice| choice.0);
        Ok(spec)
    }
}

/// Which ports a text means: a number (of both protocols, or one), or a name.
fn meant(text: &str) -> impl Fn(&ServicePort) -> bool {
    let (number, proto) = match text.split_once('/') {
        Some((number, proto)) => (number, proto.parse::<Proto>().ok()),
        None => (text, None),
    };
    let number = number.parse::<u16>().ok();
    let name = text.to_owned();
    move |port| match number {
        Some(number) => port.port == number && proto.is_none_or(|proto| port.proto == proto),
        None => port.name == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: SetArgs,
    }

    fn args(words: &[&str]) -> SetArgs {
        Line::try_parse_from([&["set", "myapp"], words].concat()).unwrap_or_else(|e| panic!("{words:?}: {e}")).args
    }

    fn there() -> ServiceView {
        serde_json::from_str(
            r#"{"namespace":"default","name":"myapp","vip":"10.112.0.7","vips":["10.112.0.7"],"backends":[],
                "ports":[{"name":"http","port":80,"target":8080},{"name":"dns","port":53,"proto":"udp"},{"name":"dns","port":53}],
                "selector":{"tier":"web"},"labels":{"team":"a","old":"1"},"prefer":"zone","panic":30,"revision":5}"#,
        )
        .unwrap()
    }

    fn changed(words: &[&str]) -> ServiceSpec {
        args(words).changed(&there(), false).unwrap()
    }

    #[test]
    fn what_is_not_named_stays() {
        let before = ServiceSpec::from(&there());
        assert_eq!(changed(&["--panic", "50"]), ServiceSpec { panic: 50, ..before.clone() });
        let checked = Some("tcp,fall=3".parse().unwrap());
        assert_eq!(changed(&["--check", "tcp,fall=3"]), ServiceSpec { check: checked, ..before.clone() });
        assert_eq!(changed(&["--check", "none"]), before);
        let passive = Some(Passive { failures: 3, ..Passive::default() });
        assert_eq!(changed(&["--passive", "failures=3"]), ServiceSpec { passive, ..before.clone() });
        assert_eq!(changed(&["--passive", "none"]), before);
        assert_eq!(changed(&["--prefer", "none"]), ServiceSpec { prefer: None, ..before.clone() });
        assert_eq!(changed(&["--algorithm", "maglev"]).algorithm, Some(Algorithm::Maglev));
        assert_eq!(changed(&["--headless"]), ServiceSpec { headless: true, ..before.clone() });
        assert_eq!(changed(&["--selector", ""]), ServiceSpec { selector: BTreeMap::new(), ..before });
    }

    #[test]
    fn ports_come_and_go_by_number_and_name() {
        let ports = |words: &[&str]| changed(words).ports.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(ports(&["--rm-port", "53"]), ["http=80:8080/tcp"]);
        assert_eq!(ports(&["--rm-port", "53/udp"]), ["http=80:8080/tcp", "dns=53/tcp"]);
        assert_eq!(ports(&["--rm-port", "dns", "--add-port", "https=443"]), ["http=80:8080/tcp", "https=443/tcp"]);
        assert_eq!(ports(&["--rm-port", "dns", "--add-port", "http=80:web"]), ["http=80:web/tcp"], "another meaning");
        let refused = args(&["--rm-port", "81"]).changed(&there(), false).unwrap_err().to_string();
        assert!(refused.contains("it has http=80:8080/tcp"), "{refused}");
    }

    #[test]
    fn a_port_that_somebody_else_removed_meanwhile_is_removed() {
        let spec = args(&["--rm-port", "81", "--rm-port", "53"]).changed(&there(), true).unwrap();
        assert_eq!(spec.ports.iter().map(ToString::to_string).collect::<Vec<_>>(), ["http=80:8080/tcp"]);
    }

    #[test]
    fn labels_come_and_go() {
        let spec = changed(&["--label", "team=b", "--rm-label", "old"]);
        assert_eq!(spec.labels, [("team".to_owned(), "b".to_owned())].into());
    }

    #[test]
    fn a_change_of_nothing_is_a_usage_error() {
        assert!(Line::try_parse_from(["set", "myapp"]).is_err());
        assert!(Line::try_parse_from(["set", "myapp", "--headless", "--vip", "10.112.0.9"]).is_err());
    }
}
