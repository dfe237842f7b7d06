//! Names that are made of addresses, and which rows of a slice bear a name.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ask::decimal;
use crate::cluster::index::slice::{Slice, hash};
use crate::wire::name::MAX_LABEL;

/// How endpoints without a `hostname` are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum Naming {
    /// By their address, with dashes.
    #[default]
    Address,
    /// By their Pod, where it is known and a label (`endpoint_pod_names`); else by their address.
    Pod,
}

impl Naming {
    /// The label of an endpoint, written into `room` where it is made of the address.
    pub(super) fn label<'l>(
        self,
        slice: &'l Slice,
        row: usize,
        room: &'l mut LabelBuf,
    ) -> &'l [u8] {
        let own = self.own(slice, row);
        if !own.is_empty() {
            return own;
        }
        if let Some(address) = slice.address(row) {
            room.write_address(address);
        }
        room.get()
    }

    /// The label of an endpoint that is not made of its address; empty where it has none.
    pub(super) fn own(self, slice: &Slice, row: usize) -> &[u8] {
        match (slice.hostnames.get(row), self) {
            (b"", Self::Pod) => slice.pods.get(row),
            (hostname, _) => hostname,
        }
    }

    /// Calls `visit` with every row of `slice` that bears `name`, until it returns false; false if it did.
    pub(super) fn rows(
        self,
        slice: &Slice,
        name: &Label<'_>,
        mut visit: impl FnMut(usize) -> bool,
    ) -> bool {
        let by_hostname = slice.hostnames.rows_of(name.text, name.hash);
        let by_pod = slice
            .pods
            .rows_of(name.text, name.hash)
            .filter(|&row| slice.hostnames.get(row).is_empty());
        let by_pod = by_pod.take_while(|_| self == Self::Pod);
        let by_address = name.address.map_or(0..0, |address| slice.rows_of(address));
        let by_address = by_address.filter(|&row| self.own(slice, row).is_empty());
        by_hostname.chain(by_pod).chain(by_address).all(&mut visit)
    }

    /// True where every row of `slice` is called by its address.
    pub(super) fn is_by_address(self, slice: &Slice) -> bool {
        slice.hostnames.is_empty() && (self == Self::Address || slice.pods.is_empty())
    }

    /// True where some row of `slice` bears `name`.
    pub(super) fn knows(self, slice: &Slice, name: &Label<'_>) -> bool {
        !self.rows(slice, name, |_| false)
    }
}

/// An endpoint's label, with the address that it is made of, if it is.
#[derive(Clone, Copy)]
pub(super) struct Label<'l> {
    pub(super) text: &'l [u8],
    address: Option<IpAddr>,
    hash: u32,
}

impl<'l> Label<'l> {
    /// A label of a question.
    pub(super) fn asked(text: &'l [u8]) -> Self {
        // Only the one spelling that answers use is a name.
        let address = dashed(text).filter(|&address| {
            let mut canonical = LabelBuf::new();
            canonical.write_address(address);
            canonical.get() == text
        });
        Self { text, address, hash: hash(text) }
    }

    /// The label of a row.
    pub(super) fn of(naming: Naming, slice: &'l Slice, row: usize, room: &'l mut LabelBuf) -> Self {
        let own = naming.own(slice, row);
        if !own.is_empty() {
            // A hostname that looks like an address is a name of that address's endpoint as well.
            return Self::asked(own);
        }
        let text = naming.label(slice, row, room);
        Self { text, address: slice.address(row), hash: hash(text) }
    }
}

/// Room for one label.
pub(super) struct LabelBuf {
    bytes: [u8; MAX_LABEL],
    len: usize,
}

impl LabelBuf {
    pub(super) fn new() -> Self {
        Self { bytes: [0; MAX_LABEL], len: 0 }
    }

