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
            bound(&mut step.notes);
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
        mut notes: Vec<String>,
    ) -> Self {
        bound(&mut notes);
        Self { name, qtype, directive, did, notes }
    }
}

fn bound(notes: &mut Vec<String>) {
    notes.truncate(MAX_NOTES);
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
            trace.push(Step::new(question, "cache", Did::Passed, vec!["ä".repeat(9_000); 99]));
            trace.note("cache", "more".to_owned());
        }
        let steps = trace.take();
        assert_eq!((steps.len(), steps[0].notes.len()), (MAX_STEPS, MAX_NOTES));
        assert!(steps[0].notes[0].len() <= MAX_NOTE + 3);
    }
}
