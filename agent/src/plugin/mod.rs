//! One module per Corefile directive. Each has the same parts: `Config` with `parse` (what the directive means), a handler
//! or a service built from it, its metrics, and a section in `docs/`.

pub mod acl;
pub mod any;
pub mod bind;
pub mod cache;
pub mod dns64;
pub mod errors;
pub mod file;
pub mod filter_aaaa;
pub mod forward;
pub mod header;
pub mod health;
pub mod hosts;
pub mod kubernetes;
pub mod loadbalance;
pub mod local;
pub mod log;
pub mod lookup;
pub mod loop_;
pub mod minimal;
pub mod pattern;
pub mod prometheus;
pub mod ready;
pub mod reload;
pub mod rewrite;
pub mod scope;
pub mod settings;
pub mod template;
#[cfg(test)]
pub(crate) mod test;
#[cfg(test)]
mod testing;
pub mod whoami;

use crate::config;
use crate::corefile::{Diagnostics, File};

/// What one server block means: every directive parsed, nothing built yet.
#[derive(Debug)]
pub struct Block {
    /// Zones, directives as they were written, and where.
    pub written: config::ServerBlock,
    /// `acl`, all lines of it.
    pub acl: Vec<acl::Config>,
    /// `bind`: where to listen; nothing for every address.
    pub bind: bind::Config,
    /// `cache`.
    pub cache: Option<cache::Config>,
    /// `errors`.
    pub errors: Option<errors::Config>,
    /// `forward`, in the order in which they stand.
    pub forward: Vec<forward::Config>,
    /// `health`.
    pub health: Option<health::Config>,
    /// `hosts`.
    pub hosts: Option<hosts::Config>,
    /// `kubernetes`.
    pub kubernetes: Option<kubernetes::Config>,
    /// `loadbalance`: addresses go round.
    pub loadbalance: bool,
    /// `log`, all lines of it.
    pub log: Option<log::Config>,
    /// `loop`: upstreams that lead back here are set aside.
    pub loops: bool,
    /// `prometheus`.
    pub prometheus: Option<prometheus::Config>,
    /// `ready`.
    pub ready: Option<ready::Config>,
    /// `reload`.
    pub reload: Option<reload::Config>,
    /// `template`, all of them.
    pub template: Vec<template::Config>,
    /// `whoami`.
    pub whoami: bool,
}

impl Block {
    /// A block whose directives are still to be read.
    fn new(written: config::ServerBlock) -> Self {
        Self {
            written,
            acl: Vec::new(),
            bind: bind::Config::default(),
            cache: None,
            errors: None,
            forward: Vec::new(),
            health: None,
            hosts: None,
            kubernetes: None,
            loadbalance: false,
            log: None,
            loops: false,
            prometheus: None,
            ready: None,
            reload: None,
            template: Vec::new(),
            whoami: false,
        }
    }
}

/// The directives that have a parser here.
const SERVED: &[&str] = &[
    "acl",
    "bind",
    "cache",
    "errors",
    "forward",
    "health",
    "hosts",
    "kubernetes",
    "loadbalance",
    "log",
    "loop",
    "prometheus",
    "ready",
    "reload",
    "template",
    "whoami",
];

/// Gives every directive of a file its meaning. What is wrong is in `diagnostics`; after an error the result is good for
/// nothing but finding more errors.
pub fn read(file: &File, dns_port: u16, diagnostics: &mut Diagnostics) -> Vec<Block> {
    config::read(file, dns_port, &|name| SERVED.contains(&name), diagnostics)
        .into_iter()
        .map(|written| parse(written, diagnostics))
        .collect()
}

fn parse(written: config::ServerBlock, diagnostics: &mut Diagnostics) -> Block {
    let mut block = Block::new(written);
    let directives = std::mem::take(&mut block.written.directives);
    let zones = block.written.zone_names();
    for directive in &directives {
        match directive.name.as_str() {
            "acl" => block.acl.push(acl::Config::parse(directive, &zones, diagnostics)),
            "bind" => block.bind.add(directive, diagnostics),
            "cache" => {
                block.cache = Some(cache::Config::parse(directive, &zones, diagnostics));
            }
            "errors" => block.errors = Some(errors::Config::parse(directive, diagnostics)),
            "forward" => block.forward.push(forward::Config::parse(directive, diagnostics)),
            "health" => block.health = Some(health::Config::parse(directive, diagnostics)),
            "hosts" => {
                block.hosts = Some(hosts::Config::parse(directive, &block.written, diagnostics));
            }
            "kubernetes" => {
                block.kubernetes = Some(kubernetes::Config::parse(directive, &zones, diagnostics));
            }
            "loadbalance" => {
                loadbalance::Config::parse(directive, diagnostics);
                block.loadbalance = true;
            }
            "log" => {
                block.log.get_or_insert_default().add(directive, &block.written, diagnostics);
            }
            "loop" => {
                loop_::parse(directive, diagnostics);
                block.loops = true;
            }
            "prometheus" => {
                block.prometheus = Some(prometheus::Config::parse(directive, diagnostics));
            }
            "ready" => block.ready = Some(ready::Config::parse(directive, diagnostics)),
            "reload" => block.reload = Some(reload::Config::parse(directive, diagnostics)),
            "template" => {
                block.template.push(template::Config::parse(directive, &zones, diagnostics));
            }
            "whoami" => {
                config::Args::of(directive, diagnostics).end();
                config::no_block(directive, diagnostics);
                block.whoami = true;
            }
            _ => {}
        }
    }
    block.written.directives = directives;
    block
}
