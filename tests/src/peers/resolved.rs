//! systemd-resolved without systemd, D-Bus and an installation: unpacked from Debian's packages, in a mount and network
//! namespace whose `/run` is the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::log::Log;
use crate::poll;

/// Where it writes the servers that it asks.
pub const RESOLV_CONF: &str = "/run/systemd/resolve/resolv.conf";
/// Where it writes the resolv.conf that names its stub.
pub const STUB_RESOLV_CONF: &str = "/run/systemd/resolve/stub-resolv.conf";

/// Links' own servers, as networkd leaves them for resolved.
const LINKS: &str = "/run/systemd/netif/links";
/// A user that owns nothing else; there need be none of that number.
const USER: u32 = 990;
const START: Duration = Duration::from_secs(10);
const CAPABILITIES: &str = "+net_bind_service,+net_raw,+setpcap";

/// A running resolved; killed when dropped.
#[derive(Debug)]
pub struct Resolved {
    child: Child,
    log: Log,
}

/// Where the packages were unpacked: `NODENS_RESOLVED`, or `peers/resolved` of the target folder, where `scripts/test` puts
/// them.
#[must_use]
pub fn folder() -> Option<PathBuf> {
    let by_name = std::env::var_os("NODENS_RESOLVED").map(PathBuf::from);
    let test = std::env::current_exe().unwrap_or_default();
    let beside = test.ancestors().nth(3).map(|target| target.join("peers/resolved"));
    by_name.or(beside).filter(|folder| program(folder).is_file())
}

impl Resolved {
    /// Starts it, with no servers but those of links, in the namespaces of the calling thread; `/run` has to be writable and
    /// the test's own.
    ///
    /// # Panics
    /// When its stub does not come up.
    #[must_use]
    pub fn start(folder: &Path) -> Self {
        let begin = || -> std::io::Result<Self> {
            fs::create_dir_all("/run/systemd/resolve")?;
            fs::create_dir_all("/run/systemd/resolved.conf.d")?;
            fs::create_dir_all(LINKS)?;
            std::os::unix::fs::chown("/run/systemd/resolve", Some(USER), Some(USER))?;
            let conf =
                "[Resolve]\nDNS=\nFallbackDNS=\nDNSSEC=no\nLLMNR=no\nMulticastDNS=no\nCache=no\n";
            fs::write("/run/systemd/resolved.conf.d/test.conf", conf)?;
            let mut command = Command::new("setpriv");
            command
                .args([format!("--reuid={USER}"), format!("--regid={USER}")])
                .arg("--clear-groups")
                .args([
                    format!("--inh-caps={CAPABILITIES}"),
                    format!("--ambient-caps={CAPABILITIES}"),
                ])
                .arg(program(folder))
                .env("LD_LIBRARY_PATH", folder.join("usr/lib/x86_64-linux-gnu/systemd"))
                .stdin(Stdio::null());
            let log = Log::of(&mut command, Path::new("/run/resolved.log"));
            Ok(Self { child: command.spawn()?, log })
        };
        let resolved = begin().unwrap_or_else(|error| panic!("cannot start resolved: {error}"));
        let up = poll::until(START, || {
            let sockets = fs::read_to_string("/proc/thread-self/net/udp").unwrap_or_default();
            // 127.0.0.53:53, as the kernel writes it.
            sockets.contains("3500007F:0035") && Path::new(STUB_RESOLV_CONF).exists()
        });
        assert!(up, "resolved's stub does not come up: {}", resolved.log);
        resolved
    }

    /// Gives a link its servers, as networkd does; resolved takes that up at once.
    ///
    /// # Panics
    /// When there is no such link.
    pub fn set_servers(&self, link: &str, servers: &str) {
        let index = nix::net::if_::if_nametoindex(link);
        let index = index.unwrap_or_else(|error| panic!("{link}: {error}"));
        let text = format!(
            "ADMIN_STATE=configured\nOPER_STATE=routable\nREQUIRED_FOR_ONLINE=yes\nDNS={servers}\nLLMNR=no\nMDNS=no\n"
        );
        let fresh = Path::new(LINKS).join(".new");
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, Path::new(LINKS).join(index.to_string())))
            .unwrap_or_else(|error| panic!("{LINKS}: {error}"));
    }
}

impl Drop for Resolved {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of resolved ---\n{}\n---", self.log);
        }
    }
}

fn program(folder: &Path) -> PathBuf {
    folder.join("lib/systemd/systemd-resolved")
}
