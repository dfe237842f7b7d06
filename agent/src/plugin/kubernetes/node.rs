//! `pods`: which names of Pods are answered, and whether the Pods of this node are known as clients.

use crate::cluster::object::Text;
use crate::config::{Args, ValueError};

use super::{Config, Pods};

/// The environment variable with the node's name, as manifests set it by the downward API.
pub const VARIABLE: &str = "NODE_NAME";

impl Config {
    /// Reads `pods MODE`, or `pods node [NAME]`, which may stand beside it.
    pub(super) fn pods(&mut self, args: &mut Args<'_, '_>) {
        let Some(mode) = args.value("disabled, insecure, verified or node", mode) else { return };
        match mode {
            Some(mode) => self.view.pods = mode,
            None => {
                let name = args.optional(node_name);
                self.spec.wanted.node = name.or_else(own_name);
                if self.spec.wanted.node.is_none() {
                    args.error(
                        format!("the name of this node is not known: {VARIABLE} is not set"),
                        "pods node NAME",
                    );
                }
            }
        }
    }

    /// The name of this node, as `pods node` says, or else the environment.
    pub(super) fn own_node(&self) -> Option<Text> {
        self.spec.wanted.node.clone().or_else(own_name)
    }

    /// Has the Pods of this node watched for directives that ask who a client is, unless that is written, or the name of the
    /// node is not known.
    pub fn imply_node(&mut self) {
        if self.spec.wanted.node.is_none() {
            self.spec.wanted.node = own_name();
        }
    }
}

/// `None` for the Pods of the node.
fn mode(text: &str) -> Result<Option<Pods>, ValueError> {
    match text {
        "disabled" => Ok(Some(Pods::Disabled)),
        "insecure" => Ok(Some(Pods::Insecure)),
        "verified" => Ok(Some(Pods::Verified)),
        "node" => Ok(None),
        _ => Err(ValueError::new(
            format!("{text:?} is no mode"),
            "disabled, insecure, verified or node",
        )),
    }
}

fn node_name(text: &str) -> Result<Text, ValueError> {
    let lower = text.to_ascii_lowercase();
    let good = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.');
    if lower.bytes().all(good) && (1..=253).contains(&lower.len()) {
        return Ok(lower.into());
    }
    Err(ValueError::new(
        format!("{text:?} is no name of a node"),
        "letters, digits, dashes and dots, at most 253",
    ))
}

/// The name that the environment gives, else the host's, as kubelet takes it.
fn own_name() -> Option<Text> {
    let host = || nix::unistd::gethostname().ok()?.into_string().ok();
    let name = std::env::var(VARIABLE).ok().filter(|name| !name.is_empty()).or_else(host)?;
    node_name(&name).ok()
}
