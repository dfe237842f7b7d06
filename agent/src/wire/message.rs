//! A whole message that came from elsewhere, an upstream's answer above all: where each record begins and ends.

use smallvec::SmallVec;

use super::check::check_names;
use super::name::{NameBuf, NameError, NameRef, skip_name};
use super::{
    Class, HEADER_LEN, Rcode, RecordType, Section, flags, read_u16, read_u32, write_u16, write_u32,
};

/// The option that says more about an error (RFC 8914).
pub const OPTION_EDE: u16 = 15;

/// Why bytes are not a message that can be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Shorter than a header.
    #[error("the message is shorter than its header")]
    NoHeader,
    /// Not exactly one question.
    #[error("the message has {0} questions where one is expected")]
    Questions(u16),
    /// A record runs over the end of the message.
    #[error("record {0} runs over the end of the message")]
    Short(u32),
    /// A name is malformed.
    #[error("a name in the message is malformed: {0}")]
    Name(#[from] NameError),
    /// More than one OPT, or an OPT outside the additional section.
    #[error("the message has an OPT record too many or in the wrong place")]
    Opt,
}

/// One record's place in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordAt {
    /// The section it stands in.
    pub section: Section,
    /// Its type.
    pub rtype: RecordType,
    /// Its class.
    pub class: Class,
    /// Its time to live, seconds.
    pub ttl: u32,
    /// Where its owner name begins.
    pub start: u16,
    /// Where its TTL's four octets begin; the data begin six octets later.
    pub ttl_at: u16,
    /// Where it ends.
    pub end: u16,
}

impl RecordAt {
    /// The data's octets within `message`, which may hold compression pointers.
    pub fn rdata<'m>(&self, message: &'m [u8]) -> &'m [u8] {
        message.get(usize::from(self.ttl_at) + 6..usize::from(self.end)).unwrap_or(&[])
    }

    /// The owner, expanded and lower-cased.
    pub fn owner(&self, message: &[u8]) -> Result<NameBuf, NameError> {
        NameBuf::expand(message, self.start.into()).map(|(name, _)| name)
    }
}

/// The EDNS of a message that was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdnsAt {
    /// Where the OPT record begins.
    pub start: u16,
    /// Where its options begin.
    pub options: u16,
    /// Where it ends.
    pub end: u16,
    /// The upper eight bits of the response code.
    pub extended_rcode: u8,
    /// DNSSEC OK.
    pub dnssec_ok: bool,
}

/// The records of a message one after the other, OPT among them. After one that is malformed there are no more.
#[derive(Debug, Clone)]
pub struct Records<'m> {
    message: &'m [u8],
    at: usize,
    left: [u16; 3],
    number: u32,
}

impl<'m> Records<'m> {
    /// Those that begin at `question_end`; `counts` are those of the header, which need not be written yet.
    pub fn new(message: &'m [u8], question_end: usize, counts: [u16; 3]) -> Self {
        Self { message, at: question_end, left: counts, number: 0 }
    }

    fn read(&mut self, section: Section) -> Result<RecordAt, MessageError> {
        let (message, start) = (self.message, self.at);
        self.number += 1;
        let short = MessageError::Short(self.number);
        let fixed = skip_name(message, start)?;
        let rtype = RecordType(read_u16(message, fixed).ok_or(short)?);
        let class = Class(read_u16(message, fixed + 2).ok_or(short)?);
        let ttl = read_u32(message, fixed + 4).ok_or(short)?;
        self.at = fixed + 10 + usize::from(read_u16(message, fixed + 8).ok_or(short)?);
        if self.at > message.len() {
            return Err(short);
        }
        // A message has at most 65,535 octets, whoever made it: more cannot have come over any transport.
        let place = |at: usize| u16::try_from(at).map_err(|_| short);
        Ok(RecordAt {
            section,
            rtype,
            class,
            ttl,
            start: place(start)?,
            ttl_at: place(fixed + 4)?,
            end: place(self.at)?,
        })
    }
}

