//! Metrics that add up: what was received is what was answered, by source, and what was dropped, by reason. Under load, with
//! upstreams that fail, clients that leave, and messages that are no queries.

use std::io::Write as _;
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{MessageType, OpCode, ResponseCode};
use hickory_proto::rr::RecordType;
use tests::client::Question;
use tests::metrics::Metrics;
use tests::poll;
use tests::process::{Nodens, Setup};
use tests::upstream::{Act, Upstream};

const SOON: Duration = Duration::from_secs(30);

/// Names of `test.` are forwarded; those of other zones belong to nobody.
const COREFILE: &str = "test.:@dns@ cluster.local.:@dns@ {
    bind 127.0.0.1
    errors {
        consolidate 1s .*
    }
    acl {
        drop type TXT net *
        allow
    }
    hosts {
        192.0.2.80 intranet.test
        fallthrough
    }
    kubernetes cluster.local {
        objects @folder@/objects
    }
    forward . @upstream@ {
        max_concurrent 40
    }
    cache 30 {
        serve_stale 1h immediate
    }
    prometheus 127.0.0.1:@metrics@
    ready 127.0.0.1:@ready@
}
";

const ZONE: &str = "$ORIGIN test.\n$TTL 1\n@ 1 IN SOA ns.test. admin.test. 1 3600 600 86400 1\n\
    good IN A 192.0.2.1\nshort 1 IN A 192.0.2.2\n";

/// All that was received, answered, dropped, and waits.
fn figures(page: &Metrics) -> [f64; 4] {
    [
        "nodens_received_total",
        "nodens_answered_total",
        "nodens_dropped_total",
        "nodens_waiting_queries",
    ]
    .map(|name| page.sum(name, &[]))
}

/// Waits until nothing waits, and everything that was received is accounted for.
#[track_caller]
fn wait_until_it_adds_up(nodens: &Nodens) -> Metrics {
    let mut last = String::new();
    let found = poll::until_some(SOON, || {
        let page = nodens.metrics();
        let figures @ [received, answered, dropped, waiting] = figures(&page);
        let ends: Vec<_> = page
            .map()
            .into_iter()
            .filter(|(name, _)| {
                name.starts_with("nodens_answered") || name.starts_with("nodens_dropped")
            })
            .collect();
        last = format!("received, answered, dropped, waiting: {figures:?}\n{ends:#?}");
        (waiting == 0.0 && received == answered + dropped).then_some(page)
    });
    found.unwrap_or_else(|| panic!("it does not add up: {last}"))
}

