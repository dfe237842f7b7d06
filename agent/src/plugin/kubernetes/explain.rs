//! Why a name is answered or denied: what the cluster has instead. Walks all Services: for a control thread.

use std::fmt::Write as _;
use std::time::Duration;

use super::ask::Ask;
use super::{Content, Exposed, Kubernetes, Pods};
use crate::cluster::index::Seen;
use crate::cluster::index::group::{Group, Kind, Service};
use crate::cluster::object::Port;
use crate::detail::in_words;
use crate::request::{Request, Step};
use crate::trace::Notes;
use crate::wire::Rcode;

/// Services and namespaces that are told of.
const MAX_TOLD: usize = 3;
/// Ports that are told of.
const MAX_PORTS: usize = 8;
/// One in so many of a name's letters may be wrong; one in any case, but of names of a letter.
const WRONG_OF: usize = 4;

impl Kubernetes {
    /// Notes what the answer comes from, or why there is none.
    pub(super) fn notes_on(&self, request: &Request<'_>, step: Step, notes: &mut Notes) {
        let Some((zone, cut)) = self.zone_of(request.query.name()) else { return };
        let ask = Ask::new(&request.query, cut);
        let is_denied = match step {
            Step::Done(outcome) => outcome.rcode == Rcode::NXDOMAIN,
            // It is passed on because it does not exist here.
            Step::Next => true,
            Step::Wait => false,
        };
        if !self.index.synced(&zone.needed) {
            notes.because("the cluster's objects have not been listed yet".to_owned());
        }
        if zone.content == Content::Addresses {
            if is_denied {
                notes.because("no Service and no endpoint has this address".to_owned());
            }
        } else if ask.count() >= 2 && ask.above_zone(0) == b"svc" {
            self.on_service(&ask, zone.content == Content::Imports, is_denied, notes);
        } else if ask.count() >= 2 && ask.above_zone(0) == b"pod" {
            if is_denied {
                self.on_pod(&ask, notes);
            }
        } else if is_denied {
            self.on_other(&ask, &zone.name.to_string(), notes);
        }
        if let Some(stale) = self.store_health.as_ref().and_then(|health| health.stale()) {
            notes.because(stale);
        }
    }

    fn on_service(&self, ask: &Ask<'_>, imported: bool, is_denied: bool, notes: &mut Notes) {
        let namespace = text(ask.above_zone(1));
        if !self.index.has_namespace(ask.above_zone(1)) {
            self.no_namespace(&namespace, notes);
        } else if !self.is_exposed(ask.above_zone(1)) {
            let by = match self.view.exposed {
                Exposed::Known => "namespace_labels",
                _ => "namespaces",
            };
            notes.because(format!("`{by}` leaves namespace `{namespace}` out"));
        }
        if ask.count() < 3 {
            return;
        }
        let kind = if imported { "ServiceImport" } else { "Service" };
        let name = text(ask.above_zone(2));
        let (seen, slices) = self.index.versions(ask.service_key(), imported);
        let found = self.index.group(ask.service_key(), imported, |group| {
            let service = group.service.as_ref()?;
            let seen = seen.map_or(String::new(), version);
            notes
                .found(format!("{kind} `{namespace}/{name}`: {}{seen}", described(group, service)));
            for (name, seen) in slices.iter().take(MAX_TOLD) {
                notes.describe(format!("EndpointSlice `{namespace}/{name}`{}", version(*seen)));
            }
            self.on_nearby(ask, group, service, notes);
            if let Some(more) = slices.len().checked_sub(MAX_TOLD).filter(|more| *more > 0) {
                notes.describe(format!("{more} more EndpointSlices"));
            }
            if is_denied {
                self.on_denied(ask, group, service, notes);
            }
            Some(())
        });
        if found.flatten().is_none() && is_denied {
            self.on_missing(kind, &name, &namespace, imported, notes);
        }
    }

