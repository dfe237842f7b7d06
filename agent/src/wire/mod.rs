//! DNS messages as bytes: borrowed views for what arrives, an in-place writer for what leaves. Nothing here allocates
//! on the way of a query, and nothing here panics, whatever the bytes.
//!
//! | module | what |
//! |---|---|
//! | [`name`] | names in wire form, lower-cased: the key of zones, cache and index |
//! | [`query`] | the header, the one question and the EDNS of a query, checked in place |
//! | [`layout`] | where each record of a message begins and ends |
//! | [`message`] | a whole message that came from elsewhere |
//! | [`reply`] | the answer being written: header, question in the client's case, records, OPT, honest truncation |
//! | [`compress`] | names written once and pointed to |
//! | [`check`] | that every name of a received message can be expanded |
//! | [`rdata`] | where the names are in the data of each type |
//! | [`record`] | records taken out of a message, changed, and put into another one: the slow way |
//! | [`text`] | records as text: zone files and templates |

mod check;
pub mod compress;
pub mod layout;
pub mod message;
pub mod name;
pub mod query;
pub mod rdata;
pub mod record;
pub mod reply;
pub mod text;

pub use compress::Compressor;
pub use layout::{Layout, MessageError, RecordAt};
pub use message::Message;
pub use name::{Name, NameBuf, NameError, NameRef};
pub use query::{Edns, Query, Reject};
pub use record::Record;
pub use reply::{Owner, Reply};

/// Octets of a DNS header (RFC 1035 section 4.1.1).
pub const HEADER_LEN: usize = 12;
/// The longest message that TCP can frame.
pub const MAX_MESSAGE: usize = 65_535;
/// What a client without EDNS can take over UDP (RFC 1035 section 4.2.1).
pub const MIN_UDP_PAYLOAD: u16 = 512;
/// The size that we announce in our own OPT records: what passes every path unfragmented (DNS flag day 2020).
pub const OUR_UDP_PAYLOAD: u16 = 1_232;
/// The most that we send over UDP, whatever the client says that it takes.
pub const MAX_UDP_PAYLOAD: u16 = 4_096;

/// Header flags, as masks on octets 2 and 3 read as one big-endian number.
pub mod flags {
    /// Response.
    pub const QR: u16 = 0x8000;
    /// Authoritative answer.
    pub const AA: u16 = 0x0400;
    /// Truncated.
    pub const TC: u16 = 0x0200;
    /// Recursion desired.
    pub const RD: u16 = 0x0100;
    /// Recursion available.
    pub const RA: u16 = 0x0080;
    /// Authentic data (RFC 4035).
    pub const AD: u16 = 0x0020;
    /// Checking disabled (RFC 4035).
    pub const CD: u16 = 0x0010;
    /// The opcode's four bits.
    pub const OPCODE: u16 = 0x7800;
    /// The low four bits of the response code.
    pub const RCODE: u16 = 0x000f;
}

/// A response code with its EDNS extension: 12 bits (RFC 6895 section 2.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rcode(pub u16);

#[allow(missing_docs, reason = "the names are the registry's")]
impl Rcode {
    pub const NOERROR: Self = Self(0);
    pub const FORMERR: Self = Self(1);
    pub const SERVFAIL: Self = Self(2);
    pub const NXDOMAIN: Self = Self(3);
    pub const NOTIMP: Self = Self(4);
    pub const REFUSED: Self = Self(5);
    pub const YXDOMAIN: Self = Self(6);
    pub const YXRRSET: Self = Self(7);
    pub const NXRRSET: Self = Self(8);
    pub const NOTAUTH: Self = Self(9);
    pub const NOTZONE: Self = Self(10);
    pub const BADVERS: Self = Self(16);
    pub const BADCOOKIE: Self = Self(23);
}

impl Rcode {
    /// The name that CoreDNS prints in logs and metrics.
    pub fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0 => "NOERROR",
            1 => "FORMERR",
            2 => "SERVFAIL",
            3 => "NXDOMAIN",
            4 => "NOTIMP",
            5 => "REFUSED",
            6 => "YXDOMAIN",
            7 => "YXRRSET",
            8 => "NXRRSET",
            9 => "NOTAUTH",
            10 => "NOTZONE",
            16 => "BADVERS",
            17 => "BADKEY",
            18 => "BADTIME",
            19 => "BADMODE",
            20 => "BADNAME",
            21 => "BADALG",
            22 => "BADTRUNC",
            23 => "BADCOOKIE",
            _ => return None,
        })
    }

    /// The code of a name as [`Rcode::name`] prints it, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        (0..24).map(Self).find(|code| code.name().is_some_and(|n| n.eq_ignore_ascii_case(name)))
    }
}

