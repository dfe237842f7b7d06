//! Names that an answer leads to: asked through the whole server, as a client would ask.

use std::sync::Arc;

use crate::request::{Answer, MAX_DEPTH, OwnedRequest};
use crate::wire::query::write_query;
use crate::wire::{Class, NameRef, OUR_UDP_PAYLOAD, RecordType, flags};

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
