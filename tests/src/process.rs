//! The real binary, run in a folder of its own: ports, Corefile, logs, readiness, metrics, signals, memory.

mod command;
mod usage;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::client::Client;
use crate::log::Log;
use crate::metrics::Metrics;
use crate::ports::Ports;
use crate::{http, poll, ports};

pub use self::command::{binary, run};

/// How long a process may take to become ready, on a machine under load.
const READY: Duration = Duration::from_secs(20);

/// How often a start is tried again with other ports when one was taken meanwhile.
const TRIES: usize = 5;

/// How a start is known to have succeeded.
#[derive(Debug, Clone)]
pub enum Ready {
    /// `/ready` answers 200, if the Corefile has `@ready@`; otherwise as [`Ready::Answer`].
    Auto,
    /// The first response of any kind on the DNS port.
    Answer,
    /// The first response of any kind to a question at this address, for Corefiles that bind elsewhere.
    AnswerAt(SocketAddr),
    /// Not waited for.
    No,
}

/// What to run.
#[derive(Debug, Clone)]
pub struct Setup {
    corefile: String,
    files: Vec<(PathBuf, String)>,
    words: Vec<(String, String)>,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    ready: Ready,
    wrapper: Vec<OsString>,
    program: Option<PathBuf>,
}

/// A running binary; killed when dropped. Its log is printed if the test is failing, and a panic in it fails the test.
#[derive(Debug)]
pub struct Nodens {
    child: Child,
    folder: TempDir,
    ports: Ports,
    setup: Setup,
    log: Log,
    exited: Option<ExitStatus>,
}

impl Setup {
    /// Runs with this Corefile. `@dns@`, `@metrics@`, `@health@`, `@ready@`, `@folder@` and the words of [`Setup::word`]
    /// are replaced in it.
    #[must_use]
    pub fn new(corefile: &str) -> Self {
        Self {
            corefile: corefile.to_owned(),
            files: Vec::new(),
            words: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            ready: Ready::Auto,
            wrapper: Vec::new(),
            program: None,
        }
    }

    /// Replaces `@name@` by `value` in the Corefile, files and arguments.
    #[must_use]
    pub fn word(mut self, name: &str, value: impl ToString) -> Self {
        self.words.push((format!("@{name}@"), value.to_string()));
        self
    }

    /// Changes the Corefile.
    #[must_use]
    pub fn corefile(mut self, change: impl FnOnce(&str) -> String) -> Self {
        self.corefile = change(&self.corefile);
        self
    }

    /// A further file in the folder.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>, text: &str) -> Self {
        self.files.push((path.into(), text.to_owned()));
        self
    }

    /// Further arguments, after `-conf FILE`.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(OsString::from));
        self
    }

    /// A variable of the environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Several variables of the environment.
    #[must_use]
    pub fn environments(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.environment.extend(variables);
        self
    }

    /// A command that runs the binary, such as `ip netns exec NAME`.
    #[must_use]
    pub fn wrapper(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(OsString::from).collect();
        self
    }

    /// Another build than [`binary`].
    #[must_use]
    pub fn program(mut self, path: PathBuf) -> Self {
        self.program = Some(path);
        self
    }

    /// How the start is known to have succeeded.
    #[must_use]
    pub fn ready(mut self, ready: Ready) -> Self {
        self.ready = ready;
        self
    }

    /// Starts it, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not start, exits, or is not ready in time; the log is in the message.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> Nodens {
        for _ in 1..TRIES {
            let mut process = self.spawn();
            if process.wait_until_ready(&self.ready, &self.corefile) {
                return process;
            }
            let taken = process.exited.is_some() && process.complete_log().contains("in use");
            assert!(taken, "nodens is not ready; its log:\n{}", process.log());
        }
        panic!("no free ports in {TRIES} tries");
    }

    /// Starts it and does not wait.
    ///
    /// # Panics
    /// When there is no binary or no folder.
    #[must_use]
    pub fn spawn(&self) -> Nodens {
        let folder = tempfile::Builder::new().prefix("nodens-test-").tempdir();
        let folder = folder.unwrap_or_else(|error| panic!("no folder for the test: {error}"));
        let ports = ports::several();
        let text = self.fill(&self.corefile, &ports, folder.path());
        write(&folder.path().join("Corefile"), &text);
        for (path, text) in &self.files {
            write(&folder.path().join(path), &self.fill(text, &ports, folder.path()));
        }
        let mut words = self.wrapper.clone();
        words.push(self.program.clone().unwrap_or_else(binary).into());
        words.extend(["-conf".into(), folder.path().join("Corefile").into()]);
        let has_socket =
            self.arguments.iter().any(|word| word.to_string_lossy().contains("-socket"));
        if !has_socket {
            // Instances with one socket hand over to each other.
            words.extend(["--socket".into(), folder.path().join("nodens.sock").into()]);
        }
        for argument in &self.arguments {
            words.push(self.fill(&argument.to_string_lossy(), &ports, folder.path()).into());
        }
        let mut command = Command::new(words.remove(0));
        command.args(words).current_dir(folder.path()).stdin(Stdio::null());
        let log = Log::of(&mut command, &folder.path().join("nodens.log"));
        // Left-overs of the machine must not decide what a test sees.
        command
            .env_remove("KUBECONFIG")
            .env_remove("KUBERNETES_SERVICE_HOST")
            .env_remove("RUST_LOG");
        command.envs(self.environment.iter().map(|(n, v)| (n, v)));
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot run nodens: {error}"));
        Nodens { child, folder, ports, setup: self.clone(), log, exited: None }
    }

    fn fill(&self, text: &str, ports: &Ports, folder: &Path) -> String {
        let mut text = text
            .replace("@dns@", &ports.dns.to_string())
            .replace("@dns2@", &ports.dns2.to_string())
            .replace("@metrics@", &ports.metrics.to_string())
            .replace("@health@", &ports.health.to_string())
            .replace("@ready@", &ports.ready.to_string())
            .replace("@folder@", &folder.to_string_lossy());
        for (word, value) in &self.words {
            text = text.replace(word, value);
        }
        text
    }
}

