//! Records of addresses in wire form, and sets of them that are changed at the cost of what changes.

use std::net::IpAddr;

use smallvec::SmallVec;

/// Octets of an A record whose owner is a pointer.
pub const A_LEN: usize = 16;
/// Octets of an AAAA record whose owner is a pointer.
pub const AAAA_LEN: usize = 28;

/// Records in wire form, each owned by a pointer to the question, with a time to live of zero for the reply to set.
/// One A record stands within.
pub type Records = SmallVec<[u8; A_LEN]>;

/// The addresses in record sets.
pub fn addresses_in<'r>(a: &'r [u8], aaaa: &'r [u8]) -> impl Iterator<Item = IpAddr> + 'r {
    let v4 = octets::<4>(a).map(IpAddr::from);
    v4.chain(octets::<16>(aaaa).map(IpAddr::from))
}

pub(super) fn address_at<const N: usize>(records: &[u8], row: usize) -> Option<IpAddr>
where
    IpAddr: From<[u8; N]>,
{
    let record = records.get(row * (12 + N)..(row + 1) * (12 + N))?;
    record.last_chunk::<N>().copied().map(IpAddr::from)
}

pub(super) fn octets<const N: usize>(records: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    records.chunks_exact(12 + N).filter_map(|record| record.last_chunk::<N>().copied())
}

pub(super) fn of_family<const N: usize>(
    addresses: &[IpAddr],
    octets: fn(IpAddr) -> Option<[u8; N]>,
) -> Vec<[u8; N]> {
    addresses.iter().filter_map(|&address| octets(address)).collect()
}

/// The set without `gone` and with `come`, both in ascending order if `records` is. Everything between two changes is
/// copied at once, so that a change in a set of 5,000 costs two searches and one copy.
pub(super) fn patch<const N: usize>(records: &[u8], gone: &[[u8; N]], come: &[[u8; N]]) -> Records {
    let stride = 12 + N;
    if gone.is_empty() && come.is_empty() {
        return Records::from_slice(records);
    }
    let at = |row: usize| records.get(row * stride + 12..(row + 1) * stride).unwrap_or(&[]);
    let rows = records.len() / stride;
    // The first row from `from` on that is not below `address`.
    let search = |from: usize, address: &[u8; N]| {
        let (mut low, mut high) = (from, rows);
        while low < high {
            let middle = low + (high - low) / 2;
            if at(middle) < address.as_slice() { low = middle + 1 } else { high = middle }
        }
        low
    };
    let mut new = Records::new();
    new.reserve_exact((rows + come.len()).saturating_sub(gone.len()) * stride);
    let (mut gone, mut come) = (gone.iter().peekable(), come.iter().peekable());
    let mut row = 0;
    loop {
        let removal = match (gone.peek(), come.peek()) {
            (Some(old), Some(new)) => old <= new,
            (old, new) => match (old, new) {
                (None, None) => break,
                (old, _) => old.is_some(),
            },
        };
        let Some(address) = (if removal { gone.next() } else { come.next() }) else { break };
        let next = search(row, address);
        new.extend_from_slice(records.get(row * stride..next * stride).unwrap_or(&[]));
        let there = at(next) == address.as_slice();
        row = if removal && there { next + 1 } else { next };
        if !removal && !there {
            new.extend_from_slice(&head::<N>());
            new.extend_from_slice(address);
        }
    }
    new.extend_from_slice(records.get(row * stride..).unwrap_or(&[]));
    new
}

/// A record up to its address: pointer to the question, type by the family, class IN, TTL 0, length.
fn head<const N: usize>() -> [u8; 12] {
    [0xc0, 12, 0, if N == 4 { 1 } else { 28 }, 0, 1, 0, 0, 0, 0, 0, N as u8]
}
