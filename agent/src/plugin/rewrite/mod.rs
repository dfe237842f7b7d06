//! `rewrite`: another question than the one that was asked, and an answer that does not show it.
//!
//! A query that no rule is for passes at once. Any other becomes a task: its question is rewritten, the handlers behind
//! answer it, and the answer is built anew with the question as it was asked.

mod config;
mod edns;
mod matcher;
mod shadow;

use std::borrow::Cow;
use std::sync::Arc;

pub use config::Config;
use config::Rule;
use edns::Options;
use matcher::{Change, Matcher, Replacement};

use crate::chain::{Handler, Local, Next, Resolving};
use crate::corefile::Directive;
use crate::plugin::directive::{BuildContext, BuildHandler, ReadContext, ReadDirective};
use crate::plugin::lookup::lookup;
use crate::plugin::pattern::NameText;
use crate::request::{Answer, OwnedRequest, Plugin, Request, Step, ede};
use crate::wire::record::rebuild;
use crate::wire::{
    Class, HEADER_LEN, Name, NameError, NameRef, Rcode, Record, RecordType, Reply, Section,
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

/// What is done with the answer.
#[derive(Default)]
struct Reverse<'r> {
    /// Changes of owners, in the order of the rules.
    names: Vec<Change<'r>>,
    /// Changes of names in the data, in the order of the rules.
    values: Vec<Change<'r>>,
    ttl: Option<(u32, u32)>,
    rcode: Option<(Rcode, Rcode)>,
    alias: Option<(&'r Matcher, &'r Replacement)>,
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
    fn rewritten(&self, request: &Request<'_>) -> (Question, Options, Reverse<'_>) {
        let query = &request.query;
        let name = NameText::of(query.name()).as_str().to_owned();
        let mut question = Question { name, qtype: query.qtype(), class: query.qclass() };
        let mut reverse = Reverse::default();
        let mut options = Options::default();
        for Config { continues, rule } in &self.rules {
            let applied = match rule {
                Rule::Edns(rule) => rule.apply(request, &question.name, &mut options),
                rule => rule.apply(&mut question, &mut reverse),
            };
            if applied && !continues {
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
                reverse.ttl = Some((*range.start(), *range.end()));
                true
            }
            Self::Rcode { matcher, from, to } if matcher.is_match(&question.name) => {
                reverse.rcode = Some((*from, *to));
                true
            }
            Self::Cname { matcher, to } => {
                reverse.alias = Some((matcher, to));
                true
            }
            _ => false,
        }
    }
}

impl Reverse<'_> {
    /// Does with the records what has to be done.
    fn records(&self, records: &mut [(Section, Record)]) {
        for (_, record) in records {
            if let Some(owner) = changed(record.owner.as_ref(), &self.names) {
                record.owner = owner;
            }
            if !self.values.is_empty() {
                record.change_names(&mut |name| changed(name, &self.values));
            }
            if let Some((low, high)) = self.ttl {
                record.ttl = record.ttl.clamp(low, high);
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
            let (question, options, reverse) = self.rewritten(&view);
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
            let mut inner = request.inner(packet);
            inner.options = options.octets().map(Into::into);
            let answer = next.resolve(&inner).await;
            let Ok(mut records) = Record::all_of(&answer.message) else {
                let error = "a name in the answer to the rewritten question is malformed";
                return Answer::failure(&view, Plugin::Rewrite, Rcode::SERVFAIL, ede::OTHER, error);
            };
            if let Some((matcher, to)) = reverse.alias {
                rewrite_alias(&inner, question.qtype, matcher, to, &mut records).await;
            }
            reverse.records(&mut records);
            let mut message = rebuild(&view.query, &answer.message, &records);
            let mut outcome = answer.outcome;
            if let Some((_, to)) = reverse.rcode.filter(|(from, _)| *from == answer.message.rcode())
            {
                message = with_rcode(&view, message, to);
                outcome.rcode = to;
            }
            Answer { message: Arc::new(message), outcome, ..answer }
        })
    }
}

/// Gives the first alias whose target matches another target, and the records of that target.
async fn rewrite_alias(
    request: &OwnedRequest,
    qtype: RecordType,
    matcher: &Matcher,
    to: &Replacement,
    records: &mut Vec<(Section, Record)>,
) {
    let found = records.iter().enumerate().find_map(|(at, (section, record))| {
        let alias = *section == Section::Answer && record.rtype == RecordType::CNAME;
        let target = record.target().filter(|_| alias)?;
        let other = matcher.replace(NameText::of(target.as_ref()).as_str(), to)?;
        Some((at, Name::from_text(&other).ok()?))
    });
    let Some((at, target)) = found else { return };
    if let Some((_, record)) = records.get_mut(at) {
        record.rdata = target.as_bytes().into();
    }
    let answered = |(section, _): &(Section, Record)| *section == Section::Answer;
    let more = match lookup(request, target.as_ref(), qtype).await {
        Some(answer) if qtype != RecordType::CNAME => {
            Record::all_of(&answer.message).unwrap_or_default()
        }
        _ => Vec::new(),
    };
    // What the old target led to goes, what the new one leads to comes.
    records.truncate(at + 1);
    records.extend(more.into_iter().filter(answered));
}

fn changed(name: NameRef<'_>, changes: &[Change<'_>]) -> Option<Name> {
    if changes.is_empty() {
        return None;
    }
    let text = NameText::of(name);
    // Backwards: the last rewriting of the question is the first to be undone.
    let other =
        changes.iter().rev().fold(Cow::Borrowed(text.as_str()), |name, change| change.apply(name));
    match other {
        Cow::Owned(other) => Name::from_text(&other).ok(),
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

fn with_rcode(
    view: &Request<'_>,
    message: crate::wire::Message,
    rcode: Rcode,
) -> crate::wire::Message {
    let mut buf = Vec::with_capacity(message.as_bytes().len());
    let mut reply = Reply::begin(&mut buf, &view.query, true);
    reply.copy(&message, crate::wire::reply::Ttl::Keep);
    reply.set_rcode(rcode);
    reply.finish(None);
    crate::wire::Message::from_written(buf)
}

#[cfg(test)]
mod tests;
