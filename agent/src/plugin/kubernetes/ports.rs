//! Ports that are asked for, and the SRV data that is made of them.

use super::ask::{Ask, NameWriter};
use crate::cluster::object::{Port, Protocol};

/// Up to so many ports, earlier ones are compared one by one.
const FEW: usize = 16;

/// Which ports of a Service or slice are asked for.
#[derive(Clone, Copy)]
pub(super) enum Ports<'q> {
    /// All of them.
    All,
    /// Those of this name and protocol.
    Named(&'q [u8], Protocol),
}

impl<'q> Ports<'q> {
    /// The ports of `all` that are asked for.
    pub(super) fn of<'p>(self, all: &'p [Port]) -> impl Iterator<Item = &'p Port> + Clone
    where
        'q: 'p,
    {
        all.iter().filter(move |port| match self {
            Self::All => true,
            Self::Named(name, protocol) => {
                port.protocol == protocol && port.name.as_bytes() == name
            }
        })
    }

    /// True if endpoints with these ports are asked for. If all ports are, those without any port are, too.
    pub(super) fn are_in(self, all: &[Port]) -> bool {
        matches!(self, Self::All) || self.of(all).next().is_some()
    }
}

/// The port that `_<port>._<protocol>.<service>` asks for. As CoreDNS, the underscores are optional.
pub(super) fn asked_port<'q>(ask: &Ask<'q>) -> Option<Ports<'q>> {
    let stripped = |label: &'q [u8]| label.strip_prefix(b"_").unwrap_or(label);
    let name = stripped(ask.label(0));
    let protocol = protocol(stripped(ask.label(1)))?;
    (!name.is_empty()).then_some(Ports::Named(name, protocol))
}

pub(super) fn protocol(label: &[u8]) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|protocol| protocol.label().as_bytes() == label)
}

/// Calls `visit` with the numbers of `ports`, each once, until it returns false; false if it did.
pub(super) fn each_number<'p>(
    ports: impl Iterator<Item = &'p Port> + Clone,
    mut visit: impl FnMut(u16) -> bool,
) -> bool {
    // One bit for each number; 8 KiB of stack that only long lists touch.
    let mut seen: Option<[u64; 1_024]> = None;
    for (n, port) in ports.clone().enumerate() {
        let repeated = if n < FEW {
            ports.clone().take(n).any(|earlier| earlier.number == port.number)
        } else {
            let seen = seen.get_or_insert_with(|| {
                let mut seen = [0; 1_024];
                for earlier in ports.clone().take(n) {
                    insert(&mut seen, earlier.number);
                }
                seen
            });
            !insert(seen, port.number)
        };
        if !repeated && !visit(port.number) {
            return false;
        }
    }
    true
}

/// Sets the bit of a number; false if it was set.
fn insert(seen: &mut [u64; 1_024], number: u16) -> bool {
    let bit = 1 << (number % 64);
    let Some(word) = seen.get_mut(usize::from(number / 64)) else { return false };
    let new = *word & bit == 0;
    *word |= bit;
    new
}

/// The weight of each of `pairs` (address, port) pairs, as CoreDNS shares out 100.
pub(super) fn weight(pairs: usize) -> u16 {
    100usize.checked_div(pairs).unwrap_or(100).max(1) as u16
}

/// Begins the data of an SRV record anew: priority (lower ones are to be tried first, RFC 2782), weight, port.
pub(super) fn write_srv(rdata: &mut NameWriter, priority: u16, weight: u16, port: u16) {
    rdata.truncate(0);
    rdata.push(&priority.to_be_bytes());
    rdata.push(&weight.to_be_bytes());
    rdata.push(&port.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_once_however_many_there_are() {
        for count in [0, 1, 15, 16, 17, 40, 1_024] {
            let port = |n: usize| Port {
                name: format!("p{n}").into(),
                protocol: Protocol::Tcp,
                number: (n % 700 + 1) as u16,
            };
            let ports: Vec<Port> = (0..count).map(port).chain((0..count).map(port)).collect();
            let mut numbers = Vec::new();
            assert!(each_number(Ports::All.of(&ports), |number| {
                numbers.push(number);
                true
            }));
            let expected: Vec<u16> = (1..=count.min(700) as u16).collect();
            assert_eq!(numbers, expected);
            assert!(count == 0 || !each_number(ports.iter(), |_| false));
        }
    }
}
