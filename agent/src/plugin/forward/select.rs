//! Which upstream is asked first, and which ones after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use smallvec::SmallVec;

use super::config::Policy;
use crate::upstream::Upstream;

/// With `fastest`, one query in so many goes to any upstream, to see whether it has become quicker.
const EXPLORE: usize = 32;

/// The order in which upstreams are asked for one query, as places in the set.
pub(super) type Order = SmallVec<[u16; 8]>;

/// Which upstreams of a set can be asked at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Availability {
    /// Some are up.
    Some,
    /// All that could be asked are down.
    AllDown,
    /// Queries to all of them come back to us.
    AllLoop,
    /// There are none.
    None,
}

/// Puts those upstreams in order that answer; where none does, those that do not loop, at random.
pub(super) fn order(
    upstreams: &[Arc<Upstream>],
    policy: Policy,
    turn: &AtomicUsize,
    random: fn(usize) -> usize,
) -> (Order, Availability) {
    let places = |chosen: &dyn Fn(&Upstream) -> bool| -> Order {
        upstreams.iter().enumerate().filter(|(_, up)| chosen(up)).map(|(at, _)| at as u16).collect()
    };
    let mut order = places(&|up| !up.health.is_looping() && !up.health.is_down());
    if order.is_empty() {
        order = places(&|up| !up.health.is_looping());
        shuffle(&mut order, random);
        let availability = match (order.is_empty(), upstreams.is_empty()) {
            (false, _) => Availability::AllDown,
            (true, false) => Availability::AllLoop,
            (true, true) => Availability::None,
        };
        return (order, availability);
    }
    if order.len() > 1 {
        match policy {
            Policy::Sequential => {}
            Policy::Random => shuffle(&mut order, random),
            Policy::RoundRobin => {
                let first = turn.fetch_add(1, Relaxed) % order.len();
                order.rotate_left(first);
            }
            Policy::Fastest if random(EXPLORE) == 0 => shuffle(&mut order, random),
            Policy::Fastest => order.sort_by_cached_key(|&at| {
                // Not yet measured comes first, so that every upstream is measured.
                upstreams.get(usize::from(at)).and_then(|up| up.round_trips.mean())
            }),
        }
    }
    (order, Availability::Some)
}

fn shuffle(order: &mut Order, random: fn(usize) -> usize) {
    for last in (1..order.len()).rev() {
        order.swap(last, random(last + 1));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::upstream::random::below;
    use crate::upstream::{Target, TransportConfig};

    fn upstreams(n: u8) -> Vec<Arc<Upstream>> {
        let target = |i| Target::plain(([192, 0, 2, i], 53).into());
        (0..n)
            .map(|i| {
                Arc::new(Upstream::new(target(i), TransportConfig::default(), None, 1).unwrap())
            })
            .collect()
    }

    fn firsts(upstreams: &[Arc<Upstream>], policy: Policy) -> Vec<usize> {
        let turn = AtomicUsize::new(0);
        let mut counts = vec![0; upstreams.len()];
        for _ in 0..3_200 {
            counts[usize::from(order(upstreams, policy, &turn, below).0[0])] += 1;
        }
        counts
    }

    #[test]
    fn policies_spread_as_they_say() {
        let ups = upstreams(4);
        assert_eq!(firsts(&ups, Policy::Sequential), [3_200, 0, 0, 0]);
        assert_eq!(firsts(&ups, Policy::RoundRobin), [800; 4]);
        assert!(firsts(&ups, Policy::Random).iter().all(|&n| (600..1_000).contains(&n)));
        for (up, millis) in ups.iter().zip([5, 2, 9, 7]) {
            up.round_trips.record(Duration::from_millis(millis));
        }
        let counts = firsts(&ups, Policy::Fastest);
        assert!(counts[1] > 3_000 && counts[0] > 0, "{counts:?}");
    }

    #[test]
    fn what_is_down_or_loops_is_left_out() {
        let ups = upstreams(3);
        let turn = AtomicUsize::new(0);
        ups[0].health.failed(1);
        ups[1].health.set_looping(true);
        assert_eq!(
            order(&ups, Policy::Random, &turn, below),
            (Order::from_slice(&[2]), Availability::Some)
        );
        ups[2].health.failed(1);
        let (mut all, availability) = order(&ups, Policy::Sequential, &turn, below);
        all.sort();
        assert_eq!((all.as_slice(), availability), (&[0, 2][..], Availability::AllDown));
        for up in &ups {
            up.health.set_looping(true);
        }
        assert_eq!(order(&ups, Policy::Random, &turn, below).1, Availability::AllLoop);
        assert_eq!(order(&[], Policy::Random, &turn, below).1, Availability::None);
    }
}
