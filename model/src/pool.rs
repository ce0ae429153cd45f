//! Which endpoints of several are in use: the one rule for virtual IPs and for names.
//!
//! Those that are up; if none is, those that drain; if none does, those that this host has had no luck with (virtual IPs only, see
//! [`passive`](crate::passive)); then those whose host went silent (one of them may well live, and
//! the caller has nothing better). Starting ones and those that were marked down are never asked.
//!
//! **Health alone never empties a pool.** Endpoints that are down because their checks fail come back as if they were up when
//! nothing that is up or drains would be left, or when the healthy share of those that would be up but for their health is
//! below a threshold: then rather the checks are wrong than the world, and the few that are left are not to be overrun. Nor does
//! quarantine: it only says who is asked later. Who is quarantined counts as healthy, for no check of his says otherwise.

use crate::endpoint::{Endpoint, EndpointState};

/// How an endpoint stands among its siblings, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// It takes traffic.
    Up,
    /// Asked while nobody is up.
    Draining,
    /// Asked while nobody drains either: this host's connections to it fail.
    Quarantined,
    /// Asked while there is none of those either.
    Lost,
    /// Down, by its checks alone.
    Unhealthy,
    /// Never asked.
    Out,
}

impl Standing {
    /// That of an endpoint.
    #[must_use]
    pub fn of(endpoint: &Endpoint) -> Self {
        Self::new(endpoint.state, endpoint.unhealthy)
    }

    /// That of an endpoint in this state; `unhealthy` is whether it is down because its checks fail, and for no other reason.
    #[must_use]
    pub fn new(state: EndpointState, unhealthy: bool) -> Self {
        match state {
            EndpointState::Up => Self::Up,
            EndpointState::Draining => Self::Draining,
            EndpointState::Lost => Self::Lost,
            EndpointState::Down if unhealthy => Self::Unhealthy,
            EndpointState::Starting | EndpointState::Down => Self::Out,
        }
    }

    /// The same of one that this host's connections fail to, if `is_so`.
    #[must_use]
    pub fn quarantined(self, is_so: bool) -> Self {
        match self {
            Self::Up | Self::Draining if is_so => Self::Quarantined,
            other => other,
        }
    }
}

/// Whose turn it is in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    best: Standing,
    panicking: bool,
}

impl Turn {
    /// Whose turn it is among these. `panic` is the threshold in percent, 0 to 100: below that share of healthy ones checks
    /// are not believed; 0 is "when none is left".
    #[must_use]
    pub fn among(pool: impl IntoIterator<Item = Standing>, panic: u8) -> Self {
        let (mut healthy, mut unhealthy) = (0_u64, 0_u64);
        let mut best = Standing::Out;
        for standing in pool {
            match standing {
                Standing::Up | Standing::Quarantined => healthy += 1,
                Standing::Unhealthy => unhealthy += 1,
                Standing::Draining | Standing::Lost | Standing::Out => {}
            }
            best = best.min(standing);
        }
        let nothing_else = best > Standing::Quarantined;
        let too_few = healthy * 100 < (healthy + unhealthy) * u64::from(panic.min(100));
        let panicking = unhealthy > 0 && (nothing_else || too_few);
        Self { best, panicking }
    }

    /// Whether it is the turn of an endpoint of this pool that stands like this.
    #[must_use]
    pub fn takes(self, standing: Standing) -> bool {
        if self.panicking {
            matches!(standing, Standing::Up | Standing::Unhealthy)
        } else {
            standing == self.best && standing < Standing::Unhealthy
        }
    }

    /// Whether endpoints are in use that their checks call down.
    #[must_use]
    pub fn is_panicking(self) -> bool {
        self.panicking
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of a pool spelled `u` up, `d` draining, `q` quarantined, `l` lost, `h` unhealthy, `o` out: who is in use, and whether it panics.
    fn used(pool: &str, panic: u8) -> (String, bool) {
        let standing = |c: char| match c {
            'u' => Standing::Up,
            'd' => Standing::Draining,
            'q' => Standing::Quarantined,
            'l' => Standing::Lost,
            'h' => Standing::Unhealthy,
            _ => Standing::Out,
        };
        let turn = Turn::among(pool.chars().map(standing), panic);
        (pool.chars().filter(|c| turn.takes(standing(*c))).collect(), turn.is_panicking())
    }

    #[test]
    fn each_is_asked_in_its_turn() {
        for (pool, in_use) in [("", ""), ("o", ""), ("uudlo", "uu"), ("ddlo", "dd"), ("llo", "ll"), ("uh", "u"), ("dh", "d")] {
            assert_eq!(used(pool, 0), (in_use.to_owned(), false), "{pool}");
        }
    }

    #[test]
    fn who_is_quarantined_is_asked_after_those_that_drain_and_before_the_lost() {
        for (pool, in_use) in [("uq", "u"), ("dq", "d"), ("q", "q"), ("qql", "qq"), ("qh", "q"), ("qo", "q")] {
            assert_eq!(used(pool, 0), (in_use.to_owned(), false), "{pool}");
        }
        assert_eq!(used("uqhh", 50), ("u".to_owned(), false), "no check calls it down");
        assert_eq!(used("uqhh", 51), ("uhh".to_owned(), true));
        assert_eq!(Standing::Up.quarantined(true), Standing::Quarantined);
        assert_eq!(Standing::Draining.quarantined(true), Standing::Quarantined);
        assert_eq!(Standing::Up.quarantined(false), Standing::Up);
        for other in [Standing::Lost, Standing::Unhealthy, Standing::Out] {
            assert_eq!(other.quarantined(true), other);
        }
    }

    #[test]
    fn health_alone_empties_no_pool() {
        for (pool, in_use) in [("hh", "hh"), ("hho", "hh"), ("hl", "h")] {
            assert_eq!(used(pool, 0), (in_use.to_owned(), true), "{pool}");
        }
    }

    #[test]
    fn below_the_threshold_checks_are_not_believed() {
        assert_eq!(used("uhh", 34), ("uhh".to_owned(), true));
        assert_eq!(used("uhh", 33), ("u".to_owned(), false));
        assert_eq!(used("uuhh", 50), ("uu".to_owned(), false));
        assert_eq!(used("uuhhdlo", 51), ("uuhh".to_owned(), true));
        assert_eq!(used("dh", 50), ("h".to_owned(), true), "none of two is healthy");
        assert_eq!(used("uuo", 100), ("uu".to_owned(), false), "all that would be up are up");
    }

    proptest! {
        #[test]
        fn a_pool_is_empty_only_if_nobody_could_ever_be_asked(pool in "[udqlho]{0,8}", panic in 0..=100_u8) {
            let (in_use, panicking) = used(&pool, panic);
            prop_assert_eq!(in_use.is_empty(), pool.chars().all(|c| c == 'o'));
            prop_assert_eq!(panicking, in_use.contains('h'));
            prop_assert!(!in_use.contains('o'));
            prop_assert!(!pool.contains('u') || (in_use.contains('u') && !in_use.contains(['d', 'q', 'l'])));
        }
    }
}
