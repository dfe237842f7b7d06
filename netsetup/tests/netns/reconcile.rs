//! Whatever is removed comes back within a second, and is counted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::*;
use netsetup::plan::What;
use netsetup::{Desired, Event, Mode, Reconciler};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const SECOND: Duration = Duration::from_secs(1);

/// What the reconciler has told so far.
#[derive(Default)]
struct Told {
    set_up: usize,
    repairs: HashMap<&'static str, usize>,
    errors: Vec<String>,
}

struct Running {
    told: Arc<Mutex<Told>>,
    wish: watch::Sender<Desired>,
    task: JoinHandle<()>,
}

impl Running {
    /// One that looks by itself only every hour, so that what it mends it was told of.
    async fn start(desired: Desired) -> Self {
        let told = Arc::new(Mutex::new(Told::default()));
        let (wish, wishes) = watch::channel(desired);
        let reconciler = Reconciler::new(wishes, Duration::from_secs(3600));
        let teller = Arc::clone(&told);
        let task = tokio::spawn(async move {
            let tell = |event| {
                let mut told = teller.lock().unwrap();
                match event {
                    Event::SetUp(_) => told.set_up += 1,
                    Event::Repaired { what, .. } => what
                        .iter()
                        .for_each(|what| *told.repairs.entry(what.as_str()).or_default() += 1),
                    Event::Failed { problems, .. } => {
                        told.errors.extend(problems.into_iter().map(|p| p.message))
                    }
                    Event::Sound => {}
                    Event::Blind(error) => told.errors.push(error.to_string()),
                }
            };
            reconciler.run(tell).await.unwrap();
        });
        eventually(10 * SECOND, || told.lock().unwrap().set_up == 1).await;
        Self { told, wish, task }
    }

    fn repairs(&self, what: What) -> usize {
        self.told.lock().unwrap().repairs.get(what.as_str()).copied().unwrap_or(0)
    }

    /// Does damage and waits until the reconciler has told of the repair.
    async fn mends(&self, damage: &str, what: What) {
        let before = self.repairs(what);
        sh(damage);
        println!("{damage}");
        let took = eventually(limit(), || {
            let mended = self.repairs(what) > before;
            let told = self.told.lock().unwrap();
            assert!(told.errors.is_empty(), "{:?}", told.errors);
            mended
        })
        .await;
        println!("{damage}: mended after {took:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A second; the guest's emulated processor gets five, as `NODENS_TEST_SLOW` says.
fn limit() -> Duration {
    if std::env::var_os("NODENS_TEST_SLOW").is_some() { 5 * SECOND } else { SECOND }
}

#[test]
fn each_loss_is_mended_within_a_second() {
    in_netns(|| async {
        let desired = desired(Mode::On);
        let running = Running::start(desired.clone()).await;
        for _ in 0..3 {
            running.mends("ip link del nodelocaldns", What::Link).await;
            running.mends("ip link set nodelocaldns down", What::Link).await;
            running.mends("ip addr del 169.254.20.10/32 dev nodelocaldns", What::Address).await;
            running.mends("ip addr del fd00::10/128 dev nodelocaldns", What::Address).await;
            running.mends("nft delete table inet nodens", What::Notrack).await;
            running.mends("nft flush chain inet nodens output", What::Notrack).await;
            running.mends("nft flush ruleset", What::Notrack).await;
        }
        assert_eq!(ip_addresses("nodelocaldns").len(), 4);
        assert!(running.told.lock().unwrap().errors.is_empty());
    });
}

#[test]
fn noise_of_others_causes_nothing() {
    in_netns(|| async {
        let running = Running::start(desired(Mode::On)).await;
        sh(
            "nft add table inet other; for i in 1 2 3 4 5; do ip link add v$i type veth peer name w$i; ip addr add 192.0.2.$i/32 dev v$i; \
            nft add chain inet other c$i; done",
        );
        running.mends("ip addr del fd00::10/128 dev nodelocaldns", What::Address).await;
        let told = running.told.lock().unwrap();
        assert_eq!((told.repairs.len(), told.errors.len()), (1, 0));
    });
}

#[test]
fn a_new_wish_is_fulfilled_at_once() {
    in_netns(|| async {
        let mut desired = desired(Mode::On);
        let running = Running::start(desired.clone()).await;
        desired.addresses.truncate(1);
        desired.notrack.addresses.truncate(1);
        running.wish.send(desired).unwrap();
        eventually(limit(), || running.told.lock().unwrap().set_up == 2).await;
        assert!(running.told.lock().unwrap().repairs.is_empty(), "it is no repair");
        eventually(limit(), || ip_addresses("nodelocaldns") == ["169.254.20.10/32"]).await;
        eventually(limit(), || !sh("nft list table inet nodens").contains("ip6")).await;
    });
}

#[test]
fn a_failure_is_told_and_ends_when_its_cause_does() {
    in_netns(|| async {
        let running = Running::start(desired(Mode::On)).await;
        // Somebody takes the name while ours is gone.
        sh("ip link del nodelocaldns; ip link add nodelocaldns type bridge");
        eventually(limit(), || {
            running
                .told
                .lock()
                .unwrap()
                .errors
                .iter()
                .any(|e| e.contains("does not belong to Nodens"))
        })
        .await;
        let before = running.repairs(What::Link);
        sh("ip link del nodelocaldns");
        eventually(limit(), || running.repairs(What::Link) > before).await;
        assert_eq!(ip_addresses("nodelocaldns").len(), 4);
    });
}
