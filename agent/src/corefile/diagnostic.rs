//! What is wrong with a configuration, all of it at once.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::{Location, limits};

/// Whether a diagnostic keeps the configuration from being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The configuration is not used.
    Error,
    /// The configuration is used, and probably does not do what was meant.
    Warning,
}

/// One thing that is wrong: `file:line: directive: what is wrong, expected a value; what to do`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Where it was written.
    pub at: Location,
    /// The directive it is about, where it is about one.
    pub directive: Option<String>,
    /// What is wrong, in lower case and without a full stop.
    pub what: String,
    /// The value that is expected in its place; may be empty.
    pub expected: String,
    /// What to do about it; empty if `expected` is enough.
    pub help: String,
}

/// The diagnostics of one configuration, bounded in number and without repetitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    items: Vec<Diagnostic>,
    errors: usize,
    warnings: usize,
    dropped: usize,
    /// For each file whose braces or quotes do not match: the line from which on it was probably not read as it was meant.
    malformed: BTreeMap<Arc<Path>, u32>,
}

impl Diagnostic {
    /// Makes an error.
    pub fn error(at: Location, what: impl Into<String>) -> Self {
        Self::new(Severity::Error, at, what.into())
    }

    /// Makes a warning.
    pub fn warning(at: Location, what: impl Into<String>) -> Self {
        Self::new(Severity::Warning, at, what.into())
    }

    fn new(severity: Severity, at: Location, what: String) -> Self {
        Self { severity, at, directive: None, what, expected: String::new(), help: String::new() }
    }

    /// Adds what is expected in its place.
    #[must_use]
    pub fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = expected.into();
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }

    /// Adds the directive that it is about.
    #[must_use]
    pub fn directive(mut self, name: impl Into<String>) -> Self {
        self.directive = Some(name.into());
        self
    }
}

impl Diagnostics {
    /// Adds a diagnostic. One that is there already is dropped, because a snippet that is imported ten times is
    /// still written once; beyond [`limits::DIAGNOSTICS`] they are only counted.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        if self.items.contains(&diagnostic) {
            return;
        }
        let count = match diagnostic.severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        *count += 1;
        if *count > limits::DIAGNOSTICS {
            self.dropped += 1;
        } else {
            self.items.push(diagnostic);
        }
    }

    /// As [`Diagnostics::push`], for braces or quotes that do not match: what follows in this file was probably not read as
    /// it was meant, so that errors found in it would mislead.
    pub fn push_malformed(&mut self, diagnostic: Diagnostic) {
        self.distrust(&diagnostic.at);
        self.push(diagnostic);
    }

    /// From this line on the file was probably not read as it was meant.
    pub fn distrust(&mut self, at: &Location) {
        let line = self.malformed.entry(Arc::clone(&at.file)).or_insert(at.line);
        *line = at.line.min(*line);
    }

    /// Whether a file was probably not read as it was meant, so that it has errors.
    pub fn is_malformed(&self) -> bool {
        !self.malformed.is_empty()
    }

    /// Whether what stands here was read as it was meant.
    pub fn is_sound(&self, at: &Location) -> bool {
        self.malformed.get(&at.file).is_none_or(|line| at.line < *line)
    }

    /// Adds all of another collection.
    pub fn append(&mut self, other: Diagnostics) {
        other.items.into_iter().for_each(|item| self.push(item));
        self.dropped += other.dropped;
        for (file, line) in other.malformed {
            self.distrust(&Location { file, line });
        }
    }

    /// Whether the configuration must not be used.
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Errors found, including those that were too many to keep.
    pub fn errors(&self) -> usize {
        self.errors
    }

    /// How many errors there are, and the first of them; if there are more, what shows them.
    pub fn summary(&self) -> String {
        let count =
            if self.errors == 1 { "1 error".into() } else { format!("{} errors", self.errors) };
        let first = self.items.iter().find(|item| item.severity == Severity::Error);
        first.map_or(count.clone(), |first| match self.errors {
            1 => format!("{count}: {first}"),
            _ => format!("{count}, the first: {first}; `nodens check` lists all of them"),
        })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The kept diagnostics in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.items.iter()
    }

    /// Orders them by file and line, as a person reads them.
    pub fn sort(&mut self) {
        self.items.sort_by(|one, other| one.at.cmp(&other.at));
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.at)?;
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if let Some(directive) = &self.directive {
            write!(f, "{directive}: ")?;
        }
        f.write_str(&self.what)?;
        if !self.expected.is_empty() {
            write!(f, ", expected {}", self.expected)?;
        }
        if !self.help.is_empty() {
            write!(f, "; {}", self.help)?;
        }
        Ok(())
    }
}

/// One line each, with a last line for those that were too many.
impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for item in &self.items {
            writeln!(f, "{item}")?;
        }
        if self.dropped > 0 {
            writeln!(f, "... and {} more", self.dropped)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: u32) -> Location {
        Location::new(std::path::Path::new("Corefile"), line)
    }

    #[test]
    fn shows_file_line_directive_what_and_wanted() {
        let error = Diagnostic::error(at(3), "\"5\" has no unit")
            .expected("a duration as in 5s")
            .directive("reload");
        assert_eq!(
            error.to_string(),
            "Corefile:3: reload: \"5\" has no unit, expected a duration as in 5s"
        );
        let warning = Diagnostic::warning(at(4), "odd");
        assert_eq!(warning.to_string(), "Corefile:4: warning: odd");
    }

    #[test]
    fn is_bounded_and_counts_the_rest() {
        let mut all = Diagnostics::default();
        for line in 1..=150 {
            all.push(Diagnostic::warning(at(line), "odd"));
        }
        all.push(Diagnostic::error(at(1), "wrong"));
        all.push(Diagnostic::error(at(1), "wrong"));
        assert_eq!((all.errors(), all.iter().count()), (1, limits::DIAGNOSTICS + 1));
        assert!(all.to_string().ends_with("... and 50 more\n"));
        assert_eq!(all.summary(), "1 error: Corefile:1: wrong");
        all.push(Diagnostic::error(at(2), "worse"));
        assert_eq!(
            all.summary(),
            "2 errors, the first: Corefile:1: wrong; `nodens check` lists all of them"
        );
    }
}
