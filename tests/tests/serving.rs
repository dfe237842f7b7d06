//! How the server treats its clients, seen from outside: EDNS, sizes, errors, TCP, addresses, signals, pages.

#[path = "serving/connections.rs"]
mod connections;
#[path = "serving/limit.rs"]
mod limit;
#[path = "serving/page.rs"]
mod page;

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode};
use hickory_proto::rr::{DNSClass, RecordType};
use nix::sys::signal::Signal;
use tests::client::{Client, Question};
use tests::poll;
use tests::process::{Nodens, Setup};
use tests::upstream::{Act, Upstream};

const SOON: Duration = Duration::from_secs(10);

/// Long enough to say that nothing comes, on a machine that answers in less than a millisecond.
const SILENCE: Duration = Duration::from_millis(300);

/// How long the slow name of [`upstream`] takes.
const SLOW: Duration = Duration::from_millis(700);

/// Addresses of `big.example.test`: 16 octets each, so that they fit into 4,096 octets and not into 1,232.
const ADDRESSES: usize = 120;

/// TCP connections that one client may have; `server::tcp::MAX_PER_CLIENT`.
const PER_CLIENT: usize = 256;

const ZONE: &str = "$ORIGIN test.\n$TTL 60\n@ IN SOA ns.test. admin.test. 1 3600 600 86400 60\nfast IN A 192.0.2.1\nslow IN A 192.0.2.2\n";

const FORWARDING: &str = "test.:@dns@ {
    bind 127.0.0.1
    errors
    health 127.0.0.1:@health@ {
        lameduck @lameduck@
    }
    ready 127.0.0.1:@ready@
    prometheus 127.0.0.1:@metrics@
    forward . @upstream@
}
";

/// A server of one zone, `example.test`, without anything that has to wait.
fn plain() -> Nodens {
    let answers: String = (1..=ADDRESSES)
        .map(|n| format!("        answer \"{{{{ .Name }}}} 60 IN A 192.0.2.{n}\"\n"))
        .collect();
    let corefile = format!(
        "example.test.:@dns@ {{
    bind 127.0.0.1
    template IN A big.example.test {{
{answers}    }}
    whoami
    prometheus 127.0.0.1:@metrics@
    ready 127.0.0.1:@ready@
}}
"
    );
    Setup::new(&corefile).start()
}

/// An upstream whose name `slow.test.` takes [`SLOW`].
fn upstream() -> Upstream {
    let upstream = Upstream::with_zone(ZONE);
    upstream.on_query(|seen| match seen.name.starts_with("slow") {
        true => Act::Delay(SLOW, Box::new(Act::Answer)),
        false => Act::Answer,
    });
    upstream
}

fn forwarding(upstream: &Upstream, lameduck: &str) -> Setup {
    Setup::new(FORWARDING).word("upstream", upstream.address()).word("lameduck", lameduck)
}

fn rcode(bytes: &[u8]) -> u8 {
    bytes[3] & 0x0f
}

fn text(answer: &Message) -> String {
    answer.answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>().join(" ")
}

fn chaos(name: &str) -> Question {
    Question::new(name, RecordType::TXT).with(|message| {
        for query in &mut message.queries {
            query.query_class = DNSClass::CH;
        }
    })
}

