//! Where an RFC wants another answer than the recorded one: classes of questions, and the answer that is right.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Recorded, Variant};
use crate::normal::Normal;

/// All classes of `deviations.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deviations {
    #[serde(rename = "class")]
    classes: Vec<Class>,
}

/// One class.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// Its name in reports.
    pub name: String,
    /// The RFC and section that want it.
    pub rfc: String,
    /// The reason in a sentence.
    pub why: String,
    /// Patterns of names: `*` stands for one label, `**` for any number of labels.
    names: Vec<String>,
    /// The types asked for.
    types: Vec<String>,
    /// The recorded response code.
    recorded: String,
    /// That the record must itself show the name to exist.
    #[serde(default)]
    exists: Exists,
    /// That a record of the answer must end with this; such records are what is wrong.
    #[serde(default)]
    answer_with: Option<String>,
    /// That the answer must be one record that ends with this.
    #[serde(default)]
    answer_is: Option<String>,
    /// The authority that is missing beside it.
    #[serde(default)]
    authority: Vec<String>,
    /// How many questions of each variant belong to the class; a variant that is not named has none.
    pub count: BTreeMap<String, usize>,
}

/// How the record shows that a name exists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Exists {
    /// Not looked at.
    #[default]
    Any,
    /// Another type at the name is answered, with records or NODATA.
    Here,
    /// A name below it is answered.
    Below,
}

impl Deviations {
    /// The project's list.
    ///
    /// # Panics
    /// When the file is broken.
    #[must_use]
    pub fn load() -> Self {
        let text = include_str!("../../data/conformance/deviations.toml");
        toml::from_str(text).unwrap_or_else(|error| panic!("deviations.toml: {error}"))
    }

    /// All classes.
    #[must_use]
    pub fn classes(&self) -> &[Class] {
        &self.classes
    }

    /// The class that a question belongs to.
    pub(super) fn class_of(&self, variant: &Variant, question: &Recorded) -> Option<&Class> {
        self.classes.iter().find(|class| class.holds(variant, question))
    }
}

impl Class {
    fn holds(&self, variant: &Variant, question: &Recorded) -> bool {
        let name = question.name.to_lowercase();
        let shown = match self.exists {
            Exists::Any => true,
            Exists::Here => variant.existing.here.contains(&name),
            Exists::Below => variant.existing.below.contains(&name),
        };
        shown
            && self.recorded == question.rcode
            && self.count.contains_key(variant.name)
            && self.types.contains(&question.kind)
            && self
                .answer_with
                .as_deref()
                .is_none_or(|end| question.answer.iter().any(|l| l.ends_with(end)))
            && self
                .answer_is
                .as_deref()
                .is_none_or(|end| matches!(&*question.answer, [only] if only.ends_with(end)))
            && self.names.iter().any(|pattern| matches(pattern, &name))
    }

    /// The right answer: the recorded one without the wrong records, or with the missing ones, or NODATA.
    pub(super) fn expected(&self, variant: &Variant, question: &Recorded) -> Normal {
        let mut right = question.normal();
        if self.answer_is.is_some() {
            right.authority = self.authority.iter().map(|line| line.to_lowercase()).collect();
            return right;
        }
        if let Some(end) = &self.answer_with {
            let end = end.to_lowercase();
            right.answer.retain(|line| !line.ends_with(&end));
            if !right.answer.is_empty() {
                return right;
            }
        }
        Normal {
            rcode: "NOERROR".into(),
            aa: true,
            answer: Vec::new(),
            authority: variant.soa(&question.name),
            additional: Vec::new(),
        }
    }
}

/// Whether a name fits a pattern, label by label.
fn matches(pattern: &str, name: &str) -> bool {
    fn rest(pattern: &[&str], name: &[&str]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            (["**", tail @ ..], _) => (0..=name.len()).any(|skip| rest(tail, &name[skip..])),
            (["*", tail @ ..], [_, more @ ..]) => rest(tail, more),
            ([label, tail @ ..], [first, more @ ..]) => label == first && rest(tail, more),
            _ => false,
        }
    }
    let labels = |text: &'_ str| {
        text.trim_end_matches('.').split('.').map(str::to_owned).collect::<Vec<_>>()
    };
    let (pattern, name) = (labels(pattern), labels(name));
    let pattern: Vec<&str> = pattern.iter().map(String::as_str).collect();
    let name: Vec<&str> = name.iter().map(String::as_str).collect();
    rest(&pattern, &name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_matched_by_label() {
        assert!(matches("*.svc.cluster.local.", "a.svc.cluster.local."));
        assert!(!matches("*.svc.cluster.local.", "a.b.svc.cluster.local."));
        assert!(matches("**.in-addr.arpa.", "1.2.in-addr.arpa."));
        assert!(!matches("svc.cluster.local.", "cluster.local."));
    }

    #[test]
    fn the_record_with_its_deviations_is_its_own_answer() {
        let deviations = Deviations::load();
        for name in ["insecure", "verified", "namespaces", "ignore_empty", "noendpoints"] {
            let variant = Variant::load(name).unwrap();
            assert_eq!(variant.questions().len(), 2403);
            let right = variant.judge(&deviations, |question| {
                let class = deviations.class_of(&variant, question);
                Ok(class
                    .map_or_else(|| question.normal(), |class| class.expected(&variant, question)))
            });
            assert!(right.passed(), "{right}");
            let recorded = variant.judge(&deviations, |question| Ok(question.normal()));
            assert!(!recorded.passed(), "listed deviations that no longer occur must fail");
        }
    }
}
