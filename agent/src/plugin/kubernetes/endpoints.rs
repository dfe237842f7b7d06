//! Record sets that are composed from slices while they are asked for: SRV, and the addresses of one port or one endpoint.
//!
//! Several slices may hold the same endpoint. Of each (target, port), and of each address, the first in the order of
//! slices and rows counts, wherever the walk begins. It ends where the message is full, so that a Service of 5,000
//! endpoints costs a query no more than its answer holds.

use std::net::IpAddr;

use super::apex::{address_type, write_address};
use super::ask::{Ask, NameWriter};
use super::naming::{Label, LabelBuf};
use super::service::{Ports, weight, write_srv};
use super::{Kubernetes, Verdict};
use crate::cluster::index::group::Group;
use crate::cluster::index::slice::Slice;
use crate::wire::name::MAX_NAME;
use crate::wire::{Owner, RecordType, Reply, Section};

/// Which endpoints are asked for.
pub(super) struct Selected<'q> {
    /// Those whose slices have one of these ports.
    pub(super) ports: Ports<'q>,
    /// All of them or one.
    pub(super) target: Target<'q>,
    /// Which row to begin at, modulo their number.
    pub(super) start: usize,
}

/// All endpoints of a Service or one.
pub(super) enum Target<'q> {
    /// All.
    Every,
    /// Those of this name, from slices of this cluster (of imports only); several addresses may share it.
    One(Label<'q>, Option<&'q [u8]>),
}

impl Kubernetes {
    /// The addresses of the selected endpoints, each once.
    pub(super) fn composed_addresses(
        &self,
        ask: &Ask<'_>,
        group: &Group,
        selected: &Selected<'_>,
        reply: &mut Reply<'_>,
    ) -> Verdict {
        let mut verdict = Verdict::NoData;
        self.each(group, selected, |number, slice, row| {
            let Some(address) =
                slice.address(row).filter(|&address| address_type(address) == ask.qtype)
            else {
                return true;
            };
            if self.address_came_before(group, selected, number, row, address) {
                return true;
            }
            verdict = Verdict::Answered;
            write_address(reply, Section::Answer, Owner::Question, self.view.ttl, address)
        });
        verdict
    }

    /// SRV records of the selected endpoints and their ports, then the addresses of the targets. Where not all records
    /// fit there is no room for addresses, and those that fit begin at another endpoint the next time.
    pub(super) fn composed_srv(
        &self,
        ask: &Ask<'_>,
        group: &Group,
        selected: &Selected<'_>,
        reply: &mut Reply<'_>,
    ) -> Verdict {
        let weight = weight(self.pairs(group, selected));
        let repeated = self.may_repeat(group);
        let mut rdata = NameWriter::new();
        let mut verdict = Verdict::NoData;
        let whole = self.each(group, selected, |number, slice, row| {
            let mut room = LabelBuf::new();
            let label = Label::of(self.naming(), slice, row, &mut room);
            let ports = selected.ports.of(&slice.ports);
            for (n, port) in ports.clone().enumerate() {
                if ports.clone().take(n).any(|earlier| earlier.number == port.number)
                    || repeated
                        && self.target_came_before(
                            group,
                            selected.ports,
                            number,
                            row,
                            &label,
                            Some(port.number),
                        )
                {
                    continue;
                }
                write_srv(&mut rdata, weight, port.number);
                let name = rdata.len();
                push_endpoint(&label, slice, &mut rdata);
                ask.write_suffix(ask.service_start(), &mut rdata);
                // A name of more than 255 octets is none.
                let Some(data) = rdata.get().filter(|data| data.len() - name <= MAX_NAME) else {
                    continue;
                };
                verdict = Verdict::Answered;
                if !reply.record(
                    Section::Answer,
                    Owner::Question,
                    RecordType::SRV,
                    self.view.ttl,
                    data,
                ) {
                    return false;
                }
            }
            true
        });
        if whole && verdict == Verdict::Answered {
            self.target_addresses(ask, group, selected, reply);
        }
        verdict
    }

    fn target_addresses(
        &self,
        ask: &Ask<'_>,
        group: &Group,
        selected: &Selected<'_>,
        reply: &mut Reply<'_>,
    ) {
        let mut record = NameWriter::new();
        let repeated = self.may_repeat(group);
        self.each(group, selected, |number, slice, row| {
            let mut room = LabelBuf::new();
            let label = Label::of(self.naming(), slice, row, &mut room);
            if repeated && self.target_came_before(group, selected.ports, number, row, &label, None)
            {
                return true;
            }
            record.truncate(0);
            push_endpoint(&label, slice, &mut record);
            ask.write_pointer(ask.service_start(), &mut record);
            let owner = record.len();
            let target = Target::One(label, slice.cluster());
            let named = Selected { ports: selected.ports, target, start: 0 };
            self.each(group, &named, |number, slice, row| {
                let Some(address) = slice.address(row) else { return true };
                if self.address_came_before(group, &named, number, row, address) {
                    return true;
                }
                record.truncate(owner);
                record.push_address_record(self.view.ttl, address);
                reply.records(Section::Additional, 1, record.get().unwrap_or(&[]))
            })
        });
    }

