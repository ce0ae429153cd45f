//! Whose turn it is: how many are asked at once, and that who is slow delays nobody who is not.
//!
//! There are two lanes. Who has not been slow the last time takes a place in the first one, for as long as [`PATIENCE`] at most;
//! then the place is another's, while it is still asked. Who has been slow waits in the second lane, behind others that are slow,
//! and holds its place until it has answered. So a place in the first lane is free again after a second whatever endpoints do, and
//! one that stays slow has taken it once. More are asked at once than there are places only while many become slow
//! together, and never more than there are targets.

use std::future::Future;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

/// Who answers within this time is not slow.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// How many are asked at once.
#[derive(Debug)]
pub(super) struct Turns {
    pub(super) quick: Semaphore,
    slow: Semaphore,
}

impl Turns {
    /// Of questions over the network: each is a socket of the agent's.
    pub(super) fn of_sockets() -> Self {
        Self { quick: Semaphore::new(256), slow: Semaphore::new(512) }
    }

    /// Of commands: each is a process at least.
    pub(super) fn of_commands() -> Self {
        Self { quick: Semaphore::new(32), slow: Semaphore::new(64) }
    }

    /// Waits for a place among those that are slow, or those that are not. First come, first served.
    pub(super) async fn wait(&self, slow: bool) -> Turn<'_> {
        let lane = if slow { &self.slow } else { &self.quick };
        // No lane is ever closed; without one it would be nobody's turn.
        let Ok(place) = lane.acquire().await else { return std::future::pending().await };
        Turn { place, slow }
    }
}

/// A place.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    place: SemaphorePermit<'a>,
    slow: bool,
}

impl Turn<'_> {
    /// Sees something through, and gives the place up meanwhile if it is slow though it was not expected to be.
    pub(super) async fn during<T>(self, asked: impl Future<Output = T>) -> T {
        tokio::pin!(asked);
        if !self.slow
            && let Ok(answer) = tokio::time::timeout(PATIENCE, &mut asked).await
        {
            return answer;
        }
        let place = self.slow.then_some(self.place);
        let answer = asked.await;
        drop(place);
        answer
    }
}
