//! Who waits for which answer on one socket or connection.
//!
//! A slot per query, found by its random id. Slots and their buffers are used again, so that a query allocates nothing but
//! the buffer that its answer is returned in.
//!
//! Who waits is a task that is woken, or an [`Errand`], which does its work where the answer is received and needs no task.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::clock::CoarseInstant;
use crate::upstream::question::{Question, Unexpected, check};
use crate::upstream::random;
use crate::upstream::{Flight, Received, UpstreamError};

/// Queries in flight on one socket at most. Ids are drawn at random until a free one is found, which must stay quick.
pub const MAX_IN_FLIGHT: usize = 4_096;
/// Messages that [`Table::flush`] hands over at once.
pub const FLUSH: usize = 32;
/// How many ids of queries that were given up are remembered, so that their late answers are told from forged ones.
const REMEMBERED: usize = 64;

/// What is done with the answer to a query where it is received, without a task that waits for it.
pub trait Errand: Send {
    /// The answer has come.
    fn answered(self: Box<Self>, answer: Answered<'_>);

    /// There is none yet at the time that was set, or none at all: what is left of the query goes on as a task. `None`:
    /// it could not even be sent.
    fn goes_on(self: Box<Self>, flight: Option<Flight>);
}

/// An errand whose time is over, and where its query goes on being waited for.
pub type Overdue = (Box<dyn Errand>, Place);

/// Octets that answer a question, where they were received.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'a> {
    /// The whole message.
    pub octets: &'a [u8],
    /// The datagram was longer than the room for it.
    pub cut_off: bool,
    /// From sending to receiving.
    pub round_trip: Duration,
    /// When it was received.
    pub at: Instant,
}

/// The queries in flight on one socket or connection.
pub struct Table {
    inner: Mutex<Inner>,
}

struct Inner {
    slots: Vec<Slot>,
    free: Vec<u32>,
    // Places and ids of queries that `flush` is to send.
    unsent: Vec<(u32, u16)>,
    errands: usize,
    watched: bool,
    by_id: HashMap<u16, u32, foldhash::fast::RandomState>,
    given_up: [Option<u16>; REMEMBERED],
    next_given_up: usize,
}

struct Slot {
    id: u16,
    exact: bool,
    question_end: usize,
    // The message as it was sent.
    sent: Vec<u8>,
    at: Instant,
    state: State,
    waiter: Waiter,
}

enum Waiter {
    Nobody,
    Task(Waker),
    // Goes on as a task at that time.
    Errand(Box<dyn Errand>, CoarseInstant),
}

enum State {
    Free,
    Waiting,
    Done(Result<Received, UpstreamError>),
}

