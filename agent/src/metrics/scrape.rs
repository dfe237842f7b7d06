//! What one scrape gathers: samples by family and labels. Sources know nothing of each other, so several may hand in the
//! same family, and even the same series; the text format allows each once, so here they are put together.

use std::collections::BTreeMap;

/// Something that has metrics. It keeps its numbers as it likes and hands them in when it is asked, which happens a few
/// times a minute and never in a worker.
///
/// ```
/// use nodens::metrics::{Counter, Format, Scrape, Source, names};
///
/// struct Rejects {
///     count: Counter,
/// }
///
/// impl Source for Rejects {
///     fn collect(&self, out: &mut Scrape) {
///         out.count(&names::FORWARD_MAX_CONCURRENT_REJECTS, &[], self.count.value());
///     }
/// }
///
/// let metrics = nodens::metrics::Metrics::new();
/// let rejects = std::sync::Arc::new(Rejects { count: Counter::default() });
/// rejects.count.add(2);
/// metrics.replace(vec![rejects]);
/// assert!(metrics.text(Format::Prometheus).contains("coredns_forward_max_concurrent_rejects_total 2\n"));
/// ```
pub trait Source: Send + Sync {
    /// Hands in all samples. Series that are known from the start are handed in at zero too, so that rates begin well.
    fn collect(&self, out: &mut Scrape);
}

/// What a metric is. Labels are given by position.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// The name that Prometheus stores; a counter's ends in `_total`.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// The labels' names.
    pub labels: &'static [&'static str],
}

/// The kinds of metric that we have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only ever grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values by size.
    Histogram,
}

impl Kind {
    /// The word of the TYPE line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Number(f64),
    /// A number of which the greatest counts.
    Greatest(f64),
    /// A number of which the least counts.
    Least(f64),
    /// Counts that are not summed up, one more than bounds.
    Histogram {
        bounds: &'static [f64],
        counts: Vec<u64>,
        sum: f64,
    },
}

/// Samples being gathered. Series with the same family and labels are added up, gauges too.
#[derive(Debug, Default)]
pub struct Scrape {
    families: BTreeMap<&'static str, Gathered>,
}

/// A family with its series by label values.
#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) family: &'static Family,
    pub(super) series: BTreeMap<Vec<Box<str>>, Value>,
}

impl Scrape {
    /// Hands in a counter. `labels` are the values in the order of the family's label names.
    pub fn count(&mut self, family: &'static Family, labels: &[&str], value: u64) {
        self.add(family, labels, Value::Number(value as f64));
    }

    /// As [`Scrape::count`], of a counter with fractions.
    pub fn count_f64(&mut self, family: &'static Family, labels: &[&str], value: f64) {
        self.add(family, labels, Value::Number(value));
    }

    /// Hands in a gauge.
    pub fn gauge(&mut self, family: &'static Family, labels: &[&str], value: f64) {
        self.add(family, labels, Value::Number(value));
    }

    /// As [`Scrape::gauge`], but of equal series the greatest counts: for moments and ages, whose sum means nothing.
    pub fn gauge_greatest(&mut self, family: &'static Family, labels: &[&str], value: f64) {
        self.add(family, labels, Value::Greatest(value));
    }

    /// As [`Scrape::gauge`], but of equal series the least counts: for states, where one that is not so is not so for all.
    pub fn gauge_least(&mut self, family: &'static Family, labels: &[&str], value: f64) {
        self.add(family, labels, Value::Least(value));
    }

    /// Hands in a histogram: upper bounds, the count of each bucket by itself (not summed up) with one more for what
    /// exceeds every bound, and the sum of all values.
    pub fn histogram(
        &mut self,
        family: &'static Family,
        labels: &[&str],
        bounds: &'static [f64],
        mut counts: Vec<u64>,
        sum: f64,
    ) {
        counts.resize(bounds.len() + 1, 0);
        self.add(family, labels, Value::Histogram { bounds, counts, sum });
    }

    /// Takes over the counters and histograms of `other`, which grow for ever; its gauges are gone with their source.
    pub(super) fn keep_totals(&mut self, other: Scrape) {
        for gathered in other.families.into_values() {
            if gathered.family.kind != Kind::Gauge {
                self.merge(gathered);
            }
        }
    }

    /// Adds copies of all samples of `other`.
    pub(super) fn append(&mut self, other: &Scrape) {
        for gathered in other.families.values() {
            self.merge(Gathered { family: gathered.family, series: gathered.series.clone() });
        }
    }

    /// The labels and values of a family's counters or gauges.
    pub fn values(&self, family: &Family) -> impl Iterator<Item = (&[Box<str>], f64)> {
        let series = self.families.get(family.name).into_iter().flat_map(|found| &found.series);
        series.filter_map(|(labels, value)| match value {
            Value::Number(value) | Value::Greatest(value) | Value::Least(value) => {
                Some((labels.as_slice(), *value))
            }
            Value::Histogram { .. } => None,
        })
    }

    /// The labels, the counts of each bucket by itself, and the sum of a family's histograms.
    pub fn histograms(&self, family: &Family) -> impl Iterator<Item = (&[Box<str>], &[u64], f64)> {
        let series = self.families.get(family.name).into_iter().flat_map(|found| &found.series);
        series.filter_map(|(labels, value)| match value {
            Value::Histogram { counts, sum, .. } => {
                Some((labels.as_slice(), counts.as_slice(), *sum))
            }
            _ => None,
        })
    }

    /// What has been gathered, by name.
    pub(super) fn families(&self) -> impl Iterator<Item = &Gathered> {
        self.families.values()
    }

    fn merge(&mut self, from: Gathered) {
        let to = self.gathered(from.family);
        for (labels, value) in from.series {
            add_to(&mut to.series, labels, value);
        }
    }

    fn add(&mut self, family: &'static Family, labels: &[&str], value: Value) {
        debug_assert_eq!(labels.len(), family.labels.len(), "labels of {}", family.name);
        let labels = labels.iter().map(|&label| label.into()).collect();
        add_to(&mut self.gathered(family).series, labels, value);
    }

    fn gathered(&mut self, family: &'static Family) -> &mut Gathered {
        self.families
            .entry(family.name)
            .or_insert_with(|| Gathered { family, series: BTreeMap::new() })
    }
}

fn add_to(series: &mut BTreeMap<Vec<Box<str>>, Value>, labels: Vec<Box<str>>, value: Value) {
    let Some(there) = series.get_mut(&labels) else {
        series.insert(labels, value);
        return;
    };
    match (there, value) {
        (Value::Number(there), Value::Number(value)) => *there += value,
        (Value::Greatest(there), Value::Greatest(value)) => *there = there.max(value),
        (Value::Least(there), Value::Least(value)) => *there = there.min(value),
        (
            Value::Histogram { bounds, counts, sum },
            Value::Histogram { bounds: other_bounds, counts: more, sum: more_sum },
        ) if *bounds == other_bounds => {
            counts.iter_mut().zip(more).for_each(|(count, more)| *count += more);
            *sum += more_sum;
        }
        // Two shapes under one name are a mistake in the program; the first one stays.
        _ => debug_assert!(false, "a series with two shapes"),
    }
}
