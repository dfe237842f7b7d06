//! Record sets that are composed from endpoints while they are asked for: SRV, and the addresses of one port or one endpoint.
//!
//! The index has merged what several slices repeat, so that each (target, port) and each address comes once. A walk ends
//! where the message is full, so that a Service of 5,000 endpoints costs a query no more than its answer holds.

use std::net::IpAddr;

use super::apex::write_address;
use super::ask::{Ask, NameWriter};
use super::nearby::Chosen;
use super::ports::{Ports, each_number, weight, write_srv};
use super::{Kubernetes, Verdict};
use crate::cluster::index::group::Group;
use crate::cluster::index::label::{Label, LabelBuf};
use crate::cluster::index::slice;
use crate::cluster::index::targets::{Address, OfPorts, Target, Targets};
use crate::wire::name::MAX_NAME;
use crate::wire::{Owner, RecordType, Reply, Section, flags};

/// Endpoints without the selected port that a reply by datagram passes over. A Service with more of them, which takes
/// several lists of ports, is answered by TCP.
const MAX_PASSED_OVER: usize = 4_096;

/// The priority of SRV records of endpoints that come after those nearby.
const FAR: u16 = 1;

/// Which endpoints are asked for.
pub(super) struct Selected<'q> {
    /// Those whose slices have one of these ports.
    pub(super) ports: Ports<'q>,
    /// All of them or one.
    pub(super) target: Which<'q>,
    /// Which one to begin at, modulo their number.
    pub(super) start: usize,
    /// Which come before the others; only of all.
    pub(super) first: Option<&'q Group>,
}

impl<'q> Selected<'q> {
    /// All endpoints that answer which have one of these ports.
    pub(super) fn every(ports: Ports<'q>, chosen: Chosen<'q>, start: usize) -> Self {
        Self { ports, target: Which::Every, start, first: chosen.first }
    }
}

/// All endpoints of a Service or one.
pub(super) enum Which<'q> {
    /// All.
    Every,
    /// The one of this name, of this cluster (of imports only); it may have several addresses.
    One(Label<'q>, Option<&'q [u8]>),
}

/// One endpoint.
#[derive(Clone, Copy)]
pub(super) struct Endpoint<'g> {
    label: Label<'g>,
    cluster: Option<&'g [u8]>,
    has: Has<'g>,
}

