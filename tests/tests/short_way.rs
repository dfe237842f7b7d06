//! The short way of a forwarded query, which is answered without a task, and each way in which it has to go on as one.
//! Every query goes through a cache, since only those are on the short way.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tests::client::Question;
use tests::process::{Nodens, Setup};
use tests::upstream::{Act, Transport, Upstream};

/// What a second upstream may take at most to be asked in the place of a silent one.
const SOON: Duration = Duration::from_secs(3);

const COREFILE: &str = ".:@dns@ {
    bind @address@
    errors
    prometheus 127.0.0.1:@metrics@
    forward . @upstreams@ {
        @options@
    }
    cache 30 {
        @cache@
    }
    loop
    loadbalance
}
";

fn zone() -> Upstream {
    let mut text =
        "$ORIGIN test.\n$TTL 60\n@ IN SOA ns.test. admin.test. 1 3600 600 86400 60\n".to_owned();
    for n in 0..250 {
        text.push_str(&format!("w{n} IN A 192.0.2.{n}\n"));
    }
    Upstream::with_zone(&text)
}

fn start(upstreams: &[&Upstream], options: &str, address: &str) -> Nodens {
    let upstreams: Vec<_> = upstreams.iter().map(|upstream| upstream.address()).collect();
    start_with(&upstreams, options, address)
}

fn start_with(upstreams: &[SocketAddr], options: &str, address: &str) -> Nodens {
    let list: Vec<String> = upstreams.iter().map(SocketAddr::to_string).collect();
    Setup::new(COREFILE)
        .word("upstreams", list.join(" "))
        .word("options", options)
        .word("address", address)
        .word("cache", "servfail 1s")
        .start()
}

/// Where nobody listens.
fn gone() -> SocketAddr {
    zone().address()
}

/// The same options with a pool of ports and with a port for each query.
fn both(options: &str) -> [String; 2] {
    ["pool", "fresh"].map(|ports| format!("{options}\nsource_port {ports}"))
}

fn www(n: usize) -> String {
    format!("w{n}.test.")
}

fn is_good(nodens: &Nodens, n: usize) -> bool {
    let answer = nodens.client().ask(&www(n), RecordType::A);
    answer.is_ok_and(|answer| answer.data(RecordType::A) == [format!("192.0.2.{n}")])
}

/// Questions of clients that have come; probes for loops are HINFO.
fn asked(upstream: &Upstream) -> usize {
    upstream.seen().iter().filter(|seen| seen.kind == RecordType::A).count()
}

