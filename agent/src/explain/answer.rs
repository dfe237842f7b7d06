//! All queries of a stub resolver for one name, what they mean, and what would make them fewer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::dry_run::{self, Place, Told};
use super::question::Question;
use super::search::{Search, Try};
use crate::cluster::Store;
use crate::cluster::index::Index;
use crate::saving::{End, ways};
use crate::search_list::{CLUSTER_NDOTS, SearchList};
use crate::server::Dispatch;
use crate::wire::name::Labels;
use crate::wire::{Name, NameRef, Rcode, RecordType};

/// After so long no further name is tried.
const PATIENCE: Duration = Duration::from_secs(30);
/// The port of DNS.
const DNS: u16 = 53;
/// Types that are asked for.
const MAX_TYPES: usize = 4;

/// What a server knows that explains.
pub struct World {
    /// Who answers on which address.
    pub listeners: BTreeMap<SocketAddr, Arc<Dispatch>>,
    /// The clusters.
    pub stores: Vec<Arc<Store<Index>>>,
    /// The cluster's zone, where one is served.
    pub zone: Option<String>,
}

/// Who asks, and how.
struct Client {
    search: Search,
    address: SocketAddr,
    notes: Vec<String>,
}

/// What was tried so far.
struct Tried<'t> {
    begun: Instant,
    shown: Vec<Value>,
    all: Vec<(&'t Try, Told)>,
}

impl<'t> Tried<'t> {
    /// Tries one name after the other, until one exists or would have to be asked of an upstream: that one, and whether it exists.
    async fn ask(
        &mut self,
        place: &Place,
        tries: &'t [Try],
        types: &[RecordType],
        notes: &mut Vec<String>,
    ) -> Option<(&'t Try, bool)> {
        for tried in tries {
            if self.begun.elapsed() > PATIENCE {
                notes.push(format!(
                    "`{}` and what follows was not tried: it takes too long",
                    tried.name
                ));
                break;
            }
            let begin = self.all.len();
            for &qtype in types {
                self.all.push((tried, dry_run::ask(place, &tried.name, qtype).await));
            }
            let told = self.all.get(begin..).unwrap_or(&[]);
            self.shown.push(json!({
                "name": tried.name.to_string(),
                "domain": tried.domain,
                "queries": told.iter().map(|(_, told)| told.json.clone()).collect::<Vec<_>>(),
            }));
            let has_records = told.iter().any(|(_, told)| told.has_records);
            if has_records || told.iter().any(|(_, told)| told.is_open) {
                return Some((tried, has_records));
            }
        }
        None
    }
}

