//! An upstream among forgers: before each true answer it sends many that are wrong in one way each.
//!
//! The forgers are worse than off-path ones: of id, question, port, source address and source port they know all but one.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The upstream's behaviour.
pub const TRUE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// What the forgers say.
pub const FORGED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);
/// The name that forged answers to other questions are about.
pub const VICTIM: &[u8] = b"\x06victim\x06forged\x04test\x00";

/// Forged answers of each way before each true one. All that arrive fit into the kernel's default buffer of one socket (212,992
/// octets, 768 for each), so that none is lost and all can be counted.
pub const OF_EACH: u64 = 50;

/// What was sent.
#[derive(Debug, Default)]
pub struct Sent {
    /// Right but for the id.
    pub wrong_id: AtomicU64,
    /// Right but for the question.
    pub wrong_question: AtomicU64,
    /// Right, from another address.
    pub wrong_source: AtomicU64,
    /// Right, from another port of the upstream's address.
    pub wrong_source_port: AtomicU64,
    /// Right, to a port that this query has not come from, where another socket of Nodens may be.
    pub wrong_port: AtomicU64,
    /// Of these, to a port from which an earlier query came.
    pub to_known_port: AtomicU64,
    /// True answers.
    pub answers: AtomicU64,
}

/// The upstream; stops when dropped.
#[derive(Debug)]
pub struct Forger {
    address: SocketAddr,
    sent: Arc<Sent>,
    ports: Arc<Mutex<BTreeSet<u16>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sent {
    /// All forgeries.
    #[must_use]
    pub fn forgeries(&self) -> u64 {
        let all = [
            &self.wrong_id,
            &self.wrong_question,
            &self.wrong_source,
            &self.wrong_source_port,
            &self.wrong_port,
        ];
        all.into_iter().map(|count| count.load(Relaxed)).sum()
    }
}

impl Forger {
    /// Starts it on 127.0.0.1.
    ///
    /// # Errors
    /// No sockets.
    pub fn start() -> io::Result<Self> {
        let upstream = UdpSocket::bind("127.0.0.1:0")?;
        upstream.set_read_timeout(Some(Duration::from_millis(50)))?;
        let address = upstream.local_addr()?;
        let (sent, ports, stop) = <(Arc<Sent>, Arc<Mutex<_>>, Arc<AtomicBool>)>::default();
        let mut work = Work {
            upstream,
            elsewhere: UdpSocket::bind(("127.0.0.66", address.port()))?,
            beside: UdpSocket::bind("127.0.0.1:0")?,
            sent: Arc::clone(&sent),
            ports: Arc::clone(&ports),
            random: 0x9e37_79b9_7f4a_7c15,
        };
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("forger".into()).spawn(move || {
            let mut buffer = [0; 512];
            while !stopped.load(Relaxed) {
                if let Ok((length, from)) = work.upstream.recv_from(&mut buffer) {
                    work.serve(&buffer[..length], from);
                }
            }
        })?;
        Ok(Self { address, sent, ports, stop, thread: Some(thread) })
    }

    /// Where it answers, over UDP only.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has sent.
    #[must_use]
    pub fn sent(&self) -> &Sent {
        &self.sent
    }

    /// From how many ports queries have come.
    #[must_use]
    pub fn ports(&self) -> usize {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Forger {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Work {
    upstream: UdpSocket,
    elsewhere: UdpSocket,
    beside: UdpSocket,
    sent: Arc<Sent>,
    ports: Arc<Mutex<BTreeSet<u16>>>,
    random: u64,
}

impl Work {
    fn serve(&mut self, query: &[u8], from: SocketAddr) {
        let Some(end) = question_end(query) else { return };
        let known: Vec<u16> = {
            let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
            ports.insert(from.port());
            ports.iter().rev().copied().filter(|port| *port != from.port()).take(64).collect()
        };
        let mut forged = answer(query, end, FORGED);
        let id = [query[0], query[1]];
        for n in 0..OF_EACH {
            let wrong = u16::from_be_bytes(id) ^ (1 + self.below(0xffff) as u16);
            forged[..2].copy_from_slice(&wrong.to_be_bytes());
            send(&self.upstream, &forged, from, &self.sent.wrong_id);
            forged[..2].copy_from_slice(&id);

            let other = other_question(query, end, n);
            send(&self.upstream, &other, from, &self.sent.wrong_question);
            send(&self.elsewhere, &forged, from, &self.sent.wrong_source);
            send(&self.beside, &forged, from, &self.sent.wrong_source_port);

            // Below the ports of other tests and of the kernel's choice, so nothing listens there.
            let mut to = (from.ip(), 10_000 + self.below(10_000) as u16).into();
            if n % 4 == 0 && !known.is_empty() {
                let at = self.below(known.len() as u64) as usize;
                to = (from.ip(), known[at]).into();
                self.sent.to_known_port.fetch_add(1, Relaxed);
            }
            send(&self.upstream, &forged, to, &self.sent.wrong_port);
        }
        send(&self.upstream, &answer(query, end, TRUE), from, &self.sent.answers);
    }

    /// xorshift64*: enough for a spread of guesses.
    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

fn send(socket: &UdpSocket, message: &[u8], to: SocketAddr, count: &AtomicU64) {
    // Counted first, so that a client that has the answer finds it counted.
    count.fetch_add(1, Relaxed);
    // An ICMP error of an earlier datagram may be reported instead: that one was sent.
    if socket.send_to(message, to).is_err() && socket.send_to(message, to).is_err() {
        count.fetch_sub(1, Relaxed);
    }
}

/// Where the first question ends.
fn question_end(query: &[u8]) -> Option<usize> {
    let mut at = 12;
    loop {
        match usize::from(*query.get(at)?) {
            0 => break,
            length => at += 1 + length,
        }
    }
    (at + 5 <= query.len()).then_some(at + 5)
}

/// The answer to a query: one address that lives for a day.
fn answer(query: &[u8], end: usize, address: Ipv4Addr) -> Vec<u8> {
    let mut answer = query[..end].to_vec();
    answer[2] |= 0x80;
    answer[3] |= 0x80;
    answer[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 1, 0x51, 0x80, 0, 4]);
    answer.extend(address.octets());
    answer
}

/// With the right id, an answer to something else: the victim's name, another type, another class, another length, or no
/// question at all.
fn other_question(query: &[u8], end: usize, n: u64) -> Vec<u8> {
    // When the victim itself is asked about, its name is no other question.
    let about_victim = query.get(12..12 + VICTIM.len()) == Some(VICTIM);
    match n % 5 {
        0 if !about_victim => {
            let question = [&query[..12], VICTIM, &[0, 1, 0, 1]].concat();
            answer(&question, question.len(), FORGED)
        }
        1 => {
            let mut forged = answer(query, end, FORGED);
            forged[end - 3] = 28;
            forged
        }
        2 => {
            let mut forged = answer(query, end, FORGED);
            forged[end - 1] = 3;
            forged
        }
        0 | 3 => {
            let mut forged = answer(query, end, FORGED);
            forged[13] ^= 1;
            forged
        }
        _ => {
            let mut forged = answer(&query[..12], 12, FORGED);
            forged[4..6].fill(0);
            // The owner would point behind the header: the root instead.
            forged.splice(12..14, [0]);
            forged
        }
    }
}
