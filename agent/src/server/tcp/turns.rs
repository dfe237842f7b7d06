//! Turns: on one worker and listener, one connection at a time reads and answers a bounded number of queries.
//!
//! Between two turns the runtime polls its sockets, so that a datagram or an upstream's response waits for one turn, however
//! many connections have queries. Turns go round the clients, and round the connections of each: a client with 256
//! connections gets as many turns as one with a single connection.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Bytes that one turn reads: some 50 queries.
pub const READ_LEN: usize = 2_048;
/// Capacity that the buffer of replies keeps.
const MAX_OUT: usize = 128 << 10;

/// The turns of one worker on one listener.
#[derive(Default)]
pub struct Turns {
    inner: Mutex<Inner>,
    buffers: Mutex<Buffers>,
}

#[derive(Default)]
struct Inner {
    /// A [`Turn`] exists.
    taken: bool,
    /// By client, those who wait; never an empty queue.
    waiting: HashMap<IpAddr, VecDeque<oneshot::Sender<Turn>>>,
    /// The keys of `waiting`, the next one first.
    order: VecDeque<IpAddr>,
}

/// The buffers that the connection whose turn it is works in.
pub struct Buffers {
    /// What was read.
    pub read: Box<[u8; READ_LEN]>,
    /// Replies that are to be written; empty between turns.
    pub out: Vec<u8>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { read: Box::new([0; READ_LEN]), out: Vec::new() }
    }
}

/// The turn of one connection, until it is dropped.
pub struct Turn {
    turns: Arc<Turns>,
}

impl Turns {
    /// Waits for a turn.
    pub async fn acquire(self: &Arc<Self>, client: IpAddr) -> Turn {
        let granted = {
            let mut inner = self.lock();
            if !inner.taken {
                inner.taken = true;
                return Turn { turns: Arc::clone(self) };
            }
            let (grant, granted) = oneshot::channel();
            let queue = inner.waiting.entry(client).or_default();
            queue.push_back(grant);
            if queue.len() == 1 {
                inner.order.push_back(client);
            }
            granted
        };
        match granted.await {
            Ok(turn) => turn,
            // Its sender is kept until it is used.
            Err(_) => std::future::pending().await,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Who is next.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let client = self.order.pop_front()?;
        let queue = self.waiting.get_mut(&client)?;
        let next = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&client);
        } else {
            self.order.push_back(client);
        }
        next
    }
}

impl Turn {
    /// Works in the buffers.
    pub fn with_buffers<T>(&self, work: impl FnOnce(&mut Buffers) -> T) -> T {
        let mut buffers = self.turns.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut buffers);
        buffers.out.clear();
        if buffers.out.capacity() > MAX_OUT {
            buffers.out = Vec::new();
        }
        result
    }

    /// Ends the turn. If others wait, or the connection has `more` to do, the runtime polls its sockets first.
    pub async fn end(self, more: bool) {
        let contended = !self.turns.lock().order.is_empty();
        if more || contended {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut inner = self.turns.lock();
        let next = inner.next();
        inner.taken = next.is_some();
        drop(inner);
        if let Some(next) = next {
            // If the connection has gone, the turn comes back, is dropped, and goes to the next one.
            let _ = next.send(Turn { turns: Arc::clone(&self.turns) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(n: u8) -> IpAddr {
        [10, 0, 0, n].into()
    }

    #[tokio::test]
    async fn turns_go_round_the_clients() {
        let turns = Arc::<Turns>::default();
        let first = turns.acquire(client(0)).await;
        let served = Arc::<Mutex<Vec<u8>>>::default();
        let mut tasks = Vec::new();
        // Ten connections of one client come before the two of others.
        for n in [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 3] {
            let (turns, served) = (Arc::clone(&turns), Arc::clone(&served));
            tasks.push(tokio::spawn(async move {
                let turn = turns.acquire(client(n)).await;
                served.lock().unwrap().push(n);
                turn.end(false).await;
            }));
            tokio::task::yield_now().await;
        }
        // One that is not waited for any more passes its turn on.
        tasks.remove(1).abort();
        tokio::task::yield_now().await;
        first.end(false).await;
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(served.lock().unwrap()[..4], [1, 2, 3, 1]);
        assert_eq!(served.lock().unwrap().len(), 11);
        let inner = turns.lock();
        assert!(!inner.taken && inner.waiting.is_empty() && inner.order.is_empty());
    }
}
