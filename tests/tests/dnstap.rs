//! `dnstap`, read back: a collector that knows frame streams and the schema of dnstap.info, written from their specifications.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use serde_json::json;
use tests::client::Client;
use tests::cluster::Cluster;
use tests::poll::wait_for;
use tests::process::{Nodens, Setup};
use tests::upstream::Upstream;

const SOON: Duration = Duration::from_secs(20);
const CONTENT: &[u8] = b"protobuf:dnstap.Dnstap";
const ZONE: &str = "$ORIGIN test.\n$TTL 60\n@ IN SOA ns.test. admin.test. 1 3600 600 86400 60\nwww IN A 192.0.2.1\n";
const COREFILE: &str = "test.:@dns@ {
    bind 127.0.0.1
    dnstap @endpoint@ @options@
    acl {
        drop type TXT
    }
    cache 30
    forward . @upstream@
    prometheus 127.0.0.1:@metrics@
}
";

const CLIENT_QUERY: u64 = 5;
const CLIENT_RESPONSE: u64 = 6;
const FORWARDER_QUERY: u64 = 7;
const FORWARDER_RESPONSE: u64 = 8;

/// A field of protobuf: a number, or bytes.
#[derive(Clone, Debug, PartialEq)]
enum Field {
    Number(u64),
    Bytes(Vec<u8>),
}

type Fields = BTreeMap<u64, Field>;

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (first, rest) = bytes.split_first().expect("a varint");
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            break;
        }
    }
    value
}

/// Reads a message of protobuf in which no field comes twice.
fn fields(mut bytes: &[u8]) -> Fields {
    let mut fields = Fields::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut bytes)),
            2 => {
                let len = varint(&mut bytes) as usize;
                let (value, rest) = bytes.split_at(len);
                bytes = rest;
                Field::Bytes(value.to_vec())
            }
            5 => {
                let (value, rest) = bytes.split_at(4);
                bytes = rest;
                Field::Number(u32::from_le_bytes(value.try_into().unwrap()).into())
            }
            other => panic!("wire type {other}"),
        };
        assert!(fields.insert(tag >> 3, field).is_none(), "field {} twice", tag >> 3);
    }
    fields
}

/// One message as it was received.
#[derive(Clone, Debug)]
struct Tapped {
    outer: Fields,
    inner: Fields,
}

impl Tapped {
    fn read(payload: &[u8]) -> Self {
        let outer = fields(payload);
        assert_eq!(outer.get(&15), Some(&Field::Number(1)), "the type is MESSAGE");
        let Some(Field::Bytes(inner)) = outer.get(&14) else { panic!("no message: {outer:?}") };
        Self { inner: fields(inner), outer }
    }

    fn number(&self, field: u64) -> u64 {
        match self.inner.get(&field) {
            Some(Field::Number(number)) => *number,
            other => panic!("field {field} is {other:?} in {self:?}"),
        }
    }

    fn bytes(&self, field: u64) -> Option<&[u8]> {
        match self.inner.get(&field)? {
            Field::Bytes(bytes) => Some(bytes),
            other => panic!("field {field} is {other:?}"),
        }
    }

    fn kind(&self) -> u64 {
        self.number(1)
    }

    /// Name and number of answers of the DNS message of this field.
    fn dns(&self, field: u64) -> (String, usize) {
        let message = Message::from_vec(self.bytes(field).expect("a DNS message")).unwrap();
        (message.queries[0].name().to_string().to_lowercase(), message.answers.len())
    }
}

/// What a collector has received.
#[derive(Clone, Default)]
struct Collector {
    tapped: Arc<Mutex<Vec<Tapped>>>,
    /// Streams that were begun, and those that were ended with STOP.
    streams: Arc<Mutex<(usize, usize)>>,
}

impl Collector {
    fn all(&self) -> Vec<Tapped> {
        self.tapped.lock().unwrap().clone()
    }

    fn wait_for(&self, count: usize) -> Vec<Tapped> {
        wait_for("tapped messages", SOON, || self.all().len() >= count);
        self.all()
    }

