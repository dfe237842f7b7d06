//! One module per directive of the Corefile, and what a server block means once its directives are read.
//!
//! Each module has a `Config`, which is the meaning of one line, a handler or a service built from it, its metrics, and a
//! section in `docs/`. The table of directives, `config::table`, has a line for each.

pub mod acl;
pub mod any;
pub mod autopath;
pub mod bind;
pub mod cache;
pub mod directive;
pub mod dns64;
pub mod dnstap;
pub mod errors;
pub mod file;
pub mod filter_aaaa;
pub mod forward;
pub mod header;
pub mod health;
pub mod hosts;
pub mod kubernetes;
pub mod limit;
pub mod loadbalance;
pub mod local;
pub mod log;
pub mod lookup;
pub mod loop_;
pub mod minimal;
pub mod networks;
pub mod pattern;
pub mod prometheus;
pub mod ready;
pub mod reload;
pub mod rewrite;
pub mod scope;
pub mod settings;
pub mod special_names;
pub mod template;
#[cfg(test)]
pub(crate) mod testing;
pub mod tls;
pub(crate) mod unreachable;
pub mod view;
pub mod whoami;

use std::mem;
use std::path::Path;

use self::directive::{BuildContext, BuildHandler, ReadContext, ReadDirective};
use crate::cluster::Source;
use crate::config::{self, Effect, ServerBlock};
use crate::corefile::{Diagnostic, Diagnostics, Directive, File};
use crate::wire::Name;

/// One line of a directive that has a handler.
struct Line<'a> {
    plugin: config::Plugin,
    effect: Effect,
    config: &'a dyn ReadDirective,
    written: &'a Directive,
}

