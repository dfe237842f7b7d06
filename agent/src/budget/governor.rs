//! What is shed as memory runs short, and when it comes back: a state machine of readings, without files and clocks.

use super::cgroup::Level;

/// Above this much of the limit, in thousandths, the cache shrinks.
const CACHE_AT: u64 = 800;
/// Above this much TCP connections and their buffers are cut, too.
const TCP_AT: u64 = 880;
/// Above this much misses are refused, too.
const MISSES_AT: u64 = 940;
/// What was cut comes back this much below.
const BACK: u64 = 40;
/// Between two halvings of the cache, milliseconds. What is freed goes back to the kernel within ten seconds, and until then is
/// used for what comes.
const SHRINK_MS: u64 = 5_000;
/// The same while TCP is cut, too.
const SHRINK_FAST_MS: u64 = 1_000;
/// Between two doublings, milliseconds.
const GROW_MS: u64 = 10_000;
/// The cache is halved so many times at most.
const MAX_HALVINGS: u32 = 5;
/// A group counts if this process has at least this part of what is used in it: nothing that we let go of helps a group that
/// others fill.
const OUR_PART: u64 = 4;

/// What is short, in the order in which it is shed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Nothing.
    #[default]
    None,
    /// The cache shrinks.
    Cache,
    /// Idle TCP connections are closed, and a quarter of their places and buffers is left.
    Tcp,
    /// Of the places of queries that wait a sixteenth is left.
    Misses,
}

/// Turns readings into what is shed.
#[derive(Debug, Default)]
pub struct Governor {
    pressure: Pressure,
    halvings: u32,
    /// When the cache was halved or doubled, or could have been.
    changed: u64,
    high_events: u64,
}

/// What the groups come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The least limit of all groups, in octets.
    pub limit: Option<u64>,
    /// What is in use of it, in octets, by the group that is nearest to its own.
    pub used: u64,
    /// The same in thousandths of the limit.
    pub part: u64,
    /// How often the groups were throttled.
    pub high_events: u64,
}

impl Reading {
    /// What these groups come to, this process's own first.
    pub fn of(levels: &[Level]) -> Self {
        let ours = levels.first().map_or(0, |level| level.used);
        let mut reading = Self {
            limit: levels.iter().filter_map(|level| level.limit).min(),
            high_events: levels.iter().map(|level| level.high_events).sum(),
            ..Self::default()
        };
        for level in levels {
            let Some(limit) = level.limit else { continue };
            let part = level.used.saturating_mul(1_000) / limit.max(1);
            // The first level may have no limit and therefore no reading.
            let is_ours = ours == 0 || ours.saturating_mul(OUR_PART) >= level.used;
            if part >= reading.part && is_ours {
                (reading.part, reading.used) = (part, level.used);
            }
        }
        reading
    }
}

impl Governor {
    /// Takes a reading of the moment `now`, in milliseconds since any start.
    pub fn next(&mut self, reading: &Reading, now: u64) -> Pressure {
        let throttled = reading.high_events > self.high_events;
        self.high_events = reading.high_events;
        // A group that is throttled is full, whatever the moment of the reading shows, unless what fills it are files.
        let part = if throttled && reading.part >= CACHE_AT / 2 {
            reading.part.max(CACHE_AT)
        } else {
            reading.part
        };
        let kept = |pressure, at| if self.pressure >= pressure { at - BACK } else { at };
        self.pressure = match part {
            part if part >= kept(Pressure::Misses, MISSES_AT) => Pressure::Misses,
            part if part >= kept(Pressure::Tcp, TCP_AT) => Pressure::Tcp,
            part if part >= kept(Pressure::Cache, CACHE_AT) => Pressure::Cache,
            _ => Pressure::None,
        };
        let patience = match self.pressure {
            Pressure::None => GROW_MS,
            Pressure::Cache => SHRINK_MS,
            Pressure::Tcp | Pressure::Misses => SHRINK_FAST_MS,
        };
        let begins = self.halvings == 0 && self.pressure > Pressure::None;
        if now.saturating_sub(self.changed) >= patience || begins {
            self.changed = now;
            self.halvings = match self.pressure {
                Pressure::None => self.halvings.saturating_sub(1),
                _ => (self.halvings + 1).min(MAX_HALVINGS),
            };
        }
        self.pressure
    }

    /// How many times the cache is halved now.
    pub fn halvings(&self) -> u32 {
        self.halvings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(part: u64) -> Reading {
        Reading { limit: Some(1_000), used: part, part, high_events: 0 }
    }

    #[test]
    fn the_cache_goes_first_then_tcp_then_misses_and_all_comes_back() {
        let (mut governor, mut now) = (Governor::default(), 100_000);
        // (thousandths of the limit, seconds, what is short, halvings of the cache)
        for (part, rounds, pressure, halvings) in [
            (100, 30, Pressure::None, 0),
            (799, 5, Pressure::None, 0),
            (800, 1, Pressure::Cache, 1),
            (820, 4, Pressure::Cache, 1),
            (820, 1, Pressure::Cache, 2),
            (879, 1, Pressure::Cache, 2),
            (880, 1, Pressure::Tcp, 3),
            (935, 1, Pressure::Tcp, 4),
            (940, 1, Pressure::Misses, 5),
            (999, 9, Pressure::Misses, 5),
            // What was cut comes back a little below.
            (901, 1, Pressure::Misses, 5),
            (899, 1, Pressure::Tcp, 5),
            (841, 1, Pressure::Tcp, 5),
            (839, 1, Pressure::Cache, 5),
            (761, 9, Pressure::Cache, 5),
            (700, 9, Pressure::None, 5),
            (700, 1, Pressure::None, 4),
            (700, 60, Pressure::None, 0),
        ] {
            let mut last = Pressure::None;
            for _ in 0..rounds {
                now += 1_000;
                last = governor.next(&at(part), now);
            }
            assert_eq!((last, governor.halvings()), (pressure, halvings), "{part} for {rounds}");
        }
    }

    #[test]
    fn a_group_that_is_throttled_is_full() {
        let mut governor = Governor::default();
        let throttled = |part, high_events| Reading { high_events, ..at(part) };
        assert_eq!(governor.next(&throttled(300, 1), 1_000), Pressure::None, "by files");
        assert_eq!(governor.next(&throttled(600, 2), 2_000), Pressure::Cache);
        assert_eq!(governor.next(&throttled(600, 2), 3_000), Pressure::None);
        assert_eq!(governor.next(&throttled(950, 3), 4_000), Pressure::Misses);
    }

    #[test]
    fn the_least_limit_counts_and_the_group_that_is_fullest() {
        let level = |limit, used| Level { limit, used, high_events: 1 };
        let of = |levels: &[Level]| {
            let reading = Reading::of(levels);
            (reading.limit, reading.used, reading.part)
        };
        assert_eq!(of(&[]), (None, 0, 0));
        assert_eq!(of(&[level(None, 0), level(None, 0)]), (None, 0, 0));
        assert_eq!(of(&[level(Some(100), 50), level(Some(80), 60)]), (Some(80), 60, 750));
        assert_eq!(of(&[level(Some(100), 50), level(Some(1_000), 60)]), (Some(100), 50, 500));
        // The node is full of others.
        assert_eq!(of(&[level(Some(100), 50), level(Some(1_000), 990)]), (Some(100), 50, 500));
        assert_eq!(of(&[level(None, 0), level(Some(1_000), 990)]), (Some(1_000), 990, 990));
        assert_eq!(of(&[level(Some(0), 50)]).0, Some(0));
    }
}
