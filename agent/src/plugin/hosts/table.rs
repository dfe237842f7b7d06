//! The names and addresses, as records that are ready to be copied into a reply.

use std::net::IpAddr;

use hashbrown::HashMap;

use crate::wire::{Class, Name, NameRef, RecordType};

/// Octets of an A record whose owner is a pointer to the question.
pub(super) const A_LEN: usize = 16;
/// The same of an AAAA record.
pub(super) const AAAA_LEN: usize = 28;
/// Lists longer than this are not searched for what stands twice; block lists give one address to 100,000 names.
const MAX_SEARCH: usize = 64;

type Map<V> = HashMap<Name, V, foldhash::fast::RandomState>;

/// What a hosts file holds.
#[derive(Debug, Default)]
pub(super) struct Table {
    addresses: Map<Addresses>,
    /// Names by reverse name.
    names: Map<Box<[Name]>>,
    /// Addresses and reverse entries together, as CoreDNS counts them.
    pub(super) entries: usize,
}

/// The addresses of a name, in wire form.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// Records of [`A_LEN`] octets.
    pub(super) v4: Box<[u8]>,
    /// Records of [`AAAA_LEN`] octets.
    pub(super) v6: Box<[u8]>,
}

impl Table {
    pub(super) fn addresses_of(&self, name: NameRef<'_>) -> Option<&Addresses> {
        self.addresses.get(name.as_bytes())
    }

    pub(super) fn names_of(&self, reverse: NameRef<'_>) -> Option<&[Name]> {
        self.names.get(reverse.as_bytes()).map(AsRef::as_ref)
    }
}

/// A table that is being filled.
pub(super) struct Builder<'a> {
    zones: &'a [Name],
    ttl: u32,
    reverse: bool,
    addresses: Map<(Vec<u8>, Vec<u8>)>,
    names: Map<Vec<Name>>,
}

impl<'a> Builder<'a> {
    /// Takes names within `zones` only.
    pub(super) fn new(zones: &'a [Name], ttl: u32, reverse: bool) -> Self {
        Self { zones, ttl, reverse, addresses: Map::default(), names: Map::default() }
    }

    /// Adds the lines of a hosts file. What cannot be read is left out; returned is the first such line's number with what is
    /// wrong.
    pub(super) fn add(&mut self, text: &str) -> Option<(usize, String)> {
        let mut wrong = None;
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(first) = words.next() else { continue };
            let Some(ip) = address(first) else {
                wrong.get_or_insert_with(|| (number + 1, format!("{first:?} is not an address")));
                continue;
            };
            for word in words {
                match Name::from_text(word) {
                    Ok(name) => self.insert(ip, name),
                    Err(error) => {
                        wrong.get_or_insert_with(|| {
                            (number + 1, format!("{word:?} is not a name: {error}"))
                        });
                    }
                }
            }
        }
        wrong
    }

    fn insert(&mut self, ip: IpAddr, name: Name) {
        if !self.zones.iter().any(|zone| name.as_ref().is_within(zone.as_ref())) {
            return;
        }
        let (v4, v6) = self.addresses.entry(name.clone()).or_default();
        let new = match ip {
            IpAddr::V4(ip) => push_record(v4, RecordType::A, self.ttl, &ip.octets()),
            IpAddr::V6(ip) => push_record(v6, RecordType::AAAA, self.ttl, &ip.octets()),
        };
        if new
            && self.reverse
            && let Some(reverse) = reverse_name(ip)
        {
            self.names.entry(reverse).or_default().push(name);
        }
    }

    pub(super) fn finish(self) -> Table {
        let addresses: Map<Addresses> = self
            .addresses
            .into_iter()
            .map(|(name, (v4, v6))| (name, Addresses { v4: v4.into(), v6: v6.into() }))
            .collect();
        let names: Map<Box<[Name]>> =
            self.names.into_iter().map(|(reverse, names)| (reverse, names.into())).collect();
        let forward: usize = addresses
            .values()
            .map(|found| found.v4.len() / A_LEN + found.v6.len() / AAAA_LEN)
            .sum();
        let entries = forward + names.values().map(|names| names.len()).sum::<usize>();
        Table { addresses, names, entries }
    }
}

/// The address that a line begins with; the zone of an IPv6 address (`fe80::1%eth0`) is left out.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    let bare = text.split('%').next().unwrap_or(text);
    bare.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// Appends a record unless it is there; says whether it was new.
fn push_record(records: &mut Vec<u8>, rtype: RecordType, ttl: u32, address: &[u8]) -> bool {
    let stride = 12 + address.len();
    let mut few = records.chunks_exact(stride).take(MAX_SEARCH);
    if few.any(|record| record.ends_with(address)) {
        return false;
    }
    // A pointer to the name in the question.
    records.extend_from_slice(&[0xc0, crate::wire::HEADER_LEN as u8]);
    records.extend_from_slice(&rtype.0.to_be_bytes());
    records.extend_from_slice(&Class::IN.0.to_be_bytes());
    records.extend_from_slice(&ttl.to_be_bytes());
    records.extend_from_slice(&(address.len() as u16).to_be_bytes());
    records.extend_from_slice(address);
    true
}

/// The name that an address is looked up by (RFC 1035 section 3.5, RFC 3596 section 2.5).
fn reverse_name(ip: IpAddr) -> Option<Name> {
    let text = match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(ip) => {
            let nibbles = ip
                .octets()
                .into_iter()
                .rev()
                .map(|octet| format!("{:x}.{:x}.", octet & 15, octet >> 4));
            nibbles.collect::<String>() + "ip6.arpa"
        }
    };
    Name::from_text(&text).ok()
}
