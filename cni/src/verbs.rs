//! The verbs of the CNI specification: environment and standard input in, the answer's JSON out.

use serde_json::{Value, json};
use weft_api::queue::Queued;
use weft_api::{Attach, Check, Gc, Kept, Release, Status};
use weft_model::attachment::{Owner, Runtime};

use crate::agent::{Agent, Taken, log, socket};
use crate::config::{Head, Input, Version};
use crate::env::{self, Environment, Lookup, Verb};
use crate::error::{CHECK, CONFIG, Fault, LIMITED, NEWEST, TRY_AGAIN, UNAVAILABLE, UNKNOWN_CONTAINER};
use crate::netns::Namespace;
use crate::result::{self, Prev};
use crate::wish;

/// A fault, and the version in which it is told.
pub type Failure = (Fault, String);

/// Does what is asked; what is to be printed, if anything.
///
/// # Errors
/// Why not.
pub async fn run(lookup: Lookup<'_>, stdin: &[u8]) -> Result<Option<Value>, Failure> {
    let plain = |fault| (fault, NEWEST.to_owned());
    let verb = env::verb(lookup).map_err(plain)?;
    if verb == Verb::Version && stdin.trim_ascii().is_empty() {
        return Ok(Some(versions(None)));
    }
    let input = Input::parse(stdin).map_err(plain)?;
    if verb == Verb::Version {
        return Ok(Some(versions(input.version_text())));
    }
    // A version that is not ours is told in the newest that is.
    let told = Version::ALL.into_iter().find(|v| Some(v.as_str()) == input.version_text()).unwrap_or(Version::V110);
    execute(verb, lookup, &input).await.map_err(|fault| (fault, told.to_string()))
}

async fn execute(verb: Verb, lookup: Lookup<'_>, input: &Input) -> Result<Option<Value>, Fault> {
    let env = env::read(verb, lookup)?;
    let head = input.head(verb)?;
    let agent = Agent::at(socket(head.socket.as_deref(), lookup("WEFT_SOCKET")));
    match verb {
        Verb::Add => add(&env, &head, input, &agent).await.map(Some),
        Verb::Del => del(&env, &head, &agent).await.map(|()| None),
        Verb::Check => check(&env, &head, input, &agent).await.map(|()| None),
        Verb::Status => status(input, &agent).await.map(|()| None),
        Verb::Gc => gc(&head, input, &agent).await.map(|()| None),
        Verb::Version => Ok(Some(versions(input.version_text()))),
    }
}

/// Which versions are spoken. The caller's own is repeated, whatever it is.
fn versions(callers: Option<&str>) -> Value {
    let callers = callers.filter(|text| !text.is_empty() && text.len() <= 40).unwrap_or(NEWEST);
    json!({ "cniVersion": callers, "supportedVersions": Version::ALL.map(Version::as_str) })
}

fn owner(head: &Head, env: &Environment) -> Owner {
    Owner { runtime: Runtime::Cni, network: head.name.clone(), container: env.container.clone() }
}

/// Our interface: `CNI_IFNAME`, unless the configuration names another.
fn ifname(head: &Head, env: &Environment) -> String {
    head.ifname.clone().unwrap_or_else(|| env.ifname.clone())
}

async fn add(env: &Environment, head: &Head, input: &Input, agent: &Agent) -> Result<Value, Fault> {
    let body = input.body()?;
    let prev = Prev::of(&body)?;
    prev.refuse_taken(&ifname(head, env))?;
    // What cannot be is told before anything is made.
    let checked = wish::attach(env, head, &body, env.netns.clone().into())?;
    result::check_dns(&body)?;
    let netns = Namespace::open(&env.netns).map_err(|fault| match body.prev {
        // "Nothing to clean up" would not be true of those before us.
        Some(_) if fault.code == UNKNOWN_CONTAINER => Fault { code: crate::error::ENVIRONMENT, ..fault },
        _ => fault,
    })?;
    // A container in several networks has one way out; unless it is told, ours is not the second.
    let default_route = checked.default_route && (body.default_route.is_some() || !netns.has_default_route());
    let attached = attach(agent, Attach { netns: netns.path(), default_route, ..checked }, &netns, head.patience).await?;
    if attached.record == "pending" {
        log(&format!("{}: attached; the store is away, and its record follows", env.container));
    }
    result::compose(head.version, &env.netns, &attached, &body)
}

