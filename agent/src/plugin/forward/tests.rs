//! The forward handler against scripted upstreams on loopback sockets.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::*;
use crate::chain::Chain;
use crate::metrics::{Format, Metrics};
use crate::plugin::test::{parsed, request_of};
use crate::server::Dispatch;
use crate::upstream::question::Unexpected;
use crate::wire::{Layout, Name, RecordType, flags, write_u16};

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
}

impl Fake {
    async fn udp(script: impl Fn(&[u8], u64) -> Vec<Reaction> + Send + 'static) -> Self {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
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
        Self { address, asked }
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

/// Also answers over TCP on the same port: in pairs and in reverse order where two queries come together.
async fn with_tcp(fake: &Fake, last: u8) -> Arc<AtomicU64> {
    let listener = TcpListener::bind(fake.address).await.unwrap();
    let connections = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Relaxed);
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
        let (config, said) = parsed(line, Config::parse);
        assert_eq!(said, "");
        let surroundings = Surroundings { workers: 2, ..Surroundings::default() };
        let forward = Forward::new(config, surroundings).unwrap();
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
            answer.message.layout().name.as_name().to_string().trim_end_matches('.'),
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

#[tokio::test]
async fn an_answer_comes_back_whole_and_counted() {
    let fake = Fake::udp(|query, _| {
        let mut message = answer(query, flags::AD | flags::AA, 7);
        // An OPT record with an extended error.
        message[11] = 1;
        let mut options = Vec::new();
        crate::wire::message::push_extended_error(&mut options, 3, "stale");
        message.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, options.len() as u8]);
        message.extend_from_slice(&options);
        vec![Reaction::Send(message)]
    })
    .await;
    let fixture = forward_to(&[&fake], "");
    let answer = fixture.ask("www.example.com").await;
    assert_eq!(
        (last(&answer), answer.outcome.plugin, answer.outcome.rcode),
        (7, Plugin::Forward, Rcode::NOERROR)
    );
    let flags = answer.message.layout().flags;
    assert!(
        flags & flags::AD != 0 && flags & flags::AA != 0 && !answer.message.options().is_empty()
    );
    let metrics = Metrics::new();
    metrics.replace(vec![Arc::clone(&fixture.forward) as _]);
    let text = metrics.text(Format::Prometheus);
    let to = fake.address;
    for line in [
        format!(
            "coredns_proxy_request_duration_seconds_count{{proxy_name=\"forward\",to=\"{to}\",rcode=\"NOERROR\"}} 1\n"
        ),
        format!(
            "coredns_proxy_conn_cache_misses_total{{proxy_name=\"forward\",to=\"{to}\",proto=\"udp\"}} 1\n"
        ),
        format!("nodens_forward_upstream_up{{to=\"{to}\"}} 1\n"),
        "coredns_forward_max_concurrent_rejects_total 0\n".to_owned(),
    ] {
        assert!(text.contains(&line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn forged_answers_are_passed_over_and_counted() {
    let fake = Fake::udp(|query, _| {
        let good = answer(query, 0, 1);
        let mut id = answer(query, 0, 66);
        id[0] ^= 0x55;
        let mut question = answer(query, 0, 66);
        question[13] ^= 1;
        let mut qtype = answer(query, 0, 66);
        let end = Layout::parse(query).unwrap().question_end;
        qtype[end - 3] = 28;
        vec![
            Reaction::SendFromElsewhere(answer(query, 0, 66)),
            Reaction::Send(id),
            Reaction::Send(question),
            Reaction::Send(qtype),
            Reaction::Send(query.to_vec()),
            Reaction::Send(good),
        ]
    })
    .await;
    let fixture = forward_to(&[&fake], "");
    assert_eq!(fixture.last("www.example.com").await, 1);
    assert_eq!(fixture.unexpected(Unexpected::Id), 1);
    assert_eq!(fixture.unexpected(Unexpected::Question), 2);
    assert_eq!(fixture.unexpected(Unexpected::NoResponse), 1);
}

#[tokio::test]
async fn what_is_cut_off_is_asked_for_again_over_tcp() {
    for whole in [true, false] {
        let fake = Fake::udp(move |query, _| {
            let mut message = answer(query, flags::TC, 1);
            if !whole {
                message.resize(5_000, 0);
            }
            vec![Reaction::Send(message)]
        })
        .await;
        let connections = with_tcp(&fake, 2).await;
        let fixture = forward_to(&[&fake], "");
        assert_eq!(fixture.last("one.example").await, 2);
        assert_eq!(fixture.last("two.example").await, 2);
        assert_eq!(
            (connections.load(Relaxed), fake.asked()),
            (1, 2),
            "the connection is used again"
        );
    }
    // Nobody there over TCP: what there is is passed on, and says itself that it is cut off.
    let fake = Fake::udp(|query, _| vec![Reaction::Send(answer(query, flags::TC, 1))]).await;
    let answer = forward_to(&[&fake], "").ask("one.example").await;
    assert!(answer.message.truncated() && last(&answer) == 1);
}

#[tokio::test]
async fn tcp_is_pipelined_and_connections_expire() {
    let fake = Fake::silent().await;
    let connections = with_tcp(&fake, 3).await;
    let fixture = forward_to(&[&fake], "force_tcp\nexpire 100ms");
    let names: Vec<String> = (0..50).map(|n| format!("n{n}.example")).collect();
    let answers = futures_util::future::join_all(names.iter().map(|name| fixture.last(name))).await;
    assert!(answers.iter().all(|&last| last == 3));
    assert_eq!((connections.load(Relaxed), fake.asked()), (1, 0));
    let deadline = Instant::now() + Duration::from_secs(5);
    while connections.load(Relaxed) == 1 {
        assert!(Instant::now() < deadline, "the idle connection is still used");
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert_eq!(fixture.last("again.example").await, 3);
    }
}

#[tokio::test]
async fn a_dead_upstream_is_left_out_and_comes_back() {
    let dead =
        Fake::udp(
            |query, n| if n < 4 { Vec::new() } else { vec![Reaction::Send(answer(query, 0, 1))] },
        )
        .await;
    let good = Fake::good(2).await;
    let fixture = forward_to(&[&dead, &good], "policy sequential\nhedge off\nhealth_check 50ms");
    assert_eq!(fixture.last("one.example").await, 2);
    assert_eq!(fixture.last("two.example").await, 2);
    assert!(fixture.forward.upstreams()[0].health.is_down());
    let begun = Instant::now();
    for n in 0..20 {
        fixture.last(&format!("n{n}.example")).await;
    }
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    // Probes find out that it is back.
    let deadline = Instant::now() + Duration::from_secs(10);
    while fixture.forward.upstreams()[0].health.is_down() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(fixture.last("three.example").await, 1);
}

#[tokio::test]
async fn a_closed_port_costs_no_time() {
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let good = Fake::good(2).await;
    let fixture =
        fixture(&[format!("forward . {closed} {} {{\n policy sequential\n}}", good.address)]);
    let begun = Instant::now();
    assert_eq!(fixture.last("one.example").await, 2);
    assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn late_answers_are_told_from_forged_ones_and_show_life() {
    let slow = Fake::udp(|query, _| {
        vec![Reaction::After(Duration::from_millis(120), answer(query, 0, 1))]
    })
    .await;
    let good = Fake::good(2).await;
    let fixture = forward_to(&[&slow, &good], "policy sequential");
    // It has been quick until now.
    (0..100)
        .for_each(|_| fixture.forward.upstreams()[0].round_trips.record(Duration::from_millis(1)));
    assert_eq!(fixture.last("one.example").await, 2);
    let deadline = Instant::now() + Duration::from_secs(5);
    while fixture.unexpected(Unexpected::Late) == 0 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!fixture.forward.upstreams()[0].health.is_down());
}

#[tokio::test]
async fn hedges_are_bounded() {
    let slow =
        Fake::udp(|query, _| vec![Reaction::After(Duration::from_millis(60), answer(query, 0, 1))])
            .await;
    let good = Fake::good(2).await;
    let fixture = forward_to(&[&slow, &good], "policy sequential");
    let mut second = 0;
    for n in 0..60 {
        // Each time as if it had always been quick.
        (0..100).for_each(|_| {
            fixture.forward.upstreams()[0].round_trips.record(Duration::from_micros(200))
        });
        second += usize::from(fixture.last(&format!("n{n}.example")).await == 2);
    }
    assert!((1..=HEDGES_SAVED as usize + 2).contains(&second), "{second}");
    let off = forward_to(&[&slow, &good], "policy sequential\nhedge off");
    (0..100)
        .for_each(|_| off.forward.upstreams()[0].round_trips.record(Duration::from_micros(200)));
    assert_eq!(off.last("one.example").await, 1);
}

#[tokio::test]
async fn every_upstream_dead_is_servfail_and_says_why() {
    let dead = [Fake::silent().await, Fake::silent().await];
    let fixture = forward_to(&[&dead[0], &dead[1]], "max_connect_attempts 2");
    let begun = Instant::now();
    let answer = fixture.ask("one.example").await;
    assert_eq!((answer.outcome.rcode, answer.outcome.plugin), (Rcode::SERVFAIL, Plugin::Forward));
    assert!(answer.error.as_deref().unwrap().contains("no answer within"));
    assert!(begun.elapsed() < Duration::from_secs(6));
    assert_eq!(dead[0].asked().min(1) + dead[1].asked().min(1), 2);
}

#[tokio::test]
async fn slow_upstreams_have_their_time_where_all_are_down() {
    let slow = |last| {
        Fake::udp(move |query, _| {
            vec![Reaction::After(Duration::from_millis(600), answer(query, 0, last))]
        })
    };
    let (one, other) = (slow(7).await, slow(7).await);
    let fixture = forward_to(&[&one, &other], "");
    for upstream in fixture.forward.upstreams() {
        upstream.health.failed(1);
    }
    assert_eq!(fixture.last("one.example").await, 7);
}

#[tokio::test]
async fn probes_for_loops_stay_within_the_block() {
    let zones = |names: &[&str]| names.iter().map(|name| Name::from_text(name).unwrap()).collect();
    let probed = |line: &str, names: &[&str]| {
        let (config, _) = parsed(line, Config::parse);
        let surroundings = Surroundings { zones: zones(names), ..Surroundings::default() };
        Forward::new(config, surroundings).unwrap().probed_zone().unwrap().to_string()
    };
    let trimmed = |line, names: &[&str]| probed(line, names).trim_end_matches('.').to_owned();
    assert_eq!(trimmed("forward . 192.0.2.1", &["corp.internal"]), "corp.internal");
    assert_eq!(trimmed("forward a.b.test 192.0.2.1", &["corp.internal", "b.test"]), "a.b.test");
    assert_eq!(
        trimmed("forward . 192.0.2.1 {\nexcept corp.internal\n}", &["corp.internal", "b.test"]),
        "b.test"
    );
    assert_eq!(trimmed("forward a.test 192.0.2.1", &["."]), "a.test");
}

#[tokio::test]
async fn failfast_answers_at_once_while_all_are_down() {
    let dead = Fake::silent().await;
    let fixture = forward_to(&[&dead], "failfast_all_unhealthy_upstreams\nhealth_check 1h");
    fixture.forward.upstreams()[0].health.failed(1);
    let asked = dead.asked();
    assert_eq!(fixture.ask("one.example").await.outcome.rcode, Rcode::SERVFAIL);
    assert_eq!(dead.asked(), asked);
    assert_eq!(fixture.forward.broken.value(), 1);
}

#[tokio::test]
async fn failover_and_next_follow_their_codes() {
    let refusing = Fake::udp(|query, _| vec![Reaction::Send(error(query, Rcode::REFUSED))]).await;
    let nothing = Fake::udp(|query, _| vec![Reaction::Send(error(query, Rcode::NXDOMAIN))]).await;
    let good = Fake::good(3).await;
    let plain = forward_to(&[&refusing, &good], "policy sequential");
    assert_eq!(plain.ask("one.example").await.outcome.rcode, Rcode::REFUSED);
    let failover = forward_to(&[&refusing, &good], "policy sequential\nfailover REFUSED");
    assert_eq!(failover.last("one.example").await, 3);
    let both = forward_to(&[&refusing, &refusing], "policy sequential\nfailover REFUSED");
    assert_eq!(both.ask("one.example").await.outcome.rcode, Rcode::REFUSED);
    let lines = |to: &Fake| {
        [
            format!("forward . {} {{\n next NXDOMAIN\n}}", nothing.address),
            format!("forward . {}", to.address),
        ]
    };
    assert_eq!(fixture(&lines(&good)).last("one.example").await, 3);
    let alone = forward_to(&[&nothing], "next NXDOMAIN");
    assert_eq!(alone.ask("one.example").await.outcome.rcode, Rcode::NXDOMAIN);
    let nodata = Fake::udp(|query, _| vec![Reaction::Send(error(query, Rcode::NOERROR))]).await;
    let lines =
        [format!("forward . {} {{\n next_on_nodata\n}}", nodata.address), lines(&good)[1].clone()];
    assert_eq!(fixture(&lines).last("one.example").await, 3);
}

#[tokio::test]
async fn a_server_without_edns_is_asked_without() {
    let old = Fake::udp(|query, _| {
        vec![Reaction::Send(if query[11] == 0 {
            answer(query, 0, 4)
        } else {
            // The bare header.
            let mut message = error(query, Rcode::FORMERR)[..12].to_vec();
            message[4..].fill(0);
            message
        })]
    })
    .await;
    let fixture = forward_to(&[&old], "");
    assert_eq!(fixture.last("one.example").await, 4);
    assert_eq!(old.asked(), 2);
    // BADVERS has half of its code in an OPT record.
    let confused = Fake::udp(|query, _| {
        let mut message = error(query, Rcode::NOERROR);
        message[11] = 1;
        message.extend_from_slice(&[0, 0, 41, 4, 208, 1, 0, 0, 0, 0, 0]);
        vec![Reaction::Send(if query[11] == 0 { answer(query, 0, 5) } else { message })]
    })
    .await;
    assert_eq!(forward_to(&[&confused], "").last("one.example").await, 5);
    // One that always says so is believed.
    let broken = Fake::udp(|query, _| vec![Reaction::Send(error(query, Rcode::FORMERR))]).await;
    assert_eq!(forward_to(&[&broken], "").ask("one.example").await.outcome.rcode, Rcode::FORMERR);
}

#[tokio::test]
async fn zones_and_exceptions_are_kept() {
    let good = Fake::good(1).await;
    let fixture =
        fixture(&[format!("forward example.org {} {{\n except no.example.org\n}}", good.address)]);
    assert_eq!(fixture.last("www.example.org").await, 1);
    for name in ["www.no.example.org", "example.com"] {
        assert_eq!(
            fixture.ask(name).await.outcome,
            Outcome::new(Plugin::Server, Rcode::REFUSED),
            "{name}"
        );
    }
}

#[tokio::test]
async fn max_concurrent_refuses_what_is_too_much() {
    let slow = Fake::udp(|query, _| {
        vec![Reaction::After(Duration::from_millis(200), answer(query, 0, 1))]
    })
    .await;
    let fixture = forward_to(&[&slow], "max_concurrent 2");
    let answers = futures_util::future::join_all(
        ["a.example", "b.example", "c.example"].map(|name| fixture.ask(name)),
    )
    .await;
    let refused = answers.iter().filter(|answer| answer.outcome.rcode == Rcode::REFUSED).count();
    assert_eq!((refused, fixture.forward.rejected.value()), (1, 1));
    assert_eq!(fixture.last("d.example").await, 1, "places are given back");
}

#[tokio::test]
async fn random_case_is_checked_and_servers_that_do_not_keep_it_are_asked_over_tcp() {
    let good = Fake::good(1).await;
    let fixture = forward_to(&[&good], "case_randomization");
    let name = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.example";
    assert_eq!(fixture.last(name).await, 1);
    let lower =
        Fake::udp(|query, _| vec![Reaction::Send(answer(&query.to_ascii_lowercase(), 0, 1))]).await;
    with_tcp(&lower, 2).await;
    assert_eq!(forward_to(&[&lower], "case_randomization").last(name).await, 2);
}

#[tokio::test]
async fn a_fresh_port_for_every_query() {
    let ports = Arc::new(std::sync::Mutex::new(std::collections::HashSet::new()));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let seen = Arc::clone(&ports);
    tokio::spawn(async move {
        let mut buf = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut buf).await {
            seen.lock().unwrap().insert(from.port());
            let _ = socket.send_to(&answer(&buf[..len], 0, 1), from).await;
        }
    });
    for (options, range) in [("source_port fresh", 30..=40), ("", 2..=8)] {
        let fixture = fixture(&[format!("forward . {address} {{\n{options}\n}}")]);
        for n in 0..40 {
            assert_eq!(fixture.last(&format!("n{n}.example")).await, 1);
        }
        let ports = std::mem::take(&mut *ports.lock().unwrap()).len();
        assert!(range.contains(&ports), "{ports} ports");
    }
}

#[tokio::test]
async fn new_upstreams_of_a_file_take_over_once_they_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resolv.conf");
    let old = Fake::good(1).await;
    let new = Fake::udp(
        |query, n| if n < 2 { Vec::new() } else { vec![Reaction::Send(answer(query, 0, 2))] },
    )
    .await;
    let write = |fakes: &[&Fake]| {
        let text: String =
            fakes.iter().map(|fake| format!("nameserver {}\n", fake.address)).collect();
        std::fs::write(folder.path().join("new"), text).unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
    };
    write(&[&old]);
    let fixture = fixture(&[format!("forward . {}", path.display())]);
    assert_eq!(fixture.last("a.example").await, 1);
    write(&[&new]);
    let deadline = Instant::now() + Duration::from_secs(15);
    let mut n = 0;
    while fixture.last(&format!("n{n}.example")).await != 2 {
        n += 1;
        assert!(Instant::now() < deadline, "the new server is not used");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(new.asked() >= 3);
    // A file without servers changes nothing.
    write(&[]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(fixture.last("b.example").await, 2);
}

#[tokio::test]
async fn nobody_to_forward_to_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resolv.conf");
    let fixture = fixture(&[format!("forward . {}", path.display())]);
    let answer = fixture.ask("one.example").await;
    assert_eq!(answer.outcome.rcode, Rcode::SERVFAIL);
    let error = answer.error.unwrap();
    assert!(error.contains("cannot be read") && error.contains("name an address"), "{error}");
    // It appears later.
    let good = Fake::good(5).await;
    std::fs::write(&path, format!("nameserver {}\n", good.address)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while fixture.last("one.example").await != 5 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Two servers that point at one another, and back.
#[tokio::test]
async fn a_loop_is_set_aside_and_returns_when_it_is_gone() {
    let guard = Arc::new(LoopGuard::new());
    let looping = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let (ours, on) = (Arc::clone(&guard), Arc::clone(&looping));
    let other = Fake::udp(move |query, _| {
        if on.load(Relaxed) {
            // What it is asked it asks us.
            let parsed = crate::wire::Query::parse(query).unwrap();
            let mut buf = Vec::new();
            let mut reply = Reply::begin(&mut buf, &parsed, false);
            let name = parsed.name_as_asked().to_string();
            request_of(&name, parsed.qtype(), |request| {
                crate::plugin::loop_::Loop(Arc::clone(&ours)).serve(
                    request,
                    &mut reply,
                    &mut Local::new(0),
                )
            });
            reply.finish(None);
        }
        vec![Reaction::Send(error(query, Rcode::NXDOMAIN))]
    })
    .await;
    let good = Fake::good(1).await;
    let to = format!("forward . {} {}", other.address, good.address);
    let (config, _) = parsed(&to, Config::parse);
    let surroundings = Surroundings { workers: 1, loops: Some(guard), ..Surroundings::default() };
    let forward = Forward::new(config, surroundings).unwrap();
    tokio::spawn(Forward::background(Arc::downgrade(&forward)));
    let until = async |wanted: bool, deadline: u64| {
        let deadline = Instant::now() + Duration::from_secs(deadline);
        while forward.upstreams()[0].health.is_looping() != wanted {
            assert!(Instant::now() < deadline, "looping is not {wanted}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    until(true, 5).await;
    assert!(!forward.upstreams()[1].health.is_looping());
    looping.store(false, Relaxed);
    forward.suspicious.store(true, Relaxed);
    forward.doubt();
    until(false, 5).await;
}

#[tokio::test]
async fn all_upstreams_looping_is_servfail_at_once() {
    let good = Fake::good(1).await;
    let fixture = forward_to(&[&good], "");
    fixture.forward.upstreams()[0].health.set_looping(true);
    let answer = fixture.ask("one.example").await;
    assert_eq!((answer.outcome.rcode, good.asked()), (Rcode::SERVFAIL, 0));
    assert!(answer.error.unwrap().contains("come back here"));
    let waiting = Forwarding(Arc::clone(&fixture.forward)).not_ready().unwrap();
    assert!(waiting.contains(&good.address.to_string()), "{waiting}");
}
