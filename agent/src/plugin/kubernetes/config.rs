//! What a `kubernetes` line and its block mean.

use std::net::SocketAddr;
use std::time::Duration;

use super::ask::is_reverse;
use super::{Exposed, Pods, View, unwatched};
use crate::cluster::index::Settings;
use crate::cluster::{self, Endpoints, SnapshotSpec, Source, Spec, Tls};
use crate::config::value::{ValueError, namespace};
use crate::config::{Args, zone_names};
use crate::corefile::{Diagnostics, Directive};
use crate::plugin::forward::{self, config::To};
use crate::plugin::scope::Fallthrough;
use crate::upstream::Target;
use crate::wire::Name;

/// The time to live where none is written, seconds; CoreDNS's.
pub const DEFAULT_TTL: u32 = 5;
/// The longest time to live; CoreDNS's.
pub const MAX_TTL: u32 = 3_600;
/// How long a start waits for the first complete lists, where nothing is written; CoreDNS's.
pub const DEFAULT_STARTUP_TIMEOUT: Duration = Duration::from_secs(5);
/// More would be a server that does not start.
const MAX_STARTUP_TIMEOUT: Duration = Duration::from_secs(600);
/// `max_staleness` from one second, since watches speak up that seldom, to a year.
const STALENESS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(365 * 86_400);
/// The highest `apiserver_qps`.
const MAX_QPS: f64 = 1e6;
/// As many upstreams as `forward` takes.
const MAX_FALLBACKS: usize = 15;

const OPTIONS: &[&str] = &[
    "endpoint",
    "tls",
    "kubeconfig",
    "objects",
    "namespaces",
    "namespace_labels",
    "labels",
    "pods",
    "endpoint_pod_names",
    "endpoints",
    "noendpoints",
    "ttl",
    "fallthrough",
    "ignore",
    "multicluster",
    "startup_timeout",
    "fallback",
    "snapshot",
    "max_staleness",
    "zonal",
    "topology",
    "apiserver_qps",
    "apiserver_burst",
    "apiserver_max_inflight",
];

/// A `kubernetes` directive.
#[derive(Clone, Debug)]
pub struct Config {
    /// What is watched, and where: directives with equal ones share a store.
    pub spec: Spec,
    /// What is served. `own` and `rotate` are the server block's to fill in.
    pub view: View,
    /// How long a start waits for the first complete lists.
    pub startup_timeout: Duration,
    /// Who is asked until the lists have been complete once; empty for nobody.
    pub fallback: Vec<SocketAddr>,
    /// How long nothing may be heard of the API server before `/ready` says so.
    pub max_staleness: Option<Duration>,
}

/// Where objects come from, as it is written: in several options, of which only some go together.
#[derive(Default)]
struct Written {
    endpoint: Option<String>,
    tls: Option<Tls>,
    kubeconfig: Option<Source>,
    objects: Option<Source>,
}

impl Config {
    /// Reads the directive; `zones` are the server block's, for a line that names none.
    pub fn parse(directive: &Directive, zones: &[Name], diagnostics: &mut Diagnostics) -> Self {
        let mut config = Self {
            spec: Spec::new(Source::InCluster),
            view: View { ttl: DEFAULT_TTL, endpoints: true, ..View::default() },
            startup_timeout: DEFAULT_STARTUP_TIMEOUT,
            fallback: Vec::new(),
            max_staleness: None,
        };
        let mut args = Args::of(directive, diagnostics);
        let named = args.zones_or(zones);
        let (reverse, forward) = named.into_iter().partition(|zone| is_reverse(zone.as_ref()));
        (config.view.reverse_zones, config.view.zones) = (reverse, forward);
        if config.view.zones.is_empty() {
            args.error(
                "there is no zone of Services",
                "one beside the reverse zones, as cluster.local",
            );
        }
        args.end();
        let mut written = Written::default();
        for option in directive.options() {
            let mut args = Args::of_option(directive, option, diagnostics);
            config.read(option.name.as_str(), &mut args, &mut written);
            args.end();
        }
        let mut args = Args::of(directive, diagnostics);
        config.spec.source = written.source(&mut args);
        config.check(&mut args);
        config.check_nearby(&mut args);
        let asked = !config.fallback.is_empty();
        unwatched::report(&config.spec.wanted, &config.view, asked, &mut args);
        config.view.headless_only = config.spec.wanted.endpoints == Endpoints::Headless;
        config
    }

    /// What an index for this directive is to keep.
    pub fn settings(&self) -> Settings {
        let wanted = &self.spec.wanted;
        Settings {
            endpoint_pods: wanted.endpoint_pods,
            known_namespaces: wanted.namespace_labels.is_some(),
            places: wanted.keeps_places(),
            node: wanted.topology.clone(),
        }
    }