impl Iterator for Records<'_> {
    type Item = Result<RecordAt, MessageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let sections = [Section::Answer, Section::Authority, Section::Additional];
        let (section, left) =
            sections.into_iter().zip(&mut self.left).find(|(_, left)| **left > 0)?;
        *left -= 1;
        let record = self.read(section);
        if record.is_err() {
            self.left = [0; 3];
        }
        Some(record)
    }
}

/// Where everything in a message is.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Octets 2 and 3 of the header.
    pub flags: u16,
    /// The question's type.
    pub qtype: RecordType,
    /// The question's class.
    pub qclass: Class,
    /// Where the question ends and the first record begins.
    pub question_end: usize,
    /// Every record but OPT, in order.
    pub records: SmallVec<[RecordAt; 8]>,
    /// The OPT record.
    pub edns: Option<EdnsAt>,
}

impl Layout {
    /// Walks all records of `message`. Owner names are stepped over, not expanded; data are not looked into.
    pub fn parse(message: &[u8]) -> Result<Self, MessageError> {
        if message.len() < HEADER_LEN {
            return Err(MessageError::NoHeader);
        }
        let word = |at| read_u16(message, at).unwrap_or(0);
        if word(4) != 1 {
            return Err(MessageError::Questions(word(4)));
        }
        // Nothing that a pointer could lead to is in front of it.
        let at = HEADER_LEN + NameRef::parse(message.get(HEADER_LEN..).unwrap_or(&[]))?.len();
        let (qtype, qclass) = (
            read_u16(message, at).ok_or(MessageError::Short(0))?,
            read_u16(message, at + 2).ok_or(MessageError::Short(0))?,
        );
        let mut layout = Self {
            flags: word(2),
            qtype: RecordType(qtype),
            qclass: Class(qclass),
            question_end: at + 4,
            records: SmallVec::new(),
            edns: None,
        };
        layout.walk(message, [word(6), word(8), word(10)])?;
        Ok(layout)
    }

    fn walk(&mut self, message: &[u8], counts: [u16; 3]) -> Result<(), MessageError> {
        for record in Records::new(message, self.question_end, counts) {
            let record = record?;
            if record.rtype != RecordType::OPT {
                self.records.push(record);
                continue;
            }
            if record.section != Section::Additional || self.edns.is_some() {
                return Err(MessageError::Opt);
            }
            self.edns = Some(EdnsAt {
                start: record.start,
                options: record.ttl_at + 6,
                end: record.end,
                extended_rcode: (record.ttl >> 24) as u8,
                dnssec_ok: record.ttl & 0x8000 != 0,
            });
        }
        Ok(())
    }

    /// The response code with its EDNS extension.
    pub fn rcode(&self) -> Rcode {
        Rcode(
            self.flags & flags::RCODE
                | self.edns.map_or(0, |edns| u16::from(edns.extended_rcode) << 4),
        )
    }

    /// The records of one section.
    pub fn section(&self, section: Section) -> impl Iterator<Item = &RecordAt> {
        self.records.iter().filter(move |record| record.section == section)
    }
}

/// A message that can be answered from and kept: sound, without OPT, its extended errors kept aside.
#[derive(Clone)]
pub struct Message {
    bytes: Vec<u8>,
    layout: Layout,
    options: Vec<u8>,
    rcode: Rcode,
}

impl Message {
    /// Takes a message that was received. Every name in it is known to expand afterwards, and a time to live with its top
    /// bit set is zero (RFC 2181 section 8). The OPT record and what is behind it is cut off (only signatures of the
    /// transaction are there, RFC 8945 and RFC 2931); of its options the extended errors are kept. Octets behind the last
    /// record go as well: a reply that begins with a copy would have its own OPT behind them.
    pub fn from_received(mut bytes: Vec<u8>) -> Result<Self, MessageError> {
        let mut layout = Layout::parse(&bytes)?;
        check_names(&bytes, &layout)?;
        let rcode = layout.rcode();
        let mut options = Vec::new();
        if let Some(edns) = layout.edns.take() {
            let all = bytes.get(usize::from(edns.options)..usize::from(edns.end)).unwrap_or(&[]);
            keep_extended_errors(all, &mut options);
            layout.records.retain(|record| record.start < edns.start);
            bytes.truncate(edns.start.into());
            let additional = layout.section(Section::Additional).count();
            write_u16(&mut bytes, 10, additional as u16);
        } else {
            let end = layout.records.last().map_or(layout.question_end, |last| last.end.into());
            bytes.truncate(end);
        }
        let mut message = Self { bytes, layout, options, rcode };
        message.set_ttls(|record| if record.ttl > i32::MAX as u32 { 0 } else { record.ttl });
        Ok(message)
    }

