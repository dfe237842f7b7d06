//! Connections that misbehave, on either side: upstreams that end or forget them, clients that hoard, drip and flood, pods
//! that hold the health port, ports that are taken.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use tests::api::certificates::Authority;
use tests::client::Question;
use tests::process::{self, Nodens, Ready, Setup};
use tests::{http, poll};

const SOON: Duration = Duration::from_secs(20);

/// Answers without waiting for anything.
const TEMPLATE: &str = "example.test.:@dns@ {
    bind 127.0.0.1
    timeouts {
        read @read@
    }
    template IN A example.test {
        answer \"{{ .Name }} 60 IN A 192.0.2.1\"
    }
    ready 127.0.0.1:@ready@
    prometheus 127.0.0.1:@metrics@
}
";

const FORCE_TCP: &str = "test.:@dns@ {
    bind 127.0.0.1
    forward . @upstream@ {
        force_tcp
    }
    prometheus 127.0.0.1:@metrics@
}
";

const FORWARD_TLS: &str = "test.:@dns@ {
    bind 127.0.0.1
    forward . tls://@upstream@ {
        tls @ca@
    }
    prometheus 127.0.0.1:@metrics@
}
";

/// An upstream over TCP or TLS that answers every query with no records, and so many queries over a connection.
struct Upstream {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    /// Queries of one connection that are answered; then it is closed.
    limit: AtomicUsize,
    /// It is not closed, but what comes then is swallowed.
    silent: AtomicBool,
    /// Connections that exist are answered no more, though they stay open.
    forgets: AtomicUsize,
    connections: AtomicUsize,
    tls: Option<Arc<rustls::ServerConfig>>,
    ended: AtomicBool,
}