/// Explains a name. To be called in a runtime; blocks for a short read of a file.
///
/// # Errors
/// What is wrong with the question, or why it cannot be explained.
pub async fn explain(world: &World, question: &Question) -> Result<Value, String> {
    let types = types(&question.types)?;
    let Client { search, address, mut notes } = client(world, question)?;
    if let Some(problem) = is_no_name(&question.name) {
        return Err(problem);
    }
    let tries = search
        .tries(&question.name)
        .map_err(|error| format!("{:?} is no name: {error}", question.name))?;
    let (server, dispatch) = listener(world, question.server)?;
    let place = Place { server, dispatch, client: address, asks: question.ask };
    let continued: Vec<Try>;
    let mut told = Tried { begun: Instant::now(), shown: Vec::new(), all: Vec::new() };
    let mut ended = told.ask(&place, &tries, &types, &mut notes).await;
    // Of a name that the client has put together already, `autopath` tries the rest of the list.
    let first = told.all.first().map_or(&[][..], |(_, first)| &first.continues);
    if question.name.ends_with('.') && ended.is_none() && !first.is_empty() {
        continued = first.iter().map(|name| Try { name: name.clone(), domain: None }).collect();
        notes.push("the client sends the first query only: `autopath` looks up the others, and answers it with what they come to".to_owned());
        ended = told.ask(&place, &continued, &types, &mut notes).await;
    }
    let Tried { shown, all, .. } = told;
    let is_searched = all
        .first()
        .is_some_and(|(_, told)| told.is_searched && told.rcode == Some(Rcode::NXDOMAIN));
    let is_found = ended.is_some_and(|(_, has_records)| has_records);
    let is_dotted = question.name.trim_end_matches('.').contains('.');
    let is_open = ended
        .is_some_and(|(tried, has_records)| !has_records && tried.domain.is_none() && is_dotted);
    let reasons = match is_found {
        true => Vec::new(),
        false => reasons(&all, world.zone.as_deref(), is_open),
    };
    // It looks for a name of one label with the list's domains only.
    let is_by_autopath =
        is_searched && ended.is_some_and(|(tried, _)| tried.domain.is_some() || is_dotted);
    let found = ended.map(|(tried, _)| trimmed(&tried.name.to_string())).unwrap_or_default();
    let end = match ended {
        Some((tried, true)) if tried.domain.is_some() => Some(End::With(&found)),
        Some((_, has_records)) if has_records || is_open => Some(End::AsItIs),
        _ => None,
    };
    // What costs no more than it has to needs no advice.
    let saved = if is_by_autopath { 0 } else { all.len().saturating_sub(types.len()) };
    let advice = end.filter(|_| saved > 0).map_or(Vec::new(), |end| {
        ways(question.name.trim_end_matches('.'), end, Some(search.ndots), is_searched)
    });
    let cost = (!search.domains.is_empty() && !question.name.ends_with('.')).then(|| {
        json!({
            "queries": if is_by_autopath { types.len() } else { all.len() },
            "at_least": !is_by_autopath && !is_found && shown.len() < tries.len(),
            "enough": if advice.is_empty() { None } else { Some(types.len()) },
            "by_autopath": is_by_autopath,
        })
    });
    let who = world.stores.iter().find_map(|store| {
        store.sink().client(address.ip(), |pod| {
            let owner = pod.owner.as_ref().map(ToString::to_string);
            (!pod.host_network).then(|| (format!("{}/{}", pod.id.namespace, pod.id.name), owner))
        })
    });
    let who = who.flatten();
    Ok(json!({
        "name": question.name,
        "client": address.ip().to_string(),
        "pod": who.as_ref().map(|(pod, _)| pod),
        "owner": who.as_ref().and_then(|(_, owner)| owner.as_ref()),
        "server": server.to_string(),
        "search": search.domains,
        "ndots": search.ndots,
        "notes": notes,
        "tries": shown,
        "queries": all.len(),
        "cost": cost,
        "verdict": verdict(&question.name, &types, ended, &all),
        "reasons": reasons,
        "advice": advice,
    }))
}

/// The listener that is asked: the one that is wanted, or one that pods ask: at the port of DNS, and not at a loopback address,
/// where others may be served.
fn listener(
    world: &World,
    wanted: Option<SocketAddr>,
) -> Result<(SocketAddr, Arc<Dispatch>), String> {
    let all = || world.listeners.iter().map(|(&at, dispatch)| (at, Arc::clone(dispatch)));
    let Some(wanted) = wanted else {
        let first = all().min_by_key(|(at, _)| (at.port() != DNS, at.ip().is_loopback()));
        return first.ok_or_else(|| "the server listens nowhere yet".to_owned());
    };
    // A wildcard listener is reached at every address of its port.
    let found = all()
        .filter(|(at, _)| at.port() == wanted.port())
        .filter(|(at, _)| at.ip() == wanted.ip() || at.ip().is_unspecified())
        .min_by_key(|(at, _)| at.ip().is_unspecified());
    let (_, dispatch) = found.ok_or_else(|| {
        let listening: Vec<_> = world.listeners.keys().map(ToString::to_string).collect();
        format!("the server does not listen at {wanted}, but at {}", listening.join(", "))
    })?;
    Ok((wanted, dispatch))
}

