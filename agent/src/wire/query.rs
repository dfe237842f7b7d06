//! A query as it came: header, one question and EDNS, checked in place.

use super::name::{NameBuf, NameRef, skip_name};
use super::{
    Class, HEADER_LEN, MAX_UDP_PAYLOAD, MIN_UDP_PAYLOAD, Rcode, RecordType, flags, read_u16,
};

/// The option that asks for the server's identity (RFC 5001).
const OPTION_NSID: u16 = 3;

/// What is to be done with bytes that are no query to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// No header, or a response: silence, so that two servers never talk to each other for ever.
    Silent,
    /// A readable header: answer with this code, the header's id, opcode and RD, and nothing else.
    Answer(Rcode),
}

/// The EDNS of a query (RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// What the client can take over UDP, raised to 512 as section 6.2.5 asks.
    pub udp_payload: u16,
    /// Version; all but 0 are answered with BADVERS.
    pub version: u8,
    /// DNSSEC OK.
    pub dnssec_ok: bool,
    /// The client asks for the server's identity.
    pub nsid: bool,
}

/// A query whose header, question and EDNS are sound. Borrows the packet; copies only the lower-cased name.
#[derive(Clone, Copy)]
pub struct Query<'a> {
    packet: &'a [u8],
    flags: u16,
    question_end: usize,
    key: NameBuf,
    qtype: RecordType,
    qclass: Class,
    edns: Option<Edns>,
}

impl<'a> Query<'a> {
    /// Checks `packet`. Other opcodes than QUERY, other question counts than one, names that are compressed or cut off,
    /// two OPT records or records that run over the end are rejected; bytes after the last record are ignored.
    pub fn parse(packet: &'a [u8]) -> Result<Self, Reject> {
        let (Some(word), true) = (read_u16(packet, 2), packet.len() >= HEADER_LEN) else {
            return Err(Reject::Silent);
        };
        if word & flags::QR != 0 {
            return Err(Reject::Silent);
        }
        if word & flags::OPCODE != 0 {
            return Err(Reject::Answer(Rcode::NOTIMP));
        }
        Self::parse_body(packet, word).ok_or(Reject::Answer(Rcode::FORMERR))
    }

    fn parse_body(packet: &'a [u8], word: u16) -> Option<Self> {
        if read_u16(packet, 4)? != 1 {
            return None;
        }
        let name = NameRef::parse(packet.get(HEADER_LEN..)?).ok()?;
        let at = HEADER_LEN + name.len();
        let (qtype, qclass) = (read_u16(packet, at)?, read_u16(packet, at + 2)?);
        let question_end = at + 4;
        let others = u32::from(read_u16(packet, 6)?) + u32::from(read_u16(packet, 8)?);
        let additional = u32::from(read_u16(packet, 10)?);
        let edns = if others + additional == 0 {
            None
        } else {
            find_edns(packet, question_end, others, additional)?
        };
        Some(Self {
            packet,
            flags: word,
            question_end,
            key: NameBuf::lower(name),
            qtype: RecordType(qtype),
            qclass: Class(qclass),
            edns,
        })
    }

    /// The message id.
    pub fn id(&self) -> u16 {
        read_u16(self.packet, 0).unwrap_or(0)
    }

    /// Octets 2 and 3 of the header.
    pub fn flags(&self) -> u16 {
        self.flags
    }

    /// Recursion desired.
    pub fn recursion_desired(&self) -> bool {
        self.flags & flags::RD != 0
    }

    /// Checking disabled (RFC 4035 section 3.2.2).
    pub fn checking_disabled(&self) -> bool {
        self.flags & flags::CD != 0
    }

    /// DNSSEC OK, from EDNS.
    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// True where the client is to be told of AD: it set DO, or AD itself (RFC 6840 sections 5.7 and 5.8).
    pub fn understands_ad(&self) -> bool {
        self.dnssec_ok() || self.flags & flags::AD != 0
    }

