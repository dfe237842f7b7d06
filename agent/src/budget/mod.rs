//! The one owner of memory budgets: what the cache, TCP connections and queries that wait may take follows the memory limit
//! of the control group, at the start and while the server runs.
//!
//! ```text
//! control group (once a second, near the limit ten times) -> Reading -> Governor -> Allowance -> cache, TCP connections, queries that wait
//! ```
//!
//! Without a limit everything has its full size. Below [`FULL`] everything that clients can fill is smaller in proportion,
//! and TCP buffers by the square. Together these budgets and the program itself stay below the limit; if memory runs short all the
//! same (a large cluster, a limit that is lowered), the cache shrinks first, then TCP, then misses are refused. Hits are never
//! shed.

pub mod cgroup;
mod governor;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::cgroup::Cgroup;
pub use self::governor::Pressure;
use self::governor::{Governor, Reading};
use crate::clock::CoarseInstant;
use crate::conditions::{Found, Watched, table};
use crate::metrics::{Scrape, Source, names};

/// The limit with which everything has its full size: that of the DaemonSet.
pub const FULL: u64 = 192 << 20;
/// Below the full limit, the cache has this part of it unless the Corefile says how much.
const CACHE_PART: u64 = 6;
/// A size in the Corefile is cut to this part of the limit.
const MAX_CACHE_PART: u64 = 3;
/// The least that the cache is cut to, in octets.
const MIN_CACHE: u64 = 1 << 20;
/// With this limit TCP buffers have their full size. A byte of theirs takes two or three while connections come and go, so that
/// they shrink by the square of a smaller limit.
const FULL_TCP_BYTES: u64 = 256 << 20;
/// How often the groups are read.
const ROUND: Duration = Duration::from_secs(1);
/// The same above [`NEAR`] thousandths of the limit.
const FAST_ROUND: Duration = Duration::from_millis(100);
const NEAR: u64 = 650;
/// A warning of one kind is not repeated within this time.
const QUIET: Duration = Duration::from_secs(60);

/// What takes memory that clients can fill.
pub trait Governed: Send + Sync {
    /// Keeps to an allowance from now on. Called on a thread that may block, once a second.
    fn apply(&self, allowance: &Allowance);
}

/// What may be taken at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    limit: Option<u64>,
    pressure: Pressure,
    halvings: u32,
}

impl Allowance {
    /// Octets for the cache, where so many are configured. `is_written`: by the Corefile, and not by default.
    pub fn cache(&self, configured: u64, is_written: bool) -> u64 {
        let part = if is_written { MAX_CACHE_PART } else { CACHE_PART };
        let most = match self.limit {
            Some(limit) if is_written || limit < FULL => configured.min(limit / part),
            _ => configured,
        };
        (most >> self.halvings).max(MIN_CACHE).min(configured)
    }

    /// Places of TCP connections, where so many are the most, but at least `floor`.
    pub fn tcp_places(&self, most: usize, floor: usize) -> usize {
        self.cut_tcp(self.scaled(most)).max(floor)
    }

    /// Octets of their buffers, where so many are the most, but at least `floor`.
    pub fn tcp_bytes(&self, most: usize, floor: usize) -> usize {
        let limit = u128::from(self.limit.unwrap_or(FULL_TCP_BYTES).min(FULL_TCP_BYTES));
        let full = u128::from(FULL_TCP_BYTES);
        self.cut_tcp((most as u128 * limit * limit / full / full) as usize).max(floor)
    }

    fn cut_tcp(&self, most: usize) -> usize {
        if self.pressure >= Pressure::Tcp { most / 4 } else { most }
    }

    /// Places of queries that wait, where so many are the most, but at least `floor`.
    pub fn waiting(&self, most: usize, floor: usize) -> usize {
        let most = self.scaled(most).max(floor);
        if self.pressure >= Pressure::Misses { most / 16 } else { most }
    }

    /// What is short.
    pub fn pressure(&self) -> Pressure {
        self.pressure
    }

    /// One under which the cache is halved so many times.
    #[cfg(test)]
    pub fn halved(halvings: u32) -> Self {
        Self { halvings, ..Self::default() }
    }

    fn scaled(&self, most: usize) -> usize {
        let limit = self.limit.unwrap_or(FULL).min(FULL);
        (most as u128 * u128::from(limit) / u128::from(FULL)) as usize
    }
}

/// The budgets of the process.
#[derive(Default)]
pub struct Budget {
    cgroup: Cgroup,
    state: Mutex<State>,
    governed: Mutex<Vec<Arc<dyn Governed>>>,
}

#[derive(Default)]
struct State {
    governor: Governor,
    reading: Reading,
    allowance: Allowance,
    /// When each kind of pressure was logged last.
    logged: [Option<Instant>; 4],
}

impl Budget {
    /// Those of this process, by the limit that it has now.
    pub fn of_this_process() -> Arc<Self> {
        let budget = Self { cgroup: Cgroup::own(), ..Self::default() };
        budget.read();
        Arc::new(budget)
    }

    /// What may be taken now.
    pub fn allowance(&self) -> Allowance {
        self.state().allowance
    }

    /// Has `governed` keep to the budget from now on.
    pub fn govern(&self, governed: Arc<dyn Governed>) {
        governed.apply(&self.allowance());
        self.governed.lock().unwrap_or_else(PoisonError::into_inner).push(governed);
    }

    /// Reads the limit once a second, more often near to it, and has everything keep to it. Never returns.
    pub async fn watch(self: Arc<Self>) {
        loop {
            let is_near = self.state().reading.part >= NEAR;
            tokio::time::sleep(if is_near { FAST_ROUND } else { ROUND }).await;
            let budget = Arc::clone(&self);
            // It reads files, and may walk the cache.
            let _ = tokio::task::spawn_blocking(move || budget.round()).await;
        }
    }

