//! Numbers that many threads write. The hot path has [`super::cells`] instead.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use super::scrape::{Family, Scrape};

/// Only ever grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One at zero.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// What it holds.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// What it holds.
    pub fn value(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Counts values by size.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    counts: Box<[AtomicU64]>,
    /// The bits of an `f64`.
    sum: AtomicU64,
}

impl Histogram {
    /// One with these upper bounds, which must rise.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0f64.to_bits()),
        }
    }

    /// Counts `value`.
    pub fn observe(&self, value: f64) {
        let bucket = self.bounds.partition_point(|&bound| bound < value);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Relaxed);
        }
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // The closure never declines, so neither does this.
        let _ = self.sum.fetch_update(Relaxed, Relaxed, add);
    }

    /// Hands it in.
    pub fn collect(&self, out: &mut Scrape, family: &'static Family, labels: &[&str]) {
        let counts = self.counts.iter().map(|count| count.load(Relaxed)).collect();
        out.histogram(family, labels, self.bounds, counts, f64::from_bits(self.sum.load(Relaxed)));
    }
}