    /// Every zone that is served, those of addresses too.
    pub fn zones(&self) -> impl Iterator<Item = &Name> {
        self.view.zones.iter().chain(&self.view.reverse_zones)
    }

    /// The `forward` that `fallback` means, if it is written.
    pub fn fallback_forward(&self) -> Option<forward::Config> {
        if self.fallback.is_empty() {
            return None;
        }
        let to = self.fallback.iter().map(|&address| To::Target(Target::plain(address)));
        Some(forward::Config {
            from: self.zones().cloned().collect(),
            to: to.collect(),
            ..forward::Config::default()
        })
    }

    fn read(&mut self, option: &str, args: &mut Args<'_, '_>, written: &mut Written) {
        let wanted = &mut self.spec.wanted;
        match option {
            "endpoint" => written.endpoint = args.value("the API server's URL", url),
            "tls" => {
                let mut file = |what| args.required(what).map(|word| word.as_str().into());
                let (cert, key) = (file("a certificate file"), file("a key file"));
                written.tls = Some(Tls { cert, key, ca: file("the authority's file") });
            }
            "kubeconfig" => {
                if let Some(file) = args.required("a kubeconfig file") {
                    let context = args.next().map(|word| word.as_str().to_owned());
                    written.kubeconfig =
                        Some(Source::Kubeconfig { file: file.as_str().into(), context });
                }
            }
            "objects" => {
                let dir = args.required("a folder of YAML or JSON objects");
                written.objects = dir.map(|dir| Source::Folder(dir.as_str().into()));
            }
            "namespaces" => {
                if args.is_empty() {
                    args.error("no namespace is named", "one namespace or more");
                }
                for word in args.rest() {
                    if let Some(name) = args.read(word, namespace) {
                        wanted.namespaces.push(name);
                    }
                }
                wanted.namespaces.sort_unstable();
                wanted.namespaces.dedup();
                self.view.exposed = Exposed::Listed(wanted.namespaces.clone());
            }
            "namespace_labels" => wanted.namespace_labels = selector(args),
            "labels" => wanted.labels = selector(args),
            "pods" => self.pods(args),
            "endpoint_pod_names" => {
                wanted.endpoint_pods = true;
            }
            "endpoints" => {
                wanted.endpoints =
                    args.value("all, headless or none", endpoints).unwrap_or_default();
            }
            "noendpoints" => wanted.endpoints = Endpoints::None,
            "ttl" => {
                self.view.ttl = args.integer("seconds", 0..=MAX_TTL).unwrap_or(DEFAULT_TTL);
            }
            "fallthrough" => {
                self.view.fallthrough = Fallthrough::parse(args);
            }
            "ignore" => {
                let what = args.value("empty_service", empty_service);
                self.view.ignore_empty = what.is_some();
            }
            "multicluster" => self.multicluster(args),
            "startup_timeout" => {
                let range = Duration::ZERO..=MAX_STARTUP_TIMEOUT;
                self.startup_timeout =
                    args.duration_in("a duration", range).unwrap_or(DEFAULT_STARTUP_TIMEOUT);
            }
            "fallback" => {
                while !args.is_empty() {
                    self.fallback.extend(args.socket_address(53));
                }
                if self.fallback.is_empty() || self.fallback.len() > MAX_FALLBACKS {
                    args.error(
                        format!("there are {} addresses", self.fallback.len()),
                        format!("1 to {MAX_FALLBACKS} of the cluster's DNS"),
                    );
                }
            }
            "snapshot" => {
                let dir = args.required("a folder");
                self.spec.snapshot = dir.map(|dir| SnapshotSpec::new(dir.as_str().into()));
            }
            "zonal" => self.view.zonal = true,
            "topology" => self.topology(args),
            "max_staleness" => self.max_staleness = args.duration_in("a duration", STALENESS),
            "apiserver_qps" | "apiserver_burst" | "apiserver_max_inflight" => {
                self.limit(option, args);
            }
            "upstream" | "resyncperiod" => {
                args.rest();
                args.refuse("removed from CoreDNS long ago", "remove the line");
            }
            _ => args.unknown_option(OPTIONS),
        }
    }

