//! A reload: the configuration is read again, built aside, and put in the place of the running one if nothing is wrong.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::configuration::load;
use super::{RETRY_HELD_BACK, START_POLL, Server, serve_pages, show, wait_until_known};
use crate::assemble::{Assembled, assemble};
use crate::config_state::ProblemKind;
use crate::corefile::{Diagnostics, File, Severity};
use crate::logging;
use crate::plan::Plan;
use crate::systemd::Systemd;

/// The longest wait of a reload for a cluster that was not watched before.
const MAX_RELOAD_WAIT: Duration = Duration::from_secs(10);
/// `nodens reload` commands that wait at a time.
const MAX_COMMANDS: usize = 4;

/// Why a configuration does not take the place of the running one.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("it has {0}")]
    Errors(String),
    #[error("{0}; it is tried again with the next look at the file, or by a signal")]
    NotKnown(String),
    #[error("the node would be silent: {0}; `nodens reload --force` applies it all the same")]
    Silent(String),
}

/// What a reload was asked for by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// A look at the file, which may not have changed.
    Look,
    /// A signal or a command.
    Person,
    /// A command that means it: also if the node would be silent.
    Force,
}

/// `nodens reload`, and where its answer goes.
pub struct Command {
    force: bool,
    answer: oneshot::Sender<Result<Value, String>>,
}

/// A reload that is asked for.
pub(super) struct Wish {
    /// For the log.
    why: &'static str,
    asked: Asked,
    answer: Option<oneshot::Sender<Result<Value, String>>>,
}

impl Wish {
    /// A signal.
    pub(super) fn of_signal() -> Self {
        Self { why: "a signal", asked: Asked::Person, answer: None }
    }

    /// A look at the file.
    pub(super) fn look(why: &'static str) -> Self {
        Self { why, asked: Asked::Look, answer: None }
    }
}

impl From<Command> for Wish {
    fn from(command: Command) -> Self {
        let (why, asked) = match command.force {
            true => ("nodens reload --force", Asked::Force),
            false => ("nodens reload", Asked::Person),
        };
        Self { why, asked, answer: Some(command.answer) }
    }
}

/// Lets the service manager know of a reload, also of the end of one that is dropped.
struct Told<'a>(&'a Systemd);

impl<'a> Told<'a> {
    fn new(systemd: &'a Systemd) -> Self {
        systemd.reloading();
        Self(systemd)
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.ready("serving");
    }
}

/// Where commands are handed in.
#[derive(Clone)]
pub struct Commands(mpsc::Sender<Command>);

impl Commands {
    /// With the end at which they are taken.
    pub(super) fn new() -> (Self, mpsc::Receiver<Command>) {
        let (sender, receiver) = mpsc::channel(MAX_COMMANDS);
        (Self(sender), receiver)
    }
}

impl crate::status::Reloads for Commands {
    fn reload(&self, force: bool) -> Result<Value, String> {
        let (answer, receiver) = oneshot::channel();
        let busy = |_| "a reload is under way; try again when it is done".to_owned();
        self.0.try_send(Command { force, answer }).map_err(busy)?;
        receiver.blocking_recv().unwrap_or_else(|_| Err("the server is about to stop".to_owned()))
    }
}

/// What was read last, so that it is logged once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    hash: String,
    diagnostics: Diagnostics,
}

impl Seen {
    /// What has been read.
    pub(super) fn of(plan: &Plan) -> Self {
        Self { hash: plan.hash(), diagnostics: plan.diagnostics.clone() }
    }
}

impl Server {
    /// Does what is asked for, and answers.
    pub(super) async fn fulfil(&mut self, wish: Wish, systemd: &Systemd) {
        let told = (wish.asked != Asked::Look).then(|| Told::new(systemd));
        let result = self.reload(wish.why, wish.asked).await;
        drop(told);
        if let Some(to) = wish.answer {
            // The command may have ended meanwhile.
            let _ = to.send(answer(result));
        }
    }

    /// Reads the configuration again and puts it in the place of the running one, unless there is anything wrong with it. A
    /// configuration that has not changed is put there anew if a person has asked. Returns what has changed.
    ///
    /// # Errors
    /// Why the running one stays.
    async fn reload(&mut self, why: &str, asked: Asked) -> Result<String, String> {
        let plan = load(&self.args, &self.origin);
        let by_person = asked != Asked::Look;
        let seen = Seen::of(&plan);
        if seen != self.seen || by_person {
            log(&plan.diagnostics);
        }
        self.seen = seen;
        let result = if plan.diagnostics.has_errors() {
            Err(Refusal::Errors(plan.diagnostics.summary()).into())
        } else if plan.hash() == self.hash && !by_person {
            self.config.set_current();
            self.around.has_read();
            return Ok("nothing".to_owned());
        } else {
            self.replace(plan, asked == Asked::Force).await
        };
        self.around.has_read();
        match result {
            Ok(changed) => {
                tracing::info!(why, changed, "reloaded the configuration");
                Ok(changed)
            }
            Err(error) => Err(self.refuse(&error, by_person)),
        }
    }

