//! NodeLocal DNSCache's Corefile template: what stands for its placeholders.
//!
//! | placeholder | stands for |
//! | --- | --- |
//! | `__PILLAR__LOCAL__DNS__` | the addresses of `-localip`; the first of them where a port follows |
//! | `__PILLAR__DNS__SERVER__` | nothing: the ClusterIP is one of `-localip` where it is taken over |
//! | `__PILLAR__CLUSTER__DNS__` | the address of the Service `-upstreamsvc` |
//! | `__PILLAR__UPSTREAM__SERVERS__` | `upstreamNameservers`, or `/etc/resolv.conf` |
//! | `__PILLAR__DNS__DOMAIN__` | `--cluster-domain` |
//! | `__PROMETHEUS__ENDPOINT__` | `-prometheus-listen-address` |
//!
//! A rendered text has as many lines as its template, so that mistakes are reported with the template's lines.

use std::net::IpAddr;
use std::path::Path;

use crate::corefile::{Diagnostic, Diagnostics, Location};

/// What is known to fill in.
#[derive(Debug, Clone)]
pub struct Values {
    /// `-localip`.
    pub local: Vec<IpAddr>,
    /// The cluster's own DNS, or the name of the Service whose address is not known.
    pub cluster_dns: Result<IpAddr, UnknownService>,
    /// The upstreams of the kube-dns ConfigMap; none: those of `/etc/resolv.conf`.
    pub upstreams: Vec<String>,
    /// The cluster's domain.
    pub domain: String,
    /// Where metrics are served.
    pub prometheus: String,
}

/// A Service whose address is not in the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownService {
    name: String,
    variable: String,
}