/// Its addresses and ports.
#[derive(Clone, Copy)]
enum Has<'g> {
    One(IpAddr, Option<&'g slice::Ports>),
    Many(&'g Target),
}

impl<'g> Endpoint<'g> {
    fn of(target: &'g Target) -> Self {
        Self { label: target.label(), cluster: target.cluster(), has: Has::Many(target) }
    }

    fn plain(group: &'g Group, label: Label<'g>, address: IpAddr) -> Self {
        let has = Has::One(address, group.plain_ports());
        Self { label, cluster: group.plain_cluster(), has }
    }

    /// Its addresses of one family in slices that have one of `ports`.
    fn addresses(
        &self,
        ports: Ports<'g>,
        is_v6: bool,
        start: usize,
    ) -> impl Iterator<Item = IpAddr> + use<'g> {
        let (one, many) = match self.has {
            Has::One(address, list) => {
                let is_asked = list.is_some_and(|list| ports.are_in(list));
                (Some(address).filter(|ip| is_asked && ip.is_ipv6() == is_v6), None)
            }
            Has::Many(target) => (None, Some(target.addresses.of(is_v6))),
        };
        let many = many.into_iter().flat_map(move |family| family.iter_from(start));
        let of_ports = many
            .filter(move |known| known.ports.iter().any(|(list, _)| ports.are_in(list)))
            .map(|known| known.value);
        one.into_iter().chain(of_ports)
    }

    /// Its lists of ports, each with the number of rows that have it.
    fn ports(&self) -> impl Iterator<Item = (&'g slice::Ports, usize)> + Clone + use<'g> {
        let (one, many) = match self.has {
            Has::One(_, ports) => (ports, None),
            Has::Many(target) => (None, Some(target)),
        };
        one.map(|ports| (ports, 1))
            .into_iter()
            .chain(many.into_iter().flat_map(|target| target.ports.iter()))
    }
}

impl Kubernetes {
    /// Calls `visit` with every endpoint, from some of them on, until it returns false; false if it did.
    fn each_endpoint<'g>(
        &self,
        group: &'g Group,
        start: usize,
        mut visit: impl FnMut(Endpoint<'g>) -> bool,
    ) -> bool {
        match group.targets() {
            Some(targets) => targets.iter_from(start).all(|target| visit(Endpoint::of(target))),
            None => group
                .plain_endpoints(start)
                .all(|(label, address)| visit(Endpoint::plain(group, label, address))),
        }
    }

    /// The endpoint of this name.
    pub(super) fn find_endpoint<'g>(
        &self,
        group: &'g Group,
        label: Label<'g>,
        cluster: Option<&[u8]>,
    ) -> Option<Endpoint<'g>> {
        match group.targets() {
            Some(targets) => self.index.target(targets, label, cluster).map(Endpoint::of),
            None => group
                .plain_endpoint(label, cluster)
                .map(|address| Endpoint::plain(group, label, address)),
        }
    }

    /// The addresses of the selected endpoints, each once.
    pub(super) fn composed_addresses(
        &self,
        ask: &Ask<'_>,
        group: &Group,
        selected: &Selected<'_>,
        reply: &mut Reply<'_>,
    ) -> Verdict {
        let is_v6 = ask.qtype == RecordType::AAAA;
        let mut verdict = Verdict::NoData;
        let mut passed_over = 0;
        let mut write = |address: IpAddr, is_asked: bool| {
            if !is_asked {
                passed_over += 1;
                return passed_over <= MAX_PASSED_OVER || !by_datagram(reply);
            }
            verdict = Verdict::Answered;
            write_address(reply, Section::Answer, Owner::Question, self.view.ttl, address)
        };
        let Some(first) = selected.first else {
            self.each_address(group, selected, is_v6, &mut write);
            return verdict;
        };
        if self.each_address(first, selected, is_v6, &mut write) {
            self.each_address(group, selected, is_v6, |address, is_asked| {
                let is_given = is_asked && self.has_address(first, selected.ports, address);
                is_given || write(address, is_asked)
            });
        }
        verdict
    }

    /// Calls `visit` with the addresses of the selected endpoints, each once, and with some that lack the ports, until it
    /// returns false; false if it did. It is told whether the address is a selected one.
    fn each_address(
        &self,
        group: &Group,
        selected: &Selected<'_>,
        is_v6: bool,
        mut visit: impl FnMut(IpAddr, bool) -> bool,
    ) -> bool {
        let (ports, start) = (selected.ports, selected.start);
        match (&selected.target, group.targets()) {
            (Which::One(label, cluster), _) => self
                .find_endpoint(group, *label, *cluster)
                .into_iter()
                .flat_map(|endpoint| endpoint.addresses(ports, is_v6, start))
                .all(|address| visit(address, true)),
            (Which::Every, None) => self.each_endpoint(group, start, |endpoint| {
                endpoint.addresses(ports, is_v6, 0).all(|address| visit(address, true))
            }),
            (Which::Every, Some(targets)) => match only_list(targets, ports) {
                Some(list) => list.addresses_from(is_v6, start).all(|address| visit(address, true)),
                None => targets
                    .addresses_from(is_v6, start)
                    .all(|known| visit(known.address, has_port(known, ports))),
            },
        }
    }

    /// Whether an endpoint of `group` with one of `ports` has this address.
    fn has_address(&self, group: &Group, ports: Ports<'_>, address: IpAddr) -> bool {
        match group.targets() {
            Some(targets) => self
                .index
                .target_address(targets, address)
                .is_some_and(|known| has_port(known, ports)),
            None => {
                group.plain_ports().is_some_and(|list| ports.are_in(list))
                    && group.has_address(address)
            }
        }
    }

    /// SRV records of the selected endpoints and their ports, then the addresses of the targets. If not all records fit there
    /// is no place for addresses, and those that fit begin at another endpoint the next time. Endpoints that come after
    /// others are told by their priority.
    pub(super) fn composed_srv(
        &self,
        ask: &Ask<'_>,
        group: &Group,
        selected: &Selected<'_>,
        reply: &mut Reply<'_>,
    ) -> Verdict {
        let weight = weight(self.pairs(group, selected));
        let mut rdata = NameWriter::new();
        let mut verdict = Verdict::NoData;
        let mut passed_over = 0;
        let whole = self.each_selected(group, selected, |endpoint, priority| {
            let ports = endpoint.ports().flat_map(|(list, _)| selected.ports.of(list));
            if ports.clone().next().is_none() {
                passed_over += 1;
                return passed_over <= MAX_PASSED_OVER || !by_datagram(reply);
            }
            each_number(ports, |number| {
                write_srv(&mut rdata, priority, weight, number);
                let name = rdata.len();
                push_endpoint(endpoint.label, endpoint.cluster, &mut rdata);
                ask.write_suffix(ask.service_start(), &mut rdata);
                // A name of more than 255 octets is none.
                let Some(data) = rdata.get().filter(|data| data.len() - name <= MAX_NAME) else {
                    return true;
                };
                verdict = Verdict::Answered;
                let (ttl, srv) = (self.view.ttl, RecordType::SRV);
                reply.record(Section::Answer, Owner::Question, srv, ttl, data)
            })
        });
        if whole && verdict == Verdict::Answered {
            self.target_addresses(ask, group, selected, reply);
        }
        verdict
    }

    /// The addresses of the targets that [`Kubernetes::composed_srv`] has written, which were few enough to fit.
    fn target_addresses(
        &self,
        ask: &Ask<'_>,
        group: &Group,
        selected: &Selected<'_>,
        reply: &mut Reply<'_>,
    ) {
        let mut record = NameWriter::new();
        self.each_selected(group, selected, |endpoint, _| {
            if !endpoint.ports().any(|(list, _)| selected.ports.are_in(list)) {
                return true;
            }
            record.truncate(0);
            push_endpoint(endpoint.label, endpoint.cluster, &mut record);
            ask.write_pointer(ask.service_start(), &mut record);
            let owner = record.len();
            let v4 = endpoint.addresses(selected.ports, false, 0);
            v4.chain(endpoint.addresses(selected.ports, true, 0)).all(|address| {
                record.truncate(owner);
                record.push_address_record(self.view.ttl, address);
                reply.records(Section::Additional, 1, record.get().unwrap_or(&[]))
            })
        });
    }

    /// Calls `visit` with each selected endpoint and its priority, until it returns false; false if it did. An endpoint that
    /// comes first has its whole record: far from here, another may share its name.
    fn each_selected<'g>(
        &self,
        group: &'g Group,
        selected: &Selected<'g>,
        mut visit: impl FnMut(Endpoint<'g>, u16) -> bool,
    ) -> bool {
        let Some(first) = selected.first else {
            return self.each_alike(group, selected, |endpoint| visit(endpoint, 0));
        };
        let is_asked =
            |endpoint: &Endpoint<'_>| endpoint.ports().any(|(list, _)| selected.ports.are_in(list));
        let is_near = |endpoint: &Endpoint<'_>| {
            let near = self.find_endpoint(first, endpoint.label, endpoint.cluster);
            near.is_some_and(|near| is_asked(&near))
        };
        self.each_alike(first, selected, |near| {
            let whole = self.find_endpoint(group, near.label, near.cluster);
            visit(whole.filter(|_| is_asked(&near)).unwrap_or(near), 0)
        }) && self
            .each_alike(group, selected, |endpoint| is_near(&endpoint) || visit(endpoint, FAR))
    }

    fn each_alike<'g>(
        &self,
        group: &'g Group,
        selected: &Selected<'g>,
        mut visit: impl FnMut(Endpoint<'g>) -> bool,
    ) -> bool {
        let targets = group.targets();
        let list = targets.and_then(|targets| Some((targets, only_list(targets, selected.ports)?)));
        match selected.target {
            Which::Every => match list {
                Some((targets, list)) => list.names_from(selected.start).all(|(label, cluster)| {
                    let target = self.index.target(targets, label, cluster);
                    target.is_none_or(|target| visit(Endpoint::of(target)))
                }),
                None => self.each_endpoint(group, selected.start, visit),
            },
            Which::One(label, cluster) => {
                self.find_endpoint(group, label, cluster).is_none_or(&mut visit)
            }
        }
    }

    /// How many (address, port) pairs are selected, those that several slices have counted each time.
    fn pairs(&self, group: &Group, selected: &Selected<'_>) -> usize {
        let pairs = |(list, rows): (&slice::Ports, usize)| selected.ports.of(list).count() * rows;
        match (&selected.target, group.targets()) {
            (Which::One(label, cluster), _) => {
                let endpoint = self.find_endpoint(group, *label, *cluster);
                endpoint.map_or(0, |endpoint| endpoint.ports().map(pairs).sum())
            }
            (Which::Every, Some(targets)) => targets.ports().iter().map(pairs).sum(),
            (Which::Every, None) => {
                group.plain_ports().map_or(0, |list| pairs((list, group.ready())))
            }
        }
    }
}

fn has_port(known: &Address, ports: Ports<'_>) -> bool {
    known.ports.iter().any(|(list, _)| ports.are_in(list))
}

/// The one list of several that has the selected ports; `None` if there is not exactly one. Endpoints that have it are then
/// walked, and no others.
fn only_list<'g>(targets: &'g Targets, ports: Ports<'_>) -> Option<&'g OfPorts> {
    let mut lists = targets.lists().iter().filter(|list| ports.are_in(&list.ports));
    let first = lists.next()?;
    lists.next().is_none().then_some(first)
}

/// Marks a reply by datagram as cut, so that the client comes by TCP; false for TCP.
fn by_datagram(reply: &mut Reply<'_>) -> bool {
    let datagram = !reply.is_over_tcp();
    if datagram {
        reply.set_flags(flags::TC, true);
    }
    datagram
}

/// Appends the labels of an endpoint below its Service.
pub(super) fn push_endpoint(label: Label<'_>, cluster: Option<&[u8]>, name: &mut NameWriter) {
    name.push_label(label.text(&mut LabelBuf::new()));
    if let Some(cluster) = cluster {
        name.push_label(cluster);
    }
}
