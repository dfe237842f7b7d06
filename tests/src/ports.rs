//! Free ports for processes under test.
//!
//! A port that is released before the process binds it can be taken meanwhile. Two things make that rare, and a start
//! that fails on a taken port is tried again: the ports lie below the kernel's ephemeral range, so no outgoing socket
//! takes one, and they are chosen at random, so parallel tests seldom choose the same.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

/// Below 32768, where Linux begins with ephemeral ports, and above what services use.
const FIRST: u16 = 20_000;
const COUNT: u64 = 12_000;

/// The ports of one process; `@dns@`, `@metrics@`, `@health@` and `@ready@` stand for them in Corefiles.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// DNS, UDP and TCP.
    pub dns: u16,
    /// A second DNS port, for Corefiles with blocks on two (`@dns2@`).
    pub dns2: u16,
    /// `prometheus`.
    pub metrics: u16,
    /// `health`.
    pub health: u16,
    /// `ready`.
    pub ready: u16,
}

/// Ports for one process, all different, free for UDP and TCP on 127.0.0.1 when this returns.
#[must_use]
pub fn several() -> Ports {
    // All are held until the last is chosen.
    let held: Vec<_> = (0..5).map(|_| hold()).collect();
    let port = |at: usize| held.get(at).map_or(0, |h| h.0);
    Ports { dns: port(0), dns2: port(1), metrics: port(2), health: port(3), ready: port(4) }
}

/// One free port.
#[must_use]
pub fn one() -> u16 {
    hold().0
}

fn hold() -> (u16, UdpSocket, TcpListener) {
    for attempt in 0..10_000_u32 {
        let random = RandomState::new().hash_one(attempt);
        let port = FIRST + u16::try_from(random % COUNT).unwrap_or(0);
        let address = (Ipv4Addr::LOCALHOST, port);
        if let (Ok(udp), Ok(tcp)) = (UdpSocket::bind(address), TcpListener::bind(address)) {
            return (port, udp, tcp);
        }
    }
    panic!("no free port between {FIRST} and {}", u64::from(FIRST) + COUNT);
}
