//! Goes through a client's search list on its behalf (`plugin::autopath`): the first query is answered with what the list comes to.

use crate::chain::{Chain, Local, SearchBuffers};
use crate::plugin::autopath::Autopath;
use crate::plugin::lookup::{Parts, lookup};
use crate::request::{Answer, Outcome, OwnedRequest, Plugin, Request, ede};
use crate::server::Dispatch;
use crate::wire::reply::RecordRef;
use crate::wire::{
    Class, Compressor, HEADER_LEN, NameBuf, NameRef, Owner, Query, Rcode, Record, RecordType,
    Reply, Section, flags,
};

/// Stands for a handler's number where a query waits for a later name of its list.
pub(super) const SEARCH: usize = usize::MAX;

/// Names of a list that are looked up in the receive loop; with more, the query waits, and its client's share of places pays.
const MAX_IN_PLACE: usize = 8;

/// What a name of the list comes to.
enum Found {
    /// The name does not exist: the next one is tried.
    Nothing,
    /// It stands in the reply.
    Answer(Outcome),
    /// It cannot be resolved now, which is no denial. It stands in the reply.
    Failure,
    /// No server block serves the name. The client finds that out itself, where the denial of the first name leads it.
    Unserved,
    /// It has to be waited for.
    Wait,
}

/// Looks up the names that follow the first of a list, if `served`, what has become of it, is a denial. Where they are known, the
/// reply is the answer; else the query waits for handler [`SEARCH`]. A query that is no first one stays as it is.
pub(super) fn in_place(
    (chain, autopath): (&Chain, &Autopath),
    dispatch: &Dispatch,
    request: &Request<'_>,
    served: Result<Outcome, usize>,
    reply: &mut Reply<'_>,
    local: &mut Local,
) -> Result<Outcome, usize> {
    let first = match served {
        Ok(outcome) if outcome.rcode == Rcode::NXDOMAIN && !outcome.silent => outcome,
        Ok(_) => return served,
        Err(_) => {
            let is_first = autopath.each_after(request, &mut |_| false);
            return if is_first { Err(SEARCH) } else { served };
        }
    };
    let mut buffers = std::mem::take(&mut local.search);
    let (mut found, mut tried) = (Found::Nothing, 0);
    autopath.each_after(request, &mut |name| {
        tried += 1;
        found = match tried {
            ..=MAX_IN_PLACE => try_name(dispatch, request, name, reply, local, &mut buffers),
            _ => Found::Wait,
        };
        matches!(found, Found::Nothing)
    });
    local.search = buffers;
    match found {
        Found::Nothing | Found::Unserved => Ok(first),
        Found::Wait => Err(SEARCH),
        Found::Answer(outcome) => {
            count(chain, request);
            // As `PendingReply::write` does where something had to be waited for.
            chain.amend(0, SEARCH, request, reply);
            Ok(outcome)
        }
        Found::Failure => {
            chain.amend(0, SEARCH, request, reply);
            Ok(Outcome::new(Plugin::Autopath, Rcode::SERVFAIL))
        }
    }
}

/// Counts an answer with a later name than the first. Called on the worker's thread.
fn count(chain: &Chain, request: &Request<'_>) {
    if let Some(cells) = chain.cells.get(request.origin.worker) {
        cells.searched.add(1);
    }
}

/// Takes the denial of the first name back; RA stays.
fn take_back(reply: &mut Reply<'_>) {
    let available = reply.flags() & flags::RA;
    reply.reset();
    reply.set_flags(available, true);
}

/// Makes a failure of the reply, with extended errors in wire form.
fn fail(reply: &mut Reply<'_>, options: &[u8]) -> Found {
    take_back(reply);
    reply.push_options(options);
    reply.set_rcode(Rcode::SERVFAIL);
    Found::Failure
}

