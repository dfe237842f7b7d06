//! Upstreams that misbehave, and what clients get all the same.

#[path = "upstream_faults/refreshes.rs"]
mod refreshes;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use tests::client::{Answer, Client, Question};
use tests::poll;
use tests::ports;
use tests::process::{Nodens, Setup};
use tests::upstream::{Act, Transport, Upstream};

/// More than anything here takes on a loaded machine.
const LONG: Duration = Duration::from_secs(20);

const COREFILE: &str = ".:@dns@ {
    bind 127.0.0.1
    errors
    prometheus 127.0.0.1:@metrics@
    @before@
    forward . @upstreams@ {
        @options@
    }
    cache 30 {
        servfail 5s
    }
}
@more@
";

fn zone() -> Upstream {
    let mut text =
        "$ORIGIN test.\n$TTL 60\n@ IN SOA ns.test. admin.test. 1 3600 600 86400 60\n".to_owned();
    for n in 0..250 {
        text.push_str(&format!("w{n} IN A 192.0.2.{n}\n"));
    }
    Upstream::with_zone(&text)
}

/// Truncates the zone's names over UDP, and over TCP does `over_tcp`. The root, which the harness asks for, is whole.
fn truncating(over_tcp: Act) -> Upstream {
    let upstream = zone();
    upstream.on_query(move |seen| match seen.transport {
        _ if seen.name == "." => Act::Answer,
        Transport::Udp => Act::Truncate,
        Transport::Tcp => over_tcp.clone(),
    });
    upstream
}

/// `before` stands before the forward line, `more` behind the block.
fn setup(upstreams: &[SocketAddr], options: &str, before: &str, more: &str) -> Setup {
    let list: Vec<String> = upstreams.iter().map(SocketAddr::to_string).collect();
    let text = COREFILE.replace("@before@", before).replace("@more@", more);
    Setup::new(&text).word("upstreams", list.join(" ")).word("options", options)
}

fn start(upstreams: &[&Upstream], options: &str) -> Nodens {
    let list: Vec<_> = upstreams.iter().map(|upstream| upstream.address()).collect();
    setup(&list, options, "", "").start()
}

fn www(n: usize) -> String {
    format!("w{n}.test.")
}

fn rcode(answer: &Answer) -> ResponseCode {
    answer.message.metadata.response_code
}

fn has_extended_error(answer: &Answer) -> bool {
    let edns = answer.message.edns.as_ref();
    edns.is_some_and(|edns| {
        matches!(edns.option(EdnsCode::Unknown(15)), Some(EdnsOption::Unknown(15, _)))
    })
}

fn asked(upstream: &Upstream) -> usize {
    upstream.seen().iter().filter(|seen| seen.kind == RecordType::A).count()
}

/// Q1: over TCP a truncated message is no answer; over UDP it makes the client come by TCP.
#[test]
fn nothing_truncated_leaves_over_tcp() {
    for over_tcp in [Act::Close, Act::Drop, Act::Raw(truncated_over_tcp())] {
        let upstream = truncating(over_tcp.clone());
        let nodens = start(&[&upstream], "");
        let client = nodens.client().within(LONG);
        let question = Question::new("w1.test.", RecordType::A);
        let by_udp = client.udp(&question).unwrap();
        assert!(by_udp.is_truncated() || rcode(&by_udp) == ResponseCode::ServFail, "{over_tcp:?}");
        let by_tcp = client.tcp(&question).unwrap();
        assert_eq!(rcode(&by_tcp), ResponseCode::ServFail, "{over_tcp:?}");
        assert!(!by_tcp.is_truncated() && has_extended_error(&by_tcp), "{over_tcp:?}");
        nodens.wait_for_log("truncated", LONG);
        // Nothing of it was cached.
        upstream.always(Act::Answer);
        let answer = client.tcp(&question).unwrap();
        assert_eq!(answer.data(RecordType::A), ["192.0.2.1"], "{over_tcp:?}");
    }
}

/// An answer to w1.test with TC, as one would be sent over TCP.
fn truncated_over_tcp() -> Vec<u8> {
    let mut message = Question::new("w1.test.", RecordType::A).without_edns().to_bytes();
    message[0] = 0;
    message[1] = 0;
    message[2] |= 0x82;
    message
}

