//! An expression as it was written: a tree of operators, calls and literals. The precedences are those of the language of
//! CoreDNS's expressions (expr-lang), in which `not` and `!` bind more tightly than every operator here.

use super::lexer::{Kind, SUPPORTED, Token, Wrong, lex};

/// How deep an expression may be nested.
pub(super) const MAX_DEPTH: usize = 32;

/// A part of an expression.
#[derive(Debug)]
pub(super) struct Node {
    /// At which character it stands; an operator's is that of its sign.
    pub(super) at: usize,
    pub(super) kind: NodeKind,
    /// How many nodes are above each other in it.
    height: usize,
}

/// What a part is.
#[derive(Debug)]
pub(super) enum NodeKind {
    Text(String),
    Number(i64),
    Bool(bool),
    List(Vec<Node>),
    Call(String, Vec<Node>),
    Not(Box<Node>),
    /// `and`: two or more.
    All(Vec<Node>),
    /// `or`: two or more.
    Any(Vec<Node>),
    Binary(Operator, Box<[Node; 2]>),
}

/// An operator between two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Matches,
    Contains,
    StartsWith,
    EndsWith,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Infix {
    Any,
    All,
    Plain(Operator),
}

const OR: u8 = 10;
const AND: u8 = 15;
const COMPARISON: u8 = 20;
const NOT: u8 = 50;

impl Operator {
    /// As it is written.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::In => "in",
            Self::Matches => "matches",
            Self::Contains => "contains",
            Self::StartsWith => "startsWith",
            Self::EndsWith => "endsWith",
        }
    }

    /// Whether `not` may stand before it, as in `not in`.
    fn takes_not(self) -> bool {
        matches!(
            self,
            Self::In | Self::Matches | Self::Contains | Self::StartsWith | Self::EndsWith
        )
    }
}

/// The operator that a word is, with its precedence.
fn infix(kind: &Kind) -> Option<(u8, Infix)> {
    use Operator as O;
    let word = match kind {
        Kind::Word(word) => word,
        Kind::Sign(sign) => *sign,
        _ => return None,
    };
    let operator = match word {
        "or" | "||" => return Some((OR, Infix::Any)),
        "and" | "&&" => return Some((AND, Infix::All)),
        "==" => O::Equal,
        "!=" => O::NotEqual,
        "<" => O::Less,
        "<=" => O::LessOrEqual,
        ">" => O::Greater,
        ">=" => O::GreaterOrEqual,
        "in" => O::In,
        "matches" => O::Matches,
        "contains" => O::Contains,
        "startsWith" => O::StartsWith,
        "endsWith" => O::EndsWith,
        _ => return None,
    };
    Some((COMPARISON, Infix::Plain(operator)))
}

/// Reads an expression.
///
/// # Errors
/// The first mistake.
pub(super) fn parse(text: &str) -> Result<Node, Wrong> {
    let tokens = lex(text)?;
    let mut parser = Parser { tokens: tokens.into_iter(), depth: 0 };
    let node = parser.expression(0)?;
    match parser.kind() {
        Kind::End => Ok(node),
        kind => Err(parser.wrong(format!("{kind} is not expected here"), SUPPORTED)),
    }
}

struct Parser {
    /// The words that are left. Never empty: [`Kind::End`] is never taken.
    tokens: std::vec::IntoIter<Token>,
    depth: usize,
}

impl Parser {
    fn kind(&self) -> &Kind {
        self.ahead(0)
    }

    fn ahead(&self, by: usize) -> &Kind {
        self.tokens.as_slice().get(by).map_or(&Kind::End, |token| &token.kind)
    }

    fn at(&self) -> usize {
        self.tokens.as_slice().first().map_or(1, |token| token.at)
    }

    fn wrong(&self, what: impl Into<String>, expected: impl Into<String>) -> Wrong {
        Wrong::new(self.at(), what, expected)
    }

    fn skip(&mut self, count: usize) {
        for _ in 0..count {
            if *self.kind() != Kind::End {
                self.tokens.next();
            }
        }
    }

    fn takes(&mut self, sign: &'static str) -> bool {
        let is = *self.kind() == Kind::Sign(sign);
        self.skip(usize::from(is));
        is
    }

    fn expect(&mut self, sign: &'static str) -> Result<(), Wrong> {
        if self.takes(sign) {
            return Ok(());
        }
        Err(self.wrong(format!("{} is not expected here", self.kind()), format!("{sign:?}")))
    }