    /// Why a name of a Service that exists is denied.
    fn on_denied(&self, ask: &Ask<'_>, group: &Group, service: &Service, notes: &mut Notes) {
        match (&service.kind, ask.count()) {
            (Kind::Unnamed(target), _) => {
                notes.because(format!("its externalName `{target}` is an address, which has no name"));
            }
            (Kind::ExternalName(_), 4..) => {
                notes.because("nothing is below the name of an ExternalName Service".to_owned());
            }
            (Kind::ClusterIp, 6..) if self.is_zonal(ask, group.key.imported) => {
                notes.because("only headless Services have zonal names".to_owned());
            }
            (Kind::Headless, _) if !self.view.endpoints => {
                notes.because("it is headless, and `noendpoints` leaves its endpoints out".to_owned());
            }
            (Kind::Headless, _) if group.ready() == 0 => notes.because(
                "it is headless, and none of its endpoints is ready".to_owned(),
            ),
            (Kind::ClusterIp, _) if self.view.ignore_empty && group.ready() == 0 => notes.because(
                "it has no ready endpoint, and `ignore empty_service` denies it then".to_owned(),
            ),
            (_, 5) => notes.because(no_port(ask, group, service)),
            (_, 4) => notes.because(format!(
                "no endpoint of it is named `{}`; endpoints are named by hostname or by address, such as `10-1-0-7`",
                text(ask.label(0))
            )),
            _ => {}
        }
    }

    /// Where a Service is that is not in this namespace.
    fn on_missing(
        &self,
        kind: &str,
        name: &str,
        namespace: &str,
        imported: bool,
        notes: &mut Notes,
    ) {
        let (mut elsewhere, mut similar) = (Vec::new(), Vec::new());
        self.index.each_service(|group| {
            if group.key.imported != imported || !self.is_exposed(group.key.namespace()) {
                return;
            }
            let (other, theirs) = (text(group.key.service()), text(group.key.namespace()));
            if other == name {
                elsewhere.push(theirs);
            } else if theirs == namespace {
                similar.extend(distance(&other, name).map(|distance| (distance, other)));
            }
        });
        elsewhere.sort_unstable();
        similar.sort_unstable();
        let exists = self.index.has_namespace(namespace.as_bytes());
        let mut told = match elsewhere.as_slice() {
            [] => format!("there is no {kind} `{name}` in namespace `{namespace}`"),
            places => format!(
                "{kind} `{name}` is in namespace {}, not in `{namespace}`",
                listed(places.iter().map(String::as_str))
            ),
        };
        if !similar.is_empty() && exists {
            let names = listed(similar.iter().map(|(_, name)| name.as_str()));
            // Written to a string: cannot fail.
            let _ = write!(told, "; similar ones there: {names}");
        }
        match elsewhere.is_empty() && similar.is_empty() {
            true => notes.because(told),
            false => notes.hint(told),
        }
    }

    fn no_namespace(&self, namespace: &str, notes: &mut Notes) {
        let mut best: Option<(usize, String)> = None;
        self.index.each_namespace(|name| {
            let found = distance(name, namespace).map(|distance| (distance, name.to_owned()));
            best = found.into_iter().chain(best.take()).min();
        });
        match best {
            None => notes.because(format!("there is no namespace `{namespace}`")),
            Some((_, name)) => {
                notes.hint(format!("there is no namespace `{namespace}`; `{name}` is similar"));
            }
        }
    }

    fn on_pod(&self, ask: &Ask<'_>, notes: &mut Notes) {
        match self.view.pods {
            Pods::Disabled => notes.because(
                "Pods have no names here: write `pods insecure` or `pods verified`".to_owned(),
            ),
            _ if !self.index.has_namespace(ask.above_zone(1)) => {
                self.no_namespace(&text(ask.above_zone(1)), notes);
            }
            Pods::Insecure => notes.because(
                "the label before the namespace is no address with dashes, such as `10-1-0-7`"
                    .to_owned(),
            ),
            Pods::Verified => {
                notes.because("no Pod of this namespace has this address".to_owned());
            }
        }
    }

