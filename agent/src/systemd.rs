//! What systemd is told of a unit with `Type=notify` (sd_notify(3)): that it serves, reloads, stops; and its watchdog. Nothing is
//! done where systemd did not start the process.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::parent_id;
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::server::Liveness;

/// The socket of the service manager.
#[derive(Debug)]
pub struct Manager(UnixDatagram);

impl Manager {
    /// Reads `NOTIFY_SOCKET`. A socket that cannot be reached is a warning: systemd will end a start of which it hears nothing,
    /// and the log should say why.
    pub fn from_env() -> Option<Self> {
        let path = env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())?;
        let socket = connect(path.as_encoded_bytes());
        if let Err(error) = &socket {
            tracing::warn!("cannot reach systemd at {}: {error}", path.display());
        }
        socket.ok().map(Self)
    }

    /// Sends a message as it is.
    pub fn tell(&self, message: &str) {
        if let Err(error) = self.0.send(message.as_bytes()) {
            tracing::warn!("cannot tell systemd {:?}: {error}", message.lines().next());
        }
    }
}

/// What takes a message for the service manager.
pub type Tell = Box<dyn Fn(&str) + Send + Sync>;

/// What the server tells the service manager.
#[derive(Default)]
pub struct Systemd {
    tell: Option<Tell>,
    watchdog: Option<Duration>,
}

impl Systemd {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`. With `supervisor`, which takes messages, the manager knows the
    /// parent of this process instead.
    pub fn from_env(supervisor: Option<Tell>) -> Self {
        if env::var_os("NOTIFY_SOCKET").is_none_or(|path| path.is_empty()) {
            return Self::default();
        }
        let known = if supervisor.is_some() { parent_id() } else { std::process::id() };
        let number = |name| env::var(name).ok()?.parse::<u64>().ok();
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(known));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0);
        let direct = || {
            let manager = Manager::from_env()?;
            Some(Box::new(move |message: &str| manager.tell(message)) as Tell)
        };
        Self { tell: supervisor.or_else(direct), watchdog: watchdog.map(Duration::from_micros) }
    }

    /// Says that queries are answered, after the start and after a reload.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// Says that the configuration is read again; [`Systemd::ready`] says that it is done.
    pub fn reloading(&self) {
        // systemd wants to know whether this is older than its own wish.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.as_micros()));
    }

    /// Says that the process is about to end.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=answering what is under way");
    }

    /// Feeds the watchdog for as long as queries are answered; returns at once where there is none.
    pub async fn watchdog(&self, liveness: Arc<Liveness>) {
        let (Some(patience), Some(_)) = (self.watchdog, &self.tell) else { return };
        // Twice as often as needed, as sd_watchdog_enabled(3) advises.
        let mut ticks = tokio::time::interval(patience / 2);
        loop {
            ticks.tick().await;
            match liveness.trouble() {
                None => self.tell("WATCHDOG=1"),
                Some(trouble) => self.tell(&format!("STATUS={trouble}")),
            }
        }
    }

    fn tell(&self, message: &str) {
        if let Some(tell) = &self.tell {
            tell(message);
        }
    }
}

/// A path, or an abstract name behind `@`.
fn connect(name: &[u8]) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(
            <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name),
        )?,
    };
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut message = [0; 512];
        let length = socket.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn systemd_is_told_and_its_watchdog_fed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let manages = Manager(connect(path.as_os_str().as_encoded_bytes()).unwrap());
        let tell: Tell = Box::new(move |message| manages.tell(message));
        let systemd = Systemd { tell: Some(tell), watchdog: Some(Duration::from_secs(30)) };
        systemd.ready("serving");
        assert_eq!(received(&manager), "READY=1\nSTATUS=serving");
        systemd.reloading();
        let message = received(&manager);
        let usec = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(usec.parse::<u64>().unwrap() > 0);
        let liveness = Arc::new(Liveness::default());
        let fed = tokio::time::timeout(Duration::from_secs(16), systemd.watchdog(liveness)).await;
        assert!(fed.is_err(), "it goes on");
        assert_eq!(
            (received(&manager), received(&manager)),
            ("WATCHDOG=1".into(), "WATCHDOG=1".into())
        );
        systemd.stopping();
        assert!(received(&manager).starts_with("STOPPING=1\n"));
    }

    #[test]
    fn an_abstract_name_is_one_and_nobody_is_no_harm() {
        let name = format!("nodens-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        connect(format!("@{name}").as_bytes()).unwrap().send(b"x").unwrap();
        assert_eq!(received(&manager), "x");
        Systemd::default().ready("nobody listens");
        assert!(connect(b"/nonexistent/notify").is_err());
    }
}
