//! Where names are in the data of each type.

use super::name::skip_name;
use super::{NameError, NameRef, RecordType, read_u32};

/// What the data of a type consist of, from left to right.
#[derive(Clone, Copy)]
pub(super) enum Part {
    /// So many octets.
    Octets(usize),
    /// A character-string: a length and so many octets.
    Text,
    /// A name, which may be compressed in a message.
    Name,
}

/// The parts of a type's data up to its last name; what is behind them has no names. Empty for types without names, and
/// for those of DNSSEC, whose names are never compressed (RFC 3597 section 4): their data are copied as they are.
pub(super) fn parts(rtype: RecordType) -> &'static [Part] {
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

/// True for the types of RFC 1035, whose names every receiver expands (RFC 3597 section 4).
pub(super) fn is_well_known(rtype: RecordType) -> bool {
    matches!(rtype.0, 2..=9 | 12 | 14 | 15)
}

/// Octets of `part`, which begins at `at`; a name's octets as they are in `bytes`, a pointer counted as two.
pub(super) fn length(part: Part, bytes: &[u8], at: usize) -> Result<usize, NameError> {
    match part {
        Part::Octets(octets) => Ok(octets),
        Part::Text => Ok(usize::from(*bytes.get(at).ok_or(NameError::Short)?) + 1),
        Part::Name => Ok(skip_name(bytes, at)? - at),
    }
}

/// True if uncompressed data have the names of their type where they belong.
pub(super) fn is_sound(rtype: RecordType, rdata: &[u8]) -> bool {
    let mut at = 0;
    parts(rtype).iter().all(|part| {
        let name = rdata.get(at..).is_some_and(|bytes| NameRef::parse(bytes).is_ok());
        let Ok(octets) = length(*part, rdata, at) else { return false };
        at += octets;
        at <= rdata.len() && (name || !matches!(part, Part::Name))
    })
}

/// The target of uncompressed data of a CNAME, DNAME, NS, PTR, MX or SRV.
pub fn target(rtype: RecordType, rdata: &[u8]) -> Option<NameRef<'_>> {
    let mut at = 0;
    for part in parts(rtype) {
        if let Part::Name = part {
            return NameRef::parse(rdata.get(at..)?).ok();
        }
        at += length(*part, rdata, at).ok()?;
    }
    None
}

/// How long an SOA with this time to live lets a denial be kept: the lesser of that and its last field (RFC 2308 section 5).
pub fn negative_ttl(ttl: u32, rdata: &[u8]) -> u32 {
    let minimum = rdata.len().checked_sub(4).and_then(|at| read_u32(rdata, at));
    minimum.map_or(ttl, |minimum| minimum.min(ttl))
}
