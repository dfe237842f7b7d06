//! One kept answer: the message's octets in one piece, when it was stored, and how long it lives.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use crate::clock::CoarseInstant;
use crate::wire::message::OPTION_EDE;
use crate::wire::reply::Ttl;
use crate::wire::{
    Class, HEADER_LEN, Message, NameRef, Rcode, RecordType, Reply, Section, read_u16, write_u16,
};

/// The longest message that is kept, in octets. Larger answers are rare, come over TCP, and would take the place of many.
pub const MAX_KEPT: usize = 8_192;

/// What an entry costs beside its octets: itself, and moka's node, key and place in the table. Measured in
/// `benches/cache.rs`; part of each entry's weight, so that the budget is one of real bytes.
pub const OVERHEAD: usize = 360;

/// For so many sweeps an entry counts as used.
const USED_FOR: u8 = 2;

/// Bits of a [`Key`] and of the entry kept under it.
pub mod bits {
    /// The query had DNSSEC OK set (RFC 3225).
    pub const DNSSEC_OK: u8 = 1;
    /// The query had CD set (RFC 4035 section 3.2.2).
    pub const CHECKING_DISABLED: u8 = 2;
    /// A failure (RFC 9520), kept beside the good answer and never in its place.
    pub const FAILURE: u8 = 4;
    /// An NXDOMAIN that stands for everything below its name (RFC 8020); its type says nothing.
    pub const CUT: u8 = 8;
}

/// What is asked for, in class IN; with the server block it is the cache's key.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// The name, lower-case.
    pub name: NameRef<'a>,
    /// The type.
    pub qtype: RecordType,
    /// [`bits`].
    pub bits: u8,
}

/// What an answer says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// There are such records, or a referral.
    Success,
    /// The name does not exist (RFC 2308 section 2.1).
    NxDomain,
    /// The name exists without records of the type (RFC 2308 section 2.2).
    NoData,
    /// Nobody could say (RFC 9520).
    Failure,
}

impl Kind {
    /// True for what CoreDNS's metrics call `denial`.
    pub fn is_denial(self) -> bool {
        self != Self::Success
    }
}

/// What one server block's cache holds and has done. Kept with the store, so that it survives a reload together with
/// the block's entries.
#[derive(Debug, Default)]
pub struct BlockStats {
    /// The block's identity: a hash of its text.
    pub block: u64,
    entries: [AtomicU64; 2],
    evictions: [AtomicU64; 2],
    failures: AtomicU64,
    bytes: AtomicU64,
    /// `coredns_cache_drops_total`: answers not kept because they did not answer the question.
    pub drops: AtomicU64,
    /// `nodens_cache_turned_away_total`: answers not kept because the cache was full and nobody had asked for them before.
    pub not_admitted: AtomicU64,
    /// `coredns_cache_prefetch_total`: refreshes begun without a client waiting for them.
    pub prefetches: AtomicU64,
    /// `nodens_cache_overflow_total`: queries refused because too many waited for the same answer.
    pub turned_away: AtomicU64,
    /// `nodens_cache_denials_overruled_total`: denials instead of which the last good answer was given.
    pub overruled: AtomicU64,
    /// The name of the block's view, for people; unset without one.
    pub view: OnceLock<Box<str>>,
}

impl BlockStats {
    /// A stats of zeros for a block.
    pub fn new(block: u64) -> Self {
        Self { block, ..Self::default() }
    }

    /// `coredns_cache_entries`: what is held, expired answers included; `denial` chooses the side.
    pub fn entries(&self, denial: bool) -> u64 {
        side(&self.entries, denial).load(Relaxed)
    }

    /// `coredns_cache_evictions_total`: answers that went before their time, for want of room.
    pub fn evictions(&self, denial: bool) -> u64 {
        side(&self.evictions, denial).load(Relaxed)
    }

    /// True while a failure is held.
    pub fn has_failures(&self) -> bool {
        self.failures.load(Relaxed) != 0
    }

    /// Octets held, overhead included.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}

/// How long an answer lives, and between what bounds its records' times to live are set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lifetime {
    /// Seconds until it is stale.
    pub seconds: u32,
    /// No record's time to live is kept below this.
    pub floor: u32,
    /// No record's time to live is kept above this.
    pub cap: u32,
}