/// Looks one name up in place.
fn try_name(
    dispatch: &Dispatch,
    request: &Request<'_>,
    name: NameRef<'_>,
    reply: &mut Reply<'_>,
    local: &mut Local,
    SearchBuffers { packet, reply: out, rdata }: &mut SearchBuffers,
) -> Found {
    let query = &request.query;
    let (header, rest) = (
        query.packet().get(..HEADER_LEN),
        query.packet().get(HEADER_LEN + query.question().len()..),
    );
    packet.clear();
    packet.extend_from_slice(header.unwrap_or_default());
    packet.extend_from_slice(name.as_bytes());
    packet.extend_from_slice(&query.qtype().0.to_be_bytes());
    packet.extend_from_slice(&query.qclass().0.to_be_bytes());
    packet.extend_from_slice(rest.unwrap_or_default());
    let Ok(inner) = Query::parse(packet) else { return fail(reply, &[]) };
    let inner = Request { query: inner, origin: request.origin };
    let Some(chain) = dispatch.find(&inner) else { return Found::Unserved };
    out.clear();
    let over_tcp = reply.is_over_tcp();
    let mut other = Reply::begin(out, &inner.query, over_tcp);
    match chain.serve_as(&inner, &mut other, local, true) {
        Err(_) => Found::Wait,
        Ok(outcome) if outcome.silent || other.overflowed() => fail(reply, other.options()),
        Ok(outcome) => match outcome.rcode {
            Rcode::NXDOMAIN => Found::Nothing,
            Rcode::NOERROR if lacks_type(&other) && lacks_records(reply) => {
                deny_type(reply, other.options());
                Found::Answer(outcome)
            }
            Rcode::NOERROR if write(request, name, &other, reply, rdata).is_some() => {
                Found::Answer(outcome)
            }
            _ => fail(reply, other.options()),
        },
    }
}

/// Whether the answer section is empty.
fn lacks_records(reply: &Reply<'_>) -> bool {
    reply.written().flatten().all(|record| record.section != Section::Answer)
}

/// Whether a successful answer says that the name has no record of that type, and is no alias.
fn lacks_type(reply: &Reply<'_>) -> bool {
    !reply.truncated() && lacks_records(reply)
}

/// Makes a denial of the type of a denial of the first name, which says how long it holds.
fn deny_type(reply: &mut Reply<'_>, options: &[u8]) {
    reply.set_rcode(Rcode::NOERROR);
    // What is made here is not signed.
    reply.set_flags(flags::AD, false);
    reply.push_options(options);
}

/// Writes the alias and what stands in `other`, the answer to `name`: all of it, or what fits and TC. `None`: a record cannot be
/// read.
fn write(
    request: &Request<'_>,
    name: NameRef<'_>,
    other: &Reply<'_>,
    reply: &mut Reply<'_>,
    rdata: &mut Vec<u8>,
) -> Option<()> {
    let message = other.as_bytes();
    // Who keeps the alias keeps the denial that it stands for.
    let denied = reply.written().flatten().map(|record| record.ttl).min().unwrap_or(u32::MAX);
    let ttl = other.written().flatten().map(|record| record.ttl).min().unwrap_or(0).min(denied);
    take_back(reply);
    // What is made here is not signed: no AD. TC stays: what `other` lacks is missing here, too.
    reply.set_flags(other.flags() & (flags::AA | flags::RA | flags::TC), true);
    reply.push_options(other.options());
    if write_addresses(name, ttl, other, reply) {
        return Some(());
    }
    let mut names = Compressor::new();
    let alias = RecordRef {
        owner: request.query.name(),
        rtype: RecordType::CNAME,
        class: Class::IN,
        ttl,
        rdata: name.as_bytes(),
    };
    let mut fits = reply.compressed(&mut names, Section::Answer, &alias);
    for at in other.written() {
        // Nothing behind what does not fit is looked at: there may be thousands.
        if !fits {
            break;
        }
        let at = at.ok()?;
        rdata.clear();
        Record::expand_rdata(message, &at, rdata).ok()?;
        let (owner, _) = NameBuf::expand_as_written(message, at.start.into()).ok()?;
        let record = RecordRef {
            owner: owner.as_name(),
            rtype: at.rtype,
            class: at.class,
            ttl: at.ttl,
            rdata,
        };
        fits = reply.compressed(&mut names, at.section, &record);
    }
    Some(())
}

