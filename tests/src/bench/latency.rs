//! Latencies in a histogram of 64 steps to each doubling, so that a percentile is right within two per cent.

use std::time::Duration;

const STEPS: usize = 64;

/// How long answers took.
pub struct Latencies {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: vec![0; STEPS * 59], total: 0 }
    }
}

impl Latencies {
    /// Adds one.
    pub fn add(&mut self, nanos: u64) {
        self.counts[place(nanos)] += 1;
        self.total += 1;
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.total
    }

    /// What this share of all stayed within; 0.5 is the median. Zero where there are none.
    #[must_use]
    pub fn percentile(&self, share: f64) -> Duration {
        let wanted = (share * self.total as f64).ceil() as u64;
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted.max(1)
        });
        Duration::from_nanos(found.map_or(0, middle))
    }
}

fn place(nanos: u64) -> usize {
    let steps = STEPS as u64;
    if nanos < steps {
        return nanos as usize;
    }
    let power = nanos.ilog2();
    let step = (nanos >> (power - 6)) & (steps - 1);
    (power as usize - 5) * STEPS + step as usize
}

fn middle(place: usize) -> u64 {
    if place < STEPS {
        return place as u64;
    }
    let power = place / STEPS + 5;
    let step = (place % STEPS) as u64;
    (1 << power) + (step << (power - 6)) + (1 << (power - 6)) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_within_two_per_cent() {
        let mut latencies = Latencies::default();
        (1..=10_000).for_each(|micros| latencies.add(micros * 1_000));
        for (share, micros) in [(0.5, 5_000.0), (0.99, 9_900.0), (0.999, 9_990.0)] {
            let got = latencies.percentile(share).as_secs_f64() * 1e6;
            assert!((got / micros - 1.0).abs() < 0.02, "{share}: {got}");
        }
        assert_eq!(place(u64::MAX), STEPS * 59 - 1);
        assert_eq!(Latencies::default().percentile(0.5), Duration::ZERO);
    }
}
