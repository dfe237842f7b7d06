//! The API server fails at random every few seconds, objects change all the time, and a client asks without a pause: no
//! answer is wrong, none is SERVFAIL, none is lost, and in the end everything is as the server has it.
//!
//! `NODENS_SOAK_SECONDS` (20) and `NODENS_SOAK_RATE` (500 queries a second) make it longer and harder.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use tests::api::{Fault, Garbage, Options};
use tests::cluster::{Asker, Cluster};
use tests::poll::pause;

/// The pauses of the watches grow to 30 s, and a stalled one is noticed after 30 s more.
const CATCH_UP: Duration = Duration::from_secs(180);
/// Services that come, change and go.
const CHURN: usize = 40;

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
        let name = format!("churn-{}", dice.below(CHURN));
        if dice.below(4) == 0 {
            cluster.delete_service(&name);
        } else {
            let ip = format!("10.96.{}.{}", 201 + dice.below(20), 1 + dice.below(250));
            cluster.put_service(&name, &ip);
        }
        *changes += 1;
        pause(Duration::from_millis(20));
    }
}

#[test]
fn faults_at_random_are_never_seen_by_clients() {
    let seconds = from_environment("NODENS_SOAK_SECONDS", 20);
    let rate = u32::try_from(from_environment("NODENS_SOAK_RATE", 500)).unwrap();
    let mut options = Options::default();
    options.behaviour.bookmark_interval = Duration::from_secs(1);
    let cluster = Cluster::with(options);
    let mut nodens = cluster.start("snapshot @data@/snapshot");
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
    let level = level.elapsed();
    let there: BTreeSet<String> = cluster.known().into_iter().map(|known| known.name).collect();
    for n in 0..CHURN {
        let name = format!("churn-{n}.default.svc.cluster.local.");
        let answer = nodens.client().ask(&name, RecordType::A).unwrap();
        let wanted = if there.contains(&name) { "NOERROR" } else { "NXDOMAIN" };
        assert_eq!(answer.normal.rcode, wanted, "{name}");
    }
    let tally = asker.finish();
    let metrics = nodens.metrics();
    let sum = |name: &str| metrics.sum(name, &[]);
    println!(
        "{seconds} s at {rate} queries a second: {faults} faults, {changes} changes, {} queries, {} wrong, {} SERVFAIL, {} lost; \
         slowest answer {:?}; level {level:?} after the last fault; {} events, {} lists, {} errors, {} octets; {} KiB resident at most",
        tally.asked,
        tally.wrong,
        tally.servfail,
        tally.lost,
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
