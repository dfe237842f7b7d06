//! What a forward does besides answering: follows its files, probes upstreams in doubt, and looks for loops.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::{Forward, Set};
use crate::clock::CoarseInstant;
use crate::file_watch::{self, FileWatch};
use crate::plugin::loop_::guard::{LoopGuard, Verdict};
use crate::upstream::follow::Reading;
use crate::upstream::{Question, Received, Target, Transport, Upstream, UpstreamError, random};
use crate::wire::RecordType;

/// How long a probe may take.
const PROBE: Duration = Duration::from_secs(1);
/// Doubts that come thicker than this are looked into together.
const DOUBT: Duration = Duration::from_millis(20);
/// All upstreams are probed for loops so often, even where nothing looks like one.
const LOOK_FOR_LOOPS: Duration = Duration::from_secs(300);
/// ... and so often while one is known to loop or does not answer, so that it returns soon after the loop is gone.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// ... and up to so much later, by chance: of two servers that forward to each other and find it in the same moment, one is to
/// look while the other has still set it aside, so that one of the two upstreams is used again.
const APART: Duration = Duration::from_secs(2);
/// What looks like a loop is looked into once in so long while one is known.
const SUSPECT_AGAIN: Duration = Duration::from_secs(1);
/// New upstreams that do not answer are asked again so often.
const NEW_SET: Duration = Duration::from_secs(1);