/// Records of one address set that stand side by side and are equally long, so that they can be rotated.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Run {
    start: u16,
    stride: u16,
    count: u16,
}

/// One kept answer. Immutable but for a few counters that say how it is used.
#[derive(Debug)]
pub struct Entry {
    stats: Arc<BlockStats>,
    // The message with its question lower-cased, then the extended errors' options, then the places of the times to
    // live as big-endian u16: one allocation for all that varies in length.
    data: Box<[u8]>,
    stored: CoarseInstant,
    /// Since when its question has been answered so without a break.
    good_since: CoarseInstant,
    lifetime: u32,
    message_len: u16,
    options_len: u16,
    question_end: u16,
    rcode: Rcode,
    run: Run,
    kind: Kind,
    bits: u8,
    replaced: AtomicBool,
    /// Sweeps until it counts as unused.
    used: AtomicU8,
    asked: AtomicU32,
    last_asked: AtomicU32,
    retry_at: AtomicU32,
    /// Seconds after `stored` at which upstreams began to deny it, and 1; 0: they do not.
    denied: AtomicU32,
}

impl Entry {
    /// Keeps `message`, which answers a question with these [`bits`] and whose times to live are within bounds. `None` where it
    /// is too long.
    pub fn new(
        stats: Arc<BlockStats>,
        bits: u8,
        kind: Kind,
        message: &Message,
        lifetime: Lifetime,
        stored: CoarseInstant,
    ) -> Option<Self> {
        let layout = message.layout();
        let bytes = message.as_bytes();
        let options = message.options();
        if bytes.len() + options.len() > MAX_KEPT || layout.question_end < HEADER_LEN + 5 {
            return None;
        }
        let mut data = Vec::with_capacity(bytes.len() + options.len() + 2 * layout.records.len());
        data.extend_from_slice(bytes);
        data.extend_from_slice(options);
        for record in &layout.records {
            data.extend_from_slice(&record.ttl_at.to_be_bytes());
        }
        write_u16(&mut data, 0, 0);
        if let Some(name) = data.get_mut(HEADER_LEN..layout.question_end - 4) {
            name.make_ascii_lowercase();
        }
        let entry = Self {
            stored,
            good_since: stored,
            lifetime: lifetime.seconds,
            message_len: u16::try_from(bytes.len()).ok()?,
            options_len: u16::try_from(options.len()).ok()?,
            question_end: u16::try_from(layout.question_end).ok()?,
            rcode: message.rcode(),
            run: find_run(message),
            kind,
            bits,
            replaced: AtomicBool::new(false),
            used: AtomicU8::new(0),
            asked: AtomicU32::new(0),
            last_asked: AtomicU32::new(0),
            retry_at: AtomicU32::new(0),
            denied: AtomicU32::new(0),
            data: data.into_boxed_slice(),
            stats,
        };
        side(&entry.stats.entries, kind.is_denial()).fetch_add(1, Relaxed);
        entry.stats.bytes.fetch_add(entry.weight(), Relaxed);
        if kind == Kind::Failure {
            entry.stats.failures.fetch_add(1, Relaxed);
        }
        Some(entry)
    }

    /// True where this is what is kept under `key` for `stats`'s block. The store's key is a hash; this is the proof.
    pub fn answers(&self, stats: &Arc<BlockStats>, key: &Key<'_>) -> bool {
        let name_end = usize::from(self.question_end) - 4;
        Arc::ptr_eq(&self.stats, stats)
            && self.bits == key.bits
            && self.data.get(HEADER_LEN..name_end) == Some(key.name.as_bytes())
            && (key.bits & bits::CUT != 0 || self.qtype() == key.qtype)
    }

    /// The block that it belongs to.
    pub fn stats(&self) -> &Arc<BlockStats> {
        &self.stats
    }

