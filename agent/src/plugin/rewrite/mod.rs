//! `rewrite`: another question than the one that was asked, and an answer that does not show it.
//!
//! A query that no rule is for passes at once. Any other becomes a task: its question is rewritten, the handlers behind
//! answer it, and the answer is built anew with the question as it was asked.

mod config;
mod edns;
mod matcher;
mod shadow;

use std::borrow::Cow;
use std::ops::RangeInclusive;

pub use config::Config;
use config::Rule;
use edns::Options;
use matcher::{Change, Matcher, Replacement};

use crate::chain::{Handler, Local, Next};
use crate::corefile::Directive;
use crate::plugin::directive::{BuildContext, BuildHandler, ReadContext, ReadDirective};
use crate::plugin::lookup::{Parts, lookup};
use crate::plugin::pattern::NameText;
use crate::request::Resolving;
use crate::request::{Answer, OwnedRequest, Plugin, Request, Step, ede};
use crate::wire::{
    Class, HEADER_LEN, Name, NameBuf, NameError, NameRef, Query, Rcode, Record, RecordType, Reply,
    Section,
};

/// All `rewrite` directives of a server block, in the order in which they were written.
#[derive(Debug)]
pub struct Rewrite {
    rules: Vec<Config>,
}

/// A question, with its name as text.
#[derive(Clone, PartialEq, Eq)]
struct Question {
    name: String,
    qtype: RecordType,
    class: Class,
}

impl Question {
    fn of(query: &Query<'_>) -> Self {
        let name = NameText::of(query.name()).as_str().to_owned();
        Self { name, qtype: query.qtype(), class: query.qclass() }
    }
}

/// What is done with the answer.
#[derive(Default)]
struct Reverse<'r> {
    /// Changes of owners, in the order of the rules.
    names: Vec<Change<'r>>,
    /// Changes of names in the data, in the order of the rules.
    values: Vec<Change<'r>>,
    /// Bounds of times to live, in the order of the rules.
    ttls: Vec<RangeInclusive<u32>>,
    /// Rules of which only the answer shows whether they fit, in order.
    tried: Vec<&'r Config>,
}

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        Self::parse(directive, cx.zones, cx.diagnostics)
    }
}

impl BuildHandler for Config {
    fn build(lines: Vec<Self>, cx: &mut BuildContext<'_>) -> anyhow::Result<()> {
        cx.push(Rewrite::new(lines));
        Ok(())
    }
}

impl Rewrite {
    /// A handler for these directives.
    pub fn new(rules: Vec<Config>) -> Self {
        Self { rules }
    }

    /// Goes through the rules: what is asked instead, and what is done with the answer.
    fn rewritten(
        &self,
        request: &Request<'_>,
        asked: &Question,
    ) -> (Question, Options, Reverse<'_>) {
        let mut question = asked.clone();
        let mut reverse = Reverse::default();
        let mut options = Options::default();
        for config in &self.rules {
            let applied = match &config.rule {
                Rule::Edns(rule) => rule.apply(request, &question.name, &mut options),
                rule if rule.is_tried_on_answers(&question.name) => {
                    reverse.tried.push(config);
                    false
                }
                rule => rule.apply(&mut question, &mut reverse),
            };
            if applied && !config.continues {
                break;
            }
        }
        (question, options, reverse)
    }
}

impl Rule {
    /// Whether it is for a question; without any allocation.
    fn is_for(&self, name: &str, qtype: RecordType, class: Class) -> bool {
        match self {
            Self::Name { matcher, .. }
            | Self::Ttl { matcher, .. }
            | Self::Rcode { matcher, .. } => matcher.is_match(name),
            Self::Type { from, .. } => *from == qtype,
            Self::Class { from, .. } => *from == class,
            // Only the answer shows it.
            Self::Cname { .. } => true,
            Self::Edns(rule) => rule.is_for_any(),
            Self::Broken => false,
        }
    }

    /// Whether it is for the name, and only the answer shows if it fits. Such a rule stops others of its kind at most: the
    /// question has been rewritten by then.
    fn is_tried_on_answers(&self, name: &str) -> bool {
        match self {
            Self::Rcode { matcher, .. } => matcher.is_match(name),
            Self::Cname { .. } => true,
            _ => false,
        }
    }

    fn apply<'r>(&'r self, question: &mut Question, reverse: &mut Reverse<'r>) -> bool {
        match self {
            Self::Name { matcher, to, auto, answers } => {
                let Some(name) = matcher.replace(&question.name, to) else { return false };
                let before = std::mem::replace(&mut question.name, name);
                if *auto {
                    for changes in [&mut reverse.names, &mut reverse.values] {
                        changes.push(match matcher {
                            Matcher::Suffix(from) => Change::Suffix { from: to.text(), to: from },
                            _ => Change::Remap { from: question.name.clone(), to: before.clone() },
                        });
                    }
                }
                for answer in answers {
                    let change = Change::Regex { regex: &answer.regex, to: &answer.to };
                    if answer.values {
                        reverse.values.push(change)
                    } else {
                        reverse.names.push(change)
                    }
                }
                true
            }
            Self::Type { from, to } if *from == question.qtype => {
                question.qtype = *to;
                true
            }
            Self::Class { from, to } if *from == question.class => {
                question.class = *to;
                true
            }
            Self::Ttl { matcher, range } if matcher.is_match(&question.name) => {
                reverse.ttls.push(range.clone());
                true
            }
            _ => false,
        }
    }
}

