//! Forwarding as clients and operators see it: flags on shared answers, failures, loops, reloads.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::EdnsOption;
use tests::client::Question;
use tests::poll;
use tests::process::{Nodens, Setup};
use tests::upstream::{Act, Upstream};

const SOON: Duration = Duration::from_secs(15);

const ZONE: &str = "$ORIGIN test.\n$TTL 60\n@ IN SOA ns.test. admin.test. 1 3600 600 86400 60\nwww IN A 192.0.2.1\nshort 5 IN A 192.0.2.2\n";

const CACHED: &str = ".:@dns@ {
    bind 127.0.0.1
    errors
    prometheus 127.0.0.1:@metrics@
    ready 127.0.0.1:@ready@
    cache {
        @cache@
    }
    forward . @upstream@
}
";

fn cached(upstream: &Upstream, options: &str) -> Nodens {
    Setup::new(CACHED).word("upstream", upstream.address()).word("cache", options).start()
}

/// Whether the answer to a question has AD.
fn ad(nodens: &Nodens, name: &str, change: fn(Question) -> Question) -> bool {
    let answer = nodens.client().udp(&change(Question::new(name, RecordType::A))).unwrap();
    assert_eq!(answer.message.answers.len(), 1, "{answer:?}");
    answer.message.metadata.authentic_data
}

fn plain(question: Question) -> Question {
    question
}

fn with_ad(question: Question) -> Question {
    question.with(|message| message.metadata.authentic_data = true)
}

fn with_do(question: Question) -> Question {
    question.edns(|edns| {
        edns.set_dnssec_ok(true);
    })
}

#[test]
fn ad_is_told_to_those_who_asked_whoever_asked_first() {
    let upstream = Upstream::with_zone(ZONE);
    upstream.validate();
    upstream.always(Act::Delay(Duration::from_millis(300), Box::new(Act::Answer)));
    let nodens = cached(&upstream, "success 1000");
    type Ask = fn(Question) -> Question;
    let orders: [(&str, [Ask; 2], [bool; 2]); 2] = [
        ("www.test.", [plain, with_ad], [false, true]),
        ("short.test.", [with_ad, plain], [true, false]),
    ];
    for (name, order, wanted) in orders {
        upstream.forget();
        let answers: Vec<bool> = std::thread::scope(|scope| {
            let asking = order.map(|change| {
                let nodens = &nodens;
                let thread = scope.spawn(move || ad(nodens, name, change));
                poll::wait_for("the first question upstream", SOON, || upstream.total() > 0);
                thread
            });
            asking.map(|thread| thread.join().unwrap()).into()
        });
        assert_eq!(answers, wanted, "{name}");
        assert_eq!(upstream.total(), 1, "one flight for both");
        // From the cache it is the same.
        assert_eq!([ad(&nodens, name, plain), ad(&nodens, name, with_ad)], [false, true]);
        assert_eq!(upstream.total(), 1);
        assert!(ad(&nodens, name, with_do));
    }
}

#[test]
fn a_client_without_rd_does_not_decide_what_a_refresh_asks() {
    let upstream = Upstream::with_zone(ZONE);
    let nodens = cached(&upstream, "serve_stale 1h immediate");
    let client = nodens.client();
    client.ask("short.test.", RecordType::A).unwrap();
    let iterative = Question::new("short.test.", RecordType::A)
        .with(|message| message.metadata.recursion_desired = false);
    poll::wait_for("the refresh", SOON, || {
        client.udp(&iterative).unwrap();
        upstream.total() > 1
    });
    assert!(upstream.seen().iter().all(|seen| seen.bytes[2] & 1 == 1), "RD on every query of ours");
}

/// `forward` to these, asked in this order.
fn in_order(upstreams: &[&Upstream], options: &str) -> String {
    let to: Vec<String> = upstreams.iter().map(|upstream| upstream.address().to_string()).collect();
    format!("{} {{\n policy sequential\n hedge off\n {options}\n}}", to.join(" "))
}

fn rcode(nodens: &Nodens, name: &str) -> String {
    nodens.client().udp(&Question::new(name, RecordType::A)).unwrap().normal.rcode
}

