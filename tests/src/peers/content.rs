//! The content of a response, octet for octet: names and record data without compression, letter case kept.

use std::fmt;

/// Types whose data has names in it that may be compressed (RFC 1035; RFC 3597 section 4 ends the list), with the octets
/// before the names and how many names there are.
const WITH_NAMES: [(u16, usize, usize); 9] = [
    (2, 0, 1),
    (5, 0, 1),
    (6, 0, 2),
    (12, 0, 1),
    (14, 0, 2),
    (15, 2, 1),
    (17, 0, 2),
    (33, 6, 1),
    (39, 0, 1),
];
const OPT: u16 = 41;
/// The EDNS option with an extended error (RFC 8914).
const EXTENDED_ERROR: u16 = 15;

/// One record.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// The owner, in wire form.
    pub owner: Vec<u8>,
    /// The type.
    pub kind: u16,
    /// The class.
    pub class: u16,
    /// The data, its names without compression.
    pub data: Vec<u8>,
    /// The TTL.
    pub ttl: u32,
}

/// A whole response without its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The second word of the header: QR, opcode, AA, TC, RD, RA, AD, CD and the lower bits of the code.
    pub word: u16,
    /// The response code, with the bits that EDNS has.
    pub rcode: u16,
    /// The question as it came back: name, type, class.
    pub question: Vec<u8>,
    /// Answer, authority and additional, in their order; without OPT.
    pub sections: [Vec<Record>; 3],
    /// DO in its EDNS; `None` without EDNS.
    pub dnssec_ok: Option<bool>,
    /// Extended errors: code and text.
    pub errors: Vec<Vec<u8>>,
}

impl Content {
    /// Reads a response.
    ///
    /// # Errors
    /// Which part cannot be read.
    pub fn of(message: &[u8]) -> Result<Self, String> {
        let mut at = 12;
        let word = |at: usize| read_u16(message, at).ok_or("header");
        let mut content = Self {
            word: word(2)?,
            rcode: word(2)? & 15,
            question: Vec::new(),
            sections: Default::default(),
            dnssec_ok: None,
            errors: Vec::new(),
        };
        for _ in 0..word(4)? {
            let (name, end) = name(message, at).ok_or("question")?;
            content.question.extend(name);
            content.question.extend(message.get(end..end + 4).ok_or("question")?);
            at = end + 4;
        }
        for section in 0..3 {
            for n in 0..word(6 + 2 * section)? {
                let wrong = || format!("record {n} of section {section}");
                let (record, end) = record(message, at).ok_or_else(wrong)?;
                at = end;
                if record.kind == OPT {
                    content.rcode |= (record.ttl >> 24 << 4) as u16;
                    content.dnssec_ok = Some(record.ttl & 0x8000 != 0);
                    content.errors = options(&record.data, EXTENDED_ERROR).ok_or_else(wrong)?;
                } else if let Some(records) = content.sections.get_mut(section) {
                    records.push(record);
                }
            }
        }
        if at == message.len() { Ok(content) } else { Err(format!("octets from {at} on")) }
    }

    /// All TTLs, in order.
    pub fn ttls(&self) -> impl Iterator<Item = u32> + '_ {
        self.sections.iter().flatten().map(|record| record.ttl)
    }

    /// The same with all TTLs 0.
    #[must_use]
    pub fn without_ttls(mut self) -> Self {
        self.sections.iter_mut().flatten().for_each(|record| record.ttl = 0);
        self
    }

    /// The same with the records of each section in one order, for servers that turn them round.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.sections.iter_mut().for_each(|section| section.sort());
        self
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = self.data.iter().take(64).copied().collect::<Vec<u8>>();
        let (kind, ttl) = (self.kind, self.ttl);
        write!(f, "{} {ttl} TYPE{kind} {}", self.owner.escape_ascii(), data.escape_ascii())
    }
}

/// The data of all options of one code.
fn options(mut data: &[u8], code: u16) -> Option<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    while !data.is_empty() {
        let length = usize::from(read_u16(data, 2)?);
        let value = data.get(4..4 + length)?;
        if read_u16(data, 0)? == code {
            found.push(value.to_vec());
        }
        data = data.get(4 + length..)?;
    }
    Some(found)
}

/// A record and where it ends.
fn record(message: &[u8], at: usize) -> Option<(Record, usize)> {
    let (owner, at) = name(message, at)?;
    let (kind, class) = (read_u16(message, at)?, read_u16(message, at + 2)?);
    let ttl = u32::from(read_u16(message, at + 4)?) << 16 | u32::from(read_u16(message, at + 6)?);
    let begin = at + 10;
    let end = begin + usize::from(read_u16(message, at + 8)?);
    let mut data = Vec::new();
    let mut at = begin;
    if let Some((_, before, names)) = WITH_NAMES.iter().find(|(t, _, _)| *t == kind) {
        data.extend(message.get(at..at + before)?);
        at += before;
        for _ in 0..*names {
            let (name, next) = name(message, at)?;
            data.extend(name);
            at = next;
        }
    }
    data.extend(message.get(at..end)?);
    Some((Record { owner, kind, class, data, ttl }, end))
}

/// A name without compression and where it ends.
fn name(message: &[u8], mut at: usize) -> Option<(Vec<u8>, usize)> {
    let (mut name, mut end) = (Vec::new(), None);
    loop {
        let length = *message.get(at)?;
        match length {
            0 => {
                name.push(0);
                return Some((name, end.unwrap_or(at + 1)));
            }
            1..64 => {
                name.extend(message.get(at..=at + usize::from(length))?);
                at += 1 + usize::from(length);
            }
            192.. => {
                end.get_or_insert(at + 2);
                let to = usize::from(read_u16(message, at)? & 0x3fff);
                // Pointers lead backwards only.
                at = if to < at { to } else { return None };
            }
            _ => return None,
        }
        if name.len() > 255 {
            return None;
        }
    }
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_makes_no_difference_and_letter_case_does() {
        let head = [0, 1, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 1];
        let question = b"\x01a\x04Test\x00\x00\x0f\x00\x01";
        let opt = [0, 0, 41, 4, 208, 0, 0, 128, 0, 0, 6, 0, 15, 0, 2, 0, 9];
        let whole = |owner: &[u8], data: &[u8]| {
            let length = [0, data.len() as u8];
            let parts =
                [&head, &question[..], owner, &[0, 15, 0, 1, 0, 0, 1, 0], &length, data, &opt];
            Content::of(&parts.concat())
        };
        let long = whole(b"\x01a\x04Test\x00", b"\x00\x05\x01m\x04Test\x00").unwrap();
        assert_eq!(whole(&[0xc0, 12], &[0, 5, 1, b'm', 0xc0, 14]), Ok(long.clone()));
        assert_ne!(whole(b"\x01a\x04test\x00", b"\x00\x05\x01m\x04Test\x00"), Ok(long.clone()));
        assert_eq!((long.dnssec_ok, long.errors.len(), long.ttls().sum()), (Some(true), 1, 256u32));
        assert!(whole(&[0xc0, 29], &[0, 5]).is_err());
    }
}
