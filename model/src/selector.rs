//! Label selectors: what labels an endpoint bears to be meant. Equality and sets, with Kubernetes' meaning.
//!
//! As text: `tier=front,env in (a,b),env notin (c),canary,!old`, all of which must hold. A value with a character that means
//! something here is written in double quotes, with `\"` and `\\` inside. In JSON a requirement has Kubernetes' members:
//! `{"key":"env","operator":"In","values":["a","b"]}`. `NotIn` and `DoesNotExist` hold for whatever lacks the key.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::record::{MAX_LABELS, check_labels, shortened};

/// The most values that one requirement names.
pub const MAX_VALUES: usize = 64;

/// The longest text that is read as a selector, in bytes; what is stored is bounded by the same figure.
pub const MAX_TEXT: usize = 16 * 1024;

/// Which labels are asked for. An empty one asks for nothing, so everything has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector {
    /// Labels that are borne with exactly these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub equal: BTreeMap<String, String>,
    /// What else must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expressions: Vec<Requirement>,
}

/// What must hold for one key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How its value is looked at.
    pub operator: Operator,
    /// The values of `In` and `NotIn`; none for the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// How a label's value is looked at, in Kubernetes' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Operator {
    /// It is there, and one of the values.
    In,
    /// It is not there, or none of the values.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

impl Requirement {
    /// Whether these labels are as asked for.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            Operator::In => value.is_some_and(|v| self.values.contains(v)),
            Operator::NotIn => value.is_none_or(|v| !self.values.contains(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }

    fn check(&self) -> Result<(), String> {
        let named = |value: &str| check_labels(&BTreeMap::from([(self.key.clone(), value.to_owned())]));
        named("")?;
        let asks_for_values = matches!(self.operator, Operator::In | Operator::NotIn);
        match self.values.len() {
            0 if asks_for_values => return Err(format!("{} in or notin: at least one value, as in env in (a,b)", self.key)),
            1.. if !asks_for_values => return Err(format!("{}: whether it exists is asked for without values", self.key)),
            n if n > MAX_VALUES => return Err(format!("{}: {n} values: at most {MAX_VALUES}", self.key)),
            _ => {}
        }
        self.values.iter().try_for_each(|value| named(value))
    }
}

impl Selector {
    /// Whether it asks for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.equal.is_empty() && self.expressions.is_empty()
    }

    /// Whether these labels are all that is asked for.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        matches(&self.equal, &self.expressions, labels)
    }

    /// Whether it may be written.
    ///
    /// # Errors
    /// As [`check`].
    pub fn check(&self) -> Result<(), String> {
        check(&self.equal, &self.expressions)
    }

    /// Adds what another one asks for.
    ///
    /// # Errors
    /// Names a key that is to have two values: nothing would be meant.
    pub fn and(mut self, other: Self) -> Result<Self, String> {
        for (key, value) in other.equal {
            self.equal_to(key, value)?;
        }
        for requirement in other.expressions {
            self.require(requirement);
        }
        Ok(self)
    }

    fn equal_to(&mut self, key: String, value: String) -> Result<(), String> {
        match self.equal.get(&key) {
            Some(before) if *before != value => Err(format!(
                "{key}={before} and {key}={value}: nothing bears both; the form for either is {key} in ({before},{value})"
            )),
            _ => {
                self.equal.insert(key, value);
                Ok(())
            }
        }
    }

    fn require(&mut self, requirement: Requirement) {
        if !self.expressions.contains(&requirement) {
            self.expressions.push(requirement);
        }
    }
}

/// Whether `labels` are all that the two halves of a selector ask for, which a service keeps apart.
#[must_use]
pub fn matches(equal: &BTreeMap<String, String>, expressions: &[Requirement], labels: &BTreeMap<String, String>) -> bool {
    equal.iter().all(|(k, v)| labels.get(k) == Some(v)) && expressions.iter().all(|r| r.matches(labels))
}