#[test]
fn a_failure_is_one_of_an_upstream_and_kept_once_all_have_failed() {
    let (bad, good) = (Upstream::with_zone(ZONE), Upstream::with_zone(ZONE));
    let servfail = Act::Rcode(hickory_proto::op::ResponseCode::ServFail);
    bad.always(servfail.clone());
    let setup = Setup::new(CACHED).word("upstream", in_order(&[&bad, &good], ""));
    let nodens = setup.word("cache", "success 1000").start();
    let counts = |name| (bad.count(name, RecordType::A), good.count(name, RecordType::A));
    assert_eq!((rcode(&nodens, "www.test."), counts("www.test.")), ("SERVFAIL".into(), (1, 0)));
    // The next to ask is sent to the one that has not failed, and has an answer.
    assert_eq!((rcode(&nodens, "www.test."), counts("www.test.")), ("NOERROR".into(), (1, 1)));
    assert_eq!((rcode(&nodens, "www.test."), counts("www.test.")), ("NOERROR".into(), (1, 1)));
    // Another question has its own history.
    assert_eq!((rcode(&nodens, "short.test."), counts("short.test.")), ("SERVFAIL".into(), (1, 0)));
    good.always(servfail);
    for _ in 0..4 {
        assert_eq!(rcode(&nodens, "short.test."), "SERVFAIL");
    }
    assert_eq!(counts("short.test."), (1, 1), "both have failed: kept");
}

#[test]
fn an_upstream_that_is_down_is_so_after_a_reload() {
    const COREFILE: &str = ".:@dns@ {
    bind 127.0.0.1
    reload 2s 1s
    prometheus 127.0.0.1:@metrics@
    ready 127.0.0.1:@ready@
    forward . @upstream@
    @more@
}
";
    let (dead, good) = (Upstream::with_zone(ZONE), Upstream::with_zone(ZONE));
    dead.always(Act::Drop);
    let setup = Setup::new(COREFILE).word("upstream", in_order(&[&dead, &good], "max_fails 1"));
    let nodens = setup.word("more", "errors").start();
    let to = dead.address().to_string();
    let up = || nodens.metrics().sum("nodens_forward_upstream_up", &[("to", &to)]) > 0.0;
    let mut n = 0;
    poll::wait_for("the dead upstream to be found", SOON, || {
        n += 1;
        rcode(&nodens, &format!("n{n}.test."));
        !up()
    });
    let version = || nodens.metrics().map().into_keys().find(|key| key.contains("version_info"));
    let before = version();
    nodens.write_corefile(&COREFILE.replace("@more@", "errors\n    whoami"));
    poll::wait_for("the reload", SOON, || version() != before);
    assert!(!up(), "known to be down");
    for n in 0..20 {
        let name = format!("after{n}.test.");
        rcode(&nodens, &name);
        assert_eq!(dead.count(&name, RecordType::A), 0, "nobody waits for it");
    }
    dead.always(Act::Answer);
    poll::wait_for("its return", SOON, up);
}

