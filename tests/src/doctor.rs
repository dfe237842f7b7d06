//! `nodens doctor` of the real binary, and what it finds.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{Nodens, binary};

/// The longest that all checks may take. The product's bound is 3 s; tests share their machine with others.
pub const BOUND: Duration = Duration::from_secs(6);

/// What one run has found.
#[derive(Debug)]
pub struct Findings {
    /// The exit status.
    pub status: i32,
    /// What was printed, as JSON.
    pub value: Value,
    /// How long it took.
    pub took: Duration,
}

impl Findings {
    /// Runs it with these arguments.
    ///
    /// # Panics
    /// When it cannot be run, or prints no JSON.
    #[must_use]
    #[track_caller]
    pub fn of(arguments: &[&str]) -> Self {
        Self::with(&mut Command::new(binary()), arguments)
    }

    /// The same, of a command that runs the binary: as another user, or elsewhere.
    ///
    /// # Panics
    /// When it cannot be run, or prints no JSON.
    #[must_use]
    #[track_caller]
    pub fn with(command: &mut Command, arguments: &[&str]) -> Self {
        let begun = Instant::now();
        command.args(["doctor", "-o", "json"]).args(arguments).stdin(Stdio::null());
        command.env_remove("KUBECONFIG").env_remove("KUBERNETES_SERVICE_HOST");
        let output = command.output().unwrap_or_else(|error| panic!("cannot run it: {error}"));
        let took = begun.elapsed();
        let value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            let (out, err) = (text(&output.stdout), text(&output.stderr));
            panic!("{error}; it printed:\n{out}\n{err}")
        });
        Self { status: output.status.code().unwrap_or(-1), value, took }
    }

    /// Of a running server, by its socket.
    ///
    /// # Panics
    /// As [`Findings::of`].
    #[must_use]
    #[track_caller]
    pub fn of_server(nodens: &Nodens, arguments: &[&str]) -> Self {
        let socket = nodens.folder().join("nodens.sock");
        let conf = nodens.folder().join("Corefile");
        let (socket, conf) = (socket.to_string_lossy(), conf.to_string_lossy());
        let mut all = vec!["--socket", &*socket, "-conf", &*conf];
        all.extend(arguments);
        Self::of(&all)
    }

    /// A check that was made.
    ///
    /// # Panics
    /// When it was not.
    #[must_use]
    #[track_caller]
    pub fn check(&self, id: &str) -> &Value {
        let checks = self.value["checks"].as_array().map(Vec::as_slice).unwrap_or_default();
        let found = checks.iter().find(|check| check["id"] == id);
        found.unwrap_or_else(|| panic!("no check {id} in {:#}", self.value))
    }

    /// Demands a verdict, and words of the evidence.
    ///
    /// # Panics
    /// When it is another one.
    #[track_caller]
    pub fn demand(&self, id: &str, verdict: &str, words: &str) {
        let check = self.check(id);
        let evidence = check["evidence"].as_str().unwrap_or_default();
        let is_so = check["verdict"] == verdict && evidence.contains(words);
        assert!(is_so, "wanted {verdict} with {words:?}: {check:#}");
        let cure = check["cure"].as_str().unwrap_or_default();
        let is_bad = matches!(verdict, "warning" | "problem");
        assert!(is_bad != cure.is_empty(), "a cure is for what is wrong: {check:#}");
        assert!(verdict != "problem" || self.status == 1, "the exit status is {}", self.status);
    }

    /// Whether a check has this verdict with these words.
    #[must_use]
    pub fn has(&self, id: &str, verdict: &str, words: &str) -> bool {
        let check = self.check(id);
        check["verdict"] == verdict
            && check["evidence"].as_str().is_some_and(|text| text.contains(words))
    }

    /// Every check with this verdict, with its evidence.
    #[must_use]
    pub fn all(&self, verdict: &str) -> Vec<String> {
        let checks = self.value["checks"].as_array().map(Vec::as_slice).unwrap_or_default();
        let of = checks.iter().filter(|check| check["verdict"] == verdict);
        of.map(|check| format!("{}: {}", check["id"], check["evidence"])).collect()
    }
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}