/// What came before the cut is no answer over TCP either.
#[test]
fn a_part_of_an_answer_is_none_over_tcp() {
    let mut part = truncated_over_tcp();
    part[7] = 20;
    for last in 1..=20 {
        part.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, last]);
    }
    let upstream = truncating(Act::Raw(part));
    let nodens = start(&[&upstream], "");
    let question = Question::new("w1.test.", RecordType::A);
    let answer = nodens.client().within(LONG).tcp(&question).unwrap();
    assert_eq!(rcode(&answer), ResponseCode::ServFail);
    assert!(answer.message.answers.is_empty() && !answer.is_truncated());
    assert!(has_extended_error(&answer));
}

/// Q1: the next upstream is asked.
#[test]
fn another_upstream_has_the_whole_answer() {
    let (broken, good) = (truncating(Act::Close), zone());
    let nodens = start(&[&broken, &good], "policy sequential");
    let answer = nodens.client().udp(&Question::new("w7.test.", RecordType::A)).unwrap();
    assert_eq!((answer.data(RecordType::A), answer.tcp), (vec!["192.0.2.7".to_owned()], false));
}

/// However many upstreams accept TCP and are silent, the client soon hears that the answer is truncated; the last one that has
/// the whole answer is asked in time.
#[test]
fn silent_streams_do_not_add_up() {
    let silent: Vec<Upstream> = (0..3).map(|_| truncating(Act::Drop)).collect();
    let mut list: Vec<&Upstream> = silent.iter().collect();
    let question = Question::new("w1.test.", RecordType::A);
    let nodens = start(&list, "policy sequential");
    let begun = Instant::now();
    let answer = nodens.client().within(LONG).udp(&question).unwrap();
    assert!(answer.is_truncated(), "{:?}", rcode(&answer));
    assert!(begun.elapsed() < Duration::from_millis(3_500), "{:?}", begun.elapsed());
    let good = zone();
    list.truncate(2);
    list.push(&good);
    let nodens = start(&list, "policy sequential");
    let answer = nodens.client().within(LONG).tcp(&question).unwrap();
    assert_eq!(answer.data(RecordType::A), ["192.0.2.1"]);
}

/// What a server says about EDNS is no answer to the client if it then says nothing.
#[test]
fn a_server_that_refuses_edns_and_falls_silent_has_not_answered() {
    let odd = zone();
    odd.on_query(|seen| match seen.bytes.get(11) {
        _ if seen.name == "." => Act::Answer,
        // One additional record: the OPT.
        Some(1) => Act::NoEdns,
        _ => Act::Drop,
    });
    let question = Question::new("w1.test.", RecordType::A);
    let nodens = start(&[&odd], "");
    let answer = nodens.client().within(LONG).udp(&question).unwrap();
    assert_eq!(rcode(&answer), ResponseCode::ServFail);
    assert!(has_extended_error(&answer));
    let good = zone();
    let nodens = start(&[&odd, &good], "policy sequential");
    let answer = nodens.client().within(LONG).udp(&question).unwrap();
    assert_eq!(answer.data(RecordType::A), ["192.0.2.1"]);
}

/// Q2: a handler that makes its own answer of a truncated one has none.
#[test]
fn an_alias_of_a_truncated_answer_is_a_failure() {
    let upstream = truncating(Act::Close);
    let before = "template IN A alias.example {\n answer \"{{ .Name }} 60 IN CNAME w3.test.\"\n }
    rewrite name exact other.example w4.test";
    let list = [upstream.address()];
    let nodens = setup(&list, "", before, "").start();
    for name in ["alias.example.", "other.example."] {
        let question = Question::new(name, RecordType::A);
        for answer in [nodens.client().udp(&question), nodens.client().tcp(&question)] {
            let answer = answer.unwrap();
            assert_eq!(rcode(&answer), ResponseCode::ServFail, "{name}");
            assert!(has_extended_error(&answer), "{name}");
        }
    }
}

