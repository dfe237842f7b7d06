//! Upstreams by name: they are looked up aside, and the set of upstreams follows.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Forward;
use super::options::has_interface;
use crate::upstream::{Upstream, follow};

/// Where the node's own servers are.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// At least this long from one look to the next.
const LOOK: Duration = Duration::from_millis(200);
/// ... and at most so long, so that the task ends soon after its forward.
const REST: Duration = Duration::from_secs(5);
/// How long a reload waits for the first answers.
const FIRST: Duration = Duration::from_secs(4);

impl Forward {
    /// Looks names up as they become due, until the forward is dropped. To be spawned once, in the control runtime.
    pub async fn follow_names(forward: Weak<Self>) {
        let Some(names) = forward.upgrade().map(|strong| strong.context.names.clone()) else {
            return;
        };
        let mut seen = Vec::new();
        loop {
            // Before the look, so that no change falls between.
            let mut changed = pin!(names.changed());
            changed.as_mut().enable();
            let Some(strong) = forward.upgrade() else { return };
            let pause = strong.look_at_names(&mut seen);
            drop(strong);
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Has those looked up that are due, and the set of upstreams made anew if what is known is not what was `seen`. Returns how
    /// long it is until there is something to do.
    fn look_at_names(&self, seen: &mut Vec<u64>) -> Duration {
        let known = self
            .config
            .named()
            .map(|named| self.context.names.follow(&self.config.asked(named), || self.resolvers()));
        let known: Vec<_> = known.collect();
        let now: Vec<u64> = known.iter().map(|k| k.as_ref().map_or(0, |k| k.generation)).collect();
        if *seen != now && now.iter().any(|generation| *generation > 0) {
            self.renamed.store(true, Relaxed);
            self.probe_soon();
        }
        *seen = now;
        let due = known.iter().flatten().map(|known| known.due).min();
        due.map_or(LOOK, |due| due.saturating_duration_since(Instant::now()).clamp(LOOK, REST))
    }

    /// Who is asked for names: what is written, else the node's servers, but never this one.
    fn resolvers(&self) -> Vec<SocketAddr> {
        let own = &self.context.own;
        if !self.config.resolvers.is_empty() {
            let others = self.config.resolvers.iter().filter(|server| !own.contains(**server));
            return others.copied().collect();
        }
        let files = [Path::new(RESOLV_CONF).to_owned()];
        let servers = follow::read(&files, &self.config.resolved_conf, own).servers;
        // The resolver cannot ask a link-local address, which needs its interface.
        servers.into_iter().filter(|server| !has_interface(server)).collect()
    }

    /// Waits until each name was looked up once, for a few seconds at most. Returns the upstreams that they and all else come to.
    pub(super) async fn named_upstreams(&self) -> Vec<Arc<Upstream>> {
        let begun = Instant::now();
        let is_known = |named| self.context.names.get(&self.config.asked(named)).is_some();
        while begun.elapsed() < FIRST && !self.config.named().all(is_known) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (targets, reading) = self.targets();
        self.build(&targets, &reading).map_or(Vec::new(), |set| set.upstreams)
    }

    /// Waits until these are in use, for a few seconds at most.
    pub(super) async fn wait_for_use(&self, upstreams: &[Arc<Upstream>]) {
        let begun = Instant::now();
        let is_used = |upstream: &Arc<Upstream>| {
            self.upstreams().iter().any(|used| used.target() == upstream.target())
        };
        while begun.elapsed() < FIRST && !upstreams.iter().all(is_used) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What `nodens status` tells of the names.
    pub(super) fn told_names(&self) -> Vec<Value> {
        let now = Instant::now();
        let told = |named| {
            let known = self.context.names.get(&self.config.asked(named));
            let known = known.as_ref();
            json!({
                "name": named.to_string(),
                "addresses": known.map_or(Vec::new(), |known| {
                    known.addresses.iter().map(ToString::to_string).collect()
                }),
                "age_seconds": known.and_then(|known| known.learnt).map(|at| now.duration_since(at).as_secs()),
                "due_seconds": known.map(|known| known.due.saturating_duration_since(now).as_secs()),
                "error": known.and_then(|known| known.error.as_deref()),
            })
        };
        self.config.named().map(told).collect()
    }
}