/// Whether the two halves of a selector may be written: bounded in number and length, as labels are.
///
/// # Errors
/// Names the requirement, and what it may be.
pub fn check(equal: &BTreeMap<String, String>, expressions: &[Requirement]) -> Result<(), String> {
    check_labels(equal)?;
    let all = equal.len() + expressions.len();
    if all > MAX_LABELS {
        return Err(format!("{all} requirements: at most {MAX_LABELS}"));
    }
    expressions.iter().try_for_each(Requirement::check)?;
    let texts = expressions.iter().flat_map(|r| r.values.iter().chain([&r.key]));
    let bytes: usize = equal.iter().flat_map(|(k, v)| [k, v]).chain(texts).map(String::len).sum();
    if bytes > MAX_TEXT { Err(format!("{bytes} bytes of keys and values: at most {MAX_TEXT}")) } else { Ok(()) }
}

impl fmt::Display for Selector {
    /// Its text, which parses back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        let mut comma = |f: &mut fmt::Formatter<'_>| if std::mem::take(&mut first) { Ok(()) } else { f.write_str(",") };
        for (key, value) in &self.equal {
            comma(f)?;
            write!(f, "{key}={}", Value(value))?;
        }
        for requirement in &self.expressions {
            comma(f)?;
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, operator, values } = self;
        let word = match operator {
            Operator::Exists => return f.write_str(key),
            Operator::DoesNotExist => return write!(f, "!{key}"),
            Operator::In => "in",
            Operator::NotIn => "notin",
        };
        write!(f, "{key} {word} (")?;
        for (at, value) in values.iter().enumerate() {
            write!(f, "{}{}", if at == 0 { "" } else { "," }, Value(value))?;
        }
        f.write_str(")")
    }
}

/// A value as it is written: in quotes if it has to be.
struct Value<'a>(&'a str);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| !c.is_whitespace() && !is_special(c);
        if !self.0.is_empty() && self.0.chars().all(plain) {
            return f.write_str(self.0);
        }
        f.write_str("\"")?;
        for c in self.0.chars() {
            if matches!(c, '"' | '\\') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        f.write_str("\"")
    }
}

/// What ends a word or stands for something by itself.
fn is_special(c: char) -> bool {
    matches!(c, ',' | '(' | ')' | '=' | '!' | '"' | '\\')
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = |why: String| {
            format!("selector {:?}: {why}; the form is tier=front,env in (a,b),env notin (c),canary,!old", shortened(text))
        };
        if text.len() > MAX_TEXT {
            return Err(refuse(format!("{} bytes: at most {MAX_TEXT}", text.len())));
        }
        let selector = Reader { left: text.trim() }.selector().map_err(refuse)?;
        selector.check().map_err(refuse)?;
        Ok(selector)
    }
}

/// A selector's text, from where it is still to be read.
struct Reader<'a> {
    left: &'a str,
}