/// Q17: a burst of one dead name beside good ones.
#[test]
fn one_dead_name_takes_no_upstream_down() {
    let upstreams = [zone(), zone()];
    for upstream in &upstreams {
        upstream.on_query(
            |seen| {
                if seen.name.starts_with("dead") { Act::Drop } else { Act::Answer }
            },
        );
    }
    let mut nodens = start(&[&upstreams[0], &upstreams[1]], "failfast_all_unhealthy_upstreams");
    let stop = AtomicBool::new(false);
    let failed = AtomicUsize::new(0);
    thread::scope(|scope| {
        for part in 0..4 {
            let (nodens, stop, failed) = (&nodens, &stop, &failed);
            scope.spawn(move || {
                for n in (0..).take_while(|_| !stop.load(Relaxed)) {
                    // Not in the zone: each is a miss, and a good answer.
                    let name = format!("n{part}x{n}.test.");
                    let answer = nodens.client().ask(&name, RecordType::A);
                    let good = answer.is_ok_and(|answer| rcode(&answer) == ResponseCode::NXDomain);
                    failed.fetch_add(usize::from(!good), Relaxed);
                    poll::pause(Duration::from_millis(2));
                }
            });
        }
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for burst in 0..4 {
            for n in 0..50 {
                let name = format!("dead{burst}x{n}.test.");
                let bytes = Question::new(&name, RecordType::A).to_bytes();
                socket.send_to(&bytes, nodens.dns()).unwrap();
            }
            poll::pause(Duration::from_millis(500));
        }
        // Until the last of them has ended.
        poll::pause(Duration::from_millis(4_500));
        stop.store(true, Relaxed);
    });
    assert_eq!(failed.load(Relaxed), 0);
    // Nor does one without any other query: the probe is answered.
    let _ = nodens.client().ask("dead.test.", RecordType::A);
    let log = nodens.stop_for_log(LONG);
    assert!(!log.contains("does not answer"), "{log}");
}

/// Q17: it answers queries, but not the probe's.
#[test]
fn an_upstream_that_does_not_answer_probes_is_used_again() {
    let (upstream, other) = (zone(), zone());
    let deaf = Arc::new(AtomicBool::new(true));
    let is_deaf = Arc::clone(&deaf);
    upstream.on_query(move |seen| match seen.kind {
        RecordType::NS => Act::Drop,
        _ if is_deaf.load(Relaxed) => Act::Drop,
        _ => Act::Answer,
    });
    let nodens = start(&[&upstream, &other], "policy sequential");
    let mut n = 0;
    let mut ask = || {
        n += 1;
        let answer = nodens.client().ask(&www(n % 250), RecordType::A).unwrap();
        assert_eq!(answer.data(RecordType::A), [format!("192.0.2.{}", n % 250)]);
    };
    nodens
        .log()
        .wait_for_line_while("down", LONG, &mut ask, |line| line.contains("does not answer"));
    deaf.store(false, Relaxed);
    nodens.log().wait_for_line_while("up", LONG, &mut ask, |line| line.contains("answers again"));
}

/// Q18: a dead stub zone costs other zones nothing, however often it is asked.
#[test]
fn a_dead_zone_does_not_starve_others() {
    let (dead, good) = (zone(), zone());
    dead.always(Act::Drop);
    let more = format!(
        "dead.test:@dns@ {{\n bind 127.0.0.1\n forward . {}\n cache 30\n}}",
        dead.address()
    );
    let nodens = setup(&[good.address()], "", "", &more).start();
    let (stop, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            for n in (0..).take_while(|_| !stop.load(Relaxed)) {
                let question = Question::new(&format!("n{n}.dead.test."), RecordType::A);
                let _ = socket.send_to(&question.to_bytes(), nodens.dns());
                sent.fetch_add(1, Relaxed);
                // It is the server's places that are to be short, and not the kernel's queue.
                let is_full = || ports::queued(nodens.dns().port()) > 64 << 10;
                if n % 30 == 29 {
                    poll::pause(Duration::from_millis(10));
                    while is_full() && !stop.load(Relaxed) {
                        poll::pause(Duration::from_millis(2));
                    }
                }
            }
        });
        // Until more of them wait than there are places for all queries.
        poll::wait_for("the flood", LONG * 3, || sent.load(Relaxed) > 12_000);
        let begun = Instant::now();
        let ask = |n| Client::new(nodens.dns()).ask(&www(n), RecordType::A);
        let in_time = |_: &usize| begun.elapsed() < LONG;
        let answers: Vec<_> = (0..200).take_while(in_time).map(|n| (n, ask(n))).collect();
        let took = begun.elapsed();
        stop.store(true, Relaxed); // First, since the flood would not end.
        for (n, answer) in answers {
            assert_eq!(answer.unwrap().data(RecordType::A), [format!("192.0.2.{n}")]);
        }
        assert!(took < LONG, "{took:?}");
    });
    assert!(asked(&dead) > 0, "the flood went elsewhere");
}

