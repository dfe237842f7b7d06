//! One query, sent through the chain that would serve it without changing anything.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::clock::CoarseInstant;
use crate::observe::record::source;
use crate::plugin::forward::NOT_ASKED;
use crate::request::{Origin, Outcome, OwnedRequest, Plugin, Request, Transport};
use crate::server::Dispatch;
use crate::trace::{Did, Reason, Trace};
use crate::wire::query::write_query;
use crate::wire::{Class, Name, OUR_UDP_PAYLOAD, Query, Rcode, RecordType, flags};

/// How long one query may take, upstreams included.
const PATIENCE: Duration = Duration::from_secs(5);
/// Records that are shown.
const MAX_RECORDS: usize = 32;

/// Where a query is sent, and as whose.
#[derive(Clone)]
pub struct Place {
    /// The listening address.
    pub server: SocketAddr,
    /// Who answers there.
    pub dispatch: Arc<Dispatch>,
    /// The client's address.
    pub client: SocketAddr,
    /// Whether upstreams are asked.
    pub asks: bool,
}

/// What became of a query.
pub struct Told {
    /// The response code; `None` for silence.
    pub rcode: Option<Rcode>,
    /// Whether records of this type were in the answer.
    pub has_records: bool,
    /// Nothing is known: an upstream would have to be asked.
    pub is_open: bool,
    /// It costs a query to an upstream, or more.
    pub is_forwarded: bool,
    /// Why it is so, each once.
    pub reasons: Vec<Reason>,
    /// An object that the name is of exists.
    pub found: bool,
    /// The client's search list begins with it, and `autopath` goes through the list.
    pub is_searched: bool,
    /// The names that `autopath` looks up next, of one that does not exist.
    pub continues: Vec<Name>,
    /// All of it.
    pub json: Value,
}

/// Asks for a name.
pub async fn ask(place: &Place, name: &Name, qtype: RecordType) -> Told {
    let mut packet = Vec::new();
    let edns = Some((OUR_UDP_PAYLOAD, false));
    write_query(&mut packet, 0, flags::RD, name.as_ref(), qtype, Class::IN, edns);
    let Ok(query) = Query::parse(&packet) else { return refused(name, qtype, &[]) };
    let origin = Origin {
        client: place.client,
        local: place.server,
        transport: Transport::Udp,
        worker: 0,
        received: CoarseInstant::now(),
    };
    let first = Request { query, origin };
    let passed_over: Vec<String> = place
        .dispatch
        .passed_over(&first)
        .map(|view| format!("{} ({})", view.name(), view.at()))
        .collect();
    let Some(chain) = place.dispatch.find(&first) else {
        return refused(name, qtype, &passed_over);
    };
    let mut after = Vec::new();
    let is_searched = chain.autopath.as_ref().is_some_and(|autopath| {
        autopath.each_after(&first, &mut |name| {
            after.push(name.to_name());
            true
        })
    });
    let trace = Arc::new(Trace::new(place.asks));
    let mut request = OwnedRequest::new(&first, Arc::clone(&place.dispatch));
    request.trace = Some(Arc::clone(&trace));
    let answer = tokio::time::timeout(PATIENCE, chain.resolve(&request)).await.ok();
    let steps = trace.take();
    let (outcome, message) = match &answer {
        Some(answer) => (answer.outcome, answer.message.as_bytes()),
        None => (Outcome::new(Plugin::Server, Rcode::SERVFAIL), &[][..]),
    };
    // A directive may have made its own answer of what is missing.
    let is_forwarded =
        steps.iter().any(|step| step.directive == "forward" && step.did == Did::Needs);
    let is_open = !place.asks && outcome.rcode == Rcode::SERVFAIL && is_forwarded;
    let (records, has_records) = records(message, qtype);
    // Those who have passed it on without a word had no say.
    let said = steps.iter().filter(|step| step.did != Did::Passed || !step.notes.is_empty());
    let error = answer.as_ref().and_then(|answer| answer.error.as_deref());
    let error = error.filter(|error| !is_open && *error != NOT_ASKED);
    let mut reasons: Vec<Reason> = Vec::new();
    let told = steps.iter().flat_map(|step| step.reasons.iter().cloned());
    let failed = error.map(|text| Reason { text: text.to_owned(), is_hint: false });
    for reason in told.chain(failed) {
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    let found = steps.iter().any(|step| step.found);
    // What exists is answered as it is.
    if outcome.silent || is_open || outcome.rcode != Rcode::NXDOMAIN {
        after.clear();
    }
    let json = json!({
        "name": name.to_string(),
        "type": qtype.to_string(),
        "autopath_continues_with": after.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "server": chain.server_label.as_ref(),
        "zone": chain.zone_label.as_ref(),
        "view": chain.view.as_ref().map(|view| view.name()),
        "passed_over": passed_over,
        "steps": said.collect::<Vec<_>>(),
        "source": if is_open { "upstream" } else { source(outcome.plugin, outcome.cache) },
        "rcode": (!outcome.silent && !is_open).then(|| outcome.rcode.to_string()),
        "silent": outcome.silent,
        "would_ask_upstream": is_open,
        "error": error,
        "records": records,
    });
    let (rcode, continues) = ((!outcome.silent).then_some(outcome.rcode), after);
    Told { rcode, has_records, is_open, is_forwarded, reasons, found, is_searched, continues, json }
}

/// No block serves the name, or only for queries that fit the views that were `passed_over`.
fn refused(name: &Name, qtype: RecordType, passed_over: &[String]) -> Told {
    let why = match passed_over {
        [] => "no server block serves this name".to_owned(),
        views => format!(
            "the query fits no view of the server blocks for this name: {}",
            views.join(", ")
        ),
    };
    let json = json!({
        "name": name.to_string(),
        "type": qtype.to_string(),
        "steps": [],
        "passed_over": passed_over,
        "source": "server",
        "rcode": Rcode::REFUSED.to_string(),
        "silent": false,
        "would_ask_upstream": false,
        "error": why,
        "records": [],
    });
    let rcode = Some(Rcode::REFUSED);
    let reasons = vec![Reason { text: why, is_hint: false }];
    let (has_records, is_open, is_forwarded) = (false, false, false);
    let (found, is_searched, continues) = (false, false, Vec::new());
    Told { rcode, has_records, is_open, is_forwarded, reasons, found, is_searched, continues, json }
}

/// The answer's records in presentation format, and whether one is of the type.
fn records(message: &[u8], qtype: RecordType) -> (Vec<String>, bool) {
    let Ok(message) = hickory_proto::op::Message::from_vec(message) else {
        return (Vec::new(), false);
    };
    let answers = message.answers.iter().take(MAX_RECORDS).map(ToString::to_string).collect();
    let wanted = |record: &hickory_proto::rr::Record| {
        qtype == RecordType::ANY || u16::from(record.record_type()) == qtype.0
    };
    (answers, message.answers.iter().any(wanted))
}
