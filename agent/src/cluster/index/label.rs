//! Labels that are made of addresses, as CoreDNS makes them: dots and colons become dashes.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::name::MAX_LABEL;

/// The label of an endpoint: its own, or made of an address. One label is always read as the same variant, so that a
/// hostname that looks like an address is the name of that address's endpoint as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Label<'l> {
    /// A hostname or a Pod's name, in lower case.
    Own(&'l [u8]),
    /// The one spelling that answers use for this address.
    Address(IpAddr),
}

impl<'l> Label<'l> {
    /// Reads a label in lower case.
    pub fn read(text: &'l [u8]) -> Self {
        let canonical = |address: &IpAddr| LabelBuf::of(*address).get() == text;
        dashed(text).filter(canonical).map_or(Self::Own(text), Self::Address)
    }

    /// The label's octets, written into `buffer` if it is made of an address.
    pub fn text<'t>(&self, buffer: &'t mut LabelBuf) -> &'t [u8]
    where
        'l: 't,
    {
        match self {
            Self::Own(text) => text,
            Self::Address(address) => {
                *buffer = LabelBuf::of(*address);
                buffer.get()
            }
        }
    }
}

/// A buffer for one label.
pub struct LabelBuf {
    bytes: [u8; MAX_LABEL],
    len: usize,
}

impl LabelBuf {
    /// An empty buffer.
    pub fn new() -> Self {
        Self { bytes: [0; MAX_LABEL], len: 0 }
    }

    /// The label of an address. An IPv6 address that would end in a dash gets a zero.
    pub fn of(address: IpAddr) -> Self {
        let mut buffer = Self::new();
        buffer.write_address(address);
        buffer
    }

    /// The label.
    pub fn get(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    fn write_address(&mut self, address: IpAddr) {
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
                // Never fails: the buffer drops what does not fit, and 45 octets do.
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

impl Default for LabelBuf {
    fn default() -> Self {
        Self::new()
    }
}

impl Write for LabelBuf {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        text.bytes().for_each(|octet| self.push(octet));
        Ok(())
    }
}

/// Reads an address whose dots or colons are dashes: with exactly three dashes, no two of them side by side, it is IPv4.
pub fn dashed(label: &[u8]) -> Option<IpAddr> {
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

/// An octet in decimal, without leading zeros.
pub fn decimal(text: &[u8]) -> Option<u8> {
    if text.is_empty() || text.len() > 3 || (text.len() > 1 && text.first() == Some(&b'0')) {
        return None;
    }
    let mut value = 0u16;
    for &digit in text {
        value = value * 10 + u16::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(address: &str) -> String {
        String::from_utf8(LabelBuf::of(address.parse().unwrap()).get().to_vec()).unwrap()
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
            assert_eq!(Label::read(label.as_bytes()), Label::Address(address.parse().unwrap()));
        }
        for label in
            ["fd00-9--", "fd00-0009-0000-0000-0000-0000-0000-0001", "010-1-0-10", "mysql-0"]
        {
            assert_eq!(Label::read(label.as_bytes()), Label::Own(label.as_bytes()), "{label}");
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
                    proptest::prop_assert_eq!(Label::read(label.as_bytes()), Label::Address(address));
                }
            }
        }

        #[test]
        fn any_label_is_an_address_or_none(label in proptest::collection::vec(0u8.., 0..=63)) {
            let _ = Label::read(&label);
        }
    }
}
