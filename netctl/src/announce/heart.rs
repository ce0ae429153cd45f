//! Keeps a registration: says it again before its time is over, and withdraws it at the end.
//!
//! A task of its own, so that one slow answer holds up neither signals nor the command. What it heard last is [`Beat`]; an agent
//! that is away or says no is asked again, for as long as it takes.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use weft_api::clock::BootTime;
use weft_api::{ClientError, Code, Register, Registered};
use weft_model::ids::EndpointId;

use crate::agent::Agent;
use crate::error::chain;

/// How long one question may take: the agent waits up to half of it for the store.
const ANSWER_BOUND: Duration = Duration::from_secs(10);

/// How often an agent that is away is looked for.
const RETRY: Duration = Duration::from_millis(300);

/// How long an agent may take to withdraw; what it does not, ends when its time is over.
const WITHDRAW_BOUND: Duration = Duration::from_secs(5);

/// What is to be registered.
#[derive(Clone, Debug)]
struct Wish {
    said: Register,
    /// How often it was changed.
    generation: u64,
    over: bool,
}

/// How it stands.
#[derive(Clone, Debug)]
pub enum Beat {
    /// Nothing has been heard yet.
    None,
    /// It is registered, as asked at that time, after so many changes of what is said.
    Kept(Box<Registered>, BootTime, u64),
    /// The agent does not answer, or not yet.
    Away(String),
    /// The agent says no.
    Refused(String),
}

/// A registration that is kept.
#[derive(Debug)]
pub struct Heart {
    wish: watch::Sender<Wish>,
    beats: watch::Receiver<Beat>,
    task: JoinHandle<()>,
}

impl Heart {
    /// Begins to beat: at a third of the registration's time, and at least as often as `pace` says.
    #[must_use]
    pub fn start(agent: Agent, id: EndpointId, said: Register, pace: Duration) -> Self {
        let (wish, wishes) = watch::channel(Wish { said, generation: 0, over: false });
        let (tell, beats) = watch::channel(Beat::None);
        let task = tokio::spawn(beat(agent, id, wishes, tell, pace));
        Self { wish, beats, task }
    }

    /// Says something else from now on.
    pub fn change(&self, how: impl FnOnce(&mut Register)) {
        self.wish.send_modify(|wish| {
            how(&mut wish.said);
            wish.generation += 1;
        });
    }

    /// Whether a beat answers what is said now, and not what was said before.
    #[must_use]
    pub fn is_current(&self, beat: &Beat) -> bool {
        matches!(beat, Beat::Kept(_, _, generation) if *generation == self.wish.borrow().generation)
    }

    /// How it stands now.
    #[must_use]
    pub fn last(&self) -> Beat {
        self.beats.borrow().clone()
    }

    /// The next beat.
    pub async fn next(&mut self) -> Beat {
        if self.beats.changed().await.is_err() {
            // The task ends by itself only when it is told to.
            std::future::pending::<()>().await;
        }
        self.beats.borrow_and_update().clone()
    }

    /// Withdraws. It is gone when this returns, or an agent that is away lets it end.
    pub async fn withdraw(self) {
        self.wish.send_modify(|wish| wish.over = true);
        let _ = self.task.await;
    }
}

async fn beat(agent: Agent, id: EndpointId, mut wishes: watch::Receiver<Wish>, tell: watch::Sender<Beat>, pace: Duration) {
    loop {
        let wish = wishes.borrow_and_update().clone();
        if wish.over {
            let _ = timeout_at(Instant::now() + WITHDRAW_BOUND, withdraw(&agent, &id, wish.said.session.as_deref())).await;
            return;
        }
        let asked = BootTime::now();
        let third = Duration::from_millis(wish.said.ttl_ms) / 3;
        let (beat, pause) = match timeout(ANSWER_BOUND, agent.client().register(id.as_str(), &wish.said)).await {
            Ok(Ok(registered)) => (Beat::Kept(Box::new(registered), asked, wish.generation), third.min(pace)),
            Ok(Err(e)) if is_away(&e) => (Beat::Away(chain(&e)), RETRY.min(third)),
            Ok(Err(e)) => (Beat::Refused(chain(&e)), third.min(Duration::from_secs(1))),
            Err(_) => (Beat::Away(format!("the agent has not answered within {}s", ANSWER_BOUND.as_secs())), RETRY),
        };
        tell.send_replace(beat);
        tokio::select! {
            changed = wishes.changed() => if changed.is_err() { return },
            () = sleep(pause) => {}
        }
    }
}

/// Whether there may be another answer without anybody doing anything.
fn is_away(error: &ClientError) -> bool {
    error.is_passing() || matches!(error, ClientError::Broken { .. })
}

/// Not what another program has registered by this id meanwhile.
async fn withdraw(agent: &Agent, id: &EndpointId, session: Option<&str>) {
    loop {
        let result = match session {
            None => agent.client().unregister(id.as_str()).await,
            Some(_) => match agent.client().registration(id.as_str()).await {
                Ok(there) if there.said.session.as_deref() != session => return,
                Ok(_) => agent.client().unregister(id.as_str()).await,
                Err(e) => Err(e),
            },
        };
        match result {
            Ok(_) | Err(ClientError::Refused { code: Code::NotFound, .. }) => return,
            Err(_) => sleep(RETRY).await,
        }
    }
}
