//! Processes and sockets, as /proc tells of them (proc(5)). What belongs to others may be hidden; then it is left out.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Processes that are looked at.
const MAX_PROCESSES: usize = 65_536;
/// Sockets of one table that are read.
const MAX_SOCKETS: usize = 200_000;
/// The most that is read of one file, in octets.
const MAX_FILE: u64 = 1 << 20;
/// Of a table of sockets.
const MAX_TABLE: u64 = 32 << 20;

/// A process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// Its name, of 15 octets at most.
    pub name: String,
    /// `T`: stopped by a signal; `Z`: ended. See proc_pid_stat(5).
    pub state: char,
    /// When it was started, since boot.
    pub started: Duration,
}

impl Process {
    /// Reads `/proc/PID/stat`.
    pub fn read(pid: i32) -> Option<Self> {
        Self::parse(&read(format!("/proc/{pid}/stat"), MAX_FILE)?)
    }

    /// The name may have blanks and brackets: it ends with the last bracket.
    fn parse(stat: &str) -> Option<Self> {
        let (pid, rest) = stat.split_once(" (")?;
        let (name, rest) = rest.rsplit_once(") ")?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        // Field 22 of all: the time of the start, in ticks of 10 ms.
        let ticks: u64 = fields.nth(17)?.parse().ok()?;
        let started = Duration::from_millis(ticks.saturating_mul(10));
        Some(Self { pid: pid.parse().ok()?, parent, name: name.to_owned(), state, started })
    }

    /// Its command line; empty if it is hidden.
    pub fn words(&self) -> Vec<String> {
        words(self.pid)
    }

    /// Whether a signal keeps it from running.
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }
}

/// The command line of a process.
pub fn words(pid: i32) -> Vec<String> {
    let text = read(format!("/proc/{pid}/cmdline"), MAX_FILE).unwrap_or_default();
    text.split_terminator('\0').map(str::to_owned).collect()
}

/// All processes that can be seen.
pub fn processes() -> Vec<Process> {
    let Ok(folder) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = folder.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.take(MAX_PROCESSES).filter_map(Process::read).collect()
}

/// A socket that receives what was not asked for: UDP, or TCP that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// `udp` or `tcp`.
    pub protocol: &'static str,
    /// Where it is bound.
    pub local: SocketAddr,
    /// By which its owner is found.
    pub inode: u64,
    /// Datagrams that the kernel has dropped since nobody read in time; always 0 for TCP.
    pub drops: u64,
}

/// The sockets of this network namespace at a port.
pub fn sockets(port: u16) -> Vec<Socket> {
    let mut found = Vec::new();
    for (protocol, file) in [
        ("udp", "/proc/net/udp"),
        ("udp", "/proc/net/udp6"),
        ("tcp", "/proc/net/tcp"),
        ("tcp", "/proc/net/tcp6"),
    ] {
        let text = read(file, MAX_TABLE).unwrap_or_default();
        let lines = text.lines().skip(1).take(MAX_SOCKETS);
        found.extend(lines.filter_map(|line| socket(protocol, line)));
    }
    found.retain(|socket| socket.local.port() == port);
    found
}

fn socket(protocol: &'static str, line: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let local = address(fields.get(1)?)?;
    let (remote, state) = (fields.get(2)?, fields.get(3)?);
    // A connected UDP socket hears one peer only; of TCP only those in LISTEN accept.
    let listens = if protocol == "tcp" { *state == "0A" } else { remote.ends_with(":0000") };
    if !listens {
        return None;
    }
    let inode = fields.get(9)?.parse().ok()?;
    let drops = match protocol {
        "udp" => fields.get(12).and_then(|text| text.parse().ok()).unwrap_or(0),
        _ => 0,
    };
    Some(Socket { protocol, local, inode, drops })
}

/// `0100007F:0035`: words of 32 bits in the byte order of the machine, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut octets = Vec::with_capacity(16);
    for at in (0..ip.len()).step_by(8) {
        let word = u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?;
        octets.extend(word.to_ne_bytes());
    }
    let ip = match octets.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?)).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// The processes that have each of these sockets open.
pub fn owners(inodes: &HashSet<u64>) -> HashMap<u64, Vec<Process>> {
    let mut owners: HashMap<u64, Vec<Process>> = HashMap::new();
    for process in processes() {
        let Ok(folder) = fs::read_dir(format!("/proc/{}/fd", process.pid)) else { continue };
        let mut open = HashSet::new();
        for entry in folder.flatten() {
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let target = target.to_string_lossy();
            let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            open.extend(inode.and_then(|text| text.parse::<u64>().ok()));
        }
        for inode in open.intersection(inodes) {
            owners.entry(*inode).or_default().push(process.clone());
        }
    }
    owners
}

/// A path in the file system that a process sees.
pub fn within(pid: i32, path: &Path) -> PathBuf {
    let mut inside = PathBuf::from(format!("/proc/{pid}/root"));
    inside.push(path.strip_prefix("/").unwrap_or(path));
    inside
}

/// The beginning of a file as text; `None` if it cannot be read.
pub fn read(path: impl AsRef<Path>, max: u64) -> Option<String> {
    use std::io::Read as _;
    let mut octets = Vec::new();
    fs::File::open(path).ok()?.take(max).read_to_end(&mut octets).ok()?;
    Some(String::from_utf8_lossy(&octets).into_owned())
}

/// The number that a file holds.
pub fn number(path: impl AsRef<Path>) -> Option<u64> {
    read(path, 64)?.trim().parse().ok()
}

/// How long this machine has been up.
pub fn uptime() -> Option<Duration> {
    let text = read("/proc/uptime", 128)?;
    let seconds: f64 = text.split_ascii_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_have_any_name() {
        let fields = "S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4200 1 1";
        let process = Process::parse(&format!("12 (a) b (c)) {fields}")).unwrap();
        assert_eq!((process.pid, process.parent, process.state), (12, 7, 'S'));
        assert_eq!((process.name.as_str(), process.started), ("a) b (c)", Duration::from_secs(42)));
        for torn in ["", "12", "12 (a", "12 (a) ", "12 (a) S 7 1", "x (a) S"] {
            assert_eq!(Process::parse(torn), None, "{torn}");
        }
    }

    #[test]
    fn sockets_are_read_with_their_addresses() {
        let line = "  10: 0A14FEA9:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0 3";
        let found = socket("udp", line).unwrap();
        assert_eq!(found.local, "169.254.20.10:53".parse().unwrap());
        assert_eq!((found.inode, found.drops), (4711, 3));
        assert!(socket("tcp", line).is_none() && socket("udp", "1: x y").is_none());
        let v6 = "0000000000000000FFFF00000100007F:0035";
        assert_eq!(address(v6), Some("127.0.0.1:53".parse().unwrap()));
        for bad in ["", "1:2", "0100007F", "0100007F:1F5FF", "0100007F0:0035"] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }

    #[test]
    fn our_own_sockets_are_found() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = socket.local_addr().unwrap();
        let found = sockets(local.port());
        let ours = found.iter().find(|found| found.local == local).unwrap();
        let owners = owners(&HashSet::from([ours.inode]));
        let pid = std::process::id() as i32;
        assert!(owners[&ours.inode].iter().any(|process| process.pid == pid));
        assert!(Process::read(pid).is_some() && !words(pid).is_empty());
    }
}
