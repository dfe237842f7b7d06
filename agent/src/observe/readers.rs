//! Takes records out of the workers' rings and hands them on: to whoever observes, and to the gathering of `nodens top`.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::filter::Matcher;
use super::lists::Lists;
use super::namespaces::Namespaces;
use super::ring::Taps;
use super::top::Tops;
use super::waste::{Advice, Sampled, put_in_order};
use crate::clock::CoarseInstant;
use crate::metrics::{Counter, Scrape, Source, names};

/// Who may observe at a time.
const MAX_READERS: usize = 4;
/// Frames that wait for a reader; what comes beyond them it loses.
const FRAMES: usize = 64;
/// Bytes of a frame from which on it is handed on.
const FRAME: usize = 32 << 10;
/// How often the rings are read while a client observes.
const LOOK: Duration = Duration::from_millis(5);

/// One for the process.
pub struct Observed {
    taps: Arc<Taps>,
    state: Mutex<State>,
    readers: AtomicUsize,
    /// Records that slow readers have lost.
    missed: Counter,
}

#[derive(Default)]
struct State {
    tops: Tops,
    /// Who clients are and which lists they have; `None` until there is a configuration.
    lists: Option<Lists>,
    namespaces: Namespaces,
    readers: Vec<Reader>,
    /// A thread reads the rings.
    is_watched: bool,
}

struct Reader {
    wanted: Matcher,
    frames: Sender<Vec<u8>>,
    frame: Vec<u8>,
    /// Records of `frame`.
    records: u64,
    /// Records that it has lost.
    missed: u64,
    /// What the rings had dropped before it came.
    dropped_before: u64,
}

