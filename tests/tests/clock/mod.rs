//! The node's clock jumps, forward and back: nothing that names depend on minds. Only for machines of their own, since it
//! sets the clock of the whole machine.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hickory_proto::rr::RecordType;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use tests::api::Options;
use tests::cluster::{Asker, Cluster};
use tests::poll::wait_for;
use tests::process::Nodens;

const SOON: Duration = Duration::from_secs(60);
const HOUR: i64 = 3_600;

fn jump(seconds: i64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let then = TimeSpec::new(i64::try_from(now).unwrap() + seconds, 0);
    clock_settime(ClockId::CLOCK_REALTIME, then).unwrap();
}

fn serial(nodens: &Nodens) -> u32 {
    let answer = nodens.client().ask("cluster.local.", RecordType::SOA).unwrap();
    answer.data(RecordType::SOA)[0].split(' ').nth(2).unwrap().parse().unwrap()
}

pub fn jumps() {
    let mut options = Options::default();
    options.behaviour.bookmark_interval = Duration::from_secs(1);
    let cluster = Cluster::with(options);
    let options = "snapshot @data@/snapshot\n max_staleness 5m";
    let mut nodens = cluster.start(options);
    cluster.wait_level(&nodens, "the first lists", SOON);
    let asker = Asker::start(nodens.dns(), cluster.known(), 20);
    let heard = |nodens: &Nodens| {
        let age =
            nodens.metrics().sum("nodens_kubernetes_store_age_seconds", &[("kind", "Service")]);
        let ready = nodens.get(nodens.ports().ready, "/ready").unwrap();
        assert!(age < 120.0 && ready.status == 200, "{age} s, {}", ready.body);
    };
    for (n, seconds) in [HOUR, -2 * HOUR, 30 * 24 * HOUR, -60 * 24 * HOUR].into_iter().enumerate() {
        let before = serial(&nodens);
        jump(seconds);
        heard(&nodens);
        assert!(serial(&nodens) >= before, "the serial went back by {seconds} s");
        // Changes arrive over the old watches, and over new ones after an outage.
        let name = format!("jump-{n}.default.svc.cluster.local.");
        for last in [1, 2] {
            let ip = format!("10.96.{}.{last}", 201 + n);
            cluster.put_service(&format!("jump-{n}"), &ip);
            wait_for(&format!("{name} {ip} after {seconds} s"), SOON, || {
                let answer = nodens.client().ask(&name, RecordType::A);
                answer.is_ok_and(|answer| answer.data(RecordType::A) == [ip.as_str()])
            });
            if last == 1 {
                cluster.server.refuse();
                cluster.server.heal();
            }
        }
        // Within the second of the change the serial may still be that of before.
        wait_for("the serial to move on", SOON, || serial(&nodens) > before);
        heard(&nodens);
        println!("the clock jumped by {seconds} s");
    }
    asker.finish_flawless();
    // A snapshot that was written tomorrow, as the clock has it now, is served as any other.
    nodens.stop(SOON);
    cluster.server.refuse();
    jump(-24 * HOUR);
    let nodens = cluster.start(options);
    cluster.wait_level(&nodens, "what the snapshot knows", SOON);
    assert_eq!(nodens.metrics().sum("nodens_kubernetes_snapshot_in_use", &[]), 1.0);
    assert_eq!(nodens.get(nodens.ports().ready, "/ready").unwrap().status, 200);
    cluster.put_service("tomorrow", "10.96.200.9");
    cluster.server.heal();
    cluster.wait_level(&nodens, "the first lists", SOON);
    jump(55 * 24 * HOUR);
}
