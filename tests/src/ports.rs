//! Free ports for processes under test.
//!
//! A port that is released before the process binds it can be taken meanwhile. The ports lie below the kernel's ephemeral range, so
//! that no outgoing socket takes one. Tests, of this process and of others, take none that one of them has been given: each port is
//! a byte of a file, which is locked until the test's process ends. What else takes one makes a start fail, which is tried again.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::{LazyLock, Mutex, PoisonError};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

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

/// The ports of this process, and the file whose bytes are locked for them.
static OWN: LazyLock<Mutex<(Option<File>, HashSet<u16>)>> = LazyLock::new(|| {
    let path = std::env::temp_dir().join("nodens-test-ports");
    let file = File::options().create(true).truncate(false).read(true).write(true).open(path);
    Mutex::new((file.ok(), HashSet::new()))
});

/// Takes a port for this process; false if another test has it. Where there can be no file, others are not known of.
fn reserve(port: u16) -> bool {
    let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
    let (file, ports) = &mut *own;
    let is_free = file.as_ref().is_none_or(|file| {
        let lock = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: port.into(),
            l_len: 1,
            l_pid: 0,
        };
        fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).is_ok()
    });
    is_free && ports.insert(port)
}

fn hold() -> (u16, UdpSocket, TcpListener) {
    for attempt in 0..10_000_u32 {
        let random = RandomState::new().hash_one(attempt);
        let port = FIRST + u16::try_from(random % COUNT).unwrap_or(0);
        let address = (Ipv4Addr::LOCALHOST, port);
        if let (Ok(udp), Ok(tcp)) = (UdpSocket::bind(address), TcpListener::bind(address))
            && reserve(port)
        {
            return (port, udp, tcp);
        }
    }
    panic!("no free port between {FIRST} and {}", u64::from(FIRST) + COUNT);
}

/// The octets that wait in the fullest queue of a socket at this UDP port of 127.0.0.1, as the kernel counts them. A flood that
/// looks at it does not fill the queue, so that the kernel drops nothing, however slow the machine is.
///
/// # Panics
/// When the kernel's table cannot be read.
#[must_use]
pub fn queued(port: u16) -> u64 {
    let table = std::fs::read_to_string("/proc/net/udp")
        .unwrap_or_else(|error| panic!("cannot read /proc/net/udp: {error}"));
    let address = format!("0100007F:{port:04X}");
    let queues = table.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let is_it = words.nth(1)? == address;
        let queue = words.nth(2)?.split_once(':')?.1;
        is_it.then(|| u64::from_str_radix(queue, 16).ok())?
    });
    queues.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_in_a_queue_is_counted() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = socket.local_addr().unwrap();
        assert_eq!(queued(to.port()), 0);
        let from = UdpSocket::bind("127.0.0.1:0").unwrap();
        (0..10).for_each(|_| assert_eq!(from.send_to(&[0; 100], to).unwrap(), 100));
        assert!(queued(to.port()) >= 1_000, "{}", queued(to.port()));
    }
}
