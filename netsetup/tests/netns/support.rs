//! A private network namespace per test, and what `ip` and `nft` say about it.
//!
//! The tests need root. Without it they say SKIPPED and pass, unless `CI=true` or
//! `NODENS_REQUIRE_ROOT=1`, when they fail. `NODENS_TEST_LINK_KIND` chooses the kind of link: `ifb`
//! (the default, which most kernels have) or `dummy` (in the guest).

use std::future::Future;
use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, thread};

use netsetup::{Desired, LinkKind, LinkName, Mode, NotrackSpec, Report};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Uid;
use serde_json::Value;

/// Runs `test` on a thread with a network namespace of its own, with `lo` up.
pub(crate) fn in_netns<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    if skipped_without_root() {
        return;
    }
    let worker = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        sh("ip link set lo up");
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(test());
    });
    if let Err(panic) = worker.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Whether there is no root and the test may be skipped; says so, loudly.
pub(crate) fn skipped_without_root() -> bool {
    if Uid::effective().is_root() {
        return false;
    }
    let is = |name, value| env::var(name).is_ok_and(|v| v == value);
    let demanded = is("CI", "true") || is("NODENS_REQUIRE_ROOT", "1");
    assert!(!demanded, "this test needs root and may not be skipped here");
    let test = thread::current().name().unwrap_or_default().to_owned();
    // Not eprintln!, which the test harness swallows.
    let mut stderr = std::io::stderr();
    writeln!(stderr, "\n*** SKIPPED {test}: needs root ***").unwrap();
    true
}

/// The kind of link to test with.
pub(crate) fn kind() -> LinkKind {
    env::var("NODENS_TEST_LINK_KIND")
        .map_or(LinkKind::Ifb, |text| text.parse().expect("a kind of link"))
}

/// Two addresses of each family, rules for port 53 and health port 8080 in `mode`.
pub(crate) fn desired(mode: Mode) -> Desired {
    let addresses = ["169.254.20.10", "10.96.0.10", "fd00::10", "fd00::11"]
        .map(|text| text.parse().unwrap())
        .to_vec();
    let mut desired = Desired::new(LinkName::default(), addresses.clone());
    desired.link.as_mut().unwrap().kind = kind();
    desired.notrack = NotrackSpec { mode, addresses, ports: vec![53], health_port: Some(8080) };
    desired
}

/// Runs a shell line in the calling thread's namespace; it has to succeed.
pub(crate) fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-ec", line]).output().expect("sh");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Everything that a tear-down has to leave as it was.
pub(crate) fn snapshot() -> (Value, Value) {
    let addresses = serde_json::from_str(&sh("ip -j addr")).unwrap();
    let rules = serde_json::from_str(&sh("nft -j list ruleset")).unwrap();
    (addresses, rules)
}

/// What `ip` says about one link.
pub(crate) fn ip_link(name: &str) -> Option<Value> {
    let links: Vec<Value> = serde_json::from_str(&sh("ip -j -d addr")).unwrap();
    links.into_iter().find(|link| link["ifname"] == name)
}

/// The addresses of a link as text with prefix, sorted, without the kernel's own `fe80::/64`.
pub(crate) fn ip_addresses(name: &str) -> Vec<String> {
    let Some(link) = ip_link(name) else {
        return Vec::new();
    };
    let infos = link["addr_info"].as_array().unwrap().iter().filter(|info| info["prefixlen"] != 64);
    let mut texts: Vec<String> = infos
        .map(|info| format!("{}/{}", info["local"].as_str().unwrap(), info["prefixlen"]))
        .collect();
    texts.sort();
    texts
}

/// Fails with the report if something went wrong.
pub(crate) fn assert_ok(report: &Report) {
    assert!(report.is_ok(), "{report}");
}

/// Waits until `what` holds, and says how long that took. Time that the machine took from this process, seen by sleeps that
/// last too long, does not count.
pub(crate) async fn eventually(limit: Duration, mut what: impl FnMut() -> bool) -> Duration {
    const PACE: Duration = Duration::from_millis(5);
    const LATE: Duration = Duration::from_millis(25);
    let (start, mut taken) = (Instant::now(), Duration::ZERO);
    while !what() {
        let spent = start.elapsed().saturating_sub(taken);
        assert!(spent < limit, "not within {limit:?}, {taken:?} that were taken aside");
        let slept = Instant::now();
        tokio::time::sleep(PACE).await;
        let late = slept.elapsed().saturating_sub(PACE);
        if late > LATE {
            taken += late;
        }
    }
    start.elapsed()
}
