//! `netctl manifest` and `netctl edit`: objects as the files that `netctl apply` reads.

use std::fs;
use std::io::{self, IsTerminal, Write as _};
use std::path::Path;
use std::process::Command as Process;

use clap::Args;
use serde_json::Value;
use weft_api::{ClientError, Code, Precondition};
use weft_model::ids::Revision;

use super::Context;
use super::apply::apply_body;
use crate::agent::Agent;
use crate::error::{DONE, Error};
use crate::manifest::{Kind, Manifest, Subject};

/// Arguments of `manifest`.
#[derive(Debug, Args)]
pub struct ManifestArgs {
    /// KIND/NAME, or KIND for all of a kind: namespace, network, service, endpoint [default: all that a person has written]
    #[arg(value_name = "OBJECT", value_parser = Choice::parse)]
    objects: Vec<Choice>,
}

/// Arguments of `edit`.
#[derive(Debug, Args)]
pub struct EditArgs {
    /// KIND/NAME, as in service/prod/web or endpoint/db/db-1
    #[arg(value_name = "OBJECT", value_parser = Subject::parse)]
    object: Subject,
}

/// One object, or all of a kind.
#[derive(Clone, Debug)]
enum Choice {
    One(Subject),
    All(Kind),
}

impl Choice {
    fn parse(text: &str) -> Result<Self, String> {
        match Kind::parse(text) {
            Some(kind) => Ok(Self::All(kind)),
            None => Subject::parse(text).map(Self::One),
        }
    }
}

impl ManifestArgs {
    /// Does it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let choices = if self.objects.is_empty() { Kind::ALL.map(Choice::All).to_vec() } else { self.objects };
        let mut files = Vec::new();
        for choice in choices {
            match choice {
                Choice::One(subject) => files.push(file_of(&context.agent, &subject).await?.0),
                Choice::All(kind) => files.extend(all_of(&context.agent, kind).await?),
            }
        }
        // The same documents whatever form is asked for; a table of them would say less.
        for file in &files {
            context.printer.document(file)?;
        }
        Ok(DONE)
    }
}

async fn file_of(agent: &Agent, subject: &Subject) -> Result<(Value, Revision), Error> {
    let there = agent.ask(agent.client().object(&subject.path())).await?;
    let (object, revision) = there.ok_or_else(|| {
        let message = format!("there is no {subject}");
        Error::Client(ClientError::Refused { code: Code::NotFound, message })
    })?;
    Ok((Manifest::to_value(subject, &object), revision))
}

/// All objects of a kind that a person has written: what agents wrote for their containers is none of them.
async fn all_of(agent: &Agent, kind: Kind) -> Result<Vec<Value>, Error> {
    let objects = agent.ask(agent.client().objects(kind.collection())).await?;
    let file = |object: &Value| {
        let text = |member: &str| object.get(member).and_then(Value::as_str).unwrap_or_default();
        let subject = match kind {
            Kind::Namespace => format!("namespace/{}", text("namespace")),
            Kind::Network => format!("network/{}", text("name")),
            Kind::Service => format!("service/{}/{}", text("namespace"), text("name")),
            Kind::Endpoint => format!("endpoint/{}/{}", text("service"), text("id")),
        };
        let is_ours = match kind {
            Kind::Namespace | Kind::Network => !subject.ends_with("/default"),
            Kind::Service => true,
            Kind::Endpoint => object.get("permanent").is_some_and(|permanent| permanent == true),
        };
        // A name that no manifest can say is one that others wrote.
        Subject::parse(&subject).ok().filter(|_| is_ours).map(|subject| Manifest::to_value(&subject, object))
    };
    Ok(objects.iter().filter_map(file).collect())
}

impl EditArgs {
    /// Does it: what the editor leaves is applied over what it was given, as often as it takes to be accepted.
    ///
    /// # Errors
    /// No terminal, an editor that fails, and as [`Error`].
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        if !io::stdin().is_terminal() {
            return Err(Error::Usage("edit: no terminal; use netctl manifest, a file, and netctl apply".to_owned()));
        }
        if let Subject::Network(_) = self.object {
            return Err(Error::Usage("edit: a network is changed by netctl network set".to_owned()));
        }
        let agent = context.agent.clone();
        let (file, revision) = file_of(&agent, &self.object).await?;
        let before = serde_yaml_ng::to_string(&file).map_err(crate::format::PrintError::from)?;
        let mut text = before.clone();
        match self.rounds(&agent, revision, &mut text).await {
            Ok(done) => {
                let done = if done { "changed" } else { "unchanged" };
                context.printer.raw(format!("{} {done}\n", self.object).as_bytes())?;
                Ok(DONE)
            }
            // What somebody has written by hand is not thrown away because nobody takes it now.
            Err(e) if text != before => Err(kept(&text, e)),
            Err(e) => Err(e),
        }
    }

    /// Edits until it is accepted or given up; whether it was changed. `text` is what was edited last.
    async fn rounds(&self, agent: &Agent, mut revision: Revision, text: &mut String) -> Result<bool, Error> {
        let before = text.clone();
        let mut asked = Asked::First;
        loop {
            let edited = edit(text, &asked)?;
            if asked.is_given_up(&[text, &before], &edited) {
                return Ok(false);
            }
            *text = edited;
            asked = match self.accept(agent, text, revision).await {
                Ok(()) => return Ok(true),
                Err(Error::Client(ClientError::Refused { code: Code::Changed, .. })) => {
                    revision = file_of(agent, &self.object).await?.1;
                    Asked::Over(format!("{} was changed by somebody else meanwhile; save again to write over that", self.object))
                }
                Err(Error::Client(ClientError::Refused { code, message })) if code != Code::StoreAway => Asked::Refused(message),
                Err(Error::Usage(why)) => Asked::Refused(why),
                Err(e) => return Err(e),
            };
        }
    }

    async fn accept(&self, agent: &Agent, text: &str, revision: Revision) -> Result<(), Error> {
        let value: Value = serde_yaml_ng::from_str(text).map_err(|e| Error::Usage(e.to_string()))?;
        let manifest = Manifest::from_value(value, "the edited text").map_err(Error::Usage)?;
        if manifest.subject != self.object {
            return Err(Error::Usage(format!("kind and name stay: this is {}", self.object)));
        }
        apply_body(agent, &self.object, &manifest.body, Precondition::At(revision), false).await.map(drop)
    }
}