/// The id of a framed answer.
fn id(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

fn id_of(question: &Question) -> u16 {
    id(&question.to_bytes())
}

#[test]
fn edns_is_answered_in_kind() {
    let nodens = plain();
    let client = nodens.client();
    let ask = || Question::new("a.example.test.", RecordType::A);

    let unknown = client.udp(&ask().edns(|edns| {
        edns.set_version(1);
    }));
    let unknown = unknown.unwrap().message;
    assert_eq!(u16::from(unknown.metadata.response_code), 16, "BADVERS");
    assert_eq!(unknown.edns.as_ref().map(|edns| edns.version()), Some(0));
    assert!(unknown.answers.is_empty());

    let signed = client.udp(&ask().edns(|edns| {
        edns.set_dnssec_ok(true);
    }));
    assert!(signed.unwrap().message.edns.unwrap().flags().dnssec_ok, "DO is echoed");
    assert!(client.udp(&ask().without_edns()).unwrap().message.edns.is_none());
    // The client checks that the question comes back in its own case.
    let cased = client.udp(&Question::new("wHo.eXaMpLe.TeSt.", RecordType::A)).unwrap();
    assert_eq!(cased.message.queries[0].name.to_ascii(), "wHo.eXaMpLe.TeSt.");
    assert_eq!(cased.message.metadata.op_code, OpCode::Query);
    assert!(cased.message.metadata.recursion_desired, "RD is echoed");
}

#[test]
fn answers_fit_the_client_or_say_so() {
    let nodens = plain();
    let client = nodens.client();
    let ask = || Question::new("big.example.test.", RecordType::A);
    let mut seen = Vec::new();
    let sizes = [
        (None, 512),
        (Some(100), 512),
        (Some(512), 512),
        (Some(1232), 1232),
        (Some(4096), 4096),
        (Some(65_535), 4096),
    ];
    for (payload, room) in sizes {
        let question = payload.map_or_else(|| ask().without_edns(), |size| ask().payload(size));
        let answer = client.udp(&question).unwrap();
        assert!(answer.bytes.len() <= room, "{} octets for {payload:?}", answer.bytes.len());
        assert_eq!(answer.is_truncated(), room < 2048, "{payload:?}");
        if !answer.is_truncated() {
            assert_eq!(answer.message.answers.len(), ADDRESSES);
        }
        seen.push((payload, answer.bytes.len(), answer.message.answers.len()));
    }
    println!("(payload, octets, records): {seen:?}");
    let whole = client.ask("big.example.test.", RecordType::A).unwrap();
    assert_eq!(whole.message.answers.len(), ADDRESSES);
    let stream = client.tcp(&ask().without_edns()).unwrap();
    assert!(stream.tcp && !stream.is_truncated());
    assert_eq!(stream.message.answers.len(), ADDRESSES);
}

#[test]
fn what_is_no_query_gets_an_error_or_silence() {
    let mut nodens = plain();
    let client = nodens.client().within(SILENCE);
    let good = Question::new("a.example.test.", RecordType::A).without_edns().to_bytes();
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes
    };

    for silent in [Vec::new(), vec![0], good[..11].to_vec(), changed(&|b| b[2] |= 0x80)] {
        assert_eq!(client.raw_udp(&silent), None, "{silent:02x?}");
    }
    let expect = |bytes: &[u8], code: u8, what: &str| {
        let Some(reply) = client.raw_udp(bytes) else { panic!("silence for {what}") };
        assert_eq!((rcode(&reply), id(&reply)), (code, id(bytes)), "{what}: {reply:02x?}");
        assert!(reply[2] & 0x80 != 0, "{what}: no response");
        assert_eq!(reply[2] & 0x79, bytes[2] & 0x79, "{what}: opcode and RD");
        assert!(reply.len() <= bytes.len().max(12), "{what}: longer than what was sent");
    };
    for opcode in 1..16u8 {
        expect(&changed(&|b| b[2] |= opcode << 3), 4, "an opcode that is not QUERY");
    }
    expect(&changed(&|b| b[5] = 2), 1, "two questions");
    expect(&changed(&|b| b[5] = 0), 1, "no question");
    expect(&good[..12], 1, "a header alone");
    expect(&good[..good.len() - 1], 1, "a question that is cut off");
    expect(&changed(&|b| b[12] = 0xc0), 1, "a compressed question");
    expect(&changed(&|b| b[12] = 0x7f), 1, "a label of an unknown kind");
    expect(&changed(&|b| b[11] = 9), 1, "records that are not there");
    let mut two = Question::new("a.example.test.", RecordType::A).to_bytes();
    let opt = two[two.len() - 11..].to_vec();
    two.extend(opt);
    two[11] = 2;
    expect(&two, 1, "two OPTs");
    expect(
        &Question::new("other.zone.", RecordType::A).without_edns().to_bytes(),
        5,
        "a zone not served",
    );

    // A time-out is no answer: it must still be there.
    assert_eq!(client.ask("a.example.test.", RecordType::A).unwrap().normal.rcode, "NOERROR");
    let log = nodens.stop_for_log(SOON);
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn class_chaos_tells_who_it_is() {
    let nodens = plain();
    let client = nodens.client();
    let example = |name: &str| client.udp(&chaos(name)).unwrap();
    for name in ["version.bind.", "VERSION.server.", "hostname.bind.", "id.server."] {
        let refused = example(name);
        assert_eq!(refused.normal.rcode, "REFUSED", "{name} is in no zone of this server");
    }
    let root = Setup::new(".:@dns@ {\n    bind 127.0.0.1\n    whoami\n}\n").start();
    let ask = |name: &str| root.client().udp(&chaos(name)).unwrap().message;
    let version = text(&ask("version.bind."));
    assert!(version.contains("Nodens-"), "{version}");
    assert_eq!(version, text(&ask("VERSION.Server.")));
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    assert!(text(&ask("hostname.bind.")).contains(&host));
    assert_eq!(u16::from(ask("something.else.").metadata.response_code), 5);
    println!("version.bind {version}");
}

#[test]
fn replies_leave_from_the_address_that_was_asked() {
    let upstream = upstream();
    let everywhere = [
        ("", true),
        ("bind 0.0.0.0", false),
        ("bind ::", true),
        ("bind 127.0.0.1 127.0.0.2 ::1", true),
    ];
    for (bind, six) in everywhere {
        let corefile = format!(".:@dns@ {{\n    {bind}\n    forward . @upstream@\n}}\n");
        let nodens = Setup::new(&corefile).word("upstream", upstream.address()).start();
        let port = nodens.ports().dns;
        let mut servers: Vec<SocketAddr> = ["127.0.0.1", "127.0.0.2"]
            .iter()
            .map(|ip| SocketAddr::new(ip.parse().unwrap(), port))
            .collect();
        if six && has_ipv6() {
            servers.push((Ipv6Addr::LOCALHOST, port).into());
        }
        if bind == "bind ::" {
            servers.retain(SocketAddr::is_ipv6);
        }
        for server in servers {
            // The client's socket is connected: it takes nothing that comes from another address.
            let client = Client::new(server);
            for name in ["fast.test.", "slow.test.", "none.test."] {
                let question = Question::new(name, RecordType::A);
                let answer = client.udp(&question);
                assert!(answer.is_ok(), "{bind:?} {server} {name}: {answer:?}\n{}", nodens.log());
                assert!(client.tcp(&question).is_ok(), "{bind:?} {server} {name} over TCP");
            }
        }
    }
}

fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

#[test]
fn a_signal_lets_what_waits_be_answered() {
    let upstream = upstream();
    let mut nodens = forwarding(&upstream, "0s").start();
    let server = nodens.dns();
    let (udp, tcp, status) = std::thread::scope(|scope| {
        let question = || Question::new("slow.test.", RecordType::A);
        let udp = scope.spawn(move || Client::new(server).within(SOON).udp(&question()));
        let tcp = scope.spawn(move || {
            let question = Question::new("slow.test.", RecordType::AAAA);
            Client::new(server).within(SOON).tcp(&question)
        });
        poll::wait_for("both queries to reach the upstream", SOON, || {
            upstream.count("slow.test.", RecordType::A) > 0
                && upstream.count("slow.test.", RecordType::AAAA) > 0
        });
        let begun = Instant::now();
        nodens.signal(Signal::SIGTERM);
        let status = nodens.wait_exit(SOON);
        println!("drained in {:?}", begun.elapsed());
        (udp.join().unwrap(), tcp.join().unwrap(), status)
    });
    assert!(status.success(), "{status}\n{}", nodens.log());
    assert_eq!(udp.unwrap().data(RecordType::A), ["192.0.2.2"]);
    assert_eq!(tcp.unwrap().normal.rcode, "NOERROR");
    assert!(TcpListener::bind(server).is_ok(), "the port is free again");
}

#[test]
fn lameduck_answers_on_and_says_that_it_goes() {
    let upstream = upstream();
    let mut nodens = forwarding(&upstream, "2s").start();
    let (health, ready) = (nodens.ports().health, nodens.ports().ready);
    let begun = Instant::now();
    nodens.signal(Signal::SIGTERM);
    poll::wait_for("/ready to say no", SOON, || {
        nodens.get(ready, "/ready").is_some_and(|reply| reply.status == 503)
    });
    // CoreDNS's /health stays 200 in lameduck: the process is alive.
    assert_eq!(nodens.get(health, "/health").unwrap().status, 200);
    assert_eq!(
        nodens.client().ask("fast.test.", RecordType::A).unwrap().data(RecordType::A),
        ["192.0.2.1"]
    );
    assert!(nodens.is_running());
    assert!(nodens.wait_exit(SOON).success());
    let took = begun.elapsed();
    println!("lameduck of 2s: exit after {took:?}");
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(6));

    // A second signal ends it at once.
    let mut nodens = forwarding(&upstream, "1m").start();
    nodens.signal(Signal::SIGTERM);
    nodens.wait_for_log("lameduck", SOON);
    nodens.stop(SOON);
}

