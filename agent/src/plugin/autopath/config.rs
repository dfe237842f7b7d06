//! What an `autopath` line says.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;

use super::{Autopath, Source};
use crate::clients::Clients;
use crate::config::{Args, zone_names};
use crate::corefile::Directive;
use crate::plugin::directive::{ReadContext, ReadDirective};
use crate::search_list::SearchList;
use crate::wire::Name;

/// One `autopath` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Names within these; the server block's, if none are written.
    zones: Vec<Name>,
    /// The list of a resolv.conf, as it is when the configuration is read; `None` for the Pods of this node.
    list: Option<SearchList>,
}

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        let mut args = Args::of(directive, cx.diagnostics);
        let words = args.rest();
        let mut config = Self { zones: cx.zones.to_vec(), list: None };
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
            file => config.list = Some(list_of(&cx.root.join(file), &mut args)),
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
        self.list.is_none()
    }

    /// What serves it; `cluster` is the zone of the block's `kubernetes`.
    pub fn build(&self, cluster: Option<Name>, clients: &Arc<Clients>) -> anyhow::Result<Autopath> {
        let source = match &self.list {
            Some(list) => Source::Fixed(list.clone()),
            None => Source::Pods {
                clients: Arc::clone(clients),
                cluster: cluster.context("autopath: there is no kubernetes")?,
                of_node: SearchList::of_node(),
            },
        };
        Ok(Autopath { zones: self.zones.clone(), source })
    }
}

/// The list of a file; empty, with a complaint, if there is none.
fn list_of(file: &Path, args: &mut Args<'_, '_>) -> SearchList {
    match SearchList::of_file(file) {
        Ok(list) => {
            if list.domains.is_empty() {
                let what = format!("{} has no search list", file.display());
                args.warning(what, "write a line such as: search default.svc.cluster.local");
            }
            list
        }
        Err(error) => {
            let what = format!("cannot read {}: {error}", file.display());
            args.error(what, "@kubernetes, or a resolv.conf");
            SearchList::default()
        }
    }
}
