//! What TCP connections may take: places and bytes, for all clients together and for each of them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::Notify;

use super::kept::Keeping;
use crate::admission::{ALPHA, Permit};
use crate::budget::{Allowance, Pressure};
use crate::clients::{ClientShares, Clients};
use crate::clock::CoarseInstant;
use crate::descriptors;
use crate::handover::Keeper;
use crate::upstream::health::Throttle;

/// Connections of all clients together.
pub const MAX_CONNECTIONS: usize = 4_096;
/// Connections of one address: more than a pod's resolvers keep, fewer than would starve the others.
pub const MAX_PER_CLIENT: usize = 256;
/// Bytes that all connections together may buffer. Nearly all queries and replies pass through the worker's own buffers
/// and take none of it: it is for messages that arrive in pieces, queries that wait, and replies that are not taken.
/// 32 MiB hold 500 messages of the greatest length; under a memory limit they are fewer (`budget`).
pub const MAX_BYTES: usize = 32 << 20;
/// What is left of these at least, however small the memory limit is.
const MIN_CONNECTIONS: usize = 64;
const MIN_BYTES: usize = 1 << 20;
/// A connection that has been idle for so long gives up its place to a new client.
pub const IDLE_WHEN_SCARCE: Duration = Duration::from_secs(1);
/// A new client waits so long for a place when all are held, as often as [`ADMIT_TRIES`] says.
const ADMIT_PAUSE: Duration = Duration::from_millis(20);
const ADMIT_TRIES: usize = 5;
/// New clients that wait for a place; fewer under a small limit of descriptors.
const MAX_ADMITTING: usize = 64;
/// Idle connections are woken no more often than this.
const SCARCE_MS: u64 = 20;

/// The connections of all workers. Made after the limit of descriptors was raised, which bounds them too.
pub struct Connections {
    places: ClientShares,
    bytes: ClientShares,
    admitting: ClientShares,
    /// Wakes idle connections when a new client finds no place.
    scarce: Notify,
    woken: Throttle,
    refused: AtomicU64,
    /// Has those kept that last.
    pub(super) keeping: Arc<Keeping>,
}

impl Connections {
    /// None yet; `keeper` is to keep those that last.
    pub fn new(keeper: Option<Arc<dyn Keeper>>, clients: &Arc<Clients>) -> Self {
        let shares = |limit| ClientShares::new(limit, clients);
        let most = descriptors::for_clients();
        Self {
            places: shares(MAX_CONNECTIONS.min(most)),
            bytes: shares(MAX_BYTES),
            admitting: shares(MAX_ADMITTING.min(most / 4).max(2)),
            scarce: Notify::new(),
            woken: Throttle::default(),
            refused: AtomicU64::new(0),
            keeping: Keeping::new(keeper),
        }
    }

    /// Keeps to an allowance from now on. While memory is short, connections that are idle end.
    pub fn keep_to(&self, allowance: &Allowance) {
        let most = MAX_CONNECTIONS.min(descriptors::for_clients());
        self.places.all().set_limit(allowance.tcp_places(most, MIN_CONNECTIONS));
        self.bytes.all().set_limit(allowance.tcp_bytes(MAX_BYTES, MIN_BYTES));
        if allowance.pressure() >= Pressure::Tcp {
            self.scarce.notify_waiters();
        }
    }

    /// A place for one more connection of `client`; `None`: it has its share, or all are held.
    pub fn open(&self, client: IpAddr) -> Option<Permit> {
        let place = self.places.try_acquire(client, 1)?;
        (place.held_by_key() <= MAX_PER_CLIENT).then_some(place)
    }

    /// Lets a client that has few places wait for one; `None`: it has its share, or as many wait as may. To be asked before the
    /// connection is given to a task: a descriptor that waits for nothing but that task's turn would be bounded by nothing.
    pub fn may_wait(&self, client: IpAddr) -> Option<Permit> {
        if self.places.held(client) > ALPHA {
            return None;
        }
        self.admitting.try_acquire(client, 1)
    }

    /// Waits a moment for a place, while idle connections of others are closed. `_waiting` is from [`may_wait`](Self::may_wait).
    pub async fn admit(&self, client: IpAddr, _waiting: Permit) -> Option<Permit> {
        for _ in 0..ADMIT_TRIES {
            if self.woken.allows(CoarseInstant::now(), SCARCE_MS) {
                self.scarce.notify_waiters();
            }
            tokio::time::sleep(ADMIT_PAUSE).await;
            if let Some(place) = self.open(client) {
                return Some(place);
            }
        }
        None
    }

    /// Returns when a new client finds no place.
    pub async fn scarce(&self) {
        self.scarce.notified().await;
    }

    /// A permit for `amount` bytes of `client`; `None`: it has its share of the budget. One of zero can always be had.
    pub fn bytes(&self, client: IpAddr, amount: usize) -> Option<Permit> {
        self.bytes.try_acquire(client, amount)
    }

    /// Open connections.
    pub fn count(&self) -> usize {
        self.places.all().used()
    }

    /// Bytes that connections buffer.
    pub fn buffered(&self) -> usize {
        self.bytes.all().used()
    }

    /// Connections that were refused or closed because their client had its share.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Counts a connection that is refused or closed because its client had its share.
    pub fn count_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0x0a00_0000 + n).into()
    }

    fn flood(connections: &Connections, client: IpAddr) -> Vec<Permit> {
        std::iter::from_fn(|| connections.open(client)).collect()
    }

    #[test]
    fn one_client_has_its_limit_and_many_leave_places_free() {
        let connections = Connections::new(None, &Arc::default());
        let mut held: Vec<Permit> = flood(&connections, client(0));
        assert_eq!((held.len(), connections.count()), (MAX_PER_CLIENT, MAX_PER_CLIENT));
        for n in 1..16 {
            held.extend(flood(&connections, client(n)));
        }
        assert!(connections.count() < connections.places.all().limit());
        // One of them may share a counter with a client of before.
        assert!((1_000..1_004).any(|n| connections.open(client(n)).is_some()));
        drop(held);
        assert_eq!(connections.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_client_waits_while_an_idle_connection_is_closed() {
        let connections = Arc::new(Connections::new(None, &Arc::default()));
        let mut held: Vec<Permit> =
            (0..100_000).filter_map(|n| connections.open(client(n))).collect();
        assert!(connections.count() > connections.places.all().limit() - 8);
        let held_by = held.len();
        let waiting = Arc::clone(&connections);
        let idle = tokio::spawn(async move {
            waiting.scarce().await;
            held.truncate(held_by - 8);
            held
        });
        tokio::task::yield_now().await;
        let newcomer = client(200_000);
        let admitted = match connections.open(newcomer) {
            Some(place) => Some(place),
            None => {
                let waiting = connections.may_wait(newcomer).unwrap();
                connections.admit(newcomer, waiting).await
            }
        };
        assert!(admitted.is_some());
        drop(admitted);
        idle.abort();
    }
}
