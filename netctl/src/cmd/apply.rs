//! `netctl apply` and `netctl delete`: objects are as files say.
//!
//! Each object is read, rehearsed by the agent (`dry_run`), compared, and written only if that makes a difference, over nothing
//! but what was read. So applying a file twice changes nothing, and two people who apply at once do not undo each other unseen.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use weft_api::{ClientError, Code, Precondition};
use weft_model::ids::Revision;

use super::Context;
use crate::agent::Agent;
use crate::error::{DONE, Error, REFUSED};
use crate::manifest::{self, Kind, Manifest, Subject, diff};

/// How often an object is looked at again because somebody else changed it meanwhile.
const TRIES: usize = 5;

/// What a file looks like, for `--help` and the manual page.
const EXAMPLE: &str = "A file:
  kind: Namespace
  name: prod
  ---
  kind: Service
  name: prod/web
  ports: [\"http=80:8080\"]
  selector: tier=front, env in (a, b)
  ---
  kind: Endpoint
  service: prod/db
  id: db-1
  addresses: [192.0.2.9]
  ports: [{port: 5432}]

netctl manifest prints what there is in this form.";

/// Arguments of `apply`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct ApplyArgs {
    #[command(flatten)]
    files: Files,
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Show how each object changes
    #[arg(long)]
    diff: bool,
}

/// Arguments of `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    #[command(flatten)]
    files: Files,
    /// Show what would be deleted, and delete nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct Files {
    /// A file of YAML or JSON documents, a folder of such, or - for standard input; repeat it for several
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

/// What has come of one object.
#[derive(Debug, Serialize)]
struct Done {
    object: String,
    /// What was done, or with `dry_run` would be.
    action: Action,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<Revision>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    diff: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Created,
    Changed,
    Unchanged,
    Deleted,
    Absent,
    Refused,
}

impl Action {
    fn words(self, dry_run: bool) -> &'static str {
        match (self, dry_run) {
            (Self::Created, false) => "created",
            (Self::Created, true) => "would be created",
            (Self::Changed, false) => "changed",
            (Self::Changed, true) => "would be changed",
            (Self::Deleted, false) => "deleted",
            (Self::Deleted, true) => "would be deleted",
            (Self::Unchanged, _) => "unchanged",
            (Self::Absent, _) => "not there",
            (Self::Refused, _) => "refused",
        }
    }
}

impl Done {
    fn new(subject: &Subject, action: Action, dry_run: bool) -> Self {
        Self { object: subject.to_string(), action, dry_run, revision: None, diff: Vec::new(), error: None }
    }

    fn line(&self) -> String {
        let mut line = format!("{} {}", self.object, self.action.words(self.dry_run));
        if let Some(error) = &self.error {
            line.push_str(": ");
            line.push_str(error);
        }
        for changed in &self.diff {
            line.push_str("\n  ");
            line.push_str(changed);
        }
        line
    }
}

impl ApplyArgs {
    /// Does it. One object that is refused keeps no other from being applied.
    ///
    /// # Errors
    /// Files that cannot be used, and an agent that does not answer.
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let manifests = manifest::read(&self.files.files)?;
        // What a rehearsal would have created by now: the agent knows nothing of it, and would refuse what needs it.
        let mut rehearsed: Vec<Subject> = Vec::new();
        each(context, manifests, async |agent: &Agent, manifest: &Manifest| {
            let mut done = if manifest.needs().iter().any(|needed| rehearsed.contains(needed)) {
                unheard(manifest)
            } else {
                apply(agent, manifest, self.dry_run).await?
            };
            if done.action == Action::Created && self.dry_run {
                rehearsed.push(manifest.subject.clone());
            }
            if !self.diff && !self.dry_run {
                done.diff.clear();
            }
            Ok(done)
        })
        .await
    }
}

impl DeleteArgs {
    /// Does it, in the reverse order of creation.
    ///
    /// # Errors
    /// As [`ApplyArgs::execute`].
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let mut manifests = manifest::read(&self.files.files)?;
        manifests.reverse();
        each(context, manifests, async |agent: &Agent, manifest: &Manifest| delete(agent, &manifest.subject, self.dry_run).await)
            .await
    }
}

async fn each(
    context: &mut Context,
    manifests: Vec<Manifest>,
    mut one: impl AsyncFnMut(&Agent, &Manifest) -> Result<Done, Error>,
) -> Result<u8, Error> {
    let mut code = DONE;
    for manifest in &manifests {
        let done = match one(&context.agent, manifest).await {
            Ok(done) => done,
            Err(Error::Client(ClientError::Refused { code: why, message }))
                if !matches!(why, Code::NotReady | Code::StoreAway) =>
            {
                let error = Some(format!("{message} ({})", manifest.origin));
                Done { error, ..Done::new(&manifest.subject, Action::Refused, false) }
            }
            Err(e) => return Err(e),
        };
        if done.action == Action::Refused {
            code = REFUSED;
        }
        context.printer.event(&done, Done::line)?;
    }
    Ok(code)
}