    /// Reads operators of this precedence or a higher one, with what they stand between.
    fn expression(&mut self, least: u8) -> Result<Node, Wrong> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.too_deep(self.at()));
        }
        let mut left = self.operand()?;
        loop {
            let at = self.at();
            let is_negated = is_word(self.kind(), "not");
            let found = infix(self.ahead(usize::from(is_negated)));
            let takes_not =
                matches!(found, Some((_, Infix::Plain(operator))) if operator.takes_not());
            if is_negated && !takes_not {
                let expected = "in, matches, contains, startsWith or endsWith behind it";
                return Err(self.wrong("\"not\" is not expected here", expected));
            }
            let Some((precedence, infix)) = found.filter(|(precedence, _)| *precedence >= least)
            else {
                break;
            };
            self.skip(1 + usize::from(is_negated));
            let right = self.expression(precedence + 1)?;
            left = self.join(at, left, infix, right)?;
            if is_negated {
                left = self.node(at, NodeKind::Not(Box::new(left)))?;
            }
        }
        self.depth -= 1;
        Ok(left)
    }

    fn operand(&mut self) -> Result<Node, Wrong> {
        let at = self.at();
        let kind = match self.kind().clone() {
            Kind::Sign("(") => {
                self.skip(1);
                let inner = self.expression(0)?;
                self.expect(")")?;
                return Ok(inner);
            }
            Kind::Sign("[") => {
                self.skip(1);
                NodeKind::List(self.items("]")?)
            }
            Kind::Sign("!") => self.negation()?,
            Kind::Word(word) if word == "not" => self.negation()?,
            Kind::Sign("-") => match self.ahead(1) {
                Kind::Number(number) => {
                    let number = number.saturating_neg();
                    self.skip(2);
                    NodeKind::Number(number)
                }
                _ => return Err(self.wrong("\"-\" is no operator here", "a number behind it")),
            },
            Kind::Text(text) => {
                self.skip(1);
                NodeKind::Text(text)
            }
            Kind::Number(number) => {
                self.skip(1);
                NodeKind::Number(number)
            }
            Kind::Word(word) if word == "true" || word == "false" => {
                self.skip(1);
                NodeKind::Bool(word == "true")
            }
            Kind::Word(word) if infix(&Kind::Word(word.clone())).is_none() => {
                if *self.ahead(1) != Kind::Sign("(") {
                    let expected = format!(
                        "a function as {word}(), or a string in single quotes, as '{word}': the Corefile takes double quotes away"
                    );
                    return Err(self.wrong(format!("{word:?} is no value"), expected));
                }
                self.skip(2);
                NodeKind::Call(word, self.items(")")?)
            }
            kind => {
                let what = format!("a value is missing before {kind}");
                return Err(self.wrong(what, "a function, a string, a number or a list"));
            }
        };
        self.node(at, kind)
    }

    fn negation(&mut self) -> Result<NodeKind, Wrong> {
        self.skip(1);
        Ok(NodeKind::Not(Box::new(self.expression(NOT)?)))
    }

    /// What stands between commas, up to this sign.
    fn items(&mut self, end: &'static str) -> Result<Vec<Node>, Wrong> {
        let mut items = Vec::new();
        while !self.takes(end) {
            if !items.is_empty() {
                self.expect(",")?;
            }
            items.push(self.expression(0)?);
        }
        Ok(items)
    }

    /// Puts an operator between two nodes. A row of `and`, or of `or`, is one node.
    fn join(&self, at: usize, left: Node, infix: Infix, right: Node) -> Result<Node, Wrong> {
        let kind = match (infix, left.kind) {
            (Infix::Any, NodeKind::Any(mut nodes)) => {
                nodes.push(right);
                NodeKind::Any(nodes)
            }
            (Infix::All, NodeKind::All(mut nodes)) => {
                nodes.push(right);
                NodeKind::All(nodes)
            }
            (infix, kind) => {
                let left = Node { kind, ..left };
                match infix {
                    Infix::Any => NodeKind::Any(vec![left, right]),
                    Infix::All => NodeKind::All(vec![left, right]),
                    Infix::Plain(operator) => NodeKind::Binary(operator, Box::new([left, right])),
                }
            }
        };
        self.node(at, kind)
    }

    fn node(&self, at: usize, kind: NodeKind) -> Result<Node, Wrong> {
        let below = match &kind {
            NodeKind::Text(_) | NodeKind::Number(_) | NodeKind::Bool(_) => 0,
            NodeKind::Not(inner) => inner.height,
            NodeKind::Binary(_, sides) => sides.iter().map(|node| node.height).max().unwrap_or(0),
            NodeKind::List(nodes)
            | NodeKind::Call(_, nodes)
            | NodeKind::All(nodes)
            | NodeKind::Any(nodes) => nodes.iter().map(|node| node.height).max().unwrap_or(0),
        };
        if below >= MAX_DEPTH {
            return Err(self.too_deep(at));
        }
        Ok(Node { at, kind, height: below + 1 })
    }

    fn too_deep(&self, at: usize) -> Wrong {
        let expected = format!("at most {MAX_DEPTH} levels; several expr lines are ANDed");
        Wrong::new(at, "the expression is nested too deeply", expected)
    }
}

fn is_word(kind: &Kind, word: &str) -> bool {
    matches!(kind, Kind::Word(found) if found == word)
}