    pub(super) fn get(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    /// Writes `address` as CoreDNS names endpoints: dots and colons become dashes, and an IPv6 address that would end in
    /// a dash gets a zero.
    pub(super) fn write_address(&mut self, address: IpAddr) {
        self.len = 0;
        match address {
            IpAddr::V4(v4) => {
                for (n, octet) in v4.octets().into_iter().enumerate() {
                    if n > 0 {
                        self.push(b'-');
                    }
                    for (least, digit) in
                        [(100, octet / 100), (10, octet / 10 % 10), (0, octet % 10)]
                    {
                        if octet >= least {
                            self.push(b'0' + digit);
                        }
                    }
                }
            }
            IpAddr::V6(v6) => {
                // Never fails: the room drops what does not fit, and 45 octets do.
                let _ = write!(self, "{v6}");
                let written = self.bytes.get_mut(..self.len).unwrap_or_default();
                written
                    .iter_mut()
                    .filter(|octet| matches!(octet, b':' | b'.'))
                    .for_each(|octet| *octet = b'-');
                if self.get().ends_with(b"-") {
                    self.push(b'0');
                }
            }
        }
    }

    fn push(&mut self, octet: u8) {
        if let Some(slot) = self.bytes.get_mut(self.len) {
            *slot = octet;
            self.len += 1;
        }
    }
}

impl Write for LabelBuf {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        text.bytes().for_each(|octet| self.push(octet));
        Ok(())
    }
}

/// Reads an address whose dots or colons are dashes: with exactly three dashes, no two of them side by side, it is IPv4.
pub(super) fn dashed(label: &[u8]) -> Option<IpAddr> {
    let dashes = label.iter().filter(|&&octet| octet == b'-').count();
    if dashes == 3 && !label.windows(2).any(|pair| pair == b"--") {
        let mut octets = [0u8; 4];
        for (slot, part) in octets.iter_mut().zip(label.split(|&octet| octet == b'-')) {
            *slot = decimal(part)?;
        }
        return Some(Ipv4Addr::from(octets).into());
    }
    let mut text = [0u8; MAX_LABEL];
    let text = text.get_mut(..label.len())?;
    for (to, &from) in text.iter_mut().zip(label) {
        *to = if from == b'-' { b':' } else { from };
    }
    std::str::from_utf8(text).ok()?.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(address: &str) -> String {
        let mut room = LabelBuf::new();
        room.write_address(address.parse().unwrap());
        String::from_utf8(room.get().to_vec()).unwrap()
    }

    #[test]
    fn addresses_become_labels() {
        for (address, label) in [
            ("10.1.0.10", "10-1-0-10"),
            ("255.100.99.0", "255-100-99-0"),
            ("fd00:9::", "fd00-9--0"),
            ("fd00:10:1::a:b", "fd00-10-1--a-b"),
        ] {
            assert_eq!(named(address), label);
            assert_eq!(Label::asked(label.as_bytes()).address, address.parse().ok());
        }
        for label in
            ["fd00-9--", "fd00-0009-0000-0000-0000-0000-0000-0001", "010-1-0-10", "mysql-0"]
        {
            assert_eq!(Label::asked(label.as_bytes()).address, None, "{label}");
        }
    }

    #[test]
    fn pods_are_called_in_more_ways() {
        for (label, address) in [
            ("1-2-3-4", Some("1.2.3.4")),
            ("fd00--1", Some("fd00::1")),
            ("fd00-10-1--", Some("fd00:10:1::")),
            ("1-2-3", None),
            ("10-1-2-300", None),
            ("1--2-3", Some("1::2:3")),
        ] {
            assert_eq!(dashed(label.as_bytes()), address.map(|a| a.parse().unwrap()), "{label}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_address_is_found_by_its_label(bits in 0u128.., v4 in 0u32..) {
            for address in [IpAddr::V6(bits.into()), IpAddr::V4(v4.into())] {
                let label = named(&address.to_string());
                if !matches!(address, IpAddr::V6(v6) if v6.to_string().contains('.')) {
                    proptest::prop_assert_eq!(Label::asked(label.as_bytes()).address, Some(address));
                }
            }
        }

        #[test]
        fn any_label_is_an_address_or_none(label in proptest::collection::vec(0u8.., 0..=63)) {
            let _ = dashed(&label);
        }
    }
}
