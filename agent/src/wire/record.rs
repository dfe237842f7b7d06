//! Records on their own: taken out of a message with their names expanded, changed, and put into another one. This is the
//! slow way, for answers that are rewritten and for records that come as text; a cache hit never passes here.

use std::ops::Range;

use super::layout::RecordAt;
use super::rdata::{self, Part, parts};
use super::reply::RecordRef;
use super::{Class, Message, Name, NameBuf, NameError, NameRef, Owner, RecordType, Section};

/// One record without compression. The owner is lower-cased, names in the data are in the case in which they came (RFC 4343).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose record it is.
    pub owner: Name,
    /// Its type.
    pub rtype: RecordType,
    /// Its class.
    pub class: Class,
    /// Its time to live, seconds.
    pub ttl: u32,
    /// Its data, names written out.
    pub rdata: Box<[u8]>,
}

impl Record {
    /// Takes the record at `at` out of `message`. Pointers in the data are followed for the types of RFC 1035 and for
    /// those whose names some servers compress all the same (RFC 3597 section 4).
    pub fn of(message: &[u8], at: &RecordAt) -> Result<Self, NameError> {
        let mut rdata = Vec::with_capacity(at.rdata(message).len() + 64);
        Self::expand_rdata(message, at, &mut rdata)?;
        Ok(Self {
            owner: at.owner(message)?.as_name().to_name(),
            rtype: at.rtype,
            class: at.class,
            ttl: at.ttl,
            rdata: rdata.into_boxed_slice(),
        })
    }

    /// Appends the data of the record at `at`, names written out.
    pub fn expand_rdata(message: &[u8], at: &RecordAt, to: &mut Vec<u8>) -> Result<(), NameError> {
        let rdata = usize::from(at.ttl_at) + 6..usize::from(at.end);
        walk(message, rdata, at.rtype, &mut |_| None, to)
    }

    /// Every record of a message in order, with its section.
    pub fn all_of(message: &Message) -> Result<Vec<(Section, Self)>, NameError> {
        let bytes = message.as_bytes();
        message.layout().records.iter().map(|at| Ok((at.section, Self::of(bytes, at)?))).collect()
    }

    /// The first name in the data, as the target of a CNAME or an SRV; lower-cased.
    pub fn target(&self) -> Option<Name> {
        rdata::target(self.rtype, &self.rdata).map(NameRef::to_name)
    }

    /// Replaces the names in the data for which `change` has another one.
    pub fn change_names(&mut self, change: &mut dyn FnMut(NameRef<'_>) -> Option<NameBuf>) {
        // What this record holds was walked before; data that are odd for their type stay as they are.
        let mut rdata = Vec::with_capacity(self.rdata.len() + 64);
        if walk(&self.rdata, 0..self.rdata.len(), self.rtype, change, &mut rdata).is_ok() {
            self.rdata = rdata.into_boxed_slice();
        }
    }

    /// The record, borrowed.
    pub fn as_ref(&self) -> RecordRef<'_> {
        let Self { owner, rtype, class, ttl, rdata } = self;
        RecordRef { owner: owner.as_ref(), rtype: *rtype, class: *class, ttl: *ttl, rdata }
    }
}

/// How to write `name` in a reply to `question`; both lower-cased.
pub fn owner_in<'a>(question: NameRef<'_>, name: NameRef<'a>) -> Owner<'a> {
    match question.prefix_len(name) {
        Some(0) => Owner::Question,
        Some(octets) if !name.is_root() => Owner::Suffix(octets),
        _ => Owner::Name(name),
    }
}

/// Appends the data at `range` of `bytes` to `out`, names expanded and changed.
fn walk(
    bytes: &[u8],
    range: Range<usize>,
    rtype: RecordType,
    change: &mut dyn FnMut(NameRef<'_>) -> Option<NameBuf>,
    out: &mut Vec<u8>,
) -> Result<(), NameError> {
    let data = bytes.get(..range.end).ok_or(NameError::Short)?;
    let mut at = range.start;
    for part in parts(rtype) {
        let next = at + rdata::length(*part, data, at)?;
        let written = data.get(at..next).ok_or(NameError::Short)?;
        if let Part::Name = part {
            let (name, _) = NameBuf::expand_as_written(bytes, at)?;
            match change(name.as_name()) {
                Some(other) => out.extend_from_slice(other.as_name().as_bytes()),
                None => out.extend_from_slice(name.as_name().as_bytes()),
            }
        } else {
            out.extend_from_slice(written);
        }
        at = next;
    }
    out.extend_from_slice(data.get(at..).ok_or(NameError::Short)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{flags, query::write_query};

    /// `www.example.com A`, answered with a compressed CNAME, MX and SOA.
    fn compressed() -> Vec<u8> {
        let mut bytes = Vec::new();
        let name = Name::from_text("www.example.com").unwrap();
        write_query(&mut bytes, 1, flags::QR, name.as_ref(), RecordType::A, Class::IN, None);
        bytes[7] = 2;
        bytes[9] = 1;
        bytes.extend_from_slice(b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x04\x01a\xc0\x10");
        bytes.extend_from_slice(b"\xc0\x10\0\x0f\0\x01\0\0\0\x3c\0\x06\0\x0a\x01b\xc0\x10");
        bytes.extend_from_slice(b"\xc0\x10\0\x06\0\x01\0\0\0\x3c\0\x1d\x02ns\xc0\x10\x01h\xc0\x10");
        bytes.extend_from_slice(&[0; 20]);
        bytes
    }

    #[test]
    fn names_in_data_are_expanded_and_changed() {
        let message = Message::from_received(compressed()).unwrap();
        let mut records = Record::all_of(&message).unwrap();
        let targets: Vec<_> =
            records.iter().map(|(_, r)| r.target().unwrap().to_string()).collect();
        assert_eq!(targets, ["a.example.com.", "b.example.com.", "ns.example.com."]);
        assert_eq!(records[2].1.rdata.len(), 16 + 15 + 20);
        let mut to = NameBuf::new();
        to.push_text("x.org").unwrap();
        for (_, record) in &mut records {
            record.change_names(&mut |name| (name.to_string() == "h.example.com.").then_some(to));
        }
        assert_eq!(records[2].1.rdata.len(), 16 + 7 + 20);
    }

    proptest::proptest! {
        #[test]
        fn a_damaged_message_is_taken_apart_or_refused(at in 0usize..130, octet in 0u8..) {
            let mut bytes = compressed();
            if let Some(b) = bytes.get_mut(at) { *b = octet; }
            if let Ok(message) = Message::from_received(bytes) {
                let _ = Record::all_of(&message).map(|all| all.iter().filter_map(|(_, r)| r.target()).count());
            }
        }
    }
}
