//! Reverse zones of networks, as CoreDNS makes them from a key like `10.0.0.0/17`.

use std::fmt::Write;
use std::net::IpAddr;

use ipnet::IpNet;

/// The reverse zones that together cover a network, as text with the final dot.
///
/// A zone ends at an octet (IPv4) or a nibble (IPv6). A prefix between two such ends needs several zones: `/17` needs 128
/// of a `/24` each, which is also the most there can be.
pub(super) fn zones(network: IpNet) -> Vec<String> {
    let network = network.trunc();
    let (address, bits, step) = match network.addr() {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32, 8),
        IpAddr::V6(address) => (address.to_bits(), 128, 4),
    };
    let prefix = u32::from(network.prefix_len());
    let end = prefix.div_ceil(step) * step;
    (0..1_u128 << (end - prefix))
        // Nothing to shift where the whole space is meant: the shift would be by all bits.
        .map(|index| address | index.checked_shl(bits - end).unwrap_or(0))
        .map(|address| name(address, bits, step, end))
        .collect()
}

/// The name of the `end` highest bits of an address, its lowest digit first.
fn name(address: u128, bits: u32, step: u32, end: u32) -> String {
    let mut name = String::new();
    for digit in (0..end / step).rev() {
        let value = address >> (bits - (digit + 1) * step) & ((1 << step) - 1);
        // Writing to a String cannot fail.
        let _ = if step == 8 { write!(name, "{value}.") } else { write!(name, "{value:x}.") };
    }
    name + if bits == 32 { "in-addr.arpa." } else { "ip6.arpa." }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(network: &str) -> Vec<String> {
        zones(network.parse().unwrap())
    }

    #[test]
    fn ends_at_octets_and_nibbles() {
        assert_eq!(of("10.0.0.0/8"), ["10.in-addr.arpa."]);
        assert_eq!(of("10.1.2.3/16"), ["1.10.in-addr.arpa."]);
        assert_eq!(of("10.1.2.3/32"), ["3.2.1.10.in-addr.arpa."]);
        assert_eq!(of("0.0.0.0/0"), ["in-addr.arpa."]);
        assert_eq!(of("2001:db8::/32"), ["8.b.d.0.1.0.0.2.ip6.arpa."]);
        assert_eq!(of("::/0"), ["ip6.arpa."]);
        assert_eq!(of("::1/128").len(), 1);
    }

    #[test]
    fn splits_between_them() {
        let zones = of("10.0.128.0/17");
        assert_eq!((zones.len(), zones[0].as_str()), (128, "128.0.10.in-addr.arpa."));
        assert_eq!(zones[127], "255.0.10.in-addr.arpa.");
        assert_eq!(of("172.16.0.0/12").len(), 16);
        assert_eq!(of("192.168.1.96/27").len(), 32);
        assert_eq!(of("128.0.0.0/1").len(), 128);
        assert_eq!(
            of("fd00:6::/33"),
            (0..8).map(|n| format!("{n}.6.0.0.0.0.0.d.f.ip6.arpa.")).collect::<Vec<_>>()
        );
    }
}
