//! A question within one of the zones, taken apart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::cluster::index::label::decimal;
use crate::wire::{Class, HEADER_LEN, NameRef, Query, RecordType, name::Labels};

/// So many labels next to the zone can be told apart; the longest names of which more than that is asked have six: one of a
/// zone, directive, `_zone`, service, namespace, `svc`. A power of two.
const MAX_LABELS: usize = 8;

/// A question, and how much of its name stands before the zone.
#[derive(Clone, Copy)]
pub(super) struct Ask<'q> {
    /// The whole name, lower-cased.
    pub(super) lower: &'q [u8],
    /// The whole name in the client's case.
    pub(super) asked: &'q [u8],
    /// Octets before the zone.
    pub(super) cut: usize,
    /// The type asked for.
    pub(super) qtype: RecordType,
    // Of the label of each number, modulo their number: the last ones stay.
    starts: [u8; MAX_LABELS],
    count: usize,
}

impl<'q> Ask<'q> {
    /// Takes `query` apart, whose zone begins `cut` octets into the name.
    pub(super) fn new(query: &'q Query<'_>, cut: usize) -> Self {
        let lower = query.name().as_bytes();
        let mut ask = Self {
            lower,
            asked: query.name_as_asked().as_bytes(),
            cut,
            qtype: query.qtype(),
            starts: [0; MAX_LABELS],
            count: 0,
        };
        let mut at = 0;
        while at < cut {
            if let Some(start) = ask.starts.get_mut(ask.count % MAX_LABELS) {
                *start = at as u8;
            }
            ask.count += 1;
            at += usize::from(lower.get(at).copied().unwrap_or(0)) + 1;
        }
        ask
    }

    /// Labels before the zone. Of all but the last eight only the number is known.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The label of this number from the left, lower-cased.
    pub(super) fn label(&self, number: usize) -> &'q [u8] {
        let start = self.start(number);
        let len = usize::from(self.lower.get(start).copied().unwrap_or(0));
        self.lower.get(start + 1..start + 1 + len).unwrap_or(&[])
    }

    /// The label that stands so far above the zone: 0 is the one next to it.
    pub(super) fn above_zone(&self, number: usize) -> &'q [u8] {
        self.count.checked_sub(number + 1).map_or(&[], |number| self.label(number))
    }

    /// Where the label of this number from the left begins, its length octet included.
    pub(super) fn start(&self, number: usize) -> usize {
        if number >= self.count || number + MAX_LABELS < self.count {
            return self.cut;
        }
        self.starts.get(number % MAX_LABELS).map_or(self.cut, |&start| start.into())
    }

    /// The labels before the last so many, in wire form.
    pub(super) fn before(&self, last: usize) -> &'q [u8] {
        let end = self.count.checked_sub(last).map_or(0, |number| self.start(number));
        self.lower.get(..end).unwrap_or(&[])
    }

    /// Service and namespace, the labels before `svc`, in wire form: the key of the index.
    pub(super) fn service_key(&self) -> &'q [u8] {
        let svc = self.start(self.count.saturating_sub(1));
        self.lower.get(self.service_start()..svc).unwrap_or(&[])
    }

    /// Where the Service's name begins.
    pub(super) fn service_start(&self) -> usize {
        self.start(self.count.saturating_sub(3))
    }

    /// As [`Ask::write_suffix`], with a pointer into the question in the place of what stands there in the same case.
    pub(super) fn write_pointer(&self, start: usize, to: &mut NameWriter) {
        let before_zone = self.lower.get(start..self.cut).unwrap_or(&[]);
        if self.asked.get(start..self.cut) == Some(before_zone) {
            to.push(&pointer(start));
        } else {
            to.push(before_zone);
            to.push(&pointer(self.cut));
        }
    }

    /// The name from `start` on as answers have it: lower-case, but the zone as it was asked.
    pub(super) fn write_suffix(&self, start: usize, to: &mut NameWriter) {
        to.push(self.lower.get(start..self.cut).unwrap_or(&[]));
        to.push(self.asked.get(self.cut..).unwrap_or(&[0]));
    }
}

/// Room for octets that become a record's data, a name above all. What does not fit is left out, and [`NameWriter::get`]
/// then has nothing: a name that is too long has no record.
pub(super) struct NameWriter {
    bytes: [u8; 304],
    len: usize,
    overrun: bool,
}

impl NameWriter {
    pub(super) fn new() -> Self {
        Self { bytes: [0; 304], len: 0, overrun: false }
    }

    /// Appends octets.
    pub(super) fn push(&mut self, octets: &[u8]) {
        match self.bytes.get_mut(self.len..self.len + octets.len()) {
            Some(room) => {
                room.copy_from_slice(octets);
                self.len += octets.len();
            }
            None => self.overrun = true,
        }
    }

    /// Appends a label with its length.
    pub(super) fn push_label(&mut self, label: &[u8]) {
        self.push(&[label.len() as u8]);
        self.push(label);
    }

