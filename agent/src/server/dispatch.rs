//! Which server block answers: the one with the longest zone that the name is within, of several with that zone the first
//! whose view the query fits. If it fits none of them, the next longest zone is tried.

use std::sync::Arc;

use crate::chain::Chain;
use crate::plugin::settings::Timeouts;
use crate::plugin::view::View;
use crate::request::{OwnedRequest, Request, Resolving, ServerBlocks};
use crate::wire::{Name, NameRef, RecordType};

/// The server blocks behind one listening address.
pub struct Dispatch {
    // Longest zone first, so that the first match is the most specific one. Those of one zone are in the order of the
    // Corefile.
    chains: Vec<Arc<Chain>>,
    /// Where queries are counted that none of them answers. It has no handler.
    outside: Arc<Chain>,
    timeouts: Timeouts,
}

/// The `zone` label of queries that no server block answers, as in CoreDNS.
const DROPPED: &str = "dropped";

impl Dispatch {
    /// The chains of one address; those of one zone in the order in which their views are tried.
    pub fn new(mut chains: Vec<Arc<Chain>>) -> Self {
        chains.iter().for_each(Chain::enter);
        let first = chains.first();
        let label = first.map_or_else(|| "".into(), |chain| Arc::clone(&chain.server_label));
        let workers = first.map_or(0, |chain| chain.cells.len());
        let mut outside = Chain::new(Name::root(), label, Vec::new(), workers);
        outside.zone_label = DROPPED.into();
        outside.taps = first.and_then(|chain| chain.taps.clone());
        chains.sort_by_key(|chain| std::cmp::Reverse(chain.zone.as_ref().label_count()));
        Self { chains, outside: Arc::new(outside), timeouts: Timeouts::default() }
    }

    /// The same with other bounds on how long TCP clients may take.
    pub fn with_timeouts(self, timeouts: Timeouts) -> Self {
        Self { timeouts, ..self }
    }

    /// Whether a server block goes through search lists for its clients (`autopath`).
    pub fn has_autopath(&self) -> bool {
        self.chains.iter().any(|chain| chain.autopath.is_some())
    }

    /// The chain for a query; `None` if no zone is served that the name is within, or no view of these zones fits. A DS
    /// record is the parent's to answer (RFC 4035 section 3.1.4.1), so at a zone's apex the enclosing zone is preferred
    /// where it is served too.
    pub fn find(&self, request: &Request<'_>) -> Option<&Arc<Chain>> {
        let name = request.query.name();
        let mut matching = self.chains.iter().filter(|chain| {
            name.is_within(chain.zone.as_ref())
                && chain.view.as_ref().is_none_or(|view| view.admits(request))
        });
        let first = matching.next()?;
        if request.query.qtype() == RecordType::DS && first.zone.as_ref() == name {
            return Some(matching.find(|chain| chain.zone != first.zone).unwrap_or(first));
        }
        Some(first)
    }

    /// The views that the query does not fit, of blocks that would serve it else. For those who explain it.
    pub fn passed_over<'a>(&'a self, request: &'a Request<'_>) -> impl Iterator<Item = &'a View> {
        let name = request.query.name();
        let within = self.chains.iter().filter(move |chain| name.is_within(chain.zone.as_ref()));
        let views = within.map(|chain| chain.view.as_deref());
        views.map_while(|view| view.filter(|view| !view.admits(request)))
    }

    /// How long TCP clients may take.
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// The chain of queries that no server block answers: it refuses all.
    pub fn outside(&self) -> &Arc<Chain> {
        &self.outside
    }

    /// Whether the name is in a zone that is served here, if only for some views.
    pub fn has_zone_of(&self, name: NameRef<'_>) -> bool {
        self.chains.iter().any(|chain| name.is_within(chain.zone.as_ref()))
    }

    /// All chains, the most specific zones first.
    pub fn chains(&self) -> &[Arc<Chain>] {
        &self.chains
    }
}

impl ServerBlocks for Dispatch {
    fn resolve<'a>(&'a self, request: &'a OwnedRequest) -> Option<Resolving<'a>> {
        let view = request.view().ok()?;
        let chain = self.find(&view)?;
        Some(chain.resolve(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::directive::{ReadContext, ReadDirective};
    use crate::plugin::testing::{block, read, request_of};
    use crate::plugin::view::Config;

    /// A block for `zone`, and for a view if there is an expression.
    fn chain(number: usize, zone: &str, expression: &str) -> Arc<Chain> {
        let zone = Name::from_text(zone).unwrap();
        let mut chain = Chain::new(zone, number.to_string().into(), Vec::new(), 1);
        if !expression.is_empty() {
            let text = format!("view v {{\n expr {expression}\n}}");
            let (config, said) = read(&text, |directive, diagnostics| {
                let (block, root) = (block("."), std::path::Path::new(""));
                let mut cx = ReadContext { block: &block, zones: &[], root, diagnostics };
                Config::read(directive, &mut cx)
            });
            assert_eq!(said, "");
            chain.view = Some(Arc::new(config.build(&Arc::default())));
        }
        Arc::new(chain)
    }

    fn found(blocks: &[(&str, &str)], name: &str, qtype: RecordType) -> Option<usize> {
        let chains =
            blocks.iter().enumerate().map(|(number, (zone, view))| chain(number, zone, view));
        let dispatch = Dispatch::new(chains.collect());
        request_of(name, qtype, |request| {
            dispatch.find(request).map(|chain| chain.server_label.parse().unwrap())
        })
    }

    #[test]
    fn the_longest_zone_comes_before_the_first_view() {
        // The client is 192.0.2.7.
        let (yes, no) =
            ("incidr(client_ip(), '192.0.2.0/24')", "incidr(client_ip(), '10.0.0.0/8')");
        for (blocks, wanted) in [
            (vec![(".", ""), ("a", "")], Some(1)),
            (vec![(".", yes), ("a", "")], Some(1)),
            (vec![("a", no), ("a", yes), ("a", "")], Some(1)),
            (vec![("a", no), ("a", ""), ("a", yes)], Some(1)),
            (vec![("a", ""), ("a", yes)], Some(0)),
            (vec![("b.a", no), ("a", no), (".", yes), (".", "")], Some(2)),
            (vec![("b.a", "name() == 'b.a.'"), ("a", "")], Some(1)),
            (vec![("b.a", no), ("a", no)], None),
            (vec![("b", "")], None),
        ] {
            assert_eq!(found(&blocks, "c.b.a", RecordType::A), wanted, "{blocks:?}");
        }
    }

    #[test]
    fn a_ds_record_is_asked_of_the_parent() {
        let (yes, no) = ("size() > 0", "size() < 0");
        for (blocks, wanted) in [
            (vec![("a", ""), (".", "")], Some(1)),
            (vec![("a", ""), ("b", "")], Some(0)),
            // Another view of the zone is no parent, and one that does not fit is none either.
            (vec![("a", yes), ("a", ""), (".", "")], Some(2)),
            (vec![("a", yes), ("a", "")], Some(0)),
            (vec![("a", yes), (".", no)], Some(0)),
            (vec![("a", no), (".", no)], None),
        ] {
            assert_eq!(found(&blocks, "a", RecordType::DS), wanted, "{blocks:?}");
        }
        assert_eq!(found(&[("a", ""), (".", "")], "b.a", RecordType::DS), Some(0));
    }
}
