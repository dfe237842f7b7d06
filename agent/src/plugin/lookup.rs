//! Answers that are put together of several, and the names that they lead to: asked through the whole server, as a client
//! would ask.

use std::sync::Arc;

use crate::request::{Answer, MAX_DEPTH, Outcome, OwnedRequest, Plugin, Request, ede};
use crate::wire::query::write_query;
use crate::wire::{
    Class, Compressor, Name, NameError, NameRef, OUR_UDP_PAYLOAD, Rcode, Record, RecordType, Reply,
    Section, flags,
};

/// Asks for `name` on behalf of `request`, with its DO and CD; `plugin` is who wants it. `None` where no server block serves
/// the name. An answer that is truncated, and one name that leads to the next too often, are failures.
pub async fn lookup(
    request: &OwnedRequest,
    plugin: Plugin,
    name: NameRef<'_>,
    qtype: RecordType,
) -> Option<Answer> {
    let view = request.view().ok()?;
    if request.depth >= MAX_DEPTH {
        let error =
            format!("the chain of aliases is too long or a circle; its last name is {name}");
        return Some(Answer::failure(&view, plugin, Rcode::SERVFAIL, ede::OTHER, &error));
    }
    let inner = request.inner(packet_for(&view, name, qtype));
    let answer = request.blocks.resolve(&inner)?.await;
    Some(answer.complete(&inner.view().ok()?))
}

/// Adds what the last CNAME of an answer leads to, unless the answer holds it already.
pub async fn follow(request: &OwnedRequest, view: &Request<'_>, answer: Answer) -> Answer {
    let qtype = view.query.qtype();
    let is_final = matches!(qtype, RecordType::CNAME | RecordType::ANY);
    if is_final || answer.message.truncated() || answer.message.rcode() != Rcode::NOERROR {
        return answer;
    }
    let Ok(mut parts) = Parts::of(&answer) else { return answer };
    let Some(alias) = parts.alias().and_then(|(_, alias)| alias.target()) else { return answer };
    let plugin = answer.outcome.plugin;
    let found = match parts.end_of(alias) {
        Some(target) if parts.records.iter().any(|(_, record)| record.owner == target) => {
            return answer;
        }
        Some(target) => lookup(request, plugin, target.as_ref(), qtype).await,
        // RFC 1034 section 3.6.2: a circle is an error.
        None => {
            let error = format!("the aliases of {} lead back to themselves", view.query.name());
            Some(Answer::failure(view, plugin, Rcode::SERVFAIL, ede::OTHER, &error))
        }
    };
    parts.append_target(qtype, found);
    parts.into_answer(view)
}

/// An answer taken apart. What is put together of it again has no AD.
pub struct Parts {
    /// What to record; its response code is the answer's.
    pub outcome: Outcome,
    /// AA and RA.
    pub flags: u16,
    /// Extended errors in wire form.
    pub options: Vec<u8>,
    /// All records, in the order of the sections.
    pub records: Vec<(Section, Record)>,
    /// What `errors` writes.
    pub error: Option<Arc<str>>,
    /// See [`Answer::is_passing`].
    pub is_passing: bool,
}

impl Parts {
    /// The parts of an answer.
    pub fn of(answer: &Answer) -> Result<Self, NameError> {
        let message = &answer.message;
        Ok(Self {
            outcome: Outcome { rcode: message.rcode(), ..answer.outcome },
            flags: message.layout().flags & (flags::AA | flags::RA),
            options: message.options().to_vec(),
            records: Record::all_of(message)?,
            error: answer.error.clone(),
            is_passing: answer.is_passing,
        })
    }

    /// An alias by `plugin`, with authority; its target is still to be appended.
    pub fn of_alias(plugin: Plugin, alias: Record) -> Self {
        Self {
            outcome: Outcome::new(plugin, Rcode::NOERROR),
            flags: flags::AA,
            options: Vec::new(),
            records: vec![(Section::Answer, alias)],
            error: None,
            is_passing: false,
        }
    }

    /// The last CNAME of the answer section, and its number among the records.
    fn alias(&self) -> Option<(usize, &Record)> {
        self.records.iter().enumerate().rev().find_map(|(number, (section, record))| {
            let is_alias = *section == Section::Answer && record.rtype == RecordType::CNAME;
            is_alias.then_some((number, record))
        })
    }

    /// Where the aliases of the answer lead that begin at `name`; `None` if in a circle.
    fn end_of(&self, mut name: Name) -> Option<Name> {
        for _ in 0..=self.records.len() {
            let next = self.records.iter().find_map(|(section, record)| {
                let is_next = *section == Section::Answer
                    && record.rtype == RecordType::CNAME
                    && record.owner == name;
                is_next.then(|| record.target()).flatten()
            });
            match next {
                Some(next) => name = next,
                None => return Some(name),
            }
        }
        None
    }

    /// Puts what the target of an alias has come to behind the answer section. The response code is the target's (RFC 6604),
    /// and a denial brings the authority that says how long it holds (RFC 2308 section 5). With `None` the alias is all that
    /// is known.
    pub fn append_target(&mut self, qtype: RecordType, found: Option<Answer>) {
        let Some(found) = found else { return };
        let Ok(more) = Record::all_of(&found.message) else { return };
        let rcode = found.message.rcode();
        let answered = |(section, record): &(Section, Record)| {
            *section == Section::Answer && record.rtype == qtype
        };
        let is_denial = rcode != Rcode::NOERROR || !more.iter().any(answered);
        self.records.extend(more.into_iter().filter(|(section, _)| {
            *section == Section::Answer || *section == Section::Authority && is_denial
        }));
        // Stable: the order within each section stays.
        self.records.sort_by_key(|(section, _)| *section);
        self.options.extend_from_slice(found.message.options());
        self.outcome = Outcome { rcode, ..self.outcome }.with_cache(found.outcome.cache);
        self.error = found.error.or(self.error.take());
        self.is_passing |= found.is_passing;
    }

    /// The answer to `request` that they make.
    pub fn into_answer(self, request: &Request<'_>) -> Answer {
        let answer = Answer::written(request, |reply| {
            self.write(Compressor::new(), reply);
            if reply.overflowed() {
                reply.reset();
                self.write(Compressor::with_srv(), reply);
            }
            self.outcome
        });
        let error = answer.error.or(self.error);
        Answer { error, is_passing: self.is_passing, ..answer }
    }

    fn write(&self, mut names: Compressor, reply: &mut Reply<'_>) {
        reply.set_flags(self.flags, true);
        reply.set_rcode(self.outcome.rcode);
        reply.push_options(&self.options);
        for (section, record) in &self.records {
            if !reply.compressed(&mut names, *section, &record.as_ref()) && reply.overflowed() {
                return;
            }
        }
    }
}

/// A query for another name or type with the id, DO and CD of `view`. With EDNS always, as extended errors come by it.
fn packet_for(view: &Request<'_>, name: NameRef<'_>, qtype: RecordType) -> Vec<u8> {
    let query = &view.query;
    let mut packet = Vec::with_capacity(64);
    let word = flags::RD | query.flags() & flags::CD;
    let edns = Some((OUR_UDP_PAYLOAD, query.dnssec_ok()));
    write_query(&mut packet, query.id(), word, name, qtype, Class::IN, edns);
    packet
}
