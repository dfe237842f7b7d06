//! The pages over loopback sockets.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::*;
use crate::chain::{Chain, Handler, Local};
use crate::conditions::{Found, Watched};
use crate::detail::{Detail, Monitor};
use crate::request::{Plugin, Request, Step};
use crate::wire::{Name, Reply};

const ANY: ListenAddress =
    ListenAddress { ip: Some(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)), port: 0 };

struct Store(std::sync::atomic::AtomicBool);

impl Handler for Store {
    fn plugin(&self) -> Plugin {
        Plugin::Kubernetes
    }

    fn serve(&self, _: &Request<'_>, _: &mut Reply<'_>, _: &mut Local) -> Step {
        Step::Next
    }

    fn not_ready(&self) -> Option<String> {
        (!self.0.load(Relaxed)).then(|| "the first list of Services".to_owned())
    }
}

impl Watched for Store {
    fn look(&self, found: &mut Found) {
        found.add(&table::API_AWAY, "silent");
    }
}

impl Detail for Store {
    fn name(&self) -> &str {
        "kubernetes"
    }

    fn detail(&self) -> serde_json::Value {
        serde_json::json!({ "age_seconds": 3 })
    }
}

fn admin() -> (tokio::runtime::Runtime, Admin) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let admin =
        Admin::new(runtime.handle().clone(), Metrics::new(), Arc::default(), Arc::default());
    (runtime, admin)
}