/// Makes one object what its file says.
pub(super) async fn apply_body(
    agent: &Agent,
    subject: &Subject,
    body: &Value,
    condition: Precondition,
    dry_run: bool,
) -> Result<(Value, Revision), Error> {
    let client = agent.client();
    agent.ask(client.object_put(&subject.path(), body, condition, dry_run)).await
}

/// A rehearsal of what needs something that is not there yet: it cannot be there either.
fn unheard(manifest: &Manifest) -> Done {
    let diff = diff::lines(None, Some(&Manifest::to_value(&manifest.subject, &manifest.body)));
    Done { diff, ..Done::new(&manifest.subject, Action::Created, true) }
}

async fn apply(agent: &Agent, manifest: &Manifest, dry_run: bool) -> Result<Done, Error> {
    let Manifest { subject, body, .. } = manifest;
    if let Subject::Network(_) = subject {
        return network(agent, manifest, dry_run).await;
    }
    let mut last = None;
    for _ in 0..TRIES {
        let there = agent.ask(agent.client().object(&subject.path())).await?;
        let condition = there.as_ref().map_or(Precondition::Absent, |(_, revision)| Precondition::At(*revision));
        let tried = async {
            let (wanted, _) = apply_body(agent, subject, body, condition, true).await?;
            let before = there.as_ref().map(|(object, _)| Manifest::to_value(subject, object));
            let after = Manifest::to_value(subject, &wanted);
            let diff = diff::lines(before.as_ref(), Some(&after));
            let action = match &before {
                None => Action::Created,
                Some(_) if diff.is_empty() => Action::Unchanged,
                Some(_) => Action::Changed,
            };
            let revision = match there {
                Some((_, revision)) if action == Action::Unchanged || dry_run => Some(revision),
                _ if dry_run => None,
                _ => Some(apply_body(agent, subject, body, condition, false).await?.1),
            };
            Ok(Done { revision, diff, ..Done::new(subject, action, dry_run) })
        };
        match tried.await {
            Err(e @ Error::Client(ClientError::Refused { code: Code::Changed, .. })) => last = Some(e),
            other => return other,
        }
    }
    match last {
        Some(e) => Err(e),
        None => Ok(Done::new(subject, Action::Unchanged, dry_run)),
    }
}

/// Networks are made and removed; what changes one while it runs is `netctl network set`, which tells what that does to hosts.
async fn network(agent: &Agent, manifest: &Manifest, dry_run: bool) -> Result<Done, Error> {
    let Manifest { subject, body, .. } = manifest;
    let mut create = body.clone();
    if let (Value::Object(members), Subject::Network(name)) = (&mut create, subject) {
        members.insert("name".to_owned(), Value::String(name.to_string()));
    }
    match agent.ask(agent.client().object(&subject.path())).await? {
        None if dry_run => {
            let diff = diff::lines(None, Some(&Manifest::to_value(subject, &create)));
            Ok(Done { diff, ..Done::new(subject, Action::Created, dry_run) })
        }
        None => {
            agent.ask(agent.client().object_post(Kind::Network.collection(), &create)).await?;
            Ok(Done::new(subject, Action::Created, dry_run))
        }
        Some((there, _)) => {
            // What the file leaves out is whatever it is.
            let before = Manifest::to_value(subject, &there);
            let mut after = before.clone();
            if let (Value::Object(after), Value::Object(wanted)) = (&mut after, body) {
                after.extend(wanted.iter().map(|(member, value)| (member.clone(), value.clone())));
            }
            let diff = diff::lines(Some(&before), Some(&after));
            if diff.is_empty() {
                return Ok(Done::new(subject, Action::Unchanged, dry_run));
            }
            let error = Some("a network that is there is not changed by a file; remove it first".to_owned());
            Ok(Done { diff, error, ..Done::new(subject, Action::Refused, dry_run) })
        }
    }
}

async fn delete(agent: &Agent, subject: &Subject, dry_run: bool) -> Result<Done, Error> {
    let client = agent.client();
    let deleted = match subject {
        // The agent would refuse them for what is in them, which a rehearsal has left there.
        Subject::Network(_) | Subject::Namespace(_) if dry_run => {
            agent.ask(client.object(&subject.path())).await?.map(|(object, _)| object)
        }
        _ => agent.ask(client.object_delete(&subject.path(), Precondition::None, dry_run)).await?,
    };
    let action = if deleted.is_some() { Action::Deleted } else { Action::Absent };
    Ok(Done::new(subject, action, dry_run))
}
