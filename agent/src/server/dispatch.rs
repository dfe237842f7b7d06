//! Which server block answers: the one with the longest zone that the name is within.

use std::sync::Arc;

use crate::chain::Chain;
use crate::observe::ring::Taps;
use crate::plugin::settings::Timeouts;
use crate::request::{OwnedRequest, Resolving, ServerBlocks};
use crate::wire::{NameRef, RecordType};

/// The server blocks behind one listening address.
#[derive(Default)]
pub struct Dispatch {
    // Longest zone first, so that the first match is the most specific one.
    chains: Vec<Arc<Chain>>,
    timeouts: Timeouts,
}

impl Dispatch {
    /// The chains of one address, in any order.
    pub fn new(mut chains: Vec<Arc<Chain>>) -> Self {
        chains.iter().for_each(Chain::enter);
        chains.sort_by_key(|chain| std::cmp::Reverse(chain.zone.as_ref().label_count()));
        Self { chains, timeouts: Timeouts::default() }
    }

    /// The same with other bounds on how long TCP clients may take.
    pub fn with_timeouts(self, timeouts: Timeouts) -> Self {
        Self { timeouts, ..self }
    }

    /// Whether a server block goes through search lists for its clients (`autopath`).
    pub fn has_autopath(&self) -> bool {
        self.chains.iter().any(|chain| chain.autopath.is_some())
    }

    /// The chain for `name`, which must be lower-case. A DS record is the parent's to answer (RFC 4035 section 3.1.4.1),
    /// so at a zone's apex the enclosing zone is preferred where it is served too.
    pub fn find(&self, name: NameRef<'_>, qtype: RecordType) -> Option<&Arc<Chain>> {
        let mut matching = self.chains.iter().filter(|chain| name.is_within(chain.zone.as_ref()));
        let first = matching.next()?;
        if qtype == RecordType::DS && first.zone.as_ref() == name {
            return Some(matching.next().unwrap_or(first));
        }
        Some(first)
    }

    /// How long TCP clients may take.
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Where finished queries are written down for those who look.
    pub fn taps(&self) -> Option<&Taps> {
        self.chains.first()?.taps.as_deref()
    }

    /// All chains, the most specific zones first.
    pub fn chains(&self) -> &[Arc<Chain>] {
        &self.chains
    }
}

impl ServerBlocks for Dispatch {
    fn resolve<'a>(&'a self, request: &'a OwnedRequest) -> Option<Resolving<'a>> {
        let view = request.view().ok()?;
        let chain = self.find(view.query.name(), view.query.qtype())?;
        Some(chain.resolve(request))
    }
}