/// Q18: one client with a tarpit does not use up `max_concurrent` for the others.
#[test]
fn max_concurrent_is_shared_by_client() {
    let upstream = zone();
    upstream.on_query(|seen| if seen.name.starts_with("tar") { Act::Drop } else { Act::Answer });
    let nodens = start(&[&upstream], "max_concurrent 100");
    let socket = UdpSocket::bind("127.0.0.3:0").unwrap();
    let flood = |round: usize| {
        for n in 0..200 {
            let question = Question::new(&format!("tar{round}x{n}.test."), RecordType::A);
            socket.send_to(&question.to_bytes(), nodens.dns()).unwrap();
        }
    };
    for round in 0..10 {
        flood(round);
        for n in 0..10 {
            let answer = nodens.client().ask(&www(round * 10 + n), RecordType::A).unwrap();
            assert_eq!(rcode(&answer), ResponseCode::NoError, "{round} {n}");
        }
    }
    assert!(nodens.metrics().sum("coredns_forward_max_concurrent_rejects_total", &[]) > 0.0);
}

/// Q20: a failure without upstreams is not cached, and one by time-out comes before clients give up.
#[test]
fn servers_that_appear_are_used_at_once_and_silence_is_told_in_time() {
    let good = zone();
    let text = COREFILE.replace("@upstreams@", "@folder@/servers.conf");
    let text = text.replace("@before@", "").replace("@more@", "").replace("@options@", "");
    // Longer than is waited for an answer.
    let text = text.replace("servfail 5s", "servfail 300s");
    let nodens = Setup::new(&text).file("servers.conf", "# none\n").start();
    let ask = || nodens.client().ask(&www(5), RecordType::A).unwrap();
    assert_eq!(rcode(&ask()), ResponseCode::ServFail);
    nodens.write_file("servers.conf", &format!("nameserver {}\n", good.address()));
    let begun = Instant::now();
    poll::wait_for("an answer", LONG, || rcode(&ask()) == ResponseCode::NoError);
    eprintln!("servers were used after {:?}", begun.elapsed());
}

/// Q20: SERVFAIL comes well before glibc's five seconds are over.
#[test]
fn silence_is_told_before_clients_give_up() {
    let silent: Vec<Upstream> = (0..4).map(|_| zone()).collect();
    silent.iter().for_each(|upstream| upstream.always(Act::Drop));
    let list: Vec<&Upstream> = silent.iter().collect();
    let nodens = start(&list, "");
    let question = Question::new("w1.test.", RecordType::A);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(4_900))).unwrap();
    socket.send_to(&question.to_bytes(), nodens.dns()).unwrap();
    let mut reply = [0; 512];
    let len = socket.recv(&mut reply).unwrap();
    assert_eq!((len > 12, reply[3] & 15), (true, 2));
}

/// Q1 beside Q17: an upstream whose TCP does not work lives all the same.
#[test]
fn truncated_names_whose_tcp_fails_take_no_upstream_down() {
    for over_tcp in [Act::Close, Act::Drop] {
        let upstream = zone();
        upstream.on_query(move |seen| match seen.transport {
            _ if !seen.name.starts_with("cut") => Act::Answer,
            Transport::Udp => Act::Truncate,
            Transport::Tcp => over_tcp.clone(),
        });
        let nodens = start(&[&upstream], "failfast_all_unhealthy_upstreams");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for round in 0..10 {
            for n in 0..30 {
                let question = Question::new(&format!("cut{round}x{n}.test."), RecordType::A);
                socket.send_to(&question.to_bytes(), nodens.dns()).unwrap();
            }
            for n in 0..20 {
                let answer = nodens.client().ask(&www(round * 20 + n), RecordType::A).unwrap();
                assert_eq!(rcode(&answer), ResponseCode::NoError, "{round} {n}");
                poll::pause(Duration::from_millis(15));
            }
        }
    }
}