/// Finds the address of a Service in the environment, where Kubernetes puts those of the pod's own namespace. An address
/// stands for itself.
pub fn service_address(
    service: &str,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<IpAddr, UnknownService> {
    if let Ok(address) = service.parse() {
        return Ok(address);
    }
    let variable = format!("{}_SERVICE_HOST", service.replace('-', "_").to_ascii_uppercase());
    let told = environment(&variable).and_then(|text| text.parse().ok());
    told.ok_or(UnknownService { name: service.to_owned(), variable })
}

/// Fills the template in. Placeholders that nothing stands for are errors, but for those in comments.
pub fn render(path: &Path, template: &str, values: &Values, errors: &mut Diagnostics) -> String {
    let mut text = String::with_capacity(template.len() + 256);
    let mut in_upstreams = false;
    for (number, line) in (1..).zip(template.split_inclusive('\n')) {
        let code = line.split('#').next().unwrap_or_default().trim();
        if in_upstreams && code == "force_tcp" {
            // Upstreams that were chosen by an operator are asked over UDP, as NodeLocal DNSCache does.
            text.push('\n');
            continue;
        }
        if code.contains('}') {
            in_upstreams = false;
        } else if code.contains(UPSTREAMS) && code.ends_with('{') {
            in_upstreams = !values.upstreams.is_empty();
        }
        let line = render_line(line, values, |what, expected| {
            if !code.is_empty() {
                let at = Location::new(path, number);
                errors.push(Diagnostic::error(at, what).expected(expected));
            }
        });
        text.push_str(&line);
    }
    text
}

fn render_line(line: &str, values: &Values, mut fail: impl FnMut(String, &str)) -> String {
    let mut line = line.replace(DOMAIN, &values.domain).replace(PROMETHEUS, &values.prometheus);
    if line.contains(UPSTREAMS) {
        let upstreams = match values.upstreams.as_slice() {
            [] => "/etc/resolv.conf".to_owned(),
            chosen => chosen.join(" "),
        };
        line = line.replace(UPSTREAMS, &upstreams);
    }
    if line.contains(LOCAL) {
        match values.local.first() {
            Some(first) => {
                let with_port = match first {
                    IpAddr::V4(ip) => format!("{ip}:"),
                    IpAddr::V6(ip) => format!("[{ip}]:"),
                };
                let all: Vec<_> = values.local.iter().map(IpAddr::to_string).collect();
                line = line.replace(&format!("{LOCAL}:"), &with_port);
                line = line.replace(LOCAL, &all.join(" "));
            }
            None => fail(format!("there is no address for {LOCAL}"), "-localip ADDRESS,..."),
        }
    }
    if line.contains(CLUSTER_DNS) {
        match &values.cluster_dns {
            Ok(address) => line = line.replace(CLUSTER_DNS, &address.to_string()),
            Err(UnknownService { name, variable }) => fail(
                format!(
                    "there is no address for {CLUSTER_DNS}: the environment variable {variable} is not set"
                ),
                &format!(
                    "the Service {name} in this pod's namespace before the pod starts (and enableServiceLinks \
                     not false), or -upstreamsvc with the Service's address"
                ),
            ),
        }
    }
    line.replace(DNS_SERVER, "")
}

const LOCAL: &str = "__PILLAR__LOCAL__DNS__";
const DNS_SERVER: &str = "__PILLAR__DNS__SERVER__";
const CLUSTER_DNS: &str = "__PILLAR__CLUSTER__DNS__";
const UPSTREAMS: &str = "__PILLAR__UPSTREAM__SERVERS__";
const DOMAIN: &str = "__PILLAR__DNS__DOMAIN__";
const PROMETHEUS: &str = "__PROMETHEUS__ENDPOINT__";

#[cfg(test)]
mod tests {
    use super::*;

    fn values(local: &str, upstreams: &[&str]) -> Values {
        Values {
            local: local.split_whitespace().map(|ip| ip.parse().unwrap()).collect(),
            cluster_dns: service_address("kube-dns-upstream", |name| {
                (name == "KUBE_DNS_UPSTREAM_SERVICE_HOST").then(|| "10.96.0.99".to_owned())
            }),
            upstreams: upstreams.iter().map(ToString::to_string).collect(),
            domain: "cluster.local".into(),
            prometheus: ":9253".into(),
        }
    }

    fn rendered(template: &str, values: &Values) -> (String, String) {
        let mut errors = Diagnostics::default();
        let text = render(Path::new("Corefile.base"), template, values, &mut errors);
        assert_eq!(text.lines().count(), template.lines().count());
        (text, errors.to_string())
    }

    #[test]
    fn placeholders_are_filled_in() {
        let template = "__PILLAR__DNS__DOMAIN__:53 {\n    bind __PILLAR__LOCAL__DNS__ __PILLAR__DNS__SERVER__\n    \
                        forward . __PILLAR__CLUSTER__DNS__ {\n        force_tcp\n    }\n    \
                        prometheus __PROMETHEUS__ENDPOINT__\n    health __PILLAR__LOCAL__DNS__:8080\n}\n\
                        .:53 {\n    forward . __PILLAR__UPSTREAM__SERVERS__\n}";
        let (text, errors) = rendered(template, &values("169.254.20.10 10.96.0.10", &[]));
        assert_eq!(
            text,
            "cluster.local:53 {\n    bind 169.254.20.10 10.96.0.10 \n    forward . 10.96.0.99 {\n        force_tcp\n    \
             }\n    prometheus :9253\n    health 169.254.20.10:8080\n}\n.:53 {\n    forward . /etc/resolv.conf\n}"
        );
        assert_eq!(errors, "");
        let (text, _) = rendered("health __PILLAR__LOCAL__DNS__:8080", &values("fd00::10", &[]));
        assert_eq!(text, "health [fd00::10]:8080");
    }

    #[test]
    fn chosen_upstreams_are_not_forced_to_tcp() {
        let template = "forward . __PILLAR__UPSTREAM__SERVERS__ {\n  force_tcp # by habit\n  max_fails 1\n}\n\
                        forward . __PILLAR__CLUSTER__DNS__ {\n  force_tcp\n}\n";
        let (text, _) = rendered(template, &values("", &["192.0.2.1", "192.0.2.2"]));
        assert_eq!(
            text,
            "forward . 192.0.2.1 192.0.2.2 {\n\n  max_fails 1\n}\nforward . 10.96.0.99 {\n  force_tcp\n}\n"
        );
        let (text, _) = rendered(template, &values("", &[]));
        assert!(text.starts_with("forward . /etc/resolv.conf {\n  force_tcp #"), "{text}");
    }

    #[test]
    fn what_is_not_known_is_told_with_its_line() {
        let mut values = values("", &[]);
        values.cluster_dns = service_address("kube-dns-upstream", |_| None);
        let template = "# __PILLAR__CLUSTER__DNS__\n\nforward . __PILLAR__CLUSTER__DNS__\nbind __PILLAR__LOCAL__DNS__\n";
        let (_, errors) = rendered(template, &values);
        assert!(!errors.contains("Corefile.base:1"), "{errors}");
        assert!(
            errors.contains("Corefile.base:3") && errors.contains("KUBE_DNS_UPSTREAM_SERVICE_HOST"),
            "{errors}"
        );
        assert!(errors.contains("Corefile.base:4") && errors.contains("-localip"), "{errors}");
        assert_eq!(service_address("10.0.0.1", |_| None).unwrap().to_string(), "10.0.0.1");
    }
}
