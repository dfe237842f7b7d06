//! The pages that begin, followed step by step: from nothing to `dig` answering in two pods, and back.

mod container;
mod page;
mod site;
mod unit;

use container::Container;
use page::{Place, Step};
use site::{Asked, Site, pod_resolv_conf};
use unit::Systemd;

use crate::node::world::{on_a_node, snapshot};

/// What a pod has before the kubelet is told of Nodens: here, nothing that answers for cluster names.
const BEFORE: &str = "nameserver 192.0.2.99\n";

/// `docs/getting-started-kustomize.md`: what kubectl does is done as the manifests say; blocks for the node and for pods are run
/// as they stand.
pub fn the_page_for_kubectl_leads_to_answers() {
    on_a_node(|| {
        let site = Site::prepare("manifests/base/clusterrole.yaml");
        let before = snapshot();
        let mut container: Option<Container> = None;
        let answers = follow("getting-started-kustomize.md", &site, |step| {
            if step.commands.contains("kubectl delete -k") {
                container.take().unwrap().delete();
            } else if step.commands.contains("kubectl apply -") && container.is_none() {
                let mut started = Container::start(&site);
                started.wait_until_ready();
                let (works, status) = started.execute(&["status"]);
                println!("{status}");
                assert!(works, "{status}");
                container = Some(started);
            }
        });
        assert!(answers >= 8, "only {answers} answers");
        assert!(container.is_none(), "the page does not take the DaemonSet away");
        assert_eq!(snapshot(), before, "something is left");
    });
}

/// `docs/getting-started-systemd.md`: the unit is started by its own lines, as its user with its capabilities, and tells that it
/// is ready.
pub fn the_page_for_systemd_leads_to_answers() {
    on_a_node(|| {
        let site = Site::prepare("manifests/systemd/rbac.yaml");
        let before = snapshot();
        let systemd = Systemd::stand_in(&site);
        let mut was_fed = false;
        let answers = follow("getting-started-systemd.md", &site, |step| {
            if step.commands.contains("certificate approve") {
                site.bring_certificate();
            }
            was_fed |= systemd.is_fed();
        });
        assert!(answers >= 8, "only {answers} answers; log:\n{}", systemd.log());
        assert!(was_fed, "the watchdog was never fed");
        assert_eq!(systemd.pid(), None, "the page does not stop the unit");
        assert_eq!(snapshot(), before, "something is left; log:\n{}", systemd.log());
    });
}

/// Follows a page: runs the blocks of the node and of the pods. Before each block, those of the administrator too, `each` does what
/// the blocks cannot. Returns how many questions had the right answer.
fn follow(name: &str, site: &Site, mut each: impl FnMut(&Step)) -> usize {
    let mut resolv_conf = BEFORE.to_owned();
    let steps = page::steps(name);
    nobody_answers(site, &steps);
    let mut answers = 0;
    for step in &steps {
        each(step);
        // The change of the kubelet is a page of its own; pods that are made after it have this.
        if step.section.contains("Point pods at it") {
            resolv_conf = pod_resolv_conf("default");
        }
        match step.place {
            Place::Node => answers += check(step, &site.on_the_node(step)),
            Place::Pod => answers += check(step, &site.in_the_pods(step, &resolv_conf)),
            Place::Admin => println!("[admin] {}\n  $ {}", step.section, step.commands.trim_end()),
        }
    }
    answers
}

/// At the beginning no pod gets an answer.
fn nobody_answers(site: &Site, steps: &[Step]) {
    let first = steps.iter().find(|step| step.place == Place::Pod).unwrap();
    let commands = first.commands.lines().next().unwrap();
    assert!(commands.contains("dig "), "{commands}");
    let commands = format!("! {commands} +tries=1 +time=1\n");
    let asked = site.in_the_pods(&Step { commands, ..first.clone() }, BEFORE);
    assert_eq!(asked.len(), site.pods.len(), "{asked:?}");
    assert!(
        asked.iter().all(|asked| !asked.answer.iter().any(|line| is_address(line))),
        "{asked:?}"
    );
}

/// Every question of a block had the right answer; returns how many there were.
fn check(step: &Step, asked: &[Asked]) -> usize {
    for asked in asked {
        let words = &asked.arguments;
        let expected = [
            ("kubernetes.default", "10.96.0.1"),
            ("-x 10.96.0.1", "kubernetes.default.svc.cluster.local."),
            ("example.org", "192.0.2.80"),
            ("version.bind", concat!("\"Nodens-", env!("CARGO_PKG_VERSION"), "\"")),
        ];
        let expected = expected.iter().find(|(word, _)| words.contains(word));
        let expected = expected.unwrap_or_else(|| panic!("line {}: dig {words}?", step.line)).1;
        let is_right = asked.answer.iter().any(|line| {
            line == expected || line.split_whitespace().last().is_some_and(|data| data == expected)
        });
        assert!(is_right, "line {}: dig {words} printed {:?}", step.line, asked.answer);
    }
    let questions = step.commands.matches("dig ").count();
    let places = if step.place == Place::Pod { 2 } else { 1 };
    assert_eq!(asked.len(), questions * places, "line {}: {asked:?}", step.line);
    asked.len()
}

fn is_address(line: &str) -> bool {
    line.parse::<std::net::IpAddr>().is_ok()
}
