//! What was done, for people and for programs.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::error::Error;
use crate::plan::{Operation, Refusal, What};

/// The outcome of bringing the kernel to the desired state, or of removing it all.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Each operation with its result, in order. Empty if there was nothing to do.
    pub steps: Vec<Step>,
    /// Why nothing, or not everything, was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// Why the kernel could not be read.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_text")]
    pub unreadable: Option<Error>,
    /// What was still different when the kernel was read once more after the operations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unsettled: Vec<Operation>,
    /// What an operator should know though it is no error.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Report {
    /// Whether the kernel is now in the desired state.
    pub fn is_ok(&self) -> bool {
        self.problems().is_empty()
    }

    /// Whether anything was changed.
    pub fn changed(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.outcome, Outcome::Done))
    }

    /// Whether the kernel was changed by others while the operations were done: what they were about had gone, or what
    /// they did is not so any more. Planned anew, they may well succeed.
    pub(crate) fn is_overtaken(&self) -> bool {
        let is_readable = self.unreadable.is_none() && self.refusal.is_none();
        let has_failed = |step: &Step| match &step.outcome {
            Outcome::Failed { error } => !error.is_of_missing_link(),
            _ => false,
        };
        is_readable && !self.unsettled.is_empty() && !self.steps.iter().any(has_failed)
    }

    /// The kinds of thing that were changed, each once.
    pub fn mended(&self) -> Vec<What> {
        let mut kinds = Vec::new();
        for step in self.steps.iter().filter(|step| matches!(step.outcome, Outcome::Done)) {
            if !kinds.contains(&step.operation.what()) {
                kinds.push(step.operation.what());
            }
        }
        kinds
    }

    /// Whether the link was not there before and was made.
    pub fn created_link(&self) -> bool {
        let created = |step: &Step| {
            matches!(step.operation, Operation::CreateLink { .. })
                && matches!(step.outcome, Outcome::Done)
        };
        self.steps.iter().any(created)
    }

    /// Everything that went wrong, each with the `errortype` that NodeLocal DNSCache's metric has
    /// for it.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Some(error) = &self.unreadable {
            problems.push(Problem::new("interface_check", error));
        }
        if let Some(refusal) = &self.refusal {
            problems.push(Problem::new("interface_add", refusal));
        }
        for step in &self.steps {
            if let Outcome::Failed { error } = &step.outcome {
                problems.push(Problem::new(step.operation.what().errortype(), error));
            }
        }
        for operation in &self.unsettled {
            if !self.steps.iter().any(|step| step.operation == *operation && step.outcome.is_bad())
            {
                let text =
                    format!("{operation}: done, but undone at once by something else on this node");
                problems.push(Problem { errortype: operation.what().errortype(), message: text });
            }
        }
        problems
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.steps.is_empty() && self.is_ok() {
            writeln!(f, "nothing to do")?;
        }
        for Step { operation, outcome } in &self.steps {
            match outcome {
                Outcome::Done => writeln!(f, "done     {operation}")?,
                Outcome::Failed { error } => writeln!(f, "FAILED   {error}")?,
                Outcome::Skipped { because } => writeln!(f, "skipped  {operation}: {because}")?,
            }
        }
        let listed = |problem: &&Problem| {
            !self.steps.iter().any(|step| step.outcome.reports(&problem.message))
        };
        for problem in self.problems().iter().filter(listed) {
            writeln!(f, "FAILED   {}", problem.message)?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note     {note}"))
    }
}

/// An operation and what became of it.
#[derive(Debug, Serialize)]
pub struct Step {
    /// What was to be done.
    #[serde(flatten)]
    pub operation: Operation,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Step {
    /// Whether the kernel was changed by it.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.outcome, Outcome::Done)
    }
}

/// What became of an operation.
#[derive(Debug, Serialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub enum Outcome {
    /// The kernel has it now.
    Done,
    /// The kernel refused.
    Failed {
        /// Its reason, explained.
        #[serde(serialize_with = "text")]
        error: Error,
    },
    /// Not tried.
    Skipped {
        /// Why.
        because: String,
    },
}

impl Outcome {
    fn is_bad(&self) -> bool {
        !matches!(self, Self::Done)
    }

    fn reports(&self, message: &str) -> bool {
        matches!(self, Self::Failed { error } if error.to_string() == message)
    }
}

/// One thing that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The label of `coredns_nodecache_setup_errors_total`.
    pub errortype: &'static str,
    /// What an operator should read.
    pub message: String,
}

impl Problem {
    fn new(errortype: &'static str, message: impl fmt::Display) -> Self {
        Self { errortype, message: message.to_string() }
    }
}

fn text<S: Serializer>(error: &Error, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(error)
}

fn optional_text<S: Serializer>(error: &Option<Error>, serializer: S) -> Result<S::Ok, S::Error> {
    error.as_ref().map(ToString::to_string).serialize(serializer)
}
