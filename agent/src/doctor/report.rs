//! What is printed.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Value, json};

use super::finding::{Finding, Verdict};
use super::table::{Check, Scope};
use crate::args::Output;

/// A check that was made.
pub struct Examined {
    /// Which one.
    pub check: &'static Check,
    /// What it came to.
    pub finding: Finding,
    /// How long it took.
    pub took: Duration,
}

/// One line of text. What others have chosen, such as the name of a process or a message, does not steer the terminal.
fn plain(text: &str) -> String {
    let is_space = |c: char| matches!(c, '\n' | '\r' | '\t');
    let shown = |c: char| {
        if is_space(c) {
            ' '
        } else if c.is_control() {
            '\u{fffd}'
        } else {
            c
        }
    };
    text.chars().map(shown).collect()
}

/// All that was examined.
pub struct Report {
    scope: Scope,
    examined: Vec<Examined>,
    took: Duration,
}

impl Report {
    /// In the order of the table.
    pub fn new(scope: Scope, examined: Vec<Examined>, took: Duration) -> Self {
        Self { scope, examined, took }
    }

    /// The worst verdict.
    pub fn worst(&self) -> Verdict {
        self.examined.iter().map(|one| one.finding.verdict).max().unwrap_or(Verdict::Skipped)
    }

    /// Prints it.
    pub fn print(&self, output: Output, out: &mut impl Write) -> io::Result<()> {
        match output {
            Output::Text => self.text(out),
            Output::Json => writeln!(out, "{:#}", self.json()),
        }
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.examined.iter().filter(|one| one.finding.verdict == verdict).count()
    }

    fn summary(&self) -> String {
        let several = |verdict, one: &str| match self.count(verdict) {
            1 => format!("1 {one}"),
            count => format!("{count} {one}s"),
        };
        format!(
            "{} checks in {:.1} s: {}, {}, {} ok, {} skipped",
            self.examined.len(),
            self.took.as_secs_f64(),
            several(Verdict::Problem, "problem"),
            several(Verdict::Warning, "warning"),
            self.count(Verdict::Ok),
            self.count(Verdict::Skipped)
        )
    }

    /// The worst verdict, and which checks came to it.
    fn headline(&self) -> String {
        let worst = self.worst();
        let ids = self.examined.iter().filter(|one| one.finding.verdict == worst);
        let ids: Vec<&str> = ids.map(|one| one.check.id).collect();
        match worst {
            Verdict::Problem | Verdict::Warning => format!("{worst}: {}", ids.join(", ")),
            Verdict::Ok => "ok: nothing is wrong".to_owned(),
            Verdict::Skipped => "nothing could be examined".to_owned(),
        }
    }

    /// By category; then what is wrong again, with its cure, where a terminal shows it last.
    fn text(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}\n", self.headline())?;
        let mut category = None;
        for Examined { check, finding, .. } in &self.examined {
            if category.replace(check.category) != Some(check.category) {
                writeln!(out, "{}", check.category.name())?;
            }
            writeln!(
                out,
                "  {:<8} {:<22} {}",
                finding.verdict,
                check.id,
                plain(&finding.evidence)
            )?;
            if !finding.cure.is_empty() {
                writeln!(out, "  {:<8} {:<22} cure: {}", "", "", plain(&finding.cure))?;
                writeln!(out, "  {:<8} {:<22} see {}", "", "", check.anchor())?;
            }
        }
        writeln!(out, "{}", self.summary())
    }

    fn json(&self) -> Value {
        let checks = self.examined.iter().map(|Examined { check, finding, took }| {
            json!({
                "id": check.id,
                "category": check.category.name(),
                "title": check.title,
                "verdict": finding.verdict,
                "evidence": finding.evidence,
                "cure": finding.cure,
                "manual": check.anchor(),
                "milliseconds": took.as_millis() as u64,
            })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "scope": self.scope,
            "worst": self.worst(),
            "seconds": (self.took.as_secs_f64() * 1e3).round() / 1e3,
            "counts": {
                "ok": self.count(Verdict::Ok),
                "warning": self.count(Verdict::Warning),
                "problem": self.count(Verdict::Problem),
                "skipped": self.count(Verdict::Skipped),
            },
            "checks": checks.collect::<Vec<_>>(),
        })
    }
}
