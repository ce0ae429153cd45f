//! One question to one endpoint, and its answer: well or not, and what it said.
//!
//! Bounded in time by its caller, in bytes here. Nothing that an endpoint sends can do more than make its check fail.

mod command;
mod grpc;
mod http;
mod tls;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use weft_model::check::{Check, CheckKind};

use super::target::{Target, TargetId};
use crate::view::chain;
pub use tls::Trust;

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

/// Asks once, at each address: it is well if it is at all of them. What takes longer than the check allows is no answer.
pub async fn ask(trust: &Arc<Trust>, id: &TargetId, target: &Target) -> (Answer, std::time::Duration) {
    let begun = Instant::now();
    let answer = match target.check.kind {
        CheckKind::Command => within(&target.check, command::ask(id, target)).await,
        _ if target.further.is_empty() => at(trust, target.check.clone(), target.address, target.port).await,
        _ => at_each(trust, target).await,
    };
    (answer, begun.elapsed())
}

/// Asks at all addresses at the same time.
async fn at_each(trust: &Arc<Trust>, target: &Target) -> Answer {
    let mut asked = JoinSet::new();
    for (place, address) in std::iter::once(&target.address).chain(&target.further).copied().enumerate() {
        let (trust, check, port) = (Arc::clone(trust), target.check.clone(), target.port);
        asked.spawn(async move { (place, address, at(&trust, check, address, port).await) });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(place, ..)| *place);
    let unwell: Vec<String> =
        answers.iter().filter(|(.., a)| !a.is_well).map(|(_, address, a)| format!("{address}: {}", a.said)).collect();
    if !unwell.is_empty() {
        return Answer { is_well: false, said: printable(&unwell.join("; ")) };
    }
    let first = answers.first().map(|(.., a)| a.said.as_str()).unwrap_or_default();
    Answer { is_well: true, said: printable(&format!("{first}, at each of {} addresses", answers.len())) }
}

/// Asks at one address.
async fn at(trust: &Trust, check: Check, address: IpAddr, port: Option<u16>) -> Answer {
    let kind = check.kind;
    let asked = async {
        let port = port.ok_or_else(|| format!("its check of {kind} has no port to ask at: say one, as in {kind}:8080"))?;
        let place = SocketAddr::new(address, port);
        let stream = TcpStream::connect(place).await.map_err(|e| format!("connect to {place}: {e}"))?;
        match kind {
            CheckKind::Http => http::ask(&check, stream, place).await,
            CheckKind::Https => http::ask(&check, tls::over(trust, &check, stream, place).await?, place).await,
            CheckKind::Grpc => grpc::ask(&check, stream, place).await,
            CheckKind::Tcp | CheckKind::Command => Ok("it takes connections".to_owned()),
        }
    };
    within(&check, asked).await
}

/// The answer, if there is one in time.
async fn within(check: &Check, asked: impl Future<Output = Result<String, String>>) -> Answer {
    match tokio::time::timeout(check.timeout(), asked).await {
        Ok(Ok(said)) => Answer { is_well: true, said: printable(&said) },
        Ok(Err(said)) => Answer { is_well: false, said: printable(&said) },
        Err(_) => Answer { is_well: false, said: format!("no answer within {:?}", check.timeout()) },
    }
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
