//! The queries in flight on one socket or connection, and who waits for each.
//!
//! A slot per query, found by its random id. Slots and their buffers are used again, so that a query allocates nothing but
//! the buffer that its answer is returned in. The waiter is a task, which is woken and polls, or a [`Receiver`], which is
//! called in place and needs no task.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::upstream::event::{Event, Receiver};
use crate::upstream::question::{Question, Unexpected, check};
use crate::upstream::random;
use crate::upstream::{Received, UpstreamError};

/// Queries in flight on one socket at most. Ids are drawn at random until a free one is found, which must stay quick.
pub const MAX_IN_FLIGHT: usize = 4_096;
/// Messages that [`Table::flush`] hands over at once.
pub const FLUSH: usize = 32;
/// How many ids of queries that were given up are remembered, so that their late answers are told from forged ones.
const REMEMBERED: usize = 64;

/// The queries in flight on one socket or connection.
pub struct Table {
    inner: Mutex<Inner>,
}

struct Inner {
    slots: Vec<Slot>,
    /// Slots that no query holds.
    free: Vec<u32>,
    /// Slots and ids of queries that `flush` is to send.
    unsent: Vec<(u32, u16)>,
    /// The slots of queries that wait for their answer.
    by_id: HashMap<u16, u32, foldhash::fast::RandomState>,
    given_up: [Option<u16>; REMEMBERED],
    /// Counts the ids in `given_up`, those that were overwritten too.
    next_given_up: usize,
}

struct Slot {
    id: u16,
    /// Letter case counts when the answer is checked.
    exact: bool,
    question_end: usize,
    /// The message as it was sent.
    sent: Vec<u8>,
    at: Instant,
    state: State,
    waiter: Waiter,
}

enum Waiter {
    None,
    Task(Waker),
    InPlace(Receiver),
}

enum State {
    /// No answer yet; `by_id` leads here.
    Waiting,
    /// Ended, and the task is still to poll the result.
    Done(Result<Received, UpstreamError>),
    /// Ended, and the waiter has the result.
    Taken { answered: bool },
}

/// Who is to hear of the end of a query, once no lock is held.
enum Wake<'m> {
    Task(Waker),
    InPlace(Receiver, Event<'m>),
}

type Wakes<'m> = SmallVec<[Wake<'m>; 8]>;

/// The slot of a query in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotId(u32);

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

impl Table {
    /// A table without queries.
    pub fn new() -> Self {
        Self {
            inner: Mutex::new(Inner {
                slots: Vec::new(),
                free: Vec::new(),
                unsent: Vec::new(),
                by_id: HashMap::default(),
                given_up: [None; REMEMBERED],
                next_given_up: 0,
            }),
        }
    }

