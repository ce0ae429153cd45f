//! How many tests passed, read from the lines that the test harness closes with.

use std::fmt;

/// Passed and failed. A test that was skipped has failed: nobody knows whether it would pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests that ran and passed.
    pub passed: u64,
    /// Tests that failed or did not run.
    pub failed: u64,
}

impl Counts {
    /// Whether there were tests, and none failed.
    #[must_use]
    pub fn all_passed(self) -> bool {
        self.failed == 0 && self.passed > 0
    }

    /// Adds another count.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s`.
    #[must_use]
    pub fn from_line(line: &str) -> Option<Self> {
        let line = without_colours(line);
        let rest = line.trim().strip_prefix("test result: ")?;
        let (_, numbers) = rest.split_once(". ")?;
        let mut counts = Self::default();
        for part in numbers.split("; ") {
            let Some((number, word)) = part.split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match word {
                "passed" => counts.passed += number,
                "failed" | "ignored" => counts.failed += number,
                _ => {}
            }
        }
        Some(counts)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// Takes away `ESC [ … letter`, which is how terminals are told of colours.
fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            // Also for the charset switch `ESC ( B`: everything up to the letter that ends it.
            chars.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(c);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closing_line_is_counted() {
        let line = "test result: ok. 13 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out; finished in 9.12s";
        assert_eq!(Counts::from_line(line), Some(Counts { passed: 13, failed: 0 }));
    }

    #[test]
    fn what_was_ignored_has_failed() {
        let line = "test result: FAILED. 1 passed; 2 failed; 4 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(Counts::from_line(line), Some(Counts { passed: 1, failed: 6 }));
    }

    #[test]
    fn colours_do_not_hide_a_result() {
        let line = "test result: \u{1b}[32mok\u{1b}(B\u{1b}[m. 1 passed; 0 failed; 0 ignored";
        assert_eq!(Counts::from_line(line), Some(Counts { passed: 1, failed: 0 }));
    }

    #[test]
    fn other_lines_count_nothing() {
        assert_eq!(Counts::from_line("test net::ok ... ok"), None);
        assert_eq!(Counts::from_line("3 passed, 0 failed"), None);
    }

    #[test]
    fn the_last_line_has_its_fixed_form() {
        assert_eq!(Counts { passed: 12, failed: 0 }.to_string(), "12 passed, 0 failed");
    }

    #[test]
    fn no_test_at_all_is_no_success() {
        assert!(!Counts::default().all_passed());
    }
}