    /// False where no two rows can have the same name: then nobody has to look for the first.
    fn may_repeat(&self, group: &Group) -> bool {
        !group.has_unique_addresses()
            || !group.slices.iter().all(|slice| self.naming().is_by_address(slice))
    }

    /// How many (address, port) pairs are selected, those that stand in several slices counted each time.
    fn pairs(&self, group: &Group, selected: &Selected<'_>) -> usize {
        let rows = |slice: &Slice| match &selected.target {
            Target::Every => slice.len(),
            Target::One(_, cluster) if slice.cluster() != *cluster => 0,
            Target::One(label, _) => {
                let mut rows = 0;
                self.naming().rows(slice, label, |_| {
                    rows += 1;
                    true
                });
                rows
            }
        };
        group.slices.iter().map(|slice| selected.ports.of(&slice.ports).count() * rows(slice)).sum()
    }

    /// Calls `visit` with every selected row until it returns false; false if it did.
    fn each(
        &self,
        group: &Group,
        selected: &Selected<'_>,
        mut visit: impl FnMut(usize, &Slice, usize) -> bool,
    ) -> bool {
        let all_ports = matches!(selected.ports, Ports::All);
        let slices = || {
            let slices = group.slices.iter().enumerate();
            slices
                .filter(|(_, slice)| all_ports || selected.ports.of(&slice.ports).next().is_some())
        };
        match &selected.target {
            Target::One(label, cluster) => {
                slices().filter(|(_, slice)| slice.cluster() == *cluster).all(|(number, slice)| {
                    self.naming().rows(slice, label, |row| visit(number, slice, row))
                })
            }
            Target::Every => {
                let total: usize = slices().map(|(_, slice)| slice.len()).sum();
                let start = selected.start.checked_rem(total).unwrap_or(0);
                let mut walk = |from: usize, to: usize| {
                    let mut first = 0;
                    slices().all(|(number, slice)| {
                        let (low, high) = (from.max(first), to.min(first + slice.len()));
                        let rows = low.saturating_sub(first)..high.saturating_sub(first);
                        first += slice.len();
                        { rows }.all(|row| visit(number, slice, row))
                    })
                };
                walk(start, total) && walk(0, start)
            }
        }
    }

    /// True where an earlier selected row has the address.
    fn address_came_before(
        &self,
        group: &Group,
        selected: &Selected<'_>,
        number: usize,
        row: usize,
        address: IpAddr,
    ) -> bool {
        let naming = self.naming();
        group.slices.iter().take(number + 1).enumerate().any(|(n, slice)| {
            let mut rows = slice
                .rows_of(address)
                .take_while(|&earlier| n < number || earlier < row)
                .peekable();
            rows.peek().is_some()
                && selected.ports.of_or_all(slice)
                && rows.any(|row| match &selected.target {
                    Target::Every => true,
                    Target::One(label, cluster) => {
                        slice.cluster() == *cluster
                            && naming.label(slice, row, &mut LabelBuf::new()) == label.text
                    }
                })
        })
    }

    /// True where an earlier row has the same name, and its slice the same port number if one is given.
    fn target_came_before(
        &self,
        group: &Group,
        ports: Ports<'_>,
        number: usize,
        row: usize,
        label: &Label<'_>,
        port: Option<u16>,
    ) -> bool {
        let naming = self.naming();
        let cluster = group.slices.get(number).and_then(|slice| slice.cluster());
        let same_cluster = |slice: &Slice| slice.cluster() == cluster;
        let slices = group.slices.iter().take(number + 1).enumerate();
        slices.filter(|(_, slice)| same_cluster(slice)).any(|(n, slice)| {
            let earlier = if n < number {
                naming.knows(slice, label)
            } else {
                !naming.rows(slice, label, |same| same >= row)
            };
            earlier
                && match port {
                    Some(number) => ports.of(&slice.ports).any(|port| port.number == number),
                    None => ports.of_or_all(slice),
                }
        })
    }
}

/// Appends the labels of an endpoint below its Service.
pub(super) fn push_endpoint(label: &Label<'_>, slice: &Slice, name: &mut NameWriter) {
    name.push_label(label.text);
    if let Some(cluster) = slice.cluster() {
        name.push_label(cluster);
    }
}

impl Ports<'_> {
    /// True where the slice's endpoints are selected by its ports; a slice without ports is, where all are asked for.
    fn of_or_all(self, slice: &Slice) -> bool {
        matches!(self, Self::All) || self.of(&slice.ports).next().is_some()
    }
}
