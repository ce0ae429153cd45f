//! How two forms of one object differ, line by line as `diff -u` shows it.

use serde_json::Value;
use similar::{ChangeTag, TextDiff};

/// Lines around a change that are shown with it.
const CONTEXT: usize = 3;

/// The difference of two objects written as YAML; empty if there is none. `None` is an object that is not there.
#[must_use]
pub fn lines(before: Option<&Value>, after: Option<&Value>) -> Vec<String> {
    let text = |object: Option<&Value>| object.map_or(String::new(), |o| serde_yaml_ng::to_string(o).unwrap_or_default());
    let (before, after) = (text(before), text(after));
    let diff = TextDiff::from_lines(&before, &after);
    let mut lines = Vec::new();
    for (number, group) in diff.grouped_ops(CONTEXT).iter().enumerate() {
        if number > 0 {
            lines.push("  …".to_owned());
        }
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            let sign = match change.tag() {
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
                ChangeTag::Equal => ' ',
            };
            lines.push(format!("{sign} {}", change.value().trim_end_matches('\n')));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_differs_is_shown_with_a_little_around_it() {
        let before = json!({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6, "g": 7});
        let mut after = before.clone();
        after["g"] = json!(8);
        assert_eq!(lines(Some(&before), Some(&after)), ["  d: 4", "  e: 5", "  f: 6", "- g: 7", "+ g: 8"]);
        assert!(lines(Some(&before), Some(&before)).is_empty());
        assert_eq!(lines(None, Some(&json!({"a": 1}))), ["+ a: 1"]);
        assert_eq!(lines(Some(&json!({"a": 1})), None), ["- a: 1"]);
    }
}
