//! Who is measured: one file of `tests/bench/contestants` each.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;

use super::account::Account;
use super::cluster;
use super::questions::question;
use super::spawn::Running;

/// The processor of the contestants.
pub const SERVER_CPU: usize = 0;
/// The processor of whatever asks and of the upstream.
pub const LOAD_CPU: usize = 1;
/// Everybody's port; each has an address of its own.
pub const PORT: u16 = 5_453;
/// Where the upstream listens.
pub const UPSTREAM: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, 3), 5_400);

/// How long a contestant may take to answer its first query.
const START: Duration = Duration::from_secs(20);

/// A contestant as its file describes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contestant {
    /// Its name in tables.
    #[serde(skip)]
    pub name: String,
    /// Its own loopback address.
    pub address: Ipv4Addr,
    /// Another contestant whose command and files it has, which has no such line itself.
    #[serde(default)]
    pub like: String,
    /// By a line of those files, without its indentation: lines that follow it.
    #[serde(default)]
    pub insert: BTreeMap<String, String>,
    /// Words of the command, with `@placeholders@`.
    #[serde(default)]
    pub command: String,
    /// The workloads of which it is the floor; nothing else is asked of it.
    #[serde(default)]
    pub floor_of: Vec<String>,
    /// Further workloads; empty for a server: all but the `k1` ones.
    #[serde(default)]
    pub workloads: Vec<String>,
    /// Files of its folder, with `@placeholders@`.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// True where it wants the objects of the `k1` cluster in `@folder@/objects`.
    #[serde(default)]
    pub cluster: bool,
    /// Prints the version.
    #[serde(default)]
    pub version: String,
}

impl Contestant {
    /// Reads every contestant of a folder.
    ///
    /// # Errors
    /// A file that cannot be read or understood, or a contestant or line that another one refers to and that is not there.
    pub fn read_all(folder: &Path) -> anyhow::Result<Vec<Self>> {
        let mut all: Vec<Self> = Vec::new();
        for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let text = std::fs::read_to_string(&path)?;
            let contestant: Self =
                toml::from_str(&text).with_context(|| path.display().to_string())?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            all.push(Self { name, ..contestant });
        }
        let given = all.clone();
        for contestant in all.iter_mut().filter(|contestant| !contestant.like.is_empty()) {
            let model = given.iter().find(|model| model.name == contestant.like);
            let model = model.with_context(|| format!("no contestant `{}`", contestant.like))?;
            contestant.take_over(model)?;
        }
        all.sort_by_key(|contestant| contestant.address);
        Ok(all)
    }

    /// Takes over command and files of `model`.
    fn take_over(&mut self, model: &Self) -> anyhow::Result<()> {
        self.command.clone_from(&model.command);
        self.files.clone_from(&model.files);
        for (line, lines) in &self.insert {
            let mut is_there = false;
            for text in self.files.values_mut() {
                let mut with = String::with_capacity(text.len() + lines.len());
                for old in text.lines() {
                    with.extend([old, "\n"]);
                    if old.trim() == line {
                        is_there = true;
                        with.extend([lines.trim_end(), "\n"]);
                    }
                }
                *text = with;
            }
            if !is_there {
                bail!("{}: `{}` has no line `{line}`", self.name, model.name);
            }
        }
        Ok(())
    }

    /// Where it listens.
    #[must_use]
    pub fn server(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, PORT)
    }

    /// True for a program that only marks what is possible.
    #[must_use]
    pub fn is_floor(&self) -> bool {
        !self.floor_of.is_empty()
    }

    /// True where it takes part in a workload. The floor of `w1` stands for the cluster's names as well.
    #[must_use]
    pub fn takes(&self, workload: &str) -> bool {
        let kind = if workload.starts_with("k1") { "k1" } else { workload };
        let listed = |list: &[String]| list.iter().any(|one| one == kind);
        match self.is_floor() {
            true => listed(&self.floor_of) || listed(&self.workloads),
            false if self.workloads.is_empty() => kind != "k1",
            false => listed(&self.workloads),
        }
    }

    /// True where its program is there.
    #[must_use]
    pub fn is_installed(&self) -> bool {
        let program = self.command.split_whitespace().next().unwrap_or_default();
        if program.starts_with('@') {
            return true;
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .any(|folder| folder.join(program).is_file())
    }

    /// Starts it and waits for its first answer; returns how long that took.
    ///
    /// # Errors
    /// When it does not start or answer; its output is in the message.
    pub fn start(&self, account: &Arc<Account>) -> anyhow::Result<(Running, Duration)> {
        let folder = std::env::temp_dir().join("nodens-bench").join(&self.name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder)?;
        for (name, text) in &self.files {
            std::fs::write(folder.join(name), self.fill(text, &folder)?)?;
        }
        if self.cluster {
            let objects = folder.join("objects");
            std::fs::create_dir_all(&objects)?;
            std::fs::write(objects.join("cluster.json"), cluster::objects())?;
        }
        let log = folder.join("output");
        let output = std::fs::File::create(&log)?;
        let line = self.fill(&self.command, &folder)?;
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().context("an empty command")?);
        command.args(words).current_dir(&folder).stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output);
        let running = Running::start(command, SERVER_CPU, account)
            .with_context(|| format!("cannot start {line}"))?;
        match first_answer(self.server(), running.started() + START) {
            Some(at) => {
                let time = at.saturating_duration_since(running.started());
                Ok((running, time))
            }
            None => {
                let printed = std::fs::read_to_string(&log).unwrap_or_default();
                bail!("{} does not answer; it printed:\n{printed}", self.name)
            }
        }
    }

    fn fill(&self, text: &str, folder: &Path) -> anyhow::Result<String> {
        Ok(text
            .replace("@address@", &self.address.to_string())
            .replace("@port@", &PORT.to_string())
            .replace("@upstream@", &UPSTREAM.ip().to_string())
            .replace("@upstream_port@", &UPSTREAM.port().to_string())
            .replace("@folder@", &folder.to_string_lossy())
            .replace("@bin@", &programs()?.to_string_lossy()))
    }
}

/// The folder of this benchmark's own programs.
///
/// # Errors
/// When the running program has no path.
pub fn programs() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    Ok(program.parent().context("the program is nowhere")?.to_owned())
}

/// Asks until there is an answer without an error, and returns when it came.
#[must_use]
pub fn first_answer(server: SocketAddrV4, deadline: Instant) -> Option<Instant> {
    let query = question("h0000001.hot.bench", 1);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(server).ok()?;
    socket.set_read_timeout(Some(Duration::from_millis(4))).ok()?;
    let mut buffer = [0; 512];
    while Instant::now() < deadline {
        // Refused until it listens; the next one shows.
        let _ = socket.send(&query);
        match socket.recv(&mut buffer) {
            Ok(len) if len > 12 && buffer[3] & 15 == 0 => return Some(Instant::now()),
            Ok(_) => crate::poll::pause(Duration::from_millis(1)),
            Err(_) => crate::poll::pause(Duration::from_micros(500)),
        }
    }
    None
}
