//! What is known is answered without touching the heap: counted, not believed.
//!
//! The library runs in this process, assembled from a Corefile as the binary assembles it; the allocator counts what the
//! measuring thread asks for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nodens::assemble::{Assembled, assemble};
use nodens::chain::Local;
use nodens::clock::CoarseInstant;
use nodens::corefile;
use nodens::observe::filter::{Filter, Matcher};
use nodens::observe::readers::Observed;
use nodens::plugin;
use nodens::request::{Origin, Transport};
use nodens::server::Dispatch;
use nodens::server::answer::{Disposition, answer};
use nodens::shared::Shared;
use nodens::wire::query::write_query;
use nodens::wire::{Class, Message, Name, Rcode, RecordType, Section, flags};
use tests::poll;
use tests::upstream::{Act, Upstream};
use tokio::runtime::Runtime;

/// Hits measured of each question.
const HITS: usize = 3_000;
const ROUNDS: usize = 4;

/// What the cache's shared store allocates when it keeps house, which falls to whoever reads it when 64 have done so or
/// 300 ms have passed. Answers of a worker's own worker cache are not read from there.
const HOUSEKEEPING: u64 = 2;
const READS_A_TIME: u64 = 64;

/// Addresses of one name: more than fit into 512 octets, and than a parsed message has room for beside itself.
const MANY: usize = 60;

/// Names that do not fit into a worker's worker cache of 4,096.
const NAMES: usize = 6_000;

const ZONE: &str = "$ORIGIN test.
$TTL 300
@ IN SOA ns.test. admin.test. 1 3600 600 86400 300
www IN A 192.0.2.1
www IN A 192.0.2.2
www IN A 192.0.2.3
www IN AAAA 2001:db8::1
alias IN CNAME www.test.
";

/// Every query passes a view that it does not fit, after all of its conditions.
const COREFILE: &str = ".:53 {
    bind 127.0.0.1
    view others {
        expr not (do() and incidr(client_ip(), '192.0.2.0/24')) and client_ip() not in ['192.0.2.1', '::1']
        expr client_ip() startsWith '10.' and port() != '1' and server_ip() endsWith '.1' and bufsize() > 500 and id() in [1, 4242]
        expr type() in ['A', 'AAAA', 'CNAME', 'HTTPS', 'MX', 'NS', 'PTR', 'SOA', 'SRV', 'TXT'] and class() == 'IN'
        expr name() matches '^([a-z0-9_*.-]+|)[.]$' and metadata('kubernetes/client-namespace') == 'others'
    }
}
.:53 {
    bind 127.0.0.1
    limit 1 {
        refuse
        label \"tier in (a, b), !canary\" 1
        namespace client 1000000
    }
    autopath @kubernetes
    errors
    prometheus 127.0.0.1:1
    hosts {
        192.0.2.80 intranet.example
        192.0.2.81 intranet.example
        2001:db8::80 intranet.example
        fallthrough
    }
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        objects @objects@
        pods insecure
        pods node n1
        fallthrough in-addr.arpa ip6.arpa
    }
    cache 300
    forward . @upstream@
    loadbalance
}
example.org:53 {
    bind 127.0.0.1
    minimal
    header {
        response set ra
    }
    file @zone@
}
";

/// The Pod that asks: the limit of others would be reached at once.
const CLIENT: &str = "kind: Pod
metadata: {name: asks, namespace: client}
spec: {nodeName: n1}
status: {podIP: 10.0.0.9}
---
kind: Pod
metadata: {name: a-flood-of-the-namespace-with-a-long-name-5f7c9d8b6-x2x4z, namespace: client, labels: {tier: b}}
spec: {nodeName: n1}
status: {podIP: 10.0.0.8}
";

const ZONE_FILE: &str = "$ORIGIN example.org.
$TTL 300
@ IN SOA ns admin 1 3600 600 86400 300
@ IN NS ns
@ IN MX 10 mail
ns IN A 192.0.2.53
mail IN A 192.0.2.25
mail IN AAAA 2001:db8::25
www IN CNAME web
web IN A 192.0.2.80
_imap._tcp IN SRV 1 2 143 mail
*.wild IN A 192.0.2.99
sub IN NS ns.sub
ns.sub IN A 192.0.2.54
";

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    // Gone at the thread's end, when nothing is measured any more.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes on to the system's allocator with the arguments as they came; counting neither allocates nor
// unwinds (a `const` thread-local without a destructor needs no memory of its own).
#[allow(unsafe_code, reason = "an allocator is unsafe by its trait")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above; `pointer` came from `System` by one of these functions.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// How many allocations this thread makes in `work`.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// A server without sockets.
struct Server {
    runtime: Runtime,
    assembled: Assembled,
    observed: Arc<Observed>,
    _upstream: Upstream,
    _folder: tempfile::TempDir,
    local: Local,
    out: Vec<u8>,
    client: [u8; 4],
}

