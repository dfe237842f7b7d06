//! Look-ups as pods make them, by hickory-resolver: an independent client with its own encoding, search list and `ndots`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use hickory_proto::rr::{Name, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};

use super::super::exchange::Question;
use super::super::facts::{Asked, Facts};
use super::super::finding::{Finding, few};
use super::api;
use super::pods;
use crate::cluster::{Api, Source};
use crate::upstream::address::Scheme;

/// For one query. A client of glibc waits 5 s.
const PATIENCE: Duration = Duration::from_millis(850);
/// The Service that every cluster has.
const SERVICE: &str = "kubernetes.default";
/// The `ndots` that the kubelet writes.
const NDOTS: usize = 5;
/// Upstreams that are asked.
const MAX_UPSTREAMS: usize = 16;

/// What a look-up came to: an rcode, and the data of the records in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    rcode: String,
    data: BTreeSet<String>,
}

/// A resolver that asks one server one way, and keeps nothing.
pub fn resolver(
    server: SocketAddr,
    protocol: ProtocolConfig,
    search: Vec<Name>,
    tls: Option<rustls::ClientConfig>,
) -> Result<TokioResolver, NetError> {
    let mut connection = ConnectionConfig::new(protocol);
    connection.port = server.port();
    let server = NameServerConfig::new(server.ip(), true, vec![connection]);
    let config = ResolverConfig::from_parts(None, search, vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.ndots = NDOTS;
    options.timeout = PATIENCE;
    options.attempts = 1;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    if let Some(tls) = tls {
        builder = builder.with_tls_config(tls);
    }
    builder.build()
}

/// Looks a name up. An error is one of the transport: an answer of any rcode is none.
pub async fn look_up(
    resolver: &TokioResolver,
    name: Name,
    kind: RecordType,
) -> Result<Outcome, String> {
    match resolver.lookup(name, kind).await {
        Ok(found) => {
            let of_kind = found.answers().iter().filter(|record| record.record_type() == kind);
            let data = of_kind.map(|record| record.data.to_string().to_lowercase());
            Ok(Outcome { rcode: "NOERROR".to_owned(), data: data.collect() })
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
            let rcode = rcode(&none.response_code.to_string());
            Ok(Outcome { rcode, data: BTreeSet::new() })
        }
        Err(NetError::Dns(DnsError::ResponseCode(code))) => {
            Ok(Outcome { rcode: rcode(&code.to_string()), data: BTreeSet::new() })
        }
        Err(NetError::Timeout) => Err(format!("no answer within {} ms", PATIENCE.as_millis())),
        Err(error) => Err(error.to_string()),
    }
}

/// The same, and for AAAA if there is no A: of a cluster of IPv6 alone.
async fn address(
    resolver: &TokioResolver,
    name: Name,
    kind: RecordType,
) -> Result<Outcome, String> {
    let first = look_up(resolver, name.clone(), kind).await?;
    if kind == RecordType::A && first.rcode == "NOERROR" && !first.is_found() {
        return look_up(resolver, name, RecordType::AAAA).await;
    }
    Ok(first)
}

/// The name of a response code as people know it.
fn rcode(text: &str) -> String {
    match text {
        "No Error" => "NOERROR",
        "Non-Existent Domain" => "NXDOMAIN",
        "Server Failure" => "SERVFAIL",
        "Query Refused" => "REFUSED",
        "Form Error" => "FORMERR",
        "Not Implemented" => "NOTIMP",
        other => other,
    }
    .to_owned()
}

impl Outcome {
    fn told(&self) -> String {
        match (self.rcode.as_str(), self.data.is_empty()) {
            ("NOERROR", true) => "no records".to_owned(),
            ("NOERROR", false) => few(self.data.iter().cloned()),
            (rcode, _) => rcode.to_owned(),
        }
    }

    fn is_found(&self) -> bool {
        !self.data.is_empty()
    }

    /// Neither an answer nor a denial.
    fn fails(&self) -> bool {
        !matches!(self.rcode.as_str(), "NOERROR" | "NXDOMAIN")
    }
}

/// Each address over UDP.
pub async fn udp(facts: Arc<Facts>) -> Finding {
    own(&facts, "UDP", || ProtocolConfig::Udp).await
}

/// Each address over TCP.
pub async fn tcp(facts: Arc<Facts>) -> Finding {
    own(&facts, "TCP", || ProtocolConfig::Tcp).await
}

/// Asks every address of ours for a name of the cluster, or for one outside.
async fn own(facts: &Facts, transport: &str, protocol: fn() -> ProtocolConfig) -> Finding {
    let (name, kind, is_cluster) = match facts.setup.domains.first() {
        Some(domain) => (service(domain), RecordType::A, true),
        None => {
            let outside = Question::outside(facts.outside_name.as_deref());
            (outside.name, outside.kind, false)
        }
    };
    let asked = facts.endpoints().into_iter().map(|server| {
        let name = name.clone();
        // Any answer will do where the Service kubernetes is not served.
        let is_cluster = is_cluster && facts.serves_cluster(server);
        async move {
            let outcome = match resolver(server, protocol(), Vec::new(), None) {
                Ok(resolver) => address(&resolver, name.clone(), kind).await,
                Err(error) => Err(error.to_string()),
            };
            match outcome {
                Err(error) => Finding::problem(
                    format!("{server} over {transport}: {error}"),
                    "see whether the server runs (check server-answers), has the address (link) and is not shadowed (port)",
                ),
                Ok(outcome) if is_cluster && !outcome.is_found() => Finding::problem(
                    format!("{server} over {transport}: {name} {kind}: {}", outcome.told()),
                    "the Service kubernetes exists in every cluster: see the checks api-answers and store, and that the zone of \
                     `kubernetes` is the cluster's domain",
                ),
                Ok(outcome) => {
                    Finding::ok(format!("{server} over {transport}: {name} {kind}: {}", outcome.told()))
                }
            }
        }
    });
    Finding::worst(join_all(asked).await, "no address is known at which the server listens")
}

/// `kubernetes.default.svc.DOMAIN`.
fn service(domain: &str) -> Name {
    Name::from_ascii(format!("{SERVICE}.svc.{domain}")).unwrap_or_else(|_| Name::root())
}

/// A short name with a pod's search list and `ndots`.
pub async fn search(facts: Arc<Facts>) -> Finding {
    let Some(domain) = facts.setup.domains.first().cloned() else {
        return Finding::skipped("no kubernetes directive");
    };
    let pods = Arc::clone(&facts);
    let lists = tokio::task::spawn_blocking(move || pods::search_lists(&pods)).await;
    let list = lists.unwrap_or_default().into_iter().next().unwrap_or_else(|| {
        ["default.svc.", "svc.", ""].iter().map(|part| format!("{part}{domain}")).collect()
    });
    let search: Vec<Name> = list.iter().filter_map(|name| absolute(name)).collect();
    let serving = facts.endpoints().into_iter().filter(|server| facts.serves_cluster(*server));
    let asked = serving.map(|server| {
        let search = search.clone();
        let list = list.join(" ");
        async move {
            let made = resolver(server, ProtocolConfig::Udp, search, None);
            let short = Name::from_ascii(SERVICE).map_err(|error| error.to_string());
            let outcome = match (made, short) {
                (Ok(resolver), Ok(short)) => address(&resolver, short, RecordType::A).await,
                (Err(error), _) => Err(error.to_string()),
                (_, Err(error)) => Err(error),
            };
            match outcome {
                Ok(outcome) if outcome.is_found() => Finding::ok(format!(
                    "{server}: {SERVICE} with search {list}, ndots {NDOTS}: {}",
                    outcome.told()
                )),
                Ok(outcome) => Finding::problem(
                    format!("{server}: {SERVICE} with search {list}, ndots {NDOTS}: {}", outcome.told()),
                    "the search list has to end in the zone of `kubernetes`: compare kubelet's clusterDomain with the Corefile",
                ),
                Err(error) => Finding::problem(
                    format!("{server}: {error}"),
                    "see the check lookup-udp",
                ),
            }
        }
    });
    Finding::worst(join_all(asked).await, "no server block is known to have the Service kubernetes")
}

fn absolute(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// What Nodens says of the Service kubernetes, held against the API server.
pub async fn against_api(facts: Arc<Facts>) -> Finding {
    let watched = facts.setup.clusters.first().map(|spec| spec.source.clone());
    let (Some(source), Some(domain)) = (watched, facts.setup.domains.first()) else {
        return Finding::skipped("no kubernetes directive");
    };
    if matches!(source, Source::Folder(_)) {
        return Finding::skipped("a folder of objects has no API server");
    }
    let path =
        "/api/v1/namespaces/default/services?limit=1&fieldSelector=metadata.name%3Dkubernetes";
    let told = async {
        let api = Api::new(source, api::PATIENCE).await.ok()?;
        let answer = api.get(path).await.ok()?;
        let spec = answer.body.pointer("/items/0/spec")?.clone();
        let ips = spec.get("clusterIPs").and_then(|ips| ips.as_array()).cloned();
        let ips: BTreeSet<String> =
            ips?.iter().filter_map(|ip| ip.as_str().map(str::to_owned)).collect();
        Some(ips.into_iter().filter(|ip| !ip.contains(':')).collect::<BTreeSet<_>>())
    };
    let Some(object) = told.await.filter(|ips| !ips.is_empty()) else {
        return Finding::skipped("the API server does not tell the object from here");
    };
    let mut serving = facts.endpoints().into_iter().filter(|server| facts.serves_cluster(*server));
    let Some(server) = serving.next() else {
        return Finding::skipped("no server block is known to have the Service kubernetes");
    };
    let outcome = match resolver(server, ProtocolConfig::Udp, Vec::new(), None) {
        Ok(resolver) => look_up(&resolver, service(domain), RecordType::A).await,
        Err(error) => Err(error.to_string()),
    };
    let object_ips = few(object.iter().cloned());
    match outcome {
        Ok(outcome) if outcome.data == object => {
            Finding::ok(format!("{SERVICE} is {object_ips} for both"))
        }
        Ok(outcome) => Finding::problem(
            format!("{SERVICE} is {} here, and {object_ips} at the API server", outcome.told()),
            "the store is behind, or follows another cluster: see the checks store and api-answers, and which kubeconfig is used",
        ),
        Err(_) => Finding::skipped("the server does not answer: see the check lookup-udp"),
    }
}

/// A name outside the cluster, asked of Nodens and of each upstream.
pub async fn against_upstreams(facts: Arc<Facts>) -> Finding {
    let outside = Question::outside(facts.outside_name.as_deref());
    let (name, kind) = (outside.name, outside.kind);
    // Those for one zone know no other names.
    let for_all = facts.setup.upstreams.iter().filter(|asked| asked.zone == ".");
    let upstreams: Vec<Asked> = for_all.take(MAX_UPSTREAMS).cloned().collect();
    let Some(server) = facts.endpoints().first().copied() else {
        return Finding::skipped("no address is known at which the server listens");
    };
    if upstreams.is_empty() {
        return Finding::skipped(facts.no_upstream("nothing is forwarded"));
    }
    let ours = async {
        let made = resolver(server, ProtocolConfig::Udp, Vec::new(), None);
        look_up(&made.map_err(|error| error.to_string())?, name.clone(), kind).await
    };
    let theirs = upstreams.iter().map(|asked| directly(asked, name.clone(), kind));
    let (ours, theirs) = tokio::join!(ours, join_all(theirs));
    let answered: Vec<(String, Outcome)> = upstreams
        .iter()
        .zip(theirs)
        .filter_map(|(asked, outcome)| Some((asked.target.to_string(), outcome.ok()?)))
        .collect();
    let cure =
        "see the checks of `upstreams`; an old answer may be cached (`nodens cache show NAME`)";
    let ours = match ours {
        Ok(ours) => ours,
        Err(error) => {
            let asked = format!("{name} {kind}: Nodens at {server}: {error}");
            return match answered.is_empty() {
                true => Finding::problem(format!("{asked}; no upstream answers either"), cure),
                false => Finding::problem(
                    format!(
                        "{asked}; asked directly {} of {} upstreams answer",
                        answered.len(),
                        upstreams.len()
                    ),
                    cure,
                ),
            };
        }
    };
    let told = ours.told();
    if answered.is_empty() {
        return Finding::warning(
            format!("{name} {kind}: {told} here, and no upstream answers when asked directly"),
            cure,
        );
    }
    let differ: Vec<String> = answered
        .iter()
        .filter(|(_, theirs)| theirs.rcode != ours.rcode || theirs.is_found() != ours.is_found())
        .map(|(who, theirs)| format!("{} from {who}", theirs.told()))
        .collect();
    // Some answer as we do: the others are a matter of these upstreams.
    if differ.len() == answered.len() {
        return Finding::problem(format!("{name} {kind}: {told} here, and {}", few(differ)), cure);
    }
    if !differ.is_empty() {
        return Finding::warning(
            format!("{name} {kind}: {told} here as from some upstreams, but {}", few(differ)),
            "upstreams that know different names answer by chance: forward each zone to those that know it",
        );
    }
    let same = format!("{name} {kind}: {told} here as from {} upstreams", answered.len());
    match (ours.fails(), facts.outside_name.is_some()) {
        (false, true) => Finding::ok(same),
        (false, false) if ours.rcode == "NOERROR" => Finding::ok(same),
        (true, true) => Finding::problem(
            same,
            "these upstreams do not serve this node: ask one with dig, and see its configuration",
        ),
        _ => Finding::warning(
            same,
            "if the upstreams know only some names, give one that must resolve with --outside-name; else they do not serve this node",
        ),
    }
}

/// Asks an upstream the way that it is spoken to.
pub async fn directly(asked: &Asked, name: Name, kind: RecordType) -> Result<Outcome, String> {
    let target = &asked.target;
    let made = match target.scheme {
        Scheme::Plain => resolver(target.address, ProtocolConfig::Udp, Vec::new(), None),
        Scheme::Tls => {
            let tls = asked.tls.load().map_err(|error| error.to_string())?;
            let name = target.server_name.clone();
            let server_name = name.unwrap_or_else(|| target.address.ip().to_string().into());
            let protocol = ProtocolConfig::Tls { server_name };
            resolver(target.address, protocol, Vec::new(), Some((*tls).clone()))
        }
        Scheme::Https | Scheme::Quic => {
            return Err("DNS over HTTPS and QUIC are not tried here".to_owned());
        }
    };
    look_up(&made.map_err(|error| error.to_string())?, name, kind).await
}
