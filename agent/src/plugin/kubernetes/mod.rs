//! `kubernetes`: the cluster's names, answered from the index.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | what the directive means |
//! | [`ask`] | a question taken apart |
//! | [`apex`] | the zone itself: SOA, name servers, the version |
//! | [`service`] | Services, their ports, their endpoints |
//! | [`endpoints`] | record sets that are composed from slices: SRV, and addresses of one port or one endpoint |
//! | [`ports`] | ports that are asked for |
//! | [`pod`] | Pods by address |
//! | [`reverse`] | names of addresses |
//! | `explain` | why a name is answered or denied, for `nodens explain` |
//! | [`external`] | ExternalName: the target resolved through the chain |
//! | [`nearby`] | `zonal` and `topology`: endpoints by where they are |
//! | [`store_health`] | how fresh it all is, for `/ready`, metrics and `nodens status` |
//!
//! A name exists if it has a record or if a name below it does; then it is never denied and never falls through
//! (RFC 8020). Everything is decided in the receive loop, without waiting or allocating, but for the targets of
//! ExternalName Services.

mod apex;
mod ask;
pub mod config;
mod directive;
mod endpoints;
mod explain;
mod external;
mod nearby;
mod node;
mod pod;
mod ports;
mod reverse;
mod service;
pub mod store_health;
mod unwatched;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use self::ask::Ask;
pub use self::config::Config;
pub use self::nearby::Topology;
pub use self::store_health::StoreHealth;
use crate::chain::{Handler, Local, Next};
use crate::cluster::index::Index;
use crate::cluster::index::group::{self, Group};
use crate::cluster::object::{Kind, Text};
use crate::plugin::scope::Fallthrough;
use crate::request::Resolving;
use crate::request::{Answer, Outcome, OwnedRequest, Plugin, Request, Step, ede};
use crate::trace::Notes;
use crate::wire::{Class, Name, NameRef, Rcode, Reply, flags};

/// What one `kubernetes` directive serves; the index is what it serves it from.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Zones of Services, in the order in which they were written; PTR records name the first of their kind.
    pub zones: Vec<Name>,
    /// Those of them that hold ServiceImports (`multicluster`).
    pub multicluster: Vec<Name>,
    /// Zones of addresses.
    pub reverse_zones: Vec<Name>,
    /// Times to live, seconds.
    pub ttl: u32,
    /// `pods`.
    pub pods: Pods,
    /// False with `noendpoints`: endpoints have no names.
    pub endpoints: bool,
    /// True with `endpoints headless`: endpoints of other Services are not known.
    pub headless_only: bool,
    /// `ignore empty_service`.
    pub ignore_empty: bool,
    /// Which namespaces exist.
    pub exposed: Exposed,
    /// Which names that do not exist are passed on.
    pub fallthrough: Fallthrough,
    /// Our own addresses, which `ns.dns` has; loopback and unspecified ones do not count.
    pub own: Vec<IpAddr>,
    /// `zonal`: headless Services have names that say which zone is wanted.
    pub zonal: bool,
    /// `topology`: which endpoints come first, or alone.
    pub topology: Option<Topology>,
    /// `loadbalance`: addresses go round. Sets that do not fit a message go round in any case.
    pub rotate: bool,
}

/// `pods`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Pods {
    /// Pods have no names.
    #[default]
    Disabled,
    /// Every address in an existing namespace has a name.
    Insecure,
    /// Only addresses that a Pod of that namespace has.
    Verified,
}

/// Which namespaces exist for this directive.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Exposed {
    /// All.
    #[default]
    All,
    /// `namespaces`: these.
    Listed(Vec<Text>),
    /// `namespace_labels`: those that the index knows, since only they are watched.
    Known,
}

/// The handler.
pub struct Kubernetes {
    index: Arc<Index>,
    view: View,
    zones: Vec<Zone>,
    kinds: Vec<Kind>,
    fallback: Option<Arc<dyn Handler>>,
    store_health: Option<Arc<StoreHealth>>,
}

/// A zone that is served.
#[derive(Debug)]
struct Zone {
    name: Name,
    content: Content,
    /// The kinds without which nobody can say that a name does not exist.
    needed: Vec<Kind>,
    /// Whether a name of it has been answered or denied.
    answered: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Services,
    Imports,
    Addresses,
}

impl Content {
    /// Whether names of such a zone cannot be denied before `kind` has been listed. Endpoints and Pods are waited for
    /// where they are looked up, since most names do not depend on them: a role that lacks one kind must not make every
    /// name that does not exist fail, which search lists are full of.
    fn needs(self, kind: Kind) -> bool {
        match (self, kind) {
            (_, Kind::Namespace) | (Self::Services, Kind::Service) => true,
            (Self::Imports, Kind::ServiceImport) => true,
            (Self::Services | Self::Imports, _)
            | (_, Kind::NodePod | Kind::Node)
            | (Self::Addresses, Kind::Pod) => false,
            (Self::Addresses, _) => true,
        }
    }
}

