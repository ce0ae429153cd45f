//! Waiting for a state: ask often, give up late, and then say what was seen last.

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long to wait between two looks.
const INTERVAL: Duration = Duration::from_millis(20);

/// Long enough for anything that should happen soon, on a machine that is busy with other things as well.
pub const SOON: Duration = Duration::from_secs(30);

/// Looks until `look` gives a value, and returns it.
///
/// # Errors
/// When `bound` has passed; the error names `what` and holds the last thing that `look` complained of.
pub fn eventually<T, E, F>(what: &str, bound: Duration, mut look: F) -> Result<T>
where
    E: Display,
    F: FnMut() -> Result<T, E>,
{
    let start = Instant::now();
    loop {
        let seen = match look() {
            Ok(value) => return Ok(value),
            // The alternate form prints an `anyhow::Error` with its causes.
            Err(seen) => format!("{seen:#}"),
        };
        if start.elapsed() >= bound {
            bail!("{what}: not within {} s; last seen: {seen}", bound.as_secs_f32());
        }
        std::thread::sleep(INTERVAL);
    }
}

/// The other way round: holds for the whole of `period`, looked at often.
///
/// # Errors
/// As soon as `look` complains; the error names `what`, when it was and what was seen.
pub fn throughout<E, F>(what: &str, period: Duration, mut look: F) -> Result<()>
where
    E: Display,
    F: FnMut() -> Result<(), E>,
{
    let start = Instant::now();
    while start.elapsed() < period {
        if let Err(seen) = look() {
            bail!("{what}: no longer so after {} s: {seen:#}", start.elapsed().as_secs_f32());
        }
        std::thread::sleep(INTERVAL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_is_returned() {
        let mut looks = 0;
        let value = eventually("third look", SOON, || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err("not yet") }
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn a_timeout_tells_what_was_seen_last() {
        let error = eventually("the moon", Duration::ZERO, || Err::<(), _>("a cloud")).unwrap_err();
        assert_eq!(error.to_string(), "the moon: not within 0 s; last seen: a cloud");
    }

    #[test]
    fn throughout_ends_at_the_first_complaint() {
        let mut looks = 0;
        let error = throughout("calm", SOON, || {
            looks += 1;
            if looks < 2 { Ok(()) } else { Err("wind") }
        });
        assert!(error.unwrap_err().to_string().ends_with("wind"));
    }
}