impl Observed {
    /// For so many workers.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            taps: Arc::new(Taps::new(workers)),
            state: Mutex::default(),
            readers: AtomicUsize::new(0),
            missed: Counter::new(),
        })
    }

    /// What workers write into.
    pub fn taps(&self) -> &Arc<Taps> {
        &self.taps
    }

    /// Takes in what the workers have written. To be called about once a second.
    pub fn gather(&self) {
        self.drain(&mut self.state());
    }

    /// What is on top, `rows` of each kind.
    pub fn top(&self, rows: usize) -> Value {
        let mut state = self.state();
        self.drain(&mut state);
        state.tops.to_json(rows, Instant::now())
    }

    /// Looks clients and their search lists up here from now on.
    pub fn follow(&self, lists: Lists) {
        let mut state = self.state();
        // What was asked before was answered by the configuration before.
        self.drain(&mut state);
        if lists.watches_pods {
            state.namespaces.begin();
        }
        state.lists = Some(lists);
    }

    /// What search lists cost, in `rows` names. `has_autopath`: `autopath` is configured.
    pub fn waste(&self, rows: usize, has_autopath: bool) -> Value {
        let mut state = self.state();
        self.drain(&mut state);
        let State { tops, lists, .. } = &*state;
        let knows_pods = lists.as_ref().is_some_and(|lists| lists.watches_pods);
        let mut shown =
            tops.waste_to_json(rows, Instant::now(), Advice { has_autopath, knows_pods });
        if let Some(shown) = shown.as_object_mut() {
            let note = lists.as_ref().map_or(Some(Lists::UNKNOWN.to_owned()), Lists::note);
            shown.insert("note".to_owned(), note.into());
        }
        shown
    }

    /// Every query that is wanted, from now on, in frames: how many records this reader has lost so far (u64), and records as
    /// [`super::record`] describes. Ends when the receiver is dropped.
    ///
    /// # Errors
    /// Too many observe already, or there is no thread.
    pub fn observe(self: &Arc<Self>, wanted: Matcher) -> Result<Receiver<Vec<u8>>, String> {
        let (sender, receiver) = mpsc::channel(FRAMES);
        let mut state = self.state();
        state.readers.retain(|reader| !reader.frames.is_closed());
        if state.readers.len() >= MAX_READERS {
            return Err(format!("{MAX_READERS} observe already; end one of them"));
        }
        // What was written before is not this reader's.
        self.drain(&mut state);
        if !state.is_watched {
            let observed = Arc::clone(self);
            let thread = std::thread::Builder::new().name("observe".to_owned());
            thread
                .spawn(move || observed.watch())
                .map_err(|error| format!("cannot start a thread: {error}"))?;
            state.is_watched = true;
        }
        self.taps.set_all(true);
        state.readers.push(Reader {
            wanted,
            frames: sender,
            frame: Vec::new(),
            records: 0,
            missed: 0,
            dropped_before: self.taps.dropped(),
        });
        self.readers.store(state.readers.len(), Relaxed);
        Ok(receiver)
    }

    /// Reads the rings until no client observes.
    #[expect(
        clippy::disallowed_methods,
        reason = "to be woken by each query would cost the workers"
    )]
    fn watch(&self) {
        loop {
            std::thread::sleep(LOOK);
            let mut state = self.state();
            self.drain(&mut state);
            state.readers.retain(|reader| !reader.frames.is_closed());
            self.readers.store(state.readers.len(), Relaxed);
            if state.readers.is_empty() {
                self.taps.set_all(false);
                state.is_watched = false;
                return;
            }
        }
    }

    fn drain(&self, state: &mut State) {
        let State { tops, lists, namespaces, readers, .. } = state;
        let (now, coarse) = (Instant::now(), CoarseInstant::now());
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        tops.turn(now);
        let missed = &self.missed;
        let dropped = self.taps.dropped();
        let mut sampled = Vec::new();
        self.taps.drain(|record| {
            let who = || lists.as_ref().and_then(|lists| lists.who(record.client.ip(), record.at));
            if record.weight > 0 {
                tops.add(record, who().as_ref(), now);
                if lists.is_some() {
                    sampled.push(Sampled::of(record));
                }
            }
            let mut at = None;
            for reader in readers.iter_mut().filter(|reader| reader.wanted.wants(record)) {
                let at = *at.get_or_insert_with(|| {
                    (unix as u64).saturating_sub(coarse.millis_since(record.at))
                });
                reader.begin(dropped);
                record.write(at, who().as_ref().map(|who| &who.id), &mut reader.frame);
                reader.records += 1;
                if reader.frame.len() >= FRAME {
                    missed.add(reader.send());
                }
            }
        });
        for reader in readers {
            missed.add(reader.send());
        }
        if let Some(lists) = lists {
            look_at_searches(lists, sampled, tops, namespaces);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts what queries in the sample, all that were read at one time, have to do with search lists.
fn look_at_searches(
    lists: &Lists,
    mut sampled: Vec<Sampled>,
    tops: &mut Tops,
    namespaces: &mut Namespaces,
) {
    put_in_order(&mut sampled);
    for query in &sampled {
        let asked = lists.asked(query.client, query.at, query.name());
        let wasted = tops.add_search(query, &asked, || lists.may_be_meant(query.name()));
        if lists.watches_pods {
            namespaces.add(asked.who.as_ref().map(|who| &who.id.namespace), query.weight, wasted);
        }
    }
}

impl Reader {
    fn begin(&mut self, dropped: u64) {
        if self.frame.is_empty() {
            let lost = self.missed + dropped.saturating_sub(self.dropped_before);
            self.frame.extend_from_slice(&lost.to_be_bytes());
        }
    }

    /// Hands the frame on; returns how many records are lost because the reader is slow.
    fn send(&mut self) -> u64 {
        if self.records == 0 {
            return 0;
        }
        let records = std::mem::take(&mut self.records);
        let frame = std::mem::replace(&mut self.frame, Vec::with_capacity(FRAME / 4));
        match self.frames.try_send(frame) {
            Ok(()) => 0,
            Err(_) => {
                self.missed += records;
                records
            }
        }
    }
}

impl Source for Observed {
    fn collect(&self, out: &mut Scrape) {
        out.gauge(&names::OBSERVE_READERS, &[], self.readers.load(Relaxed) as f64);
        out.count(&names::OBSERVE_DROPPED, &[], self.taps.dropped() + self.missed.value());
        self.state().namespaces.collect(out);
    }
}

#[cfg(test)]
mod tests {
    use super::super::filter::Filter;
    use super::super::record::{Record, Sent};
    use super::*;
    use crate::plugin::testing;
    use crate::request::{Outcome, Plugin};
    use crate::wire::Rcode;

    fn ask(observed: &Observed, name: &str, times: usize) {
        let outcome = Outcome::new(Plugin::Forward, Rcode::NOERROR);
        testing::request(name, |request| {
            (0..times).for_each(|_| observed.taps().record(request, &outcome, 99, 1_500));
        });
    }

    #[test]
    fn readers_get_what_they_want_and_the_thread_ends_with_them() {
        let observed = Observed::new(1);
        ask(&observed, "before.test.", 1);
        let filter = Filter { name: Some("w*".to_owned()), ..Filter::default() };
        let mut frames = observed.observe(Matcher::new(&filter).unwrap()).unwrap();
        ask(&observed, "www.test.", 3);
        ask(&observed, "other.test.", 3);
        let frame = frames.blocking_recv().unwrap();
        let (lost, mut rest) = frame.split_first_chunk::<8>().unwrap();
        assert_eq!(u64::from_be_bytes(*lost), 0);
        let mut seen = 0;
        while let Some((Sent { record, .. }, left)) = Record::read(rest) {
            assert_eq!(record.name().to_string(), "www.test.");
            assert_eq!((record.micros, record.size, record.source()), (1_500, 99, "upstream"));
            (seen, rest) = (seen + 1, left);
        }
        assert!((1..=3).contains(&seen) && rest.is_empty());
        assert_eq!(observed.top(5)["queries"], 7);
        drop(frames);
        while observed.state().is_watched {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_reader_that_does_not_read_loses_records_and_nothing_else() {
        let observed = Observed::new(1);
        let mut all: Vec<_> =
            (0..MAX_READERS).map(|_| observed.observe(Matcher::default()).unwrap()).collect();
        assert!(observed.observe(Matcher::default()).is_err());
        for _ in 0..FRAMES + 10 {
            ask(&observed, "www.test.", 10);
            observed.gather();
        }
        assert!(observed.missed.value() > 0);
        let mut lost = 0;
        while let Ok(frame) = all[0].try_recv() {
            lost = u64::from_be_bytes(*frame.first_chunk().unwrap());
        }
        ask(&observed, "www.test.", 1);
        observed.gather();
        let last = all[0].blocking_recv().unwrap();
        assert!(u64::from_be_bytes(*last.first_chunk().unwrap()) > lost);
    }
}
