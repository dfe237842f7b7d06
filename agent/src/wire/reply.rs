//! The reply being written: header, the question in the client's case, records, OPT; cut off honestly where the client's
//! size ends.

use smallvec::SmallVec;

use super::layout::Records;
use super::message::{Message, push_extended_error};
use super::{
    Class, Compressor, HEADER_LEN, MAX_MESSAGE, NameRef, OUR_UDP_PAYLOAD, Query, Rcode, RecordType,
    Section, flags, read_u32, write_u16, write_u32,
};

/// Octets of an OPT record without options.
const OPT_LEN: usize = 11;

/// Whose name a record bears.
#[derive(Clone, Copy, Debug)]
pub enum Owner<'a> {
    /// The name asked for: a pointer to the question.
    Question,
    /// A suffix of the name asked for, so many octets into it: a pointer into the question.
    Suffix(usize),
    /// Any name, written out.
    Name(NameRef<'a>),
}

/// A record whose names are written out, as [`Reply::compressed`] takes it.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// The owner.
    pub owner: NameRef<'a>,
    /// The type.
    pub rtype: RecordType,
    /// The class.
    pub class: Class,
    /// The time to live, seconds.
    pub ttl: u32,
    /// The data.
    pub rdata: &'a [u8],
}

/// Octets of options that take no memory: an extended error with a sentence.
pub const OPTIONS: usize = 128;

/// What becomes of the times to live of a message that is copied into the reply.
#[derive(Clone, Copy, Debug)]
pub enum Ttl {
    /// As they are.
    Keep,
    /// So many seconds less, but not below the second number.
    Minus(u32, u32),
    /// All the same.
    Set(u32),
}

/// A reply being written at the end of a buffer. The buffer is the caller's and is used again and again, so that a reply
/// allocates nothing once the buffer has grown.
pub struct Reply<'b> {
    buf: &'b mut Vec<u8>,
    base: usize,
    limit: usize,
    question_end: usize,
    flags: u16,
    rcode: Rcode,
    counts: [u16; 3],
    edns: bool,
    dnssec_ok: bool,
    nsid: bool,
    over_tcp: bool,
    // The section of the first record that did not fit; never the additional one.
    cut_in: Option<Section>,
    options: SmallVec<[u8; OPTIONS]>,
}

impl<'b> Reply<'b> {
    /// Begins a reply to `query` at the end of `buf`: NOERROR, no records, the question as it was asked. `over_tcp`
    /// decides the limit: a TCP message's, or what [`Query::udp_limit`] says.
    pub fn begin(buf: &'b mut Vec<u8>, query: &Query<'_>, over_tcp: bool) -> Self {
        let base = buf.len();
        buf.extend_from_slice(&query.id().to_be_bytes());
        buf.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        buf.extend_from_slice(query.question());
        let edns = query.edns();
        Self {
            question_end: HEADER_LEN + query.question().len(),
            buf,
            base,
            limit: if over_tcp { MAX_MESSAGE } else { query.udp_limit() },
            flags: flags::QR | query.flags() & (flags::RD | flags::CD),
            rcode: Rcode::NOERROR,
            counts: [0; 3],
            edns: edns.is_some(),
            dnssec_ok: edns.is_some_and(|edns| edns.dnssec_ok),
            nsid: edns.is_some_and(|edns| edns.nsid),
            over_tcp,
            cut_in: None,
            options: SmallVec::new(),
        }
    }

    /// Takes back every record, flag and option: the state right after [`Reply::begin`].
    pub fn reset(&mut self) {
        self.buf.truncate(self.base + self.question_end);
        self.flags &= flags::QR | flags::RD | flags::CD;
        self.rcode = Rcode::NOERROR;
        self.counts = [0; 3];
        self.cut_in = None;
        self.options.clear();
    }

    /// Lowers the limit, as `bufsize` wants; never below what is needed for header, question and OPT.
    pub fn lower_limit(&mut self, limit: usize) {
        if !self.over_tcp {
            self.limit = self.limit.min(limit.max(usize::from(super::MIN_UDP_PAYLOAD)));
        }
    }

    /// Sets the response code.
    pub fn set_rcode(&mut self, rcode: Rcode) {
        self.rcode = rcode;
    }

    /// The response code set so far.
    pub fn rcode(&self) -> Rcode {
        self.rcode
    }

    /// Sets or clears header flags ([`flags`]).
    pub fn set_flags(&mut self, mask: u16, on: bool) {
        self.flags = if on { self.flags | mask } else { self.flags & !mask };
    }

