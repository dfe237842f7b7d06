//! Whether the workers still do their work: what `/health`, the watchdog of systemd and `nodens probe alive` go by.
//!
//! Once a second two things are looked at, without upstreams, API server or server blocks, since a restart would mend none of them:
//!
//! * every worker's thread has had its turn: it is woken once a second, and counts that. The worker has no timer of its own for
//!   this, since a runtime with a timer sets one in the kernel each time that it waits for a query;
//! * every listening address answers a question of our own. It is a STATUS query (RFC 1035 section 4.1.1), which no server
//!   implements and each refuses with NOTIMP: it goes through socket and receive loop, and is in no log and no metric. It comes
//!   from another port each time, so that the kernel leads it to another worker.
//!
//! While a flood fills the queues, our own question may be lost in them: then only the threads are judged.
//!
//! Rounds are counted rather than time, so that a process that was stopped and goes on is not taken for a dead one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::future::join_all;
use tokio::net::UdpSocket;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::worker::Worker;

/// Between two rounds.
const PERIOD: Duration = Duration::from_secs(1);
/// How long an address has to answer.
const PATIENCE: Duration = Duration::from_millis(900);
/// Consecutive missed rounds before `/health` fails. At one round a second this outlasts the repair of a link or a scheduling
/// stall on a loaded node, and fails well within a minute.
const MISSED: u64 = 10;
/// Full batches of all workers within a round from which on the queues count as flooded: 2,048 queries that came in bursts.
const FLOOD: u64 = 64;

/// The judgement, and what it is made of.
#[derive(Default)]
pub struct Liveness {
    workers: Vec<Arc<Worker>>,
    addresses: Mutex<Vec<SocketAddr>>,
    trouble: ArcSwapOption<String>,
    is_dead: AtomicBool,
}

impl Liveness {
    /// Of these workers, with no address to ask yet.
    pub fn new(workers: &[Arc<Worker>]) -> Arc<Self> {
        Arc::new(Self { workers: workers.to_vec(), ..Self::default() })
    }

    /// Asks these addresses from now on.
    pub fn set_addresses(&self, addresses: impl Iterator<Item = SocketAddr>) {
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses.collect();
    }

    /// What is wrong, as a line for people; `None`: nothing.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.load().as_deref().cloned()
    }

    /// True if a worker stands still, or no address answers: only a new process can help. One address that does not answer may have
    /// gone from the node, or be kept from us by a firewall.
    pub fn is_dead(&self) -> bool {
        self.is_dead.load(Relaxed)
    }

    /// Looks once a second, for ever.
    pub async fn watch(self: Arc<Self>) {
        let mut rounds = Rounds::default();
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let beats: Vec<u64> = self.workers.iter().map(|worker| worker.heartbeats()).collect();
            self.workers.iter().for_each(|worker| worker.ping());
            let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let answers = join_all(addresses.into_iter().map(|address| async move {
                let asked = timeout(PATIENCE, ask(address)).await;
                (address, asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
            }));
            let full_batches = self.workers.iter().map(|worker| worker.full_batches()).sum();
            let trouble = rounds.next(&beats, full_batches, answers.await);
            self.is_dead.store(rounds.are_dead(), Relaxed);
            self.judge(trouble);
        }
    }

    fn judge(&self, trouble: Option<String>) {
        let before = self.trouble.swap(trouble.clone().map(Arc::new));
        match (before, trouble) {
            (None, Some(trouble)) => tracing::error!("queries are not answered: {trouble}"),
            (Some(_), None) => tracing::info!("queries are answered again"),
            _ => {}
        }
    }
}

/// What the rounds so far have seen.
#[derive(Default)]
struct Rounds {
    /// For each worker its count, and the rounds since that grew.
    workers: Vec<(u64, u64)>,
    /// For each address the rounds since it answered.
    addresses: Vec<(SocketAddr, u64)>,
    /// Full batches until the last round.
    full_batches: u64,
}

impl Rounds {
    /// True if a worker has stood still, or all addresses have been silent, for too many rounds.
    fn are_dead(&self) -> bool {
        let is_silent = |(_, missed): &(SocketAddr, u64)| *missed >= MISSED;
        let no_address = !self.addresses.is_empty() && self.addresses.iter().all(is_silent);
        no_address || self.workers.iter().any(|(_, missed)| *missed >= MISSED)
    }

