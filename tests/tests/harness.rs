//! The harness itself, held to what real clients expect: kube against the test API server, hickory against the upstream.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tests::api::credentials::Identity;
use tests::api::generate::Shape;
use tests::api::{
    ApiServer, Fault, Garbage, GoneStyle, Options, Policy, Resource, Scope, StreamingLists,
};
use tests::client::{AskError, Client as DnsClient, Question};
use tests::process::Setup;
use tests::upstream::{Act, Transport, Upstream};

const SOON: Duration = Duration::from_secs(10);

fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test hangs")
    })
}

async fn client(server: &ApiServer) -> Client {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    server.write_kubeconfig(&path);
    connect(&path).await
}

async fn connect(path: &std::path::Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    // Each answer counts, also the ones that kube would ask again for.
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

fn service(namespace: &str, name: &str, ip: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
           "spec": {"clusterIP": ip}})
}

fn code<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> u16 {
    match result {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("not a Status: {other:?}"),
    }
}

#[test]
fn lists_gets_selectors_and_pages() {
    let server = ApiServer::start();
    for i in 0..25 {
        server.put(service(if i % 2 == 0 { "a" } else { "b" }, &format!("s{i:02}"), "10.0.0.1"));
    }
    run(async {
        let client = client(&server).await;
        let all: Api<Service> = Api::all(client.clone());
        let whole = all.list(&ListParams::default()).await.unwrap();
        assert_eq!(whole.items.len(), 25);
        assert_eq!(whole.metadata.resource_version, Some(server.store().revision().to_string()));
        let a: Api<Service> = Api::namespaced(client.clone(), "a");
        assert_eq!(a.list(&ListParams::default()).await.unwrap().items.len(), 13);
        let labelled = all.list(&ListParams::default().labels("app in (s01,s02)")).await.unwrap();
        assert_eq!(labelled.items.len(), 2);
        let named = all.list(&ListParams::default().fields("metadata.name=s03")).await.unwrap();
        assert_eq!(named.items.len(), 1);
        assert_eq!(a.get("s02").await.unwrap().metadata.name.as_deref(), Some("s02"));
        assert_eq!(code(a.get("s01").await), 404);

        // Pages come from one snapshot, whatever happens between them.
        let first = all.list(&ListParams::default().limit(10)).await.unwrap();
        assert_eq!((first.items.len(), first.metadata.remaining_item_count), (10, Some(15)));
        server.put(service("a", "s00a", "10.0.0.2"));
        server.delete("services", "a", "s02");
        let token = first.metadata.continue_.unwrap();
        let second =
            all.list(&ListParams::default().limit(10).continue_token(&token)).await.unwrap();
        assert_eq!(second.metadata.resource_version, first.metadata.resource_version);
        let token = second.metadata.continue_.clone().unwrap();
        let third =
            all.list(&ListParams::default().limit(10).continue_token(&token)).await.unwrap();
        let names = [&first.items, &second.items, &third.items].into_iter().flatten();
        assert_eq!(names.filter(|s| s.metadata.name.as_deref() != Some("s00a")).count(), 25);
        assert_eq!(third.metadata.continue_.unwrap_or_default(), "");
        server.store().compact();
        assert_eq!(
            code(all.list(&ListParams::default().limit(10).continue_token(&token)).await),
            410
        );

        // From the watch cache, the limit is ignored.
        let cached = http::Request::get("/api/v1/services?limit=10&resourceVersion=0")
            .body(Vec::new())
            .unwrap();
        let cached: Value = client.request(cached).await.unwrap();
        assert_eq!(cached["items"].as_array().map(Vec::len), Some(25));
        let version = client.apiserver_version().await.unwrap();
        assert_eq!((version.major.as_str(), version.minor.as_str()), ("1", "36"));
    });
    let last = server.requests_of("list", "services").pop().unwrap();
    assert_eq!((last.parameter("resourceVersion"), last.status), ("0", 200));
}

