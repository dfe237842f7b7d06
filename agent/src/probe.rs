//! `nodens probe`: the questions of the kubelet, put to one certain process through its socket.
//!
//! Two instances side by side listen at the same addresses, so that `/ready` may be answered by the other one; a socket in the
//! pod's own folder may not.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::args::Probe;
use crate::control::{self, ControlError, Request};

/// What the server would not say yes to: a line for each thing.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// There is no server to ask.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The server waits for something, or its workers stand still.
    #[error("{0}")]
    No(String),
}

/// Asks the server at `socket`. An instance that has handed over, and waits for the end of its container, is alive.
///
/// # Errors
/// It does not answer, or says no.
pub fn run(socket: &Path, probe: Probe) -> Result<(), ProbeError> {
    let status = match control::ask(socket, &Request::Status) {
        Err(_) if probe == Probe::Alive && mark(socket).exists() => return Ok(()),
        status => status?,
    };
    match reasons(&status, probe) {
        reasons if reasons.is_empty() => Ok(()),
        reasons => Err(ProbeError::No(reasons.join("\n"))),
    }
}

/// The file that says that the instance of this socket has handed over and waits.
fn mark(socket: &Path) -> PathBuf {
    socket.with_extension("handed-over")
}

/// Lets [`run`] know that this instance has handed over and waits.
pub fn mark_handed_over(socket: &Path) {
    if let Err(error) = std::fs::write(mark(socket), "") {
        tracing::warn!(%error, "`nodens probe alive` will fail while another instance serves");
    }
}

/// This instance serves.
pub fn remove_mark(socket: &Path) {
    // Mostly there is none.
    let _ = std::fs::remove_file(mark(socket));
}

fn reasons(status: &Value, probe: Probe) -> Vec<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match probe {
        Probe::Alive => text(&status["stalled"]).into_iter().collect(),
        Probe::Ready => match status["waiting"].as_array() {
            Some(waiting) => waiting.iter().filter_map(text).collect(),
            None => vec!["the server's answer makes no sense".to_owned()],
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_answer_is_read() {
        let good = json!({ "waiting": [], "stalled": null, "trouble": "a page" });
        assert!(reasons(&good, Probe::Ready).is_empty() && reasons(&good, Probe::Alive).is_empty());
        let bad = json!({ "waiting": ["kubernetes: a list"], "stalled": "worker 1 stands still" });
        assert_eq!(reasons(&bad, Probe::Ready), ["kubernetes: a list"]);
        assert_eq!(reasons(&bad, Probe::Alive), ["worker 1 stands still"]);
        assert_eq!(reasons(&json!({}), Probe::Ready).len(), 1);
    }

    #[test]
    fn nobody_there_is_a_no() {
        let error = run(Path::new("/nonexistent/socket"), Probe::Alive).unwrap_err();
        assert!(error.to_string().contains("is it running"), "{error}");
    }
}