#[test]
fn pages_and_the_pidfile_are_there() {
    let upstream = upstream();
    let mut nodens = forwarding(&upstream, "0s").arguments(&["--pidfile", "@folder@/pid"]).start();
    let ports = nodens.ports();
    let (ok, body) = nodens.get(ports.health, "/health").map(|r| (r.status, r.body)).unwrap();
    assert_eq!((ok, body.as_str()), (200, "OK"));
    let (ok, body) = nodens.get(ports.ready, "/ready").map(|r| (r.status, r.body)).unwrap();
    assert_eq!((ok, body.as_str()), (200, "OK"));
    assert_eq!(nodens.get(ports.metrics, "/nothing").unwrap().status, 404);
    let pid = nodens.folder().join("pid");
    assert_eq!(std::fs::read_to_string(&pid).unwrap().trim(), nodens.pid().to_string());

    for _ in 0..3 {
        nodens.client().ask("fast.test.", RecordType::A).unwrap();
    }
    nodens.client().tcp(&Question::new("none.test.", RecordType::AAAA)).unwrap();
    nodens.wait_for_metrics("the queries to be counted", SOON, |metrics| {
        metrics.sum(
            "coredns_dns_requests_total",
            &[("zone", "test."), ("type", "A"), ("proto", "udp")],
        ) >= 3.0
            && metrics.sum("coredns_dns_requests_total", &[("type", "AAAA"), ("proto", "tcp")])
                >= 1.0
            && metrics
                .sum("coredns_dns_responses_total", &[("rcode", "NXDOMAIN"), ("plugin", "forward")])
                >= 1.0
    });
    let metrics = nodens.metrics();
    for name in [
        "coredns_build_info",
        "coredns_panics_total",
        "coredns_plugin_enabled",
        "coredns_dns_request_duration_seconds_count",
        "coredns_dns_request_size_bytes_count",
        "coredns_dns_response_size_bytes_count",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "process_cpu_seconds_total",
        "process_open_fds",
    ] {
        assert!(metrics.has(name, &[]), "{name} is not shown");
    }
    nodens.stop(SOON);
    assert!(!pid.exists(), "the pidfile is left behind");
}