#[test]
fn what_is_received_is_answered_or_dropped() {
    let upstream = Upstream::with_zone(ZONE);
    upstream.on_query(|seen| match seen.name.as_str() {
        name if name.starts_with("silent") => Act::Drop,
        name if name.starts_with("late") => {
            Act::Delay(Duration::from_millis(200), Box::new(Act::Answer))
        }
        name if name.starts_with("broken") => Act::Rcode(ResponseCode::ServFail),
        name if name.starts_with("cut") => Act::Truncate,
        name if name.starts_with("closed") => Act::Close,
        _ => Act::Answer,
    });
    let mut setup = Setup::new(COREFILE).word("upstream", upstream.address());
    for (name, text) in [
        ("web", include_str!("../../manifests/demo/objects/web.yaml")),
        ("kubernetes", include_str!("../../manifests/demo/objects/kubernetes.yaml")),
        ("namespaces", include_str!("../../manifests/demo/objects/namespaces.yaml")),
    ] {
        setup = setup.file(format!("objects/{name}.yaml"), text);
    }
    let nodens = setup.start();
    let names = [
        "web.shop.svc.cluster.local.",
        "nobody.shop.svc.cluster.local.",
        "intranet.test.",
        "good.test.",
        "short.test.",
        "elsewhere.example.",
        "silent@.test.",
        "late@.test.",
        "broken@.test.",
        "cut@.test.",
        "closed@.test.",
        "missing@.test.",
    ];
    let message = |n: usize| -> Vec<u8> {
        let name = names[n % names.len()].replace('@', &n.to_string());
        let question = Question::new(
            &name,
            if n.is_multiple_of(41) { RecordType::TXT } else { RecordType::A },
        );
        match n % 29 {
            // Too short, a response, an unknown opcode, a header that lies.
            0 => vec![0; n % 12],
            1 => question.with(|m| m.metadata.message_type = MessageType::Response).to_bytes(),
            2 => question.with(|m| m.metadata.op_code = OpCode::Update).to_bytes(),
            3 => question.to_bytes()[..20].to_vec(),
            _ => question.to_bytes(),
        }
    };
    let before = wait_until_it_adds_up(&nodens);
    let sockets: Vec<UdpSocket> = (0..8).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let mut sent = 0.0;
    for n in 0..6_000 {
        sockets[n % 8].send_to(&message(n), nodens.dns()).unwrap();
        sent += 1.0;
        if n % 600 == 599 {
            // Not faster than it is received: what the kernel drops is in no figure of a process. And a look under load: nothing is
            // counted that was not received.
            let mut page = Metrics::default();
            poll::wait_for("the datagrams are received", SOON, || {
                page = nodens.metrics();
                received(&page, "udp") - received(&before, "udp") >= sent
            });
            let [received, answered, dropped, _] = figures(&page);
            assert!(received + 64.0 >= answered + dropped, "{:?}", figures(&page));
        }
    }
    // Connections with many queries, of which half leave before they are answered.
    for connection in 0..40 {
        let mut stream = TcpStream::connect(nodens.dns()).unwrap();
        for n in 0..20 {
            let bytes = Question::new(
                &names[n % 12].replace('@', &format!("t{connection}-{n}")),
                RecordType::A,
            )
            .to_bytes();
            stream.write_all(&(bytes.len() as u16).to_be_bytes()).unwrap();
            stream.write_all(&bytes).unwrap();
        }
        if connection % 2 == 0 {
            // Of connections that end at once, some are not read.
            let wanted = f64::from(20 * (connection / 2 + 1));
            poll::wait_for("its queries are received", SOON, || {
                received(&nodens.metrics(), "tcp") >= wanted
            });
        }
    }
    poll::wait_for("an answer that has expired", SOON, || {
        sent += 1.0;
        nodens.client().ask("short.test.", RecordType::A).unwrap();
        nodens.metrics().sum("nodens_answered_total", &[("source", "stale")]) > 0.0
    });
    let page = wait_until_it_adds_up(&nodens);
    assert_eq!(received(&page, "udp") - received(&before, "udp"), sent);
    assert!(received(&page, "tcp") > 400.0, "{}", received(&page, "tcp"));
    for source in ["store", "configured", "cache", "stale", "upstream", "server", "probe"] {
        assert!(
            page.sum("nodens_answered_total", &[("source", source)]) > 0.0,
            "nothing by {source}"
        );
    }
    for reason in ["acl", "malformed"] {
        assert!(
            page.sum("nodens_dropped_total", &[("reason", reason)]) > 0.0,
            "nothing by {reason}"
        );
    }
    assert_eq!(page.sum("nodens_dropped_total", &[("reason", "panic")]), 0.0);
    // What the blocks count is part of it.
    let blocks = page.sum("coredns_dns_responses_total", &[]);
    let by_blocks: f64 = ["store", "configured", "cache", "stale", "upstream"]
        .map(|source| page.sum("nodens_answered_total", &[("source", source)]))
        .iter()
        .sum();
    let server = page.sum("nodens_answered_total", &[("source", "server")]);
    assert!(blocks >= by_blocks && blocks <= by_blocks + server, "{blocks} {by_blocks} {server}");
    println!("received, answered, dropped, waiting: {:?}", figures(&page));
}

/// Received messages, without our own questions whether we answer.
fn received(page: &Metrics, proto: &str) -> f64 {
    let probes = match proto {
        "udp" => page.sum("nodens_answered_total", &[("source", "probe")]),
        _ => 0.0,
    };
    page.sum("nodens_received_total", &[("proto", proto)]) - probes
}

/// How long queries wait in the kernel's queue is measured by its receive time, of a sample.
#[test]
fn the_time_in_the_queue_is_measured() {
    let nodens =
        Setup::new(".:@dns@ {\n bind 127.0.0.1\n whoami\n prometheus 127.0.0.1:@metrics@\n}\n")
            .start();
    let client = nodens.client();
    for n in 0..400 {
        client.ask(&format!("n{n}.test."), RecordType::A).unwrap();
    }
    let page = nodens.metrics();
    let (count, sum) = (
        page.sum("nodens_udp_queue_seconds_count", &[]),
        page.sum("nodens_udp_queue_seconds_sum", &[]),
    );
    assert!((2.0..=20.0).contains(&count), "{count}");
    assert!(sum > 0.0 && sum < 10.0, "{sum}");
}
