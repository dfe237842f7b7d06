//! What a process writes to standard output and standard error, kept in a file.
//!
//! A running process logs later than it acts: Nodens queues its lines for a thread of their own. So nothing follows from
//! what a running process has not logged yet. A check waits for its line with a deadline ([`Log::wait_for`]), or reads the
//! log of a process that has exited ([`Log::complete`]). The text so far is only for the messages of failing tests, which is
//! why it can be printed and not searched.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use crate::poll;

/// The log of one process. Printing it prints what has been written so far.
#[derive(Clone)]
pub struct Log {
    path: PathBuf,
}

impl Log {
    /// Makes `command` write its standard output and error to a new file at `path`.
    ///
    /// # Panics
    /// When the file cannot be created.
    #[must_use]
    #[track_caller]
    pub fn of(command: &mut Command, path: &Path) -> Self {
        let files = File::create(path).and_then(|out| Ok((out.try_clone()?, out)));
        let (out, err) = files.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        command.stdout(out).stderr(err);
        Self { path: path.to_owned() }
    }

    /// Waits for a line that contains `text`, and returns the first one.
    ///
    /// # Panics
    /// When there is none in time.
    #[track_caller]
    pub fn wait_for(&self, text: &str, deadline: Duration) -> String {
        self.wait_for_line(text, deadline, |line| line.contains(text))
    }

    /// Waits for a line that `matches`, and returns the first one; `what` names it.
    ///
    /// # Panics
    /// When there is none in time.
    #[track_caller]
    pub fn wait_for_line(
        &self,
        what: &str,
        deadline: Duration,
        matches: impl Fn(&str) -> bool,
    ) -> String {
        self.wait_for_line_while(what, deadline, || (), matches)
    }

    /// Like [`Log::wait_for_line`], and calls `act` before each look, for lines that follow from it.
    ///
    /// # Panics
    /// When there is none in time.
    #[track_caller]
    pub fn wait_for_line_while(
        &self,
        what: &str,
        deadline: Duration,
        mut act: impl FnMut(),
        matches: impl Fn(&str) -> bool,
    ) -> String {
        let found = poll::until_some(deadline, || {
            act();
            self.read().lines().find(|line| matches(line)).map(str::to_owned)
        });
        // Not in a closure: it would be named in the place of the test.
        let Some(line) = found else {
            panic!("no {what:?} in the log within {deadline:?}:\n{self}");
        };
        line
    }

    /// Everything that a process has written which has exited.
    ///
    /// # Panics
    /// When the process still runs.
    #[must_use]
    #[track_caller]
    pub fn complete(&self, child: &mut Child) -> String {
        let exited = child.try_wait().is_ok_and(|status| status.is_some());
        assert!(exited, "the log of a running process is not complete:\n{self}");
        self.read()
    }

    fn read(&self) -> String {
        let bytes = std::fs::read(&self.path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl fmt::Display for Log {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.read())
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_waited_for_and_complete_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; sleep 0.1; echo three; echo two more"]);
        let log = Log::of(&mut command, &folder.path().join("log"));
        let mut child = command.spawn().unwrap();
        let soon = Duration::from_secs(20);
        assert_eq!(log.wait_for("two", soon), "two");
        assert_eq!(log.wait_for_line("more", soon, |line| line.ends_with("more")), "two more");
        child.wait().unwrap();
        assert_eq!(log.complete(&mut child), "one\ntwo\nthree\ntwo more\n");
    }

    #[test]
    #[should_panic(expected = "is not complete")]
    fn a_running_process_has_no_complete_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "read -r line"]).stdin(std::process::Stdio::piped());
        let log = Log::of(&mut command, &folder.path().join("log"));
        let mut child = command.spawn().unwrap();
        let _ = log.complete(&mut child);
    }
}
