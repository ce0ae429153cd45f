//! How many tests passed and which failed, read from what the test harness prints.

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

/// Whether an executable begins here: `running 3 tests`.
#[must_use]
pub fn begins(line: &str) -> bool {
    let line = without_colours(line);
    let words: Vec<&str> = line.split_whitespace().collect();
    matches!(words.as_slice(), ["running", n, "test" | "tests"] if n.parse::<u64>().is_ok())
}

/// The name in `test tests::a_claim ... FAILED`.
#[must_use]
pub fn failed_test(line: &str) -> Option<String> {
    let line = without_colours(line);
    let name = line.trim().strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
    Some(name.strip_suffix(" - should panic").unwrap_or(name).to_owned())
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
    fn a_failed_test_is_known_by_its_name() {
        assert_eq!(failed_test("test net::is_up ... FAILED"), Some("net::is_up".to_owned()));
        assert_eq!(failed_test("test a ... \u{1b}[31mFAILED\u{1b}(B\u{1b}[m"), Some("a".to_owned()));
        assert_eq!(failed_test("test a - should panic ... FAILED"), Some("a".to_owned()));
        for other in ["test a ... ok", "test result: FAILED. 0 passed; 1 failed", "    a", "failures:"] {
            assert_eq!(failed_test(other), None, "{other}");
        }
    }

    #[test]
    fn an_executable_begins_with_the_number_of_its_tests() {
        assert!(begins("running 1 test") && begins("running 0 tests") && begins("\u{1b}[1mrunning 12 tests\u{1b}[m"));
        for other in ["test running 1 test ... ok", "running tests", "running 3 tests more", "test result: ok. 3 passed"] {
            assert!(!begins(other), "{other}");
        }
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
