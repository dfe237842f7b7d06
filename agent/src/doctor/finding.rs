//! What a check comes to.

use std::fmt;

use serde::Serialize;

/// How bad it is, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// There was nothing to examine, or it may not be looked at.
    Skipped,
    /// As it should be.
    Ok,
    /// It works, but something should be looked at.
    Warning,
    /// Queries fail, or will at the next start or failure.
    Problem,
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub verdict: Verdict,
    /// What was seen.
    pub evidence: String,
    /// What to do; empty unless it is a warning or a problem.
    pub cure: String,
}

impl Finding {
    /// As it should be.
    pub fn ok(evidence: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, evidence: evidence.into(), cure: String::new() }
    }

    /// Nothing to examine; why.
    pub fn skipped(why: impl Into<String>) -> Self {
        Self { verdict: Verdict::Skipped, evidence: why.into(), cure: String::new() }
    }

    /// Something to look at, and what to do.
    pub fn warning(evidence: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warning, evidence: evidence.into(), cure: cure.into() }
    }

    /// Something that is wrong, and what to do.
    pub fn problem(evidence: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { verdict: Verdict::Problem, evidence: evidence.into(), cure: cure.into() }
    }

    /// One of several of a kind: the worst of them, with the evidence of all that are as bad. Of many only the first few are told.
    pub fn worst(findings: Vec<Self>, none: &str) -> Self {
        let Some(verdict) = findings.iter().map(|finding| finding.verdict).max() else {
            return Self::skipped(none);
        };
        let told: Vec<Self> =
            findings.into_iter().filter(|finding| finding.verdict == verdict).collect();
        let mut cures: Vec<String> = Vec::new();
        for finding in &told {
            if !finding.cure.is_empty() && !cures.contains(&finding.cure) && cures.len() < FEW {
                cures.push(finding.cure.clone());
            }
        }
        let evidence = few(told.into_iter().map(|finding| finding.evidence));
        Self { verdict, evidence, cure: cures.join("; ") }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Skipped => "skipped",
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "PROBLEM",
        })
    }
}

/// The most things of a kind that are told one by one.
const FEW: usize = 5;

/// The first few, and how many more there are.
pub fn few(all: impl IntoIterator<Item = String>) -> String {
    let all: Vec<String> = all.into_iter().collect();
    let more = all.len().saturating_sub(FEW);
    let mut text = all.into_iter().take(FEW).collect::<Vec<_>>().join("; ");
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_counts_with_all_that_are_as_bad() {
        let all = vec![
            Finding::ok("a"),
            Finding::problem("b", "mend it"),
            Finding::warning("c", "look"),
            Finding::problem("d", "mend it"),
        ];
        assert_eq!(Finding::worst(all, ""), Finding::problem("b; d", "mend it"));
        assert_eq!(Finding::worst(Vec::new(), "nothing"), Finding::skipped("nothing"));
        let many = (0..8).map(|n| Finding::ok(n.to_string())).collect();
        assert_eq!(Finding::worst(many, ""), Finding::ok("0; 1; 2; 3; 4; and 3 more"));
    }
}