impl std::fmt::Display for Rcode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "RCODE{}", self.0),
        }
    }
}

impl std::fmt::Debug for Rcode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// A record or query type.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordType(pub u16);

#[allow(missing_docs, reason = "the names are the registry's")]
impl RecordType {
    pub const A: Self = Self(1);
    pub const NS: Self = Self(2);
    pub const CNAME: Self = Self(5);
    pub const SOA: Self = Self(6);
    pub const PTR: Self = Self(12);
    pub const HINFO: Self = Self(13);
    pub const MX: Self = Self(15);
    pub const TXT: Self = Self(16);
    pub const AAAA: Self = Self(28);
    pub const SRV: Self = Self(33);
    pub const DNAME: Self = Self(39);
    pub const OPT: Self = Self(41);
    pub const DS: Self = Self(43);
    pub const RRSIG: Self = Self(46);
    pub const NSEC: Self = Self(47);
    pub const DNSKEY: Self = Self(48);
    pub const NSEC3: Self = Self(50);
    pub const SVCB: Self = Self(64);
    pub const HTTPS: Self = Self(65);
    pub const TSIG: Self = Self(250);
    pub const IXFR: Self = Self(251);
    pub const AXFR: Self = Self(252);
    pub const ANY: Self = Self(255);
}

impl RecordType {
    /// The registry's mnemonic of the types that this program names.
    pub fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            1 => "A",
            2 => "NS",
            5 => "CNAME",
            6 => "SOA",
            10 => "NULL",
            12 => "PTR",
            13 => "HINFO",
            15 => "MX",
            16 => "TXT",
            17 => "RP",
            18 => "AFSDB",
            28 => "AAAA",
            29 => "LOC",
            33 => "SRV",
            35 => "NAPTR",
            37 => "CERT",
            39 => "DNAME",
            41 => "OPT",
            43 => "DS",
            44 => "SSHFP",
            46 => "RRSIG",
            47 => "NSEC",
            48 => "DNSKEY",
            50 => "NSEC3",
            51 => "NSEC3PARAM",
            52 => "TLSA",
            53 => "SMIMEA",
            59 => "CDS",
            60 => "CDNSKEY",
            61 => "OPENPGPKEY",
            62 => "CSYNC",
            63 => "ZONEMD",
            64 => "SVCB",
            65 => "HTTPS",
            99 => "SPF",
            250 => "TSIG",
            251 => "IXFR",
            252 => "AXFR",
            255 => "ANY",
            256 => "URI",
            257 => "CAA",
            _ => return None,
        })
    }

    /// The type of a mnemonic in any case, or of `TYPE123` (RFC 3597 section 5).
    pub fn from_name(name: &str) -> Option<Self> {
        let upper = name.to_ascii_uppercase();
        if let Some(number) = upper.strip_prefix("TYPE") {
            return number.parse().ok().map(Self);
        }
        (1..258).map(Self).find(|t| t.name() == Some(upper.as_str()))
    }
}

impl std::fmt::Display for RecordType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "TYPE{}", self.0),
        }
    }
}

impl std::fmt::Debug for RecordType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// A record or query class.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Class(pub u16);

impl Class {
    /// Internet.
    pub const IN: Self = Self(1);
    /// Chaosnet: `version.bind` and its like live here.
    pub const CHAOS: Self = Self(3);
    /// Any class.
    pub const ANY: Self = Self(255);
}

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            1 => f.write_str("IN"),
            3 => f.write_str("CH"),
            4 => f.write_str("HS"),
            254 => f.write_str("NONE"),
            255 => f.write_str("ANY"),
            n => write!(f, "CLASS{n}"),
        }
    }
}

/// The section of a message that a record stands in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Section {
    /// The records asked for, with the CNAMEs that led there.
    Answer,
    /// The SOA of a negative answer, or NS records.
    Authority,
    /// Addresses of names in the other sections; OPT is never counted here.
    Additional,
}

/// Reads a big-endian `u16` at `at`, if the bytes are there.
pub fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

/// Reads a big-endian `u32` at `at`, if the bytes are there.
pub fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

/// Overwrites two octets at `at` with `value`; does nothing beyond the end.
pub fn write_u16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(slot) = bytes.get_mut(at..at + 2) {
        slot.copy_from_slice(&value.to_be_bytes());
    }
}

/// Overwrites four octets at `at` with `value`; does nothing beyond the end.
pub fn write_u32(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(slot) = bytes.get_mut(at..at + 4) {
        slot.copy_from_slice(&value.to_be_bytes());
    }
}