    /// When the file is due to be read again: at once after a start with another configuration, else as `reload` says; never
    /// without that directive, unless what was read last is held back.
    pub(super) fn next_look(&self) -> Option<tokio::time::Instant> {
        let now = tokio::time::Instant::now();
        if self.around.is_to_read() {
            return Some(now);
        }
        let Some(reload) = self.running.reload else {
            return self.config.is_held_back().then(|| now + RETRY_HELD_BACK);
        };
        let mut random = [0];
        // Without randomness all nodes look at once, and that is all.
        let _ = getrandom::fill(&mut random);
        Some(now + reload.wait(random[0]))
    }

    async fn replace(&mut self, plan: Plan, force: bool) -> anyhow::Result<String> {
        let hash = plan.hash();
        let assembled = assemble(plan.blocks, &self.shared)?;
        // A server of names that are known does not change over to ones that are not.
        if self.running.is_known() && !self.is_as_well_known(&assembled).await {
            let mut missing = assembled.waiting_for();
            if missing.is_empty() {
                missing.push("of what it watches only an old snapshot is known".to_owned());
            }
            return Err(Refusal::NotKnown(missing.join("; ")).into());
        }
        let now = Instant::now();
        self.used.update(&self.running, now);
        if !force && !assembled.reload.is_some_and(|reload| reload.force) {
            let losses = self.used.losses(&self.running, &assembled, now).await;
            if !losses.is_empty() {
                return Err(Refusal::Silent(losses.join("; ")).into());
            }
        }
        self.apply(assembled, hash, &plan.file)
    }

    /// Waits until the clusters of the next configuration are known as well as those of the running one: if these were listed, a
    /// snapshot that another configuration left is not enough.
    async fn is_as_well_known(&self, next: &Assembled) -> bool {
        if !self.running.is_listed() {
            return wait_until_known(next, MAX_RELOAD_WAIT).await;
        }
        let begun = Instant::now();
        let patience = next.startup_timeout.min(MAX_RELOAD_WAIT);
        // No name depends on who clients are: that is waited for, and no more.
        while !next.is_listed() || self.running.knows_clients() && next.waits_for_clients() {
            if begun.elapsed() >= patience {
                return next.is_listed() || patience.is_zero();
            }
            tokio::time::sleep(START_POLL).await;
        }
        true
    }

    /// Puts a configuration in the place of the running one. Without an await, so that a reload that is dropped is done or
    /// has changed nothing.
    fn apply(&mut self, assembled: Assembled, hash: String, file: &File) -> anyhow::Result<String> {
        self.pool.apply(assembled.listeners.clone(), assembled.encrypted.clone())?;
        self.liveness.set_addresses(assembled.listeners.keys().copied());
        let changed = self.running.outline.changes(&assembled.outline).to_string();
        assembled.show(&self.shared, &hash);
        self.config.set_loaded(&hash, Some(changed.clone()));
        serve_pages(&self.admin, &assembled, &self.args);
        let conditions = &self.shared.conditions;
        show(&self.admin, &self.status, conditions, &self.config, &assembled);
        self.running = assembled;
        self.hash = hash;
        self.around.keep_configuration(file);
        Ok(changed)
    }

    /// Says why the running configuration stays, once for each reason, and each time that a person asks.
    fn refuse(&self, error: &anyhow::Error, by_person: bool) -> String {
        let is_silent = matches!(error.downcast_ref(), Some(Refusal::Silent(_)));
        let kind = if is_silent { ProblemKind::HeldBack } else { ProblemKind::Refused };
        let reason = logging::causes(error.as_ref());
        let is_news = self.config.set_problem(kind, reason.clone());
        let reason = self.config.problem().unwrap_or(reason);
        // One that is held back is tried at each look, since upstreams may have come up; it has failed once.
        if is_news || by_person || !is_silent {
            self.shared.metrics.common().reload_failed.add(1);
        }
        if is_news || by_person {
            tracing::error!("the configuration was not reloaded; the running one stays: {reason}");
        }
        reason
    }
}

/// The answer to `nodens reload`.
fn answer(result: Result<String, String>) -> Result<Value, String> {
    match result {
        Ok(changed) => Ok(json!({ "reloaded": true, "changed": changed })),
        Err(reason) => Err(format!("the running configuration stays: {reason}")),
    }
}

/// Writes a line for each diagnostic.
pub(super) fn log(diagnostics: &Diagnostics) {
    for diagnostic in diagnostics.iter() {
        match diagnostic.severity {
            Severity::Error => tracing::error!("{diagnostic}"),
            Severity::Warning => tracing::warn!("{diagnostic}"),
        }
    }
}