impl Reader<'_> {
    fn selector(mut self) -> Result<Selector, String> {
        let mut selector = Selector::default();
        if self.left.is_empty() {
            return Ok(selector);
        }
        loop {
            self.requirement(&mut selector)?;
            match self.next() {
                None => return Ok(selector),
                Some(',') => {}
                Some(c) => return Err(format!("{c:?} where a comma should be")),
            }
        }
    }

    fn requirement(&mut self, selector: &mut Selector) -> Result<(), String> {
        if self.takes("!") {
            let key = self.key()?;
            selector.require(Requirement { key, operator: Operator::DoesNotExist, values: Vec::new() });
            return Ok(());
        }
        let key = self.key()?;
        if self.takes("!=") {
            let values = vec![self.value(false)?];
            selector.require(Requirement { key, operator: Operator::NotIn, values });
        } else if self.takes("==") || self.takes("=") {
            let value = self.value(false)?;
            selector.equal_to(key, value)?;
        } else if self.at_end_of_requirement() {
            selector.require(Requirement { key, operator: Operator::Exists, values: Vec::new() });
        } else {
            let operator = match self.word() {
                "in" => Operator::In,
                "notin" => Operator::NotIn,
                other => return Err(format!("{other:?} after {key}: one of =, !=, in and notin")),
            };
            let values = self.values()?;
            selector.require(Requirement { key, operator, values });
        }
        Ok(())
    }

    /// `(a,b)`, none twice.
    fn values(&mut self) -> Result<Vec<String>, String> {
        if !self.takes("(") {
            return Err("values stand in parentheses, as in env in (a,b)".to_owned());
        }
        let mut values: Vec<String> = Vec::new();
        loop {
            let value = self.value(true)?;
            if !values.contains(&value) {
                values.push(value);
            }
            match self.next() {
                Some(')') => return Ok(values),
                Some(',') => {}
                Some(c) => return Err(format!("{c:?} among values in parentheses")),
                None => return Err("a parenthesis is not closed".to_owned()),
            }
        }
    }

    fn key(&mut self) -> Result<String, String> {
        match self.word() {
            "" => Err("a key is missing".to_owned()),
            key => Ok(key.to_owned()),
        }
    }

    /// Up to white space or something special.
    fn word(&mut self) -> &str {
        self.left = self.left.trim_start();
        let end = self.left.find(|c: char| c.is_whitespace() || is_special(c)).unwrap_or(self.left.len());
        let (word, left) = self.left.split_at(end);
        self.left = left;
        word
    }

    /// A quoted value, or all up to the next comma (or parenthesis, within parentheses), spaces at its ends left out.
    fn value(&mut self, in_parentheses: bool) -> Result<String, String> {
        self.left = self.left.trim_start();
        if let Some(quoted) = self.left.strip_prefix('"') {
            let mut value = String::new();
            let mut chars = quoted.char_indices();
            while let Some((at, c)) = chars.next() {
                match c {
                    '"' => {
                        self.left = quoted.get(at + 1..).unwrap_or_default();
                        return Ok(value);
                    }
                    '\\' => value.extend(chars.next().map(|(_, c)| c)),
                    c => value.push(c),
                }
            }
            return Err("a quotation mark is not closed".to_owned());
        }
        let end = self.left.find(|c: char| c == ',' || (in_parentheses && c == ')')).unwrap_or(self.left.len());
        let (value, left) = self.left.split_at(end);
        self.left = left;
        match value.trim_end() {
            value if value.contains(['(', ')', '"']) => {
                Err(format!("value {:?}: it must be written in quotes", shortened(value)))
            }
            value => Ok(value.to_owned()),
        }
    }

    /// Whether `sign` comes next, which is read then.
    fn takes(&mut self, sign: &str) -> bool {
        self.left = self.left.trim_start();
        match self.left.strip_prefix(sign) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    fn at_end_of_requirement(&mut self) -> bool {
        self.left = self.left.trim_start();
        self.left.is_empty() || self.left.starts_with(',')
    }

    fn next(&mut self) -> Option<char> {
        self.left = self.left.trim_start();
        let mut chars = self.left.chars();
        let next = chars.next();
        self.left = chars.as_str();
        next
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split(' ').filter_map(|pair| pair.split_once('='));
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn each_form_means_what_it_means_to_kubernetes() {
        for (selector, given, meant) in [
            ("", "", true),
            ("tier=front", "tier=front", true),
            ("tier==front", "tier=back", false),
            ("tier=front", "", false),
            ("tier!=front", "tier=back", true),
            ("tier!=front", "", true),
            ("tier != front", "tier=front", false),
            ("env in (a,b)", "env=b", true),
            ("env in (a, b)", "env=c", false),
            ("env in (a,b)", "", false),
            ("env notin (a,b)", "env=a", false),
            ("env notin (a,b)", "env=c", true),
            ("env notin (a,b)", "", true),
            ("env in (,a)", "env=", true),
            ("canary", "canary=", true),
            ("canary", "other=1", false),
            ("!old", "", true),
            ("! old", "old=", false),
            ("tier=front,env in (a,b),!old", "tier=front env=a", true),
            (" tier = front , env in ( a , b ) , !old ", "tier=front env=a old=1", false),
            ("in in (in,notin)", "in=notin", true),
            ("a=b c", "a=b", false),
            (r#"a="b,\"c""#, r#"a=b,"c"#, true),
        ] {
            let parsed: Selector = selector.parse().unwrap_or_else(|e| panic!("{selector}: {e}"));
            assert_eq!(parsed.matches(&labels(given)), meant, "{selector} of {given:?}");
        }
    }

    #[test]
    fn what_is_no_selector_is_named_with_the_form() {
        let wide = format!("a in ({})", vec!["x"; MAX_TEXT].join(","));
        let values = format!("a in ({})", (0..=MAX_VALUES).map(|n| n.to_string()).collect::<Vec<_>>().join(","));
        let many = (0..=MAX_LABELS).map(|n| format!("k{n}")).collect::<Vec<_>>().join(",");
        for bad in [
            ",",
            "a,",
            "=b",
            "a in",
            "a in b",
            "a in ()x",
            "a in (b",
            "a on (b)",
            "a=b,a=c",
            "a in (b))",
            "a b",
            "!",
            "!a=b",
            "ü=1",
            "a=\"b",
            "a=(b)",
            &wide,
            &values,
            &many,
            "a=b\n,c",
        ] {
            // An empty value is a value.
            let said = match bad.parse::<Selector>() {
                Err(said) => said,
                Ok(parsed) if bad == "a=b\n,c" => {
                    assert_eq!(parsed.to_string(), "a=b,c", "white space at the ends of a value is none of it");
                    continue;
                }
                Ok(parsed) => panic!("{bad:?} was read as {parsed:?}"),
            };
            assert!(said.starts_with("selector ") && said.contains("the form is") && said.len() < 400, "{said}");
        }
    }

    #[test]
    fn the_stored_form_has_kubernetes_words() {
        let selector: Selector = "tier=front,env in (a,b),!old".parse().unwrap();
        let json = serde_json::to_string(&selector).unwrap();
        assert_eq!(
            json,
            r#"{"equal":{"tier":"front"},"expressions":[{"key":"env","operator":"In","values":["a","b"]},{"key":"old","operator":"DoesNotExist"}]}"#
        );
        assert_eq!(serde_json::from_str::<Selector>(&json).unwrap(), selector);
    }

    #[test]
    fn two_selectors_are_one_unless_nothing_could_have_both() {
        let parse = |text: &str| text.parse::<Selector>().unwrap();
        assert_eq!(parse("a=b").and(parse("a=b,c,!d")).unwrap(), parse("a=b,c,!d"));
        assert!(parse("a=b").and(parse("a=c")).unwrap_err().contains("a in (b,c)"));
    }

    fn key() -> impl Strategy<Value = String> {
        "[A-Za-z0-9./_-]{1,8}|in|notin"
    }

    /// Whatever a label may hold.
    fn value() -> impl Strategy<Value = String> {
        "[ -~éß]{0,6}|[a-z]{0,4}"
    }

    fn requirement() -> impl Strategy<Value = Requirement> {
        let values = prop::collection::btree_set(value(), 1..4).prop_map(Vec::from_iter).prop_shuffle();
        (key(), 0..4_u8, values).prop_map(|(key, operator, values)| match operator {
            0 => Requirement { key, operator: Operator::In, values },
            1 => Requirement { key, operator: Operator::NotIn, values },
            2 => Requirement { key, operator: Operator::Exists, values: Vec::new() },
            _ => Requirement { key, operator: Operator::DoesNotExist, values: Vec::new() },
        })
    }

    fn selector() -> impl Strategy<Value = Selector> {
        let equal = prop::collection::btree_map(key(), value(), 0..4);
        let expressions = prop::collection::btree_set(requirement(), 0..4).prop_map(Vec::from_iter).prop_shuffle();
        (equal, expressions).prop_map(|(equal, expressions)| Selector { equal, expressions })
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(selector in selector()) {
            prop_assert_eq!(selector.to_string().parse::<Selector>(), Ok(selector));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[a-z=!,() \"\\\\é]{0,40}") {
            if let Ok(selector) = text.parse::<Selector>() {
                prop_assert_eq!(selector.to_string().parse::<Selector>(), Ok(selector));
            }
        }
    }
}