/// Follows Services until the closure has seen enough.
async fn follow(
    client: Client,
    config: watcher::Config,
    mut enough: impl FnMut(watcher::Event<Service>) -> bool,
) {
    let stream = watcher::watcher(Api::<Service>::all(client), config);
    let mut stream = std::pin::pin!(stream);
    let end = Instant::now() + SOON;
    while let Ok(Some(event)) = tokio::time::timeout(end - Instant::now(), stream.next()).await {
        if event.is_ok_and(&mut enough) {
            return;
        }
    }
    panic!("the watcher did not see enough");
}

#[test]
fn watchers_sync_with_and_without_streaming_lists() {
    let plain = watcher::Config::default();
    let streaming = watcher::Config::default().streaming_lists();
    let cases = [
        (StreamingLists::Supported, streaming, "watch"),
        (StreamingLists::Refused, plain.clone(), "list"),
        (StreamingLists::Supported, plain.page_size(2), "list"),
    ];
    for (support, config, verb) in cases {
        let server = ApiServer::start();
        server.configure(|b| b.streaming_lists = support);
        for i in 0..5 {
            server.put(service("a", &format!("s{i}"), "10.0.0.1"));
        }
        run(async {
            let client = client(&server).await;
            let (mut applied, mut done) = (0, false);
            follow(client, config, |event| {
                match event {
                    watcher::Event::InitApply(_) => applied += 1,
                    watcher::Event::InitDone => {
                        done = true;
                        server.put(service("a", "late", "10.0.0.9"));
                    }
                    watcher::Event::Apply(s) if s.metadata.name.as_deref() == Some("late") => {
                        server.delete("services", "a", "late");
                    }
                    watcher::Event::Delete(s) => return s.metadata.name.as_deref() == Some("late"),
                    _ => {}
                }
                false
            })
            .await;
            assert!(done && applied == 5, "{applied} objects");
        });
        assert_eq!(server.requests()[0].verb, verb);
    }
    let server = ApiServer::start();
    server.configure(|b| b.streaming_lists = StreamingLists::Refused);
    run(async {
        let api: Api<Service> = Api::all(client(&server).await);
        let error = api.watch(&WatchParams::default().initial_events(), "0").await;
        assert_eq!(code(error.map(|_| ())), 422);
    });
}