    /// For `nodens status`: octets, and what is short.
    pub fn to_json(&self) -> Value {
        let state = self.state();
        json!({
            "limit_bytes": state.reading.limit,
            "used_bytes": state.reading.limit.map(|_| state.reading.used),
            "shed": match state.allowance.pressure {
                Pressure::None => Value::Null,
                Pressure::Cache => "part of the cache".into(),
                Pressure::Tcp => "cache, TCP".into(),
                Pressure::Misses => "cache, TCP, misses".into(),
            },
        })
    }

    fn round(&self) {
        let (before, now) = self.read();
        if before.limit != now.limit {
            let limit = now.limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
            tracing::info!(limit, "the memory limit has changed");
        }
        if before.pressure != now.pressure && self.is_news(now.pressure) {
            let (used, limit) = (self.state().reading.used, now.limit.unwrap_or_default());
            match now.pressure {
                Pressure::None => tracing::info!(used, "memory is no longer short"),
                Pressure::Cache => {
                    tracing::warn!(used, limit, "memory is short: the cache shrinks");
                }
                Pressure::Tcp => {
                    tracing::warn!(used, limit, "memory is short: idle TCP connections are closed");
                }
                Pressure::Misses => tracing::error!(
                    used,
                    limit,
                    "memory is short: names that are not cached are refused; raise the memory limit"
                ),
            }
        }
        let governed = self.governed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        governed.iter().for_each(|governed| governed.apply(&now));
    }

    /// Whether this pressure was not logged of late.
    fn is_news(&self, pressure: Pressure) -> bool {
        let mut state = self.state();
        let Some(logged) = state.logged.get_mut(pressure as usize) else { return false };
        let is_news = logged.is_none_or(|at| at.elapsed() >= QUIET);
        if is_news {
            *logged = Some(Instant::now());
        }
        is_news
    }

    /// Takes a reading. Returns the allowance before and the new one.
    fn read(&self) -> (Allowance, Allowance) {
        let reading = Reading::of(&self.cgroup.read());
        let mut state = self.state();
        let pressure = state.governor.next(&reading, CoarseInstant::now().as_millis());
        let halvings = state.governor.halvings();
        let new = Allowance { limit: reading.limit, pressure, halvings };
        state.reading = reading;
        (std::mem::replace(&mut state.allowance, new), new)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched for Budget {
    fn look(&self, found: &mut Found) {
        let state = self.state();
        let condition = match state.allowance.pressure {
            Pressure::None => return,
            Pressure::Cache | Pressure::Tcp => &table::MEMORY_SHORT,
            Pressure::Misses => &table::MISSES_SHED,
        };
        let (used, limit) = (state.reading.used, state.reading.limit.unwrap_or_default());
        found.add(condition, format!("{} MiB of {} MiB are in use", used >> 20, limit >> 20));
    }
}

impl Source for Budget {
    fn collect(&self, out: &mut Scrape) {
        let state = self.state();
        if let Some(limit) = state.reading.limit {
            out.gauge(&names::MEMORY_LIMIT_BYTES, &[], limit as f64);
            out.gauge(&names::MEMORY_USED_BYTES, &[], state.reading.used as f64);
        }
        let short = |pressure| f64::from(u8::from(state.allowance.pressure >= pressure));
        for (what, pressure) in
            [("cache", Pressure::Cache), ("tcp", Pressure::Tcp), ("misses", Pressure::Misses)]
        {
            out.gauge(&names::MEMORY_SHED, &[what], short(pressure));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn allowance(limit: Option<u64>, pressure: Pressure, halvings: u32) -> Allowance {
        Allowance { limit: limit.map(|mib| mib * MIB), pressure, halvings }
    }

    #[test]
    fn budgets_follow_the_limit() {
        // (limit in MiB, cache by default, written 64 MiB, connections, octets of them in MiB, queries)
        for (limit, cache, written, connections, bytes, queries) in [
            (None, 32, 64, 4_096, 32, 8_192),
            (Some(1_024), 32, 64, 4_096, 32, 8_192),
            (Some(192), 32, 64, 4_096, 18, 8_192),
            (Some(96), 16, 32, 2_048, 4, 4_096),
            (Some(48), 8, 16, 1_024, 1, 2_048),
            (Some(3), 1, 1, 64, 1, 512),
        ] {
            let allowed = allowance(limit, Pressure::None, 0);
            let got = (
                allowed.cache(32 * MIB, false) / MIB,
                allowed.cache(64 * MIB, true) / MIB,
                allowed.tcp_places(4_096, 64),
                allowed.tcp_bytes(32 << 20, 1 << 20) >> 20,
                allowed.waiting(8_192, 512),
            );
            assert_eq!(got, (cache, written, connections, bytes, queries), "{limit:?}");
        }
    }

    #[test]
    fn what_is_short_is_cut() {
        let allowed = |pressure, halvings| {
            let allowed = allowance(Some(192), pressure, halvings);
            let cache = allowed.cache(32 * MIB, false) / MIB;
            (cache, allowed.tcp_places(4_096, 64), allowed.waiting(8_192, 512))
        };
        assert_eq!(allowed(Pressure::Cache, 1), (16, 4_096, 8_192));
        assert_eq!(allowed(Pressure::Tcp, 3), (4, 1_024, 8_192));
        assert_eq!(allowed(Pressure::Misses, 5), (1, 1_024, 512));
        assert_eq!(allowance(None, Pressure::None, 0).cache(512 << 10, true), 512 << 10);
    }
}
