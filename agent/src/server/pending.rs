//! The misses of a worker that are resolved in place: by the reader of an upstream's socket and by a sweep for time-outs,
//! without a task.
//!
//! ```text
//! resolve   a handler has returned Wait   -> Chain::join_miss  -> the query is sent with its batch
//! deliver   response, failure, time-out   -> Miss::advance     -> another try is sent, or the reply leaves with its batch
//! ```
//!
//! A miss that needs another handler's answer (an alias, a rewrite, a flight to follow) becomes a task at the start, and no
//! other does.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::answer::PendingReply;
use super::miss::Miss;
use super::send_queue::ReplyPath;
use super::worker::PendingPermit;
use crate::clock::CoarseInstant;
use crate::in_hand;
use crate::request::Request;
use crate::upstream::event::{Event, PendingId};

/// How often a worker looks for time-outs while it has misses.
const SWEEP: Duration = Duration::from_millis(10);
/// Slots that are kept when the last miss has gone.
const KEPT_SLOTS: usize = 1_024;
/// When a slot without a miss is due.
const NEVER: CoarseInstant = CoarseInstant::from_millis(u64::MAX);

thread_local! {
    static PENDING: RefCell<Pending> = RefCell::default();
}

/// The misses of one thread.
#[derive(Default)]
struct Pending {
    slots: Vec<Slot>,
    /// When each slot's miss is to hear of a time-out. Apart from the slots, so that the sweep reads little.
    due: Vec<CoarseInstant>,
    free: Vec<u32>,
    /// Slots that are reserved.
    count: usize,
    /// Of the last slot that was reserved.
    generation: u32,
    /// A task sweeps.
    sweeping: bool,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    /// `None` while the slot is free, and while the miss is being advanced.
    miss: Option<Miss>,
}

/// Resolves a query that has to wait, and sends its reply. `request` is the view of `reply`'s request. To be called on the
/// worker's thread, within its runtime.
pub(super) fn resolve(
    reply: PendingReply,
    request: &Request<'_>,
    permit: PendingPermit,
    path: ReplyPath,
) {
    let Some(parts) = reply.join_miss(request) else {
        tokio::spawn(by_task(reply, permit, path));
        return;
    };
    let Some(miss) = Miss::new(reply, permit, path, parts) else { return };
    let (id, is_first) = PENDING.with_borrow_mut(Pending::reserve);
    advance(id, miss, None, Instant::now());
    if is_first {
        tokio::spawn(sweep(Sweeping));
    }
}

/// Gives up all misses of this thread, unanswered. To be called before its runtime ends.
pub(super) fn abandon() {
    let pending = PENDING.take();
    drop(pending);
}

async fn by_task(reply: PendingReply, permit: PendingPermit, path: ReplyPath) {
    let client = reply.origin().client;
    let answer = reply.resolve().await;
    let Ok(request) = reply.request().view() else { return };
    path.send(permit.worker(), client, |out| reply.write(&request, &answer, Instant::now(), out));
}

/// Takes an event of one miss; ignored if the miss has ended.
pub(super) fn deliver(id: PendingId, event: Event<'_>, at: Instant) {
    let Ok(Some(miss)) = PENDING.try_with(|pending| pending.borrow_mut().take(id)) else { return };
    advance(id, miss, Some(event), at);
}

/// All that runs for a miss runs in here: a bug in one must not end the reader of a socket, nor the sweep.
fn advance(id: PendingId, miss: Miss, event: Option<Event<'_>>, at: Instant) {
    let worker = Arc::clone(miss.worker());
    let _in_hand = in_hand::begin(miss.packet());
    let advanced = catch_unwind(AssertUnwindSafe(|| miss.advance(id, deliver, event, at)));
    let left = advanced.unwrap_or_else(|_| {
        worker.panicked();
        None
    });
    PENDING.with_borrow_mut(|pending| match left {
        Some(miss) => pending.put_back(id, miss),
        None => pending.free(id),
    });
}