/// A server that sends what it is asked back to `nodens` from yet another address, and answers only what has gone round
/// often enough: nobody waits in vain, so that nothing but the rate of the question shows the loop.
struct Reflector {
    address: SocketAddr,
    on: Arc<AtomicBool>,
    probes: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Often enough.
const ROUNDS: usize = 300;

impl Reflector {
    fn start(nodens_port: u16) -> Self {
        let socket = UdpSocket::bind("127.0.0.2:0").unwrap();
        let back = UdpSocket::bind("127.0.0.3:0").unwrap();
        back.connect(("127.0.0.1", nodens_port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        back.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let (on, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let probes = Arc::new(AtomicUsize::new(0));
        let (is_on, stopped, seen) = (Arc::clone(&on), Arc::clone(&stop), Arc::clone(&probes));
        let thread = std::thread::spawn(move || {
            let (mut waiting, mut rounds) = (HashMap::new(), 0);
            let mut buffer = [0; 4_096];
            while !stopped.load(Relaxed) {
                if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                    let probe = Message::from_vec(&buffer[..len]).is_ok_and(|m| {
                        m.queries.first().map(|q| q.query_type) == Some(RecordType::HINFO)
                    });
                    seen.fetch_add(usize::from(probe), Relaxed);
                    rounds += usize::from(!probe);
                    if is_on.load(Relaxed) && (probe || rounds < ROUNDS) {
                        waiting.insert([buffer[0], buffer[1]], from);
                        let _ = back.send(&buffer[..len]);
                    } else {
                        buffer[2] |= 0x80;
                        buffer[3] = 3;
                        let _ = socket.send_to(&buffer[..len], from);
                    }
                }
                while let Ok(len) = back.recv(&mut buffer) {
                    if let Some(from) = waiting.remove(&[buffer[0], buffer[1]]) {
                        let _ = socket.send_to(&buffer[..len], from);
                    }
                }
            }
        });
        Self { address, on, probes, stop, thread: Some(thread) }
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

#[test]
fn a_loop_that_begins_later_is_seen_by_the_rate_of_its_question() {
    const COREFILE: &str = ".:@dns@ {
    bind 127.0.0.1
    errors
    prometheus 127.0.0.1:@metrics@
    ready 127.0.0.1:@ready@
    loop
    forward . @upstream@
}
";
    // The port has to be known before the process is there.
    let port = tests::ports::one();
    let reflector = Reflector::start(port);
    let corefile = COREFILE.replace("@dns@", &port.to_string());
    let setup = Setup::new(&corefile).word("upstream", reflector.address);
    let nodens = setup.start();
    let upstream = reflector.address.to_string();
    let loops = || nodens.metrics().sum("nodens_loop_upstream", &[("upstream", &upstream)]) > 0.0;
    poll::wait_for("the first probe", SOON, || reflector.probes.load(Relaxed) > 0);
    assert!(!loops());
    reflector.on.store(true, Relaxed);
    let client = tests::client::Client::new(([127, 0, 0, 1], port).into());
    client.udp(&Question::new("round.test.", RecordType::A)).unwrap();
    poll::wait_for("the loop to be found", SOON, loops);
    let answer = client.udp(&Question::new("other.test.", RecordType::A)).unwrap();
    assert_eq!(answer.normal.rcode, "SERVFAIL");
    // Probed every ten seconds, and back when the loop has gone.
    reflector.on.store(false, Relaxed);
    poll::wait_for("the upstream's return", Duration::from_secs(30), || !loops());
}

/// The options that a query brought: code and data.
fn options(bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let edns = nodens::wire::Layout::parse(bytes).unwrap().edns.unwrap();
    let mut rest = &bytes[edns.options.into()..edns.end.into()];
    let mut found = Vec::new();
    while let [high, low, _, len, after @ ..] = rest {
        let (data, behind) = after.split_at(usize::from(*len));
        found.push((u16::from_be_bytes([*high, *low]), data.to_vec()));
        rest = behind;
    }
    found
}

#[test]
fn options_of_rewrite_go_upstream_and_the_clients_do_not() {
    const COREFILE: &str = ".:@dns@ {
    bind 127.0.0.1
    ready 127.0.0.1:@ready@
    rewrite continue edns0 local set 0xffee node-7
    rewrite continue edns0 local replace 0xffed {qname}
    rewrite edns0 subnet set 24 56
    forward . @upstream@
}
";
    let upstream = Upstream::with_zone(ZONE);
    let nodens = Setup::new(COREFILE).word("upstream", upstream.address()).start();
    let cookie = |code, data: &'static [u8]| {
        Question::new("www.test.", RecordType::A).edns(move |edns| {
            edns.options_mut().insert(EdnsOption::Unknown(code, data.to_vec()));
        })
    };
    let subnet = (8, vec![0, 1, 24, 0, 127, 0, 0]);
    let sent = |question: Question| {
        upstream.forget();
        assert_eq!(nodens.client().udp(&question).unwrap().message.answers.len(), 1);
        let mut options = options(&upstream.seen()[0].bytes);
        options.sort();
        options
    };
    let own = (0xffee, b"node-7".to_vec());
    assert_eq!(sent(cookie(0xffec, b"private")), [subnet.clone(), own.clone()]);
    let replaced = (0xffed, b"www.test.".to_vec());
    assert_eq!(sent(cookie(0xffed, b"private")), [subnet, replaced, own]);
}
