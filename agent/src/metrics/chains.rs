//! `coredns_dns_*` and what the cache counts on the hot path, summed up over the workers of a server block.
#![expect(
    clippy::indexing_slicing,
    reason = "arrays of fixed length, indexed by enumerations and by loops over that length"
)]

use std::sync::Arc;

use super::cells::{Cell, Cells, DURATION_BUCKETS, Histogram, RCODES, SIZE_BUCKETS, TYPES};
use super::names;
use super::scrape::{Scrape, Source};
use crate::chain::{Chain, Handler};
use crate::request::Plugin;
use crate::wire::Rcode;

/// In the order of `Cells::proto`.
const PROTOCOLS: [&str; 2] = ["udp", "tcp"];
/// IPv4 and IPv6 as CoreDNS names them, by the numbers of RFC 7871.
const FAMILIES: [&str; 2] = ["1", "2"];

/// The directives of a server block for one zone: `coredns_plugin_enabled`.
#[derive(Debug)]
pub struct Enabled {
    /// The `server` label.
    pub server: Arc<str>,
    /// The `zone` label.
    pub zone: Arc<str>,
    /// The `view` label.
    pub view: Arc<str>,
    /// The names of the directives.
    pub names: Vec<Arc<str>>,
}

impl Source for Enabled {
    fn collect(&self, out: &mut Scrape) {
        let mut names: Vec<&str> = self.names.iter().map(AsRef::as_ref).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            out.gauge(&names::PLUGIN_ENABLED, &[&self.server, &self.zone, &self.view, name], 1.0);
        }
    }
}

impl Source for Chain {
    fn collect(&self, out: &mut Scrape) {
        let labels = [&*self.server_label, &*self.zone_label, self.view_label()];
        let workers = &*self.cells;
        for (proto, name) in PROTOCOLS.into_iter().enumerate() {
            requests(workers, proto, name, labels, out);
        }
        let (counts, micros) = total_histogram(workers, |cells| &cells.duration);
        let seconds = micros as f64 / 1e6;
        out.histogram(&names::DNS_REQUEST_DURATION, &labels, &DURATION_BUCKETS, counts, seconds);
        out.count(&names::DNS_DO_REQUESTS, &labels, total(workers, |cells| &cells.dnssec_ok));
        responses(workers, labels, out);
        ends(workers, out);
        let has = |plugin| self.handlers().iter().any(|handler| handler.plugin() == plugin);
        if self.autopath.is_some() {
            let found = total(workers, |cells| &cells.searched);
            out.count(&names::AUTOPATH_SUCCESS, &[&*self.server_label], found);
        }
        if has(Plugin::Cache) {
            cache(workers, labels, out);
        }
        if has(Plugin::Acl) {
            acl(workers, labels, out);
        }
        if has(Plugin::Limit) {
            limit(workers, labels, out);
        }
    }
}

impl Chain {
    /// The `view` label of metrics: the view's name, empty without one.
    pub fn view_label(&self) -> &str {
        self.view.as_ref().map_or("", |view| view.name())
    }

    /// How many queries have been answered by any plugin but the server itself.
    pub fn answered(&self) -> u64 {
        let plugins = Plugin::ALL.iter().filter(|plugin| **plugin != Plugin::Server);
        let codes = plugins.flat_map(|&plugin| (0..RCODES).map(move |code| (plugin, code)));
        codes
            .map(|(plugin, code)| {
                total(&self.cells, |cells| &cells.responses[plugin as usize][code])
            })
            .sum()
    }

    /// Whether a query has been answered by this plugin, or by any but the server itself.
    pub fn has_answered(&self, plugin: Option<Plugin>) -> bool {
        let by = |answered: &Plugin| match plugin {
            Some(plugin) => *answered == plugin,
            None => *answered != Plugin::Server,
        };
        Plugin::ALL.iter().filter(|plugin| by(plugin)).any(|&plugin| {
            (0..RCODES)
                .any(|code| total(&self.cells, |cells| &cells.responses[plugin as usize][code]) > 0)
        })
    }
}

/// What the handlers of a server block count themselves.
pub struct Handlers {
    /// The `server` label.
    pub server: Arc<str>,
    /// The `view` label.
    pub view: Arc<str>,
    /// Those of the block; each is in one source only, however many chains have it.
    pub handlers: Vec<Arc<dyn Handler>>,
}

impl Source for Handlers {
    fn collect(&self, out: &mut Scrape) {
        self.handlers.iter().for_each(|handler| handler.collect(&self.server, &self.view, out));
    }
}

