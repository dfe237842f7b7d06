//! What an index is to keep.

use crate::cluster::object::Text;

/// What an index is to keep beyond what every answer needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The names of the Pods behind endpoints (`endpoint_pod_names`): about 40 octets each.
    pub endpoint_pods: bool,
    /// Addresses only of namespaces that are known (`namespace_labels`): no others have names.
    pub known_namespaces: bool,
    /// Where endpoints are (`zonal`, `topology`): two octets each, and headless Services' addresses once more.
    pub places: bool,
    /// The node that this process runs on (`topology`).
    pub node: Option<Text>,
}