    /// One more round; returns what is wrong by now.
    fn next(
        &mut self,
        beats: &[u64],
        full_batches: u64,
        answers: Vec<(SocketAddr, io::Result<()>)>,
    ) -> Option<String> {
        self.workers.resize(beats.len(), (0, 0));
        let mut trouble = Vec::new();
        for (number, ((last, missed), beats)) in self.workers.iter_mut().zip(beats).enumerate() {
            *missed = if *last == *beats { *missed + 1 } else { 0 };
            *last = *beats;
            if *missed >= MISSED {
                trouble.push(format!("worker {number} has stood still for {missed} s"));
            }
        }
        let before = std::mem::replace(&mut self.full_batches, full_batches);
        let is_flooded = full_batches.saturating_sub(before) >= FLOOD;
        let before = std::mem::take(&mut self.addresses);
        for (address, answer) in answers {
            let missed = before.iter().find(|(known, _)| *known == address).map_or(0, |(_, n)| *n);
            let missed = match answer {
                Ok(()) => 0,
                Err(_) if is_flooded => missed,
                Err(_) => missed + 1,
            };
            if let (Err(error), true) = (answer, missed >= MISSED) {
                trouble.push(format!("{address} has not answered us for {missed} s ({error})"));
            }
            self.addresses.push((address, missed));
        }
        (!trouble.is_empty()).then(|| trouble.join("; "))
    }
}

/// A STATUS query, and any answer to it.
async fn ask(address: SocketAddr) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) if address.ip().is_unspecified() => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    // Whatever is listened on, IPv4's loopback is there; sockets of the unspecified IPv6 address take both families.
    let ip = if address.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { address.ip() };
    socket.connect(SocketAddr::new(ip, address.port())).await?;
    let [high, low] = (NUMBER.fetch_add(1, Relaxed) as u16).to_be_bytes();
    const STATUS: u8 = 2 << 3;
    socket.send(&[high, low, STATUS, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await?;
    let mut reply = [0; 12];
    loop {
        let length = socket.recv(&mut reply).await?;
        if length == reply.len() && reply.starts_with(&[high, low]) && reply[2] & 0x80 != 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent(address: SocketAddr) -> Vec<(SocketAddr, io::Result<()>)> {
        vec![(address, Err(io::ErrorKind::TimedOut.into()))]
    }

    #[test]
    fn a_worker_that_stands_still_is_found_and_recovers() {
        let mut rounds = Rounds::default();
        for round in 1..=MISSED {
            assert!(rounds.next(&[round, 5], 0, Vec::new()).is_none(), "round {round}");
        }
        let trouble = rounds.next(&[MISSED + 1, 5], 0, Vec::new()).unwrap();
        assert_eq!(trouble, "worker 1 has stood still for 10 s");
        assert_eq!(rounds.next(&[MISSED + 2, 6], 0, Vec::new()), None);
    }

    #[test]
    fn an_address_without_answers_is_found_and_forgotten_with_its_configuration() {
        let (address, other) =
            ("127.0.0.1:53".parse().unwrap(), "127.0.0.2:53".parse::<SocketAddr>().unwrap());
        let mut rounds = Rounds::default();
        for _ in 1..MISSED {
            assert_eq!(rounds.next(&[], 0, silent(address)), None);
        }
        let mut both = silent(address);
        both.push((other, Ok(())));
        assert!(rounds.next(&[], 0, both).unwrap().contains("127.0.0.1:53 has not answered"));
        assert!(!rounds.are_dead(), "the other address answers");
        rounds.next(&[], 0, silent(address));
        assert!(rounds.are_dead());
        assert_eq!(rounds.next(&[], 0, vec![(other, Ok(()))]), None);
        assert_eq!(rounds.next(&[], 0, silent(address)), None);
    }

    #[test]
    fn a_question_that_is_lost_in_a_flood_is_no_sign_of_death() {
        let address = "127.0.0.1:53".parse().unwrap();
        let mut rounds = Rounds::default();
        for round in 1..=3 * MISSED {
            assert_eq!(rounds.next(&[], round * FLOOD, silent(address)), None);
        }
        for _ in 1..MISSED {
            assert_eq!(rounds.next(&[], 3 * MISSED * FLOOD, silent(address)), None);
        }
        assert!(rounds.next(&[], 3 * MISSED * FLOOD, silent(address)).is_some());
    }

    #[tokio::test]
    async fn a_server_is_asked_and_nobody_is_told() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let asked = tokio::spawn(ask(address));
        let mut query = [0; 64];
        let (length, peer) = server.recv_from(&mut query).await.unwrap();
        let packet = query.get(..length).unwrap();
        assert_eq!(
            crate::wire::Query::parse(packet).unwrap_err(),
            crate::wire::Reject::Answer(crate::wire::Rcode::NOTIMP)
        );
        let mut reply = Vec::new();
        crate::wire::query::write_rejection(&mut reply, packet, crate::wire::Rcode::NOTIMP);
        server.send_to(&reply, peer).await.unwrap();
        assert!(asked.await.unwrap().is_ok());
        drop(server);
        assert!(ask(address).await.is_err(), "nobody listens");
    }
}
