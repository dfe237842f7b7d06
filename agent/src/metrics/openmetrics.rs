//! The OpenMetrics text format 1.0.0, written by `prometheus-client`: a [`Scrape`] is a collector of that crate, put alone
//! into a registry that lives for one answer. The numbers stay ours, since sources come and go with the configuration and
//! hand in the same series more than once, which a lasting registry does not put together.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::scrape::{Gathered, Kind, Scrape, Value};

/// Prints all that was gathered, in the order of the other format.
pub(super) fn write(scrape: Scrape) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(scrape));
    let mut out = String::new();
    // Nothing here fails on a `String`; were it to, the missing `# EOF` would tell the scraper that the answer is cut off.
    let _ = text::encode(&mut out, &registry);
    out
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.families().try_for_each(|gathered| family(gathered, &mut encoder))
    }
}

fn family(gathered: &Gathered, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let family = gathered.family;
    let (name, kind) = match family.kind {
        // The crate puts the suffix back on the samples.
        Kind::Counter => {
            (family.name.strip_suffix("_total").unwrap_or(family.name), MetricType::Counter)
        }
        Kind::Gauge => (family.name, MetricType::Gauge),
        Kind::Histogram => (family.name, MetricType::Histogram),
    };
    let mut metric = encoder.encode_descriptor(name, family.help.trim(), None, kind)?;
    for (values, value) in &gathered.series {
        let labels: Vec<(&str, &str)> =
            family.labels.iter().copied().zip(values.iter().map(AsRef::as_ref)).collect();
        // A set without labels would be printed as `{}`.
        if labels.is_empty() {
            sample(family.kind, value, &mut metric)?;
        } else {
            sample(family.kind, value, &mut metric.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn sample(kind: Kind, value: &Value, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
    match value {
        Value::Number(number) | Value::Greatest(number) | Value::Least(number) => match kind {
            Kind::Counter => encoder.encode_counter::<NoLabelSet, f64, f64>(number, None),
            _ => encoder.encode_gauge(number),
        },
        Value::Histogram { bounds, counts, sum } => {
            // The crate sums the buckets up itself, as it does with those of its own histograms.
            let buckets: Vec<(f64, u64)> =
                bounds.iter().copied().chain([f64::INFINITY]).zip(counts.iter().copied()).collect();
            let count = counts.iter().sum();
            encoder.encode_histogram::<NoLabelSet>(*sum, count, &buckets, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::names;

    #[test]
    fn a_page_of_every_kind() {
        let mut scrape = Scrape::default();
        scrape.count(&names::NODECACHE_SETUP_ERRORS, &["a\"b\\c\nd"], 3);
        scrape.count_f64(&names::PROCESS_CPU, &[], 0.25);
        scrape.gauge(&names::LOOP_UPSTREAM, &["192.0.2.1:53"], 1.0);
        scrape.gauge_greatest(&names::HOSTS_RELOAD_TIMESTAMP, &[], 1_700_000_000.5);
        let bounds = &[0.00025, 1.0, 64_000.0];
        let labels = &["dns://:53", ".", ""];
        scrape.histogram(&names::DNS_REQUEST_DURATION, labels, bounds, vec![2, 0, 3, 1], 70_000.5);
        let expected = r#"# HELP coredns_dns_request_duration_seconds Time from receiving a query to sending its response.
# TYPE coredns_dns_request_duration_seconds histogram
coredns_dns_request_duration_seconds_sum{server="dns://:53",zone=".",view=""} 70000.5
coredns_dns_request_duration_seconds_count{server="dns://:53",zone=".",view=""} 6
coredns_dns_request_duration_seconds_bucket{le="0.00025",server="dns://:53",zone=".",view=""} 2
coredns_dns_request_duration_seconds_bucket{le="1.0",server="dns://:53",zone=".",view=""} 2
coredns_dns_request_duration_seconds_bucket{le="64000.0",server="dns://:53",zone=".",view=""} 5
coredns_dns_request_duration_seconds_bucket{le="+Inf",server="dns://:53",zone=".",view=""} 6
# HELP coredns_hosts_reload_timestamp_seconds When a hosts file was read last, seconds since 1970.
# TYPE coredns_hosts_reload_timestamp_seconds gauge
coredns_hosts_reload_timestamp_seconds 1700000000.5
# HELP coredns_nodecache_setup_errors Failures to set the node's network up.
# TYPE coredns_nodecache_setup_errors counter
coredns_nodecache_setup_errors_total{errortype="a\"b\\c\nd"} 3.0
# HELP nodens_loop_upstream 1 while queries to an upstream come back to this server, else 0.
# TYPE nodens_loop_upstream gauge
nodens_loop_upstream{upstream="192.0.2.1:53"} 1.0
# HELP process_cpu_seconds User and system CPU time.
# TYPE process_cpu_seconds counter
process_cpu_seconds_total 0.25
# EOF
"#;
        assert_eq!(write(scrape), expected);
    }
}
