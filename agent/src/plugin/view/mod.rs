//! `view NAME { expr EXPRESSION... }`: a server block for some queries only, those for which every expression is true.
//!
//! ```text
//! lexer, parser   the expression as it was written      the language of CoreDNS's (github.com/expr-lang/expr), in part
//! compile         functions, types, networks checked    what is wrong is an error of the configuration, with its place
//! condition       a tree of typed conditions            evaluated by `server::dispatch` for each query
//! facts           what they read of the query
//! ```
//!
//! The zone is chosen before the view: the blocks of the longest zone are tried in the order of the Corefile, then those of
//! the next one. Names that an answer leads to are looked up in the same way, as if the client had asked for them. The line
//! is a part of the identity of its block (`plugin::cache::block_id`), so that no two views share cached answers or flights.

mod compile;
mod condition;
mod config;
mod facts;
mod lexer;
mod parser;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use config::Config;

use self::condition::Condition;
use self::facts::Facts;
use crate::clients::Clients;
use crate::corefile::Location;
use crate::request::Request;

/// Which queries a server block is for.
#[derive(Debug)]
pub struct View {
    name: Arc<str>,
    at: Location,
    conditions: Box<[Condition]>,
    /// Who they are, where a condition asks.
    clients: Option<Arc<Clients>>,
}

impl View {
    /// Its name: the `view` label of metrics.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its line is.
    pub fn at(&self) -> &Location {
        &self.at
    }

    /// Whether the query is one of its own. Called for each query: without a lock or an allocation.
    pub fn admits(&self, request: &Request<'_>) -> bool {
        let holds = |facts: &Facts<'_>| self.conditions.iter().all(|one| one.holds(facts));
        let of_pod = self.clients.as_ref().and_then(|clients| {
            let client = request.origin.client.ip();
            clients.pod(client, |pod| holds(&Facts::new(request, Some(pod))))
        });
        of_pod.unwrap_or_else(|| holds(&Facts::new(request, None)))
    }
}

/// Checks an expression.
///
/// # Errors
/// The first mistake: at which character, counted from one, and what it is.
pub fn check(text: &str) -> Result<(), (usize, String)> {
    match compile::compile(text, &mut Vec::new()) {
        Ok(_) => Ok(()),
        Err(wrong) => Err((wrong.at, wrong.what)),
    }
}