impl Forward {
    /// Runs until the forward is dropped. To be spawned once, in the control runtime.
    pub async fn background(forward: Weak<Self>) {
        let Some(strong) = forward.upgrade() else { return };
        let in_doubt = Arc::clone(&strong.in_doubt);
        let follows = !strong.config.files().is_empty();
        let mut state = State::new(&strong);
        drop(strong);
        loop {
            let Some(strong) = forward.upgrade() else { return };
            let pause = state.step(&strong).await;
            drop(strong);
            tokio::select! {
                () = state.watch.due(), if follows => state.read = true,
                () = in_doubt.notified() => tokio::time::sleep(DOUBT).await,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Probes all upstreams at once, no longer than a probe may take.
    ///
    /// # Errors
    /// None answers: the address of each and why, in words that stay the same from one time to the next.
    pub async fn first_answer(&self) -> Result<(), Vec<String>> {
        let upstreams = match self.config.named().next() {
            Some(_) => self.named_upstreams().await,
            None => self.upstreams(),
        };
        let probes = upstreams.iter().map(async |upstream| {
            let error = self.probe(upstream).await.err()?;
            Some(match error {
                UpstreamError::Timeout(_) => format!("{} is silent", upstream.target()),
                error => format!("{}: {error}", upstream.target()),
            })
        });
        let failures = join_all(probes).await.into_iter().collect::<Option<Vec<String>>>();
        match failures {
            None => {
                self.wait_for_use(&upstreams).await;
                Ok(())
            }
            Some(failures) if failures.is_empty() => Err(vec!["there is none".to_owned()]),
            Some(failures) => Err(failures),
        }
    }

    /// Asks an upstream for what `health_check` says; any answer is good.
    async fn probe(&self, upstream: &Upstream) -> Result<(), UpstreamError> {
        let check = &self.config.health_check;
        let question = Question::new(check.domain.as_ref(), RecordType::NS, check.recursion);
        let is_down = upstream.health.is_down();
        // As long as any try of it. Longer where a connection has to be set up first, and where it is down: it may have become
        // slow, and nothing but a probe would find that out.
        let limit = match upstream.first_transport() {
            Transport::Udp if !is_down => upstream.round_trips.try_timeout().min(PROBE),
            Transport::Udp | Transport::Stream => PROBE,
        };
        let received = ask(upstream, &question, limit).await?;
        if is_down || upstream.round_trips.mean().is_none() {
            upstream.round_trips.record(received.round_trip);
        }
        Ok(())
    }
}

/// Where the background work stands.
struct State {
    watch: FileWatch,
    // The files may have changed.
    read: bool,
    // What the files said last, and what was logged of it.
    known: Reading,
    targets: Vec<Target>,
    // A set that waits for its first answer.
    waiting: Option<Set>,
    looked_for_loops: Option<Instant>,
    // At the last look an upstream did not answer, or no longer looped, which may be so for this moment only.
    unclear: bool,
    // How much later than it is due the next look is.
    apart: Duration,
    probed: Option<Instant>,
}

impl State {
    fn new(forward: &Forward) -> Self {
        let mut first = forward.first.lock().unwrap_or_else(PoisonError::into_inner);
        let (targets, known) = std::mem::take(&mut *first);
        // Watched first and read after that, so that no change falls between.
        let watch = FileWatch::new(known.files.iter().cloned(), file_watch::POLL);
        Self {
            watch,
            read: true,
            known,
            targets,
            waiting: None,
            looked_for_loops: None,
            unclear: false,
            apart: Duration::ZERO,
            probed: None,
        }
    }

    /// Does what is due. Returns how long there is nothing more to do, if nothing happens.
    async fn step(&mut self, forward: &Arc<Forward>) -> Duration {
        if std::mem::take(&mut self.read) | forward.renamed.load(Relaxed) {
            // Before what is read, so that what comes meanwhile is not missed.
            forward.renamed.store(false, Relaxed);
            self.read_again(forward);
        }
        if self.waiting.is_some() {
            self.take_over(forward).await;
        }
        self.probe_in_doubt(forward).await;
        self.look_for_loops(forward).await;
        self.pause(forward)
    }

    fn read_again(&mut self, forward: &Forward) {
        let (targets, reading) = forward.targets();
        if reading.files != self.known.files {
            self.watch.follow(reading.files.iter().cloned());
        }
        if reading == self.known && targets == self.targets {
            return;
        }
        if reading.notes != self.known.notes {
            for note in &reading.notes {
                tracing::warn!("forward: {note}");
            }
        }
        // Why there are none is told by the set.
        let is_other_problem = targets.is_empty() && forward.set.load().upstreams.is_empty();
        if targets == self.targets && is_other_problem {
            match forward.build(&targets, &reading) {
                Ok(set) => forward.set.store(Arc::new(set)),
                Err(error) => tracing::error!("forward: {error}"),
            }
        }
        if targets != self.targets {
            let gone = missing(&self.targets, &targets);
            let new = missing(&targets, &self.targets);
            tracing::info!(%gone, %new, "the upstreams have changed");
            match forward.build(&targets, &reading) {
                Ok(set) if set.upstreams.is_empty() && !forward.set.load().upstreams.is_empty() => {
                    tracing::error!("forward: {}: the upstreams from before are kept", set.problem);
                    self.waiting = None;
                }
                Ok(set) => self.waiting = Some(set),
                Err(error) => {
                    tracing::error!("forward: {error}: the upstreams from before are kept")
                }
            }
        }
        self.targets = targets;
        self.known = reading;
    }

    /// Puts the new set in place as soon as one of it answers. Until then the old one goes on, unless it is dead itself.
    async fn take_over(&mut self, forward: &Forward) {
        let Some(set) = &self.waiting else { return };
        let present = forward.set.load_full();
        let dead = present.upstreams.iter().all(|upstream| upstream.health.is_down());
        let answers = dead || {
            let probes = set.upstreams.iter().map(|upstream| forward.probe(upstream));
            join_all(probes).await.iter().any(Result::is_ok)
        };
        if answers && let Some(set) = self.waiting.take() {
            tracing::info!(upstreams = ?set.upstreams, "the new upstreams are in use");
            forward.set.store(Arc::new(set));
            forward.suspicious.store(true, Relaxed);
        }
    }

    /// Probes upstreams that have failed since their last answer. One that answers normal queries is never probed.
    async fn probe_in_doubt(&mut self, forward: &Forward) {
        if forward.config.max_fails == 0 {
            return;
        }
        let interval = forward.config.health_check.interval;
        if self.probed.is_some_and(|at| at.elapsed() < interval) {
            return;
        }
        let set = forward.set.load_full();
        let others = set.upstreams.len() > 1;
        let doubtful = set.upstreams.iter().filter(|up| is_in_doubt(up, others));
        let doubtful: Vec<_> = doubtful.collect();
        if doubtful.is_empty() {
            return;
        }
        self.probed = Some(Instant::now());
        let probes = doubtful.into_iter().map(async |upstream| {
            let begun = CoarseInstant::now();
            match forward.probe(upstream).await {
                Ok(()) => forward.answered(upstream, CoarseInstant::now()),
                Err(error) => {
                    upstream.probe_failed();
                    // It may answer queries, though not this one.
                    if upstream.health.last_answer() <= begun {
                        forward.failed(upstream, &error, CoarseInstant::now());
                    }
                }
            }
        });
        join_all(probes).await;
    }

    async fn look_for_loops(&mut self, forward: &Forward) {
        let Some(guard) = &forward.context.loops else { return };
        let set = forward.set.load_full();
        let due = self.looked_for_loops.is_none_or(|at| at.elapsed() >= self.look_again(&set));
        let suspects = forward.suspicious.load(Relaxed) && self.may_suspect(&set).is_zero();
        if !due && !suspects {
            return;
        }
        forward.suspicious.store(false, Relaxed);
        self.looked_for_loops = Some(Instant::now());
        let Some(zone) = forward.probed_zone() else { return };
        let clear = join_all(set.upstreams.iter().map(async |upstream| {
            let by = match guard
                .probe(zone.as_ref(), async |question| {
                    ask(upstream, &question, PROBE).await.map(drop)
                })
                .await
            {
                Verdict::Loops(by) => Some(by),
                Verdict::Clean => None,
                // No answer says nothing: an upstream that loops may be too busy with that to answer in time.
                Verdict::Unknown => return false,
            };
            let is_new = upstream.health.set_looping(by.is_some());
            if is_new {
                LoopGuard::report(upstream.label(), by);
            }
            by.is_some() || !is_new
        }));
        self.unclear = clear.await.contains(&false);
        self.apart = Duration::from_millis(random::below(APART.as_millis() as usize) as u64);
    }

    /// How long it is until a suspicion is looked into: where a loop is known, not at once again.
    fn may_suspect(&self, set: &Set) -> Duration {
        let since = self.looked_for_loops.filter(|_| is_looping(set));
        since.map_or(Duration::ZERO, |at| (SUSPECT_AGAIN + self.apart).saturating_sub(at.elapsed()))
    }

    /// How long after one look for loops the next is due.
    fn look_again(&self, set: &Set) -> Duration {
        if self.unclear || is_looping(set) { LOOK_AGAIN + self.apart } else { LOOK_FOR_LOOPS }
    }

    fn pause(&self, forward: &Forward) -> Duration {
        let set = forward.set.load();
        let mut pause = Duration::from_secs(5);
        if self.waiting.is_some() {
            pause = pause.min(NEW_SET);
        }
        if let Some(at) = self.looked_for_loops {
            pause = pause.min(self.look_again(&set).saturating_sub(at.elapsed()));
        }
        if forward.suspicious.load(Relaxed) {
            pause = pause.min(self.may_suspect(&set));
        }
        let others = set.upstreams.len() > 1;
        if set.upstreams.iter().any(|up| is_in_doubt(up, others)) {
            let since = self.probed.map_or(Duration::ZERO, |at| at.elapsed());
            pause = pause.min(forward.config.health_check.interval.saturating_sub(since));
        }
        // What is due at once has been done: never round and round.
        pause.max(DOUBT)
    }
}

fn is_looping(set: &Set) -> bool {
    set.upstreams.iter().any(|up| up.health.is_looping())
}

/// Worth a probe: it has failed or was late since its last answer, or has never answered while there are others to ask.
fn is_in_doubt(upstream: &Upstream, others: bool) -> bool {
    upstream.health.failures() > 0
        || upstream.health.is_suspect()
        || upstream.health.is_down()
        || others && upstream.round_trips.mean().is_none()
}

async fn ask(
    upstream: &Upstream,
    question: &Question,
    limit: Duration,
) -> Result<Received, UpstreamError> {
    let flight = upstream.ask_standalone(question)?;
    match timeout(limit, flight).await {
        Ok(answer) => answer,
        Err(_) => Err(UpstreamError::Timeout(limit)),
    }
}

/// Those of `these` that `others` lack, as text.
fn missing(these: &[Target], others: &[Target]) -> String {
    let missing = these.iter().filter(|target| !others.contains(target));
    missing.map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
