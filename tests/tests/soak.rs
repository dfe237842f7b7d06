//! The API server fails at random every few seconds, objects change all the time, and a client asks without a pause: no
//! answer is wrong, none is SERVFAIL, none is lost, and in the end everything is as the server has it: Services, their ports
//! and endpoints, Namespaces and Pods, each by all its names, and nothing that is gone has a name left.
//!
//! `NODENS_SOAK_SECONDS` (20) and `NODENS_SOAK_RATE` (500 queries a second) make it longer and harder.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use serde_json::{Value, json};
use tests::api::{Fault, Garbage, Options};
use tests::cluster::{Asker, Cluster};
use tests::poll::{self, pause};

/// The pauses of the watches grow to 30 s, and a stalled one is noticed after 30 s more.
const CATCH_UP: Duration = Duration::from_secs(180);
/// Services that come, change and go.
const CHURN: usize = 40;
/// Headless Services whose endpoints do, and how many endpoints each may have.
const HERDS: usize = 6;
const HERD: usize = 12;
/// Pods and Namespaces that do.
const PODS: usize = 30;
const NAMESPACES: usize = 5;

const FAULTS: [Fault; 12] = [
    Fault::Stall,
    Fault::HangWatches,
    Fault::StallConnections,
    Fault::Status { code: 429, retry_after: Some(1) },
    Fault::Status { code: 503, retry_after: Some(2) },
    Fault::Status { code: 500, retry_after: None },
    Fault::Unauthorized,
    Fault::Gone,
    Fault::Garbage(Garbage::Json),
    Fault::Garbage(Garbage::Truncated),
    Fault::Garbage(Garbage::Http),
    Fault::CutAfter { bytes: 5_000 },
];

/// Numbers without a pattern; good enough to choose by.
struct Dice {
    state: RandomState,
    thrown: u64,
}

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.thrown += 1;
        (self.state.hash_one(self.thrown) % n.max(1) as u64) as usize
    }

    fn millis(&mut self, from: usize, to: usize) -> Duration {
        Duration::from_millis((from + self.below(to - from)) as u64)
    }
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Changes objects for this long.
fn churn(cluster: &Cluster, dice: &mut Dice, time: Duration, changes: &mut u64) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        match dice.below(8) {
            0..4 => change_service(cluster, dice),
            4..6 => change_herd(cluster, dice),
            6 => change_pod(cluster, dice),
            _ => {
                let name = format!("room-{}", dice.below(NAMESPACES));
                if dice.below(2) == 0 {
                    cluster.server.delete("namespaces", "", &name);
                } else {
                    let metadata = json!({"name": name});
                    let kind = "Namespace";
                    cluster
                        .server
                        .put(json!({"apiVersion": "v1", "kind": kind, "metadata": metadata}));
                }
            }
        }
        *changes += 1;
        pause(Duration::from_millis(20));
    }
}

fn change_service(cluster: &Cluster, dice: &mut Dice) {
    let number = dice.below(CHURN);
    let name = format!("churn-{number}");
    if dice.below(4) == 0 {
        return cluster.delete_service(&name);
    }
    // As in a cluster, no two have the same: each draws from half a net of its own.
    let ip = format!("10.96.{}.{}", 201 + number / 2, 1 + number % 2 * 125 + dice.below(125));
    let mut service = tests::cluster::service(&name, &ip);
    service["spec"]["ports"] = some_ports(dice);
    cluster.server.put(service);
}

/// A headless Service, with endpoints of which some have names of their own, some are not ready, and some stand twice.
fn change_herd(cluster: &Cluster, dice: &mut Dice) {
    let number = dice.below(HERDS);
    let (herd, slice) = (format!("herd-{number}"), format!("herd-{number}-{}", dice.below(2)));
    match dice.below(8) {
        0 => return cluster.delete_service(&herd),
        1 => {
            cluster.server.delete("endpointslices", "default", &slice);
            return;
        }
        _ => {}
    }
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "spec": {"clusterIP": "None"}});
    service["metadata"] = json!({"name": herd, "namespace": "default"});
    cluster.server.put(service);
    let mut endpoints: Vec<Value> = Vec::new();
    for at in 0..HERD {
        if dice.below(3) == 0 {
            continue;
        }
        let mut endpoint = json!({"addresses": [format!("10.109.{number}.{}", 1 + at)]});
        endpoint["conditions"] = json!({"ready": dice.below(4) != 0});
        if at % 2 == 0 {
            endpoint["hostname"] = json!(format!("cow-{}", at / 4));
        }
        endpoints.push(endpoint);
    }
    let labels = json!({"kubernetes.io/service-name": herd, "service.kubernetes.io/headless": ""});
    let metadata = json!({"name": slice, "namespace": "default", "labels": labels});
    cluster.server.put(
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": metadata, "endpoints": endpoints, "ports": some_ports(dice)}),
    );
}

fn change_pod(cluster: &Cluster, dice: &mut Dice) {
    let number = dice.below(PODS);
    let name = format!("pod-{number}");
    if dice.below(3) == 0 {
        cluster.server.delete("pods", "default", &name);
        return;
    }
    let ip = format!("10.110.{}.{}", dice.below(2), 1 + number);
    let phase = ["Running", "Running", "Succeeded"][dice.below(3)];
    cluster.server.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "status": {"phase": phase, "podIP": ip, "podIPs": [{"ip": ip}]}}));
}