    /// The name asked for, lower-case.
    pub fn name(&self) -> NameRef<'_> {
        self.data
            .get(HEADER_LEN..)
            .and_then(|bytes| NameRef::parse(bytes).ok())
            .unwrap_or(NameRef::ROOT)
    }

    /// The type asked for.
    pub fn qtype(&self) -> RecordType {
        RecordType(read_u16(&self.data, usize::from(self.question_end) - 4).unwrap_or(0))
    }

    /// The class asked for: IN, as nothing else is kept.
    pub fn qclass(&self) -> Class {
        Class::IN
    }

    /// [`bits`] of the key that it is kept under.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// What it says.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its response code.
    pub fn rcode(&self) -> Rcode {
        self.rcode
    }

    /// When it was stored.
    pub fn stored(&self) -> CoarseInstant {
        self.stored
    }

    /// How long it was to live when it was stored, seconds.
    pub fn lifetime(&self) -> u32 {
        self.lifetime
    }

    /// The message, without OPT.
    pub fn message(&self) -> &[u8] {
        self.data.get(..self.message_len.into()).unwrap_or(&[])
    }

    /// The extended errors' options in wire form.
    pub fn options(&self) -> &[u8] {
        let start = usize::from(self.message_len);
        self.data.get(start..start + usize::from(self.options_len)).unwrap_or(&[])
    }

    /// Octets that it takes, overhead included.
    pub fn weight(&self) -> u64 {
        (self.data.len() + OVERHEAD) as u64
    }

    /// Seconds until it is stale; zero: it is.
    pub fn remaining(&self, now: CoarseInstant) -> u32 {
        self.lifetime.saturating_sub(now.seconds_since(self.stored))
    }

    /// True within its lifetime.
    pub fn is_fresh(&self, now: CoarseInstant) -> bool {
        self.remaining(now) > 0
    }

    /// True where its lifetime was over less than `seconds` ago.
    pub fn is_stale_within(&self, now: CoarseInstant, seconds: u32) -> bool {
        now.seconds_since(self.stored) < self.lifetime.saturating_add(seconds)
    }

    /// Counts a query and returns how many came since the last gap of `gap` seconds or more, up to `enough`. Two workers
    /// may lose a count to one another: that is cheaper than taking turns, and matters to nobody.
    pub fn count(&self, now: CoarseInstant, gap: u32, enough: u32) -> u32 {
        let second = now.seconds_since(self.stored);
        let last = self.last_asked.load(Relaxed);
        if last != second {
            self.last_asked.store(second, Relaxed);
        }
        let asked = match self.asked.load(Relaxed) {
            _ if second.saturating_sub(last) >= gap => 1,
            asked if asked >= enough => return asked,
            asked => asked + 1,
        };
        self.asked.store(asked, Relaxed);
        asked
    }

    /// Notes that it was used.
    pub fn set_used(&self) {
        // Most have been noted: a load leaves their line where it is.
        if self.used.load(Relaxed) != USED_FOR {
            self.used.store(USED_FOR, Relaxed);
        }
    }

    /// Whether it was used within the last [`USED_FOR`] sweeps.
    pub fn is_used(&self) -> bool {
        self.used.load(Relaxed) != 0
    }

    /// Notes a sweep.
    pub fn age(&self) {
        self.used.store(self.used.load(Relaxed).saturating_sub(1), Relaxed);
    }

    /// How often it was asked for, as far as that was counted.
    pub fn asked(&self) -> u32 {
        self.asked.load(Relaxed)
    }

    /// Takes over what is known by the entry that this one replaces; `without_a_break`: the one follows closely on the other.
    pub fn inherit(&mut self, older: &Self, without_a_break: bool) {
        if without_a_break && self.kind == older.kind {
            self.good_since = older.good_since;
        }
        self.set_asked(older.asked());
        self.used.store(older.used.load(Relaxed), Relaxed);
    }

    /// Sets what [`Entry::asked`] returns.
    pub fn set_asked(&self, asked: u32) {
        self.asked.store(asked, Relaxed);
    }

    /// Since when its question has been answered so without a break.
    pub fn good_since(&self) -> CoarseInstant {
        self.good_since
    }

    /// Since when upstreams deny it, if they do.
    pub fn denied_since(&self) -> Option<CoarseInstant> {
        let seconds = self.denied.load(Relaxed).checked_sub(1)?;
        Some(self.stored.plus_millis(u64::from(seconds) * 1_000))
    }

    /// When its lifetime is over.
    pub fn end(&self) -> CoarseInstant {
        self.stored.plus_millis(u64::from(self.lifetime) * 1_000)
    }

    /// Notes that upstreams deny it now. The first time counts.
    pub fn set_denied(&self, now: CoarseInstant) {
        let seconds = now.seconds_since(self.stored).saturating_add(1);
        let _ = self.denied.compare_exchange(0, seconds, Relaxed, Relaxed);
    }

    /// True until the time that [`Entry::defer`] or [`Entry::claim`] has set.
    pub fn is_deferred(&self, now: CoarseInstant) -> bool {
        now.seconds_since(self.stored) < self.retry_at.load(Relaxed)
    }

    /// No refresh for so many seconds from now.
    pub fn defer(&self, now: CoarseInstant, seconds: u32) {
        self.retry_at.store(now.seconds_since(self.stored).saturating_add(seconds), Relaxed);
    }

    /// Takes the right to refresh it for so many seconds. True for one caller.
    pub fn claim(&self, now: CoarseInstant, seconds: u32) -> bool {
        let second = now.seconds_since(self.stored);
        let until = self.retry_at.load(Relaxed);
        let later = second.saturating_add(seconds);
        second >= until && self.retry_at.compare_exchange(until, later, Relaxed, Relaxed).is_ok()
    }

    /// Says that its going is not for want of room.
    pub fn set_replaced(&self) {
        self.replaced.store(true, Relaxed);
    }

    /// True once a newer answer has taken its place.
    pub fn is_replaced(&self) -> bool {
        self.replaced.load(Relaxed)
    }

    /// Writes the answer into `reply`, which is one to the same question. `first`: the address to begin with.
    pub fn write(&self, reply: &mut Reply<'_>, ttl: Ttl, first: usize) {
        let message = self.message();
        let places = self.data.get(message.len() + usize::from(self.options_len)..).unwrap_or(&[]);
        let (places, _) = places.as_chunks::<2>();
        let places = places.iter().map(|place| u16::from_be_bytes(*place));
        reply.message(message, self.question_end.into(), self.rcode, places, ttl);
        if self.run.count > 1 && first != 0 {
            let Run { start, stride, count } = self.run;
            reply.rotate(start.into(), stride.into(), count.into(), first);
        }
        if self.options_len != 0 {
            reply.push_options(self.options());
        }
        if self.kind == Kind::Failure {
            reply.push_options(&CACHED_ERROR);
        }
    }
}