macro_rules! blocks {
    (
        handlers { $($handler:ident $name:literal $plugin:ident $repeat:ident $effect:ident ($config:path))* }
        settings { $($setting:ident $set_name:literal $set_repeat:ident $set_effect:ident ($set_config:path))* }
    ) => {
        /// What one server block means: every directive read, nothing built yet. The lines of each directive are in the
        /// order in which they were written.
        #[derive(Debug)]
        pub struct Block {
            /// Zones, directives as they were written, and where.
            pub written: ServerBlock,
            /// Whether every line was read without a mistake.
            pub is_sound: bool,
            $(#[doc = concat!("`", $name, "`.")] pub $handler: Vec<$config>,)*
            $(#[doc = concat!("`", $set_name, "`.")] pub $setting: Vec<$set_config>,)*
        }

        impl Block {
            /// A block whose directives are still to be read.
            fn new(written: ServerBlock) -> Self {
                Self { written, is_sound: true, $($handler: Vec::new(),)* $($setting: Vec::new(),)* }
            }

            fn read(&mut self, directive: &Directive, cx: &mut ReadContext<'_>) {
                match directive.name.as_str() {
                    $($name => self.$handler.push(ReadDirective::read(directive, cx)),)*
                    $($set_name => self.$setting.push(ReadDirective::read(directive, cx)),)*
                    // `config::read` has left nothing else.
                    _ => {}
                }
            }

            /// The lines of handlers, in the order in which a query passes them.
            fn handler_lines(&self) -> Vec<Line<'_>> {
                let mut lines = Vec::new();
                $(let written = self.written.named($name);
                for (config, written) in self.$handler.iter().zip(written) {
                    let plugin = config::Plugin::$plugin;
                    lines.push(Line { plugin, effect: Effect::$effect, config, written });
                })*
                lines
            }

            /// Builds the block's handlers in the order of the chain, and takes their configurations out of it.
            pub fn build(&mut self, cx: &mut BuildContext<'_>) -> anyhow::Result<()> {
                $(if !self.$handler.is_empty() {
                    BuildHandler::build(mem::take(&mut self.$handler), cx)?;
                })*
                Ok(())
            }
        }
    };
}
config::table::directives!(blocks);

/// Gives every directive of a file its meaning. What is wrong is in `diagnostics`; after an error the result serves only
/// to find more errors.
pub fn read(file: &File, dns_port: u16, diagnostics: &mut Diagnostics) -> Vec<Block> {
    let blocks = config::read(file, dns_port, diagnostics);
    let mut blocks: Vec<Block> =
        blocks.into_iter().map(|written| parse(written, diagnostics)).collect();
    tls::check(&blocks, diagnostics);
    imply_clients(&mut blocks, diagnostics);
    share_clients(&mut blocks);
    blocks
}

/// If a directive of any block asks who clients are and no line says whose Pods to watch, they are those of the cluster that this
/// process is a pod of, else of the first one.
fn imply_clients(blocks: &mut [Block], diagnostics: &mut Diagnostics) {
    let lines: Vec<&Directive> = blocks.iter().flat_map(Block::lines_with_clients).collect();
    let named = lines.into_iter().map(|line| (line.at().clone(), line.name.text.clone()));
    let named: Vec<_> = named.collect();
    let mut clusters = blocks.iter().flat_map(|block| &block.kubernetes);
    let is_written = clusters.any(|cluster| cluster.spec.wanted.node.is_some());
    let searches = blocks.iter().flat_map(|b| &b.autopath).any(autopath::Config::names_clients);
    let clusters = blocks.iter_mut().flat_map(|block| &mut block.kubernetes);
    match clusters.min_by_key(|cluster| cluster.spec.source != Source::InCluster) {
        Some(own) if !is_written && (searches || !named.is_empty()) => own.imply_node(),
        Some(_) => {}
        None => named.into_iter().for_each(|(at, directive)| {
            diagnostics.push(
                Diagnostic::warning(at, "no Pod is known, since there is no kubernetes directive")
                    .help("add one, or leave out what names Pods or namespaces")
                    .directive(&*directive),
            );
        }),
    }
}

/// Directives that differ only in `pods node` go on to share a store: the cluster is not to be watched twice.
fn share_clients(blocks: &mut [Block]) {
    let specs = blocks.iter().flat_map(|block| &block.kubernetes).map(|cluster| &cluster.spec);
    let watched: Vec<_> = specs.filter(|spec| spec.wanted.node.is_some()).cloned().collect();
    for cluster in blocks.iter_mut().flat_map(|block| &mut block.kubernetes) {
        if cluster.spec.wanted.node.is_some() {
            continue;
        }
        let mut with = cluster.spec.clone();
        let is_same = watched.iter().any(|spec| {
            with.wanted.node.clone_from(&spec.wanted.node);
            with == *spec
        });
        if is_same {
            cluster.spec = with;
        }
    }
}

impl Block {
    /// The lines that name Pods or namespaces of clients.
    fn lines_with_clients(&self) -> Vec<&Directive> {
        let limits = self.limit.iter().map(limit::Config::names_clients);
        let logs = self.log.iter().map(log::Config::names_clients);
        let taps = self.dnstap.iter().map(dnstap::Config::names_clients);
        let views = self.view.iter().map(view::Config::names_clients);
        let limits = self.written.named("limit").zip(limits);
        let logs = self.written.named("log").zip(logs);
        let taps = self.written.named("dnstap").zip(taps);
        let lines = limits.chain(logs).chain(taps).chain(self.written.named("view").zip(views));
        lines.filter(|(_, names_clients)| *names_clients).map(|(line, _)| line).collect()
    }

    /// A block that forwards answers special names itself, but for zones that it names.
    fn imply_special_names(&mut self, zones: Vec<Name>) {
        if self.forward.is_empty() {
            return;
        }
        if self.special_names.is_empty() {
            self.special_names.push(special_names::Config::implied());
        }
        let forwarded = self.forward.iter().flat_map(|forward| forward.from.iter().cloned());
        let named: Vec<Name> = zones.into_iter().chain(forwarded).collect();
        self.special_names.iter_mut().for_each(|config| config.leave(named.iter().cloned()));
    }
}

fn parse(written: ServerBlock, diagnostics: &mut Diagnostics) -> Block {
    let (zones, errors) = (written.zone_names(), diagnostics.errors());
    let mut cx = ReadContext { block: &written, zones: &zones, root: Path::new(""), diagnostics };
    // It is for all paths of the block, those above its line too.
    let roots: Vec<settings::Root> =
        written.named("root").map(|line| ReadDirective::read(line, &mut cx)).collect();
    cx.root = roots.last().map_or(Path::new(""), |root| &root.0);
    let mut block = Block::new(written.clone());
    for directive in &written.directives {
        block.read(directive, &mut cx);
    }
    block.is_sound = cx.diagnostics.errors() == errors;
    let denials = written.named("stale_on_denial").last();
    cache::last_good::apply(&block.stale_on_denial, denials, &mut block.cache, diagnostics);
    block.imply_special_names(zones);
    block
}
