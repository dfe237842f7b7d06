//! What is known of upstreams across reloads: one that was down or looping before is so afterwards, until it is seen to answer.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde::{Deserialize, Serialize};

use super::Upstream;
use super::address::Target;
use super::tls::TlsFiles;
use crate::wire::Name;

/// The name under which it is passed on to the next process.
pub const NAME: &str = "upstreams";
/// Upstreams that are passed on; of more the first.
const MAX_PASSED_ON: usize = 1_024;

/// The upstreams that are in use, of whatever configuration. One for the process.
#[derive(Default)]
pub struct HealthRegistry {
    all: Mutex<Vec<(UpstreamKey, Weak<Upstream>)>>,
    /// What the process before knew, for upstreams that are made for the first time.
    before: Mutex<Vec<Known>>,
}

/// What is known of an upstream, as it is passed on.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Known {
    /// The address with its scheme and port.
    to: String,
    force_tcp: bool,
    /// The zone for which its loops are looked for.
    #[serde(default)]
    zone: Option<String>,
    down: bool,
    looping: bool,
    /// Microseconds: mean, deviation, 95th percentile.
    round_trips: [u32; 3],
}

/// All on which it depends whether what is known of one upstream holds for another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamKey {
    /// Where it is, and over what it is asked.
    pub target: Target,
    /// Whether plain upstreams are asked over TCP only.
    pub force_tcp: bool,
    /// Whose certificates are believed.
    pub tls: TlsFiles,
    /// Where names are forwarded from: an upstream may loop for one zone and not for another. `None`: without `loop`.
    pub zone: Option<Name>,
}