/// EDNS of a query: none, or with DO.
type Edns = Option<(u16, bool)>;

impl Server {
    fn start() -> Self {
        let many: String = (1..=MANY).map(|n| format!("many IN A 198.51.100.{n}\n")).collect();
        let upstream = Upstream::with_zone(&format!("{ZONE}{many}"));
        upstream.on_query(|seen| match seen.name.starts_with('n') && seen.name != "none.test." {
            true => Act::Raw(one_address(&seen.bytes)),
            false => Act::Answer,
        });
        let objects = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/demo/objects");
        let folder = tempfile::tempdir().unwrap();
        let own_objects = folder.path().join("objects");
        std::fs::create_dir(&own_objects).unwrap();
        std::os::unix::fs::symlink(objects, own_objects.join("demo")).unwrap();
        std::fs::write(own_objects.join("client.yaml"), CLIENT).unwrap();
        let zone = folder.path().join("db.example.org");
        std::fs::write(&zone, ZONE_FILE).unwrap();
        let text = COREFILE
            .replace("@zone@", &zone.display().to_string())
            .replace("@objects@", &own_objects.display().to_string())
            .replace("@upstream@", &upstream.address().to_string());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let (assembled, observed) = runtime.block_on(async { assemble_text(&text) });
        poll::wait_for("the objects to be read", Duration::from_secs(10), || {
            assembled.waiting_for().is_empty()
        });
        let (local, out) = (Local::new(0), Vec::with_capacity(65_536));
        let client = [10, 0, 0, 9];
        let (_upstream, _folder) = (upstream, folder);
        Self { runtime, assembled, observed, _upstream, _folder, local, out, client }
    }

    fn dispatch(&self) -> Arc<Dispatch> {
        self.assembled.listeners.values().next().map(Arc::clone).unwrap()
    }

    /// Answers into the buffer; true where it was done at once.
    fn serve(&mut self, packet: &[u8], dispatch: &Arc<Dispatch>, transport: Transport) -> bool {
        let origin = Origin {
            client: (self.client, 5353).into(),
            local: ([127, 0, 0, 1], 53).into(),
            transport,
            worker: 0,
            received: CoarseInstant::now(),
        };
        self.out.clear();
        match answer(packet, origin, dispatch, &mut self.local, &mut self.out) {
            Disposition::Reply => true,
            Disposition::Drop => panic!("silence"),
            Disposition::Pending(reply, request) => {
                self.out.clear();
                let answer = self.runtime.block_on(reply.resolve());
                assert!(reply.write(&request, &answer, Instant::now(), &mut self.out));
                false
            }
        }
    }

    /// Asks for what has to be fetched, then measures hits in [`ROUNDS`] rounds; returns the allocations of each, and the
    /// last answer.
    fn measure(&mut self, name: &str, qtype: RecordType, edns: Edns) -> ([u64; ROUNDS], Message) {
        let dispatch = self.dispatch();
        let packet = query(name, qtype, edns);
        for _ in 0..3 {
            self.serve(&packet, &dispatch, Transport::Udp);
        }
        let round = |_| {
            allocations(|| {
                for n in 0..HITS {
                    let transport = if n % 4 == 0 { Transport::Tcp } else { Transport::Udp };
                    assert!(
                        self.serve(&packet, &dispatch, transport),
                        "{name} {qtype} has to wait"
                    );
                }
            })
        };
        let made = std::array::from_fn(round);
        (made, Message::from_received(self.out.clone()).unwrap())
    }

    /// Checks a question's answer, and what hits of it allocate in a round: without EDNS, with it, and with DO. Returns
    /// the most that a round has allocated.
    #[track_caller]
    fn check(&mut self, name: &str, qtype: RecordType, rcode: Rcode, records: usize) -> u64 {
        let mut all = Vec::new();
        for edns in [None, Some((1232, false)), Some((4096, true))] {
            let (made, answer) = self.measure(name, qtype, edns);
            assert_eq!((answer.rcode(), answers(&answer)), (rcode, records), "{name} {qtype}");
            assert!(made.contains(&0), "{name} {qtype} {edns:?}: {made:?} allocations");
            all.push(made);
        }
        let (kind, code) = (qtype.to_string(), rcode.to_string());
        println!("{name:<40} {kind:<5} {code:<8} {records} records, allocations by round: {all:?}");
        all.into_iter().flatten().max().unwrap_or_default()
    }
}

fn answers(message: &Message) -> usize {
    message.layout().section(Section::Answer).count()
}

