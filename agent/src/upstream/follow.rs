//! Upstreams that a file names: read, and read again when it changes.
//!
//! The file of a node is rewritten in place, replaced by a rename, reached over symbolic links that are turned round, or
//! bind-mounted into a container. So the folder is watched as well as the file behind every link, and all of it is
//! looked at every few seconds besides.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use inotify::{EventStream, Inotify, WatchMask};
use tokio::time::{Instant, timeout_at};

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
/// How often the files are looked at, whatever inotify says: it is silent on network file systems and over some mounts.
const POLL: Duration = Duration::from_secs(5);
/// Whoever writes a file writes more than once.
const SETTLE: Duration = Duration::from_millis(50);

/// The servers that some files name, and what there is to say about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// In their order, each once.
    pub servers: Vec<SocketAddr>,
    /// Sentences for the log: what was left out or seen through, and why.
    pub notes: Vec<String>,
    /// Every file that was looked at, whether it exists or not.
    pub files: Vec<PathBuf>,
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
    use std::io::Read as _;
    let mut text = Vec::new();
    // Opening a FIFO would wait for its writer.
    let read = std::fs::metadata(file).and_then(|meta| {
        if !meta.is_file() {
            return Err(std::io::Error::other("it is not a regular file"));
        }
        std::fs::File::open(file)?.take(MAX_FILE as u64).read_to_end(&mut text)
    });
    match read {
        Ok(_) => Some(ResolvConf::parse(&text)),
        Err(error) => {
            notes.push(format!("{}: cannot be read: {error}", file.display()));
            None
        }
    }
}

/// Waits for changes of files.
pub struct Watch {
    events: Option<EventStream<Vec<u8>>>,
    look_at: Instant,
}

impl Watch {
    /// Watches `files` and their folders. Where the kernel gives no watch, [`Watch::changed`] is a slow poll. Has to be called
    /// within a runtime.
    pub fn new(files: &[PathBuf]) -> Self {
        let events = Inotify::init().ok().and_then(|inotify| {
            let mask = WatchMask::CREATE
                | WatchMask::MOVED_TO
                | WatchMask::MOVED_FROM
                | WatchMask::CLOSE_WRITE
                | WatchMask::DELETE
                | WatchMask::MODIFY
                | WatchMask::ATTRIB;
            for path in places(files) {
                // What does not exist cannot be watched; its folder can.
                let _ = inotify.watches().add(path, mask);
            }
            inotify.into_event_stream(vec![0; 4_096]).ok()
        });
        Self { events, look_at: Instant::now() + POLL }
    }

    /// Returns when something has happened to a file, and every few seconds besides. May be dropped and called again without
    /// missing anything.
    pub async fn changed(&mut self) {
        loop {
            let event = async {
                match &mut self.events {
                    Some(events) => drop(events.next().await),
                    None => std::future::pending().await,
                }
            };
            match timeout_at(self.look_at, event).await {
                Ok(()) => self.look_at = self.look_at.min(Instant::now() + SETTLE),
                Err(_) => {
                    self.look_at = Instant::now() + POLL;
                    return;
                }
            }
        }
    }
}

/// The files, the files that links lead to, and the folders of all these.
fn places(files: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut places = BTreeSet::new();
    for file in files {
        let mut at = file.clone();
        // As many links as the kernel itself follows would be 40; nobody has ten.
        for _ in 0..10 {
            places.insert(at.clone());
            let folder = at.parent().map(Path::to_path_buf);
            places.extend(folder.clone());
            let Ok(target) = std::fs::read_link(&at) else { break };
            at = folder.unwrap_or_default().join(target);
        }
        if let Ok(real) = file.canonicalize() {
            places.extend(real.parent().map(Path::to_path_buf));
            places.insert(real);
        }
    }
    places
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

    #[tokio::test]
    async fn changes_are_noticed_in_place_by_rename_and_behind_links() {
        let files = Files::new();
        let real = files.write("real", "nameserver 10.0.0.1\n");
        let link = files.0.path().join("resolv.conf");
        std::os::unix::fs::symlink("real", &link).unwrap();
        let changes: [&dyn Fn(); 3] = [
            &|| std::fs::write(&real, "nameserver 10.0.0.2\n").unwrap(),
            &|| {
                files.write("new", "nameserver 10.0.0.3\n");
                std::fs::rename(files.0.path().join("new"), &real).unwrap();
            },
            &|| {
                files.write("other", "nameserver 10.0.0.4\n");
                std::os::unix::fs::symlink("other", files.0.path().join("link")).unwrap();
                std::fs::rename(files.0.path().join("link"), &link).unwrap();
            },
        ];
        for change in changes {
            let mut watch = Watch::new(std::slice::from_ref(&link));
            change();
            // Far below the poll's five seconds: it was inotify.
            tokio::time::timeout(Duration::from_secs(3), watch.changed()).await.unwrap();
        }
        let reading = read(&[link], Path::new(RESOLVED_CONF), &OwnAddresses::new());
        assert_eq!(servers(&reading), ["10.0.0.4"]);
    }
}
