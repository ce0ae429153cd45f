//! What a row of answers says of an endpoint. Pure: time comes in.
//!
//! `fall` in a row that are not well take it down, `rise` in a row that are well bring it up again; the first one that is well
//! ends its start. Who goes down again and again must be well for longer each time: after each fall that follows another one
//! within a minute (or ten intervals, if that is longer), twice as many are asked for, eight times as many at most.

use std::time::{Duration, Instant};

use weft_model::check::Check;
use weft_model::record::State;

/// Two falls within this time are one endpoint that flaps, unless its check is so rare that it takes longer.
const FLAPPING: Duration = Duration::from_secs(60);

/// Or within so many intervals.
const FLAPPING_INTERVALS: u32 = 10;

/// The most that the number of good answers is multiplied by.
const MOST: u32 = 8;

/// An endpoint as its checks see it.
#[derive(Clone, Debug)]
pub struct Judge {
    /// Starting, up or down.
    pub state: State,
    /// How many in a row were well, and how many were not.
    pub well: u32,
    /// The other.
    pub unwell: u32,
    /// By how much more than usual it must be well to come up.
    pub damping: u32,
    /// How often it has gone down.
    pub falls: u64,
    begun: Instant,
    fell: Option<Instant>,
}

impl Judge {
    /// Of an endpoint that begins, or that was known before in `state`.
    #[must_use]
    pub fn new(state: State, now: Instant) -> Self {
        Self { state, well: 0, unwell: 0, damping: 1, falls: 0, begun: now, fell: None }
    }

    /// How many good answers in a row bring it up.
    #[must_use]
    pub fn needed(&self, check: &Check) -> u32 {
        match self.state {
            State::Starting => 1,
            _ => check.rise.saturating_mul(self.damping),
        }
    }

    /// Takes in an answer. Whether its state is another one now.
    pub fn hear(&mut self, check: &Check, is_well: bool, now: Instant) -> bool {
        if is_well {
            (self.well, self.unwell) = (self.well.saturating_add(1), 0);
        } else {
            (self.well, self.unwell) = (0, self.unwell.saturating_add(1));
        }
        let in_grace = self.state == State::Starting && now < self.begun + Duration::from_millis(check.grace_ms);
        let before = self.state;
        if is_well && self.state != State::Up && self.well >= self.needed(check) {
            self.state = State::Up;
        } else if !is_well && self.state != State::Down && !in_grace && self.unwell >= check.fall {
            if self.state == State::Up {
                self.fall(check, now);
            }
            self.state = State::Down;
        }
        self.state != before
    }

    fn fall(&mut self, check: &Check, now: Instant) {
        let close = FLAPPING.max(check.interval().saturating_mul(FLAPPING_INTERVALS));
        let again = self.fell.is_some_and(|fell| now.saturating_duration_since(fell) <= close);
        self.damping = if again { (self.damping * 2).min(MOST) } else { 1 };
        self.falls += 1;
        self.fell = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers as `+` and `-`, a second apart; the states after each as `s`, `u`, `d`.
    fn states(judge: &mut Judge, check: &Check, answers: &str, clock: &mut Instant) -> String {
        let mut said = String::new();
        for answer in answers.chars() {
            *clock += Duration::from_secs(1);
            judge.hear(check, answer == '+', *clock);
            said.push(match judge.state {
                State::Starting => 's',
                State::Up => 'u',
                State::Draining => '?',
                State::Down => 'd',
            });
        }
        said
    }

    fn run(from: State, check: &str, answers: &str) -> String {
        let mut clock = Instant::now();
        let mut judge = Judge::new(from, clock);
        states(&mut judge, &check.parse().unwrap(), answers, &mut clock)
    }

    #[test]
    fn several_in_a_row_are_needed_both_ways_and_one_ends_the_start() {
        assert_eq!(run(State::Starting, "tcp,rise=3,fall=2", "+-+--+++"), "uuuudddu");
        assert_eq!(run(State::Up, "tcp,rise=2,fall=3", "--+---+-++"), "uuuuuddddu");
        assert_eq!(run(State::Starting, "tcp,fall=2", "--+"), "sdd");
        assert_eq!(run(State::Down, "tcp,rise=1", "+"), "u");
    }

    #[test]
    fn while_it_starts_only_success_counts() {
        assert_eq!(run(State::Starting, "tcp,fall=2,grace=5s", "----------"), "ssssdddddd");
        assert_eq!(run(State::Starting, "tcp,fall=2,grace=5s", "---+--"), "sssuud", "once well, it has started");
    }

    #[test]
    fn who_flaps_must_be_well_for_longer_each_time_and_is_forgiven() {
        let check: Check = "tcp,rise=1,fall=1".parse().unwrap();
        let mut clock = Instant::now();
        let mut judge = Judge::new(State::Up, clock);
        for (answers, expected) in
            [("-+", "du"), ("-++", "ddu"), ("-++++", "ddddu"), ("-++++++++", "ddddddddu"), ("-++++++++", "ddddddddu")]
        {
            assert_eq!(states(&mut judge, &check, answers, &mut clock), expected);
        }
        assert_eq!(judge.falls, 5);
        clock += Duration::from_secs(61);
        assert_eq!(states(&mut judge, &check, "-+", &mut clock), "du", "it was well for a minute");

        // A rare check flaps slowly.
        let rare: Check = "tcp,rise=1,fall=1,interval=1m".parse().unwrap();
        let mut judge = Judge::new(State::Up, clock);
        for expected in [1, 2, 4] {
            clock += Duration::from_secs(120);
            judge.hear(&rare, false, clock);
            assert_eq!(judge.needed(&rare), expected);
            for _ in 0..expected {
                judge.hear(&rare, true, clock);
            }
        }
    }
}