/// Extended error 13, cached error (RFC 8914 section 4.14), as an option without text.
const CACHED_ERROR: [u8; 6] = [0, OPTION_EDE as u8, 0, 2, 0, 13];

impl Drop for Entry {
    fn drop(&mut self) {
        let denial = self.kind.is_denial();
        side(&self.stats.entries, denial).fetch_sub(1, Relaxed);
        self.stats.bytes.fetch_sub(self.weight(), Relaxed);
        if self.kind == Kind::Failure {
            self.stats.failures.fetch_sub(1, Relaxed);
        }
        if !self.replaced.load(Relaxed) && self.is_fresh(CoarseInstant::now()) {
            side(&self.stats.evictions, denial).fetch_add(1, Relaxed);
        }
    }
}

/// The one of two counters that is for denials, or for everything else.
fn side([other, denials]: &[AtomicU64; 2], denial: bool) -> &AtomicU64 {
    if denial { denials } else { other }
}

/// The addresses at the end of the answer section that have one owner, spelled the same way, and one length.
fn find_run(message: &Message) -> Run {
    let bytes = message.as_bytes();
    let Some(last) = message.layout().section(Section::Answer).last() else {
        return Run::default();
    };
    if !matches!(last.rtype, RecordType::A | RecordType::AAAA) {
        return Run::default();
    }
    let owner = bytes.get(last.start.into()..last.ttl_at.into());
    let stride = last.end - last.start;
    let mut run = Run { start: last.end, stride, count: 0 };
    for record in
        message.layout().records.iter().rev().skip_while(|record| record.section != Section::Answer)
    {
        if record.end != run.start || bytes.get(record.start.into()..record.ttl_at.into()) != owner
        {
            break;
        }
        if record.end - record.start != stride {
            break;
        }
        run = Run { start: record.start, count: run.count + 1, ..run };
    }
    run
}