#[test]
fn raw_watches_bookmarks_selectors_and_gone() {
    let server = ApiServer::start();
    server.configure(|b| b.bookmark_interval = Duration::from_millis(100));
    let start = server.put(service("a", "s0", "10.0.0.1"));
    run(async {
        let api: Api<Service> = Api::all(client(&server).await);
        let labelled = WatchParams::default().labels("app=moving").timeout(60);
        let mut stream = api.watch(&labelled, &start.to_string()).await.unwrap().boxed();
        let mut moving = service("a", "s1", "10.0.0.2");
        moving["metadata"]["labels"] = json!({"app": "moving"});
        server.put(moving.clone());
        let Some(WatchEvent::Added(_)) = stream.try_next().await.unwrap() else {
            panic!("not added")
        };
        moving["metadata"]["labels"] = json!({"app": "gone"});
        server.put(moving);
        let Some(WatchEvent::Deleted(_)) = stream.try_next().await.unwrap() else {
            panic!("not deleted")
        };
        let Some(WatchEvent::Bookmark(b)) = stream.try_next().await.unwrap() else {
            panic!("no bookmark")
        };
        assert_eq!(b.metadata.resource_version, server.store().revision().to_string());

        let short = WatchParams::default().timeout(1);
        let before = Instant::now();
        let events: Vec<_> =
            api.watch(&short, &start.to_string()).await.unwrap().try_collect().await.unwrap();
        assert!(matches!(events.last(), Some(WatchEvent::Bookmark(_))), "{events:?}");
        assert!(before.elapsed() >= Duration::from_millis(900));

        // The history is too short: as an event, then as a status; and a storm ends running watches.
        server.store().set_history(1);
        server.put(service("a", "s2", "10.0.0.3"));
        let mut stream =
            api.watch(&WatchParams::default(), &start.to_string()).await.unwrap().boxed();
        let Some(WatchEvent::Error(e)) = stream.try_next().await.unwrap() else {
            panic!("no error")
        };
        assert_eq!((e.code, e.reason.as_str()), (410, "Expired"));
        server.configure(|b| b.gone = GoneStyle::Http);
        assert_eq!(
            code(api.watch(&WatchParams::default(), &start.to_string()).await.map(|_| ())),
            410
        );
        let now = server.store().revision();
        let mut stream =
            api.watch(&WatchParams::default(), &now.to_string()).await.unwrap().boxed();
        server.inject_for(Scope::watches(), Fault::Gone);
        loop {
            match stream.try_next().await.unwrap() {
                Some(WatchEvent::Bookmark(_)) => {}
                Some(WatchEvent::Error(e)) => break assert_eq!(e.code, 410),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(
            code(api.watch(&WatchParams::default(), &(now + 50).to_string()).await.map(|_| ())),
            504
        );
    });
}

#[test]
fn credentials_rules_and_discovery() {
    let server = ApiServer::with(Options { token: "first".into(), ..Options::default() });
    server.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}));
    let folder = tempfile::tempdir().unwrap();
    run(async {
        let namespaces: Api<Namespace> = Api::all(client(&server).await);
        assert_eq!(namespaces.list(&ListParams::default()).await.unwrap().items.len(), 1);
        server.rotate_token(true);
        assert_eq!(code(namespaces.list(&ListParams::default()).await), 401);
        let path = folder.path().join("by-certificate");
        server.write_kubeconfig_with_certificate(&path);
        let by_certificate = connect(&path).await;
        let namespaces: Api<Namespace> = Api::all(by_certificate.clone());
        assert_eq!(namespaces.list(&ListParams::default()).await.unwrap().items.len(), 1);
        server.write_kubeconfig_as(&path, &Identity::Anonymous);
        let nobody: Api<Namespace> = Api::all(connect(&path).await);
        assert_eq!(code(nobody.list(&ListParams::default()).await), 401);

        server
            .configure(|b| b.policy = Some(Policy::default().allow("", &["services"], &["list"])));
        let error = namespaces.list(&ListParams::default()).await.unwrap_err().to_string();
        assert!(
            error.contains(
                "cannot list resource \"namespaces\" in API group \"\" at the cluster scope"
            ),
            "{error}"
        );
        let services: Api<Service> = Api::all(by_certificate.clone());
        assert!(services.list(&ListParams::default()).await.is_ok());
        assert_eq!(code(services.watch(&WatchParams::default(), "0").await.map(|_| ())), 403);
        let maps: Api<ConfigMap> = Api::default_namespaced(by_certificate.clone());
        assert_eq!(code(maps.get("x").await), 403);

        let groups = by_certificate.list_api_groups().await.unwrap();
        assert!(groups.groups.iter().any(|g| g.name == "discovery.k8s.io"));
        server.configure(|b| b.multicluster = false);
        let groups = by_certificate.list_api_groups().await.unwrap();
        assert!(!groups.groups.iter().any(|g| g.name == "multicluster.x-k8s.io"));
    });
    server.write_service_account(&folder.path().join("sa"));
    let token = folder.path().join("sa/token");
    assert_eq!(std::fs::read_to_string(&token).unwrap(), server.token());
    let fresh = server.rotate_token(false);
    server.write_service_account(&folder.path().join("sa"));
    assert_eq!(std::fs::read_to_string(&token).unwrap(), fresh);
}

