//! What each step of a query did, as a dry run without effects: the same handlers are asked in the same order, and note what
//! they say and what they know.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// Steps that are kept; an alias that leads through many others has more.
const MAX_STEPS: usize = 64;
/// Notes of a step.
const MAX_NOTES: usize = 16;
/// Octets of a note.
const MAX_NOTE: usize = 500;

/// The trace of one query. A query that has one changes nothing: no counter, no rotation, no cache entry.
#[derive(Debug, Default)]
pub struct Trace {
    asks: bool,
    steps: Mutex<Vec<Step>>,
}

/// What one handler did with a query, or with one that it made of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The name asked for.
    pub name: String,
    /// The type asked for.
    #[serde(rename = "type")]
    pub qtype: String,
    /// The directive.
    pub directive: &'static str,
    /// What it did.
    pub did: Did,
    /// What it knows of the query.
    pub notes: Vec<String>,
    /// Those of them that say why.
    #[serde(skip)]
    pub reasons: Vec<Reason>,
    /// An object that the name is of exists.
    #[serde(skip)]
    pub found: bool,
}

/// What a handler knows of a query: how things are, and why the answer is not the one that was hoped for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    all: Vec<String>,
    /// Those that say why.
    reasons: Vec<Reason>,
    /// An object that the name is of exists.
    found: bool,
}

/// Why an answer is as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// A sentence without its full stop.
    pub text: String,
    /// It says what was probably meant, and not only what does not exist.
    pub is_hint: bool,
}

impl Notes {
    /// How something is.
    pub fn describe(&mut self, text: String) {
        self.all.push(text);
    }

    /// What the name is of.
    pub fn found(&mut self, text: String) {
        self.found = true;
        self.all.push(text);
    }

    /// Why there is no such answer.
    pub fn because(&mut self, text: String) {
        self.all.push(text.clone());
        self.reasons.push(Reason { text, is_hint: false });
    }

    /// The same, with what was probably meant.
    pub fn hint(&mut self, text: String) {
        self.all.push(text.clone());
        self.reasons.push(Reason { text, is_hint: true });
    }
}

/// What a handler did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Did {
    /// It left the query to those behind it.
    Passed,
    /// It answered.
    Answered,
    /// It needs another answer for its own.
    Needs,
}

impl Trace {
    /// An empty one. With `asks` upstreams are asked, which learn of the query then.
    pub fn new(asks: bool) -> Self {
        Self { asks, steps: Mutex::default() }
    }

    /// Whether upstreams are to be asked.
    pub fn asks(&self) -> bool {
        self.asks
    }

    /// Adds a step.
    pub fn push(&self, step: Step) {
        let mut steps = self.steps();
        if steps.len() < MAX_STEPS {
            steps.push(step);
        }
    }

    /// Adds a note to the last step of a directive.
    pub fn note(&self, directive: &str, text: String) {
        let mut steps = self.steps();
        if let Some(step) = steps.iter_mut().rev().find(|step| step.directive == directive) {
            step.notes.push(text);
            bound_all(&mut step.notes);
        }
    }

    /// The steps so far.
    pub fn take(&self) -> Vec<Step> {
        std::mem::take(&mut *self.steps())
    }

    fn steps(&self) -> MutexGuard<'_, Vec<Step>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Step {
    /// A step; notes beyond what is kept are cut off.
    pub fn new(
        (name, qtype): (String, String),
        directive: &'static str,
        did: Did,
        Notes { all: mut notes, mut reasons, found }: Notes,
    ) -> Self {
        bound_all(&mut notes);
        reasons.truncate(MAX_NOTES);
        reasons.iter_mut().for_each(|reason| bound(std::slice::from_mut(&mut reason.text)));
        Self { name, qtype, directive, did, notes, reasons, found }
    }
}

fn bound_all(notes: &mut Vec<String>) {
    notes.truncate(MAX_NOTES);
    bound(notes);
}

fn bound(notes: &mut [String]) {
    for note in notes.iter_mut().filter(|note| note.len() > MAX_NOTE) {
        let end = (0..=MAX_NOTE).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
        note.truncate(end);
        note.push_str("...");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_bounded() {
        let trace = Trace::new(false);
        for number in 0..1_000 {
            let question = (format!("{number}.test."), "A".to_owned());
            let mut notes = Notes::default();
            (0..99).for_each(|_| notes.because("ä".repeat(9_000)));
            trace.push(Step::new(question, "cache", Did::Passed, notes));
            trace.note("cache", "more".to_owned());
        }
        let steps = trace.take();
        assert_eq!((steps.len(), steps[0].notes.len()), (MAX_STEPS, MAX_NOTES));
        assert!(steps[0].notes[0].len() <= MAX_NOTE + 3);
        assert_eq!(steps[0].reasons.len(), MAX_NOTES);
        assert!(steps[0].reasons[0].text.len() <= MAX_NOTE + 3);
    }
}