    /// Reads a limit of requests to the API server. As in CoreDNS, 0 stands for the default.
    fn limit(&mut self, option: &str, args: &mut Args<'_, '_>) {
        let limits = &mut self.spec.limits;
        match option {
            "apiserver_qps" => {
                let rate = args.value("requests a second", |text| {
                    let rate = text.parse().ok().filter(|rate| (0.0..=MAX_QPS).contains(rate));
                    rate.ok_or_else(|| {
                        ValueError::new(format!("`{text}` is no rate"), "0 to 1000000")
                    })
                });
                // At least one in a thousand seconds.
                let millis =
                    rate.filter(|&rate| rate > 0.0).map(|rate| (rate * 1e3).max(1.0) as u32);
                limits.millis_qps = millis.unwrap_or(limits.millis_qps);
            }
            "apiserver_burst" => {
                let burst = args.integer("a number of requests", 0..=1_000_000);
                limits.burst = burst.filter(|&burst| burst > 0).unwrap_or(limits.burst);
            }
            _ => limits.inflight = args.integer("a number of requests", 0..=1_000_000).unwrap_or(0),
        }
    }

    fn multicluster(&mut self, args: &mut Args<'_, '_>) {
        if args.is_empty() {
            args.error("no zone is named", "zones of ServiceImports, as clusterset.local");
        }
        for word in args.rest() {
            for zone in args.read(word, zone_names).unwrap_or_default() {
                if self.view.zones.contains(&zone) {
                    self.view.multicluster.push(zone);
                } else {
                    let what = format!("the directive does not serve {zone}");
                    args.error_at(&word.at, what, "a zone that stands in its first line");
                }
            }
        }
        self.spec.wanted.imports = !self.view.multicluster.is_empty();
    }

    /// What follows from the options together.
    fn check(&mut self, args: &mut Args<'_, '_>) {
        let wanted = &mut self.spec.wanted;
        self.view.endpoints = wanted.endpoints != Endpoints::None;
        if self.view.pods == Pods::Verified {
            wanted.pods = cluster::Pods::All;
        }
        if wanted.namespace_labels.is_some() {
            if !wanted.namespaces.is_empty() {
                args.error("namespaces and namespace_labels exclude each other", "one of them");
            }
            self.view.exposed = Exposed::Known;
        }
        let folder = matches!(self.spec.source, Source::Folder(_));
        if folder && (wanted.labels.is_some() || wanted.namespace_labels.is_some()) {
            args.error(
                "labels and namespace_labels are evaluated by the API server, and objects has none",
                "a folder of those objects that are to be served",
            );
        }
        if folder && self.spec.snapshot.is_some() {
            args.error("objects are on the disk already", "no snapshot");
        }
    }
}

impl Written {
    fn source(self, args: &mut Args<'_, '_>) -> Source {
        let sources = [self.endpoint.is_some(), self.kubeconfig.is_some(), self.objects.is_some()];
        if sources.iter().filter(|&&written| written).count() > 1 {
            args.error(
                "the objects come from several places",
                "one of endpoint, kubeconfig, objects",
            );
        }
        if self.tls.is_some() && self.endpoint.is_none() {
            args.error(
                "tls has no endpoint that it is for",
                "tls beside endpoint; a kubeconfig has its own",
            );
        }
        match (self.endpoint, self.kubeconfig, self.objects) {
            (Some(url), ..) => Source::Endpoint { url, tls: self.tls },
            (_, Some(source), _) | (_, _, Some(source)) => source,
            _ => Source::InCluster,
        }
    }
}

fn url(text: &str) -> Result<String, ValueError> {
    let wrong = || {
        ValueError::new(format!("{text:?} is not a URL"), "http://HOST:PORT or https://HOST:PORT")
    };
    let uri: http::Uri = text.parse().map_err(|_| wrong())?;
    match uri.scheme_str() {
        Some("http" | "https") if uri.host().is_some_and(|host| !host.is_empty()) => {
            Ok(text.to_owned())
        }
        _ => Err(wrong()),
    }
}

fn endpoints(text: &str) -> Result<Endpoints, ValueError> {
    match text {
        "all" => Ok(Endpoints::All),
        "headless" => Ok(Endpoints::Headless),
        "none" => Ok(Endpoints::None),
        _ => Err(ValueError::new(format!("{text:?} is not known here"), "all, headless or none")),
    }
}

fn empty_service(text: &str) -> Result<(), ValueError> {
    match text {
        "empty_service" => Ok(()),
        _ => Err(ValueError::new(format!("{text:?} cannot be ignored"), "empty_service")),
    }
}