/// Attaches by the path that lasts; by that of our own open file where the agent, in a mount namespace of its own, cannot open
/// the first.
pub async fn attach(
    agent: &Agent,
    request: Attach,
    netns: &Namespace,
    patience: std::time::Duration,
) -> Result<weft_api::Attached, Fault> {
    let own = netns.own_path();
    match agent.attach(&request, patience).await {
        Err(fault) if fault.code == CONFIG && request.netns != own => {
            // The same refusal again, if it was for another reason: then the first one is told, with the caller's own path.
            agent.attach(&Attach { netns: own, ..request }, patience).await.map_err(|_| fault)
        }
        answer => answer,
    }
}

async fn del(env: &Environment, head: &Head, agent: &Agent) -> Result<(), Fault> {
    let release = Release { owner: owner(head, env), ifname: Some(ifname(head, env)) };
    take_back(agent, Queued::Release(release), &env.container).await
}

async fn gc(head: &Head, input: &Input, agent: &Agent) -> Result<(), Fault> {
    let valid = input.valid_attachments()?;
    // The runtime knows the interface that it named; we may have made another.
    let keep = valid.into_iter().map(|kept| Kept { ifname: head.ifname.clone().unwrap_or(kept.ifname), ..kept }).collect();
    let gc = Gc { runtime: Runtime::Cni, network: head.name.clone(), keep };
    take_back(agent, Queued::Gc(gc), &head.name).await
}

/// Takes something back, now or as soon as there is an agent; either is a success.
pub async fn take_back(agent: &Agent, request: Queued, subject: &str) -> Result<(), Fault> {
    if let Taken::Queued(path) = agent.take_back(request).await? {
        log(&format!("{subject}: no agent; it will do it when it starts: {}", path.display()));
    }
    Ok(())
}

async fn check(env: &Environment, head: &Head, input: &Input, agent: &Agent) -> Result<(), Fault> {
    let body = input.body()?;
    if body.prev.is_none() {
        return Err(Fault::new(CONFIG, "CHECK without prevResult: there is nothing to compare with"));
    }
    let ifname = ifname(head, env);
    let addresses = Prev::of(&body)?.addresses_of(&ifname)?;
    let missing = |fault: Fault| Fault { code: CHECK, ..fault };
    let netns = Namespace::open(&env.netns).map_err(missing)?;
    let check = Check { owner: owner(head, env), ifname, netns: netns.path(), addresses };
    let answer = match agent.ask(agent.client().check(&check)).await {
        Err(fault) if fault.code == CONFIG && check.netns != netns.own_path() => {
            let again = Check { netns: netns.own_path(), ..check };
            agent.ask(agent.client().check(&again)).await.map_err(|_| fault)
        }
        answer => answer,
    };
    match answer {
        Ok(_) => Ok(()),
        Err(fault) if fault.code == TRY_AGAIN => Err(fault),
        Err(fault) => Err(missing(fault)),
    }
}

async fn status(input: &Input, agent: &Agent) -> Result<(), Fault> {
    let body = input.body()?;
    let status = match agent.ask(agent.client().status()).await {
        Ok(status) => status,
        Err(fault) => {
            // Their traffic flows without an agent; their names are not answered.
            let code = if has_containers() { LIMITED } else { UNAVAILABLE };
            return Err(Fault { code, ..fault });
        }
    };
    if !status.ready {
        let why = status.reasons.first().map_or("netctl status says more", String::as_str);
        let code = if misses_something(&status) { LIMITED } else { UNAVAILABLE };
        return Err(Fault::new(code, format!("the agent is not ready: {why}")));
    }
    if let Some(network) = body.network.as_deref().filter(|name| !name.is_empty() && *name != "default") {
        let name = network.parse().map_err(|e| Fault::new(CONFIG, format!("network: {e}")))?;
        let known = agent.ask(agent.client().network_named(&name)).await;
        known.map_err(|fault| Fault::new(UNAVAILABLE, format!("network {name}: {}", fault.msg)))?;
    }
    Ok(())
}

/// Whether containers that are there may miss something while the agent is not ready: names, or the other hosts.
fn misses_something(status: &Status) -> bool {
    let cut_off = status.subnet.is_none() || status.uplink.is_none() || status.store.revision.0 == 0;
    status.attachments > 0 && cut_off
}

/// Whether this host has containers of ours, by the names of their devices: asked when nobody else answers.
fn has_containers() -> bool {
    // /proc/net is of this process's own namespace, whatever /sys shows.
    let devices = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    devices.lines().filter_map(|line| line.split_once(':')).any(|(name, _)| {
        let digits = name.trim().strip_prefix("weft").unwrap_or_default();
        digits.len() == 10 && digits.bytes().all(|b| b.is_ascii_hexdigit())
    })
}