    /// Gives each record the time to live that `ttl` returns for it.
    pub fn set_ttls(&mut self, ttl: impl Fn(&RecordAt) -> u32) {
        for record in &mut self.layout.records {
            let wanted = ttl(record);
            if wanted != record.ttl {
                record.ttl = wanted;
                write_u32(&mut self.bytes, record.ttl_at.into(), wanted);
            }
        }
    }

    /// Clears header flags ([`flags`]).
    pub fn clear_flags(&mut self, mask: u16) {
        self.layout.flags &= !mask;
        write_u16(&mut self.bytes, 2, self.layout.flags);
    }

    /// True where whoever sent it says that its data are authentic (AD, RFC 4035 section 3.2.3).
    pub fn is_authentic(&self) -> bool {
        self.layout.flags & flags::AD != 0
    }

    /// How long a denial may be kept by the SOA in its authority section (RFC 2308 section 5).
    pub fn negative_ttl(&self) -> Option<u32> {
        let mut authority = self.layout.section(Section::Authority);
        let soa = authority.find(|record| record.rtype == RecordType::SOA)?;
        Some(super::rdata::negative_ttl(soa.ttl, soa.rdata(&self.bytes)))
    }

    /// Takes a message that [`super::Reply`] wrote. What we write is sound; should it ever not be, the result is an empty
    /// SERVFAIL rather than a panic.
    pub fn from_written(bytes: Vec<u8>) -> Self {
        Self::from_received(bytes).unwrap_or_else(|_| {
            let mut bytes = vec![0; HEADER_LEN + 5];
            write_u16(&mut bytes, 2, flags::QR | Rcode::SERVFAIL.0);
            write_u16(&mut bytes, 4, 1);
            let layout = Layout {
                flags: flags::QR | Rcode::SERVFAIL.0,
                qtype: RecordType(0),
                qclass: Class(0),
                question_end: HEADER_LEN + 5,
                records: SmallVec::new(),
                edns: None,
            };
            Self { bytes, layout, options: Vec::new(), rcode: Rcode::SERVFAIL }
        })
    }

    /// The message's octets, without OPT.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where everything is.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The question's name, lower-cased.
    pub fn name(&self) -> NameBuf {
        NameBuf::expand(&self.bytes, HEADER_LEN).map_or_else(|_| NameBuf::new(), |(name, _)| name)
    }

    /// True where the question is about this name; the same as comparing [`Message::name`], and cheaper.
    pub fn is_about(&self, name: NameRef<'_>) -> bool {
        let name = name.as_bytes();
        let as_it_stands = self.bytes.get(HEADER_LEN..HEADER_LEN + name.len());
        as_it_stands.is_some_and(|octets| octets.eq_ignore_ascii_case(name))
            || self.name().as_name().as_bytes() == name
    }

    /// The response code with its EDNS extension.
    pub fn rcode(&self) -> Rcode {
        self.rcode
    }

    /// The extended errors (RFC 8914) as options in wire form.
    pub fn options(&self) -> &[u8] {
        &self.options
    }

    /// True where the message is marked as truncated.
    pub fn truncated(&self) -> bool {
        self.layout.flags & flags::TC != 0
    }

    /// Gives up the octets.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} {} {} ({} records)",
            self.name(),
            self.layout.qtype,
            self.rcode,
            self.layout.records.len()
        )
    }
}

