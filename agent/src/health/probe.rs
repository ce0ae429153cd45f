//! One question to one endpoint, and its answer: well or not, and what it said.
//!
//! Bounded in time by its caller, in bytes here. Nothing that an endpoint sends can do more than make its check fail.

mod command;
mod grpc;
mod http;
mod tls;

use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use weft_model::check::CheckKind;

use super::target::{Target, TargetId};
use crate::view::chain;

/// How much of what was said is kept, in characters.
const MAX_SAID: usize = 256;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it is well.
    pub is_well: bool,
    /// What it said, or what went wrong; printable, and short.
    pub said: String,
}

/// Asks once. What takes longer than the check allows is no answer.
pub async fn ask(id: &TargetId, target: &Target) -> (Answer, std::time::Duration) {
    let begun = Instant::now();
    let asked = async {
        match (target.check.kind, target.port) {
            (CheckKind::Command, _) => command::ask(id, target).await,
            (kind, None) => Err(format!("its check of {kind} has no port to ask at: say one, as in {kind}:8080")),
            (kind, Some(port)) => {
                let place = SocketAddr::new(target.address, port);
                let stream = TcpStream::connect(place).await.map_err(|e| format!("connect to {place}: {e}"))?;
                match kind {
                    CheckKind::Http => http::ask(&target.check, stream, place).await,
                    CheckKind::Https => http::ask(&target.check, tls::over(&target.check, stream, place).await?, place).await,
                    CheckKind::Grpc => grpc::ask(&target.check, stream, place).await,
                    CheckKind::Tcp | CheckKind::Command => Ok("it takes connections".to_owned()),
                }
            }
        }
    };
    let answer = match tokio::time::timeout(target.check.timeout(), asked).await {
        Ok(Ok(said)) => Answer { is_well: true, said: printable(&said) },
        Ok(Err(said)) => Answer { is_well: false, said: printable(&said) },
        Err(_) => Answer { is_well: false, said: format!("no answer within {:?}", target.check.timeout()) },
    };
    (answer, begun.elapsed())
}

/// The beginning of a text, without what a terminal would obey.
fn printable(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().take(MAX_SAID).map(plain).collect()
}

fn broken(what: &str, error: &(dyn std::error::Error + 'static)) -> String {
    format!("{what}: {}", chain(error))
}

/// A task that ends with its owner.
struct Beside(JoinHandle<()>);

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The first bytes of what was sent, as text.
struct Text<'a>(&'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.0.get(..MAX_SAID).unwrap_or(self.0)))
    }
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
