//! Directives of CoreDNS that Nodens does not serve, with what to do instead, and the plugins from outside of CoreDNS that
//! public Corefiles use.

/// Why a directive of CoreDNS is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// Accepted without effect: a warning with this advice.
    Ignored(&'static str),
    /// An error with this advice.
    Missing(&'static str),
    /// An error with this advice: CoreDNS has removed it as well.
    Removed(&'static str),
    /// An error: a plugin from outside of CoreDNS.
    External,
}

use Unsupported::{External, Ignored, Missing, Removed};

/// Looks up a directive that is not served.
pub fn find(name: &str) -> Option<Unsupported> {
    let known = TABLE.iter().find(|(known, _)| *known == name).map(|(_, why)| *why);
    known.or_else(|| EXTERNAL.contains(&name).then_some(External))
}

/// The names of CoreDNS's own directives that are not served, in alphabetical order.
pub fn names() -> impl Iterator<Item = &'static str> + Clone {
    TABLE.iter().map(|(name, _)| *name)
}

const REMOVE: &str = "remove the line";
const FORWARD_ZONE: &str = "use `forward` to a server of that zone";
const NO_TRANSFERS: &str = "use a server made for zone transfers";

const TABLE: &[(&str, Unsupported)] = &[
    ("auto", Missing("use a `file` line for each zone")),
    ("azure", Missing(FORWARD_ZONE)),
    ("cancel", Ignored("remove the line: each query has a deadline")),
    ("clouddns", Missing(FORWARD_ZONE)),
    ("dnssec", Missing("use `forward` to a server that signs")),
    ("erratic", Missing(REMOVE)),
    ("etcd", Missing("use `forward` to a CoreDNS with etcd")),
    ("federation", Removed("remove the line: Kubernetes has no federation any more")),
    ("geoip", Missing(REMOVE)),
    ("grpc", Missing("use `forward` with dns:// or tls:// upstreams")),
    ("grpc_server", Missing(REMOVE)),
    (
        "https",
        Ignored(
            "remove the line: connections over HTTPS count among those over TCP, which are limited",
        ),
    ),
    ("https3", Missing(REMOVE)),
    ("k8s_external", Missing("use `forward` to a CoreDNS with k8s_external")),
    ("metadata", Ignored("remove the line: directives that use metadata always have it")),
    ("multisocket", Ignored("remove the line: each worker has a socket of its own")),
    ("nomad", Missing("use `forward` to a CoreDNS with nomad")),
    ("on", Missing(RUN_BEFORE)),
    ("pprof", Ignored("use perf, or the metrics of the process")),
    ("proxy", Removed("use `forward`")),
    ("proxyproto", Missing(REMOVE)),
    ("quic", Missing(REMOVE)),
    ("route53", Missing(FORWARD_ZONE)),
    ("secondary", Missing("use `forward` to a server of that zone, or `file` with a copy")),
    ("shed", Ignored("remove the line: what exceeds a client's share is shed without it")),
    ("sign", Missing("sign the zone before, and serve the signed file with `file`")),
    ("startup", Removed(RUN_BEFORE)),
    ("trace", Ignored("use `log` and the metrics")),
    ("transfer", Missing(NO_TRANSFERS)),
    ("tsig", Missing(NO_TRANSFERS)),
    ("upstream", Removed("remove the line: names outside are looked up through the whole chain")),
];

const RUN_BEFORE: &str =
    "remove the line, and run the command before the server in its unit or an init container";

const EXTERNAL: &[&str] = &[
    "alias",
    "alternate",
    "coredns-docker",
    "crossdns",
    "datahub",
    "dgadetect",
    "dnsdb",
    "dnsfilter",
    "dnsredir",
    "dnsseed",
    "doh",
    "drove",
    "fallback",
    "fanout",
    "git",
    "gslb",
    "info",
    "jwt_edns",
    "k8szoneaware",
    "kuadrant",
    "lighthouse",
    "lrucache",
    "nametoip",
    "pdsql",
    "ratelimit",
    "redis_cache",
    "refuseany",
    "rrl",
    "scitra",
    "sqlite",
    "traefik",
    "unbound",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::table;

    #[test]
    fn names_are_in_order_once_and_not_served() {
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(EXTERNAL.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(EXTERNAL.iter().all(|name| names().all(|known| known != *name)));
        assert!(names().chain(EXTERNAL.iter().copied()).all(|name| table::find(name).is_none()));
    }
}