    /// The name asked for, lower-cased: the key of every look-up.
    pub fn name(&self) -> NameRef<'_> {
        self.key.as_name()
    }

    /// The name asked for in the client's case.
    pub fn name_as_asked(&self) -> NameRef<'a> {
        self.packet
            .get(HEADER_LEN..)
            .and_then(|bytes| NameRef::parse(bytes).ok())
            .unwrap_or(NameRef::ROOT)
    }

    /// The type asked for.
    pub fn qtype(&self) -> RecordType {
        self.qtype
    }

    /// The class asked for.
    pub fn qclass(&self) -> Class {
        self.qclass
    }

    /// The EDNS, where the client sent one.
    pub fn edns(&self) -> Option<&Edns> {
        self.edns.as_ref()
    }

    /// The question's octets (name as asked, type, class).
    pub fn question(&self) -> &'a [u8] {
        self.packet.get(HEADER_LEN..self.question_end).unwrap_or(&[])
    }

    /// Where the question ends in the message; a reply to it has its first record there.
    pub fn question_end(&self) -> usize {
        self.question_end
    }

    /// The whole packet.
    pub fn packet(&self) -> &'a [u8] {
        self.packet
    }

    /// The longest reply that the client takes over UDP: its EDNS size within 512 and [`MAX_UDP_PAYLOAD`].
    pub fn udp_limit(&self) -> usize {
        self.edns.map_or(MIN_UDP_PAYLOAD, |edns| edns.udp_payload.min(MAX_UDP_PAYLOAD)).into()
    }
}

impl std::fmt::Debug for Query<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.name(), self.qclass, self.qtype)
    }
}

/// Writes a query for `name` into `buf`: `id`, flags `word` (RD and CD as wanted), and an OPT record where `edns` gives
/// (payload size, DNSSEC OK).
pub fn write_query(
    buf: &mut Vec<u8>,
    id: u16,
    word: u16,
    name: NameRef<'_>,
    qtype: RecordType,
    qclass: Class,
    edns: Option<(u16, bool)>,
) {
    buf.extend_from_slice(&id.to_be_bytes());
    buf.extend_from_slice(&word.to_be_bytes());
    buf.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())]);
    buf.extend_from_slice(name.as_bytes());
    buf.extend_from_slice(&qtype.0.to_be_bytes());
    buf.extend_from_slice(&qclass.0.to_be_bytes());
    if let Some((payload, dnssec_ok)) = edns {
        buf.extend_from_slice(&[0, 0, 41]);
        buf.extend_from_slice(&payload.to_be_bytes());
        buf.extend_from_slice(&[0, 0, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
    }
}

/// Writes the reply to what is no query: the header's id, opcode and RD with `rcode`, and no sections.
pub fn write_rejection(buf: &mut Vec<u8>, packet: &[u8], rcode: Rcode) {
    let id = read_u16(packet, 0).unwrap_or(0);
    let word = read_u16(packet, 2).unwrap_or(0);
    buf.extend_from_slice(&id.to_be_bytes());
    buf.extend_from_slice(
        &(flags::QR | word & (flags::OPCODE | flags::RD) | rcode.0 & flags::RCODE).to_be_bytes(),
    );
    buf.extend_from_slice(&[0; 8]);
}

/// Walks the records after the question and reads the one OPT. `None`: malformed; `Some(None)`: sound, and without EDNS.
#[allow(
    clippy::option_option,
    reason = "malformed and absent are different things here, and `?` reads best"
)]
fn find_edns(packet: &[u8], start: usize, others: u32, additional: u32) -> Option<Option<Edns>> {
    let mut at = start;
    let mut found = None;
    for n in 0..others + additional {
        let owner = at;
        at = skip_name(packet, at).ok()?;
        let rtype = read_u16(packet, at)?;
        let data = at + 10;
        let end = data + usize::from(read_u16(packet, at + 8)?);
        let rdata = packet.get(data..end)?;
        if rtype == RecordType::OPT.0 {
            if n < others || found.is_some() || packet.get(owner) != Some(&0) {
                return None;
            }
            found = Some(Edns {
                udp_payload: read_u16(packet, at + 2)?.max(MIN_UDP_PAYLOAD),
                version: *packet.get(at + 5)?,
                dnssec_ok: packet.get(at + 6)? & 0x80 != 0,
                nsid: has_nsid(rdata)?,
            });
        }
        at = end;
    }
    Some(found)
}