/// What the index says to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Records are in the reply.
    Answered,
    /// The name exists, and has no record of this type.
    NoData,
    /// The name does not exist, as far as is known.
    NoName,
    /// Nobody can say before the endpoints, or the Pods, have been listed.
    NotYet,
    /// The name is another's: its target has to be resolved.
    Chase,
}

impl Kubernetes {
    /// A handler for `view`, answering from `index`.
    pub fn new(view: View, index: Arc<Index>) -> Self {
        let content = |name: &Name| {
            if view.multicluster.contains(name) { Content::Imports } else { Content::Services }
        };
        let mut kinds = vec![Kind::Service, Kind::Namespace];
        if view.endpoints {
            kinds.push(Kind::EndpointSlice);
        }
        if view.pods == Pods::Verified {
            kinds.push(Kind::Pod);
        }
        if !view.multicluster.is_empty() {
            kinds.push(Kind::ServiceImport);
            if view.endpoints {
                kinds.push(Kind::ImportedSlice);
            }
        }
        let zone = |name: &Name, content: Content| Zone {
            name: name.clone(),
            content,
            needed: kinds.iter().copied().filter(|&kind| content.needs(kind)).collect(),
            answered: AtomicBool::new(false),
        };
        let forward = view.zones.iter().map(|name| zone(name, content(name)));
        let reverse = view.reverse_zones.iter().map(|name| zone(name, Content::Addresses));
        let mut zones: Vec<Zone> = forward.chain(reverse).collect();
        zones.sort_by_key(|zone| std::cmp::Reverse(zone.name.as_ref().len()));
        Self { index, view, zones, kinds, fallback: None, store_health: None }
    }

    /// `fallback`: the servers that are asked until the index has been filled for the first time, instead of answering
    /// SERVFAIL; and, with `endpoints headless`, for names that are not watched.
    pub fn with_fallback(mut self, fallback: Arc<dyn Handler>) -> Self {
        self.fallback = Some(fallback);
        self
    }

    /// Lets `not_ready` tell what goes wrong, and of knowledge that is older than `max_staleness`.
    pub fn with_store_health(mut self, store_health: Arc<StoreHealth>) -> Self {
        self.store_health = Some(store_health);
        self
    }

    /// The index that it answers from.
    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// The kinds that must have been listed before everything can be answered.
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    fn zone_of(&self, name: NameRef<'_>) -> Option<(&Zone, usize)> {
        self.zones.iter().find_map(|zone| Some((zone, name.prefix_len(zone.name.as_ref())?)))
    }

    fn judge(
        &self,
        zone: &Zone,
        ask: &Ask<'_>,
        request: &Request<'_>,
        reply: &mut Reply<'_>,
        local: &mut Local,
    ) -> Verdict {
        match zone.content {
            Content::Addresses => self.reverse(ask, request, reply),
            Content::Services => self.forward(ask, false, request, reply, local),
            Content::Imports => self.forward(ask, true, request, reply, local),
        }
    }

    /// True for a name that only a watch of all EndpointSlices could know, where only some are watched: of an address, or of
    /// an endpoint of a Service that has an address of its own.
    fn is_unwatched(&self, zone: &Zone, ask: &Ask<'_>) -> bool {
        if !self.view.headless_only {
            return false;
        }
        match zone.content {
            Content::Addresses => true,
            Content::Imports => false,
            Content::Services => {
                let has_address = |group: &Group| {
                    group
                        .service
                        .as_ref()
                        .is_some_and(|service| service.kind == group::Kind::ClusterIp)
                };
                ask.count() == 4
                    && ask.above_zone(0) == b"svc"
                    && self.index.group(ask.service_key(), false, has_address) == Some(true)
            }
        }
    }

    /// Turns a verdict into the reply.
    fn conclude(
        &self,
        verdict: Verdict,
        zone: &Zone,
        ask: &Ask<'_>,
        request: &Request<'_>,
        reply: &mut Reply<'_>,
    ) -> Step {
        let rcode = match verdict {
            Verdict::Answered | Verdict::NoData => Rcode::NOERROR,
            Verdict::NoName if self.fallback.is_some() && self.is_unwatched(zone, ask) => {
                return Step::Wait;
            }
            Verdict::NoName if self.index.synced(&zone.needed) => {
                if self.view.fallthrough.passes(request.query.name()) {
                    return Step::Next;
                }
                Rcode::NXDOMAIN
            }
            // Neither denied nor passed on: what is not known yet may well be ours.
            Verdict::NoName | Verdict::NotYet => {
                if self.fallback.is_some() {
                    return Step::Wait;
                }
                reply.set_rcode(Rcode::SERVFAIL);
                reply.extended_error(
                    ede::NOT_READY,
                    "the cluster's objects have not been listed yet",
                );
                return Step::Done(Outcome::new(Plugin::Kubernetes, Rcode::SERVFAIL));
            }
            Verdict::Chase => return Step::Wait,
        };
        reply.set_flags(flags::AA, true);
        reply.set_rcode(rcode);
        if verdict != Verdict::Answered {
            self.write_soa(crate::wire::Section::Authority, ask, request, reply);
        }
        if self.store_health.as_ref().is_some_and(|health| health.is_stale()) {
            let denied = rcode == Rcode::NXDOMAIN;
            let code = if denied { ede::STALE_NXDOMAIN } else { ede::STALE_ANSWER };
            // Without a text, which would be allocated for each of them.
            reply.push_options(&[0, 15, 0, 2, 0, code as u8]);
        }
        Step::Done(Outcome::new(Plugin::Kubernetes, rcode))
    }

