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
pub(crate) mod testing;
pub mod whoami;

use std::path::PathBuf;

use crate::chain::Identity;
use crate::config;
use crate::corefile::{Diagnostics, File};

/// What one server block means: every directive parsed, nothing built yet.
#[derive(Debug)]
pub struct Block {
    /// Zones, directives as they were written, and where.
    pub written: config::ServerBlock,
    /// `acl`, all lines of it.
    pub acl: Vec<acl::Config>,
    /// `any`.
    pub any: bool,
    /// `bind`: where to listen; nothing for every address.
    pub bind: bind::Config,
    /// `bufsize`: octets of a UDP reply.
    pub bufsize: Option<usize>,
    /// `cache`.
    pub cache: Option<cache::Config>,
    /// `chaos`: what class CHAOS is told.
    pub chaos: Option<Identity>,
    /// `dns64`, all of them.
    pub dns64: Vec<dns64::Config>,
    /// `errors`.
    pub errors: Option<errors::Config>,
    /// `forward`, in the order in which they stand.
    pub forward: Vec<forward::Config>,
    /// `file`, all of them.
    pub file: Vec<file::Config>,
    /// `filter_aaaa`, all of them.
    pub filter_aaaa: Vec<filter_aaaa::Config>,
    /// `header`, all of them.
    pub header: Vec<header::Config>,
    /// `health`.
    pub health: Option<health::Config>,
    /// `hosts`.
    pub hosts: Option<hosts::Config>,
    /// `kubernetes`.
    pub kubernetes: Option<kubernetes::Config>,
    /// `loadbalance`: addresses go round.
    pub loadbalance: bool,
    /// `local`.
    pub local: bool,
    /// `log`, all lines of it.
    pub log: Option<log::Config>,
    /// `loop`: upstreams that lead back here are set aside.
    pub loops: bool,
    /// `minimal`.
    pub minimal: bool,
    /// `nsid`: what a client gets that asks for the server's identity.
    pub nsid: Option<Box<[u8]>>,
    /// `prometheus`.
    pub prometheus: Option<prometheus::Config>,
    /// `ready`.
    pub ready: Option<ready::Config>,
    /// `reload`.
    pub reload: Option<reload::Config>,
    /// `rewrite`, all rules in order.
    pub rewrite: Vec<rewrite::Config>,
    /// `root`: where relative paths begin; empty for the working directory.
    pub root: PathBuf,
    /// `template`, all of them.
    pub template: Vec<template::Config>,
    /// `timeouts`: how long TCP clients may take.
    pub timeouts: Option<settings::Timeouts>,
    /// `whoami`.
    pub whoami: bool,
}

impl Block {
    /// A block whose directives are still to be read.
    fn new(written: config::ServerBlock) -> Self {
        Self {
            written,
            acl: Vec::new(),
            any: false,
            bind: bind::Config::default(),
            bufsize: None,
            cache: None,
            chaos: None,
            dns64: Vec::new(),
            errors: None,
            file: Vec::new(),
            filter_aaaa: Vec::new(),
            forward: Vec::new(),
            header: Vec::new(),
            health: None,
            hosts: None,
            kubernetes: None,
            loadbalance: false,
            local: false,
            log: None,
            loops: false,
            minimal: false,
            nsid: None,
            prometheus: None,
            ready: None,
            reload: None,
            rewrite: Vec::new(),
            root: PathBuf::new(),
            template: Vec::new(),
            timeouts: None,
            whoami: false,
        }
    }
}

/// The directives that have a parser here.
pub const SERVED: &[&str] = &[
    "acl",
    "any",
    "bind",
    "bufsize",
    "cache",
    "chaos",
    "debug",
    "dns64",
    "errors",
    "file",
    "filter_aaaa",
    "forward",
    "header",
    "health",
    "hosts",
    "kubernetes",
    "loadbalance",
    "local",
    "log",
    "loop",
    "minimal",
    "nsid",
    "prometheus",
    "ready",
    "reload",
    "rewrite",
    "root",
    "template",
    "timeouts",
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
    // Wherever it stands, it is for all paths of the block.
    for directive in directives.iter().filter(|directive| directive.name.as_str() == "root") {
        block.root = settings::root(directive, diagnostics);
    }
    for directive in &directives {
        match directive.name.as_str() {
            "acl" => block.acl.push(acl::Config::parse(directive, &zones, diagnostics)),
            "any" => {
                any::Config::parse(directive, &zones, diagnostics);
                block.any = true;
            }
            "bind" => block.bind.add(directive, diagnostics),
            "cache" => {
                block.cache = Some(cache::Config::parse(directive, &zones, diagnostics));
            }
            "bufsize" => block.bufsize = Some(settings::bufsize(directive, diagnostics)),
            "chaos" => block.chaos = Some(settings::chaos(directive, diagnostics)),
            "debug" => settings::debug(directive, diagnostics),
            "dns64" => block.dns64.push(dns64::Config::parse(directive, &zones, diagnostics)),
            "errors" => block.errors = Some(errors::Config::parse(directive, diagnostics)),
            "file" => {
                let config = file::Config::parse(directive, &zones, &block.root, diagnostics);
                block.file.push(config);
            }
            "filter_aaaa" => {
                let config = filter_aaaa::Config::parse(directive, &zones, diagnostics);
                block.filter_aaaa.push(config);
            }
            "forward" => block.forward.push(forward::Config::parse(directive, diagnostics)),
            "header" => block.header.push(header::Config::parse(directive, &zones, diagnostics)),
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
            "local" => {
                local::Config::parse(directive, &zones, diagnostics);
                block.local = true;
            }
            "log" => {
                block.log.get_or_insert_default().add(directive, &block.written, diagnostics);
            }
            "loop" => {
                loop_::parse(directive, diagnostics);
                block.loops = true;
            }
            "minimal" => {
                minimal::Config::parse(directive, &zones, diagnostics);
                block.minimal = true;
            }
            "nsid" => block.nsid = Some(settings::nsid(directive, diagnostics)),
            "prometheus" => {
                block.prometheus = Some(prometheus::Config::parse(directive, diagnostics));
            }
            "ready" => block.ready = Some(ready::Config::parse(directive, diagnostics)),
            "reload" => block.reload = Some(reload::Config::parse(directive, diagnostics)),
            "rewrite" => {
                block.rewrite.push(rewrite::Config::parse(directive, &zones, diagnostics));
            }
            "template" => {
                block.template.push(template::Config::parse(directive, &zones, diagnostics));
            }
            "timeouts" => block.timeouts = Some(settings::timeouts(directive, diagnostics)),
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
