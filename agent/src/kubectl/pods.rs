//! The pods to ask: one for each node.

use std::collections::BTreeMap;

use super::{KubectlError, child};
use crate::args::Kubectl;

/// What is asked of each pod: a line of words with tabs between them.
const COLUMNS: &str = "jsonpath={range .items[*]}{.spec.nodeName}{\"\\t\"}{.metadata.name}{\"\\t\"}{.status.phase}{\"\\t\"}\
    {.metadata.deletionTimestamp}{\"\\t\"}{.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}{end}";

/// A pod of Nodens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) node: String,
    pub(super) name: String,
    phase: String,
    is_ending: bool,
    is_ready: bool,
}

impl Pod {
    /// The line above what it says.
    pub(super) fn title(&self) -> String {
        let state = match self {
            Self { is_ending: true, .. } => ", ending",
            Self { phase, .. } if phase != "Running" => {
                return format!("== {} ({}, {phase})", self.node, self.name);
            }
            Self { is_ready: false, .. } => ", not ready",
            _ => "",
        };
        format!("== {} ({}{state})", self.node, self.name)
    }

    /// Of two pods of a node, as during an update, the one that serves.
    fn rank(&self) -> (bool, bool, bool) {
        (!self.is_ending, self.is_ready, self.phase == "Running")
    }
}

/// Whether more than one node was asked for.
pub(super) fn is_many(args: &Kubectl) -> bool {
    args.node.len() != 1
}

/// One pod for each node that is asked for, in the order of the nodes.
pub(super) fn list(args: &Kubectl) -> Result<Vec<Pod>, KubectlError> {
    let mut words = vec!["get", "pods", "-l", &args.selector, "-o", COLUMNS];
    let field;
    if let [node] = args.node.as_slice() {
        field = format!("spec.nodeName={node}");
        words.extend(["--field-selector", &field]);
    }
    let ended = child::kubectl(args, &words).map_err(KubectlError::NoKubectl)?;
    if ended.code != 0 {
        let why = String::from_utf8_lossy(&ended.err).trim().to_owned();
        return Err(KubectlError::List(why));
    }
    let mut pods: BTreeMap<String, Pod> = BTreeMap::new();
    for pod in read(&String::from_utf8_lossy(&ended.out)) {
        if !args.node.is_empty() && !args.node.contains(&pod.node) {
            continue;
        }
        let other = pods.get(&pod.node);
        if other.is_none_or(|other| other.rank() < pod.rank()) {
            pods.insert(pod.node.clone(), pod);
        }
    }
    if pods.is_empty() {
        let on = match args.node.join(", ") {
            nodes if nodes.is_empty() => nodes,
            nodes => format!(" on {nodes}"),
        };
        let (namespace, selector) = (args.namespace.clone(), args.selector.clone());
        return Err(KubectlError::NoPod { namespace, selector, on });
    }
    Ok(pods.into_values().collect())
}

/// Pods that have a node, in kubectl's order.
fn read(text: &str) -> impl Iterator<Item = Pod> {
    text.lines().filter_map(|line| {
        let mut words = line.split('\t').map(str::to_owned);
        let (node, name, phase) = (words.next()?, words.next()?, words.next()?);
        let is_ending = words.next().is_some_and(|since| !since.is_empty());
        let is_ready = words.next().is_some_and(|ready| ready == "True");
        (!node.is_empty()).then_some(Pod { node, name, phase, is_ending, is_ready })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_that_serves_is_asked() {
        let text = "b\tnodens-1\tRunning\t2026-01-01T00:00:00Z\tTrue\nb\tnodens-2\tRunning\t\tFalse\n\
                    \tnodens-3\tPending\t\t\na\tnodens-4\tPending\t\t\n";
        let pods: Vec<Pod> = read(text).collect();
        let titles: Vec<String> = pods.iter().map(Pod::title).collect();
        assert_eq!(
            titles,
            ["== b (nodens-1, ending)", "== b (nodens-2, not ready)", "== a (nodens-4, Pending)"]
        );
        assert!(pods[0].rank() < pods[1].rank());
    }
}
