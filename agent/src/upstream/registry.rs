//! What is known of upstreams across reloads: one that was down or looping before is so afterwards, until it is seen to answer.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::Upstream;
use super::address::Target;
use super::tls::TlsFiles;
use crate::wire::Name;

/// The upstreams that are in use, of whatever configuration. One for the process.
#[derive(Default)]
pub struct HealthRegistry {
    all: Mutex<Vec<(UpstreamKey, Weak<Upstream>)>>,
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