impl Reverse<'_> {
    /// Tries the rules that the answer decides about, in order, up to the first that fits and stops. True if one has fitted.
    async fn try_rules(
        &self,
        request: &OwnedRequest,
        qtype: RecordType,
        parts: &mut Parts,
    ) -> bool {
        let mut any = false;
        for config in &self.tried {
            let fits = match &config.rule {
                Rule::Cname { matcher, to } => {
                    rewrite_alias(request, qtype, matcher, to, parts).await
                }
                Rule::Rcode { from, to, .. } if *from == parts.outcome.rcode => {
                    parts.outcome.rcode = *to;
                    true
                }
                _ => false,
            };
            any |= fits;
            if fits && !config.continues {
                break;
            }
        }
        any
    }

    /// True if the records of every answer are changed.
    fn changes_records(&self) -> bool {
        !self.names.is_empty() || !self.values.is_empty() || !self.ttls.is_empty()
    }

    /// Changes the records.
    fn change(&self, records: &mut [(Section, Record)]) {
        // Most records of an answer have the same owner.
        let mut last: Option<(Name, Option<Name>)> = None;
        for (_, record) in records {
            let other = match &last {
                Some((owner, other)) if *owner == record.owner => other.clone(),
                _ => changed(record.owner.as_ref(), &self.names)
                    .map(|owner| owner.as_name().to_name()),
            };
            last = Some((record.owner.clone(), other.clone()));
            if let Some(owner) = other {
                record.owner = owner;
            }
            if !self.values.is_empty() {
                record.change_names(&mut |name| changed(name, &self.values));
            }
            for range in &self.ttls {
                record.ttl = record.ttl.clamp(*range.start(), *range.end());
            }
        }
    }
}

impl Handler for Rewrite {
    fn plugin(&self) -> Plugin {
        Plugin::Rewrite
    }

    fn serve(&self, request: &Request<'_>, _: &mut Reply<'_>, _: &mut Local) -> Step {
        let query = &request.query;
        let name = NameText::of(query.name());
        let is_for = |rule: &Config| rule.rule.is_for(name.as_str(), query.qtype(), query.qclass());
        if self.rules.iter().any(is_for) { Step::Wait } else { Step::Next }
    }

    fn resolve<'a>(&'a self, request: &'a OwnedRequest, next: Next<'a>) -> Resolving<'a> {
        Box::pin(async move {
            let Ok(view) = request.view() else { return Answer::unreadable() };
            let asked = Question::of(&view.query);
            let (question, options, reverse) = self.rewritten(&view, &asked);
            let packet = match packet_for(&view, &question) {
                Ok(packet) => packet,
                Err(error) => {
                    let error = format!("the rewritten name {:?} is none: {error}", question.name);
                    return Answer::failure(
                        &view,
                        Plugin::Rewrite,
                        Rcode::SERVFAIL,
                        ede::OTHER,
                        &error,
                    );
                }
            };
            let mut inner = request.with_packet(packet);
            inner.options = options.octets().map(Into::into);
            let answer = next.resolve(&inner).await;
            if answer.message.truncated() {
                return answer.as_failure(&view);
            }
            let Ok(mut parts) = Parts::of(&answer) else { return Answer::unreadable() };
            let fitted = reverse.try_rules(&inner, question.qtype, &mut parts).await;
            if question == asked && !fitted && !reverse.changes_records() {
                return answer;
            }
            reverse.change(&mut parts.records);
            parts.into_answer(&view)
        })
    }
}

/// Gives the first alias whose target matches another target, and what that target comes to. False if there is none.
async fn rewrite_alias(
    request: &OwnedRequest,
    qtype: RecordType,
    matcher: &Matcher,
    to: &Replacement,
    parts: &mut Parts,
) -> bool {
    let found = parts.records.iter().enumerate().find_map(|(at, (section, record))| {
        let alias = *section == Section::Answer && record.rtype == RecordType::CNAME;
        let target = record.target().filter(|_| alias)?;
        let other = matcher.replace(NameText::of(target.as_ref()).as_str(), to)?;
        Some((at, Name::from_text(&other).ok()?))
    });
    let Some((at, target)) = found else { return false };
    if let Some((_, record)) = parts.records.get_mut(at) {
        record.rdata = target.as_bytes().into();
    }
    // What the old target led to goes, what the new one leads to comes.
    parts.records.truncate(at + 1);
    parts.outcome.rcode = Rcode::NOERROR;
    parts.options.clear();
    if !matches!(qtype, RecordType::CNAME | RecordType::ANY) {
        let found = lookup(request, Plugin::Rewrite, target.as_ref(), qtype).await;
        parts.append_target(qtype, found);
    }
    true
}

/// What the changes make of a name; `None` if they are not for it.
fn changed(name: NameRef<'_>, changes: &[Change<'_>]) -> Option<NameBuf> {
    if changes.is_empty() {
        return None;
    }
    let text = NameText::of(name);
    // Backwards: the last rewriting of the question is the first to be undone.
    let other =
        changes.iter().rev().fold(Cow::Borrowed(text.as_str()), |name, change| change.apply(name));
    match other {
        Cow::Owned(other) => {
            let mut name = NameBuf::new();
            name.push_text(&other).ok()?;
            Some(name)
        }
        Cow::Borrowed(_) => None,
    }
}

/// The query's packet with another question.
fn packet_for(view: &Request<'_>, question: &Question) -> Result<Vec<u8>, NameError> {
    let query = &view.query;
    let name = Name::from_text(&question.name)?;
    let mut packet = query.packet().get(..HEADER_LEN).unwrap_or_default().to_vec();
    packet.extend_from_slice(name.as_bytes());
    packet.extend_from_slice(&question.qtype.0.to_be_bytes());
    packet.extend_from_slice(&question.class.0.to_be_bytes());
    packet.extend_from_slice(query.packet().get(query.question_end()..).unwrap_or_default());
    Ok(packet)
}

#[cfg(test)]
mod tests;