    /// A name in the zone that is neither a Service's nor a Pod's.
    fn on_other(&self, ask: &Ask<'_>, zone: &str, notes: &mut Notes) {
        let mut key = Vec::new();
        for label in [ask.above_zone(1), ask.above_zone(0)] {
            key.push(label.len() as u8);
            key.extend_from_slice(label);
        }
        let is_service = |group: &Group| group.service.is_some();
        if ask.count() >= 2 && self.index.group(&key, false, is_service) == Some(true) {
            let (service, namespace) = (text(ask.above_zone(1)), text(ask.above_zone(0)));
            notes.hint(format!(
                "`svc` is missing: the Service's name is `{service}.{namespace}.svc.{zone}`"
            ));
            return;
        }
        let last = text(ask.above_zone(0));
        notes.because(format!(
            "names of `{zone}` end in `svc.{zone}` or `pod.{zone}`; `{last}` is neither, as in names that a search list makes"
        ));
    }
}

/// How far a name is from another that may be misspelt; `None` if it is another name.
fn distance(name: &str, misspelt: &str) -> Option<usize> {
    let distance = strsim::osa_distance(name, misspelt);
    let most = (misspelt.len() / WRONG_OF).max(1).min(misspelt.len() / 2);
    (distance <= most).then_some(distance)
}

fn described(group: &Group, service: &Service) -> String {
    let ready = group.ready();
    let endpoints = match ready {
        1 => "1 ready endpoint".to_owned(),
        ready => format!("{ready} ready endpoints"),
    };
    match &service.kind {
        Kind::ClusterIp => {
            let ips: Vec<String> = group.cluster_ips().iter().map(ToString::to_string).collect();
            // Endpoints of such Services may not be watched.
            let known = if ready > 0 { format!(", {endpoints}") } else { String::new() };
            format!("ClusterIP {}{}{known}", ips.join(" "), ports(&service.ports))
        }
        Kind::Headless => format!("headless, {endpoints}{}", ports(&service.ports)),
        Kind::ExternalName(target) | Kind::Unnamed(target) => format!("ExternalName {target}"),
    }
}

/// Which version of an object answers, and how old that is.
fn version(seen: Seen) -> String {
    let unchanged = in_words(Duration::from_secs(seen.unchanged_for().into()));
    match seen.version {
        0 => format!(", unchanged for {unchanged}"),
        version => format!(", resourceVersion {version}, unchanged for {unchanged}"),
    }
}

fn ports(ports: &[Port]) -> String {
    if ports.is_empty() {
        return String::new();
    }
    let shown = ports.iter().take(MAX_PORTS).map(|port| {
        let name = if port.name.is_empty() { String::new() } else { format!("{} ", port.name) };
        format!("{name}{}/{}", port.number, port.protocol.label())
    });
    let more = if ports.len() > MAX_PORTS { ", ..." } else { "" };
    format!(", ports {}{more}", shown.collect::<Vec<_>>().join(", "))
}

fn no_port(ask: &Ask<'_>, group: &Group, service: &Service) -> String {
    let of_slices = group.plain_ports().filter(|_| service.kind == Kind::Headless);
    let ports: &[Port] = of_slices.map_or(&service.ports, |ports| ports);
    let mut named: Vec<String> = ports
        .iter()
        .filter(|port| !port.name.is_empty())
        .map(|port| format!("`_{}._{}`", port.name, port.protocol.label()))
        .collect();
    named.dedup();
    named.truncate(MAX_PORTS);
    let has = match named.as_slice() {
        [] => "none of its ports has a name".to_owned(),
        names => format!("it has {}", names.join(", ")),
    };
    format!("it has no port `{}.{}`; {has}", text(ask.label(0)), text(ask.label(1)))
}

fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    let more = if names.len() > MAX_TOLD { ", ..." } else { "" };
    let shown: Vec<&str> = names.iter().take(MAX_TOLD).map(String::as_str).collect();
    format!("{}{more}", shown.join(", "))
}

fn text(label: &[u8]) -> String {
    String::from_utf8_lossy(label).into_owned()
}
