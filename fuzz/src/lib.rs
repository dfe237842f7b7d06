//! What is done with bytes from outside, one function for each way in; each panics where something is wrong.
//!
//! The fuzz targets call them, and `tests/tests/fuzz_regression.rs` runs them over `seeds/` with any compiler.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nodens::assemble::{Assembled, assemble};
use nodens::chain::Local;
use nodens::clock::CoarseInstant;
use nodens::cluster::decode::{Decoded, Encoding, Item, WatchEvent};
use nodens::cluster::index::{Index, Settings};
use nodens::cluster::object::{Event, Kind};
use nodens::cluster::{Interner, Snapshot};
use nodens::control::Request;
use nodens::corefile as syntax;
use nodens::plugin::{self, view as views};
use nodens::request::{Origin, Transport};
use nodens::server::answer::{Disposition, answer};
use nodens::shared::Shared;
use nodens::upstream::Question;
use nodens::upstream::question::check;
use nodens::upstream::resolv_conf::{MAX_SERVERS, ResolvConf};
use nodens::wire::query::write_query;
use nodens::wire::{
    Class, MAX_UDP_PAYLOAD, Message, Name, Query, Record, RecordType, Reject, Reply, flags, text,
};
use tokio::runtime::Runtime;

/// A target's name, and the target.
pub type Target = (&'static str, fn(&[u8]));

/// All targets, by the names of their folders in `seeds`.
pub const ALL: [Target; 11] = [
    ("wire", wire),
    ("message", message),
    ("upstream", upstream),
    ("corefile", corefile),
    ("objects", objects),
    ("protobuf", protobuf),
    ("snapshot", snapshot),
    ("resolv_conf", resolv_conf),
    ("control", control),
    ("records", records),
    ("view", view),
];

/// A server with everything that answers without an upstream.
const COREFILE: &str = ".:53 {
    bind 127.0.0.1
    errors
    hosts {
        192.0.2.80 intranet.example
        2001:db8::80 intranet.example
        fallthrough
    }
    template IN A expand.example {
        match ^(?P<a>[a-z0-9-]+)[.]expand[.]example[.]$
        answer \"{{ .Name }} 60 IN CNAME {{ .Group.a }}.example.\"
        fallthrough
    }
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        objects @objects@
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
    }
    cache
    whoami
}
";

struct Server {
    runtime: Runtime,
    assembled: Assembled,
}

impl Server {
    fn get() -> &'static Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(Self::start)
    }

    fn start() -> Self {
        let objects = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/demo/objects");
        let text = COREFILE.replace("@objects@", objects);
        let (file, mut diagnostics) = syntax::parse("Corefile", &text, &|_| None);
        let blocks = plugin::read(&file, 53, &mut diagnostics);
        assert!(!diagnostics.has_errors(), "{diagnostics}");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let shared = Arc::new(Shared::new(1));
        let assembled = runtime.block_on(async { assemble(blocks, &shared) }).expect("a server");
        let end = Instant::now() + Duration::from_secs(10);
        while !assembled.waiting_for().is_empty() {
            assert!(Instant::now() < end, "the objects are not read");
            std::thread::yield_now();
        }
        Self { runtime, assembled }
    }
}

/// A packet from a client, answered as the server does over both transports. What comes back is a sound message with the
/// query's id and question, no longer than the client takes.
pub fn wire(packet: &[u8]) {
    let server = Server::get();
    let dispatch = server.assembled.listeners.values().next().expect("a listener");
    for transport in [Transport::Udp, Transport::Tcp] {
        let origin = Origin {
            client: ([10, 0, 0, 9], 5353).into(),
            local: ([127, 0, 0, 1], 53).into(),
            transport,
            worker: 0,
            received: CoarseInstant::now(),
        };
        let mut out = Vec::new();
        let handled = Local::with(|local| answer(packet, origin, dispatch, local, &mut out));
        let replied = match handled {
            Disposition::Reply => true,
            Disposition::Drop => false,
            Disposition::Pending(reply, request) => {
                let answer = server.runtime.block_on(reply.resolve());
                reply.write(&request, &answer, Instant::now(), &mut out)
            }
        };
        match Query::parse(packet) {
            Err(Reject::Silent) => assert!(!replied),
            Err(Reject::Answer(_)) => assert!(replied && out.len() <= packet.len().max(12)),
            Ok(query) => {
                assert!(replied && out.starts_with(&packet[..2]));
                if transport == Transport::Udp {
                    assert!(out.len() <= query.udp_limit());
                }
                let question = 12..query.question_end();
                assert_eq!(out.get(question.clone()), packet.get(question));
                let message = Message::from_received(out).expect("our answer is sound");
                Record::all_of(&message).expect("its names are sound");
            }
        }
    }
}

/// A message that was received, copied into replies to clients of every size.
pub fn message(bytes: &[u8]) {
    let Ok(message) = Message::from_received(bytes.to_vec()) else { return };
    hand_on(&message);
    let records = Record::all_of(&message).expect("every name of a message can be expanded");
    for (_, record) in records {
        record.target();
    }
}