    /// The header flags set so far.
    pub fn flags(&self) -> u16 {
        self.flags
    }

    /// True for a reply over TCP, which may be as long as a message can be.
    pub fn is_over_tcp(&self) -> bool {
        self.over_tcp
    }

    /// True once a record did not fit and TC is set.
    pub fn truncated(&self) -> bool {
        self.flags & flags::TC != 0
    }

    /// True if an answer does not fit into the longest message that TCP can carry: it must not be sent, as nothing in it
    /// would say that records are missing.
    pub fn overflowed(&self) -> bool {
        self.over_tcp && self.cut_in.is_some()
    }

    /// Makes a reply of what fits, if that is a part of the answer that changes each time. Over UDP TC stays.
    pub fn accept_part(&mut self) {
        if self.over_tcp {
            self.cut_in = None;
        }
    }

    /// Adds an extended error (RFC 8914); left out where the client sent no EDNS or it does not fit.
    pub fn extended_error(&mut self, code: u16, text: &str) {
        push_extended_error(&mut self.options, code, text);
    }

    /// Appends a record of class IN. Returns false where it does not fit: then nothing is written, and TC is set unless
    /// the section is the additional one (RFC 2181 section 9) or the transport is TCP.
    pub fn record(
        &mut self,
        section: Section,
        owner: Owner<'_>,
        rtype: RecordType,
        ttl: u32,
        rdata: &[u8],
    ) -> bool {
        self.record_of(section, owner, rtype, Class::IN, ttl, rdata)
    }

    /// As [`Reply::record`], of any class.
    pub fn record_of(
        &mut self,
        section: Section,
        owner: Owner<'_>,
        rtype: RecordType,
        class: Class,
        ttl: u32,
        rdata: &[u8],
    ) -> bool {
        let owner_len = if let Owner::Name(name) = owner { name.len() } else { 2 };
        if !self.has_room(section, owner_len + 10 + rdata.len()) {
            return false;
        }
        match owner {
            Owner::Question => self.buf.extend_from_slice(&[0xc0, HEADER_LEN as u8]),
            Owner::Suffix(octets) => {
                let pointer = 0xc000 | (HEADER_LEN + octets) as u16;
                self.buf.extend_from_slice(&pointer.to_be_bytes());
            }
            Owner::Name(name) => self.buf.extend_from_slice(name.as_bytes()),
        }
        self.buf.extend_from_slice(&rtype.0.to_be_bytes());
        self.buf.extend_from_slice(&class.0.to_be_bytes());
        self.buf.extend_from_slice(&ttl.to_be_bytes());
        self.buf.extend_from_slice(&(rdata.len() as u16).to_be_bytes());
        self.buf.extend_from_slice(rdata);
        self.count(section, 1);
        true
    }

    /// Appends a record whose names are written out, compressed by `names`, which must have been used for all such records
    /// of this reply. False where it does not fit, as for [`Reply::record`].
    pub fn compressed(
        &mut self,
        names: &mut Compressor,
        section: Section,
        record: &RecordRef<'_>,
    ) -> bool {
        let (room, start) = (self.room(), self.buf.len());
        names.name(self.buf, self.base, record.owner, true);
        self.buf.extend_from_slice(&record.rtype.0.to_be_bytes());
        self.buf.extend_from_slice(&record.class.0.to_be_bytes());
        self.buf.extend_from_slice(&record.ttl.to_be_bytes());
        let data = self.buf.len() + 2;
        self.buf.extend_from_slice(&[0; 2]);
        names.rdata(self.buf, self.base, record.rtype, record.rdata);
        let len = self.buf.len() - data;
        write_u16(self.buf, data - 2, len as u16);
        let octets = self.buf.len() - start;
        if octets > room {
            self.buf.truncate(start);
            return self.has_room(section, octets);
        }
        self.count(section, 1);
        true
    }

    /// Appends `count` records in wire form, all or none. Any pointer in them must lead to the question.
    pub fn records(&mut self, section: Section, count: u16, records: &[u8]) -> bool {
        if !self.has_room(section, records.len()) {
            return false;
        }
        self.buf.extend_from_slice(records);
        self.count(section, count);
        true
    }