    fn is_exposed(&self, namespace: &[u8]) -> bool {
        match &self.view.exposed {
            Exposed::All => true,
            Exposed::Listed(names) => names.iter().any(|name| name.as_bytes() == namespace),
            Exposed::Known => self.index.has_namespace(namespace),
        }
    }

    /// Whether it is known which endpoints Services, or imports, have.
    fn endpoints_are_listed(&self, imported: bool) -> bool {
        let kind = if imported { Kind::ImportedSlice } else { Kind::EndpointSlice };
        !self.view.endpoints || self.index.synced(&[kind])
    }

    /// The zone that PTR records name, of Services or of imports.
    fn primary_zone(&self, imported: bool) -> Option<&Name> {
        self.view.zones.iter().find(|zone| self.view.multicluster.contains(zone) == imported)
    }

    /// Where a set of records of so many octets begins this time. One that does not fit goes round in any case, or part of
    /// it would never be seen.
    fn rotation(&self, octets: usize, reply: &Reply<'_>, local: &mut Local) -> usize {
        if self.view.rotate || octets > reply.room() { stride(local) } else { 0 }
    }
}

impl Handler for Kubernetes {
    fn plugin(&self) -> Plugin {
        Plugin::Kubernetes
    }

    fn serve(&self, request: &Request<'_>, reply: &mut Reply<'_>, local: &mut Local) -> Step {
        let query = &request.query;
        let Some((zone, cut)) = self.zone_of(query.name()) else { return Step::Next };
        if query.qclass() != Class::IN {
            reply.set_rcode(Rcode::REFUSED);
            return Step::Done(Outcome::new(Plugin::Kubernetes, Rcode::REFUSED));
        }
        let ask = Ask::new(query, cut);
        let verdict = self.judge(zone, &ask, request, reply, local);
        // Endpoints that no message holds go round: each answer has another part of them.
        reply.accept_part();
        let step = self.conclude(verdict, zone, &ask, request, reply);
        // A load leaves the line where it is, in the cache of every processor.
        let is_ours = matches!(step, Step::Done(outcome) if outcome.rcode != Rcode::SERVFAIL);
        if is_ours && !local.is_dry && !zone.answered.load(Relaxed) {
            zone.answered.store(true, Relaxed);
        }
        step
    }

    fn explain(&self, request: &Request<'_>, step: Step, notes: &mut Notes) {
        self.notes_on(request, step, notes);
    }

    fn resolve<'a>(&'a self, request: &'a OwnedRequest, next: Next<'a>) -> Resolving<'a> {
        Box::pin(async move {
            let Ok(view) = request.view() else { return Answer::unreadable() };
            if let Some(external) = self.external(&view) {
                return external.resolve(self, request, &view).await;
            }
            // Whatever it waited for, it may be there by now.
            let mut local = Local::of_task(request);
            let mut step = Step::Next;
            let answer = Answer::written(&view, |reply| {
                step = self.serve(&view, reply, &mut local);
                if let Step::Done(outcome) = step {
                    outcome
                } else {
                    Outcome::new(Plugin::Kubernetes, Rcode::SERVFAIL)
                }
            });
            match (step, &self.fallback) {
                (Step::Done(_), _) => answer,
                (Step::Wait, Some(fallback)) => fallback.resolve(request, next).await,
                _ => next.resolve(request).await,
            }
        })
    }

    fn answered_zones(&self) -> Vec<&Name> {
        let answered = self.zones.iter().filter(|zone| zone.answered.load(Relaxed));
        answered.map(|zone| &zone.name).collect()
    }

    fn not_ready(&self) -> Option<String> {
        let missing = self.kinds.iter().copied().filter(|&kind| !self.index.synced(&[kind]));
        let missing: Vec<Kind> = missing.collect();
        let store_health = self.store_health.as_ref();
        if missing.is_empty() {
            return store_health?.stale();
        }
        let trouble = store_health.and_then(|store_health| store_health.trouble());
        let trouble = trouble.map_or(String::new(), |trouble| format!(" ({trouble})"));
        Some(format!("{}{trouble}", store_health::first_lists(&missing)))
    }
}

/// Far from the place before, so that of a set that does not fit another part is seen each time. The step is a prime, so
/// that every record of any set comes first equally often.
fn stride(local: &mut Local) -> usize {
    local.rotate().wrapping_mul(2_654_435_761)
}

#[cfg(test)]
mod tests;
