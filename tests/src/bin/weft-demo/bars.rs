//! How many requests fell where, as bars.

use std::collections::BTreeMap;

/// A row per name: name, count, bar.
pub fn bars(counts: &BTreeMap<String, usize>, names: &[String]) -> Vec<String> {
    let width = names.iter().map(|n| n.chars().count()).max().unwrap_or(0);
    let row = |name: &String| {
        let count = counts.get(name).copied().unwrap_or(0);
        format!("{name:<width$}  {count:>3}  {}", "█".repeat(count)).trim_end().to_owned()
    };
    names.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_count() {
        let counts = BTreeMap::from([("one".to_owned(), 3), ("three".to_owned(), 1)]);
        let names = ["one", "two", "three"].map(str::to_owned);
        assert_eq!(bars(&counts, &names), ["one      3  ███", "two      0", "three    1  █"]);
    }
}