    fn serve(&self, mut stream: impl Read + Write) {
        let mut word = [0; 4];
        let mut next = |stream: &mut dyn Read| {
            stream.read_exact(&mut word).ok()?;
            Some(u32::from_be_bytes(word))
        };
        loop {
            let Some(len) = next(&mut stream) else { return };
            if len > 0 {
                let mut payload = vec![0; len as usize];
                if stream.read_exact(&mut payload).is_err() {
                    return;
                }
                self.tapped.lock().unwrap().push(Tapped::read(&payload));
                continue;
            }
            let len = next(&mut stream).expect("a control frame's length");
            let mut frame = vec![0; len as usize];
            stream.read_exact(&mut frame).unwrap();
            let content =
                [&1u32.to_be_bytes()[..], &(CONTENT.len() as u32).to_be_bytes(), CONTENT].concat();
            match u32::from_be_bytes(frame[..4].try_into().unwrap()) {
                // READY: ACCEPT.
                4 => {
                    assert_eq!(frame[4..], content);
                    let body = [&1u32.to_be_bytes()[..], &content].concat();
                    let accept =
                        [&0u32.to_be_bytes()[..], &(body.len() as u32).to_be_bytes(), &body]
                            .concat();
                    stream.write_all(&accept).unwrap();
                }
                // START.
                2 => {
                    assert_eq!(frame[4..], content);
                    self.streams.lock().unwrap().0 += 1;
                }
                // STOP.
                3 => {
                    self.streams.lock().unwrap().1 += 1;
                    return;
                }
                other => panic!("control frame {other}"),
            }
        }
    }

    fn listen_unix(&self, path: &std::path::Path) {
        let listener = UnixListener::bind(path).unwrap();
        let collector = self.clone();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                collector.serve(stream);
            }
        });
    }

    fn listen_tcp(&self) -> String {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = format!("tcp://{}", listener.local_addr().unwrap());
        let collector = self.clone();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                collector.serve(stream);
            }
        });
        address
    }
}

fn start(endpoint: &str, options: &str, upstream: &Upstream) -> Nodens {
    Setup::new(COREFILE)
        .word("upstream", upstream.address())
        .word("endpoint", endpoint)
        .word("options", options)
        .start()
}

#[test]
fn queries_and_responses_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dnstap.sock");
    let (collector, upstream) = (Collector::default(), Upstream::with_zone(ZONE));
    collector.listen_unix(&path);
    let mut nodens = start(
        &path.to_string_lossy(),
        "full {\n identity node-7\n version v7\n extra rack-1\n }",
        &upstream,
    );
    nodens.client().ask("www.test.", RecordType::A).unwrap();
    let all = collector.wait_for(4);
    let of = |kind: u64| {
        all.iter()
            .find(|tapped| tapped.kind() == kind)
            .unwrap_or_else(|| panic!("no {kind}: {all:?}"))
    };

    let query = of(CLIENT_QUERY);
    let text = |field: u64| match query.outer.get(&field) {
        Some(Field::Bytes(text)) => String::from_utf8_lossy(text).into_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!([text(1), text(2), text(3)], ["node-7", "v7", "rack-1"]);
    assert_eq!(query.dns(10), ("www.test.".to_owned(), 0));
    assert_eq!((query.number(2), query.number(3)), (1, 1), "IPv4 over UDP");
    assert_eq!(query.bytes(4), Some(&[127, 0, 0, 1][..]));
    assert_eq!(
        (query.bytes(5), query.number(7)),
        (Some(&[127, 0, 0, 1][..]), u64::from(nodens.dns().port()))
    );
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(query.number(8)) < 60 && query.number(9) < 1_000_000_000);
    assert!(query.bytes(14).is_none());

    let response = of(CLIENT_RESPONSE);
    assert_eq!(response.dns(14), ("www.test.".to_owned(), 1));
    assert_eq!(response.number(6), query.number(6), "the client's port");
    assert!(response.number(12) >= response.number(8));
    assert!(response.bytes(10).is_none());

    let (asked, answered) = (of(FORWARDER_QUERY), of(FORWARDER_RESPONSE));
    assert_eq!(asked.dns(10), ("www.test.".to_owned(), 0));
    assert_eq!(asked.number(6), u64::from(upstream.address().port()));
    assert_eq!(answered.dns(14), ("www.test.".to_owned(), 1));

    // From the cache: no upstream is asked. Silence: there is no response.
    let before = collector.all().len();
    nodens.client().ask("www.test.", RecordType::A).unwrap();
    let client = nodens.client().within(Duration::from_millis(100));
    assert!(client.ask("www.test.", RecordType::TXT).is_err());
    let kinds = |all: Vec<Tapped>| all.iter().map(Tapped::kind).collect::<Vec<_>>();
    let mut seen = kinds(collector.wait_for(before + 3).split_off(before));
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, [CLIENT_QUERY, CLIENT_RESPONSE]);

    let metrics = nodens.metrics();
    let to = format!("unix://{}", path.display());
    assert!(metrics.sum("nodens_dnstap_sent_total", &[("to", &to)]) >= 7.0);
    assert!(metrics.sum("nodens_dnstap_dropped_total", &[]) < 0.5);
    nodens.stop(SOON);
    wait_for("the stream's end", SOON, || collector.streams.lock().unwrap().1 == 1);
}