    /// Appends records that are each `stride` octets long, beginning with number `first` and going round; as many as fit.
    /// This is how addresses rotate (`loadbalance`) at the cost of two copies.
    pub fn records_from(
        &mut self,
        section: Section,
        stride: usize,
        records: &[u8],
        first: usize,
    ) -> bool {
        let total = records.len().checked_div(stride).unwrap_or(0);
        if total == 0 {
            return true;
        }
        let fit = (self.room() / stride).min(total);
        let first = first % total;
        let head = fit.min(total - first);
        let (low, high) = records.split_at(first * stride);
        self.buf.extend_from_slice(high.get(..head * stride).unwrap_or(high));
        self.buf.extend_from_slice(low.get(..(fit - head) * stride).unwrap_or(low));
        self.count(section, fit as u16);
        fit == total || self.has_room(section, stride)
    }

    /// As [`Reply::records_from`], with `ttl` as the time to live of each. Their owners must be pointers.
    pub fn addresses_from(
        &mut self,
        section: Section,
        stride: usize,
        records: &[u8],
        first: usize,
        ttl: u32,
    ) -> bool {
        let start = self.buf.len();
        let whole = self.records_from(section, stride, records, first);
        let written = self.buf.get_mut(start..).unwrap_or_default();
        for record in written.chunks_exact_mut(stride.max(1)) {
            // Behind the pointer, the type and the class, two octets each.
            write_u32(record, 6, ttl);
        }
        whole
    }

    /// Copies a whole answer: flags AA, AD and RA, response code and records, with `ttl` applied to the times to live at
    /// `ttl_at` (offsets in `message`). `message` must answer the same question, compressed or not as it was there: its
    /// records begin at `question_end`. Where it does not fit, whole records are left out and TC is set.
    pub fn message(
        &mut self,
        message: &[u8],
        question_end: usize,
        rcode: Rcode,
        ttl_at: impl Iterator<Item = u16>,
        ttl: Ttl,
    ) {
        let word = super::read_u16(message, 2).unwrap_or(0);
        self.flags |= word & (flags::AA | flags::AD | flags::RA | flags::TC);
        self.rcode = rcode;
        let fits = question_end == self.question_end
            && message.len() - question_end.min(message.len()) <= self.room();
        if !fits {
            self.message_cut(message, question_end, ttl);
            return;
        }
        self.buf.extend_from_slice(message.get(question_end..).unwrap_or(&[]));
        for (slot, at) in self.counts.iter_mut().zip([6, 8, 10]) {
            *slot = super::read_u16(message, at).unwrap_or(0);
        }
        if matches!(ttl, Ttl::Keep) {
            return;
        }
        for at in ttl_at {
            self.patch_ttl(usize::from(at), ttl);
        }
    }

    /// Copies the answer that a [`Message`] holds, its extended errors included.
    pub fn copy(&mut self, message: &Message) {
        self.options.extend_from_slice(message.options());
        let places = message.layout().records.iter().map(|record| record.ttl_at);
        self.message(
            message.as_bytes(),
            message.layout().question_end,
            message.rcode(),
            places,
            Ttl::Keep,
        );
    }

    /// Rotates `count` records that are each `stride` octets long and begin `at` octets into the message, so that number
    /// `first` (modulo `count`) comes first. Does nothing where they are not all there.
    pub fn rotate(&mut self, at: usize, stride: usize, count: usize, first: usize) {
        let start = self.base + at;
        if let (Some(records), true) = (self.buf.get_mut(start..start + stride * count), count > 1)
        {
            records.rotate_left(first % count * stride);
        }
    }

