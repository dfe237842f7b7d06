//! A metrics page, read: samples by name and labels.

use std::collections::BTreeMap;

/// One sample's labels.
pub type Labels = BTreeMap<String, String>;

/// All samples of a page.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    samples: Vec<(String, Labels, f64)>,
}

impl Metrics {
    /// Reads the Prometheus or OpenMetrics text format; comments and what cannot be read are skipped.
    #[must_use]
    pub fn parse(page: &str) -> Self {
        Self { samples: page.lines().filter(|l| !l.starts_with('#')).filter_map(sample).collect() }
    }

    /// All samples as `name{labels}` and value, labels in order: for messages and comparisons.
    #[must_use]
    pub fn map(&self) -> BTreeMap<String, f64> {
        let key = |name: &str, labels: &Labels| {
            let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v:?}")).collect();
            format!("{name}{{{}}}", labels.join(","))
        };
        self.samples.iter().map(|(name, labels, value)| (key(name, labels), *value)).collect()
    }

    /// The sum over all samples of this name that have at least these labels; 0 if there are none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|(_, value)| value).sum()
    }

    /// Whether there is a sample of this name with at least these labels.
    #[must_use]
    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.matching(name, labels).next().is_some()
    }

    /// Every sample of this name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a Labels, f64)> {
        self.matching(name, &[])
    }

    fn matching<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = (&'a Labels, f64)> {
        let fits = |have: &Labels| labels.iter().all(|(k, v)| have.get(*k).is_some_and(|h| h == v));
        let same = self.samples.iter().filter(move |(n, have, _)| n == name && fits(have));
        same.map(|(_, labels, value)| (labels, *value))
    }
}

fn sample(line: &str) -> Option<(String, Labels, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Labels::new();
    if let Some(mut inside) = rest.strip_prefix('{') {
        while !inside.starts_with('}') {
            let (key, after) = inside.trim_start_matches(',').split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(key.trim().to_owned(), value);
            inside = after;
        }
        rest = inside.get(1..)?;
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((name.to_owned(), labels, value))
}

/// The text up to the closing quote, unescaped, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((out, text.get(at + 1..)?)),
            '\\' => match chars.next()?.1 {
                'n' => out.push('\n'),
                other => out.push(other),
            },
            other => out.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_read() {
        let page = "# HELP a b\na_total{zone=\"x, {y}\",server=\"dns://:53\"} 3\na_total{zone=\"z\"} 4e0 123\nup 1\n# EOF\n";
        let metrics = Metrics::parse(page);
        assert!((metrics.sum("a_total", &[]) - 7.0).abs() < f64::EPSILON);
        assert!((metrics.sum("a_total", &[("zone", "x, {y}")]) - 3.0).abs() < f64::EPSILON);
        assert!(metrics.has("up", &[]) && !metrics.has("down", &[]));
        assert!(metrics.map().contains_key("a_total{server=\"dns://:53\",zone=\"x, {y}\"}"));
    }
}
