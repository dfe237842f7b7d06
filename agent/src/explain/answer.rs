//! All queries of a stub resolver for one name, what they mean, and what would make them fewer.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::dry_run::{self, Place, Told};
use super::question::Question;
use super::search::{CLUSTER_NDOTS, Search, domains_of};
use crate::cluster::Store;
use crate::cluster::index::Index;
use crate::server::Dispatch;
use crate::wire::{Rcode, RecordType};

/// Where the node's own search domains are.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Octets of it that are read.
const MAX_RESOLV_CONF: u64 = 64 << 10;
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

/// Explains a name. To be called in a runtime; blocks for a short read of a file.
///
/// # Errors
/// What is wrong with the question, or why it cannot be explained.
pub async fn explain(world: &World, question: &Question) -> Result<Value, String> {
    let types = types(&question.types)?;
    let Client { search, address, notes } = client(world, question)?;
    let tries = search
        .tries(&question.name)
        .map_err(|error| format!("{:?} is no name: {error}", question.name))?;
    let Some((&server, dispatch)) = world.listeners.iter().next() else {
        return Err("the server listens nowhere yet".to_owned());
    };
    let dispatch = Arc::clone(dispatch);
    let place = Place { server, dispatch, client: address, asks: question.ask };
    let (mut shown, mut all) = (Vec::new(), Vec::new());
    let mut ended = None;
    for tried in &tries {
        let mut told = Vec::new();
        for &qtype in &types {
            told.push(dry_run::ask(&place, &tried.name, qtype).await);
        }
        shown.push(json!({
            "name": tried.name.to_string(),
            "domain": tried.domain,
            "queries": told.iter().map(|told| told.json.clone()).collect::<Vec<_>>(),
        }));
        let has_records = told.iter().any(|told| told.has_records);
        let is_open = told.iter().any(|told| told.is_open);
        all.extend(told);
        if has_records || is_open {
            ended = Some((tried, has_records));
            break;
        }
    }
    let verdict =
        verdict(question, &types, ended.map(|(tried, has)| (tried.name.to_string(), has)), &all);
    let dots = question.name.trim_end_matches('.').matches('.').count();
    Ok(json!({
        "name": question.name,
        "client": address.ip().to_string(),
        "server": server.to_string(),
        "search": search.domains,
        "ndots": search.ndots,
        "notes": notes,
        "tries": shown,
        "queries": all.len(),
        "verdict": verdict,
        "reasons": if ended.is_none() { reasons(&all) } else { Vec::new() },
        "advice": advice(question, &search, dots, shown.len(), types.len(), ended.is_some_and(|(tried, has)| has && tried.domain.is_none())),
    }))
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
    let mut address = question.client;
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
        let known = world.stores.iter().find_map(|store| store.sink().pod_address(namespace, pod));
        match known {
            Some(known) => address = Some(known),
            None => notes.push(format!(
                "Pod `{namespace}/{pod}` is not known here (`pods verified` watches Pods): only its namespace is used, with `dnsPolicy: ClusterFirst`"
            )),
        }
    }
    let mut search = match (namespace, &world.zone) {
        (None, _) => Search::none(),
        (Some(namespace), Some(zone)) => Search::of_pod(namespace, zone, of_node()),
        (Some(_), None) => {
            return Err("no server block has `kubernetes`, so the cluster's zone is not known; give the list with --search and --ndots, without a namespace".to_owned());
        }
    };
    if let Some(domains) = &question.search {
        search.domains =
            domains.iter().map(|domain| domain.trim_end_matches('.').to_owned()).collect();
        search.ndots = CLUSTER_NDOTS;
    }
    if let Some(ndots) = question.ndots {
        search.ndots = ndots;
    }
    let address = SocketAddr::new(address.unwrap_or(Ipv4Addr::LOCALHOST.into()), 0);
    Ok(Client { search, address, notes })
}

fn of_node() -> Vec<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let file = std::fs::File::open(Path::new(RESOLV_CONF));
    match file.and_then(|file| file.take(MAX_RESOLV_CONF).read_to_string(&mut text)) {
        Ok(_) => domains_of(&text),
        Err(_) => Vec::new(),
    }
}

fn verdict(
    question: &Question,
    types: &[RecordType],
    ended: Option<(String, bool)>,
    all: &[Told],
) -> String {
    let queries = match all.len() {
        1 => "1 query".to_owned(),
        count => format!("{count} queries"),
    };
    match ended {
        Some((name, true)) => format!("`{}` is `{name}`, found with {queries}", question.name),
        Some((name, false)) => {
            format!("`{name}` would be asked of an upstream after {queries} here; --ask does that")
        }
        None if all.iter().any(|told| told.rcode.is_none()) => {
            format!("`{}` gets no answer: queries are dropped", question.name)
        }
        None if all.iter().any(|told| is_failure(told.rcode)) => {
            format!("`{}` cannot be resolved: a query fails", question.name)
        }
        None if all.iter().any(|told| told.rcode == Some(Rcode::NOERROR)) => {
            let types: Vec<String> = types.iter().map(ToString::to_string).collect();
            format!("`{}` exists, and has no record of type {}", question.name, types.join(" or "))
        }
        None => format!("`{}` does not exist, after {queries}", question.name),
    }
}

fn is_failure(rcode: Option<Rcode>) -> bool {
    !matches!(rcode, Some(Rcode::NOERROR | Rcode::NXDOMAIN))
}

/// Why a name is not found: what the failing queries say, else what the denials do.
fn reasons(all: &[Told]) -> Vec<String> {
    let mut reasons: Vec<String> = Vec::new();
    let failing = all.iter().any(|told| is_failure(told.rcode));
    for told in all.iter().filter(|told| !failing || is_failure(told.rcode)) {
        for reason in &told.reasons {
            if !reasons.contains(reason) {
                reasons.push(reason.clone());
            }
        }
    }
    reasons
}

fn advice(
    question: &Question,
    search: &Search,
    dots: usize,
    tries: usize,
    types: usize,
    is_found_as_it_is: bool,
) -> Vec<String> {
    let mut advice = Vec::new();
    if tries > 1 && is_found_as_it_is {
        let (name, saved) = (&question.name, (tries - 1) * types);
        advice.push(format!(
            "`{name}.` with a trailing dot is not searched for: {saved} queries fewer each time"
        ));
        if dots > 0 && dots < usize::from(search.ndots) {
            advice.push(format!(
                "`ndots: {dots}` in the Pod's dnsConfig has names with {dots} dots or more tried as they are first"
            ));
        }
    }
    advice
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
    fn what_is_searched_for_in_vain_is_told() {
        let question = Question { name: "api.example.org".to_owned(), ..Question::default() };
        let search = Search::of_pod("shop", "cluster.local", Vec::new());
        let told = advice(&question, &search, 2, 4, 2, true);
        assert!(told[0].contains("`api.example.org.`") && told[0].contains("6 queries fewer"));
        assert!(told[1].contains("`ndots: 2`"));
        assert!(advice(&question, &search, 2, 1, 2, true).is_empty());
        assert!(advice(&question, &search, 2, 4, 2, false).is_empty());
    }
}
