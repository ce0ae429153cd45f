//! Conditional writes: whether the object is as the caller asks, and what he is told if not.

use weft_api::{Code, Precondition};
use weft_model::ids::Revision;

use crate::refusal::Refusal;

/// How a write is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Write {
    /// Only if this holds.
    pub condition: Precondition,
    /// Everything is checked, nothing is written.
    pub dry_run: bool,
}

impl Write {
    /// Lets the write go on if the object, last changed at `now` if there is one, is as it is asked to be. `what` names
    /// operation and object.
    ///
    /// # Errors
    /// [`Code::Changed`], with the revision at which it is.
    pub fn check(self, what: &str, now: Option<Revision>) -> Result<(), Refusal> {
        let why = match (self.condition, now) {
            (Precondition::None, _) | (Precondition::Absent, None) => return Ok(()),
            (Precondition::At(asked), Some(now)) if asked == now => return Ok(()),
            (Precondition::Absent, Some(now)) => format!("it exists, at revision {now}"),
            (Precondition::At(asked), Some(now)) => {
                format!("it is at revision {now}, not {asked}; read it again, and decide again")
            }
            (Precondition::At(asked), None) => format!("there is none, and it was to be at revision {asked}"),
        };
        Err(Refusal::new(Code::Changed, format!("{what}: {why}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_goes_on_only_if_the_object_is_as_asked_and_else_its_revision_is_told() {
        let check = |condition, now: Option<i64>| Write { condition, dry_run: false }.check("x", now.map(Revision));
        for (condition, now, goes) in [
            (Precondition::None, None, true),
            (Precondition::None, Some(4), true),
            (Precondition::Absent, None, true),
            (Precondition::Absent, Some(4), false),
            (Precondition::At(Revision(4)), Some(4), true),
            (Precondition::At(Revision(4)), Some(5), false),
            (Precondition::At(Revision(4)), None, false),
        ] {
            let answer = check(condition, now);
            assert_eq!(answer.is_ok(), goes, "{condition} {now:?}");
            if let Err(refusal) = answer {
                assert_eq!(refusal.code, Code::Changed);
                assert!(now.is_none_or(|now| refusal.message.contains(&now.to_string())), "{}", refusal.message);
            }
        }
    }
}
