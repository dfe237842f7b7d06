//! `nodens upgrade`: has the running server replaced by the program that is installed now, and says what came of it.

use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::control::{self, Request};

/// The variable that tells an instance that it is to take over from a running one, or not to start.
pub const BEGUN: &str = "NODENS_UPGRADE";

/// True if this process, or its supervisor, was started by an upgrade.
pub fn is_begun() -> bool {
    std::env::var_os(BEGUN).is_some()
}

/// How long the new instance may take to serve.
const PATIENCE: Duration = Duration::from_secs(70);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Starts the upgrade by the server at `socket` and waits until another one serves there. The new one reads the Corefile as it
/// is: unless `force` is set, one that a reload does not apply, with mistakes or held back, ends the upgrade before it begins.
///
/// # Errors
/// No server is there, it has no supervisor, or the new one did not start: then the old one still serves.
#[expect(
    clippy::disallowed_methods,
    reason = "a command of one thread, which has nothing else to do"
)]
pub fn run(socket: &Path, force: bool, out: &mut impl Write) -> anyhow::Result<()> {
    if !force {
        control::ask(socket, &Request::Reload { force: false }).context(
            "the upgrade was not begun, and the running server still serves: a new one would start with a configuration that this one does not apply (`nodens upgrade --force` starts it all the same)",
        )?;
    }
    let before = control::ask(socket, &Request::Status)?;
    control::ask(socket, &Request::Upgrade)?;
    let number = |status: &Value, name: &str| status.get(name).and_then(Value::as_u64);
    let word = |status: &Value, name: &str| {
        status.get(name).and_then(Value::as_str).unwrap_or("unknown").to_owned()
    };
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        thread::sleep(LOOK);
        // While one takes the other's place at the socket, neither may answer.
        let Ok(now) = control::ask(socket, &Request::Status) else { continue };
        if number(&now, "supervisor") != number(&before, "supervisor") {
            let version = word(&now, "version");
            let took = begun.elapsed().as_millis();
            writeln!(out, "nodens {version} serves; the upgrade took {took} ms")?;
            return Ok(());
        }
        if number(&now, "failed_takeovers") != number(&before, "failed_takeovers") {
            let why = word(&now, "last_failed_takeover");
            bail!("the new instance did not start, and the old one still serves: {why}");
        }
    }
    bail!(
        "no new instance serves after {} s; the old one still does; the log says why",
        PATIENCE.as_secs()
    )
}