    /// Registers a query and hands its message, with its id, to `send`. If that fails the query is not registered.
    /// `None`: the table is full.
    pub fn start<E>(
        &self,
        question: &Question,
        random_case: bool,
        send: impl FnOnce(&[u8]) -> Result<(), E>,
    ) -> Option<Result<SlotId, E>> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let (at, id) = inner.register(question, random_case)?;
        let slot = inner.slots.get_mut(at as usize)?;
        slot.at = Instant::now();
        if let Err(error) = send(&slot.sent) {
            inner.by_id.remove(&id);
            inner.free.push(at);
            return Some(Err(error));
        }
        Some(Ok(SlotId(at)))
    }

    /// Registers a query; [`Table::flush`] sends it. True: it is the first one that waits for that. `None`: the table is
    /// full.
    pub fn queue(&self, question: &Question, random_case: bool) -> Option<(SlotId, bool)> {
        let mut inner = self.lock();
        let (at, id) = inner.register(question, random_case)?;
        inner.unsent.push((at, id));
        Some((SlotId(at), inner.unsent.len() == 1))
    }

    /// Has the end of a query, which must not have been polled, delivered in place. To be called right after it was
    /// registered: nothing is delivered for what has happened before.
    pub fn receive_in_place(&self, slot: SlotId, receiver: Receiver) {
        if let Some(slot) = self.lock().slots.get_mut(slot.0 as usize) {
            slot.waiter = Waiter::InPlace(receiver);
        }
    }

    /// Sends what [`Table::queue`] has registered. `send` gets up to [`FLUSH`] messages and returns how many the kernel took:
    /// if it took none, the others are lost, as datagrams may be. After an error none is sent any more, and those that were not
    /// sent fail. Returns false then.
    pub fn flush(&self, mut send: impl FnMut(&[&[u8]]) -> Result<usize, UpstreamError>) -> bool {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let mut unsent = std::mem::take(&mut inner.unsent);
        let now = Instant::now();
        // What was given up meanwhile is not sent.
        unsent.retain(|(at, id)| inner.by_id.get(id) == Some(at));
        let mut failure = None;
        for (at, _) in &unsent {
            if let Some(slot) = inner.slots.get_mut(*at as usize) {
                slot.at = now;
            }
        }
        let mut taken = 0;
        while let Some(rest @ [_, ..]) = unsent.get(taken..) {
            let messages: SmallVec<[&[u8]; FLUSH]> = rest
                .iter()
                .take(FLUSH)
                .filter_map(|(at, _)| inner.slots.get(*at as usize))
                .map(|slot| slot.sent.as_slice())
                .collect();
            match send(&messages) {
                // The kernel takes fewer if an earlier one was refused by its receiver, and forgets the refusal: only the
                // last, sent alone, leaves it to be found.
                Ok(sent @ 1..) => taken += sent,
                Ok(_) => break,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let mut wakes = Wakes::new();
        if let Some(error) = &failure {
            for (_, id) in unsent.iter().skip(taken) {
                wakes.extend(inner.fail(*id, error));
            }
        }
        unsent.clear();
        inner.unsent = unsent;
        drop(guard);
        wake_all(wakes, now);
        failure.is_none()
    }

    /// Hands over what was received, each a datagram or frame and if it was longer than its buffer. `unexpected` hears of
    /// those that no query waits for. Returns how many were delivered.
    pub fn deliver<'m>(
        &self,
        messages: impl Iterator<Item = (&'m [u8], bool)>,
        mut unexpected: impl FnMut(Unexpected),
    ) -> usize {
        let mut wakes = Wakes::new();
        let now = Instant::now();
        let mut delivered = 0;
        let mut inner = self.lock();
        for (message, oversize) in messages {
            match inner.deliver(message, oversize, now) {
                Ok(wake) => {
                    delivered += 1;
                    wakes.extend(wake);
                }
                Err((why, wake)) => {
                    unexpected(why);
                    wakes.extend(wake);
                }
            }
        }
        drop(inner);
        wake_all(wakes, now);
        delivered
    }

    /// Ends the query of `id` with `error`.
    pub fn fail(&self, id: u16, error: &UpstreamError) {
        let wake = self.lock().fail(id, error);
        wake_all(wake, Instant::now());
    }

    /// Ends every query in flight with `error`.
    pub fn fail_all(&self, error: &UpstreamError) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let ids: SmallVec<[u16; 16]> = inner.by_id.keys().copied().collect();
        let wakes: Vec<_> = ids.into_iter().filter_map(|id| inner.fail(id, error)).collect();
        drop(guard);
        wake_all(wakes, Instant::now());
    }

    /// What became of a query. Not for one that is received in place.
    pub fn poll(
        &self,
        slot: SlotId,
        context: &mut Context<'_>,
    ) -> Poll<Result<Received, UpstreamError>> {
        let mut inner = self.lock();
        let Some(slot) = inner.slots.get_mut(slot.0 as usize) else {
            return Poll::Ready(Err(UpstreamError::Lost));
        };
        if let State::Waiting = slot.state {
            match &mut slot.waiter {
                Waiter::Task(waker) => waker.clone_from(context.waker()),
                waiter => *waiter = Waiter::Task(context.waker().clone()),
            }
            return Poll::Pending;
        }
        match std::mem::replace(&mut slot.state, State::Taken { answered: false }) {
            State::Done(result) => {
                slot.state = State::Taken { answered: result.is_ok() };
                Poll::Ready(result)
            }
            _ => Poll::Ready(Err(UpstreamError::Lost)),
        }
    }

    /// Gives a query up, or its slot back if it is over. To be called exactly once for each slot. True if the query's waiter
    /// has had an answer.
    pub fn release(&self, slot: SlotId) -> bool {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let at = slot.0;
        let Some(slot) = inner.slots.get_mut(at as usize) else { return false };
        slot.waiter = Waiter::None;
        let state = std::mem::replace(&mut slot.state, State::Taken { answered: false });
        if matches!(state, State::Waiting) {
            inner.by_id.remove(&slot.id);
            if let Some(remembered) = inner.given_up.get_mut(inner.next_given_up % REMEMBERED) {
                *remembered = Some(slot.id);
            }
            inner.next_given_up = inner.next_given_up.wrapping_add(1);
        }
        inner.free.push(at);
        matches!(state, State::Taken { answered: true })
    }

    /// Queries in flight.
    pub fn len(&self) -> usize {
        self.lock().by_id.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake_all<'m>(wakes: impl IntoIterator<Item = Wake<'m>>, now: Instant) {
    for wake in wakes {
        match wake {
            Wake::Task(waker) => waker.wake(),
            Wake::InPlace(receiver, event) => (receiver.deliver)(receiver.query, event, now),
        }
    }
}

impl Slot {
    /// Ends the query without an answer. `by_id` must not lead here any more.
    fn fail<'m>(&mut self, error: UpstreamError) -> Option<Wake<'m>> {
        match std::mem::replace(&mut self.waiter, Waiter::None) {
            Waiter::InPlace(receiver) => {
                self.state = State::Taken { answered: false };
                let attempt = receiver.attempt;
                Some(Wake::InPlace(receiver, Event::Failed { attempt, error }))
            }
            waiter => {
                self.state = State::Done(Err(error));
                waiter.task()
            }
        }
    }

    /// Ends the query with an answer. `by_id` must not lead here any more.
    fn answer<'m>(&mut self, message: &'m [u8], oversize: bool, now: Instant) -> Option<Wake<'m>> {
        let round_trip = now.saturating_duration_since(self.at);
        match std::mem::replace(&mut self.waiter, Waiter::None) {
            Waiter::InPlace(receiver) => {
                self.state = State::Taken { answered: true };
                let (attempt, message) = (receiver.attempt, Cow::Borrowed(message));
                let event = Event::Response { attempt, message, oversize, round_trip };
                Some(Wake::InPlace(receiver, event))
            }
            waiter => {
                let bytes = message.to_vec();
                self.state = State::Done(Ok(Received { bytes, oversize, round_trip }));
                waiter.task()
            }
        }
    }
}