fn ask(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(format!("{request}Host: x\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let (status, answer) = ask(address, &format!("GET {path} HTTP/1.1\r\n"));
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

fn only_address(admin: &Admin) -> SocketAddr {
    let addresses = admin.addresses();
    assert_eq!(addresses.len(), 1);
    addresses[0].0
}

#[test]
fn directives_share_an_address_and_the_kernel_shares_it_with_others() {
    let (_runtime, admin) = admin();
    let pages = [(ANY, Pages::METRICS), (ANY, Pages::HEALTH), (ANY, Pages::METRICS)];
    assert!(admin.apply(pages).is_empty());
    let address = only_address(&admin);
    assert_eq!(get(address, "/health"), (200, "OK".into()));
    assert_eq!(get(address, "/metrics").0, 200);
    assert_eq!(get(address, "/ready"), (404, "this address serves /metrics and /health\n".into()));
    assert_eq!(get(address, "/").0, 404);
    assert_eq!(ask(address, "POST /health HTTP/1.1\r\nContent-Length: 0\r\n").0, 405);
    assert_eq!(ask(address, "HEAD /health HTTP/1.1\r\n").0, 200);
    let (_other_runtime, second) = self::admin();
    let same = ListenAddress { ip: Some(address.ip()), port: address.port() };
    assert!(second.apply([(same, Pages::HEALTH)]).is_empty(), "a second instance beside the first");
}

#[test]
fn a_reload_keeps_what_is_still_wanted() {
    let (_runtime, admin) = admin();
    admin.apply([(ANY, Pages::METRICS)]);
    let address = only_address(&admin);
    let mut open = TcpStream::connect(address).unwrap();
    admin.apply([(ANY, Pages::HEALTH)]);
    assert_eq!(only_address(&admin), address);
    open.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(get(address, "/metrics").0, 404);
    admin.apply([]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(address).is_ok() {
        assert!(Instant::now() < deadline, "the listener is still there");
        std::thread::yield_now();
    }
}

#[test]
fn what_cannot_be_listened_on_is_named_and_the_rest_is_served() {
    let (_runtime, admin) = admin();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = ListenAddress { port: taken.local_addr().unwrap().port(), ..ANY };
    let errors = admin.apply([(address, Pages::READY), (ANY, Pages::HEALTH)]);
    assert_eq!(errors.len(), 1);
    assert!(errors[0].starts_with(&format!("cannot serve /ready on {address}: ")), "{}", errors[0]);
    assert_eq!(get(only_address(&admin), "/health").0, 200);
    let unserved = || {
        let holding = admin.servers.state.conditions.now();
        holding.into_iter().find(|holding| holding.condition.id == "pages_unserved")
    };
    assert_eq!(unserved().unwrap().evidence, errors);
    drop(taken);
    let deadline = Instant::now() + Duration::from_secs(60);
    while admin.addresses().len() < 2 {
        assert!(Instant::now() < deadline, "the address is free and not served");
        std::thread::park_timeout(Duration::from_millis(10));
    }
    assert_eq!(unserved(), None);
}

#[test]
fn idle_connections_of_one_client_leave_places_for_others() {
    let (_runtime, admin) = admin();
    admin.apply([(ANY, Pages::HEALTH)]);
    let address = only_address(&admin);
    let from = |ip: [u8; 4]| {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        TcpStream::from(socket)
    };
    let _idle: Vec<TcpStream> = (0..200).map(|_| from([127, 0, 0, 9])).collect();
    // The node itself, and another client.
    assert_eq!(get(address, "/health").0, 200);
    let mut other = from([127, 0, 0, 10]);
    other.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    other.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    other.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn ready_names_what_it_waits_for() {
    let (_runtime, admin) = admin();
    admin.apply([(ANY, Pages::READY)]);
    let address = only_address(&admin);
    assert_eq!(get(address, "/ready"), (503, "the server is starting\n".into()));
    let store = Arc::new(Store(false.into()));
    let chain = || {
        let handlers: Vec<Arc<dyn Handler>> = vec![store.clone()];
        Arc::new(Chain::new(Name::root(), "dns://:53".into(), handlers, 1))
    };
    admin.readiness().set_running(
        vec![chain(), chain()],
        vec![store.clone()],
        Monitor::Continuously,
    );
    assert_eq!(get(address, "/ready"), (503, "kubernetes: the first list of Services\n".into()));
    store.0.store(true, Relaxed);
    assert_eq!(get(address, "/ready"), (200, "OK".into()));
    let (status, body) = get(address, "/ready?verbose");
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &json["ready"], &json["details"]["kubernetes"][0]["age_seconds"]),
        (200, &true.into(), &3.into())
    );
    store.0.store(false, Relaxed);
    assert_eq!(get(address, "/ready").0, 503, "it is truthful");
    store.0.store(true, Relaxed);
    admin.readiness().set_running(vec![chain()], Vec::new(), Monitor::UntilReady);
    assert_eq!(get(address, "/ready").0, 200);
    store.0.store(false, Relaxed);
    assert_eq!(get(address, "/ready").0, 200, "until-ready asks no more");
    admin.readiness().set_stopping();
    assert_eq!(get(address, "/ready"), (503, "the server is about to stop\n".into()));
}

#[test]
fn the_probe_measures_our_own_health() {
    let (_runtime, admin) = admin();
    admin.apply([(ANY, Pages::METRICS.and(Pages::HEALTH))]);
    let address = only_address(&admin);
    let deadline = Instant::now() + Duration::from_secs(10);
    while get(address, "/metrics").1.contains("coredns_health_request_duration_seconds_count 0\n") {
        assert!(Instant::now() < deadline, "no probe");
        std::thread::yield_now();
    }
    assert!(get(address, "/metrics").1.contains("coredns_health_request_failures_total 0\n"));
}

#[test]
fn garbage_and_long_heads_end_the_connection_only() {
    let (_runtime, admin) = admin();
    admin.apply([(ANY, Pages::HEALTH)]);
    let address = only_address(&admin);
    for garbage in
        [vec![0xff; 100], [b"GET /health HTTP/1.1\r\nX: ".as_slice(), &[b'a'; 65_536]].concat()]
    {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // The server may close before it has read all of it.
        let _ = stream.write_all(&garbage);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
    assert_eq!(get(address, "/health").0, 200);
}

/// What `promtool check metrics` would refuse: heads twice or missing, series twice, families apart.
#[test]
fn the_text_is_sound() {
    let (_runtime, admin) = admin();
    admin.apply([(ANY, Pages::METRICS)]);
    let chain = Arc::new(Chain::new(Name::root(), "dns://:53".into(), Vec::new(), 2));
    crate::plugin::testing::request("a.org", |request| {
        for cells in &chain.cells {
            cells.record(
                request,
                &crate::request::Outcome::new(Plugin::Forward, crate::wire::Rcode(0)),
                99,
                1,
            );
        }
    });
    admin.servers.state.metrics.replace(vec![chain]);
    let address = only_address(&admin);
    check_text(&get(address, "/metrics").1, "");
    let (_, open) = ask(
        address,
        "GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text; version=1.0.0\r\n",
    );
    assert!(open.contains("content-type: application/openmetrics-text; version=1.0.0"), "{open}");
    let body = open.split_once("\r\n\r\n").unwrap().1;
    check_text(body.strip_suffix("# EOF\n").unwrap(), "_total");
}

fn check_text(text: &str, counter_suffix: &str) {
    let mut kinds: HashMap<&str, &str> = HashMap::new();
    let mut series = HashSet::new();
    let (mut helped, mut family) = ("", "");
    for line in text.lines() {
        let mut words = line.split(' ');
        match (words.next().unwrap(), words.next()) {
            ("#", Some("HELP")) => helped = words.next().unwrap(),
            ("#", Some("TYPE")) => {
                family = words.next().unwrap();
                assert_eq!(family, helped, "HELP before TYPE");
                assert_eq!(
                    kinds.insert(family, words.next().unwrap()),
                    None,
                    "{family} has two heads"
                );
            }
            (start, _) => {
                let (key, value) = line.rsplit_once(' ').unwrap();
                assert!(value.parse::<f64>().is_ok(), "{line}");
                assert!(series.insert(key), "{key} twice");
                let name = start.split('{').next().unwrap();
                let rest =
                    name.strip_prefix(family).unwrap_or_else(|| panic!("{name} within {family}"));
                match kinds[family] {
                    "counter" => assert_eq!(rest, counter_suffix),
                    "gauge" => assert_eq!(rest, ""),
                    _ => assert!(["_bucket", "_sum", "_count"].contains(&rest), "{name}"),
                }
            }
        }
    }
    assert!(kinds.len() > 8, "{kinds:?}");
}
