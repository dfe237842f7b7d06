//! What a Corefile means: zones as names in wire form, values with their types, directives that exist.
//!
//! ```text
//! corefile::File -> read   keys to zones, directive names checked, listeners told apart
//!                -> Vec<ServerBlock>
//!                -> each plugin's `parse`, which reads its directive with Args
//! ```
//!
//! Every step adds to one [`Diagnostics`](crate::corefile::Diagnostics) and goes on, so that all errors are shown at
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
pub use table::{Effect, Plugin};
pub use value::{ListenAddress, ValueError};
pub use zone::{Transport, ZoneKey, zone_names};

use crate::corefile::{Diagnostic, Diagnostics, Directive, File, Location, limits};
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
    let mut room = limits::ZONES;
    for block in &file.blocks {
        let mut zones = Vec::new();
        for key in &block.keys {
            let more = zone::parse(key, dns_port, diagnostics);
            if more.len() > room {
                diagnostics.push(
                    Diagnostic::error(key.at.clone(), "there are too many zones")
                        .expected(format!("at most {} in all", limits::ZONES)),
                );
                break;
            }
            room -= more.len();
            zones.extend(more);
        }
        let directives = directive::check(&block.directives, diagnostics);
        let is_complete = directives.len() == block.directives.len();
        blocks.push(ServerBlock { zones, directives, at: block.at.clone(), is_complete });
    }
    listener::check(&blocks, diagnostics);
    blocks
}

#[cfg(test)]
mod tests;
