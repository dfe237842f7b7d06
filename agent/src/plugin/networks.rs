//! Sets of networks, for directives that decide by the client's address.

use std::net::IpAddr;

use ipnet::IpNet;

/// Networks as sorted ranges that do not overlap: a look-up costs the logarithm of their number.
#[derive(Debug, Default)]
pub struct Networks {
    /// Every address, whatever the ranges.
    all: bool,
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Networks {
    /// Those of `networks`; none of them: no address.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        let mut ranges = Self::default();
        for network in networks {
            match network {
                IpNet::V4(net) => {
                    ranges.v4.push((net.network().to_bits(), net.broadcast().to_bits()))
                }
                IpNet::V6(net) => {
                    ranges.v6.push((net.network().to_bits(), net.broadcast().to_bits()))
                }
            }
        }
        ranges.v4 = merged(ranges.v4);
        ranges.v6 = merged(ranges.v6);
        ranges
    }

    /// Every address.
    pub fn all() -> Self {
        Self { all: true, ..Self::default() }
    }

    /// Whether every address is in it because nothing narrower was written.
    pub fn is_all(&self) -> bool {
        self.all
    }

    /// Whether a client's address is in one of them. IPv4 in IPv6 counts as IPv4.
    pub fn contain(&self, client: IpAddr) -> bool {
        // A socket for both families shows IPv4 clients as ::ffff:a.b.c.d.
        self.all
            || match client.to_canonical() {
                IpAddr::V4(ip) => within(&self.v4, ip.to_bits()),
                IpAddr::V6(ip) => within(&self.v6, ip.to_bits()),
            }
    }
}

fn merged<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Vec<(T, T)> {
    ranges.sort_unstable();
    let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1 => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

fn within<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|range| range.0 <= address);
    after.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|range| address <= range.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn ranges_are_the_networks(
            networks in proptest::collection::vec((0u32.., 0u8..33), 0..20), address in 0u32..,
        ) {
            let networks: Vec<IpNet> = networks
                .iter()
                .map(|(ip, len)| IpNet::new(std::net::Ipv4Addr::from(*ip).into(), *len).unwrap().trunc())
                .collect();
            let client = IpAddr::from(std::net::Ipv4Addr::from(address));
            let expected = networks.iter().any(|network| network.contains(&client));
            proptest::prop_assert_eq!(Networks::new(networks).contain(client), expected);
        }
    }
}