fn assemble_text(text: &str) -> (Assembled, Arc<Observed>) {
    let (file, mut diagnostics) = corefile::parse("Corefile", text, &|_| None);
    let blocks = plugin::read(&file, 53, &mut diagnostics);
    assert!(!diagnostics.has_errors(), "{diagnostics}");
    let shared = Arc::new(Shared::new(1));
    let assembled = assemble(blocks, &shared).unwrap();
    assembled.show(&shared, "");
    (assembled, Arc::clone(&shared.observed))
}

fn query(name: &str, qtype: RecordType, edns: Edns) -> Vec<u8> {
    let mut packet = Vec::new();
    let name = Name::from_text(name).unwrap();
    write_query(&mut packet, 4242, flags::RD, name.as_ref(), qtype, Class::IN, edns);
    packet
}

/// The answer 192.0.2.9 to any query.
fn one_address(query: &[u8]) -> Vec<u8> {
    let end = 12 + query[12..].iter().position(|octet| *octet == 0).unwrap_or(0) + 5;
    let mut message = query[..end].to_vec();
    message[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, 9]);
    message
}

#[test]
fn refusals_of_a_pod_that_floods_allocate_nothing() {
    let mut server = Server::start();
    server.client = [10, 0, 0, 8];
    server.check("web.shop.svc.cluster.local", RecordType::A, Rcode::REFUSED, 0);
    let (_, refused) =
        server.measure("web.shop.svc.cluster.local", RecordType::A, Some((1232, false)));
    let told = String::from_utf8_lossy(refused.options()).into_owned();
    assert!(told.contains("at most 1 a second for Pod client/a-flood-of-the-namespace-"), "{told}");
}

#[test]
fn cluster_names_and_hosts_allocate_nothing() {
    let mut server = Server::start();
    let (ok, nx) = (Rcode::NOERROR, Rcode::NXDOMAIN);
    for (name, qtype, rcode, records) in [
        ("web.shop.svc.cluster.local", RecordType::A, ok, 1),
        ("WEB.Shop.svc.Cluster.local", RecordType::AAAA, ok, 1),
        ("db.shop.svc.cluster.local", RecordType::A, ok, 2),
        ("db-0.db.shop.svc.cluster.local", RecordType::A, ok, 1),
        ("_postgres._tcp.db.shop.svc.cluster.local", RecordType::SRV, ok, 2),
        ("_http._tcp.web.shop.svc.cluster.local", RecordType::SRV, ok, 1),
        ("10-244-1-21.shop.pod.cluster.local", RecordType::A, ok, 1),
        ("34.12.96.10.in-addr.arpa", RecordType::PTR, ok, 1),
        ("21.1.244.10.in-addr.arpa", RecordType::PTR, ok, 1),
        ("web.shop.svc.cluster.local", RecordType::TXT, ok, 0),
        ("nobody.shop.svc.cluster.local", RecordType::A, nx, 0),
        ("www.test.shop.svc.cluster.local", RecordType::A, nx, 0),
        ("cluster.local", RecordType::SOA, ok, 1),
        ("dns-version.cluster.local", RecordType::TXT, ok, 1),
        ("intranet.example", RecordType::A, ok, 2),
        ("intranet.example", RecordType::AAAA, ok, 1),
        ("intranet.example", RecordType::MX, ok, 0),
        ("80.2.0.192.in-addr.arpa", RecordType::PTR, ok, 1),
    ] {
        assert_eq!(server.check(name, qtype, rcode, records), 0, "{name} {qtype}");
    }
}

#[test]
fn cached_answers_allocate_nothing() {
    let mut server = Server::start();
    let (ok, nx) = (Rcode::NOERROR, Rcode::NXDOMAIN);
    for (name, qtype, rcode, records) in [
        ("www.test", RecordType::A, ok, 3),
        ("WWW.test", RecordType::AAAA, ok, 1),
        ("alias.test", RecordType::A, ok, 4),
        ("www.test", RecordType::TXT, ok, 0),
        ("none.test", RecordType::A, nx, 0),
    ] {
        assert_eq!(server.check(name, qtype, rcode, records), 0, "{name} {qtype}");
    }
}

/// Four names of the cluster that do not exist, and one that is cached; a name of another namespace.
#[test]
fn search_lists_allocate_nothing() {
    let mut server = Server::start();
    for (name, qtype, records) in [
        ("www.test", RecordType::A, 3),
        ("www.test", RecordType::AAAA, 1),
        ("alias.test", RecordType::A, 4),
        ("web.shop", RecordType::A, 1),
        ("db.shop", RecordType::A, 2),
    ] {
        if name.ends_with(".test") {
            server.check(name, qtype, Rcode::NOERROR, records);
        }
        let first = format!("{name}.client.svc.cluster.local");
        assert_eq!(server.check(&first, qtype, Rcode::NOERROR, records + 1), 0, "{first} {qtype}");
    }
    let nothing = "none.test.client.svc.cluster.local";
    server.check("none.test", RecordType::A, Rcode::NXDOMAIN, 0);
    assert_eq!(server.check(nothing, RecordType::A, Rcode::NXDOMAIN, 0), 0);
}

