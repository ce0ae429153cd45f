//! Requests about one container at a time: who is being attached, and who is to stop.
//!
//! A tool that gave up on an attach asks for its release, and may do so while the agent is still waiting or making. The release
//! must then neither miss what is about to be there nor wait for it longer than it takes to stop.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_api::{Code, Release};
use weft_model::attachment::Owner;
use weft_model::ids::EndpointId;

use crate::refusal::Refusal;

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    owners: Mutex<Vec<Arc<Turn>>>,
    making: watch::Sender<BTreeSet<EndpointId>>,
}

/// An attach of an owner's interface, from its first step on.
#[derive(Debug)]
struct Turn {
    owner: Owner,
    ifname: String,
    stop: CancellationToken,
    over: CancellationToken,
}

/// Held while an attach of an owner is under way; a release may ask it to stop.
#[derive(Debug)]
pub(super) struct Held<'a> {
    way: &'a UnderWay,
    turn: Option<Arc<Turn>>,
}

/// Held while the device of an attachment is being made.
#[derive(Debug)]
pub(super) struct Making<'a> {
    way: &'a UnderWay,
    id: EndpointId,
}

impl UnderWay {
    /// Waits until no other attach of this interface is under way. Without an owner there is nothing to wait for: the id says
    /// what is one attachment.
    pub(super) async fn begin(&self, owner: Option<&Owner>, ifname: &str) -> Held<'_> {
        let Some(owner) = owner else { return Held { way: self, turn: None } };
        loop {
            let other = {
                let mut owners = self.owners();
                let same = |turn: &&Arc<Turn>| turn.owner == *owner && turn.ifname == ifname;
                match owners.iter().find(same) {
                    Some(other) => other.over.clone(),
                    None => {
                        let (stop, over) = Default::default();
                        let turn = Arc::new(Turn { owner: owner.clone(), ifname: ifname.to_owned(), stop, over });
                        owners.push(turn.clone());
                        return Held { way: self, turn: Some(turn) };
                    }
                }
            };
            other.cancelled().await;
        }
    }

    /// Asks the attaches that a release is about to stop, and waits until they have stopped or are done.
    pub(super) async fn stop(&self, release: &Release) {
        let concerned = |turn: &&Arc<Turn>| {
            turn.owner == release.owner && release.ifname.as_ref().is_none_or(|ifname| *ifname == turn.ifname)
        };
        let turns: Vec<Arc<Turn>> = self.owners().iter().filter(concerned).cloned().collect();
        for turn in &turns {
            turn.stop.cancel();
        }
        for turn in turns {
            turn.over.cancelled().await;
        }
    }

    /// The owners' interfaces that are being attached.
    pub(super) fn owners_now(&self) -> Vec<(Owner, String)> {
        self.owners().iter().map(|turn| (turn.owner.clone(), turn.ifname.clone())).collect()
    }

    /// Says that the device of an attachment is being made: nobody else makes, mends or removes it meanwhile.
    pub(super) fn make(&self, id: &EndpointId) -> Making<'_> {
        self.making.send_modify(|making| {
            making.insert(id.clone());
        });
        Making { way: self, id: id.clone() }
    }

    /// Whether the device of an attachment is being made.
    pub(super) fn is_making(&self, id: &EndpointId) -> bool {
        self.making.borrow().contains(id)
    }

    /// Waits until the device of an attachment is not being made.
    pub(super) async fn made(&self, id: &EndpointId) {
        // The sender lives as long as `self`.
        let _ = self.making.subscribe().wait_for(|making| !making.contains(id)).await;
    }

    fn owners(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Turn>>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held<'_> {
    /// Does something that may be given up as soon as a release asks for it.
    pub(super) async fn unless_stopped<T>(&self, work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        let Some(turn) = &self.turn else { return work.await };
        tokio::select! {
            biased;
            () = turn.stop.cancelled() => Err(stopped(turn)),
            done = work => done,
        }
    }

    /// Refuses if a release has asked for it.
    pub(super) fn go_on(&self) -> Result<(), Refusal> {
        match &self.turn {
            Some(turn) if turn.stop.is_cancelled() => Err(stopped(turn)),
            _ => Ok(()),
        }
    }
}

fn stopped(turn: &Turn) -> Refusal {
    Refusal::new(Code::Conflict, format!("attach: {} of {} was released before it was attached", turn.ifname, turn.owner))
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(turn) = self.turn.take() {
            self.way.owners().retain(|other| !Arc::ptr_eq(other, &turn));
            turn.over.cancel();
        }
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.way.making.send_modify(|making| {
            making.remove(&self.id);
        });
    }
}

#[cfg(test)]
mod tests {
    use weft_model::attachment::Runtime;

    use super::*;

    fn owner(container: &str) -> Owner {
        Owner { runtime: Runtime::Cni, network: "weft".into(), container: container.into() }
    }

    #[tokio::test]
    async fn a_release_stops_an_attach_that_waits_and_waits_for_one_that_is_past_stopping() {
        let way = UnderWay::default();
        let waiting = async {
            let held = way.begin(Some(&owner("a")), "eth0").await;
            held.unless_stopped(std::future::pending::<Result<(), Refusal>>()).await.unwrap_err()
        };
        let release = Release { owner: owner("a"), ifname: None };
        let (refused, ()) = tokio::join!(waiting, way.stop(&release));
        assert_eq!(refused.message, "attach: eth0 of cni:weft/a was released before it was attached");
        assert!(way.owners_now().is_empty());

        let held = way.begin(Some(&owner("a")), "eth0").await;
        let mut stop = std::pin::pin!(way.stop(&release));
        assert!(poll_once(stop.as_mut()).await.is_none(), "it is at work");
        assert!(held.go_on().is_err());
        drop(held);
        stop.await;
    }

    #[tokio::test]
    async fn one_interface_of_an_owner_is_attached_once_at_a_time_and_others_beside_it() {
        let way = UnderWay::default();
        let first = way.begin(Some(&owner("a")), "eth0").await;
        let _beside = (way.begin(Some(&owner("a")), "eth1").await, way.begin(Some(&owner("b")), "eth0").await);
        let _nobodys = (way.begin(None, "eth0").await, way.begin(None, "eth0").await);
        let a = owner("a");
        let mut again = std::pin::pin!(way.begin(Some(&a), "eth0"));
        assert!(poll_once(again.as_mut()).await.is_none());
        drop(first);
        assert!(again.await.go_on().is_ok());
    }

    /// What a future gives when it is asked once.
    async fn poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match future.as_mut().poll(context) {
                std::task::Poll::Ready(done) => Some(done),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
