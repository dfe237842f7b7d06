//! What a `view` line says.

use std::sync::Arc;

use super::View;
use super::compile::compile;
use super::condition::Condition;
use super::lexer::Wrong;
use crate::clients::Clients;
use crate::config::{Args, ValueError};
use crate::corefile::{Directive, Location, Token};
use crate::plugin::directive::{ReadContext, ReadDirective};

/// Expressions of one view.
const MAX_EXPRESSIONS: usize = 64;
/// The longest name, octets: it is a label of metrics.
const MAX_NAME: usize = 63;

/// One `view` line: the queries that its server block is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    name: Arc<str>,
    at: Location,
    /// All have to hold. Without those that always do.
    conditions: Vec<Condition>,
}

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        let mut args = Args::of(directive, cx.diagnostics);
        let name = args.value("the view's name", name).unwrap_or_default();
        args.end();
        let mut conditions = Vec::new();
        for (number, option) in directive.options().iter().enumerate() {
            let mut args = Args::of_option(directive, option, cx.diagnostics);
            match option.name.as_str() {
                "expr" if number >= MAX_EXPRESSIONS => {
                    args.error("there are too many", format!("at most {MAX_EXPRESSIONS}"));
                    args.rest();
                }
                "expr" => conditions.extend(expression(&mut args)),
                _ => args.unknown_option(&["expr"]),
            }
            args.end();
        }
        conditions.retain(|condition| *condition != Condition::Fixed(true));
        if conditions.contains(&Condition::Fixed(false)) {
            let what = "no query comes here: an expression is false for all of them";
            Args::of(directive, cx.diagnostics).warning(what, "correct it, or remove the block");
        }
        if directive.options().is_empty() {
            Args::of(directive, cx.diagnostics)
                .warning("it has no expr: every query comes here", "add one, or remove the line");
        }
        Self { name, at: directive.at().clone(), conditions }
    }
}

impl Config {
    /// Whether it asks who a client is.
    pub fn names_clients(&self) -> bool {
        self.conditions.iter().any(Condition::names_clients)
    }

    /// Whether it takes every query.
    pub fn takes_all(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Whether no query is left for `later`: what `later` takes, this one takes too.
    pub fn shadows(&self, later: &Self) -> bool {
        self.conditions.iter().all(|condition| later.conditions.contains(condition))
    }

    /// What decides for each query.
    pub fn build(&self, clients: &Arc<Clients>) -> View {
        View {
            name: Arc::clone(&self.name),
            at: self.at.clone(),
            conditions: self.conditions.clone().into(),
            clients: self.names_clients().then(|| Arc::clone(clients)),
        }
    }
}

/// Reads the expression that a line consists of.
fn expression(args: &mut Args<'_, '_>) -> Option<Condition> {
    let words = args.rest();
    if words.is_empty() {
        args.error("the expression is missing", "one as incidr(client_ip(), '10.0.0.0/8')");
        return None;
    }
    // The parser has reported these.
    if words.iter().any(Token::is_placeholder) {
        return None;
    }
    let text = words.iter().map(Token::as_str).collect::<Vec<_>>().join(" ");
    let mut doubts = Vec::new();
    let condition = compile(&text, &mut doubts);
    for Wrong { at, what, expected } in doubts {
        args.warning(format!("character {at}: {what}"), format!("write {expected}"));
    }
    condition
        .map_err(|Wrong { at, what, expected }| {
            args.error(format!("character {at}: {what}"), expected);
        })
        .ok()
}

fn name(word: &str) -> Result<Arc<str>, ValueError> {
    let good = (1..=MAX_NAME).contains(&word.len()) && !word.chars().any(char::is_control);
    match good {
        true => Ok(word.into()),
        false => Err(ValueError::new(
            format!("{word:?} is no name of a view"),
            format!("at most {MAX_NAME} octets"),
        )),
    }
}
