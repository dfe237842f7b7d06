//! What an `autopath` line says.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;

use super::{Autopath, SearchList, Source};
use crate::clients::Clients;
use crate::config::{Args, zone_names};
use crate::corefile::Directive;
use crate::file_watch;
use crate::plugin::directive::{ReadContext, ReadDirective};
use crate::upstream::resolv_conf::{self, MAX_FILE};
use crate::wire::Name;

/// The node's resolv.conf, or the kubelet's copy of it.
const OF_NODE: &str = "/etc/resolv.conf";

/// One `autopath` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Names within these; the server block's, if none are written.
    zones: Vec<Name>,
    /// A resolv.conf; `None` for the Pods of this node.
    file: Option<PathBuf>,
}

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        let mut args = Args::of(directive, cx.diagnostics);
        let words = args.rest();
        let mut config = Self { zones: cx.zones.to_vec(), file: None };
        let Some((last, zones)) = words.split_last() else {
            args.error(
                "where the search lists come from is missing",
                "@kubernetes, or a resolv.conf",
            );
            return config;
        };
        if !zones.is_empty() {
            config.zones.clear();
            for word in zones {
                config.zones.extend(args.read(word, zone_names).unwrap_or_default());
            }
        }
        match last.as_str() {
            "@kubernetes" if cx.block.named("kubernetes").next().is_none() => {
                args.error(
                    "there is no kubernetes in this server block",
                    "autopath beside kubernetes",
                );
            }
            "@kubernetes" => {}
            other if other.starts_with('@') => {
                args.error(
                    format!("{other:?} knows no search lists"),
                    "@kubernetes, or a resolv.conf",
                );
            }
            file => config.file = Some(cx.root.join(file)),
        }
        if let Some(option) = directive.options().first() {
            Args::of_option(directive, option, cx.diagnostics).unknown_option(&[]);
        }
        config
    }
}

impl Config {
    /// Whether it asks who a client is.
    pub fn names_clients(&self) -> bool {
        self.file.is_none()
    }

    /// What serves it; `cluster` is the zone of the block's `kubernetes`.
    pub fn build(&self, cluster: Option<Name>, clients: &Arc<Clients>) -> anyhow::Result<Autopath> {
        let source = match (&self.file, cluster) {
            (Some(file), _) => {
                let read = file_watch::read(file, MAX_FILE as u64);
                let text =
                    read.with_context(|| format!("autopath: cannot read {}", file.display()))?;
                Source::Fixed(list_of(&text, None))
            }
            (None, cluster) => Source::Pods {
                clients: Arc::clone(clients),
                cluster: cluster.context("autopath: there is no kubernetes")?,
                of_node: list_of(
                    &file_watch::read(OF_NODE.as_ref(), MAX_FILE as u64).unwrap_or_default(),
                    Some(1),
                ),
            },
        };
        Ok(Autopath { zones: self.zones.clone(), source, successes: Default::default() })
    }
}

/// The list of a resolv.conf; `ndots` where it has none.
fn list_of(text: &[u8], ndots: Option<u8>) -> SearchList {
    let text = String::from_utf8_lossy(text);
    let domains = resolv_conf::search_domains(&text).into_iter();
    let domains = domains.filter_map(|domain| Name::from_text(&domain).ok()).collect();
    SearchList { domains, ndots: resolv_conf::ndots(&text).or(ndots) }
}