impl Waiter {
    fn task<'m>(self) -> Option<Wake<'m>> {
        if let Self::Task(waker) = self { Some(Wake::Task(waker)) } else { None }
    }
}

impl Inner {
    /// Gives a query a slot and an id. `None`: there are too many.
    fn register(&mut self, question: &Question, random_case: bool) -> Option<(u32, u16)> {
        if self.by_id.len() >= MAX_IN_FLIGHT {
            return None;
        }
        let id = std::iter::repeat_with(random::id).find(|id| !self.by_id.contains_key(id))?;
        let at = self.free.pop().unwrap_or(self.slots.len() as u32);
        if at as usize == self.slots.len() {
            self.slots.push(Slot {
                id,
                exact: random_case,
                question_end: 0,
                sent: Vec::with_capacity(question.packet().len()),
                at: Instant::now(),
                state: State::Waiting,
                waiter: Waiter::None,
            });
        }
        let slot = self.slots.get_mut(at as usize)?;
        question.write_to(&mut slot.sent, id, random_case);
        slot.id = id;
        slot.exact = random_case;
        slot.question_end = question.end();
        slot.state = State::Waiting;
        slot.waiter = Waiter::None;
        self.by_id.insert(id, at);
        Some((at, id))
    }

    fn fail<'m>(&mut self, id: u16, error: &UpstreamError) -> Option<Wake<'m>> {
        let at = self.by_id.remove(&id)?;
        self.slots.get_mut(at as usize)?.fail(error.clone())
    }

    fn deliver<'m>(
        &mut self,
        message: &'m [u8],
        oversize: bool,
        now: Instant,
    ) -> Result<Option<Wake<'m>>, (Unexpected, Option<Wake<'m>>)> {
        let Some(id) = crate::wire::read_u16(message, 0) else {
            return Err((Unexpected::NoResponse, None));
        };
        let Some(&at) = self.by_id.get(&id) else {
            let late = self.given_up.iter_mut().find(|given_up| **given_up == Some(id));
            let why = if late.is_some() { Unexpected::Late } else { Unexpected::Id };
            if let Some(late) = late {
                *late = None;
            }
            return Err((why, None));
        };
        let Some(slot) = self.slots.get_mut(at as usize) else {
            return Err((Unexpected::Id, None));
        };
        match check(message, &slot.sent, slot.question_end, slot.exact) {
            Ok(()) => {
                self.by_id.remove(&id);
                Ok(slot.answer(message, oversize, now))
            }
            // An upstream that does not keep the case would never be heard: it is asked over a stream.
            Err(Unexpected::Case) => {
                self.by_id.remove(&id);
                Err((Unexpected::Case, slot.fail(UpstreamError::Case)))
            }
            Err(why) => Err((why, None)),
        }
    }
}