/// The place of a query in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

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
                errands: 0,
                watched: false,
                by_id: HashMap::default(),
                given_up: [None; REMEMBERED],
                next_given_up: 0,
            }),
        }
    }

    /// Takes a query in and hands its message, with its id, to `send`. Where that fails the query is not taken in.
    /// `None`: the table is full.
    pub fn start<E>(
        &self,
        question: &Question,
        random_case: bool,
        send: impl FnOnce(&[u8]) -> Result<(), E>,
    ) -> Option<Result<Place, E>> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let (at, id) = inner.take_in(question, random_case)?;
        let slot = inner.slots.get_mut(at as usize)?;
        slot.at = Instant::now();
        if let Err(error) = send(&slot.sent) {
            slot.state = State::Free;
            inner.by_id.remove(&id);
            inner.free.push(at);
            return Some(Err(error));
        }
        Some(Ok(Place(at)))
    }

    /// Takes a query in; [`Table::flush`] sends it. True: it is the first one that waits for that. `None`: the table is
    /// full.
    pub fn queue(&self, question: &Question, random_case: bool) -> Option<(Place, bool)> {
        let mut inner = self.lock();
        let (at, id) = inner.take_in(question, random_case)?;
        inner.unsent.push((at, id));
        Some((Place(at), inner.unsent.len() == 1))
    }

    /// The same for an errand, which becomes a task at `due`. The first of what is returned is as for [`Table::queue`], the
    /// second true where [`Table::overdue`] has to be called from now on, until it says that no errand is left.
    pub fn queue_errand(
        &self,
        question: &Question,
        random_case: bool,
        errand: Box<dyn Errand>,
        due: CoarseInstant,
    ) -> Result<(bool, bool), Box<dyn Errand>> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let Some((at, id)) = inner.take_in(question, random_case) else { return Err(errand) };
        let Some(slot) = inner.slots.get_mut(at as usize) else { return Err(errand) };
        slot.waiter = Waiter::Errand(errand, due);
        inner.unsent.push((at, id));
        inner.errands += 1;
        let is_news = !std::mem::replace(&mut inner.watched, true);
        Ok((inner.unsent.len() == 1, is_news))
    }

    /// The errands whose time is over, and those that have failed; and how many are left.
    pub fn overdue(&self, now: CoarseInstant) -> (Vec<Overdue>, usize) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let mut overdue = Vec::new();
        for (slot, at) in inner.slots.iter_mut().zip(0..) {
            let Waiter::Errand(_, due) = &slot.waiter else { continue };
            if *due > now && matches!(slot.state, State::Waiting) {
                continue;
            }
            if let Waiter::Errand(errand, _) = slot.waiter.take() {
                overdue.push((errand, Place(at)));
            }
        }
        inner.errands -= overdue.len();
        inner.watched = inner.errands > 0;
        (overdue, inner.errands)
    }

    /// Sends what [`Table::queue`] has taken in. `send` gets up to [`FLUSH`] messages and says how many the kernel took: where
    /// it took none, the others are lost, as datagrams may be. After an error none is sent any more, and who waits for those
    /// that were not sent hears of it. Returns false then.
    pub fn flush(&self, mut send: impl FnMut(&[&[u8]]) -> Result<usize, UpstreamError>) -> bool {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let mut unsent = std::mem::take(&mut inner.unsent);
        let now = Instant::now();
        // Whoever gave up meanwhile has nothing to send.
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
                // The kernel takes fewer where an earlier one was refused by its receiver, and forgets the refusal: only the
                // last, sent alone, leaves it to be found.
                Ok(sent @ 1..) => taken += sent,
                Ok(_) => break,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let mut wakers: SmallVec<[Waker; 16]> = SmallVec::new();
        if let Some(error) = &failure {
            for (at, id) in unsent.iter().skip(taken) {
                inner.by_id.remove(id);
                if let Some(slot) = inner.slots.get_mut(*at as usize) {
                    slot.state = State::Done(Err(error.clone()));
                    wakers.extend(slot.waiter.wake());
                }
            }
        }
        unsent.clear();
        inner.unsent = unsent;
        drop(guard);
        wakers.into_iter().for_each(Waker::wake);
        failure.is_none()
    }

    /// Hands over what was received, and wakes whoever waits for it. Each datagram or frame is (octets, cut off), and
    /// `unexpected` hears of those that nobody waits for.
    pub fn deliver<'m>(
        &self,
        messages: impl Iterator<Item = (&'m [u8], bool)>,
        mut unexpected: impl FnMut(Unexpected),
    ) -> usize {
        let mut wakers: SmallVec<[Waker; 16]> = SmallVec::new();
        let mut errands: SmallVec<[(Box<dyn Errand>, Answered<'m>); 16]> = SmallVec::new();
        let now = Instant::now();
        let mut delivered = 0;
        let mut inner = self.lock();
        for (message, cut_off) in messages {
            match inner.deliver(message, cut_off, now) {
                Ok(Delivery::Task(waker)) => {
                    delivered += 1;
                    wakers.extend(waker);
                }
                Ok(Delivery::Errand(errand, answered)) => {
                    delivered += 1;
                    errands.push((errand, answered));
                }
                Err((why, waker)) => {
                    unexpected(why);
                    wakers.extend(waker);
                }
            }
        }
        drop(inner);
        wakers.into_iter().for_each(Waker::wake);
        errands.into_iter().for_each(|(errand, answered)| errand.answered(answered));
        delivered
    }

    /// Ends the query of `id` with `error`.
    pub fn fail(&self, id: u16, error: &UpstreamError) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let Some(at) = inner.by_id.remove(&id) else { return };
        let waker = inner.slots.get_mut(at as usize).and_then(|slot| {
            slot.state = State::Done(Err(error.clone()));
            slot.waiter.wake()
        });
        drop(guard);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Ends every query in flight with `error`.
    pub fn fail_all(&self, error: &UpstreamError) {
        let mut wakers = Vec::new();
        let mut guard = self.lock();
        let inner = &mut *guard;
        inner.by_id.clear();
        for slot in &mut inner.slots {
            if matches!(slot.state, State::Waiting) {
                slot.state = State::Done(Err(error.clone()));
                wakers.extend(slot.waiter.wake());
            }
        }
        drop(guard);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// What became of a query.
    pub fn poll(
        &self,
        place: Place,
        context: &mut Context<'_>,
    ) -> Poll<Result<Received, UpstreamError>> {
        let mut inner = self.lock();
        let Some(slot) = inner.slots.get_mut(place.0 as usize) else {
            return Poll::Ready(Err(UpstreamError::Lost));
        };
        match std::mem::replace(&mut slot.state, State::Waiting) {
            State::Done(result) => {
                slot.state = State::Free;
                Poll::Ready(result)
            }
            State::Waiting | State::Free => {
                match &mut slot.waiter {
                    Waiter::Task(waker) => waker.clone_from(context.waker()),
                    waiter => *waiter = Waiter::Task(context.waker().clone()),
                }
                Poll::Pending
            }
        }
    }

    /// Gives a query up, or its place back where it is over. To be called exactly once for each place.
    pub fn release(&self, place: Place) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let Some(slot) = inner.slots.get_mut(place.0 as usize) else { return };
        slot.waiter = Waiter::Nobody;
        if matches!(slot.state, State::Waiting) && inner.by_id.get(&slot.id) == Some(&place.0) {
            inner.by_id.remove(&slot.id);
            if let Some(remembered) = inner.given_up.get_mut(inner.next_given_up % REMEMBERED) {
                *remembered = Some(slot.id);
            }
            inner.next_given_up = inner.next_given_up.wrapping_add(1);
        }
        slot.state = State::Free;
        inner.free.push(place.0);
    }

    /// Queries in flight.
    pub fn len(&self) -> usize {
        self.lock().by_id.len()
    }

    /// True where nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// To whom an answer goes.
enum Delivery<'m> {
    Task(Option<Waker>),
    Errand(Box<dyn Errand>, Answered<'m>),
}

impl Waiter {
    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Nobody)
    }

    /// The task to wake. An errand stays: [`Table::overdue`] finds it.
    fn wake(&mut self) -> Option<Waker> {
        match self.take() {
            Self::Task(waker) => Some(waker),
            other => {
                *self = other;
                None
            }
        }
    }
}