fn some_ports(dice: &mut Dice) -> Value {
    let all = [("http", "TCP", 80), ("dns", "UDP", 53), ("dns", "TCP", 53)];
    let port = |(name, protocol, port)| json!({"name": name, "protocol": protocol, "port": port});
    all.into_iter().take(dice.below(4)).map(port).collect()
}

/// Every name that any of the changes may have made, with a type that it has records of.
fn all_that_ever_was() -> Vec<(String, RecordType)> {
    let zone = "cluster.local.";
    let mut names = Vec::new();
    let mut add = |name: String, kind| names.push((name, kind));
    for n in 0..CHURN {
        for port in ["", "_http._tcp.", "_dns._udp.", "_dns._tcp."] {
            add(format!("{port}churn-{n}.default.svc.{zone}"), RecordType::A);
        }
    }
    for net in 201..221 {
        for last in 1..=250 {
            add(format!("{last}.{net}.96.10.in-addr.arpa."), RecordType::PTR);
        }
    }
    for n in 0..HERDS {
        let herd = format!("herd-{n}.default.svc.{zone}");
        for port in ["", "_http._tcp.", "_dns._udp.", "_dns._tcp."] {
            add(format!("{port}{herd}"), RecordType::SRV);
        }
        for at in 0..HERD {
            add(format!("cow-{at}.{herd}"), RecordType::A);
            add(format!("10-109-{n}-{}.{herd}", 1 + at), RecordType::A);
            add(format!("{}.{n}.109.10.in-addr.arpa.", 1 + at), RecordType::PTR);
        }
    }
    for pod in 1..=PODS {
        add(format!("10-110-0-{pod}.default.pod.{zone}"), RecordType::A);
        add(format!("10-110-1-{pod}.default.pod.{zone}"), RecordType::A);
    }
    (0..NAMESPACES).for_each(|n| add(format!("room-{n}.svc.{zone}"), RecordType::A));
    names
}

#[test]
fn faults_at_random_are_never_seen_by_clients() {
    let seconds = from_environment("NODENS_SOAK_SECONDS", 20);
    let rate = u32::try_from(from_environment("NODENS_SOAK_RATE", 500)).unwrap();
    let mut options = Options::default();
    options.behaviour.bookmark_interval = Duration::from_secs(1);
    let cluster = Cluster::with(options);
    let mut nodens = cluster.start("snapshot @data@/snapshot\n pods verified");
    cluster.wait_level(&nodens, "the first lists", CATCH_UP);
    let asker = Asker::start(nodens.dns(), cluster.known(), rate);
    let mut dice = Dice { state: RandomState::new(), thrown: 0 };
    let (mut faults, mut changes) = (0, 0);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        let fault = FAULTS[dice.below(FAULTS.len())];
        cluster.server.inject(fault);
        match dice.below(5) {
            0 => cluster.server.refuse(),
            1 => cluster.server.store().compact(),
            2 => cluster.server.cut(),
            3 => {
                cluster.server.rotate_token(true);
                cluster.server.cut();
            }
            _ => {}
        }
        faults += 1;
        let time = dice.millis(500, 3_000);
        churn(&cluster, &mut dice, time, &mut changes);
        cluster.server.heal();
        cluster.write_kubeconfig();
        let time = dice.millis(200, 2_000);
        churn(&cluster, &mut dice, time, &mut changes);
    }
    let level = Instant::now();
    cluster.wait_level(&nodens, "the end of the faults", CATCH_UP);
    let known = cluster.known();
    let there: BTreeSet<&str> =
        known.iter().filter(|k| k.rcode == "NOERROR").map(|k| k.name.as_str()).collect();
    let mut gone = all_that_ever_was();
    gone.retain(|(name, _)| !there.contains(name.as_str()));
    // A deletion may be what a watch in its pause has yet to hear of, with everything that is there long as it should be.
    let client = nodens.client();
    let mut left = Vec::new();
    let denied = poll::until(CATCH_UP.saturating_sub(level.elapsed()), || {
        left.clone_from(&gone);
        left.retain(|(name, kind)| client.ask(name, *kind).unwrap().normal.rcode != "NXDOMAIN");
        left.is_empty()
    });
    assert!(denied, "not denied though gone: {left:#?}");
    let (gone, level) = (gone.len(), level.elapsed());
    let tally = asker.finish();
    let metrics = nodens.metrics();
    let sum = |name: &str| metrics.sum(name, &[]);
    println!(
        "{seconds} s at {rate} queries a second: {faults} faults, {changes} changes, {} queries, {} wrong, {} SERVFAIL, {} lost; \
         at the end {} questions answered as the objects say and {gone} names that are gone denied; \
         slowest answer {:?}; level {level:?} after the last fault; {} events, {} lists, {} errors, {} octets; {} KiB resident at most",
        tally.asked,
        tally.wrong,
        tally.servfail,
        tally.lost,
        known.len(),
        tally.slowest,
        sum("nodens_kubernetes_events_total"),
        sum("nodens_kubernetes_relists_total"),
        sum("nodens_kubernetes_watch_errors_total"),
        sum("nodens_kubernetes_received_bytes_total"),
        nodens.peak_resident() >> 10,
    );
    assert!(tally.is_flawless(), "{tally:#?}");
    nodens.stop(Duration::from_secs(20));
}