/// Q20: the time of a query counts over all the look-ups that it takes.
#[test]
fn a_second_look_up_begins_no_second_deadline() {
    let silent = [zone(), zone()];
    silent.iter().for_each(|upstream| upstream.always(Act::Drop));
    let list: Vec<_> = silent.iter().map(Upstream::address).collect();
    let nodens = setup(&list, "", "dns64 {\n allow_ipv4\n }", "").start();
    let question = Question::new("w1.test.", RecordType::AAAA);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(4_900))).unwrap();
    socket.send_to(&question.to_bytes(), nodens.dns()).unwrap();
    let mut reply = [0; 512];
    let len = socket.recv(&mut reply).unwrap();
    assert_eq!((len > 12, reply[3] & 15), (true, 2));
}

/// A name that takes long to resolve is waited for if its upstream answers others.
#[test]
fn a_slow_name_of_a_living_upstream_is_waited_for() {
    let upstream = zone();
    upstream.on_query(|seen| match seen.name.as_str() {
        "w200.test." => Act::Delay(Duration::from_millis(2_500), Box::new(Act::Answer)),
        _ => Act::Answer,
    });
    let nodens = start(&[&upstream], "");
    for n in 0..20 {
        nodens.client().ask(&www(n), RecordType::A).unwrap();
    }
    let answer = nodens.client().within(LONG).ask(&www(200), RecordType::A).unwrap();
    assert_eq!(answer.data(RecordType::A), ["192.0.2.200"]);
}

/// `dns64`: that the addresses cannot be had is no denial of them.
#[test]
fn addresses_that_cannot_be_had_are_not_denied() {
    let upstream = zone();
    upstream.on_query(|seen| match seen.kind {
        RecordType::A => Act::Rcode(ResponseCode::ServFail),
        _ => Act::Answer,
    });
    let nodens = setup(&[upstream.address()], "", "dns64 {\n allow_ipv4\n }", "").start();
    let answer = nodens.client().ask("w1.test.", RecordType::AAAA).unwrap();
    assert_eq!(rcode(&answer), ResponseCode::ServFail);
    assert!(has_extended_error(&answer));
}

/// Q13: an address that is none is not handed on, and not cached.
#[test]
fn addresses_of_the_wrong_length_are_no_answer() {
    for octets in [0, 3, 5] {
        let upstream = zone();
        upstream.on_query(move |seen| match seen.name.as_str() {
            "w1.test." => Act::Raw(with_address(octets)),
            _ => Act::Answer,
        });
        let nodens = start(&[&upstream], "");
        let answer = nodens.client().ask("w1.test.", RecordType::A).unwrap();
        assert_eq!(rcode(&answer), ResponseCode::ServFail, "{octets}");
        upstream.always(Act::Answer);
        poll::wait_for("the sound answer", LONG, || {
            let answer = nodens.client().ask("w1.test.", RecordType::A).unwrap();
            answer.data(RecordType::A) == ["192.0.2.1"]
        });
    }
}

/// An answer to w1.test with one address of so many octets.
fn with_address(octets: u16) -> Vec<u8> {
    let mut message = Question::new("w1.test.", RecordType::A).without_edns().to_bytes();
    message[..2].fill(0);
    message[2] |= 0x80;
    message[7] = 1;
    message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60]);
    message.extend_from_slice(&octets.to_be_bytes());
    message.extend((0..octets).map(|n| n as u8));
    message
}

/// A handler that passes another packet on is no alias: seven of those are followed, whatever stands before them.
#[test]
fn rewrites_do_not_shorten_chains_of_aliases() {
    let upstream = zone();
    let hop = |n: usize, to: &str| {
        format!(
            "template IN A h{n}.example {{\n answer \"{{{{ .Name }}}} 60 IN CNAME {to}\"\n }}\n"
        )
    };
    let mut before = "rewrite ttl regex .* 5\n".to_owned();
    for n in 1..6 {
        before.push_str(&hop(n, &format!("h{}.example.", n + 1)));
    }
    before.push_str(&hop(6, "w9.test."));
    let nodens = setup(&[upstream.address()], "", &before, "").start();
    let answer = nodens.client().ask("h1.example.", RecordType::A).unwrap();
    assert_eq!(rcode(&answer), ResponseCode::NoError);
    assert_eq!(answer.data(RecordType::A), ["192.0.2.9"]);
}