impl HealthRegistry {
    /// Gives `upstream` what is known of the one before, and remembers it for the next one. `may_be_down` is false where
    /// failures do not count (`max_fails 0`).
    pub fn take_over(&self, upstream: &Arc<Upstream>, key: UpstreamKey, may_be_down: bool) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, known)| known.strong_count() > 0);
        // The newest first: of several configurations the last one knows best.
        let alike = |other: &UpstreamKey| {
            let way = (&other.target, other.force_tcp, &other.tls);
            way == (&key.target, key.force_tcp, &key.tls)
        };
        let mut before = all.iter().rev().filter(|(other, _)| alike(other));
        let same_zone = before.clone().find(|(other, _)| other.zone == key.zone);
        if before.clone().next().is_none() {
            self.take_over_before(upstream, &key, may_be_down);
        }
        if let Some(known) = same_zone.or_else(|| before.next()).and_then(|(_, up)| up.upgrade()) {
            upstream.round_trips.take_over(&known.round_trips);
            if may_be_down {
                upstream.health.take_over(&known.health);
            }
        }
        let loops = same_zone.and_then(|(_, up)| up.upgrade());
        if key.zone.is_some() && loops.is_some_and(|known| known.health.is_looping()) {
            upstream.health.set_looping(true);
        }
        all.push((key, Arc::downgrade(upstream)));
    }

    fn take_over_before(&self, upstream: &Upstream, key: &UpstreamKey, may_be_down: bool) {
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let to = key.target.to_string();
        let alike =
            || before.iter().filter(|known| known.to == to && known.force_tcp == key.force_tcp);
        let zone = key.zone.as_ref().map(ToString::to_string);
        let same_zone = alike().find(|known| known.zone == zone);
        let Some(known) = same_zone.or_else(|| alike().next()) else { return };
        upstream.round_trips.set(known.round_trips);
        if may_be_down && known.down {
            upstream.health.set_down();
        }
        if key.zone.is_some() && same_zone.is_some_and(|known| known.looping) {
            upstream.health.set_looping(true);
        }
    }

    /// What is known, for the next process: JSON.
    pub fn export(&self) -> Vec<u8> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let used = all.iter().filter_map(|(key, up)| Some((key, up.upgrade()?)));
        let known: Vec<Known> = used
            .take(MAX_PASSED_ON)
            .map(|(key, upstream)| Known {
                to: key.target.to_string(),
                force_tcp: key.force_tcp,
                zone: key.zone.as_ref().map(ToString::to_string),
                down: upstream.health.is_down(),
                looping: upstream.health.is_looping(),
                round_trips: upstream.round_trips.get(),
            })
            .collect();
        // It is plain data.
        serde_json::to_vec(&known).unwrap_or_default()
    }

    /// Takes in what [`HealthRegistry::export`] of the process before wrote, for upstreams that are made from now on.
    ///
    /// # Errors
    /// It is of another format.
    pub fn import(&self, bytes: &[u8]) -> Result<(), serde_json::Error> {
        let mut known: Vec<Known> = serde_json::from_slice(bytes)?;
        known.truncate(MAX_PASSED_ON);
        *self.before.lock().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::upstream::TransportConfig;

    fn key(target: &str, zone: &str) -> UpstreamKey {
        UpstreamKey {
            target: Target::parse(target).unwrap(),
            force_tcp: false,
            tls: TlsFiles::default(),
            zone: Some(Name::from_text(zone).unwrap()),
        }
    }

    fn another(known: &HealthRegistry, key: &UpstreamKey, may_be_down: bool) -> Arc<Upstream> {
        let made = Upstream::new(key.target.clone(), TransportConfig::default(), None, 1).unwrap();
        let made = Arc::new(made);
        known.take_over(&made, key.clone(), may_be_down);
        made
    }

    #[test]
    fn what_was_known_is_known_again() {
        let known = HealthRegistry::default();
        let first = another(&known, &key("192.0.2.1", "."), true);
        assert!(!first.health.is_down() && !first.health.is_looping());
        first.health.failed(1);
        first.health.set_looping(true);
        first.round_trips.record(Duration::from_millis(7));
        let second = another(&known, &key("192.0.2.1", "."), true);
        assert!(second.health.is_down() && second.health.is_looping());
        assert_eq!(second.round_trips.mean(), first.round_trips.mean());
        assert!(!another(&known, &key("192.0.2.1", "."), false).health.is_down());
        // A loop is one of a zone, an address is one with its port.
        let other = another(&known, &key("192.0.2.1", "example.org"), true);
        assert!(other.health.is_down() == second.health.is_down() && !other.health.is_looping());
        assert!(!another(&known, &key("192.0.2.1:5353", "."), true).health.is_down());
        let over_tcp = UpstreamKey { force_tcp: true, ..key("192.0.2.1", ".") };
        assert!(!another(&known, &over_tcp, true).health.is_down());
    }

    #[test]
    fn the_next_process_knows_it_too() {
        let known = HealthRegistry::default();
        let first = another(&known, &key("192.0.2.1", "."), true);
        first.health.failed(1);
        first.health.set_looping(true);
        first.round_trips.record(Duration::from_millis(7));
        let next = HealthRegistry::default();
        next.import(&known.export()).unwrap();
        let second = another(&next, &key("192.0.2.1", "."), true);
        assert!(second.health.is_down() && second.health.is_looping());
        assert_eq!(second.round_trips.mean(), first.round_trips.mean());
        let elsewhere = another(&next, &key("192.0.2.2", "."), true);
        assert!(!elsewhere.health.is_down() && elsewhere.round_trips.mean().is_none());
        assert!(next.import(b"[{\"to\":1}]").is_err() && next.import(b"").is_err());
    }

    #[test]
    fn nothing_is_held_for_those_that_are_gone() {
        let known = HealthRegistry::default();
        let first = another(&known, &key("192.0.2.1", "."), true);
        first.health.failed(1);
        drop(first);
        let second = another(&known, &key("192.0.2.1", "."), true);
        assert!(!second.health.is_down());
        assert_eq!(known.all.lock().unwrap().len(), 1);
    }
}
