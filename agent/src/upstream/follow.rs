//! Upstreams that resolv.conf files name. They are read again by [`crate::plugin::forward`] when its
//! [`crate::file_watch::FileWatch`] is due.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::file_watch;
use crate::upstream::OwnAddresses;
use crate::upstream::own::is_nowhere;
use crate::upstream::resolv_conf::{MAX_FILE, ResolvConf};

/// Where systemd-resolved writes the servers that it asks itself.
pub const RESOLVED_CONF: &str = "/run/systemd/resolve/resolv.conf";
/// systemd-resolved's stubs: the full one, and the one that only passes on.
const STUBS: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 53)),
    IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 54)),
];

/// The servers that some files name, and what there is to say about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// In their order, each once.
    pub servers: Vec<SocketAddr>,
    /// Sentences for the log: what was left out or seen through, and why.
    pub notes: Vec<String>,
    /// Every file that was looked at, whether it exists or not.
    pub files: Vec<PathBuf>,
    /// A host name was not looked up yet.
    pub waiting: bool,
}

/// Reads `files`. The stubs of systemd-resolved are replaced with the servers of `resolved_conf`; what is our own or nobody's
/// is left out.
pub fn read(files: &[PathBuf], resolved_conf: &Path, own: &OwnAddresses) -> Reading {
    let mut reading = Reading::default();
    for file in files {
        reading.files.push(file.clone());
        let Some(conf) = load(file, &mut reading.notes) else { continue };
        for word in &conf.unreadable {
            reading.notes.push(format!("{}: nameserver {word:?} is no address", file.display()));
        }
        for server in conf.servers {
            if STUBS.contains(&server.ip()) && server.port() == 53 {
                see_through(server, file, resolved_conf, own, &mut reading);
            } else {
                take(server, file, own, &mut reading);
            }
        }
        if reading.servers.is_empty() && reading.notes.is_empty() {
            reading.notes.push(format!("{}: there is no nameserver line in it", file.display()));
        }
    }
    reading
}

fn see_through(
    stub: SocketAddr,
    file: &Path,
    resolved_conf: &Path,
    own: &OwnAddresses,
    reading: &mut Reading,
) {
    if reading.files.iter().any(|known| known == resolved_conf) {
        return;
    }
    reading.files.push(resolved_conf.into());
    let mut notes = Vec::new();
    let real = load(resolved_conf, &mut notes).unwrap_or_default();
    let servers: Vec<_> =
        real.servers.into_iter().filter(|server| !STUBS.contains(&server.ip())).collect();
    if servers.is_empty() {
        reading.notes.push(format!(
            "{}: nameserver {} is systemd-resolved's stub, and {} names no servers behind it: the stub itself is asked",
            file.display(),
            stub.ip(),
            resolved_conf.display()
        ));
        take(stub, file, own, reading);
        return;
    }
    reading.notes.push(format!(
        "{}: nameserver {} is systemd-resolved's stub: its own servers are asked instead, from {}",
        file.display(),
        stub.ip(),
        resolved_conf.display()
    ));
    for server in servers {
        take(server, resolved_conf, own, reading);
    }
}

fn take(server: SocketAddr, file: &Path, own: &OwnAddresses, reading: &mut Reading) {
    let why = if is_nowhere(server.ip()) {
        "is nobody's address"
    } else if own.contains(server) {
        "is an address of our own, which would ask itself"
    } else {
        if !reading.servers.contains(&server) {
            reading.servers.push(server);
        }
        return;
    };
    reading.notes.push(format!("{}: nameserver {} {why}: left out", file.display(), server.ip()));
}

fn load(file: &Path, notes: &mut Vec<String>) -> Option<ResolvConf> {
    match file_watch::read_start(file, MAX_FILE as u64) {
        Ok(text) => Some(ResolvConf::parse(&text)),
        Err(error) => {
            notes.push(format!("{}: cannot be read: {error}", file.display()));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        }
    }

    fn servers(reading: &Reading) -> Vec<String> {
        reading.servers.iter().map(|server| server.ip().to_string()).collect()
    }

    #[test]
    fn the_stub_is_seen_through() {
        let files = Files::new();
        let conf = files.write(
            "resolv.conf",
            "nameserver 127.0.0.53\nnameserver 10.0.0.9\noptions edns0 trust-ad\n",
        );
        let real = files.write(
            "real.conf",
            "nameserver 10.0.0.1\nnameserver 127.0.0.53\nnameserver 10.0.0.2\n",
        );
        let own = OwnAddresses::new();
        let reading = read(std::slice::from_ref(&conf), &real, &own);
        assert_eq!(servers(&reading), ["10.0.0.1", "10.0.0.2", "10.0.0.9"]);
        assert_eq!(reading.files, [conf.clone(), real]);
        assert!(reading.notes[0].contains("own servers are asked instead"), "{:?}", reading.notes);
        // Nothing behind it: the stub, unless we are the stub.
        let reading = read(std::slice::from_ref(&conf), Path::new("/nonexistent"), &own);
        assert_eq!(servers(&reading), ["127.0.0.53", "10.0.0.9"]);
        own.set(vec!["0.0.0.0:53".parse().unwrap()]);
        let reading = read(&[conf], Path::new("/nonexistent"), &own);
        assert_eq!(servers(&reading), ["10.0.0.9"]);
    }

    #[test]
    fn our_own_and_nobodys_addresses_are_left_out_and_said() {
        let files = Files::new();
        let conf = files
            .write("resolv.conf", "nameserver 169.254.20.10\nnameserver 0.0.0.0\nnameserver ::\n");
        let own = OwnAddresses::new();
        own.set(vec!["169.254.20.10:53".parse().unwrap()]);
        let reading = read(&[conf], Path::new(RESOLVED_CONF), &own);
        assert_eq!((reading.servers.len(), reading.notes.len()), (0, 3));
        let reading = read(&["/nonexistent".into()], Path::new(RESOLVED_CONF), &own);
        assert!(reading.notes[0].contains("cannot be read"));
        let empty = files.write("empty", "search a.b\n");
        assert!(
            read(&[empty], Path::new(RESOLVED_CONF), &own).notes[0].contains("no nameserver line")
        );
    }
}
