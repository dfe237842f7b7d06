//! Every directive of CoreDNS, and where Nodens stands on it.

use self::Repeats::{Freely, Once};
use self::Support::{Removed, Replaced, Served};
use crate::corefile::{Diagnostic, Diagnostics, Directive};

/// One directive of CoreDNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name.
    pub name: &'static str,
    /// What Nodens makes of it.
    pub support: Support,
    /// Whether a server block may have it more than once.
    pub repeats: Repeats,
}

/// What Nodens makes of a directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// There is a plugin for it, or will be.
    Served,
    /// Accepted without effect; a warning says what takes its place.
    Replaced(&'static str),
    /// An error that says what to do instead.
    Lacking(&'static str),
    /// An error that names the successor, since CoreDNS has removed it as well.
    Removed(&'static str),
}

/// How often a directive may stand in one server block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    /// Once.
    Once,
    /// Any number of times.
    Freely,
}

/// Looks a directive of CoreDNS up.
pub fn find(name: &str) -> Option<&'static Known> {
    TABLE.iter().find(|known| known.name == name)
}

/// All directives of CoreDNS, in alphabetical order.
pub fn all() -> &'static [Known] {
    TABLE
}

/// The candidate that was probably meant by a misspelt `name`.
pub fn nearest_of<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A long word would cost time, and is no slip of the finger.
    if name.len() > 40 {
        return None;
    }
    let allowed = (name.chars().count() / 3).clamp(1, 3);
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Reports the directives of one server block that do not work, or stand there twice, and gives back those that do.
pub(super) fn check(
    directives: &[Directive],
    is_served: &dyn Fn(&str) -> bool,
    diagnostics: &mut Diagnostics,
) -> Vec<Directive> {
    let mut served = Vec::new();
    let mut single: Vec<&Directive> = Vec::new();
    for directive in directives {
        let name = directive.name.as_str();
        if !is_served(name) {
            diagnostics.push(problem(directive, is_served));
            continue;
        }
        if find(name).is_some_and(|known| known.repeats == Once) {
            if let Some(first) = single.iter().find(|first| first.name.as_str() == name) {
                diagnostics.push(
                    Diagnostic::error(
                        directive.at().clone(),
                        "it stands twice in this server block",
                    )
                    .wanted(format!("only the one at {}", first.at()))
                    .directive(name),
                );
                continue;
            }
            single.push(directive);
        }
        served.push(directive.clone());
    }
    served
}

/// Why a directive is not served.
fn problem(directive: &Directive, is_served: &dyn Fn(&str) -> bool) -> Diagnostic {
    let (name, at) = (directive.name.as_str(), directive.at().clone());
    let error = |what: &str, wanted: &str| {
        Diagnostic::error(at.clone(), what).wanted(wanted).directive(name)
    };
    match find(name).map(|known| known.support) {
        Some(Support::Served) => {
            error("nodens does not have this directive of CoreDNS yet", "no such line")
        }
        Some(Support::Replaced(by)) => {
            Diagnostic::warning(at.clone(), "it has no effect in nodens").wanted(by).directive(name)
        }
        Some(Support::Lacking(instead)) => error("nodens lacks this directive of CoreDNS", instead),
        Some(Support::Removed(successor)) => {
            error("it was removed from CoreDNS long ago", successor)
        }
        None => unknown(directive, is_served),
    }
}

fn unknown(directive: &Directive, is_served: &dyn Fn(&str) -> bool) -> Diagnostic {
    let (name, at) = (directive.name.as_str(), directive.at().clone());
    let error = |what: String, wanted: &str| Diagnostic::error(at.clone(), what).wanted(wanted);
    if name.is_empty() {
        return error("a directive's name is empty".into(), "a directive");
    }
    if EXTERNAL.contains(&name) {
        let what = format!("{name:?} is a plugin from outside of CoreDNS, which nodens lacks");
        return error(what, "a directive of CoreDNS");
    }
    // A missing brace makes the next server block look like a directive.
    if directive.block.is_some() && name.contains(['.', ':']) {
        let what = format!("the server block {name:?} stands inside of another one");
        return error(what, "a } above it, which ends the block before");
    }
    if matches!(name, "{" | "}" | "{}") {
        return error(
            format!("{name:?} is not a directive"),
            "a brace between spaces and without quotes",
        );
    }
    let what = format!("there is no directive {name:?}");
    let known = TABLE.iter().map(|known| known.name);
    let nearest = nearest_of(name, known.clone().filter(|name| is_served(name)))
        .or_else(|| nearest_of(name, known));
    error(what, nearest.unwrap_or("a directive of CoreDNS"))
}