async fn sweep(_sweeping: Sweeping) {
    let mut interval = tokio::time::interval(SWEEP);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval.tick().await;
    loop {
        interval.tick().await;
        let due = PENDING.with_borrow_mut(|pending| pending.due(CoarseInstant::now()));
        let Some(due) = due else { return };
        let now = Instant::now();
        due.into_iter().for_each(|id| deliver(id, Event::Timeout, now));
    }
}

/// Dropped when the sweep ends, however it does: the next miss begins another.
struct Sweeping;

impl Drop for Sweeping {
    fn drop(&mut self) {
        let _ = PENDING.try_with(|pending| pending.borrow_mut().sweeping = false);
    }
}

impl Pending {
    /// A slot for a miss that is put back or freed next. True if a sweep has to be begun.
    fn reserve(&mut self) -> (PendingId, bool) {
        self.generation = self.generation.wrapping_add(1);
        self.count += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.due.push(NEVER);
            self.slots.len() as u32 - 1
        });
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.generation = self.generation;
        }
        let is_first = !std::mem::replace(&mut self.sweeping, true);
        (PendingId { index, generation: self.generation }, is_first)
    }

    fn take(&mut self, id: PendingId) -> Option<Miss> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation == id.generation { slot.miss.take() } else { None }
    }

    fn put_back(&mut self, id: PendingId, miss: Miss) {
        let index = id.index as usize;
        if let (Some(slot), Some(due)) = (self.slots.get_mut(index), self.due.get_mut(index)) {
            *due = miss.due();
            slot.miss = Some(miss);
        }
    }

    fn free(&mut self, id: PendingId) {
        if let Some(due) = self.due.get_mut(id.index as usize) {
            *due = NEVER;
        }
        self.count -= 1;
        self.free.push(id.index);
        if self.count == 0 && self.slots.len() > KEPT_SLOTS {
            let Self { slots, due, free, .. } = self;
            (*slots, *due, *free) = (Vec::new(), Vec::new(), Vec::new());
        }
    }

    /// The misses whose time-out is due; `None` if there are no misses.
    fn due(&self, now: CoarseInstant) -> Option<SmallVec<[PendingId; 16]>> {
        if self.count == 0 {
            return None;
        }
        let due = self.due.iter().zip(&self.slots).zip(0..).filter(|((due, _), _)| **due <= now);
        let id = |((_, slot), index): ((_, &Slot), u32)| PendingId {
            index,
            generation: slot.generation,
        };
        Some(due.map(id).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::sync::Mutex;

    use super::*;
    use crate::chain::{self, Chain, Handler, JoinMiss, Local, MissQuery};
    use crate::clients::ClientShares;
    use crate::request::{Answer, Origin, Outcome, Plugin, Step, Transport};
    use crate::server::Dispatch;
    use crate::server::answer::{Disposition, answer};
    use crate::server::send_queue::OwedReply;
    use crate::server::worker::Worker;
    use crate::upstream::{self, Question};
    use crate::wire::query::write_query;
    use crate::wire::{Class, Name, Rcode, RecordType, Reply, flags};

    /// Waits for one event, over which it panics if it is about `broken.example`.
    struct Waiting {
        question: Question,
        is_broken: bool,
        is_finished: bool,
    }

    impl MissQuery for Waiting {
        fn handle(&mut self, _: CoarseInstant, _: Event<'_>) {
            assert!(!self.is_broken, "a bug");
            self.is_finished = true;
        }

        fn poll_send(&mut self) -> Option<upstream::Send> {
            None
        }

        fn question(&self) -> &Question {
            &self.question
        }

        fn poll_timeout(&self) -> CoarseInstant {
            NEVER
        }

        fn is_finished(&self) -> bool {
            self.is_finished
        }

        fn finish(&mut self, request: &Request<'_>) -> Option<Answer> {
            let outcome = Outcome::new(Plugin::Forward, Rcode::NOERROR);
            Some(Answer::written(request, |_| outcome))
        }
    }

    struct Waits;

    impl Handler for Waits {
        fn plugin(&self) -> Plugin {
            Plugin::Forward
        }

        fn serve(&self, _: &Request<'_>, _: &mut Reply<'_>, _: &mut Local) -> Step {
            Step::Wait
        }

        fn join_miss(&self, request: &Request<'_>, miss: &mut chain::Miss) -> JoinMiss {
            let broken = Name::from_text("broken.example").unwrap();
            miss.query = Some(Box::new(Waiting {
                question: Question::of_query(&request.query),
                is_broken: request.query.name() == broken.as_ref(),
                is_finished: false,
            }));
            JoinMiss::Complete
        }
    }

    /// Keeps the reply.
    struct Owed(Arc<Mutex<Vec<Vec<u8>>>>);

    impl OwedReply for Owed {
        fn send(self: Box<Self>, write: &mut dyn FnMut(&mut Vec<u8>) -> bool) {
            let mut octets = Vec::new();
            assert!(write(&mut octets));
            self.0.lock().unwrap().push(octets);
        }
    }

    struct Rig {
        worker: Arc<Worker>,
        dispatch: Arc<Dispatch>,
        replies: Arc<Mutex<Vec<Vec<u8>>>>,
    }

    impl Rig {
        fn new() -> Self {
            let handlers: Vec<Arc<dyn Handler>> = vec![Arc::new(Waits)];
            let chain = Chain::new(Name::root(), "dns://:53".into(), handlers, 1);
            Self {
                worker: Arc::new(Worker::new(0, ClientShares::new(8, &Arc::default()))),
                dispatch: Arc::new(Dispatch::new(vec![Arc::new(chain)])),
                replies: Arc::default(),
            }
        }

        /// Begins the miss of a query.
        fn begin(&self, name: &str) -> PendingId {
            let mut packet = Vec::new();
            let name = Name::from_text(name).unwrap();
            write_query(&mut packet, 7, flags::RD, name.as_ref(), RecordType::A, Class::IN, None);
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 5300));
            let origin = Origin {
                client: address,
                local: address,
                transport: Transport::Tcp,
                worker: 0,
                received: CoarseInstant::now(),
            };
            let (mut local, mut out) = (Local::new(0), Vec::new());
            let disposition = answer(&packet, origin, &self.dispatch, &mut local, &mut out);
            let Disposition::Pending(reply, request) = disposition else {
                panic!("it does not wait");
            };
            let permit = self.worker.admit(&origin).unwrap();
            let path = ReplyPath::Tcp(Box::new(Owed(Arc::clone(&self.replies))));
            resolve(reply, &request, permit, path);
            PENDING.with_borrow(|pending| {
                let generation = pending.generation;
                let at = pending.slots.iter().position(|slot| slot.generation == generation);
                PendingId { index: at.unwrap() as u32, generation }
            })
        }

        /// Panics, queries that wait, and replies.
        fn counts(&self) -> (u64, usize, usize) {
            (self.worker.panics(), self.worker.waiting(), self.replies.lock().unwrap().len())
        }
    }

    #[tokio::test]
    async fn a_panic_ends_the_miss_that_it_is_about_and_no_other() {
        let rig = Rig::new();
        let (broken, sound) = (rig.begin("broken.example"), rig.begin("one.example"));
        assert_eq!(rig.counts(), (0, 2, 0));
        deliver(broken, Event::Timeout, Instant::now());
        assert_eq!(rig.counts(), (1, 1, 0));
        // It has gone, and what comes late for it is for nobody.
        deliver(broken, Event::Timeout, Instant::now());
        assert_eq!(rig.counts(), (1, 1, 0));
        let [_, lost_by_panic] = &rig.dispatch.chains()[0].cells[0].lost;
        assert_eq!(lost_by_panic.value(), 1);
        deliver(sound, Event::Timeout, Instant::now());
        assert_eq!(rig.counts(), (1, 0, 1));
        let next = rig.begin("two.example");
        assert!([broken.index, sound.index].contains(&next.index), "its place is free again");
        deliver(next, Event::Timeout, Instant::now());
        assert_eq!(rig.counts(), (1, 0, 2));
        assert_eq!(PENDING.with_borrow(|pending| (pending.count, pending.free.len())), (0, 2));
    }
}