/// A label selector, which may stand in several words. The API server is who understands it.
fn selector(args: &mut Args<'_, '_>) -> Option<String> {
    if args.is_empty() {
        args.error(
            "there is no selector",
            "a label selector, as environment in (production, staging)",
        );
    }
    let words: Vec<&str> = args.rest().iter().map(|word| word.as_str()).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::super::Topology;
    use super::*;
    use crate::cluster::object::Text;
    use crate::plugin::testing::read;

    fn config(text: &str) -> (Config, String) {
        let root = [Name::root()];
        read(text, |directive, diagnostics| Config::parse(directive, &root, diagnostics))
    }

    #[test]
    fn the_usual_block_is_read() {
        let text = "kubernetes cluster.local in-addr.arpa ip6.arpa 10.96.0.0/12 {
            pods insecure
            fallthrough in-addr.arpa ip6.arpa
            ttl 30
        }";
        let (config, errors) = config(text);
        assert_eq!(errors, "");
        assert_eq!(config.spec, Spec::new(Source::InCluster));
        assert_eq!((config.view.ttl, config.view.pods), (30, Pods::Insecure));
        assert_eq!(config.view.zones, [Name::from_text("cluster.local").unwrap()]);
        assert!(config.view.reverse_zones.len() > 2 && config.view.endpoints);
        assert!(
            matches!(&config.view.fallthrough, Fallthrough::Within(zones) if zones.iter().count() == 2)
        );
    }

    #[test]
    fn every_option_is_read() {
        let text = "kubernetes cluster.local clusterset.local {
            endpoint https://10.0.0.1:6443
            tls cert.pem key.pem ca.pem
            namespaces b A a
            labels app in (a, b)
            pods verified
            pods node Worker-1.example
            endpoint_pod_names
            endpoints all
            ignore empty_service
            multicluster clusterset.local
            fallthrough
            startup_timeout 2s
            fallback 10.96.0.10 10.96.0.11:54
            snapshot /var/lib/nodens
            max_staleness 10m
            zonal
            topology require all
            apiserver_qps 5
            apiserver_burst 10
            apiserver_max_inflight 3
        }";
        let (config, errors) = config(text);
        assert_eq!(errors, "");
        let limits = cluster::Limits { millis_qps: 5_000, burst: 10, inflight: 3 };
        assert_eq!(config.spec.limits, limits);
        let wanted = &config.spec.wanted;
        assert_eq!(wanted.namespaces, [Text::from("a"), Text::from("b")]);
        assert_eq!(wanted.labels.as_deref(), Some("app in (a, b)"));
        assert_eq!(wanted.node.as_deref(), Some("worker-1.example"));
        assert!(wanted.endpoint_pods && wanted.imports && wanted.pods == cluster::Pods::All);
        assert_eq!(wanted.topology, wanted.node);
        assert!(wanted.zones && config.view.zonal);
        assert_eq!(config.view.topology, Some(Topology { only: true, all: true }));
        assert_eq!(config.view.fallthrough, Fallthrough::All);
        assert_eq!(config.fallback.len(), 2);
        assert!(matches!(&config.spec.source, Source::Endpoint { tls: Some(_), .. }));
    }

    #[test]
    fn every_mistake_is_named() {
        let text = "kubernetes in-addr.arpa {
            endpoint 10.0.0.1
            kubeconfig a
            objects b
            tls a b c
            namespaces a_b
            pods verifed
            ttl 3601
            ignore empty
            multicluster other.local
            fallback
            noendpoint
            snapshot
        }";
        let (_, errors) = config(text);
        for wanted in [
            "Corefile:2: kubernetes: there is no zone of Services",
            "Corefile:3: kubernetes: endpoint: \"10.0.0.1\" is not a URL",
            "several places",
            "tls has no endpoint",
            "Corefile:7: kubernetes: namespaces: \"a_b\" is not a namespace",
            "Corefile:8: kubernetes: pods: \"verifed\"",
            "Corefile:9: kubernetes: ttl:",
            "Corefile:10: kubernetes: ignore:",
            "Corefile:11: kubernetes: multicluster: the directive does not serve other.local.",
            "Corefile:12: kubernetes: fallback: there are 0 addresses",
            "Corefile:13: kubernetes: there is no option \"noendpoint\", expected noendpoints",
            "Corefile:14: kubernetes: snapshot: an argument is missing",
            "objects",
        ] {
            assert!(errors.contains(wanted), "{wanted:?} in\n{errors}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (options, wanted) in [
            ("namespaces a\n namespace_labels b=c", "exclude each other"),
            ("endpoints headless\n ignore empty_service", "expected endpoints all"),
            ("objects x\n labels a=b", "has none"),
            ("objects x\n snapshot y", "on the disk already"),
            ("noendpoints\n zonal", "expected endpoints headless, or all"),
            ("noendpoints\n topology prefer", "expected endpoints headless, or all"),
            ("topology nearest", "expected prefer or require"),
            ("topology prefer some", "expected all, or nothing"),
        ] {
            let (_, errors) = config(&format!("kubernetes cluster.local {{\n {options}\n}}"));
            assert!(errors.contains(wanted), "{errors}");
        }
    }
}