/// Copies a message into replies, which must be sound and fit.
fn hand_on(message: &Message) {
    let layout = message.layout();
    let name = message.name();
    let name = name.as_name();
    assert!(message.is_about(name));
    for edns in [None, Some((0, false)), Some((1_232, true)), Some((u16::MAX, false))] {
        let mut packet = Vec::new();
        write_query(&mut packet, 7, flags::RD, name, layout.qtype, layout.qclass, edns);
        let query = Query::parse(&packet).expect("our query is sound");
        for over_tcp in [false, true] {
            let mut out = Vec::new();
            let mut reply = Reply::begin(&mut out, &query, over_tcp);
            reply.copy(message);
            let len = reply.finish(Some(b"nsid"));
            assert_eq!(len, out.len());
            assert!(over_tcp || len <= query.udp_limit().min(MAX_UDP_PAYLOAD.into()));
            let again = Message::from_received(out).expect("a copy is sound");
            assert_eq!(again.layout().question_end, query.question_end());
        }
    }
}

/// What comes from an upstream's address, as the answer to the question that it claims to answer, and to another one.
pub fn upstream(bytes: &[u8]) {
    let other = Name::from_text("www.example.com").expect("a name");
    let mut questions = vec![Question::new(other.as_ref(), RecordType::A, true)];
    if let Ok(message) = Message::from_received(bytes.to_vec()) {
        let qtype = message.layout().qtype;
        questions.push(Question::new(message.name().as_name(), qtype, false));
    }
    for question in questions {
        for exact in [false, true] {
            if check(bytes, question.packet(), question.end(), exact).is_err() {
                continue;
            }
            let Ok(message) = Message::from_received(bytes.to_vec()) else { continue };
            assert_eq!(message.layout().qclass, Class::IN);
            hand_on(&message);
        }
    }
}

/// A Corefile. A good one, printed and read again, is the same.
pub fn corefile(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // Files of this machine are no part of the input.
    if text.contains("import") || text.contains('/') {
        return;
    }
    let (file, mut diagnostics) = syntax::parse("Corefile", text, &|_| None);
    if diagnostics.has_errors() {
        assert!(!diagnostics.to_string().is_empty());
        return;
    }
    let printed = file.to_string();
    let (again, found) = syntax::parse("Corefile", &printed, &|_| None);
    assert!(!found.has_errors(), "{found}\n{printed}");
    assert_eq!(again.to_string(), printed);
    plugin::read(&file, 53, &mut diagnostics);
    diagnostics.sort();
    let _ = diagnostics.to_string();
}

/// An object as the API server sends it in JSON; the first octet selects its kind. What can be served is taken into an
/// index, and out again.
pub fn objects(bytes: &[u8]) {
    read_objects(Encoding::Json, bytes);
}

/// The same in protobuf.
pub fn protobuf(bytes: &[u8]) {
    read_objects(Encoding::Protobuf, bytes);
}

fn read_objects(encoding: Encoding, bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let kind = Kind::ALL[usize::from(*kind) % Kind::ALL.len()];
    let interner = Interner::default();
    take(kind, encoding.object(kind, bytes, &interner));
    if let WatchEvent::Change(_, item) = encoding.event(kind, bytes, &interner) {
        take(kind, item);
    }
    encoding.list_metadata(bytes);
    encoding.refusal(bytes);
}

fn take(kind: Kind, item: Item) {
    // Its tables take milliseconds to make; it is empty again after each object.
    static INDEX: OnceLock<Index> = OnceLock::new();
    let index =
        INDEX.get_or_init(|| Index::new(Settings { endpoint_pods: true, ..Settings::default() }));
    let (Decoded::Object(object), Some(id)) = (item.decoded, item.id) else { return };
    index.apply(Event::Apply(object));
    index.apply(Event::Delete(kind, id));
    assert_eq!(index.statistics().objects, [0; Kind::ALL.len()]);
}

/// A snapshot file: as it is, and with a right sum, so that what is behind it is reached.
pub fn snapshot(bytes: &[u8]) {
    read_snapshot(bytes);
    let mut summed = bytes.to_vec();
    if let Some((body, sum)) = summed.split_last_chunk_mut::<4>() {
        *sum = crc32fast::hash(body).to_be_bytes();
        read_snapshot(&summed);
    }
}

fn read_snapshot(bytes: &[u8]) {
    let Ok(snapshot) = Snapshot::decode(bytes) else { return };
    let interner = Interner::default();
    let index = Index::new(Settings { endpoint_pods: false, ..Settings::default() });
    for object in snapshot.objects(&interner).flatten() {
        index.apply(Event::Apply(object));
    }
}

/// A resolv.conf.
pub fn resolv_conf(bytes: &[u8]) {
    let conf = ResolvConf::parse(bytes);
    assert!(conf.servers.len() <= MAX_SERVERS && conf.unreadable.len() <= 4);
}

/// A line on the local socket.
pub fn control(bytes: &[u8]) {
    let Ok(request) = serde_json::from_slice::<Request>(bytes) else { return };
    let again = serde_json::to_vec(&request).expect("a request can be written");
    assert_eq!(serde_json::from_slice::<Request>(&again).expect("and read"), request);
}

/// A record as text, as `template` and zone files have it.
pub fn records(bytes: &[u8]) {
    let Ok(line) = std::str::from_utf8(bytes) else { return };
    if let Ok(record) = text::record(line) {
        assert!(record.rdata.len() <= usize::from(u16::MAX));
        record.target();
    }
}

/// An expression of `view`: it is one, or its first mistake is at one of its characters.
pub fn view(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Err((at, what)) = views::check(&text) {
        assert!((1..=text.chars().count() + 1).contains(&at), "{what} at {at}");
    }
}