impl Nodens {
    /// A client for its DNS port.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.dns())
    }

    /// The address of its DNS port.
    #[must_use]
    pub fn dns(&self) -> SocketAddr {
        loopback(self.ports.dns)
    }

    /// All its ports.
    #[must_use]
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// Its folder, where `Corefile` and the files of the set-up are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The process id of its supervisor, which signals are for.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process id of the server, the supervisor's child; without a supervisor that of the one process.
    #[must_use]
    pub fn server(&self) -> u32 {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let first = children.unwrap_or_default();
        first.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(pid)
    }

    /// What it writes, standard output and error together.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Everything it has written, once it has exited.
    ///
    /// # Panics
    /// When it still runs.
    #[must_use]
    #[track_caller]
    pub fn complete_log(&mut self) -> String {
        self.log.complete(&mut self.child)
    }

    /// Stops it as [`Nodens::stop`] does, and returns everything it has written: for what must not be in the log.
    ///
    /// # Panics
    /// When it does not exit with 0 in time.
    #[must_use]
    #[track_caller]
    pub fn stop_for_log(&mut self, deadline: Duration) -> String {
        self.stop(deadline);
        self.complete_log()
    }

    /// Waits for a line of the log that contains `text`, and returns the first one.
    ///
    /// # Panics
    /// When there is none in time.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str, deadline: Duration) -> String {
        self.log.wait_for(text, deadline)
    }

    /// `GET` from its metrics, health or ready port; `None` without an answer.
    #[must_use]
    pub fn get(&self, port: u16, path: &str) -> Option<http::Reply> {
        http::get(loopback(port), path, Duration::from_secs(5)).ok()
    }

    /// Its metrics now.
    ///
    /// # Panics
    /// When the metrics port does not answer.
    #[must_use]
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        let Some(reply) = self.get(self.ports.metrics, "/metrics") else {
            panic!("no metrics; log:\n{}", self.log());
        };
        assert_eq!(reply.status, 200, "/metrics: {}", reply.body);
        Metrics::parse(&reply.body)
    }

    /// Waits until its metrics satisfy a condition.
    ///
    /// # Panics
    /// When they do not in time; `what` names the condition.
    #[track_caller]
    pub fn wait_for_metrics(
        &self,
        what: &str,
        deadline: Duration,
        look: impl Fn(&Metrics) -> bool,
    ) {
        poll::wait_for(what, deadline, || look(&self.metrics()));
    }

    /// Replaces the Corefile, as an editor does: a new file renamed over the old. Words are replaced as at the start.
    pub fn write_corefile(&self, text: &str) {
        self.write_file("Corefile", text);
    }

    /// Replaces a file of the folder in the same way.
    pub fn write_file(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        let fresh = path.with_extension("new");
        write(&fresh, &self.setup.fill(text, &self.ports, self.folder.path()));
        std::fs::rename(&fresh, &path)
            .unwrap_or_else(|error| panic!("cannot replace {}: {error}", path.display()));
    }

    /// Sends a signal. Those that no process can take (SIGKILL, SIGSTOP) and SIGCONT reach supervisor and server, as in a container
    /// that is killed or frozen.
    ///
    /// # Panics
    /// When the process is gone.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let server = self.server();
        let sent = send(self.child.id(), signal);
        assert!(sent, "cannot send {signal}");
        if matches!(signal, Signal::SIGKILL | Signal::SIGSTOP | Signal::SIGCONT) {
            send(server, signal);
        }
    }

    /// Sends a signal to the server alone, past its supervisor.
    ///
    /// # Panics
    /// When the process is gone.
    #[track_caller]
    pub fn signal_server(&self, signal: Signal) {
        assert!(send(self.server(), signal), "cannot send {signal}");
    }

    /// Stops the server alone by SIGSTOP, and returns once no thread of it runs any more: until then it may still take a query, which
    /// it does not answer.
    ///
    /// # Panics
    /// When a thread still runs after 20 s.
    #[track_caller]
    pub fn freeze_server(&self) {
        self.signal_server(Signal::SIGSTOP);
        let tasks = format!("/proc/{}/task", self.server());
        poll::wait_for("every thread to stand still", READY, || {
            let threads = std::fs::read_dir(&tasks).into_iter().flatten().flatten();
            threads.map(|thread| thread.path().join("stat")).all(|stat| {
                std::fs::read_to_string(stat).map_or(true, |stat| stat.contains(") T "))
            })
        });
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        if self.exited.is_none() {
            self.exited = self.child.try_wait().ok().flatten();
        }
        self.exited.is_none()
    }

    /// Waits until it has exited.
    ///
    /// # Panics
    /// When it does not in time.
    #[track_caller]
    pub fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        let gone = poll::until(deadline, || !self.is_running());
        assert!(gone, "still running after {deadline:?}; log:\n{}", self.log());
        self.exited.unwrap_or_else(|| ExitStatus::from_raw(0))
    }

    /// SIGTERM, then waits for a clean exit.
    ///
    /// # Panics
    /// When it does not exit with 0 in time.
    #[track_caller]
    pub fn stop(&mut self, deadline: Duration) {
        self.signal(Signal::SIGTERM);
        let status = self.wait_exit(deadline);
        assert!(status.success(), "{status} after SIGTERM; log:\n{}", self.log());
    }

    /// Waits until it is ready, has exited, or the time is over.
    fn wait_until_ready(&mut self, ready: &Ready, corefile: &str) -> bool {
        let address = match ready {
            Ready::No => return true,
            Ready::AnswerAt(address) => *address,
            Ready::Auto | Ready::Answer => self.dns(),
        };
        let by_path = matches!(ready, Ready::Auto) && corefile.contains("@ready@");
        let client = Client::new(address).within(Duration::from_millis(200));
        let end = Instant::now() + poll::patience(READY);
        while self.is_running() && Instant::now() < end {
            let is_ready = if by_path {
                self.get(self.ports.ready, "/ready").is_some_and(|reply| reply.status == 200)
            } else {
                client.ask(".", RecordType::SOA).is_ok()
            };
            // Another instance may be the one that answers, and commands are served a moment later than queries.
            if is_ready && self.log.to_string().contains("serving version=") {
                return true;
            }
            poll::pause(Duration::from_millis(5));
        }
        false
    }
}

impl Drop for Nodens {
    fn drop(&mut self) {
        let server = self.server();
        let _ = self.child.kill();
        if self.exited.is_none() {
            send(server, Signal::SIGKILL);
        }
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of nodens ---\n{}\n--- end of log ---", self.log);
            return;
        }
        // No test expects a panic, and the server contains them: without this one might go unseen.
        let log = self.log.to_string();
        assert!(!log.contains("panicked at"), "nodens panicked; its log:\n{log}");
    }
}

fn send(pid: u32, signal: Signal) -> bool {
    i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), signal).is_ok())
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

fn write(path: &Path, text: &str) {
    let made = path.parent().map(std::fs::create_dir_all);
    let done = std::fs::write(path, text);
    assert!(done.is_ok(), "cannot write {}: {done:?} {made:?}", path.display());
}