fn requests(
    workers: &[Cells],
    proto: usize,
    name: &str,
    [server, zone, view]: [&str; 3],
    out: &mut Scrape,
) {
    for (family, family_name) in FAMILIES.into_iter().enumerate() {
        for (qtype, type_name) in TYPES.into_iter().enumerate() {
            let count = total(workers, |cells| &cells.proto[proto].requests[family][qtype]);
            if count > 0 {
                let labels = [server, zone, view, name, family_name, type_name];
                out.count(&names::DNS_REQUESTS, &labels, count);
            }
        }
    }
    let labels = [server, zone, view, name];
    let (counts, sum) = total_histogram(workers, |cells| &cells.proto[proto].request_size);
    if counts.iter().any(|&count| count > 0) {
        out.histogram(&names::DNS_REQUEST_SIZE, &labels, &SIZE_BUCKETS, counts, sum as f64);
    }
    let (counts, sum) = total_histogram(workers, |cells| &cells.proto[proto].response_size);
    if counts.iter().any(|&count| count > 0) {
        out.histogram(&names::DNS_RESPONSE_SIZE, &labels, &SIZE_BUCKETS, counts, sum as f64);
    }
}

fn responses(workers: &[Cells], [server, zone, view]: [&str; 3], out: &mut Scrape) {
    for plugin in Plugin::ALL {
        for code in 0..RCODES {
            let count = total(workers, |cells| &cells.responses[plugin as usize][code]);
            if count > 0 {
                let name = match Rcode(code as u16).name() {
                    Some(name) => name.to_owned(),
                    // The last slot is for all codes that have none of their own.
                    None if code == RCODES - 1 => "other".to_owned(),
                    None => format!("RCODE{code}"),
                };
                out.count(
                    &names::DNS_RESPONSES,
                    &[server, zone, view, &name, plugin.name()],
                    count,
                );
            }
        }
    }
}

/// What a reply was made from: the `source` label of `nodens_answered_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnsweredBy {
    /// The API-watched store: `kubernetes`.
    Store,
    /// What the Corefile says, or names a file for: `hosts`, `file`, `template` and the like.
    Configured,
    /// The cache.
    Cache,
    /// The cache, with records that had expired.
    Stale,
    /// An upstream.
    Upstream,
    /// The server itself, `acl` and `limit`: refusals and errors.
    Server,
    /// The server itself, to its own questions whether it answers.
    Probe,
}

impl AnsweredBy {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::Store,
        Self::Configured,
        Self::Cache,
        Self::Stale,
        Self::Upstream,
        Self::Server,
        Self::Probe,
    ];

    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Configured => "configured",
            Self::Cache => "cache",
            Self::Stale => "stale",
            Self::Upstream => "upstream",
            Self::Server => "server",
            Self::Probe => "probe",
        }
    }

    fn of(plugin: Plugin) -> Self {
        match plugin {
            Plugin::Kubernetes => Self::Store,
            Plugin::Cache => Self::Cache,
            Plugin::Forward => Self::Upstream,
            Plugin::Server | Plugin::Chaos | Plugin::Acl | Plugin::Limit => Self::Server,
            _ => Self::Configured,
        }
    }
}

/// What became of the queries of a chain, as `nodens_answered_total` and `nodens_dropped_total` have it.
fn ends(workers: &[Cells], out: &mut Scrape) {
    for plugin in Plugin::ALL {
        let answered: u64 = (0..RCODES)
            .map(|code| total(workers, |cells| &cells.responses[plugin as usize][code]))
            .sum();
        let stale = match plugin {
            Plugin::Cache => total(workers, |cells| &cells.cache_stale).min(answered),
            _ => 0,
        };
        for (by, count) in [(AnsweredBy::Stale, stale), (AnsweredBy::of(plugin), answered - stale)]
        {
            if count > 0 {
                out.count(&names::ANSWERED, &[by.label()], count);
            }
        }
        let silent = silent(workers, plugin);
        if silent > 0 {
            out.count(&names::DROPPED, &[plugin.name()], silent);
        }
    }
    out.count(&names::DROPPED, &["lost"], total(workers, |cells| &cells.lost[0]));
    out.count(&names::DROPPED, &["panic"], total(workers, |cells| &cells.lost[1]));
}

fn cache(workers: &[Cells], [server, zone, view]: [&str; 3], out: &mut Scrape) {
    let stale = total(workers, |cells| &cells.cache_stale);
    // An answer from expired records is a hit as well, as CoreDNS counts it.
    let success = total(workers, |cells| &cells.cache_success) + stale;
    let denial = total(workers, |cells| &cells.cache_denial);
    let misses = total(workers, |cells| &cells.cache_misses);
    out.count(&names::CACHE_HITS, &[server, "success", zone, view], success);
    out.count(&names::CACHE_HITS, &[server, "denial", zone, view], denial);
    out.count(&names::CACHE_MISSES, &[server, zone, view], misses);
    out.count(&names::CACHE_REQUESTS, &[server, zone, view], success + denial + misses);
    out.count(&names::CACHE_SERVED_STALE, &[server, zone, view], stale);
}