#[test]
fn answers_come_back_whole_and_are_kept() {
    let upstream = zone();
    let nodens = start(&[&upstream], "", "127.0.0.1");
    let client = nodens.client();
    for round in 0..2 {
        for n in 0..50 {
            assert!(is_good(&nodens, n), "round {round}, {n}");
        }
        let none = client.ask("none.test.", RecordType::A).unwrap();
        assert_eq!(none.message.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(none.message.authorities.len(), 1, "the SOA");
        // No EDNS, no OPT; the case of the question comes back, which the client checks.
        let plain = Question::new("W1.tEsT.", RecordType::A).without_edns();
        let plain = client.udp(&plain).unwrap().message;
        assert!(plain.edns.is_none() && plain.metadata.recursion_available);
    }
    assert_eq!(asked(&upstream), 51, "each was asked once");
    assert_eq!(upstream.count_over(Transport::Tcp), 0);
    let metrics = nodens.metrics();
    let requests = metrics.sum("coredns_proxy_request_duration_seconds_count", &[]);
    assert!(requests >= 51.0, "{requests}");
    // Whoever waits for the start asks as well.
    assert!((51.0..55.0).contains(&metrics.sum("coredns_cache_misses_total", &[])));
}

#[test]
fn the_reply_leaves_from_the_address_that_was_asked_also_when_it_waited() {
    let upstream = zone();
    let nodens = start(&[&upstream], "", "0.0.0.0");
    // The client's socket is connected: it hears nobody but whom it asked.
    let mut address = nodens.dns();
    address.set_ip("127.0.0.7".parse().unwrap());
    let answer = tests::client::Client::new(address).ask(&www(3), RecordType::A).unwrap();
    assert_eq!(answer.data(RecordType::A), ["192.0.2.3"]);
}

#[test]
fn many_who_ask_the_same_ask_once() {
    let upstream = zone();
    upstream.on_query(|_| Act::Delay(Duration::from_millis(300), Box::new(Act::Answer)));
    let nodens = start(&[&upstream], "", "127.0.0.1");
    thread::scope(|scope| {
        let clients: Vec<_> = (0..20).map(|_| scope.spawn(|| is_good(&nodens, 7))).collect();
        assert!(clients.into_iter().all(|client| client.join().unwrap()));
    });
    assert_eq!(asked(&upstream), 1);
}

#[test]
fn each_query_has_a_port_of_its_own() {
    let upstream = zone();
    let nodens = start(&[&upstream], "source_port fresh", "127.0.0.1");
    for n in 0..100 {
        assert!(is_good(&nodens, n), "{n}");
    }
    let seen = upstream.seen();
    let ports: BTreeSet<_> = seen.iter().map(|seen| seen.from.port()).collect();
    assert!(ports.len() * 100 >= seen.len() * 95, "{} for {} queries", ports.len(), seen.len());
    // One after the other, they need one socket for each worker that was asked, and one more where the upstream was asked again
    // since its answer was late.
    let again = asked(&upstream).saturating_sub(100) as f64;
    let count = |name| {
        nodens.metrics().sum(&format!("coredns_proxy_conn_cache_{name}_total"), &[("proto", "udp")])
    };
    let (hits, misses) = (count("hits"), count("misses"));
    assert!(hits >= 90.0 && misses <= 10.0 + again, "{hits} hits, {misses} misses, {again} again");
}

#[test]
fn what_comes_late_to_a_port_of_its_own_is_no_answer_to_the_next_query() {
    let (slow, quick) = (zone(), zone());
    // Later than a try may take, so that the query goes on as a task, and its answer finds nobody.
    slow.on_query(|seen| match seen.name.starts_with("w1.") {
        true => Act::Delay(Duration::from_millis(1_500), Box::new(Act::Answer)),
        false => Act::Answer,
    });
    let nodens = start(&[&slow, &quick], "source_port fresh\npolicy sequential", "127.0.0.1");
    let until = Instant::now() + Duration::from_secs(2);
    assert!(is_good(&nodens, 1), "by the other upstream");
    for n in (2..).take_while(|_| Instant::now() < until) {
        assert!(is_good(&nodens, n % 250), "{n}");
    }
}

#[test]
fn a_silent_upstream_is_passed_by() {
    for options in both("policy sequential") {
        let (silent, good) = (zone(), zone());
        silent.always(Act::Drop);
        let nodens = start(&[&silent, &good], &options, "127.0.0.1");
        let begun = Instant::now();
        for n in 0..30 {
            assert!(is_good(&nodens, n), "{options}: {n}");
        }
        assert!(begun.elapsed() < SOON, "{options}: {:?}", begun.elapsed());
        assert!(asked(&silent) > 0, "{options}");
        // It answers again: probes find out, and it is asked first as before.
        silent.always(Act::Answer);
        let (before, mut n) = (asked(&silent), 30);
        tests::poll::wait_for("the first upstream to be asked again", SOON, || {
            n += 1;
            assert!(is_good(&nodens, n), "{options}: {n}");
            asked(&silent) > before
        });
    }
}

#[test]
fn nobody_listens_there() {
    for options in both("policy sequential") {
        let good = zone();
        let nodens = start_with(&[gone(), good.address()], &options, "127.0.0.1");
        let begun = Instant::now();
        for n in 0..30 {
            assert!(is_good(&nodens, n), "{options}: {n}");
        }
        assert!(begun.elapsed() < SOON, "{options}: {:?}", begun.elapsed());
    }
}

#[test]
fn many_at_once_find_out_that_nobody_listens_there() {
    // Without hedging and without being set aside, only the refusals themselves move them on; a try may take a second.
    for options in both("policy sequential\nmax_fails 0\nhedge off") {
        let good = zone();
        let nodens = start_with(&[gone(), good.address()], &options, "127.0.0.1");
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(nodens.dns()).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
        for n in 0..40 {
            client.send(&Question::new(&www(n), RecordType::A).to_bytes()).unwrap();
        }
        let answers = (0..40).filter(|_| client.recv(&mut [0; 512]).is_ok()).count();
        assert_eq!(answers, 40, "{options}");
    }
}

#[test]
fn truncated_answers_are_fetched_over_tcp() {
    for options in both("") {
        let upstream = zone();
        upstream.always(Act::Truncate);
        let nodens = start(&[&upstream], &options, "127.0.0.1");
        assert!(is_good(&nodens, 9) && is_good(&nodens, 9), "{options}");
        let over_tcp = upstream.seen().into_iter();
        let over_tcp =
            over_tcp.filter(|seen| seen.transport == Transport::Tcp && seen.name == www(9));
        assert_eq!(over_tcp.count(), 1, "{options}");
        assert!(nodens.metrics().sum("nodens_forward_truncated_total", &[]) >= 1.0, "{options}");
    }
}

#[test]
fn what_answers_another_question_is_not_believed() {
    let upstream = zone();
    for (act, options) in [Act::WrongId, Act::WrongQuestion, Act::WrongPort]
        .into_iter()
        .flat_map(|act| both("").map(|options| (act.clone(), options)))
    {
        let wrong = act.clone();
        let asked = std::sync::atomic::AtomicUsize::new(0);
        // The first time only: the next try is answered.
        upstream.on_query(move |_| {
            match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
                0 => wrong.clone(),
                _ => Act::Answer,
            }
        });
        let nodens = start(&[&upstream], &options, "127.0.0.1");
        let client = nodens.client().within(SOON);
        let answer = client.ask(&www(5), RecordType::A).unwrap();
        assert_eq!(answer.data(RecordType::A), ["192.0.2.5"], "{act:?} {options}");
    }
}

