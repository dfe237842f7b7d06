//! As much of systemd as a unit of ours needs: its user, capabilities, folders, readiness and watchdog. `systemctl` of the page
//! is a script that hands its words to a thread here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use tests::log::Log;
use tests::poll;

use super::site::Site;
use crate::node::tests_deadline;
use crate::node::world::{kind, sh};

/// Where units are that somebody puts there by hand.
const UNITS: &str = "/etc/systemd/system";

/// systemd's own.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The manager, reached by the stand-in for `systemctl`.
#[derive(Clone)]
pub struct Systemd {
    running: Arc<Mutex<Option<Running>>>,
    log: PathBuf,
    socket: PathBuf,
}

/// A unit's file: every key with its values.
struct Unit(BTreeMap<String, Vec<String>>);

struct Running {
    child: Child,
    notify: UnixDatagram,
    /// Every assignment that it sent.
    said: BTreeSet<String>,
    folders: Vec<String>,
}

impl Systemd {
    /// Puts `systemctl`, `systemd-sysusers` and `systemd-analyze` in place, and answers them.
    pub fn stand_in(site: &Site) -> Self {
        let (ask, tell) = (site.path("systemctl.ask"), site.path("systemctl.tell"));
        for fifo in [&ask, &tell] {
            mkfifo(fifo, Mode::S_IRWXU).unwrap();
        }
        site.stand_in(
            "systemctl",
            &format!(
                "echo \"$*\" > {}; {{ read -r code; cat; }} < {tell}; exit \"$code\"",
                ask.display(),
                tell = tell.display()
            ),
        );
        // `u NAME ...`: a user and a group of that name.
        site.stand_in(
            "systemd-sysusers",
            "[ $# -gt 0 ] || set -- /etc/sysusers.d/*.conf
            grep -h '^u ' \"$@\" | while read -r _ name _; do
                echo \"$name:x:990:990::/:/usr/sbin/nologin\" >> /etc/passwd; echo \"$name:x:990:\" >> /etc/group
            done",
        );
        // `d PATH MODE USER GROUP` makes a folder, `z` mends what is there.
        site.stand_in(
            "systemd-tmpfiles",
            "[ \"$1\" = --create ] && shift; [ $# -gt 0 ] || set -- /etc/tmpfiles.d/*.conf
            cat \"$@\" | while read -r kind path mode user group _; do
                [ \"$kind\" != d ] || mkdir -p \"$path\"
                case $kind in d | z) [ ! -e \"$path\" ] || { chmod \"$mode\" \"$path\"; chown \"$user:$group\" \"$path\"; } ;; esac
            done",
        );
        site.stand_in("journalctl", &format!("cat {}", site.path("unit.log").display()));
        let systemd = Self {
            running: Arc::default(),
            log: site.path("unit.log"),
            socket: site.path("notify"),
        };
        let server = systemd.clone();
        std::thread::spawn(move || {
            while let Ok(words) = fs::read_to_string(&ask) {
                let (code, text) = match server.act(words.trim()) {
                    Ok(text) => (0, text),
                    Err(text) => (1, text),
                };
                let Ok(mut out) = fs::OpenOptions::new().write(true).open(&tell) else { return };
                let _ = writeln!(out, "{code}\n{text}");
            }
        });
        systemd
    }

    /// What the unit wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether the watchdog has been fed since the start.
    pub fn is_fed(&self) -> bool {
        let mut running = self.running.lock().unwrap();
        running.as_mut().is_some_and(|running| running.has_said("WATCHDOG=1"))
    }

    /// The running process.
    pub fn pid(&self) -> Option<u32> {
        self.running.lock().unwrap().as_ref().map(|running| running.child.id())
    }

    fn act(&self, words: &str) -> Result<String, String> {
        let mut words = words.split(' ').filter(|word| !word.starts_with('-'));
        let verb = words.next().unwrap_or_default();
        let name = words.next().unwrap_or_default();
        let name = if name.contains('.') { name.to_owned() } else { format!("{name}.service") };
        let mut running = self.running.lock().unwrap();
        match verb {
            _ if name == "kubelet.service" => Ok(String::new()),
            "daemon-reload" => Ok(String::new()),
            "enable" | "start" if running.is_none() => {
                *running = Some(self.start(&Unit::read(&Path::new(UNITS).join(&name))?)?);
                Ok(String::new())
            }
            "restart" => {
                if let Some(old) = running.take() {
                    old.stop()?;
                }
                *running = Some(self.start(&Unit::read(&Path::new(UNITS).join(&name))?)?);
                Ok(String::new())
            }
            "disable" | "stop" => running.take().map_or(Ok(String::new()), Running::stop),
            "reload" => {
                let child = &running.as_ref().ok_or("not running")?.child;
                kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGHUP)
                    .map_err(|error| error.to_string())?;
                Ok(String::new())
            }
            "status" | "is-active" => {
                let ended = running.as_mut().map(|unit| unit.child.try_wait());
                let runs = matches!(ended, Some(Ok(None)));
                if runs { Ok("active".to_owned()) } else { Err("inactive".to_owned()) }
            }
            other => Err(format!("systemctl {other}: not known to this test")),
        }
    }