impl Inner {
    /// Gives a query a slot and an id. `None`: there are too many.
    fn take_in(&mut self, question: &Question, random_case: bool) -> Option<(u32, u16)> {
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
                state: State::Free,
                waiter: Waiter::Nobody,
            });
        }
        let slot = self.slots.get_mut(at as usize)?;
        question.write_to(&mut slot.sent, id, random_case);
        slot.id = id;
        slot.exact = random_case;
        slot.question_end = question.end();
        slot.state = State::Waiting;
        self.by_id.insert(id, at);
        Some((at, id))
    }

    fn deliver<'m>(
        &mut self,
        message: &'m [u8],
        cut_off: bool,
        now: Instant,
    ) -> Result<Delivery<'m>, (Unexpected, Option<Waker>)> {
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
            Ok(()) => {}
            // An upstream that does not keep the case would never be heard: whoever asked goes on over a stream.
            Err(Unexpected::Case) => {
                self.by_id.remove(&id);
                slot.state = State::Done(Err(UpstreamError::Case));
                return Err((Unexpected::Case, slot.waiter.wake()));
            }
            Err(why) => return Err((why, None)),
        }
        self.by_id.remove(&id);
        let round_trip = now.saturating_duration_since(slot.at);
        match slot.waiter.take() {
            Waiter::Errand(errand, _) => {
                slot.state = State::Free;
                self.free.push(at);
                self.errands -= 1;
                let answered = Answered { octets: message, cut_off, round_trip, at: now };
                Ok(Delivery::Errand(errand, answered))
            }
            waiter => {
                let bytes = message.to_vec();
                slot.state = State::Done(Ok(Received { bytes, cut_off, round_trip }));
                Ok(Delivery::Task(match waiter {
                    Waiter::Task(waker) => Some(waker),
                    _ => None,
                }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::wire::{Name, RecordType};

    fn question() -> Question {
        Question::new(Name::from_text("www.example.com").unwrap().as_ref(), RecordType::A, true)
    }

    fn start(table: &Table) -> (Place, Vec<u8>) {
        let mut sent = Vec::new();
        let place = table.start::<Infallible>(&question(), false, |bytes| {
            sent = bytes.to_vec();
            Ok(())
        });
        (place.unwrap().unwrap(), sent)
    }

    fn deliver(table: &Table, message: &[u8]) -> Option<Unexpected> {
        let mut heard = None;
        table.deliver(std::iter::once((message, false)), |why| heard = Some(why));
        heard
    }

    fn poll(table: &Table, place: Place) -> Poll<Result<Received, UpstreamError>> {
        table.poll(place, &mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn an_answer_finds_who_asked_once() {
        let table = Table::new();
        let (place, mut message) = start(&table);
        let (other, _) = start(&table);
        assert!(poll(&table, place).is_pending());
        message[2] |= 0x80;
        assert_eq!(deliver(&table, &message), None);
        assert!(
            matches!(poll(&table, place), Poll::Ready(Ok(received)) if received.bytes == message)
        );
        assert!(poll(&table, other).is_pending());
        assert_eq!(deliver(&table, &message), Some(Unexpected::Id));
        table.release(place);
        table.release(other);
        assert!(table.is_empty());
    }

    #[test]
    fn forged_and_late_answers_are_told_apart() {
        let table = Table::new();
        let (place, mut message) = start(&table);
        message[2] |= 0x80;
        let mut forged = message.clone();
        forged[1] ^= 1;
        assert_eq!(deliver(&table, &forged), Some(Unexpected::Id));
        let mut forged = message.clone();
        forged[13] = b'x';
        assert_eq!(deliver(&table, &forged), Some(Unexpected::Question));
        assert!(poll(&table, place).is_pending());
        table.release(place);
        assert_eq!(deliver(&table, &message), Some(Unexpected::Late));
        assert_eq!(deliver(&table, &message), Some(Unexpected::Id));
    }

    #[test]
    fn the_table_is_bounded_and_its_places_are_used_again() {
        let table = Table::new();
        let places: Vec<_> = (0..MAX_IN_FLIGHT).map(|_| start(&table).0).collect();
        assert!(table.start::<Infallible>(&question(), false, |_| Ok(())).is_none());
        places.into_iter().for_each(|place| table.release(place));
        assert!(start(&table).0.0 < MAX_IN_FLIGHT as u32);
        table.fail_all(&UpstreamError::Lost);
        assert!(table.is_empty());
    }

    #[test]
    fn what_cannot_be_sent_is_not_in_flight() {
        let table = Table::new();
        assert_eq!(table.start(&question(), false, |_| Err("no route")), Some(Err("no route")));
        assert!(table.is_empty());
    }

    #[test]
    fn what_is_queued_is_sent_together_but_for_what_was_given_up() {
        let table = Table::new();
        let (first, is_first) = table.queue(&question(), false).unwrap();
        let (second, is_second) = table.queue(&question(), false).unwrap();
        let (third, _) = table.queue(&question(), false).unwrap();
        assert!(is_first && !is_second);
        table.release(second);
        let mut sent = 0;
        assert!(table.flush(|messages| {
            sent += messages.len();
            Ok(messages.len())
        }));
        assert_eq!(sent, 2);
        assert!(table.flush(|_| Err(UpstreamError::Lost)), "nothing is left to send");
        let (fourth, is_first) = table.queue(&question(), false).unwrap();
        assert!(is_first && !table.flush(|_| Err(UpstreamError::Lost)));
        assert!(matches!(poll(&table, fourth), Poll::Ready(Err(UpstreamError::Lost))));
        assert!(poll(&table, first).is_pending() && poll(&table, third).is_pending());
        assert_eq!(table.len(), 2);
    }

    /// Off-path forgeries: whoever sees neither id nor question is never believed, however often they try.
    #[test]
    fn guesses_are_never_accepted_but_by_the_right_id_and_question() {
        let table = Table::new();
        let (place, message) = start(&table);
        let mut forged = message.clone();
        forged[2] |= 0x80;
        forged[question().end() - 3] = 28;
        for id in 0..=u16::MAX {
            forged[..2].copy_from_slice(&id.to_be_bytes());
            assert!(deliver(&table, &forged).is_some());
        }
        assert!(poll(&table, place).is_pending());
    }
}