#[test]
fn the_server_says_which_it_is_when_asked() {
    let nodens =
        Setup::new(".:@dns@ {\n    bind 127.0.0.1\n    nsid node-7\n    whoami\n}\n").start();
    let mut query = Question::new("a.test.", RecordType::A).to_bytes();
    let without = nodens.client().raw_udp(&query).unwrap();
    assert!(!without.windows(6).any(|w| w == b"node-7"), "not asked for");
    // An empty NSID option (RFC 5001): the last two octets are the length of the options.
    let end = query.len();
    query.truncate(end - 2);
    query.extend([0, 4, 0, 3, 0, 0]);
    let with = nodens.client().raw_udp(&query).unwrap();
    assert!(with.windows(10).any(|w| w == b"\0\x03\0\x06node-7"), "{with:02x?}");
    assert_eq!(Message::from_vec(&with).unwrap().metadata.message_type, MessageType::Response);
}

#[test]
fn handlers_count_as_in_coredns() {
    const COREFILE: &str = "example.test.:@dns@ {
    bind 127.0.0.1
    local
    acl {
        block type MX
        filter type TXT
        drop type SRV
    }
    dns64 {
        allow_ipv4
    }
    template IN A example.test {
        answer \"{{ .Name }} 60 IN A 192.0.2.1\"
    }
    template IN PTR example.test {
        match ^(?P<host>[a-z]*)[.]example
        answer \"{{ .Name }} 60 IN PTR {{ .Group.host }}..\"
    }
    prometheus 127.0.0.1:@metrics@
    ready 127.0.0.1:@ready@
}
";
    let nodens = Setup::new(COREFILE).start();
    let client = nodens.client();
    let rcode = |name: &str, kind| client.udp(&Question::new(name, kind)).unwrap().normal.rcode;
    assert_eq!(rcode("www.example.test.", RecordType::A), "NOERROR");
    assert_eq!(rcode("www.example.test.", RecordType::AAAA), "NOERROR");
    assert_eq!(rcode("www.example.test.", RecordType::MX), "REFUSED");
    assert_eq!(rcode("www.example.test.", RecordType::TXT), "NOERROR");
    assert_eq!(rcode("www.example.test.", RecordType::PTR), "SERVFAIL");
    assert_eq!(rcode("localhost.example.test.", RecordType::A), "NOERROR");
    let dropped = client.within(SILENCE).udp(&Question::new("www.example.test.", RecordType::SRV));
    assert!(dropped.is_err());
    let metrics = nodens.metrics();
    let server = format!("dns://{}", nodens.dns());
    let count = |name: &str, labels: &[(&str, &str)]| {
        let labels = [&[("server", &*server)], labels].concat();
        metrics.sum(name, &labels)
    };
    let zone = [("zone", "example.test."), ("view", "")];
    for (name, labels, wanted) in [
        ("coredns_acl_blocked_requests_total", &zone[..], 1.0),
        ("coredns_acl_filtered_requests_total", &zone, 1.0),
        ("coredns_acl_dropped_requests_total", &zone, 1.0),
        ("coredns_acl_allowed_requests_total", &[("view", "")], 3.0),
        // The second is dns64's question.
        ("coredns_template_matches_total", &[("type", "A"), ("class", "IN")], 2.0),
        ("coredns_template_rr_failures_total", &[("type", "PTR"), ("section", "answer")], 1.0),
        ("coredns_template_failures_total", &[], 0.0),
        ("coredns_dns64_requests_translated_total", &[], 1.0),
    ] {
        assert_eq!(count(name, labels), wanted, "{name} {:#?}", metrics.map());
    }
    assert_eq!(metrics.sum("coredns_local_localhost_requests_total", &[]), 1.0);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let nodens = Setup::new("example.test.:@dns@ {\n bind 127.0.0.1\n whoami\n}\n")
        .arguments(&["--socket", "@folder@/socket"])
        .start();
    let socket = nodens.folder().join("socket");
    poll::wait_for("the socket", SOON, || socket.exists());
    for output in ["text", "json"] {
        let mut command = std::process::Command::new(tests::process::binary());
        command.args(["status", "-o", output, "--socket"]).arg(&socket);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = command.stdout(writer).stderr(std::process::Stdio::piped()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
        assert!(ended.status.success(), "{ended:?}");
    }
}