    fn start(&self, unit: &Unit) -> Result<Running, String> {
        let _ = fs::remove_file(&self.socket);
        let notify = UnixDatagram::bind(&self.socket).map_err(|error| error.to_string())?;
        notify.set_nonblocking(true).map_err(|error| error.to_string())?;
        let user = unit.value("User").ok_or("the unit has no user")?;
        sh(&format!("chmod 666 {}; chmod o+x {}", self.socket.display(), self.folder().display()));
        let mut folders = Vec::new();
        for (key, above) in [
            ("RuntimeDirectory", "/run"),
            ("StateDirectory", "/var/lib"),
            ("ConfigurationDirectory", "/etc"),
        ] {
            for name in unit.words(key) {
                let path = format!("{above}/{name}");
                // What is there already stays whose it is, but for the folder of the configuration, which is root's.
                sh(&format!("[ -d {path} ] || {{ mkdir -p {path}; chown {user}:{user} {path}; }}"));
                if key == "RuntimeDirectory" {
                    folders.push(path);
                }
            }
        }
        let capabilities = |key: &str| {
            let names = unit.words(key).map(|name| name.trim_start_matches("CAP_").to_lowercase());
            std::iter::once("-all".to_owned())
                .chain(names.map(|name| format!("+{name}")))
                .collect::<Vec<_>>()
                .join(",")
        };
        let mut command = Command::new("setpriv");
        command.args(["--reuid", user, "--regid", user, "--clear-groups"]);
        let ambient = capabilities("AmbientCapabilities");
        command.args([format!("--inh-caps={ambient}"), format!("--ambient-caps={ambient}")]);
        command.arg(format!("--bounding-set={}", capabilities("CapabilityBoundingSet")));
        if unit.value("NoNewPrivileges") == Some("yes")
            || unit.value("NoNewPrivileges") == Some("true")
        {
            command.arg("--no-new-privs");
        }
        let environment = unit.environment();
        let line = unit.value("ExecStart").ok_or("the unit has no ExecStart")?;
        command.args(line.split_whitespace().map(|word| expand(word, &environment)));
        command.env_clear().envs(environment).env("PATH", PATH);
        command.env("NOTIFY_SOCKET", &self.socket).env("NODENS_LINK_KIND", kind());
        if let Some(seconds) = unit.value("WatchdogSec") {
            let seconds: u64 = seconds.trim_end_matches('s').parse().map_err(|_| "WatchdogSec")?;
            command.env("WATCHDOG_USEC", (seconds * 1_000_000).to_string());
        }
        let log = Log::of(&mut command, &self.log);
        command.current_dir("/");
        let child = command.spawn().map_err(|error| format!("setpriv: {error}"))?;
        let mut running = Running { child, notify, said: BTreeSet::new(), folders };
        assert_eq!(unit.value("Type").map(|kind| kind.starts_with("notify")), Some(true));
        let is_ready = poll::until(tests_deadline(), || {
            running.has_said("READY=1")
                || running.child.try_wait().is_ok_and(|ended| ended.is_some())
        });
        let runs = running.child.try_wait().is_ok_and(|ended| ended.is_none());
        if is_ready && runs { Ok(running) } else { Err(format!("not ready:\n{log}")) }
    }

    fn folder(&self) -> &Path {
        self.socket.parent().unwrap_or(Path::new("/"))
    }
}

impl Running {
    fn has_said(&mut self, word: &str) -> bool {
        let mut buffer = [0; 1024];
        while let Ok(length) = self.notify.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]);
            self.said.extend(text.lines().map(str::to_owned));
        }
        self.said.contains(word)
    }

    fn stop(mut self) -> Result<String, String> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGTERM).map_err(|error| error.to_string())?;
        let patience = Duration::from_secs(30);
        let ended = poll::until_some(patience, || self.child.try_wait().ok().flatten());
        for folder in &self.folders {
            sh(&format!("rm -rf {folder}"));
        }
        match ended {
            Some(status) if status.success() => Ok(String::new()),
            other => Err(format!("ended with {other:?}")),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Unit {
    fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in
            text.replace("\\\n", " ").lines().filter(|line| !line.starts_with(['#', ';', '[']))
        {
            if let Some((key, value)) = line.split_once('=') {
                keys.entry(key.trim().to_owned()).or_default().push(value.trim().to_owned());
            }
        }
        Ok(Self(keys))
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.last().map(String::as_str)
    }

    /// The variables of `Environment=` and of the files that are named.
    fn environment(&self) -> BTreeMap<String, String> {
        let mut lines: Vec<String> = self.words("Environment").map(str::to_owned).collect();
        for path in self.words("EnvironmentFile") {
            // A file with a dash before it may be missing; the page puts ours there in any case.
            let text = fs::read_to_string(path.trim_start_matches('-')).unwrap();
            lines.extend(text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned));
        }
        let pairs = lines.iter().filter_map(|line| line.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect()
    }

    fn words(&self, key: &str) -> impl Iterator<Item = &str> {
        let lines = self.0.get(key).map(Vec::as_slice).unwrap_or_default();
        lines.iter().flat_map(|line| line.split_whitespace())
    }
}

/// A word of a command line with `${NAME}` filled in, as systemd does.
fn expand(word: &str, environment: &BTreeMap<String, String>) -> String {
    let mut out = word.to_owned();
    for (name, value) in environment {
        out = out.replace(&format!("${{{name}}}"), value);
    }
    out
}
