//! One module per Corefile directive. Each has the same parts: `Config` with `parse` (what the directive means), a handler
//! or a service built from it, its metrics, and a section in `docs/`.

pub mod whoami;

use crate::config;
use crate::corefile::{Diagnostics, File};

/// What one server block means: every directive parsed, nothing built yet.
#[derive(Debug)]
pub struct Block {
    /// Zones, directives as they were written, and where.
    pub written: config::ServerBlock,
    /// `whoami`.
    pub whoami: bool,
}

/// The directives that have a parser here.
const SERVED: &[&str] = &["whoami"];

/// Gives every directive of a file its meaning. What is wrong is in `diagnostics`; after an error the result is good for
/// nothing but finding more errors.
pub fn read(file: &File, dns_port: u16, diagnostics: &mut Diagnostics) -> Vec<Block> {
    config::read(file, dns_port, &|name| SERVED.contains(&name), diagnostics)
        .into_iter()
        .map(|written| parse(written, diagnostics))
        .collect()
}

fn parse(written: config::ServerBlock, diagnostics: &mut Diagnostics) -> Block {
    let mut block = Block { whoami: false, written };
    let directives = std::mem::take(&mut block.written.directives);
    for directive in &directives {
        match directive.name.as_str() {
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
