//! What the lines of a block ask of EndpointSlices that `endpoints` leaves out: said by `check` and at the start. The table
//! of what each choice answers is in docs/kubernetes.md.

use super::View;
use crate::cluster::{Endpoints, Wanted};
use crate::config::Args;
use crate::wire::Name;

/// Reports every line that needs what is not watched. `asked`: there is a `fallback`, which is asked instead.
pub(super) fn report(wanted: &Wanted, view: &View, asked: bool, args: &mut Args<'_, '_>) {
    if view.ignore_empty && wanted.endpoints != Endpoints::All {
        args.error(
            "ignore empty_service has to know the endpoints of all Services",
            "endpoints all",
        );
    }
    match wanted.endpoints {
        Endpoints::All => {}
        Endpoints::Headless => {
            if wanted.endpoint_pods && !asked {
                args.warning(
                    "endpoint_pod_names names no Pods behind Services with a ClusterIP, since endpoints headless does not watch them",
                    "write endpoints all if somebody asks for these names",
                );
            }
            let denied = |zone: &&Name| !view.fallthrough.passes(zone.as_ref());
            if let Some(zone) = view.reverse_zones.iter().find(denied).filter(|_| !asked) {
                args.warning(
                    format!("PTR queries in {zone} for endpoints of Services with a ClusterIP get NXDOMAIN, since endpoints headless does not watch them"),
                    "write fallback ADDRESS, which is asked for them, fallthrough, or endpoints all",
                );
            }
        }
        Endpoints::None => {
            if wanted.endpoint_pods {
                args.warning(
                    "endpoint_pod_names is without effect, since no endpoints are watched",
                    "remove the line, or write endpoints all or headless",
                );
            }
            if wanted.imports {
                args.warning(
                    "headless ServiceImports have no addresses, since no endpoints are watched",
                    "write endpoints headless, or all",
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::kubernetes::config::Config;
    use crate::plugin::testing::read;

    fn said(lines: &str) -> String {
        let text = format!("kubernetes cluster.local in-addr.arpa {{\n{lines}\n}}");
        let root = [Name::root()];
        read(&text, |directive, diagnostics| Config::parse(directive, &root, diagnostics)).1
    }

    #[test]
    fn what_is_not_watched_is_said() {
        let passes = "fallthrough in-addr.arpa\n";
        for (lines, wanted) in [
            ("endpoints headless\nignore empty_service".to_owned(), "ignore empty_service"),
            ("noendpoints\nignore empty_service".to_owned(), "ignore empty_service"),
            ("endpoints headless".to_owned(), "PTR queries in in-addr.arpa"),
            (
                format!("{passes}endpoints headless\nendpoint_pod_names"),
                "endpoint_pod_names names no",
            ),
            (
                "endpoints none\nendpoint_pod_names".to_owned(),
                "endpoint_pod_names is without effect",
            ),
            ("endpoints none\nmulticluster cluster.local".to_owned(), "headless ServiceImports"),
        ] {
            let said = said(&lines);
            assert!(said.contains(wanted), "{lines}: {said}");
        }
        for lines in [
            "endpoints all\nendpoint_pod_names\nignore empty_service",
            "endpoints none\npods verified",
            "endpoints headless\nfallthrough",
            "endpoints headless\nendpoint_pod_names\nfallback 10.96.0.10",
        ] {
            assert_eq!(said(lines), "", "{lines}");
        }
    }
}