#[test]
fn faults_come_and_go() {
    let server = ApiServer::start();
    server.put(service("a", "s0", "10.0.0.1"));
    run(async {
        let api: Api<Service> = Api::all(client(&server).await);
        let list = || async {
            tokio::time::timeout(Duration::from_millis(700), api.list(&ListParams::default())).await
        };
        // Pooled connections that were cut fail once each; what counts is whether it soon works again.
        let recovers = || async {
            let mut pace = tokio::time::interval(Duration::from_millis(10));
            let until = async {
                while !matches!(list().await, Ok(Ok(_))) {
                    pace.tick().await;
                }
            };
            tokio::time::timeout(SOON, until).await.is_ok()
        };
        assert!(list().await.unwrap().is_ok());
        server.refuse();
        assert!(list().await.unwrap().is_err(), "refused");
        server.heal();
        assert!(recovers().await, "open again on the same port");

        for stall in [Fault::Stall, Fault::StallConnections] {
            server.inject(stall);
            server.cut();
            let _ = list().await;
            assert!(list().await.is_err(), "{stall:?} answers");
            server.heal();
            assert!(recovers().await);
        }
        for code_wanted in [429, 503] {
            let fault = Fault::Status { code: code_wanted, retry_after: Some(3) };
            server.inject_for(Scope::lists().of("services").times(1), fault);
            assert_eq!(code(list().await.unwrap()), code_wanted);
            assert!(list().await.unwrap().is_ok(), "one time only");
        }
        let garbage =
            [Garbage::Json, Garbage::Truncated, Garbage::WrongKind, Garbage::Html, Garbage::Http];
        for kind in garbage {
            server.inject(Fault::Garbage(kind));
            server.cut();
            let answer = list().await;
            assert!(answer.is_err() || answer.is_ok_and(|a| a.is_err()), "{kind:?} is readable");
            server.heal();
            server.cut();
            assert!(recovers().await);
        }
        server.inject(Fault::CutAfter { bytes: 40 });
        assert!(list().await.unwrap().is_err());
        server.heal();
        assert!(recovers().await);
        server.inject(Fault::Slow { bytes_per_second: 1000 });
        let before = Instant::now();
        assert!(api.list(&ListParams::default()).await.is_ok());
        assert!(before.elapsed() > Duration::from_millis(200), "{:?}", before.elapsed());
        server.heal();

        // A hung watch goes on where it was; a cut one ends.
        let now = server.store().revision().to_string();
        let mut stream = api.watch(&WatchParams::default(), &now).await.unwrap().boxed();
        server.inject(Fault::HangWatches);
        server.put(service("a", "s1", "10.0.0.2"));
        assert!(tokio::time::timeout(Duration::from_millis(200), stream.next()).await.is_err());
        server.heal();
        assert!(matches!(stream.next().await, Some(Ok(WatchEvent::Added(_)))));
        server.cut();
        assert!(!matches!(stream.next().await, Some(Ok(_))));
    });
}

