//! What a run found: counts, deviations apart, and differences in groups.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use super::{Class, Deviations, Recorded};
use crate::normal::Normal;

/// How many groups of differences are printed, and how many examples of each.
const GROUPS: usize = 30;
const EXAMPLES: usize = 3;

/// The outcome for one variant.
#[derive(Debug)]
pub struct Report {
    variant: &'static str,
    same: usize,
    deviations: BTreeMap<String, usize>,
    differences: BTreeMap<String, Vec<String>>,
}

impl Report {
    pub(super) fn new(variant: &'static str) -> Self {
        Self { variant, same: 0, deviations: BTreeMap::new(), differences: BTreeMap::new() }
    }

    /// Whether all is as recorded or as listed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.differences.is_empty()
    }

    /// How many questions were answered as recorded.
    #[must_use]
    pub fn same_count(&self) -> usize {
        self.same
    }

    /// How many questions were answered as a listed deviation wants.
    #[must_use]
    pub fn deviation_count(&self) -> usize {
        self.deviations.values().sum()
    }

    pub(super) fn same(&mut self) {
        self.same += 1;
    }

    pub(super) fn deviated(&mut self, class: &Class) {
        *self.deviations.entry(class.name.clone()).or_default() += 1;
    }

    pub(super) fn no_longer(&mut self, question: &Recorded, class: Option<&Class>) {
        let name = class.map_or("", |c| c.name.as_str());
        let group = format!("listed deviation `{name}` does not occur: answered as recorded");
        self.add(group, format!("{} {}", question.name, question.kind));
    }

    pub(super) fn differs(
        &mut self,
        question: &Recorded,
        expected: &Normal,
        actual: &Normal,
        class: Option<&Class>,
    ) {
        let mut group =
            format!("{}: wanted {}, got {}", question.kind, shape(expected), shape(actual));
        if let Some(class) = class {
            let _ = write!(group, " (deviation `{}`)", class.name);
        }
        let mut example = format!("{} {}", question.name, question.kind);
        for (section, wanted, got) in [
            ("answer", &expected.answer, &actual.answer),
            ("authority", &expected.authority, &actual.authority),
            ("additional", &expected.additional, &actual.additional),
        ] {
            for line in wanted.iter().filter(|l| count(wanted, l) != count(got, l)) {
                let _ = write!(example, "\n        {section} - {line}");
            }
            for line in got.iter().filter(|l| count(wanted, l) != count(got, l)) {
                let _ = write!(example, "\n        {section} + {line}");
            }
        }
        self.add(group, example);
    }

    pub(super) fn failed(&mut self, question: &Recorded, problem: &str) {
        // Addresses and names differ from case to case; the first words say what is wrong.
        let group: Vec<&str> = problem.split([':', '(']).take(1).collect();
        self.add(
            format!("no comparison: {}", group.join("")),
            format!("{} {}: {problem}", question.name, question.kind),
        );
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.same += other.same;
        for (class, count) in other.deviations {
            *self.deviations.entry(class).or_default() += count;
        }
        for (group, examples) in other.differences {
            self.differences.entry(group).or_default().extend(examples);
        }
    }

    /// Holds every class to its listed count, so that a pattern cannot quietly cover more than was meant.
    pub(super) fn check_counts(&mut self, deviations: &Deviations) {
        for class in deviations.classes() {
            let listed = class.count.get(self.variant).copied().unwrap_or(0);
            let found = self.deviations.get(&class.name).copied().unwrap_or(0);
            if listed != found {
                let text = format!("deviation `{}`: {listed} listed, {found} found", class.name);
                self.add("deviations.toml: counts".into(), text);
            }
        }
    }

    fn add(&mut self, group: String, example: String) {
        self.differences.entry(group).or_default().push(example);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let different: usize = self.differences.values().map(Vec::len).sum();
        let (variant, same, listed) = (self.variant, self.same, self.deviation_count());
        writeln!(
            f,
            "{variant}: {same} as recorded, {listed} listed deviations, {different} differences"
        )?;
        for (class, count) in &self.deviations {
            writeln!(f, "    {count:5} {class}")?;
        }
        let mut groups: Vec<_> = self.differences.iter().collect();
        groups.sort_by_key(|(_, examples)| std::cmp::Reverse(examples.len()));
        for (group, examples) in groups.iter().take(GROUPS) {
            writeln!(f, "  {:5} x {group}", examples.len())?;
            for example in examples.iter().take(EXAMPLES) {
                writeln!(f, "      {example}")?;
            }
        }
        if groups.len() > GROUPS {
            writeln!(f, "  ... and {} more groups", groups.len() - GROUPS)?;
        }
        Ok(())
    }
}

fn shape(normal: &Normal) -> String {
    let aa = if normal.aa { " aa" } else { "" };
    let (a, n, x) = (normal.answer.len(), normal.authority.len(), normal.additional.len());
    format!("{}{aa} {a}/{n}/{x}", normal.rcode)
}

fn count(lines: &[String], line: &String) -> usize {
    lines.iter().filter(|l| *l == line).count()
}