/// Appends an extended error to options in wire form: code and text (RFC 8914 section 2).
pub fn push_extended_error(options: &mut Vec<u8>, code: u16, text: &str) {
    let text = text.as_bytes();
    options.extend_from_slice(&OPTION_EDE.to_be_bytes());
    options.extend_from_slice(&(text.len() as u16 + 2).to_be_bytes());
    options.extend_from_slice(&code.to_be_bytes());
    options.extend_from_slice(text);
}

fn keep_extended_errors(mut options: &[u8], kept: &mut Vec<u8>) {
    /// Enough for a few errors with their texts; an upstream that sends more says nothing more.
    const MAX_KEPT: usize = 512;
    while let (Some(code), Some(len)) = (read_u16(options, 0), read_u16(options, 2)) {
        let Some(option) = options.get(..4 + usize::from(len)) else { return };
        if code == OPTION_EDE && kept.len() + option.len() <= MAX_KEPT {
            kept.extend_from_slice(option);
        }
        options = options.get(option.len()..).unwrap_or(&[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Name, query::write_query};

    fn answer() -> Vec<u8> {
        let mut bytes = Vec::new();
        let name = Name::from_text("www.example.com").unwrap();
        write_query(
            &mut bytes,
            1,
            flags::QR | flags::RD | flags::RA,
            name.as_ref(),
            RecordType::A,
            Class::IN,
            None,
        );
        write_u16(&mut bytes, 6, 2);
        for last in [1, 2] {
            bytes.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, last]);
        }
        bytes
    }

    #[test]
    fn records_are_found() {
        let layout = Layout::parse(&answer()).unwrap();
        assert_eq!(layout.records.len(), 2);
        assert_eq!(layout.records[1].rdata(&answer()), [192, 0, 2, 2]);
        assert_eq!(layout.records[0].ttl, 300);
        assert_eq!(
            layout.records[0].owner(&answer()).unwrap().as_name().to_string(),
            "www.example.com."
        );
    }

    #[test]
    fn opt_is_cut_off_and_its_errors_are_kept() {
        let mut bytes = answer();
        bytes[11] = 1;
        let mut options = Vec::new();
        options.extend_from_slice(&[0, 10, 0, 2, 1, 2]); // a cookie, which is nobody else's business
        push_extended_error(&mut options, 22, "no reachable authority");
        bytes.extend_from_slice(&[0, 0, 41, 4, 208, 1, 0, 0, 0]);
        bytes.extend_from_slice(&(options.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&options);
        let message = Message::from_received(bytes).unwrap();
        assert_eq!(message.rcode(), Rcode(16));
        assert_eq!(message.as_bytes(), answer());
        assert_eq!(message.options(), &options[6..]);
    }

    #[test]
    fn what_stands_behind_the_last_record_is_cut_off() {
        let mut bytes = answer();
        bytes.extend_from_slice(b"more");
        assert_eq!(Message::from_received(bytes).unwrap().as_bytes(), answer());
    }

    #[test]
    fn what_runs_over_the_end_is_refused() {
        let bytes = answer();
        assert_eq!(Layout::parse(&bytes[..bytes.len() - 1]).unwrap_err(), MessageError::Short(2));
        assert_eq!(Layout::parse(&bytes[..8]).unwrap_err(), MessageError::NoHeader);
    }

    proptest::proptest! {
        #[test]
        fn any_octets_are_a_message_or_an_error(bytes in proptest::collection::vec(0u8.., 0..600)) {
            let _ = Message::from_received(bytes);
        }

        #[test]
        fn a_damaged_answer_is_a_message_or_an_error(at in 0usize..65, octet in 0u8..) {
            let mut bytes = answer();
            if let Some(b) = bytes.get_mut(at) { *b = octet; }
            if let Ok(message) = Message::from_received(bytes) {
                for record in &message.layout().records {
                    let _ = record.owner(message.as_bytes());
                    let _ = record.rdata(message.as_bytes());
                }
            }
        }
    }
}