/// What people paste that is no name.
fn is_no_name(text: &str) -> Option<String> {
    if let Ok(address) = text.trim_end_matches('.').parse::<IpAddr>() {
        let name = hickory_proto::rr::Name::from(address);
        return Some(format!(
            "{text} is an address: `nodens explain {name} -t PTR` explains its name"
        ));
    }
    let end = text.rsplit_once(':').map(|(_, port)| port.trim_end_matches('/'));
    let has_port =
        end.is_some_and(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    (text.contains('/') || has_port)
        .then(|| format!("{text:?} is no name: leave out scheme, port and path"))
}

fn types(words: &[String]) -> Result<Vec<RecordType>, String> {
    if words.is_empty() {
        return Ok(vec![RecordType::A, RecordType::AAAA]);
    }
    if words.len() > MAX_TYPES {
        return Err(format!("at most {MAX_TYPES} types at a time"));
    }
    let read = |word: &String| {
        RecordType::from_name(&word.to_ascii_uppercase())
            .ok_or_else(|| format!("{word:?} is no type, expected one such as A, AAAA, SRV or PTR"))
    };
    words.iter().map(read).collect()
}

fn client(world: &World, question: &Question) -> Result<Client, String> {
    let mut notes = Vec::new();
    let (mut address, mut dns) = (question.client, None);
    let (mut namespace, mut pod) = (question.namespace.as_deref(), None);
    if let Some(text) = &question.pod {
        let Some((of, name)) = text.split_once('/') else {
            return Err(format!("{text:?} is no Pod, expected NAMESPACE/NAME"));
        };
        (namespace, pod) = (Some(of), Some(name));
    }
    if let (Some(namespace), Some(pod)) = (namespace, pod)
        && address.is_none()
    {
        dns = world.stores.iter().find_map(|store| store.sink().pod_dns(namespace, pod));
        let first = |addresses: Vec<IpAddr>| addresses.first().copied();
        let mut stores = world.stores.iter();
        let known = stores.find_map(|store| first(store.sink().pod_addresses(namespace, pod)));
        match known {
            Some(known) => address = Some(known),
            None => notes.push(format!(
                "Pod `{namespace}/{pod}` is not known here (`pods node` and `pods verified` watch Pods): only its namespace is used, with `dnsPolicy: ClusterFirst`, and views and limits take it for an unknown client"
            )),
        }
    }
    // What asks for the client's namespace, as views and limits do, knows it by the address.
    let are_pods_known = world.stores.iter().any(|store| store.spec().wanted.node.is_some());
    if let (Some(namespace), None, true) = (namespace, address, are_pods_known && pod.is_none()) {
        let other = world.stores.iter().find_map(|store| store.sink().pod_in(namespace));
        notes.push(match &other {
            Some((pod, ip)) => format!("asked as Pod `{namespace}/{pod}` with {ip}, as which views and limits know it"),
            None => format!(
                "no Pod of `{namespace}` is known on this node: views and limits take the client, 127.0.0.1, for one that is unknown; --client ADDRESS asks as another"
            ),
        });
        address = other.map(|(_, ip)| ip);
    }
    let mut search = match (namespace, &world.zone) {
        (None, _) => {
            if question.search.is_none() && !question.name.contains('.') {
                notes.push("no search list is used: give -n NAMESPACE or --pod NS/POD to ask as a Pod does".to_owned());
            }
            Search::none()
        }
        (Some(namespace), Some(zone)) => {
            let dns = dns.unwrap_or_default();
            let zone = Name::from_text(zone).map_err(|error| format!("{zone}: {error}"))?;
            Search::of_pod(namespace, &dns, &zone, &SearchList::of_node())
        }
        (Some(_), None) => {
            return Err("no server block has `kubernetes`, so the cluster's zone is not known; give the list with --search and --ndots, without a namespace".to_owned());
        }
    };
    if let Some(domains) = &question.search {
        search.domains =
            domains.iter().flat_map(|words| words.split_whitespace()).map(trimmed).collect();
        search.ndots = CLUSTER_NDOTS;
    }
    if let Some(ndots) = question.ndots {
        search.ndots = ndots;
    }
    let address = SocketAddr::new(address.unwrap_or(Ipv4Addr::LOCALHOST.into()), 0);
    Ok(Client { search, address, notes })
}

fn trimmed(domain: &str) -> String {
    domain.trim_end_matches('.').to_owned()
}

fn verdict(
    name: &str,
    types: &[RecordType],
    ended: Option<(&Try, bool)>,
    all: &[(&Try, Told)],
) -> String {
    let mut queries = match all.len() {
        1 => "1 query".to_owned(),
        count => format!("{count} queries"),
    };
    match all.iter().filter(|(_, told)| told.is_forwarded).count() {
        0 => {}
        count if count == all.len() => queries.push_str(" to upstreams"),
        count => queries.push_str(&format!(", {count} of them to upstreams")),
    }
    let any = |is: &dyn Fn(&Told) -> bool| all.iter().any(|(_, told)| is(told));
    match ended {
        Some((tried, true)) => format!("`{name}` is `{}`, found with {queries}", tried.name),
        Some((tried, false)) => format!(
            "`{name}` is not known here after {queries}: `{}` would be asked of one, as --ask does",
            tried.name
        ),
        None if any(&|told| told.rcode.is_none()) => {
            format!("`{name}` gets no answer: queries are dropped")
        }
        None if any(&|told| is_failure(told.rcode)) => {
            format!("`{name}` cannot be resolved: a query fails")
        }
        None if any(&|told| told.rcode == Some(Rcode::NOERROR)) => {
            let types: Vec<String> = types.iter().map(ToString::to_string).collect();
            format!("`{name}` exists, and has no record of type {}", types.join(" or "))
        }
        None => format!("`{name}` does not exist, after {queries}"),
    }
}

fn is_failure(rcode: Option<Rcode>) -> bool {
    !matches!(rcode, Some(Rcode::NOERROR | Rcode::NXDOMAIN))
}

/// Why a name is not found. What fails counts first; then the names that could have been a Service's, since a search list makes
/// many that could not; then the name as it is. If some name is of an object that exists, only those of such names count. What
/// does not exist in the cluster is no reason for a name that is to be asked of an upstream (`is_open`), unless something was
/// probably meant.
fn reasons(all: &[(&Try, Told)], zone: Option<&str>, is_open: bool) -> Vec<String> {
    let zone = zone.and_then(|zone| Name::from_text(zone).ok());
    let fails = |(_, told): &&(&Try, Told)| !told.is_open && is_failure(told.rcode);
    let of_service = |(tried, _): &&(&Try, Told)| {
        zone.as_ref().is_some_and(|zone| could_be_service(tried.name.as_ref(), zone.as_ref()))
    };
    let as_it_is = |(tried, _): &&(&Try, Told)| tried.domain.is_none();
    let of_object = |(_, told): &&(&Try, Told)| told.found;
    let mut chosen: Vec<_> = all.iter().filter(fails).collect();
    let only_hints = chosen.is_empty() && is_open && !all.iter().any(|(_, told)| told.found);
    if chosen.is_empty() {
        chosen = all.iter().filter(of_object).collect();
    }
    if chosen.is_empty() {
        chosen = all.iter().filter(of_service).collect();
    }
    if chosen.is_empty() {
        chosen = all.iter().filter(as_it_is).collect();
    }
    let mut reasons: Vec<String> = Vec::new();
    for reason in chosen.into_iter().flat_map(|(_, told)| &told.reasons) {
        if (reason.is_hint || !only_hints) && !reasons.contains(&reason.text) {
            reasons.push(reason.text.clone());
        }
    }
    reasons
}

/// Whether a name has the form of a Service's, or of a port of one.
fn could_be_service(name: NameRef<'_>, zone: NameRef<'_>) -> bool {
    let Some(prefix) = name.relative_to(zone) else { return false };
    let labels: Vec<&[u8]> = Labels::of_prefix(prefix).collect();
    match labels.as_slice() {
        [_, _, b"svc"] => true,
        [port, protocol, _, _, b"svc"] => port.starts_with(b"_") && protocol.starts_with(b"_"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_question_is_told() {
        let world = World { listeners: BTreeMap::new(), stores: Vec::new(), zone: None };
        let error = |question: Question| client(&world, &question).err().unwrap_or_default();
        let pod = Question { pod: Some("web".to_owned()), ..Question::default() };
        assert!(error(pod).contains("NAMESPACE/NAME"));
        let without = Question { namespace: Some("shop".to_owned()), ..Question::default() };
        assert!(error(without).contains("--search"));
        assert!(types(&["AAAAA".to_owned()]).unwrap_err().contains("expected one such as"));
        assert_eq!(types(&["srv".to_owned()]), Ok(vec![RecordType::SRV]));
        assert!(types(&vec!["A".to_owned(); 9]).is_err());
    }

    #[test]
    fn names_of_services_are_recognised() {
        let zone = Name::from_text("cluster.local").unwrap();
        for (name, wanted) in [
            ("web.shop.svc.cluster.local", true),
            ("_http._tcp.web.shop.svc.cluster.local", true),
            ("api.example.org.shop.svc.cluster.local", false),
            ("web.svc.cluster.local", false),
            ("web.shop.pod.cluster.local", false),
            ("web.shop.svc.example", false),
        ] {
            let name = Name::from_text(name).unwrap();
            assert_eq!(could_be_service(name.as_ref(), zone.as_ref()), wanted, "{name}");
        }
    }
}
