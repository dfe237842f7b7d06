//! Which server block listens for what: no zone may be served twice on one address and port, but by blocks for views.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use super::{ServerBlock, Transport};
use crate::corefile::{Diagnostic, Diagnostics, Location, Token};

/// Where a server block listens, as far as the file shows.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Listens {
    /// There is no `bind`.
    Everywhere,
    Address(IpAddr),
    Interface(String),
}

/// A zone that a block serves at a place.
struct Claim<'b> {
    listens: Listens,
    /// Which block.
    block: usize,
    view: Option<&'b str>,
    at: &'b Location,
}

/// Where a port is claimed for a transport.
struct Port<'b> {
    listens: Listens,
    transport: Transport,
    at: &'b Location,
}

/// Reports ports that two blocks claim for different transports: each is served in one way.
fn check_ports(blocks: &[ServerBlock], diagnostics: &mut Diagnostics) {
    let mut claims: HashMap<u16, Vec<Port<'_>>> = HashMap::new();
    for block in blocks {
        // What is wrong with the lines is said by `check`.
        let listens = listens(block, &mut Diagnostics::default());
        for zone in &block.zones {
            let claimed = claims.entry(zone.port).or_default();
            for listen in &listens {
                let meets = |other: &Listens| {
                    other == listen || is_everywhere(other) || is_everywhere(listen)
                };
                let other = claimed
                    .iter()
                    .find(|claim| claim.transport != zone.transport && meets(&claim.listens));
                if let Some(other) = other {
                    let what = format!(
                        "port {}{listen} is for {}:// already, at {}",
                        zone.port,
                        other.transport.scheme(),
                        other.at
                    );
                    diagnostics.push(
                        Diagnostic::error(zone.at.clone(), what)
                            .expected("another port for each of dns://, tls:// and https://"),
                    );
                    break;
                }
                let (listens, transport) = (listen.clone(), zone.transport);
                claimed.push(Port { listens, transport, at: &zone.at });
            }
        }
    }
}

/// Reports zones that two server blocks, or one block twice, claim for the same transport, address and port.
///
/// Several blocks may share a port: the most specific zone answers. A block with `bind` and one without cannot share a
/// zone and a port, since a query could be for either. Blocks with views of different names share a zone with each other and
/// with one without, and are told apart by these names in metrics and by the cache; which of them a query reaches is the matter of `plugin::unreachable`.
pub(super) fn check(blocks: &[ServerBlock], diagnostics: &mut Diagnostics) {
    check_ports(blocks, diagnostics);
    let mut claims: HashMap<_, Vec<Claim<'_>>> = HashMap::new();
    for (number, block) in blocks.iter().enumerate() {
        let listens = listens(block, diagnostics);
        let view = block.view();
        for zone in &block.zones {
            let claimed = claims.entry((&zone.name, zone.transport, zone.port)).or_default();
            for listen in &listens {
                let twice = claimed.iter().find(|claim| {
                    let is_shared = claim.view != view && claim.block != number;
                    claim.listens == *listen && !is_shared
                });
                let overlap = claimed.iter().find(|claim| {
                    claim.listens != *listen
                        && (is_everywhere(&claim.listens) || is_everywhere(listen))
                });
                let (what, at) = match (twice, overlap) {
                    (Some(claim), _) if view.is_some() && claim.block != number => {
                        ("is served already, by a view of the same name,", claim.at)
                    }
                    (Some(claim), _) => ("is served already", claim.at),
                    (None, Some(claim)) => {
                        ("is served already, by a block with other addresses,", claim.at)
                    }
                    (None, None) => {
                        let (listens, at) = (listen.clone(), &zone.at);
                        claimed.push(Claim { listens, block: number, view, at });
                        continue;
                    }
                };
                diagnostics.push(
                    Diagnostic::error(zone.at.clone(), format!("{zone}{listen} {what} at {at}"))
                        .expected("each zone once for each address and port"),
                );
                break;
            }
        }
    }
}

/// What the `bind` lines of a block name, without their options; `except` is too fine for this check.
fn listens(block: &ServerBlock, diagnostics: &mut Diagnostics) -> Vec<Listens> {
    let mut found: Vec<Listens> = Vec::new();
    for directive in block.named("bind") {
        for word in &directive.args {
            let listen = listen(word);
            if found.contains(&listen) {
                diagnostics.push(
                    Diagnostic::error(word.at.clone(), format!("{:?} stands twice", word.as_str()))
                        .expected("each address once in a server block")
                        .directive("bind"),
                );
            } else {
                found.push(listen);
            }
        }
    }
    if found.is_empty() {
        found.push(Listens::Everywhere);
    }
    found
}

fn listen(word: &Token) -> Listens {
    match word.as_str().parse() {
        Ok(address) => Listens::Address(address),
        Err(_) => Listens::Interface(word.as_str().to_owned()),
    }
}

fn is_everywhere(listens: &Listens) -> bool {
    *listens == Listens::Everywhere
}

impl fmt::Display for Listens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everywhere => Ok(()),
            Self::Address(address) => write!(f, " on {address}"),
            Self::Interface(name) => write!(f, " on {name}"),
        }
    }
}