fn has_nsid(mut options: &[u8]) -> Option<bool> {
    let mut nsid = false;
    while !options.is_empty() {
        nsid |= read_u16(options, 0)? == OPTION_NSID;
        let len = usize::from(read_u16(options, 2)?);
        options = options.get(4 + len..)?;
    }
    Some(nsid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Name;

    fn packet(edns: Option<(u16, bool)>) -> Vec<u8> {
        let mut buf = Vec::new();
        let name = Name::from_text("www.example.com").unwrap();
        write_query(&mut buf, 7, flags::RD, name.as_ref(), RecordType::AAAA, Class::IN, edns);
        buf
    }

    #[test]
    fn a_query_is_read_in_place() {
        let mut bytes = packet(Some((1400, true)));
        bytes[13] = b'W';
        let query = Query::parse(&bytes).unwrap();
        assert_eq!((query.id(), query.qtype(), query.qclass()), (7, RecordType::AAAA, Class::IN));
        assert_eq!(query.name().to_string(), "www.example.com.");
        assert_eq!(query.name_as_asked().to_string(), "Www.example.com.");
        assert!(query.recursion_desired() && query.dnssec_ok());
        assert_eq!(query.udp_limit(), 1400);
    }

    #[test]
    fn what_is_no_query_is_rejected_by_kind() {
        let good = packet(None);
        assert_eq!(Query::parse(&good[..11]).unwrap_err(), Reject::Silent);
        let mut response = good.clone();
        response[2] |= 0x80;
        assert_eq!(Query::parse(&response).unwrap_err(), Reject::Silent);
        let mut update = good.clone();
        update[2] |= 5 << 3;
        assert_eq!(Query::parse(&update).unwrap_err(), Reject::Answer(Rcode::NOTIMP));
        for broken in [&good[..good.len() - 1], &good[..12]] {
            assert_eq!(Query::parse(broken).unwrap_err(), Reject::Answer(Rcode::FORMERR));
        }
        let mut two = good.clone();
        two[5] = 2;
        assert_eq!(Query::parse(&two).unwrap_err(), Reject::Answer(Rcode::FORMERR));
        let mut opts = packet(Some((1232, false)));
        let opt = opts[opts.len() - 11..].to_vec();
        opts.extend_from_slice(&opt);
        opts[11] = 2;
        assert_eq!(Query::parse(&opts).unwrap_err(), Reject::Answer(Rcode::FORMERR));
    }

    #[test]
    fn small_edns_sizes_mean_512() {
        assert_eq!(Query::parse(&packet(Some((100, false)))).unwrap().udp_limit(), 512);
        assert_eq!(Query::parse(&packet(Some((65_535, false)))).unwrap().udp_limit(), 4096);
        assert_eq!(Query::parse(&packet(None)).unwrap().udp_limit(), 512);
    }

    proptest::proptest! {
        #[test]
        fn any_octets_are_a_query_or_rejected(bytes in proptest::collection::vec(0u8.., 0..600)) {
            let _ = Query::parse(&bytes);
        }

        #[test]
        fn a_damaged_query_is_a_query_or_rejected(at in 0usize..44, octet in 0u8.., cut in 0usize..45) {
            let mut bytes = packet(Some((1232, true)));
            if let Some(b) = bytes.get_mut(at) { *b = octet; }
            bytes.truncate(cut);
            let _ = Query::parse(&bytes);
        }
    }
}
