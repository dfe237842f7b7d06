//! What a Corefile means: zones as names in wire form, values with their types, directives that exist.
//!
//! ```text
//! corefile::File -> read   keys to zones, directive names and listeners checked
//!                -> Vec<ServerBlock>
//!                -> each plugin's `parse`, which reads its directive with Args
//! ```
//!
//! Every step adds to one [`Diagnostics`](crate::corefile::Diagnostics) and continues, so that all errors are shown at
//! once. What it returns after an error is good for finding more errors only.

mod args;
mod directive;
mod listener;
mod reverse;
pub mod table;
mod unsupported;
pub mod value;
mod zone;

pub use args::{Args, no_block};
pub use directive::nearest_of;
pub use table::{Effect, Plugin};
pub use value::{ListenAddress, ValueError};
pub use zone::{Transport, ZoneKey, zone_names};

use crate::corefile::{self, Diagnostic, Diagnostics, Directive, File, Location, Token, limits};
use crate::wire::name::Name;

/// A server block whose zones are understood and whose directives all have a parser.
#[derive(Clone, Debug)]
pub struct ServerBlock {
    /// The zones with transport and port; reverse networks are expanded. Never empty without an error.
    pub zones: Vec<ZoneKey>,
    /// The directives that are served, in the order in which they were written.
    pub directives: Vec<Directive>,
    /// Where the block begins.
    pub at: Location,
    /// Whether all directives that were written are in `directives`, none of them being unknown or not served.
    pub is_complete: bool,
}

impl ServerBlock {
    /// The names of the block's zones, which are the default for a directive that takes zones.
    pub fn zone_names(&self) -> Vec<Name> {
        let mut names: Vec<Name> = Vec::new();
        for zone in &self.zones {
            if !names.contains(&zone.name) {
                names.push(zone.name.clone());
            }
        }
        names
    }

    /// The name of the view that the block is for, if it has one.
    pub fn view(&self) -> Option<&str> {
        self.named("view").next()?.args.first().map(Token::as_str)
    }

    /// The directives of one name, in order.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Directive> {
        self.directives.iter().filter(move |directive| directive.name.as_str() == name)
    }
}

/// Gives a file its meaning down to the names of the directives.
///
/// `dns_port` is the port of zones that name none (`-dns.port`). Directives that are not served are errors or warnings
/// and are left out of the result.
pub fn read(file: &File, dns_port: u16, diagnostics: &mut Diagnostics) -> Vec<ServerBlock> {
    let mut blocks = Vec::new();
    let (mut left, mut views) = (limits::ZONES, 0);
    for block in &file.blocks {
        if is_outside(block, diagnostics) {
            continue;
        }
        let mut zones = Vec::new();
        for key in &block.keys {
            let more = zone::parse(key, dns_port, diagnostics);
            if more.len() > left {
                diagnostics.push(
                    Diagnostic::error(key.at.clone(), "there are too many zones")
                        .expected(format!("at most {} in all", limits::ZONES)),
                );
                break;
            }
            left -= more.len();
            zones.extend(more);
        }
        let directives = directive::check(&block.directives, diagnostics);
        let is_complete = directives.len() == block.directives.len();
        for view in directives.iter().filter(|directive| directive.name.as_str() == "view") {
            views += 1;
            if views == limits::VIEWS + 1 {
                diagnostics.push(
                    Diagnostic::error(view.at().clone(), "there are too many views")
                        .expected(format!("at most {} in all", limits::VIEWS))
                        .directive("view"),
                );
            }
        }
        blocks.push(ServerBlock { zones, directives, at: block.at.clone(), is_complete });
    }
    listener::check(&blocks, diagnostics);
    blocks
}

/// Whether the block is a line of directives instead, the braces around them having been forgotten; reported here.
fn is_outside(block: &corefile::ServerBlock, diagnostics: &mut Diagnostics) -> bool {
    // `local` is also the name of a zone.
    let is_directive =
        |key: &&Token| key.as_str() != "local" && table::find(key.as_str()).is_some();
    let Some(key) = block.keys.first().filter(is_directive) else { return false };
    let help = "write `. {` above the directives, and `}` below them";
    if block.keys.len() > 1 {
        let what = format!("the directive {:?} is outside of a server block", key.as_str());
        diagnostics.push(Diagnostic::error(key.at.clone(), what).help(help));
        return true;
    }
    let what = format!("the zone {:?} has the name of a directive", key.as_str());
    diagnostics
        .push(Diagnostic::warning(key.at.clone(), what).help(format!("if it is one, {help}")));
    false
}

/// The zones of a file with their ports, as far as they are understood.
pub fn served_zones(file: &File, dns_port: u16) -> Vec<(Name, u16)> {
    let keys = file.blocks.iter().flat_map(|block| &block.keys);
    keys.flat_map(|key| zones_of(key, dns_port)).collect()
}

/// The zones of one key of a server block with their port; none if it is not understood.
pub fn zones_of(key: &Token, dns_port: u16) -> Vec<(Name, u16)> {
    let zones = zone::parse(key, dns_port, &mut Diagnostics::default());
    zones.into_iter().map(|zone| (zone.name, zone.port)).collect()
}

#[cfg(test)]
mod tests;
