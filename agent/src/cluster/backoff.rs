//! Pauses between attempts: growing, and different on every node.

use std::time::Duration;

/// The pauses of one watch.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration) -> Self {
        Self { first, next: first }
    }

    /// The next pause: between half of and one and a half times a value that doubles up to `most`.
    pub(super) fn pause(&mut self, most: Duration) -> Duration {
        let middle = self.next.min(most);
        self.next = middle * 2;
        middle.mul_f64(0.5 + random())
    }

    /// Begins anew.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A random time of less than `most`.
pub(super) fn spread(most: Duration) -> Duration {
    most.mul_f64(random())
}

/// `least`, plus a random part of up to as much again.
pub(super) fn jittered(least: Duration) -> Duration {
    least.mul_f64(1.0 + random())
}

/// At least 0, less than 1.
fn random() -> f64 {
    // Without randomness all nodes would return at once, which is no reason not to return.
    let bits = getrandom::u64().unwrap_or_default() >> 11;
    bits as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_begin_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(800));
        for expected in [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0] {
            let pause = backoff.pause(Duration::from_secs(30)).as_secs_f64();
            assert!((expected * 0.5..expected * 1.5).contains(&pause), "{pause} for {expected}");
        }
        // A failure of another kind has another bound.
        assert!(backoff.pause(Duration::from_secs(2)) < Duration::from_secs(3));
        backoff.reset();
        assert!(backoff.pause(Duration::from_secs(30)) < Duration::from_millis(1_200));
    }

    #[test]
    fn jitter_stays_below_twice() {
        for _ in 0..100 {
            let time = jittered(Duration::from_secs(60)).as_secs_f64();
            assert!((60.0..120.0).contains(&time));
        }
    }
}