#[test]
fn errors_go_on_as_they_should() {
    let (bad, good) = (zone(), zone());
    bad.always(Act::Rcode(ResponseCode::ServFail));
    let nodens = start(&[&bad, &good], "policy sequential\nfailover SERVFAIL", "127.0.0.1");
    assert!(is_good(&nodens, 1));
    let nodens = start(&[&bad], "", "127.0.0.1");
    for _ in 0..2 {
        let answer = nodens.client().ask(&www(1), RecordType::A).unwrap();
        assert_eq!(answer.message.metadata.response_code, ResponseCode::ServFail);
    }
    assert_eq!(bad.count(&www(1), RecordType::A), 2, "the second failure came from the cache");
    bad.always(Act::NoEdns);
    assert!(is_good(&nodens, 2), "asked again without EDNS");
}

#[test]
fn one_too_many_is_refused() {
    let upstream = zone();
    upstream.on_query(|_| Act::Delay(Duration::from_millis(500), Box::new(Act::Answer)));
    let nodens = start(&[&upstream], "max_concurrent 5", "127.0.0.1");
    let rcode =
        |n| nodens.client().ask(&www(n), RecordType::A).unwrap().message.metadata.response_code;
    thread::scope(|scope| {
        let rcode = &rcode;
        let clients: Vec<_> = (0..20).map(|n| scope.spawn(move || rcode(n))).collect();
        let rcodes: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        let good = rcodes.iter().filter(|&&rcode| rcode == ResponseCode::NoError).count();
        assert!((5..20).contains(&good), "{good}");
        assert!(rcodes.contains(&ResponseCode::Refused));
    });
    // All places are free again.
    assert_eq!(rcode(100), ResponseCode::NoError);
    let rejected = nodens.metrics().sum("coredns_forward_max_concurrent_rejects_total", &[]);
    assert!((1.0..=15.0).contains(&rejected), "{rejected}");
}

#[test]
fn whoever_waits_when_the_server_stops_is_answered() {
    let upstream = zone();
    upstream.on_query(|_| Act::Delay(Duration::from_millis(700), Box::new(Act::Answer)));
    let mut nodens = start(&[&upstream], "", "127.0.0.1");
    let client = nodens.client();
    let waiting = thread::spawn(move || client.ask(&www(4), RecordType::A));
    tests::poll::wait_for("the question to arrive", SOON, || asked(&upstream) == 1);
    nodens.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(waiting.join().unwrap().unwrap().data(RecordType::A), ["192.0.2.4"]);
    nodens.wait_exit(Duration::from_secs(10));
}