#[test]
fn bad_objects_are_served_as_they_are() {
    let server = ApiServer::start();
    let services = Resource::named("services");
    server.store().put_raw(services, "a", "broken", r#"{"metadata":{"name":7},"spec":"#);
    run(async {
        let api: Api<Service> = Api::all(client(&server).await);
        assert!(api.list(&ListParams::default()).await.is_err());
        server.delete("services", "a", "broken");
        assert!(api.list(&ListParams::default()).await.is_ok());
    });
}

#[test]
fn the_big_cluster_is_made_quickly() {
    let shape = Shape { services: 1000, headless: 200, endpoints: 15_000, namespaces: 10 };
    let server = ApiServer::start();
    shape.fill(server.store());
    run(async {
        let client = client(&server).await;
        let services: Api<Service> = Api::all(client.clone());
        let listed = services.list(&ListParams::default()).await.unwrap();
        let headless = listed
            .iter()
            .filter(|s| s.spec.as_ref().unwrap().cluster_ip.as_deref() == Some("None"));
        assert_eq!((listed.items.len(), headless.count()), (1000, 200));
        let slices: Api<EndpointSlice> = Api::all(client.clone());
        let listed = slices.list(&ListParams::default()).await.unwrap();
        assert_eq!(listed.iter().map(|s| s.endpoints.len()).sum::<usize>(), 15_000);
        let headless = ListParams::default().labels("service.kubernetes.io/headless");
        assert_eq!(slices.list(&headless).await.unwrap().items.len(), 200);
        let now = server.store().revision().to_string();
        let mut stream = slices.watch(&WatchParams::default(), &now).await.unwrap().boxed();
        let address = shape.touch(server.store(), 3, 9).to_string();
        let Some(Ok(WatchEvent::Modified(slice))) = stream.next().await else { panic!("no event") };
        assert_eq!(slice.endpoints[0].addresses, vec![address]);
    });
}

#[test]
fn the_upstream_answers_and_misbehaves() {
    let upstream = Upstream::with_zone(include_str!("../data/conformance/upstream.zone"));
    let client = DnsClient::new(upstream.address()).within(Duration::from_millis(400));
    let www = || client.udp(&Question::new("www.Example.com.", RecordType::A));
    let answer = www().unwrap();
    assert_eq!(answer.data(RecordType::A), ["192.0.2.153", "192.0.2.53"]);
    assert!(answer.message.edns.is_some());
    assert_eq!(upstream.count("www.example.com.", RecordType::A), 1);
    assert!(client.tcp(&Question::new("www.example.com.", RecordType::AAAA)).unwrap().tcp);
    assert_eq!(upstream.count_over(Transport::Tcp), 1);

    for silent in
        [Act::Drop, Act::WrongPort, Act::Delay(Duration::from_secs(1), Box::new(Act::Answer))]
    {
        upstream.always(silent.clone());
        assert!(matches!(www(), Err(AskError::Silence(..))), "{silent:?}");
    }
    for wrong in [Act::WrongId, Act::WrongQuestion, Act::FoldCase] {
        upstream.always(wrong.clone());
        assert!(matches!(www(), Err(AskError::Unusable(..))), "{wrong:?}");
    }
    upstream.always(Act::Truncate);
    let retried = client.ask("www.example.com.", RecordType::A).unwrap();
    assert!(retried.tcp && !retried.is_truncated());
    upstream.always(Act::Rcode(ResponseCode::ServFail));
    assert_eq!(www().unwrap().normal.rcode, "SERVFAIL");
    upstream.always(Act::NoEdns);
    assert_eq!(www().unwrap().normal.rcode, "FORMERR");
    let plain = client.udp(&Question::new("www.example.com.", RecordType::A).without_edns());
    assert_eq!(plain.unwrap().normal.rcode, "NOERROR");
    upstream.always(Act::Raw(b"\0\0nonsense".to_vec()));
    assert!(
        client
            .raw_udp(&Question::new("x.", RecordType::A).to_bytes())
            .unwrap()
            .ends_with(b"nonsense")
    );
    upstream.on_query(|seen| if seen.name.starts_with("slow") { Act::Drop } else { Act::Answer });
    assert!(www().is_ok());
    upstream.forget();
    assert_eq!(upstream.total(), 0);
}

#[test]
fn ports_are_free_and_different() {
    let ports = tests::ports::several();
    let mut all = vec![ports.dns, ports.dns2, ports.metrics, ports.health, ports.ready];
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 5);
    assert!(std::net::UdpSocket::bind(("127.0.0.1", ports.dns)).is_ok());
}

const WHOAMI: &str = ".:@dns@ {
    bind 127.0.0.1
    whoami
    prometheus 127.0.0.1:@metrics@
    health 127.0.0.1:@health@
    ready 127.0.0.1:@ready@
}
";

#[test]
fn the_process_is_run_and_seen() {
    let mut nodens = Setup::new(WHOAMI).start();
    assert_eq!(nodens.get(nodens.ports().health, "/health").unwrap().status, 200);
    let answer = nodens.client().ask("anything.example.", RecordType::A).unwrap();
    assert_eq!(answer.normal.rcode, "NOERROR");
    assert!(nodens.client().tcp(&Question::new("anything.example.", RecordType::A)).unwrap().tcp);
    nodens.wait_for_metrics("the questions to be counted", SOON, |metrics| {
        metrics.sum("coredns_dns_requests_total", &[("type", "A")]) >= 2.0
    });
    assert!(nodens.resident() > 1 << 20 && nodens.peak_resident() >= nodens.resident());
    assert!(nodens.open_files() > 3);
    nodens.stop(SOON);
    assert!(!nodens.is_running());
}