/// The ring that a worker writes into is there from the start.
#[test]
fn queries_that_somebody_observes_allocate_nothing() {
    let mut server = Server::start();
    let everything = Matcher::new(&Filter::default()).unwrap();
    let mut frames = server.observed.observe(everything).unwrap();
    for (name, qtype, rcode, records) in [
        ("web.shop.svc.cluster.local", RecordType::A, Rcode::NOERROR, 1),
        ("nope.shop.svc.cluster.local", RecordType::A, Rcode::NXDOMAIN, 0),
        ("www.test", RecordType::A, Rcode::NOERROR, 3),
    ] {
        assert_eq!(server.check(name, qtype, rcode, records), 0, "{name} {qtype}");
    }
    assert!(frames.blocking_recv().is_some_and(|frame| frame.len() > 8), "they are observed");
}

#[test]
fn zone_files_allocate_nothing_behind_minimal_and_header_too() {
    let mut server = Server::start();
    let (ok, nx) = (Rcode::NOERROR, Rcode::NXDOMAIN);
    for (name, qtype, rcode, records) in [
        ("web.example.org", RecordType::A, ok, 1),
        ("www.example.org", RecordType::A, ok, 2),
        ("example.org", RecordType::MX, ok, 1),
        ("example.org", RecordType::NS, ok, 1),
        ("_imap._tcp.example.org", RecordType::SRV, ok, 1),
        ("a.wild.example.org", RecordType::A, ok, 1),
        ("a.sub.example.org", RecordType::A, ok, 0),
        ("web.example.org", RecordType::TXT, ok, 0),
        ("none.example.org", RecordType::A, nx, 0),
    ] {
        assert_eq!(server.check(name, qtype, rcode, records), 0, "{name} {qtype}");
    }
}

#[test]
fn answers_that_are_cut_off_allocate_nothing() {
    let mut server = Server::start();
    let dispatch = server.dispatch();
    let packet = query("many.test", RecordType::A, None);
    for _ in 0..3 {
        server.serve(&packet, &dispatch, Transport::Udp);
    }
    let made = allocations(|| {
        for _ in 0..HITS {
            assert!(server.serve(&packet, &dispatch, Transport::Udp));
        }
    });
    let answer = Message::from_received(server.out.clone()).unwrap();
    assert!(answer.truncated() && answers(&answer) > 20, "{}", answers(&answer));
    assert_eq!(made, 0);
}

#[test]
fn more_names_than_the_hot_set_holds_cost_housekeeping_only() {
    let mut server = Server::start();
    let dispatch = server.dispatch();
    let packets: Vec<Vec<u8>> = (0..NAMES)
        .map(|n| query(&format!("n{n}.test"), RecordType::A, Some((1232, false))))
        .collect();
    // Twice: the first fetches, the second settles what the store does for itself.
    for _ in 0..2 {
        for packet in &packets {
            server.serve(packet, &dispatch, Transport::Udp);
        }
    }
    let mut waited = 0;
    let made = allocations(|| {
        for packet in &packets {
            waited += usize::from(!server.serve(packet, &dispatch, Transport::Udp));
        }
    });
    println!("{NAMES} names in turn: {made} allocations, {waited} had to wait");
    assert_eq!(waited, 0);
    assert!(made <= HOUSEKEEPING * (NAMES as u64 / READS_A_TIME + 1));
}

#[test]
fn refusals_and_errors_allocate_nothing() {
    let mut server = Server::start();
    let dispatch = server.dispatch();
    let mut chaos = query("version.bind", RecordType::TXT, None);
    let class = chaos.len() - 1;
    chaos[class] = 3;
    let mut badvers = query("www.test", RecordType::A, Some((1232, false)));
    let version = badvers.len() - 5;
    badvers[version] = 1;
    let mut notimp = query("www.test", RecordType::A, None);
    notimp[2] |= 5 << 3;
    let formerr = query("www.test", RecordType::A, None)[..20].to_vec();
    for packet in [chaos, badvers, notimp, formerr] {
        server.serve(&packet, &dispatch, Transport::Udp);
        let made = allocations(|| {
            for _ in 0..HITS {
                server.serve(&packet, &dispatch, Transport::Udp);
            }
        });
        println!("rcode {}: {made} allocations", server.out[3] & 15);
        assert_eq!(made, 0);
    }
}
