//! Where each record of a message begins and ends.

use smallvec::SmallVec;

use super::name::{NameBuf, NameError, NameRef, skip_name};
use super::{Class, HEADER_LEN, Rcode, RecordType, Section, flags, read_u16, read_u32};

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
        // A message has at most 65,535 octets: more cannot have come over any transport.
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