const fn known(name: &'static str, support: Support, repeats: Repeats) -> Known {
    Known { name, support, repeats }
}

const fn lacking(name: &'static str, instead: &'static str) -> Known {
    known(name, Support::Lacking(instead), Repeats::Freely)
}

/// What may stand once is what CoreDNS refuses to see twice.
const TABLE: &[Known] = &[
    known("acl", Served, Freely),
    known("any", Served, Freely),
    lacking("auto", "a `file` line for each zone"),
    lacking("autopath", "no such line: a search through cluster names stays on the node"),
    lacking("azure", "`forward` to a server of that zone"),
    known("bind", Served, Freely),
    known("bufsize", Served, Freely),
    known("cache", Served, Once),
    lacking("cancel", "no such line: each query has a deadline"),
    known("chaos", Served, Freely),
    lacking("clouddns", "`forward` to a server of that zone"),
    known("debug", Served, Freely),
    known("dns64", Served, Freely),
    lacking("dnssec", "`forward` to a server that signs"),
    lacking("dnstap", "`log`"),
    lacking("erratic", "no such line"),
    known("errors", Served, Once),
    lacking("etcd", "`forward` to a CoreDNS with etcd"),
    known("federation", Removed("no such line: Kubernetes has no federation any more"), Freely),
    known("file", Served, Freely),
    // Our own.
    known("filter_aaaa", Served, Freely),
    known("forward", Served, Freely),
    lacking("geoip", "no such line"),
    lacking("grpc", "`forward` with dns:// or tls:// upstreams"),
    lacking("grpc_server", "no such line"),
    known("header", Served, Freely),
    known("health", Served, Freely),
    known("hosts", Served, Once),
    lacking("https", "no such line"),
    lacking("https3", "no such line"),
    lacking("k8s_external", "`forward` to a CoreDNS with k8s_external"),
    known("kubernetes", Served, Once),
    known("loadbalance", Served, Freely),
    known("local", Served, Freely),
    known("log", Served, Freely),
    known("loop", Served, Once),
    known(
        "metadata",
        Replaced("no such line: what other directives need of it is always there"),
        Once,
    ),
    known("minimal", Served, Freely),
    lacking("multisocket", "no such line: each worker has a socket of its own"),
    lacking("nomad", "`forward` to a CoreDNS with nomad"),
    known("nsid", Served, Once),
    lacking("on", "no such line"),
    known("pprof", Replaced("perf, or the metrics of the process"), Freely),
    known("prometheus", Served, Once),
    known("proxy", Removed("`forward`"), Freely),
    lacking("proxyproto", "no such line"),
    lacking("quic", "no such line"),
    known("ready", Served, Once),
    known("reload", Served, Freely),
    known("rewrite", Served, Freely),
    known("root", Served, Freely),
    lacking("route53", "`forward` to a server of that zone"),
    lacking("secondary", "`forward` to a server of that zone, or `file` with a copy"),
    lacking("shed", "no such line"),
    lacking("sign", "`file` with a zone that is signed already"),
    known("startup", Removed("a unit or a container that runs the command first"), Freely),
    known("template", Served, Freely),
    known("timeouts", Served, Freely),
    lacking("tls", "no such line: serving over TLS is not supported yet"),
    known("trace", Replaced("`log`, and the metrics"), Freely),
    lacking("transfer", "a server that is made for zone transfers"),
    lacking("tsig", "a server that is made for zone transfers"),
    known(
        "upstream",
        Removed("no such line: names outside are looked up through the whole chain"),
        Freely,
    ),
    lacking("view", "a server block for each address, with `bind`"),
    known("whoami", Served, Freely),
];

/// Plugins from outside of CoreDNS that public Corefiles use.
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

    #[test]
    fn names_are_in_order_and_once() {
        assert!(TABLE.windows(2).all(|pair| pair[0].name < pair[1].name));
        assert!(EXTERNAL.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(EXTERNAL.iter().all(|name| find(name).is_none()));
    }

    #[test]
    fn slips_of_the_finger_are_understood() {
        let known = || TABLE.iter().map(|known| known.name);
        for (name, wanted) in [
            ("forwrad", Some("forward")),
            ("chache", Some("cache")),
            ("kuberentes", Some("kubernetes")),
            ("host", Some("hosts")),
            ("error", Some("errors")),
            ("whatever", None),
            ("", None),
        ] {
            assert_eq!(nearest_of(name, known()), wanted, "{name}");
        }
        assert_eq!(nearest_of(&"f".repeat(1_000_000), known()), None);
    }
}
