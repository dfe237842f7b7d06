//! The forward handler against scripted upstreams on loopback sockets.

mod answers;
mod changes;
mod health;
mod loops;
mod query;

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::limits::HEDGES_SAVED;
use super::*;
use crate::chain::{Chain, Handler, Local};
use crate::metrics::{Format, Metrics};
use crate::plugin::testing::{read, request_of};
use crate::request::{Answer, Outcome, OwnedRequest, Plugin};
use crate::server::Dispatch;
use crate::upstream::question::Unexpected;
use crate::wire::{Layout, Name, Rcode, RecordType, Reply, flags, write_u16};

/// What a scripted upstream does with one query: the datagrams that it answers, from its own port or from another.
type Script = Box<dyn Fn(&[u8], u64) -> Vec<Reaction> + Send>;

enum Reaction {
    Send(Vec<u8>),
    SendFromElsewhere(Vec<u8>),
    After(Duration, Vec<u8>),
}

struct Fake {
    address: SocketAddr,
    asked: Arc<AtomicU64>,
    /// Connections that have ended.
    ended: Arc<AtomicU64>,
}

/// Asks `condition` again and again until it holds, for so many seconds at most.
async fn eventually(what: &str, seconds: u64, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    while !condition().await {
        assert!(Instant::now() < deadline, "waited for {what}");
        pace.tick().await;
    }
}

impl Fake {
    async fn udp(script: impl Fn(&[u8], u64) -> Vec<Reaction> + Send + 'static) -> Self {
        let socket = Arc::new(UdpSocket::bind(address_of_its_own()).await.unwrap());
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(AtomicU64::new(0));
        let (count, script): (_, Script) = (Arc::clone(&asked), Box::new(script));
        tokio::spawn(async move {
            let mut buf = [0; 4_096];
            loop {
                let (len, from) = socket.recv_from(&mut buf).await.unwrap();
                for reaction in script(&buf[..len], count.fetch_add(1, Relaxed)) {
                    match reaction {
                        Reaction::Send(message) => drop(socket.send_to(&message, from).await),
                        Reaction::SendFromElsewhere(message) => {
                            let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                            let _ = other.send_to(&message, from).await;
                        }
                        Reaction::After(pause, message) => {
                            let socket = Arc::clone(&socket);
                            tokio::spawn(async move {
                                tokio::time::sleep(pause).await;
                                let _ = socket.send_to(&message, from).await;
                            });
                        }
                    }
                }
            }
        });
        Self { address, asked, ended: Arc::default() }
    }

    /// Answers everything with one address that ends in `last`.
    async fn good(last: u8) -> Self {
        Self::udp(move |query, _| vec![Reaction::Send(answer(query, 0, last))]).await
    }

    /// Takes queries and says nothing.
    async fn silent() -> Self {
        Self::udp(|_, _| Vec::new()).await
    }

    fn asked(&self) -> u64 {
        self.asked.load(Relaxed)
    }
}

/// A loopback address that no other process takes a port of: what a fake has over UDP is then free over TCP, too.
fn address_of_its_own() -> std::net::SocketAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    ([127, 64 | high & 63, low, 9], 0).into()
}

/// Also answers over TCP on the same port: in pairs and in reverse order where two queries come together.
async fn with_tcp(fake: &Fake, last: u8) -> Arc<AtomicU64> {
    let listener = TcpListener::bind(fake.address).await.unwrap();
    let connections = Arc::new(AtomicU64::new(0));
    let (count, ended) = (Arc::clone(&connections), Arc::clone(&fake.ended));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Relaxed);
            let ended = Arc::clone(&ended);
            tokio::spawn(async move {
                let mut held = Vec::new();
                let mut buf = Vec::new();
                while stream.read_buf(&mut buf).await.is_ok_and(|n| n > 0) {
                    while let Some(len) = crate::wire::read_u16(&buf, 0).map(usize::from)
                        && buf.len() >= len + 2
                    {
                        held.push(answer(&buf[2..len + 2], 0, last));
                        buf.drain(..len + 2);
                    }
                    while let Some(message) = held.pop() {
                        let mut framed = (message.len() as u16).to_be_bytes().to_vec();
                        framed.extend_from_slice(&message);
                        // In two pieces, to see that frames are put together.
                        stream.write_all(&framed[..3]).await.unwrap();
                        stream.write_all(&framed[3..]).await.unwrap();
                    }
                }
                ended.fetch_add(1, Relaxed);
            });
        }
    });
    connections
}

/// The answer to `query`, without its OPT: one address, 192.0.2.`last`.
fn answer(query: &[u8], more_flags: u16, last: u8) -> Vec<u8> {
    let end = Layout::parse(query).unwrap().question_end;
    let mut message = query[..end].to_vec();
    write_u16(&mut message, 2, flags::QR | flags::RA | flags::RD | more_flags);
    message[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, last]);
    message
}

fn error(query: &[u8], rcode: Rcode) -> Vec<u8> {
    let end = Layout::parse(query).unwrap().question_end;
    let mut message = query[..end].to_vec();
    write_u16(&mut message, 2, flags::QR | rcode.0);
    message[6..12].fill(0);
    message
}

struct Fixture {
    forward: Arc<Forward>,
    chain: Arc<Chain>,
    dispatch: Arc<Dispatch>,
}

fn fixture(lines: &[String]) -> Fixture {
    let mut handlers: Vec<Arc<dyn Handler>> = Vec::new();
    let mut first = None;
    for line in lines {
        let (config, said) = read(line, Config::parse);
        assert_eq!(said, "");
        let context = ForwardContext { workers: 2, ..ForwardContext::default() };
        let forward = Forward::new(config, context).unwrap();
        tokio::spawn(Forward::background(Arc::downgrade(&forward)));
        handlers.push(Arc::new(Forwarding(Arc::clone(&forward))));
        first.get_or_insert(forward);
    }
    let chain = Arc::new(Chain::new(Name::root(), "dns://:53".into(), handlers, 2));
    Fixture {
        forward: first.unwrap(),
        dispatch: Arc::new(Dispatch::new(vec![Arc::clone(&chain)])),
        chain,
    }
}

fn forward_to(fakes: &[&Fake], options: &str) -> Fixture {
    let to: Vec<String> = fakes.iter().map(|fake| fake.address.to_string()).collect();
    fixture(&[format!("forward . {} {{\n{options}\n}}", to.join(" "))])
}

impl Fixture {
    async fn ask(&self, name: &str) -> Answer {
        let owned = request_of(name, RecordType::A, |request| {
            OwnedRequest::new(request, Arc::clone(&self.dispatch))
        });
        let answer = self.chain.resolve(&owned).await;
        assert_eq!(
            answer.message.name().as_name().to_string().trim_end_matches('.'),
            name.trim_end_matches('.')
        );
        answer
    }

    async fn last(&self, name: &str) -> u8 {
        let answer = self.ask(name).await;
        if let Some(error) = &answer.error {
            eprintln!("{name}: {error}");
        }
        last(&answer)
    }

    fn unexpected(&self, why: Unexpected) -> u64 {
        self.forward
            .upstreams()
            .iter()
            .flat_map(|up| up.all_counters().map(|c| c.unexpected_count(why)).collect::<Vec<_>>())
            .sum()
    }
}

/// The last octet of the first address; 0 without one.
fn last(answer: &Answer) -> u8 {
    let message = &answer.message;
    message.layout().records.first().map_or(0, |record| record.rdata(message.as_bytes())[3])
}
