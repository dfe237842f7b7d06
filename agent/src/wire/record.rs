//! Records on their own: taken out of a message with their names expanded, changed, and put into another one. This is the
//! slow way, for answers that are rewritten and for records that come as text; a cache hit never passes here.

use super::message::RecordAt;
use super::{
    Class, Message, Name, NameBuf, NameError, NameRef, Owner, Query, RecordType, Reply, Section,
    flags,
};

/// One record without compression. Names are lower-cased.
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

/// What the data of a type consist of, from left to right.
#[derive(Clone, Copy)]
enum Part {
    /// So many octets.
    Octets(usize),
    /// A character-string: a length and so many octets.
    Text,
    /// A name, which may be compressed in a message.
    Name,
}

impl Record {
    /// Takes the record at `at` out of `message`. Pointers in the data are followed for the types of RFC 1035 and for
    /// those whose names some servers compress all the same (RFC 3597 section 4).
    pub fn of(message: &[u8], at: &RecordAt) -> Result<Self, NameError> {
        let end = usize::from(at.end);
        let message = message.get(..end).ok_or(NameError::Short)?;
        let rdata = walk(message, usize::from(at.ttl_at) + 6, at.rtype, &mut |_| None)?;
        Ok(Self {
            owner: at.owner(message)?.as_name().to_name(),
            rtype: at.rtype,
            class: at.class,
            ttl: at.ttl,
            rdata: rdata.into_boxed_slice(),
        })
    }

    /// Every record of a message in order, with its section.
    pub fn all_of(message: &Message) -> Result<Vec<(Section, Self)>, NameError> {
        let bytes = message.as_bytes();
        message.layout().records.iter().map(|at| Ok((at.section, Self::of(bytes, at)?))).collect()
    }

    /// The first name in the data, as the target of a CNAME or an SRV.
    pub fn target(&self) -> Option<Name> {
        let mut found = None;
        let seen = &mut |name: NameRef<'_>| {
            found.get_or_insert_with(|| name.to_name());
            None
        };
        walk(&self.rdata, 0, self.rtype, seen).ok()?;
        found
    }

    /// Replaces the names in the data for which `change` has another one.
    pub fn change_names(&mut self, change: &mut dyn FnMut(NameRef<'_>) -> Option<Name>) {
        // What this record holds was walked before; data that are odd for their type stay as they are.
        if let Ok(rdata) = walk(&self.rdata, 0, self.rtype, change) {
            self.rdata = rdata.into_boxed_slice();
        }
    }

    /// Appends the record to a reply to `question`; a suffix that is the question's is compressed. False where it does
    /// not fit.
    pub fn write(&self, section: Section, question: NameRef<'_>, reply: &mut Reply<'_>) -> bool {
        let owner = owner_in(question, self.owner.as_ref());
        reply.record_of(section, owner, self.rtype, self.class, self.ttl, &self.rdata)
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

/// A message with the flags, response code and extended errors of `like`, as an answer to `query` with these records.
pub fn rebuild<'r>(
    query: &Query<'_>,
    like: &Message,
    records: impl IntoIterator<Item = &'r (Section, Record)>,
) -> Message {
    let mut buf = Vec::with_capacity(like.as_bytes().len() * 2);
    let mut reply = Reply::begin(&mut buf, query, true);
    reply.set_flags(like.layout().flags & (flags::AA | flags::AD | flags::RA | flags::TC), true);
    reply.set_rcode(like.rcode());
    reply.push_options(like.options());
    for (section, record) in records {
        record.write(*section, query.name(), &mut reply);
    }
    reply.finish(None);
    Message::from_written(buf)
}

/// Copies data from `at` to the end of `bytes`, names expanded and changed.
fn walk(
    bytes: &[u8],
    at: usize,
    rtype: RecordType,
    change: &mut dyn FnMut(NameRef<'_>) -> Option<Name>,
) -> Result<Vec<u8>, NameError> {
    let mut out = Vec::with_capacity(bytes.len().saturating_sub(at) + 64);
    let mut at = at;
    for part in parts(rtype) {
        let octets = match *part {
            Part::Octets(octets) => octets,
            Part::Text => usize::from(*bytes.get(at).ok_or(NameError::Short)?) + 1,
            Part::Name => {
                let (name, next) = NameBuf::expand(bytes, at)?;
                match change(name.as_name()) {
                    Some(other) => out.extend_from_slice(other.as_bytes()),
                    None => out.extend_from_slice(name.as_name().as_bytes()),
                }
                at = next;
                continue;
            }
        };
        out.extend_from_slice(bytes.get(at..at + octets).ok_or(NameError::Short)?);
        at += octets;
    }
    out.extend_from_slice(bytes.get(at..).ok_or(NameError::Short)?);
    Ok(out)
}

/// Where the names are in a type's data; what is behind the last part is copied.
fn parts(rtype: RecordType) -> &'static [Part] {
    use Part::{Name, Octets, Text};
    match rtype.0 {
        // NS MD MF CNAME MB MG MR PTR DNAME
        2..=5 | 7..=9 | 12 | 39 => &[Name],
        // SOA MINFO RP
        6 | 14 | 17 => &[Name, Name],
        // MX AFSDB RT KX, and SVCB HTTPS
        15 | 18 | 21 | 36 | 64 | 65 => &[Octets(2), Name],
        // SRV
        33 => &[Octets(6), Name],
        // PX
        26 => &[Octets(2), Name, Name],
        // NAPTR
        35 => &[Octets(4), Text, Text, Text, Name],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::query::write_query;

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
        let to = Name::from_text("x.org").unwrap();
        for (_, record) in &mut records {
            record.change_names(&mut |name| {
                (name.to_string() == "h.example.com.").then(|| to.clone())
            });
        }
        assert_eq!(records[2].1.rdata.len(), 16 + 7 + 20);
    }

    #[test]
    fn a_rebuilt_message_says_the_same() {
        let bytes = compressed();
        let message = Message::from_received(bytes.clone()).unwrap();
        let records = Record::all_of(&message).unwrap();
        let mut asked = bytes.get(..message.layout().question_end).unwrap().to_vec();
        asked[2] = 0;
        asked[7] = 0;
        asked[9] = 0;
        let query = Query::parse(&asked).unwrap();
        let again = rebuild(&query, &message, &records);
        assert_eq!(Record::all_of(&again).unwrap(), records);
        // The owners are compressed: the question itself, then its suffix twice.
        assert_eq!(again.layout().records[1].ttl_at - again.layout().records[1].start, 6);
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
