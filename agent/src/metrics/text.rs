//! How metrics are printed. OpenMetrics is left to `prometheus-client`, in `openmetrics.rs`. That crate
//! cannot write the Prometheus text format 0.0.4, which is therefore written here: there the counter has its `_total` in
//! the head too, nothing follows the last sample, and bucket bounds are `1` as CoreDNS has them, which Prometheus 2 takes
//! for another bucket than the `1.0` of OpenMetrics.

use std::fmt::{Display, Write};

use super::openmetrics;
use super::scrape::{Gathered, Scrape, Value};

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The Prometheus text format 0.0.4, which every scraper takes.
    Prometheus,
    /// The OpenMetrics text format 1.0.0, for who asks for it.
    OpenMetrics,
}

impl Format {
    /// The one that an Accept header asks for.
    pub fn accepted(accept: &str) -> Self {
        let wanted = accept
            .split(',')
            .any(|part| part.trim_start().starts_with("application/openmetrics-text"));
        if wanted { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The Content-Type header.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Prints all that was gathered: families by name, series by label values, each once.
pub(super) fn write(scrape: Scrape, format: Format) -> String {
    match format {
        Format::Prometheus => {
            let mut printer = Printer::default();
            scrape.families().for_each(|gathered| printer.family(gathered));
            printer.out
        }
        Format::OpenMetrics => openmetrics::write(scrape),
    }
}

/// Writes the Prometheus text format 0.0.4.
#[derive(Default)]
struct Printer {
    out: String,
}

impl Printer {
    fn family(&mut self, gathered: &Gathered) {
        let family = gathered.family;
        self.line(format_args!("# HELP {} {}", family.name, family.help.trim()));
        self.line(format_args!("# TYPE {} {}", family.name, family.kind.name()));
        for (values, value) in &gathered.series {
            let labels = || family.labels.iter().copied().zip(values.iter().map(AsRef::as_ref));
            match value {
                Value::Number(number) | Value::Greatest(number) | Value::Least(number) => {
                    self.sample(family.name, "", labels(), *number)
                }
                Value::Histogram { bounds, counts, sum } => {
                    let mut total = 0;
                    for (&bound, count) in bounds.iter().chain([&f64::INFINITY]).zip(counts) {
                        total += count;
                        let le =
                            if bound.is_infinite() { "+Inf".to_owned() } else { bound.to_string() };
                        self.sample(
                            family.name,
                            "_bucket",
                            labels().chain([("le", le.as_str())]),
                            total as f64,
                        );
                    }
                    self.sample(family.name, "_sum", labels(), *sum);
                    self.sample(family.name, "_count", labels(), total as f64);
                }
            }
        }
    }

    fn sample<'a>(
        &mut self,
        name: &str,
        suffix: &str,
        labels: impl Iterator<Item = (&'a str, &'a str)>,
        value: f64,
    ) {
        self.out.push_str(name);
        self.out.push_str(suffix);
        let mut separator = '{';
        for (label, value) in labels {
            self.out.push(separator);
            separator = ',';
            self.out.push_str(label);
            self.out.push_str("=\"");
            self.escaped(value);
            self.out.push('"');
        }
        if separator == ',' {
            self.out.push('}');
        }
        self.line(format_args!(" {value}"));
    }

    fn escaped(&mut self, value: &str) {
        for character in value.chars() {
            match character {
                '\\' => self.out.push_str("\\\\"),
                '"' => self.out.push_str("\\\""),
                '\n' => self.out.push_str("\\n"),
                other => self.out.push(other),
            }
        }
    }

    fn line(&mut self, text: impl Display) {
        // A `String` takes everything that is written to it.
        let _ = writeln!(self.out, "{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::names;

    #[test]
    fn label_values_are_escaped() {
        let mut scrape = Scrape::default();
        scrape.count(&names::NODECACHE_SETUP_ERRORS, &["a\"b\\c\nd"], 1);
        let text = write(scrape, Format::Prometheus);
        assert!(
            text.ends_with(
                "coredns_nodecache_setup_errors_total{errortype=\"a\\\"b\\\\c\\nd\"} 1\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn open_metrics_is_for_who_asks() {
        let prometheus_3 =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
        assert_eq!(Format::accepted(prometheus_3), Format::OpenMetrics);
        assert_eq!(Format::accepted("text/plain, */*"), Format::Prometheus);
        assert_eq!(Format::accepted(""), Format::Prometheus);
    }
}