    /// Appends an address record behind its owner.
    pub(super) fn push_address_record(&mut self, ttl: u32, address: IpAddr) {
        let (rtype, len) =
            if address.is_ipv4() { (RecordType::A, 4) } else { (RecordType::AAAA, 16) };
        self.push(&rtype.0.to_be_bytes());
        self.push(&Class::IN.0.to_be_bytes());
        self.push(&ttl.to_be_bytes());
        self.push(&[0, len]);
        match address {
            IpAddr::V4(v4) => self.push(&v4.octets()),
            IpAddr::V6(v6) => self.push(&v6.octets()),
        }
    }

    /// Octets written.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Takes back all but the first `len` octets.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.overrun = false;
    }

    /// What was written; `None` where it did not fit.
    pub(super) fn get(&self) -> Option<&[u8]> {
        if self.overrun { None } else { self.bytes.get(..self.len) }
    }
}

/// A compression pointer to the suffix of the question that begins `octets` into it.
pub(super) fn pointer(octets: usize) -> [u8; 2] {
    (0xc000 | (HEADER_LEN + octets) as u16).to_be_bytes()
}

/// What the name of a reverse zone stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reversed {
    /// A whole address.
    Whole(IpAddr),
    /// An address cut off after so many octets (IPv4) or nibbles (IPv6); the rest is zero.
    Part(IpAddr, u8),
}

/// Reads a lower-cased name below `in-addr.arpa` or `ip6.arpa`; `None` where it is no address in its canonical form.
pub(super) fn reversed(name: NameRef<'_>) -> Option<Reversed> {
    if let Some(prefix) = name.relative_to(in_addr_arpa()) {
        let mut octets = [0u8; 4];
        let count = read_reversed(prefix, &mut octets, decimal)?;
        let address = IpAddr::V4(Ipv4Addr::from(octets));
        return Some(if count == 4 {
            Reversed::Whole(address)
        } else {
            Reversed::Part(address, count)
        });
    }
    let prefix = name.relative_to(ip6_arpa())?;
    let mut nibbles = [0u8; 32];
    let count = read_reversed(prefix, &mut nibbles, nibble)?;
    let bits = nibbles.iter().fold(0u128, |bits, &nibble| bits << 4 | u128::from(nibble));
    let address = IpAddr::V6(Ipv6Addr::from(bits));
    Some(if count == 32 { Reversed::Whole(address) } else { Reversed::Part(address, count) })
}

/// True for a zone of addresses.
pub(super) fn is_reverse(zone: NameRef<'_>) -> bool {
    zone.is_within(in_addr_arpa()) || zone.is_within(ip6_arpa())
}

fn in_addr_arpa() -> NameRef<'static> {
    NameRef::parse(b"\x07in-addr\x04arpa\0").unwrap_or(NameRef::ROOT)
}

fn ip6_arpa() -> NameRef<'static> {
    NameRef::parse(b"\x03ip6\x04arpa\0").unwrap_or(NameRef::ROOT)
}

/// Reads the labels of `prefix` from the right into `to`; their number, unless there are too many or one is wrong.
fn read_reversed(prefix: &[u8], to: &mut [u8], read: fn(&[u8]) -> Option<u8>) -> Option<u8> {
    let count = Labels::of_prefix(prefix).count();
    let to = to.get_mut(..count)?;
    for (label, slot) in Labels::of_prefix(prefix).zip(to.iter_mut().rev()) {
        *slot = read(label)?;
    }
    Some(count as u8)
}

fn nibble(text: &[u8]) -> Option<u8> {
    match *text {
        [digit @ b'0'..=b'9'] => Some(digit - b'0'),
        [digit @ b'a'..=b'f'] => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Name;

    #[test]
    fn names_of_reverse_zones_are_addresses() {
        let read = |text: &str| reversed(Name::from_text(text).unwrap().as_ref());
        let v4 = |text: &str| IpAddr::V4(text.parse().unwrap());
        assert_eq!(read("10.0.96.10.in-addr.arpa"), Some(Reversed::Whole(v4("10.96.0.10"))));
        assert_eq!(read("96.10.in-addr.arpa"), Some(Reversed::Part(v4("10.96.0.0"), 2)));
        assert_eq!(read("in-addr.arpa"), Some(Reversed::Part(v4("0.0.0.0"), 0)));
        for wrong in [
            "010.0.96.10.in-addr.arpa",
            "256.0.0.1.in-addr.arpa",
            "1.2.3.4.5.in-addr.arpa",
            "x.in-addr.arpa",
            "a.b",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        let name = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.1.0.0.0.0.d.f.ip6.arpa";
        assert_eq!(
            read(&format!("0.0.0.0.{name}")),
            Some(Reversed::Whole("fd00:10:1::1:0".parse().unwrap()))
        );
        assert_eq!(read("0.0.d.f.ip6.arpa"), Some(Reversed::Part("fd00::".parse().unwrap(), 4)));
        assert_eq!(read("00.d.f.ip6.arpa"), None);
    }
}