#[test]
fn extra_names_the_pod_that_asks() {
    let cluster = Cluster::default();
    cluster.server.put(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-1", "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": "node-9"},
        "status": {"phase": "Running", "podIP": "127.0.1.5", "podIPs": [{"ip": "127.0.1.5"}]},
    }));
    let collector = Collector::default();
    let extra = "\"{/kubernetes/client-namespace}/{/kubernetes/client-pod-name} {remote} {port} {name} {rcode}\"";
    let line =
        format!("bind 127.0.0.1\n dnstap {} {{\n extra {extra}\n }}\n", collector.listen_tcp());
    // The line has the Pods of the node watched by itself.
    let setup =
        cluster.setup("").corefile(|corefile| corefile.replacen("bind 127.0.0.1\n", &line, 1));
    let nodens = setup.environment("NODE_NAME", "node-9").start();
    nodens.wait_for_metrics("the Pod", SOON, |metrics| {
        metrics.sum("nodens_kubernetes_objects", &[("kind", "NodePod")]) == 1.0
    });
    let ask = |from: &str| {
        let client = Client::new(nodens.dns()).from(from.parse().unwrap());
        client.ask("example.org.", RecordType::A).unwrap();
    };
    ask("127.0.1.5");
    ask("127.0.0.1");
    let extra_of = |tapped: &Tapped| match tapped.outer.get(&3) {
        Some(Field::Bytes(text)) => String::from_utf8_lossy(text).into_owned(),
        other => panic!("{other:?}"),
    };
    let (mut of_pod, mut of_other, mut of_upstream) = (0, 0, 0);
    for tapped in collector.wait_for(8) {
        let (extra, is_client) = (extra_of(&tapped), tapped.kind() <= CLIENT_RESPONSE);
        match (is_client, tapped.bytes(4)) {
            (true, Some(&[127, 0, 1, 5])) => {
                assert_eq!(
                    extra,
                    format!("shop/web-1 127.0.1.5 {} example.org. -", tapped.number(6))
                );
                of_pod += 1;
            }
            (true, _) => {
                assert_eq!(extra, format!("-/- 127.0.0.1 {} example.org. -", tapped.number(6)));
                of_other += 1;
            }
            // Of the client for which it was sent.
            (false, _) if extra == "shop/web-1 127.0.1.5 - example.org. -" => of_upstream += 1,
            (false, _) => assert_eq!(extra, "-/- 127.0.0.1 - example.org. -"),
        }
    }
    assert_eq!((of_pod, of_other, of_upstream), (2, 2, 2));
}

#[test]
fn a_collector_over_tcp_gets_no_messages_that_are_not_wanted() {
    let (collector, upstream) = (Collector::default(), Upstream::with_zone(ZONE));
    let endpoint = collector.listen_tcp();
    let nodens = start(&endpoint, "{\n message_types CLIENT_RESPONSE\n }", &upstream);
    nodens.client().ask("www.test.", RecordType::A).unwrap();
    let all = collector.wait_for(1);
    assert!(all.iter().all(|tapped| tapped.kind() == CLIENT_RESPONSE));
    assert!(all.iter().all(|tapped| tapped.bytes(14).is_none()), "without `full` no DNS message");
}

#[test]
fn a_collector_that_is_away_is_in_nobodys_way() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dnstap.sock");
    let (collector, upstream) = (Collector::default(), Upstream::with_zone(ZONE));
    let nodens = start(&path.to_string_lossy(), "", &upstream);
    let client = nodens.client();
    client.ask("www.test.", RecordType::A).unwrap();
    nodens.wait_for_log("dnstap: no connection to the collector", SOON);
    let begun = std::time::Instant::now();
    for _ in 0..6_000 {
        client.ask("www.test.", RecordType::A).unwrap();
    }
    assert!(begun.elapsed() < SOON, "queries wait for the collector");
    // Each query is two messages, and the queue holds 10,000.
    assert!(nodens.metrics().sum("nodens_dnstap_dropped_total", &[]) > 0.0);
    collector.listen_unix(&path);
    wait_for("what was queued", Duration::from_secs(30), || collector.all().len() >= 9_000);
    assert!(nodens.metrics().sum("nodens_dnstap_connected", &[]) > 0.5);
}