/// The fast way for an answer of addresses alone, all of the name itself: they bear the name that stands in the alias. False: there
/// is something else in it, and nothing is written.
fn write_addresses(name: NameRef<'_>, ttl: u32, other: &Reply<'_>, reply: &mut Reply<'_>) -> bool {
    const OF_QUESTION: &[u8] = &[0xc0, HEADER_LEN as u8];
    let message = other.as_bytes();
    let is_plain = other.written().all(|at| {
        at.is_ok_and(|at| {
            let owner = message.get(at.start.into()..usize::from(at.start) + 2);
            matches!(at.rtype, RecordType::A | RecordType::AAAA) && owner == Some(OF_QUESTION)
        })
    });
    let alias = |reply: &mut Reply<'_>| {
        reply.record(Section::Answer, Owner::Question, RecordType::CNAME, ttl, name.as_bytes())
    };
    if !is_plain || !alias(reply) {
        return false;
    }
    let owner = Owner::Suffix(reply.len() - name.len() - HEADER_LEN);
    let mut records = other.written().flatten();
    // What does not fit has set TC.
    records.all(|at| reply.record(at.section, owner, at.rtype, at.ttl, at.rdata(message)));
    true
}

/// The same in a task, where a name has to be waited for. Runs on the worker's thread.
pub(super) async fn in_task(chain: &Chain, request: &OwnedRequest) -> Answer {
    let Ok(view) = request.view() else { return Answer::unreadable() };
    // `limit` has counted the query: as one of another's, it passes that from here on.
    let first = chain.resolve(&request.inner(request.packet().to_vec())).await;
    let Some(autopath) = &chain.autopath else { return first };
    if first.message.rcode() != Rcode::NXDOMAIN {
        return first;
    }
    let mut following = Vec::new();
    autopath.each_after(&view, &mut |name| {
        let mut own = NameBuf::new();
        following.extend(own.push_name(name).is_ok().then_some(own));
        true
    });
    for name in following {
        let found = lookup(request, first.outcome.plugin, name.as_name(), view.query.qtype()).await;
        // No server block serves it: see `Found::Unserved`.
        let Some(found) = found else { return first };
        if found.outcome.silent {
            return failure(&view, "a name of the list is to get no answer");
        }
        match found.message.rcode() {
            Rcode::NXDOMAIN => {}
            Rcode::NOERROR => {
                count(chain, &view);
                return match has_records(&found) || has_records(&first) {
                    true => with_alias(&view, name.as_name(), found, &first),
                    false => without_type(&view, found, first),
                };
            }
            _ => {
                return failure(
                    &view,
                    found.error.as_deref().unwrap_or("a name of the list fails"),
                );
            }
        }
    }
    first
}

fn has_records(answer: &Answer) -> bool {
    answer.message.layout().records.iter().any(|record| record.section == Section::Answer)
}

/// The denial of the first name as one of the type alone.
fn without_type(view: &Request<'_>, found: Answer, first: Answer) -> Answer {
    let denied = first.edited(view, |reply| deny_type(reply, found.message.options()));
    Answer { message: denied.message, ..found }
}

fn with_alias(view: &Request<'_>, name: NameRef<'_>, found: Answer, first: &Answer) -> Answer {
    let least =
        |answer: &Answer| answer.message.layout().records.iter().map(|record| record.ttl).min();
    let ttl = least(&found).unwrap_or(0).min(least(first).unwrap_or(u32::MAX));
    let alias = Record {
        owner: view.query.name().to_name(),
        rtype: RecordType::CNAME,
        class: Class::IN,
        ttl,
        rdata: name.as_bytes().into(),
    };
    let mut parts = Parts::of_alias(found.outcome.plugin, alias);
    let available = first.message.layout().flags & flags::RA;
    parts.flags = available | found.message.layout().flags & (flags::AA | flags::RA);
    parts.append_target(view.query.qtype(), Some(found));
    parts.into_answer(view)
}

fn failure(view: &Request<'_>, error: &str) -> Answer {
    Answer::failure(view, Plugin::Autopath, Rcode::SERVFAIL, ede::OTHER, error)
}
