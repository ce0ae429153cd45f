//! One's own write, awaited in the snapshot before anything is decided again: a decision on a view that has not seen it
//! would write it twice.

use std::time::{Duration, Instant};

use weft_model::ids::Revision;

/// How long the echo is awaited. Revisions of a store that was made anew or restored begin lower, and it never comes.
const PATIENCE: Duration = Duration::from_secs(3);

/// A write that the snapshot may not have seen yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo(Option<(Revision, Instant)>);

impl Echo {
    /// A write at this revision.
    #[must_use]
    pub fn of(revision: Revision) -> Self {
        Self(Some((revision, Instant::now() + PATIENCE)))
    }

    /// Whether a snapshot at `seen` has it, or it is awaited no longer.
    pub fn heard(&mut self, seen: Revision) -> bool {
        match self.0 {
            Some((awaited, until)) if seen < awaited && Instant::now() < until => false,
            _ => {
                self.0 = None;
                true
            }
        }
    }

    /// How much longer it is awaited, if it is.
    #[must_use]
    pub fn patience(&self) -> Option<Duration> {
        self.0.map(|(_, until)| until.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_awaited_but_not_for_ever() {
        let mut echo = Echo::of(Revision(7));
        assert!(!echo.heard(Revision(6)) && echo.patience().is_some());
        assert!(echo.heard(Revision(7)) && echo.patience().is_none());
        let mut lost = Echo(Some((Revision(7), Instant::now())));
        assert!(lost.heard(Revision(2)), "the store was made anew");
    }
}