impl Upstream {
    fn start(limit: usize, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            limit: AtomicUsize::new(limit),
            silent: AtomicBool::new(false),
            forgets: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            tls,
            ended: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.ended.load(SeqCst) {
                    return;
                }
                let number = shared.connections.fetch_add(1, SeqCst);
                let state = Arc::clone(&shared);
                std::thread::spawn(move || {
                    let _ = stream.set_nodelay(true);
                    let _ = match &state.tls {
                        Some(config) => {
                            let session =
                                rustls::ServerConnection::new(Arc::clone(config)).unwrap();
                            state.serve(rustls::StreamOwned::new(session, stream), number)
                        }
                        None => state.serve(stream, number),
                    };
                });
            }
        });
        Self { address, state }
    }

    /// From now on all connections that exist swallow what comes, as when a firewall or a rebooted node has forgotten them.
    fn forget(&self) {
        self.state.forgets.store(self.state.connections.load(SeqCst), SeqCst);
    }

    /// Answers so many queries of a connection, and swallows the rest.
    fn silent_after(limit: usize) -> Self {
        let upstream = Self::start(limit, None);
        upstream.state.silent.store(true, SeqCst);
        upstream
    }

    fn connections(&self) -> usize {
        self.state.connections.load(SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.state.ended.store(true, SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

impl State {
    fn serve(&self, mut stream: impl Read + Write, number: usize) -> std::io::Result<()> {
        let mut answered = 0;
        while answered < self.limit.load(SeqCst) {
            answered += 1;
            let mut len = [0; 2];
            stream.read_exact(&mut len)?;
            let mut message = vec![0; usize::from(u16::from_be_bytes(len))];
            stream.read_exact(&mut message)?;
            if number < self.forgets.load(SeqCst) {
                // Until the client closes it.
                return std::io::copy(&mut stream, &mut std::io::sink()).map(drop);
            }
            // QR and RA: the query as its own answer.
            message[2] |= 0x80;
            message[3] |= 0x80;
            stream.write_all(&[&len[..], &message].concat())?;
            stream.flush()?;
        }
        match self.silent.load(SeqCst) {
            true => std::io::copy(&mut stream, &mut std::io::sink()).map(drop),
            false => Ok(()),
        }
    }
}

/// Sends `count` queries at once, from sockets of their own, and counts answers by response code.
fn ask_at_once(nodens: &Nodens, round: usize, count: usize) -> Vec<u16> {
    std::thread::scope(|scope| {
        let ask = |n: usize| {
            let client = nodens.client().within(SOON);
            move || {
                let answer = client.ask(&format!("n{n}.r{round}.test."), RecordType::A);
                answer.map_or(u16::MAX, |answer| answer.message.metadata.response_code.into())
            }
        };
        let threads: Vec<_> = (0..count).map(|n| scope.spawn(ask(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Rounds of many queries at once all get their answers, and the upstream's closes are no failures.
fn loses_none(nodens: &Nodens, upstream: &Upstream, limit: usize) {
    for round in 0..3 {
        let codes = ask_at_once(nodens, round, 100);
        let lost = codes.iter().filter(|code| **code != 0).count();
        assert_eq!(lost, 0, "of {} in round {round}, {limit} a connection: {codes:?}", codes.len());
    }
    // Tries that take too long on a loaded machine are counted elsewhere.
    assert_eq!(nodens.metrics().sum("nodens_forward_errors_total", &[]), 0.0);
    assert!(upstream.connections() >= 300 / limit);
}

#[test]
fn an_upstream_that_ends_connections_under_way_loses_no_query() {
    for limit in [1, 20] {
        let upstream = Upstream::start(limit, None);
        let nodens = Setup::new(FORCE_TCP).word("upstream", upstream.address).start();
        loses_none(&nodens, &upstream, limit);
    }
}

#[test]
fn nor_does_one_over_tls() {
    let authority = Authority::new("streams").unwrap();
    let upstream = Upstream::start(1, Some(authority.server_config().unwrap()));
    let setup = Setup::new(FORWARD_TLS).file("ca.pem", authority.pem());
    let nodens = setup.word("upstream", upstream.address).word("ca", "ca.pem").start();
    loses_none(&nodens, &upstream, 1);
}

#[test]
fn a_limit_is_learnt() {
    let upstream = Upstream::start(1, None);
    let nodens = Setup::new(FORCE_TCP)
        .word("upstream", upstream.address)
        .arguments(&["--workers=1"])
        .start();
    loses_none(&nodens, &upstream, 1);
    // Once it is known, a query is not written to a connection that has had its one: no more connections than queries.
    let before = upstream.connections();
    for n in 0..20 {
        let answer = nodens.client().ask(&format!("one{n}.test."), RecordType::A).unwrap();
        assert_eq!(u16::from(answer.message.metadata.response_code), 0);
    }
    let opened = upstream.connections() - before;
    assert!((20..=24).contains(&opened), "{opened} connections for 20 queries");
}

#[test]
fn a_limit_that_has_gone_is_forgotten() {
    let upstream = Upstream::start(2, None);
    let nodens = Setup::new(FORCE_TCP)
        .word("upstream", upstream.address)
        .arguments(&["--workers=1"])
        .start();
    loses_none(&nodens, &upstream, 2);
    upstream.state.limit.store(usize::MAX, SeqCst);
    let one_by_one = || {
        let before = upstream.connections();
        for n in 0..20 {
            nodens.client().ask(&format!("one{n}.test."), RecordType::A).unwrap();
        }
        upstream.connections() - before
    };
    poll::wait_for("one connection for all", SOON, || one_by_one() == 0);
    assert!(ask_at_once(&nodens, 4, 100).iter().all(|code| *code == 0));
}

#[test]
fn an_upstream_that_answers_only_the_first_of_a_connection_loses_no_query() {
    for limit in [1, 7] {
        let upstream = Upstream::silent_after(limit);
        let nodens = Setup::new(FORCE_TCP).word("upstream", upstream.address).start();
        for round in 0..3 {
            let codes = ask_at_once(&nodens, round, 60);
            assert!(codes.iter().all(|code| *code == 0), "{limit}, round {round}: {codes:?}");
        }
        // Once that is known, a query waits for no time-out: no more than one of twenty, which tests it.
        let begun = Instant::now();
        for n in 0..20 {
            nodens.client().ask(&format!("one{n}.test."), RecordType::A).unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "{limit}: {:?}", begun.elapsed());
    }
}

#[test]
fn a_pooled_connection_that_is_silently_dead_costs_one_try() {
    let upstream = Upstream::start(usize::MAX, None);
    let nodens = Setup::new(FORCE_TCP).word("upstream", upstream.address).start();
    assert!(ask_at_once(&nodens, 0, 40).iter().all(|code| *code == 0));
    upstream.forget();
    let codes = ask_at_once(&nodens, 1, 40);
    assert!(codes.iter().all(|code| *code == 0), "{codes:?}");
}

fn connect_from(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    TcpStream::from(socket)
}

/// A query with its length in front.
fn framed(name: &str) -> Vec<u8> {
    let query = Question::new(name, RecordType::A).to_bytes();
    [&(query.len() as u16).to_be_bytes(), query.as_slice()].concat()
}

/// True if a new connection from `from` is answered.
fn is_answered(from: Ipv4Addr, to: SocketAddr) -> bool {
    let mut stream = connect_from(from, to);
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(&framed("new.example.test.")).is_ok()
        && stream.read_exact(&mut [0; 14]).is_ok()
}

#[test]
fn hoarders_stay_within_the_budget_and_new_clients_get_in() {
    const MIB: u64 = 1 << 20;
    let nodens = Setup::new(TEMPLATE).word("read", "20s").start();
    assert!(is_answered(Ipv4Addr::new(127, 0, 1, 1), nodens.dns()));
    let before = nodens.resident();
    // 2,048 times 64,000 bytes of a message that is never finished would be 125 MiB.
    let mut hoarders: Vec<TcpStream> = (0..2_048)
        .map(|n| connect_from(Ipv4Addr::new(127, 0, 2, n as u8 % 16), nodens.dns()))
        .collect();
    let mut message = 65_000_u16.to_be_bytes().to_vec();
    message.resize(64_000, 0);
    std::thread::scope(|scope| {
        for hoarder in hoarders.chunks_mut(256) {
            scope.spawn(|| {
                for stream in hoarder {
                    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
                    // It is closed when the client has its share.
                    let _ = stream.write_all(&message);
                }
            });
        }
        for n in 1..=20 {
            assert!(is_answered(Ipv4Addr::new(127, 0, 3, n), nodens.dns()), "new client {n}");
        }
    });
    // A server that has taken too much by then is not waited for: what follows fails.
    let is_over = || nodens.peak_resident() >= before + 72 * MIB;
    nodens.wait_for_metrics("hoarders to be refused", SOON, |metrics| {
        is_over() || metrics.sum("nodens_tcp_refused_total", &[]) > 300.0
    });
    let peak = nodens.peak_resident();
    assert!(peak < before + 72 * MIB, "{} MiB, {} before", peak / MIB, before / MIB);
    drop(hoarders);
    nodens.wait_for_metrics("all connections to be gone", SOON, |metrics| {
        metrics.sum("nodens_tcp_buffer_bytes", &[]) == 0.0
    });
    // The allocator gives it back to the kernel some 10 s later.
    poll::wait_for("memory to be given back", Duration::from_secs(60), || {
        nodens.resident() < before + 24 * MIB
    });
}

#[test]
fn a_message_that_drips_ends_at_the_read_time_out() {
    let nodens = Setup::new(TEMPLATE).word("read", "1s").start();
    let mut stream = connect_from(Ipv4Addr::LOCALHOST, nodens.dns());
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    // A complete query first: the time-out is that of each message.
    stream.write_all(&framed("whole.example.test.")).unwrap();
    let query = framed("drip.example.test.");
    let begun = Instant::now();
    // A byte every 100 ms or so keeps it under way for more than 3 s.
    let mut bytes = query.iter();
    let mut answers = Vec::new();
    loop {
        let mut buffer = [0; 512];
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => answers.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if let Some(byte) = bytes.next() {
                    let _ = stream.write_all(&[*byte]);
                }
            }
            Err(_) => break,
        }
        assert!(begun.elapsed() < SOON, "it is still open");
    }
    assert!(bytes.next().is_some(), "the whole query was taken");
    let whole = usize::from(u16::from_be_bytes([answers[0], answers[1]]));
    assert_eq!(answers.len(), whole + 2, "one answer, to the complete query");
}

/// What others wait for beside a client that pipelines is counted in answers to that client, not in time.
#[test]
fn a_client_that_pipelines_does_not_hold_up_datagrams() {
    let nodens = Setup::new(TEMPLATE).word("read", "3s").arguments(&["--workers=1"]).start();
    let answered = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let queries = framed("pipelined.example.test.").repeat(100);
    std::thread::scope(|scope| {
        for thread in 0..2_u8 {
            let (answered, stop, queries, dns) = (&answered, &stop, &queries, nodens.dns());
            scope.spawn(move || {
                let mut streams: Vec<(TcpStream, usize)> = (0..120)
                    .map(|_| (connect_from(Ipv4Addr::new(127, 0, 4, 1 + thread), dns), 0))
                    .collect();
                streams.iter().for_each(|(stream, _)| stream.set_nonblocking(true).unwrap());
                let mut buffer = vec![0; 65_536];
                while !stop.load(SeqCst) {
                    for (stream, at) in &mut streams {
                        let written = stream.write(&queries[*at..]).unwrap_or(0);
                        *at = (*at + written) % queries.len();
                        answered.fetch_add(stream.read(&mut buffer).unwrap_or(0), SeqCst);
                    }
                }
            });
        }
        poll::wait_for("the flood", SOON, || answered.load(SeqCst) > 10_000_000);
        let client = nodens.client().within(SOON);
        let mut between: Vec<usize> = (0..41)
            .map(|n| {
                let before = answered.load(SeqCst);
                let answer = client.ask(&format!("u{n}.example.test."), RecordType::A).unwrap();
                assert_eq!(answer.data(RecordType::A), ["192.0.2.1"]);
                answered.load(SeqCst) - before
            })
            .collect();
        stop.store(true, SeqCst);
        between.sort_unstable();
        // Some 60 bytes an answer. All connections together would have some 20 MB under way.
        assert!(between[20] < 3_000_000, "bytes to others while a datagram waits: {between:?}");
    });
}

const HEALTH: &str = "example.test.:@dns@ {
    bind 127.0.0.1
    whoami
    health 127.0.0.1:@port@
}
";

#[test]
fn a_pod_cannot_starve_the_probe_of_health() {
    let nodens = Setup::new(&HEALTH.replace("@port@", "@health@")).ready(Ready::Answer).start();
    nodens.wait_for_log("serving /health on", SOON);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, nodens.ports().health));
    let mut idle: Vec<TcpStream> =
        (0..200).map(|_| connect_from(Ipv4Addr::new(127, 0, 0, 9), address)).collect();
    for _ in 0..8 {
        idle.extend((0..7).map(|_| connect_from(Ipv4Addr::new(127, 0, 0, 9), address)));
        let reply = http::get(address, "/health", SOON).unwrap();
        assert_eq!(reply.status, 200);
    }
    // Idle ones end soon, even those that have a place.
    poll::wait_for("idle connections to end", SOON, || {
        idle.retain_mut(|stream| {
            stream.set_nonblocking(true).unwrap();
            !matches!(stream.read(&mut [0]), Ok(0))
        });
        idle.is_empty()
    });
}

#[test]
fn a_port_that_was_taken_at_the_start_is_tried_again() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let setup = Setup::new(HEALTH).arguments(&["--socket", "@folder@/nodens.sock"]);
    let nodens = setup.word("port", address.port()).ready(Ready::Answer).start();
    let socket = nodens.folder().join("nodens.sock");
    let status = || process::run(&["status", "--socket", &socket.to_string_lossy()]).1;
    nodens.wait_for_log("cannot serve /health on", SOON);
    poll::wait_for("the status to say so", SOON, || status().contains("cannot serve /health on"));
    drop(taken);
    nodens.wait_for_log("serving /health on", SOON);
    assert_eq!(http::get(address, "/health", SOON).unwrap().status, 200);
    poll::wait_for("the status to be good", SOON, || status().starts_with("OK"));
}
