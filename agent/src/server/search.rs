//! Goes through a client's search list on its behalf (`plugin::autopath`): the first query is answered with what the list comes to.

use crate::chain::{Chain, Local, SearchBuffers};
use crate::plugin::autopath::Autopath;
use crate::plugin::lookup::{Parts, lookup};
use crate::request::{Answer, Outcome, OwnedRequest, Plugin, Request, ede};
use crate::server::Dispatch;
use crate::wire::reply::RecordRef;
use crate::wire::{
    Class, Compressor, HEADER_LEN, NameBuf, NameRef, Query, Rcode, Record, RecordType, Reply,
    Section, flags,
};

/// Stands for a handler's number where a query waits for a later name of its list.
pub(super) const SEARCH: usize = usize::MAX;

/// What a name of the list comes to.
enum Found {
    /// The name does not exist: the next one is tried.
    Nothing,
    /// It stands in the reply.
    Answer(Outcome),
    /// Nobody can say now: that is no denial.
    Failure,
    /// It has to be waited for.
    Wait,
}

/// Goes on after `served`, what has become of the first query of a list; any other stays as it is. Where names are known, the
/// reply is the answer; else the query waits for handler [`SEARCH`].
pub(super) fn go_on(
    autopath: &Autopath,
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
    let mut found = Found::Nothing;
    autopath.each_after(request, &mut |name| {
        found = try_name(dispatch, request, name, reply, local, &mut buffers);
        matches!(found, Found::Nothing)
    });
    local.search = buffers;
    match found {
        Found::Nothing => Ok(first),
        Found::Wait => Err(SEARCH),
        Found::Answer(outcome) => {
            autopath.count();
            Ok(outcome)
        }
        Found::Failure => {
            let available = reply.flags() & flags::RA;
            reply.reset();
            reply.set_flags(available, true);
            reply.set_rcode(Rcode::SERVFAIL);
            Ok(Outcome { rcode: Rcode::SERVFAIL, ..first })
        }
    }
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
    let Ok(inner) = Query::parse(packet) else { return Found::Failure };
    let Some(chain) = dispatch.find(inner.name(), inner.qtype()) else { return Found::Failure };
    let inner = Request { query: inner, origin: request.origin };
    out.clear();
    let mut other = Reply::begin(out, &inner.query, true);
    match chain.serve_as(&inner, &mut other, local, true) {
        Err(_) => Found::Wait,
        Ok(outcome) if outcome.silent || other.truncated() || other.overflowed() => Found::Failure,
        Ok(outcome) => match outcome.rcode {
            Rcode::NXDOMAIN => Found::Nothing,
            Rcode::NOERROR if write(request, name, &other, reply, rdata).is_some() => {
                Found::Answer(outcome)
            }
            _ => Found::Failure,
        },
    }
}

/// Writes the alias and what stands in `other`, the answer to `name`. `None`: a record cannot be read.
fn write(
    request: &Request<'_>,
    name: NameRef<'_>,
    other: &Reply<'_>,
    reply: &mut Reply<'_>,
    rdata: &mut Vec<u8>,
) -> Option<()> {
    let message = other.as_bytes();
    let ttl = other.written().flatten().map(|record| record.ttl).min().unwrap_or(0);
    let available = reply.flags() & flags::RA;
    reply.reset();
    // What is made here is not signed: no AD.
    reply.set_flags(available | other.flags() & flags::AA, true);
    reply.push_options(other.options());
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
        fits = fits && reply.compressed(&mut names, at.section, &record);
    }
    Some(())
}

/// The same where something has to be waited for.
pub(super) async fn resolve(chain: &Chain, request: &OwnedRequest) -> Answer {
    let Ok(view) = request.view() else { return Answer::unreadable() };
    // The client has been judged: what judges clients is passed from here on.
    let first = chain.resolve(&request.inner(request.packet().to_vec())).await;
    let Some(autopath) = &chain.autopath else { return first };
    if first.message.rcode() != Rcode::NXDOMAIN {
        return first;
    }
    let mut following = Vec::new();
    autopath.each_after(&view, &mut |name| {
        following.push(name.to_name());
        true
    });
    for name in following {
        let found = lookup(request, first.outcome.plugin, name.as_ref(), view.query.qtype()).await;
        let Some(found) = found else { return failure(&view, "no server block serves the name") };
        match found.message.rcode() {
            Rcode::NXDOMAIN => {}
            Rcode::NOERROR => {
                autopath.count();
                return with_alias(&view, name.as_ref(), found);
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

fn with_alias(view: &Request<'_>, name: NameRef<'_>, found: Answer) -> Answer {
    let ttl = found.message.layout().records.iter().map(|record| record.ttl).min().unwrap_or(0);
    let alias = Record {
        owner: view.query.name().to_name(),
        rtype: RecordType::CNAME,
        class: Class::IN,
        ttl,
        rdata: name.as_bytes().into(),
    };
    let mut parts = Parts::of_alias(found.outcome.plugin, alias);
    parts.flags = found.message.layout().flags & flags::AA;
    parts.append_target(view.query.qtype(), Some(found));
    parts.into_answer(view)
}

fn failure(view: &Request<'_>, error: &str) -> Answer {
    Answer::failure(view, Plugin::Autopath, Rcode::SERVFAIL, ede::OTHER, error)
}
