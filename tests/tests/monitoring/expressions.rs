//! What a PromQL expression names. Prometheus parses it; this only finds the words.

use std::collections::BTreeSet;

/// How an expression looks at a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Over a range: `metric[5m]`.
    Range,
    /// At one time.
    Instant,
}

/// Words that are no metrics, though no parenthesis follows.
const WORDS: [&str; 8] = ["and", "or", "unless", "bool", "offset", "on", "by", "without"];

/// The metrics that an expression names.
pub fn metric_names(expression: &str) -> BTreeSet<String> {
    uses(expression).into_iter().map(|(name, _)| name).collect()
}

/// How it looks at this one.
pub fn kind_of_use(expression: &str, name: &str) -> Kind {
    let found = uses(expression).into_iter().find(|(found, _)| found == name);
    found.map_or(Kind::Instant, |(_, kind)| kind)
}

/// The labels that it matches or groups by.
pub fn labels(expression: &str) -> BTreeSet<String> {
    let text = without_strings(expression);
    let mut out = BTreeSet::new();
    for inside in text.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
        let matchers = inside.split(',').filter_map(|matcher| matcher.split(['=', '!']).next());
        out.extend(matchers.map(|label| label.trim().to_owned()));
    }
    for word in ["by (", "on (", "without ("] {
        for inside in text.split(word).skip(1).filter_map(|rest| rest.split(')').next()) {
            out.extend(inside.split(',').map(|label| label.trim().to_owned()));
        }
    }
    out.remove("");
    out
}

fn uses(expression: &str) -> Vec<(String, Kind)> {
    let mut text = without_strings(expression);
    for word in ["by (", "on (", "without ("] {
        while let Some(at) = text.find(word) {
            let end = text[at..].find(')').map_or(text.len(), |end| at + end + 1);
            text.replace_range(at..end, " ");
        }
    }
    let mut out = Vec::new();
    let mut rest = text.as_str();
    while let Some(begin) = rest.find(|c: char| c.is_ascii_alphabetic() || c == '_') {
        // A digit before it: the unit of a duration, which is in brackets.
        let word = &rest[begin..];
        let end =
            word.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(word.len());
        let (name, mut after) = word.split_at(end);
        let is_function = after.trim_start().starts_with('(');
        if after.starts_with('{') {
            after = after.split_once('}').map_or("", |(_, after)| after);
        }
        let kind = if after.starts_with('[') { Kind::Range } else { Kind::Instant };
        if kind == Kind::Range {
            after = after.split_once(']').map_or("", |(_, after)| after);
        }
        if !is_function && !WORDS.contains(&name) {
            out.push((name.to_owned(), kind));
        }
        rest = after;
    }
    out
}

fn without_strings(text: &str) -> String {
    text.split('"').step_by(2).collect()
}

#[test]
fn words_are_told_apart() {
    let text = "sum by (job, to) (rate(a_total{x=\"y{}\", z=~\"w\"}[5m])) / max(b) > 1 and on (job) c or vector(0)";
    let names: Vec<String> = metric_names(text).into_iter().collect();
    assert_eq!(names, ["a_total", "b", "c"]);
    assert_eq!(kind_of_use(text, "a_total"), Kind::Range);
    assert_eq!(kind_of_use(text, "b"), Kind::Instant);
    let labels: Vec<String> = labels(text).into_iter().collect();
    assert_eq!(labels, ["job", "to", "x", "z"]);
}
