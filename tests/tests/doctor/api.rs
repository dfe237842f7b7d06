//! The API server: refused, silent, expired, of another authority, 401, 403, with another clock.

use std::time::Duration;

use tests::api::{Fault, Policy};
use tests::cluster::Cluster;
use tests::doctor::Findings;
use tests::ports;

/// What the doctor says of an API server, without a server of DNS.
fn examined(cluster: &Cluster) -> Findings {
    let corefile = format!(
        ".:{} {{\n    bind 127.0.0.1\n    kubernetes cluster.local {{\n        kubeconfig {}\n    }}\n}}\n",
        ports::one(),
        cluster.path("kubeconfig").display()
    );
    let path = cluster.path("Corefile");
    std::fs::write(&path, corefile).unwrap();
    let path = path.to_string_lossy().into_owned();
    Findings::of(&["api", "node", "--socket", "/nonexistent/nodens.sock", "-conf", &path])
}

#[test]
fn an_api_server_that_is_well() {
    let cluster = Cluster::default();
    let found = examined(&cluster);
    found.demand("api-answers", "ok", "is v1.36.0");
    found.demand("api-rights", "ok", "list and watch are allowed");
    found.demand("api-certificate", "skipped", "without a certificate");
    found.demand("clock", "ok", "to the second");
}

#[test]
fn one_that_refuses_and_one_that_is_silent() {
    let cluster = Cluster::default();
    cluster.server.refuse();
    let found = examined(&cluster);
    found.demand("api-answers", "problem", "Connection refused");
    found.demand("api-rights", "skipped", "does not answer");
    cluster.server.heal();
    cluster.server.inject(Fault::Stall);
    let found = examined(&cluster);
    found.demand("api-answers", "problem", "did not answer within");
    assert!(found.took < tests::doctor::BOUND, "{:?}", found.took);
    cluster.server.heal();
    cluster.server.inject(Fault::StallConnections);
    examined(&cluster).demand("api-answers", "problem", "");
}

#[test]
fn a_certificate_that_has_expired_and_one_of_another_authority() {
    let cluster = Cluster::default();
    cluster.server.expire_certificate();
    let found = examined(&cluster);
    found.demand("api-answers", "problem", "expired");
    let cure = found.check("api-answers")["cure"].as_str().unwrap();
    assert!(cure.contains("has expired, or this clock is wrong"), "{cure}");
    cluster.server.rotate_authority();
    let found = examined(&cluster);
    found.demand("api-answers", "problem", "invalid peer certificate");
    let cure = found.check("api-answers")["cure"].as_str().unwrap();
    assert!(cure.contains("another authority has signed"), "{cure}");
}

#[test]
fn credentials_that_are_refused() {
    let cluster = Cluster::default();
    cluster.server.rotate_token(true);
    examined(&cluster).demand("api-answers", "problem", "401");
    cluster.write_kubeconfig();
    let policy = Policy::default()
        .allow("", &["services", "namespaces"], &["list", "watch"])
        .allow("discovery.k8s.io", &["endpointslices"], &["list"]);
    cluster.server.configure(|behaviour| behaviour.policy = Some(policy));
    let found = examined(&cluster);
    found.demand("api-answers", "ok", "");
    found.demand(
        "api-rights",
        "problem",
        "watch of endpointslices of API group \"discovery.k8s.io\"",
    );
    assert!(!found.has("api-rights", "problem", "list of"), "{:#}", found.check("api-rights"));
}

#[test]
fn a_client_certificate_that_ends() {
    let cluster = Cluster::default();
    for (days, verdict, words) in
        [(3, "warning", "expires in"), (-2, "problem", "has expired"), (30, "ok", "is valid for")]
    {
        cluster.server.write_kubeconfig_for(&cluster.path("kubeconfig"), days);
        examined(&cluster).demand("api-certificate", verdict, words);
    }
}

#[test]
fn another_clock() {
    let cluster = Cluster::default();
    for (ahead, verdict, words) in [
        (-3_600, "problem", "s ahead of"),
        (3_600, "problem", "s behind"),
        (-20, "warning", "s ahead of"),
    ] {
        cluster.server.configure(|behaviour| behaviour.ahead = ahead);
        examined(&cluster).demand("clock", verdict, words);
    }
}

#[test]
fn a_kubeconfig_that_cannot_be_used() {
    let cluster = Cluster::default();
    std::fs::write(cluster.path("kubeconfig"), "no: kubeconfig\n").unwrap();
    let found = examined(&cluster);
    found.demand("api-answers", "problem", "cannot use kubeconfig");
    assert!(found.took < Duration::from_secs(6));
}
