//! Look-ups by an independent client: of a server that is away, behind, or for another domain, and against its upstreams.

use hickory_proto::op::ResponseCode;
use tests::api::{Fault, Scope};
use tests::cluster::Cluster;
use tests::doctor::Findings;
use tests::poll::wait_for;
use tests::process::{Ready, Setup};
use tests::upstream::Act;

use super::{ROOT, SOON, resolver};

#[test]
fn a_server_that_does_not_answer() {
    let upstream = resolver();
    let corefile = ".:@dns@ {\n    bind 127.0.0.1\n    forward . @upstream@\n}\n";
    let nodens = Setup::new(corefile).word("upstream", upstream.address()).start();
    Findings::of_server(&nodens, &["lookups"]).demand("lookup-tcp", "ok", "over TCP: . NS: ");
    nodens.signal(nix::sys::signal::Signal::SIGSTOP);
    let found = Findings::of_server(&nodens, &["lookups"]);
    nodens.signal(nix::sys::signal::Signal::SIGCONT);
    found.demand("lookup-udp", "problem", "over UDP: ");
    found.demand("lookup-tcp", "problem", "over TCP: ");
    found.demand("lookup-upstreams", "problem", "asked directly 1 of 1 upstreams answer");
    assert!(found.took < tests::doctor::BOUND, "{:?}", found.took);
}

/// The zone in the Corefile is not the cluster's.
#[test]
fn a_cluster_without_the_service() {
    let cluster = Cluster::default();
    cluster.server.delete("services", "default", "kubernetes");
    let nodens = cluster.start("");
    let found = Findings::of_server(&nodens, &["lookups"]);
    found.demand("lookup-udp", "problem", "kubernetes.default.svc.cluster.local. A: NXDOMAIN");
    found.demand(
        "lookup-search",
        "problem",
        "kubernetes.default with search default.svc.cluster.local.",
    );
}

/// The watches are silent while the Service is made anew with another address.
#[test]
fn a_store_that_is_behind() {
    let cluster = Cluster::default();
    let nodens = cluster.start("");
    Findings::of_server(&nodens, &["lookups"]).demand("lookup-api", "ok", "for both");
    cluster.server.inject_for(Scope::watches(), Fault::HangWatches);
    cluster.put_service("kubernetes", "10.96.99.1");
    let found = Findings::of_server(&nodens, &["lookups"]);
    found.demand("lookup-api", "problem", "and 10.96.99.1 at the API server");
}

/// The upstream has changed its mind, and what is cached has not.
#[test]
fn an_answer_that_upstreams_do_not_give() {
    let upstream = resolver();
    let corefile = ".:@dns@ {\n    bind 127.0.0.1\n    forward . @upstream@\n    cache 3600\n}\n";
    let nodens =
        Setup::new(corefile).word("upstream", upstream.address()).ready(Ready::Answer).start();
    let arguments = ["lookups", "--outside-name", "www.example"];
    Findings::of_server(&nodens, &arguments).demand(
        "lookup-upstreams",
        "ok",
        "192.0.2.1 here as from 1 upstreams",
    );
    upstream.always(Act::Rcode(ResponseCode::NXDomain));
    let found = Findings::of_server(&nodens, &arguments);
    found.demand("lookup-upstreams", "problem", "192.0.2.1 here, and NXDOMAIN from");
}

/// Two upstreams of which one does not know the name.
#[test]
fn upstreams_that_disagree() {
    let (knows, other) = (resolver(), resolver());
    other.always(Act::Rcode(ResponseCode::NXDomain));
    let corefile = ".:@dns@ {\n    bind 127.0.0.1\n    forward . @first@ @second@ {\n        policy sequential\n    }\n}\n";
    let setup = Setup::new(corefile).word("first", knows.address()).word("second", other.address());
    let nodens = setup.ready(Ready::Answer).start();
    wait_for("the difference", SOON, || {
        let found = Findings::of_server(&nodens, &["lookups", "--outside-name", "www.example"]);
        found.has("lookup-upstreams", "warning", "NXDOMAIN from")
    });
    assert!(ROOT.contains("www.example"));
}