    /// The records written so far.
    pub fn written(&self) -> Records<'_> {
        Records::new(self.as_bytes(), self.question_end, self.counts)
    }

    /// Takes back the records of all sections behind `last`.
    pub fn keep_up_to(&mut self, last: Section) {
        // What did not fit goes anyway.
        if self.cut_in.is_some_and(|section| section > last) {
            if !self.over_tcp {
                self.flags &= !flags::TC;
            }
            self.cut_in = None;
        }
        let mut behind = self.written().filter_map(Result::ok);
        let Some(first) = behind.find(|record| record.section > last) else { return };
        self.buf.truncate(self.base + usize::from(first.start));
        for (section, count) in [Section::Authority, Section::Additional].into_iter().zip(1..) {
            if section > last
                && let Some(count) = self.counts.get_mut(count)
            {
                *count = 0;
            }
        }
    }

    /// Adds options in wire form (extended errors that were kept) to the OPT record.
    pub fn push_options(&mut self, options: &[u8]) {
        self.options.extend_from_slice(options);
    }

    /// The options so far, in wire form.
    pub fn options(&self) -> &[u8] {
        &self.options
    }

    /// Octets written so far, without the OPT record.
    pub fn len(&self) -> usize {
        self.buf.len() - self.base
    }

    /// Never: a reply has a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The message as it stands; header counts are written by [`Reply::finish`].
    pub fn as_bytes(&self) -> &[u8] {
        self.buf.get(self.base..).unwrap_or(&[])
    }

    /// Writes the header and, where the client sent EDNS, the OPT record with `nsid` if it was asked for (RFC 5001).
    /// Returns the message's length.
    pub fn finish(mut self, nsid: Option<&[u8]>) -> usize {
        if self.edns {
            self.write_opt(nsid);
        } else if self.rcode.0 > flags::RCODE {
            // Its low bits alone would be another code, NOERROR for BADVERS.
            self.rcode = Rcode::SERVFAIL;
        }
        let header = self.base;
        write_u16(self.buf, header + 2, self.flags | self.rcode.0 & flags::RCODE);
        for (at, count) in [6, 8, 10].into_iter().zip(self.counts) {
            write_u16(self.buf, header + at, count);
        }
        self.len()
    }

    fn write_opt(&mut self, nsid: Option<&[u8]>) {
        let start = self.buf.len();
        self.buf.push(0);
        self.buf.extend_from_slice(&RecordType::OPT.0.to_be_bytes());
        self.buf.extend_from_slice(&OUR_UDP_PAYLOAD.to_be_bytes());
        self.buf.push((self.rcode.0 >> 4) as u8);
        self.buf.extend_from_slice(&[0, if self.dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
        let room = self.limit.saturating_sub(self.buf.len() - self.base);
        if self.options.len() <= room {
            self.buf.extend_from_slice(&self.options);
        }
        let room = self.limit.saturating_sub(self.buf.len() - self.base);
        if let (true, Some(id)) = (self.nsid, nsid.filter(|id| id.len() + 4 <= room)) {
            self.buf.extend_from_slice(&[0, 3]);
            self.buf.extend_from_slice(&(id.len() as u16).to_be_bytes());
            self.buf.extend_from_slice(id);
        }
        let len = self.buf.len() - start - OPT_LEN;
        write_u16(self.buf, start + OPT_LEN - 2, len as u16);
        self.count(Section::Additional, 1);
    }

    /// How many octets of records still fit.
    pub fn room(&self) -> usize {
        let opt = if self.edns { OPT_LEN } else { 0 };
        self.limit.saturating_sub(self.buf.len() - self.base + opt)
    }

    fn has_room(&mut self, section: Section, octets: usize) -> bool {
        let fits = octets <= self.room();
        if !fits && section != Section::Additional && self.cut_in.is_none() && !self.truncated() {
            self.cut_in = Some(section);
            if !self.over_tcp {
                self.flags |= flags::TC;
            }
        }
        fits
    }

    fn count(&mut self, section: Section, more: u16) {
        let slot = match section {
            Section::Answer => &mut self.counts[0],
            Section::Authority => &mut self.counts[1],
            Section::Additional => &mut self.counts[2],
        };
        *slot = slot.saturating_add(more);
    }

    fn patch_ttl(&mut self, at: usize, ttl: Ttl) {
        let at = self.base + at;
        let value = match ttl {
            Ttl::Keep => return,
            Ttl::Minus(age, floor) => {
                read_u32(self.buf, at).map_or(0, |ttl| ttl.saturating_sub(age).max(floor))
            }
            Ttl::Set(value) => value,
        };
        write_u32(self.buf, at, value);
    }

    /// The slow way of [`Reply::message`]: as many whole records as fit.
    fn message_cut(&mut self, message: &[u8], question_end: usize, ttl: Ttl) {
        // Records with compressed names can be copied only to the place where they were.
        if question_end != self.question_end {
            self.has_room(Section::Answer, usize::MAX);
            return;
        }
        let counts = [6, 8, 10].map(|at| super::read_u16(message, at).unwrap_or(0));
        for record in Records::new(message, question_end, counts) {
            let Ok(record) = record else {
                self.reset();
                self.rcode = Rcode::SERVFAIL;
                return;
            };
            if record.rtype == RecordType::OPT {
                continue;
            }
            let bytes =
                message.get(usize::from(record.start)..usize::from(record.end)).unwrap_or(&[]);
            if !self.records(record.section, 1, bytes) {
                return;
            }
            self.patch_ttl(usize::from(record.ttl_at), ttl);
        }
    }
}

#[cfg(test)]
mod tests;