/// Why somebody edits.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// He wants to.
    First,
    /// What he wrote was refused, for this reason.
    Refused(String),
    /// What he wrote is good, but the object is another now; this tells him.
    Over(String),
}

impl Asked {
    /// Whether what came back means that nothing is to be done. `known` is what was given, and what it was at first.
    fn is_given_up(&self, known: &[&str], edited: &str) -> bool {
        edited.trim().is_empty() || (known.contains(&edited) && !matches!(self, Self::Over(_)))
    }

    /// What stands above the text.
    fn comments(&self) -> String {
        let (first, complaint) = match self {
            Self::First => ("# Saved as it is, or empty, nothing changes.\n", ""),
            Self::Refused(why) => ("# Saved as it is, or empty, nothing changes.\n", why.as_str()),
            Self::Over(why) => ("# Saved as it is, it is written; empty, nothing changes.\n", why.as_str()),
        };
        let complaint = complaint.lines().flat_map(|line| ["# refused: ", line, "\n"]);
        [first].into_iter().chain(complaint).collect()
    }
}

/// Puts a text that cannot be written now where its author finds it again.
fn kept(text: &str, source: Error) -> Error {
    let file = tempfile::Builder::new().prefix("weft-").suffix(".yaml").tempfile();
    let saved = file.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.keep().map(|(_, path)| path).map_err(|e| e.error)
    });
    match saved {
        Ok(file) => Error::Kept { file, source: Box::new(source) },
        // There is nothing to be done about both at once.
        Err(_) => source,
    }
}

/// Hands a text to the editor; what comes back, without the comments that were put before it.
fn edit(text: &str, asked: &Asked) -> Result<String, Error> {
    let failed = |what: &str, e: &dyn std::fmt::Display| Error::Usage(format!("edit: {what}: {e}"));
    let mut file = tempfile::Builder::new().prefix("weft-").suffix(".yaml").tempfile().map_err(|e| failed("make a file", &e))?;
    let whole = asked.comments() + text;
    file.write_all(whole.as_bytes()).map_err(|e| failed("write a file", &e))?;
    run_editor(file.path())?;
    let edited = fs::read_to_string(file.path()).map_err(|e| failed("read the file", &e))?;
    let lines = edited.lines().skip_while(|line| line.starts_with('#'));
    Ok(lines.flat_map(|line| [line, "\n"]).collect())
}

/// Runs `$VISUAL`, `$EDITOR` or vi on a file. The variables may hold arguments, as in `code --wait`.
fn run_editor(file: &Path) -> Result<(), Error> {
    let wish = ["VISUAL", "EDITOR"].iter().find_map(|v| std::env::var(v).ok().filter(|e| !e.trim().is_empty()));
    let wish = wish.unwrap_or_else(|| "vi".to_owned());
    let mut words = wish.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let status = Process::new(program).args(words).arg(file).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Error::Usage(format!("edit: {wish}: {status}; nothing was changed"))),
        Err(e) => Err(Error::Usage(format!("edit: start {wish}: {e}; set EDITOR"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_as_it_is_it_is_given_up_unless_it_was_asked_whether_to_write_over_anothers_change() {
        let over = Asked::Over("x was changed".to_owned());
        let refused = Asked::Refused("no such port".to_owned());
        for (asked, edited, given_up) in [
            (&Asked::First, "a\n", true),
            (&Asked::First, "b\n", false),
            (&refused, "a\n", true),
            (&refused, "first\n", true),
            (&over, "a\n", false),
            (&over, "\n", true),
        ] {
            assert_eq!(asked.is_given_up(&["a\n", "first\n"], edited), given_up, "{asked:?} {edited:?}");
        }
        assert_eq!(refused.comments(), "# Saved as it is, or empty, nothing changes.\n# refused: no such port\n");
        assert!(over.comments().starts_with("# Saved as it is, it is written"), "{}", over.comments());
    }

    #[test]
    fn a_text_that_nobody_takes_is_kept_in_a_file_that_is_named() {
        let e =
            kept("kind: Service\n", ClientError::NoAgent { socket: "/x".into(), source: io::ErrorKind::NotFound.into() }.into());
        assert_eq!(e.exit_code(), crate::error::NO_AGENT, "as without the file");
        let Error::Kept { file, .. } = &e else { panic!("{e:?}") };
        assert!(e.to_string().contains(file.to_str().unwrap()), "{e}");
        assert_eq!(fs::read_to_string(file).unwrap(), "kind: Service\n");
        fs::remove_file(file).unwrap();
    }
}
