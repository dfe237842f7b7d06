//! Names that an answer leads to: asked through the whole server, as a client would ask.

use std::sync::Arc;

use crate::request::{Answer, MAX_DEPTH, OwnedRequest, Request};
use crate::wire::query::write_query;
use crate::wire::record::rebuild;
use crate::wire::{Class, NameRef, OUR_UDP_PAYLOAD, Record, RecordType, Section, flags};

/// Asks for `name` on behalf of `request`, with its DO and CD. `None` where no server block serves the name, or where one
/// answer has led to the next too often.
pub async fn lookup(
    request: &OwnedRequest,
    name: NameRef<'_>,
    qtype: RecordType,
) -> Option<Answer> {
    if request.depth >= MAX_DEPTH {
        return None;
    }
    let chain = Arc::clone(request.dispatch.find(name, qtype)?);
    let inner = request.inner(packet_for(request, name, qtype)?);
    Some(chain.resolve(&inner).await)
}

/// Adds what the last CNAME of an answer leads to, where the answer does not hold it already.
pub async fn follow(request: &OwnedRequest, view: &Request<'_>, answer: Answer) -> Answer {
    let qtype = view.query.qtype();
    let Ok(mut records) = Record::all_of(&answer.message) else { return answer };
    let target = records
        .iter()
        .rev()
        .find(|(section, record)| *section == Section::Answer && record.rtype == RecordType::CNAME)
        .and_then(|(_, record)| record.target());
    let Some(target) = target else { return answer };
    if !matches!(qtype, RecordType::A | RecordType::AAAA)
        || records.iter().any(|(_, r)| r.owner == target)
    {
        return answer;
    }
    let Some(found) = lookup(request, target.as_ref(), qtype).await else { return answer };
    let Ok(more) = Record::all_of(&found.message) else { return answer };
    let at = records
        .iter()
        .position(|(section, _)| *section != Section::Answer)
        .unwrap_or(records.len());
    records.splice(at..at, more.into_iter().filter(|(section, _)| *section == Section::Answer));
    let message = rebuild(&view.query, &answer.message, &records);
    Answer { message: message.into(), ..answer }
}

/// A query for another name or type with the id, flags and EDNS of `request`.
fn packet_for(request: &OwnedRequest, name: NameRef<'_>, qtype: RecordType) -> Option<Vec<u8>> {
    let view = request.view().ok()?;
    let query = &view.query;
    let mut packet = Vec::with_capacity(64);
    let word = flags::RD | query.flags() & (flags::CD | flags::AD);
    let edns = query.edns().map(|edns| (OUR_UDP_PAYLOAD, edns.dnssec_ok));
    write_query(&mut packet, query.id(), word, name, qtype, Class::IN, edns);
    Some(packet)
}