/// Nothing of this is counted apart: the outcomes of the chain say it all.
fn acl(workers: &[Cells], [server, zone, view]: [&str; 3], out: &mut Scrape) {
    let ended = |plugin: Plugin, rcode: Rcode| {
        total(workers, |cells| &cells.responses[plugin as usize][usize::from(rcode.0)])
    };
    let labels = [server, zone, view];
    out.count(&names::ACL_BLOCKED, &labels, ended(Plugin::Acl, Rcode::REFUSED));
    out.count(&names::ACL_FILTERED, &labels, ended(Plugin::Acl, Rcode::NOERROR));
    out.count(&names::ACL_DROPPED, &labels, silent(workers, Plugin::Acl));
    // `local` stands before it, and of the server's own answers only the REFUSED at the end of the chain has passed it.
    let behind = Plugin::ALL.into_iter().filter(|plugin| {
        !matches!(plugin, Plugin::Acl | Plugin::Local | Plugin::Chaos | Plugin::Server)
    });
    let allowed: u64 = behind
        .map(|plugin| {
            (0..RCODES)
                .map(|code| total(workers, |cells| &cells.responses[plugin as usize][code]))
                .sum::<u64>()
        })
        .sum();
    let allowed = allowed + ended(Plugin::Server, Rcode::REFUSED) + silent(workers, Plugin::Limit);
    out.count(&names::ACL_ALLOWED, &[server, view], allowed);
}

/// As with `acl`, the outcomes of the chain say it all.
fn limit(workers: &[Cells], [server, zone, view]: [&str; 3], out: &mut Scrape) {
    let refused = total(workers, |cells| {
        &cells.responses[Plugin::Limit as usize][usize::from(Rcode::REFUSED.0)]
    });
    for (action, count) in [("drop", silent(workers, Plugin::Limit)), ("refuse", refused)] {
        out.count(&names::LIMIT_REQUESTS, &[server, zone, view, action], count);
    }
}

/// Queries that this plugin has left without a reply.
fn silent(workers: &[Cells], plugin: Plugin) -> u64 {
    total(workers, |cells| &cells.silent[plugin as usize])
}

fn total(workers: &[Cells], cell: impl Fn(&Cells) -> &Cell) -> u64 {
    workers.iter().map(|cells| cell(cells).value()).sum()
}

/// The counts of each bucket, the one above every bound included, and the sum of all values.
fn total_histogram<const N: usize>(
    workers: &[Cells],
    histogram: impl Fn(&Cells) -> &Histogram<N>,
) -> (Vec<u64>, u64) {
    Histogram::total(workers.iter().map(histogram))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Format, Metrics};
    use crate::plugin::testing::request;
    use crate::request::Outcome;
    use crate::wire::Name;

    #[test]
    fn workers_are_summed_up_under_the_labels_of_coredns() {
        let zone = Name::from_text("example.org").unwrap();
        let chain = Arc::new(Chain::new(zone, "dns://169.254.20.10:53".into(), Vec::new(), 3));
        for (cells, micros) in chain.cells.iter().zip([0, 300, 9_000_000]) {
            request("a.example.org", |request| {
                cells.record(request, &Outcome::new(Plugin::Forward, Rcode::NXDOMAIN), 120, micros);
            });
        }
        let enabled = Enabled {
            server: "dns://:53".into(),
            zone: ".".into(),
            view: "".into(),
            names: vec!["log".into(), "cache".into(), "log".into()],
        };
        let metrics = Metrics::new();
        metrics.replace(vec![chain, Arc::new(enabled)]);
        let text = metrics.text(Format::Prometheus);
        let labels = "server=\"dns://169.254.20.10:53\",zone=\"example.org.\",view=\"\"";
        for wanted in [
            format!(
                "coredns_dns_requests_total{{{labels},proto=\"udp\",family=\"1\",type=\"A\"}} 3"
            ),
            format!(
                "coredns_dns_responses_total{{{labels},rcode=\"NXDOMAIN\",plugin=\"forward\"}} 3"
            ),
            format!("coredns_dns_request_duration_seconds_bucket{{{labels},le=\"0.00025\"}} 1"),
            format!("coredns_dns_request_duration_seconds_bucket{{{labels},le=\"8.192\"}} 2"),
            format!("coredns_dns_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 3"),
            format!("coredns_dns_request_duration_seconds_sum{{{labels}}} 9.0003"),
            format!(
                "coredns_dns_response_size_bytes_bucket{{{labels},proto=\"udp\",le=\"200\"}} 3"
            ),
            format!("coredns_dns_do_requests_total{{{labels}}} 0"),
            "coredns_plugin_enabled{server=\"dns://:53\",zone=\".\",view=\"\",name=\"log\"} 1"
                .to_owned(),
        ] {
            assert!(text.contains(&format!("\n{wanted}\n")), "{wanted}\n{text}");
        }
    }
}
