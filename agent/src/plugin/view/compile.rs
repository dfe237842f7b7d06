//! From an expression as it was written to a condition: functions, types, networks and regular expressions are checked here,
//! so that nothing is left to go wrong when a query comes.

use std::net::IpAddr;

use super::condition::{Comparison, Condition, Pattern};
use super::facts::{End, Number, Text};
use super::lexer::Wrong;
use super::parser::{Node, NodeKind, Operator, parse};
use ipnet::{IpNet, Ipv4Net};

use crate::config::nearest_of;
use crate::config::value::network;
use crate::plugin::pattern::regex;
use crate::wire::RecordType;

/// Every function.
const FUNCTIONS: [&str; 15] = [
    "bufsize",
    "class",
    "client_ip",
    "do",
    "id",
    "incidr",
    "metadata",
    "name",
    "opcode",
    "port",
    "proto",
    "server_ip",
    "server_port",
    "size",
    "type",
];

const A_CONDITION: &str = "a condition, as name() == 'example.org.'";

/// Reads an expression. What is legal and hardly meant is added to `doubts`.
///
/// # Errors
/// The first mistake.
pub(super) fn compile(text: &str, doubts: &mut Vec<Wrong>) -> Result<Condition, Wrong> {
    let node = parse(text)?;
    Compiler { doubts }.condition(&node)
}

/// A value with its type.
#[derive(Debug)]
enum Value {
    Condition(Condition),
    Text(Text),
    Number(Number),
    List,
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Condition(_) => "true or false",
            Self::Text(_) => "a string",
            Self::Number(_) => "a number",
            Self::List => "a list",
        }
    }
}

struct Compiler<'d> {
    doubts: &'d mut Vec<Wrong>,
}

impl Compiler<'_> {
    fn condition(&mut self, node: &Node) -> Result<Condition, Wrong> {
        match self.value(node)? {
            Value::Condition(condition) => Ok(condition),
            other => Err(Wrong::new(
                node.at,
                format!("{} is {}", shown(node), other.kind()),
                A_CONDITION,
            )),
        }
    }

    fn text(&mut self, node: &Node, of: Operator) -> Result<Text, Wrong> {
        match self.value(node)? {
            Value::Text(text) => Ok(text),
            other => Err(Wrong::new(
                node.at,
                format!("{} is {}", shown(node), other.kind()),
                format!("a string beside {}", of.name()),
            )),
        }
    }

    fn value(&mut self, node: &Node) -> Result<Value, Wrong> {
        Ok(match &node.kind {
            NodeKind::Text(text) => Value::Text(Text::Fixed(text.as_str().into())),
            NodeKind::Number(number) => Value::Number(Number::Fixed(*number)),
            NodeKind::Bool(holds) => Value::Condition(Condition::Fixed(*holds)),
            NodeKind::List(_) => Value::List,
            NodeKind::Call(name, arguments) => self.call(node.at, name, arguments)?,
            NodeKind::Not(inner) => {
                let inner = self.negated(inner)?;
                Value::Condition(Condition::Not(Box::new(inner)).folded())
            }
            NodeKind::All(nodes) => Value::Condition(Condition::All(self.row(nodes)?).folded()),
            NodeKind::Any(nodes) => Value::Condition(Condition::Any(self.row(nodes)?).folded()),
            NodeKind::Binary(operator, sides) => {
                let [left, right] = &**sides;
                Value::Condition(self.binary(node.at, *operator, left, right)?.folded())
            }
        })
    }

    /// What `not` or `!` stands before.
    fn negated(&mut self, node: &Node) -> Result<Condition, Wrong> {
        self.condition(node).map_err(|wrong| match wrong.expected == A_CONDITION {
            true => Wrong { expected: "a condition behind it: not (...)".to_owned(), ..wrong },
            false => wrong,
        })
    }

    fn row(&mut self, nodes: &[Node]) -> Result<Box<[Condition]>, Wrong> {
        nodes.iter().map(|node| self.condition(node)).collect()
    }

    fn call(&mut self, at: usize, name: &str, arguments: &[Node]) -> Result<Value, Wrong> {
        let many = |expected: &str| {
            let what = format!("{name}() has {} arguments", arguments.len());
            Wrong::new(at, what, expected)
        };
        if let Some(value) = plain(name) {
            return if arguments.is_empty() { Ok(value) } else { Err(many("none")) };
        }
        match (name, arguments) {
            ("incidr", [address, within]) => in_network(address, within).map(Value::Condition),
            ("incidr", _) => Err(many("two: incidr(client_ip(), '10.0.0.0/8')")),
            ("metadata", [label]) => self.metadata(label).map(Value::Text),
            ("metadata", _) => Err(many("one: metadata('kubernetes/client-namespace')")),
            _ => {
                let expected = match nearest_of(name, FUNCTIONS.into_iter()) {
                    Some(near) => near.to_owned(),
                    None => format!("one of {}", FUNCTIONS.join(", ")),
                };
                Err(Wrong::new(at, format!("there is no function {name:?}"), expected))
            }
        }
    }

    fn metadata(&mut self, label: &Node) -> Result<Text, Wrong> {
        const LABELS: &str = "'kubernetes/client-namespace' or 'kubernetes/client-pod-name'";
        let NodeKind::Text(text) = &label.kind else {
            return Err(Wrong::new(label.at, format!("{} is no label", shown(label)), LABELS));
        };
        Ok(match text.as_str() {
            "kubernetes/client-namespace" => Text::Namespace,
            "kubernetes/client-pod-name" => Text::PodName,
            _ => {
                let what = format!("metadata({text:?}) is always empty: nothing sets it");
                self.doubts.push(Wrong::new(label.at, what, LABELS));
                Text::Fixed("".into())
            }
        })
    }

    fn binary(
        &mut self,
        at: usize,
        operator: Operator,
        left: &Node,
        right: &Node,
    ) -> Result<Condition, Wrong> {
        use Comparison as C;
        let texts = |compiler: &mut Self, comparison| {
            let one = compiler.text(left, operator)?;
            let other = compiler.text(right, operator)?;
            compiler.doubt_part(right.at, &one, comparison, &other);
            Ok(Condition::Texts(one, comparison, other))
        };
        match operator {
            Operator::In => self.listed(left, right),
            Operator::Matches => {
                let text = self.text(left, operator)?;
                let NodeKind::Text(pattern) = &right.kind else {
                    let what = format!("{} is no regular expression", shown(right));
                    return Err(Wrong::new(right.at, what, "a string behind matches"));
                };
                let pattern =
                    regex(pattern).map_err(|error| Wrong::new(right.at, error.what, REGEX))?;
                Ok(Condition::Matches(text, Pattern(pattern)))
            }
            Operator::Contains => texts(self, C::Contains),
            Operator::StartsWith => texts(self, C::StartsWith),
            Operator::EndsWith => texts(self, C::EndsWith),
            Operator::Equal => self.equal(at, left, right),
            Operator::NotEqual => {
                let equal = self.equal(at, left, right)?.folded();
                Ok(Condition::Not(Box::new(equal)))
            }
            Operator::Less => self.ordered(at, left, C::Less, right),
            Operator::LessOrEqual => self.ordered(at, left, C::LessOrEqual, right),
            Operator::Greater => self.ordered(at, left, C::Greater, right),
            Operator::GreaterOrEqual => self.ordered(at, left, C::GreaterOrEqual, right),
        }
    }

    fn equal(&mut self, at: usize, left: &Node, right: &Node) -> Result<Condition, Wrong> {
        match (self.value(left)?, self.value(right)?) {
            (Value::Condition(one), Value::Condition(other)) => {
                Ok(Condition::Same(Box::new([one, other])))
            }
            (Value::Text(Text::Address(end)), Value::Text(Text::Fixed(text))) => {
                Ok(Condition::AddressIn(end, [address(right.at, &text)?].into()))
            }
            (Value::Text(Text::Fixed(text)), Value::Text(Text::Address(end))) => {
                Ok(Condition::AddressIn(end, [address(left.at, &text)?].into()))
            }
            (Value::Text(one), Value::Text(other)) => {
                self.doubt(right.at, &one, &other);
                self.doubt(left.at, &other, &one);
                Ok(Condition::Texts(one, Comparison::Equal, other))
            }
            (Value::Number(one), Value::Number(other)) => {
                Ok(Condition::Numbers(one, Comparison::Equal, other))
            }
            (one, other) => Err(mismatch(at, (left, &one), (right, &other))),
        }
    }

    fn ordered(
        &mut self,
        at: usize,
        left: &Node,
        comparison: Comparison,
        right: &Node,
    ) -> Result<Condition, Wrong> {
        match (self.value(left)?, self.value(right)?) {
            (Value::Text(one), Value::Text(other)) => Ok(Condition::Texts(one, comparison, other)),
            (Value::Number(one), Value::Number(other)) => {
                Ok(Condition::Numbers(one, comparison, other))
            }
            (one, other) => Err(mismatch(at, (left, &one), (right, &other))),
        }
    }

    /// `in`: the list is of literals of one type.
    fn listed(&mut self, left: &Node, right: &Node) -> Result<Condition, Wrong> {
        let NodeKind::List(items) = &right.kind else {
            let what = format!("{} is no list", shown(right));
            return Err(Wrong::new(right.at, what, "a list behind in, as in ['A', 'AAAA']"));
        };
        let wrong = |item: &Node, expected: &str| {
            Err(Wrong::new(item.at, format!("{} is in the list", shown(item)), expected))
        };
        match self.value(left)? {
            Value::Text(text) => {
                let mut texts: Vec<Box<str>> = Vec::with_capacity(items.len());
                let mut addresses = Vec::new();
                for item in items {
                    let NodeKind::Text(literal) = &item.kind else {
                        return wrong(item, "strings in single quotes, as the value before in");
                    };
                    if let Text::Address(_) = &text {
                        addresses.push(address(item.at, literal)?);
                    }
                    let literal = Text::Fixed(literal.as_str().into());
                    self.doubt(item.at, &text, &literal);
                    if let Text::Fixed(literal) = literal {
                        texts.push(literal);
                    }
                }
                texts.sort_unstable();
                addresses.sort_unstable();
                Ok(match text {
                    Text::Address(end) => Condition::AddressIn(end, addresses.into()),
                    text => Condition::TextIn(text, texts.into()),
                })
            }
            Value::Number(number) => {
                let mut numbers: Vec<i64> = Vec::with_capacity(items.len());
                for item in items {
                    let NodeKind::Number(literal) = &item.kind else {
                        return wrong(item, "whole numbers, as the value before in");
                    };
                    numbers.push(*literal);
                }
                numbers.sort_unstable();
                Ok(Condition::NumberIn(number, numbers.into()))
            }
            other => {
                let what = format!("{} is {}", shown(left), other.kind());
                Err(Wrong::new(left.at, what, "a string or a number before in"))
            }
        }
    }

    /// Notes a literal that is never a part of a name.
    fn doubt_part(&mut self, at: usize, value: &Text, comparison: Comparison, literal: &Text) {
        let (Text::Name, Text::Fixed(text)) = (value, literal) else { return };
        let lower = text.to_ascii_lowercase();
        let (what, right) = match comparison {
            Comparison::EndsWith if !text.is_empty() && !text.ends_with('.') => {
                ("name() ends with a dot", format!("{lower}."))
            }
            _ if *lower != **text => ("name() is in lower case", lower),
            _ => return,
        };
        self.doubts.push(Wrong::new(
            at,
            format!("{text:?} is never found: {what}"),
            format!("'{right}'"),
        ));
    }

    /// Notes a literal that the value beside it never equals.
    fn doubt(&mut self, at: usize, value: &Text, literal: &Text) {
        let Text::Fixed(text) = literal else { return };
        let (what, right) = match value {
            Text::Name => {
                let right = format!("{}.", text.trim_end_matches('.').to_ascii_lowercase());
                ("name() ends with a dot and is in lower case", right)
            }
            Text::Type => match RecordType::from_name(text) {
                Some(qtype) => ("type() is in capitals", qtype.to_string()),
                None => ("it is no type of records that has a name here", "TYPE65280".to_owned()),
            },
            Text::Protocol => {
                let right = if **text == *"udp" { "udp" } else { "tcp" };
                ("proto() is udp or tcp", right.to_owned())
            }
            _ => return,
        };
        if *right != **text {
            let what = format!("{text:?} is never equal: {what}");
            self.doubts.push(Wrong::new(at, what, format!("one as '{right}'")));
        }
    }
}

/// What is expected where a regular expression has a mistake.
const REGEX: &str =
    r"one as '^(.*)\\.example\\.org\\.$', with each backslash twice, as in every string";

/// The value of a function without arguments.
fn plain(name: &str) -> Option<Value> {
    Some(match name {
        "bufsize" => Value::Number(Number::BufferSize),
        "class" => Value::Text(Text::Class),
        "client_ip" => Value::Text(Text::Address(End::Client)),
        "do" => Value::Condition(Condition::DnssecOk),
        "id" => Value::Number(Number::Id),
        "name" => Value::Text(Text::Name),
        "opcode" => Value::Number(Number::Opcode),
        "port" => Value::Text(Text::Port(End::Client)),
        "proto" => Value::Text(Text::Protocol),
        "server_ip" => Value::Text(Text::Address(End::Server)),
        "server_port" => Value::Text(Text::Port(End::Server)),
        "size" => Value::Number(Number::Size),
        "type" => Value::Text(Text::Type),
        _ => return None,
    })
}

fn mismatch(at: usize, left: (&Node, &Value), right: (&Node, &Value)) -> Wrong {
    let told = |(node, value): (&Node, &Value)| format!("{} is {}", shown(node), value.kind());
    let expected = match (left.1, right.1) {
        (Value::List, _) | (_, Value::List) => "in before a list".to_owned(),
        (Value::Text(_), Value::Number(Number::Fixed(number)))
        | (Value::Number(Number::Fixed(number)), Value::Text(_)) => {
            format!("two values of one type: '{number}' in single quotes is a string")
        }
        (Value::Condition(_), Value::Condition(_)) => "two numbers or two strings".to_owned(),
        _ => "two values of one type".to_owned(),
    };
    Wrong::new(at, format!("{}, and {}", told(left), told(right)), expected)
}

/// `incidr`: both arguments are checked when the configuration is read.
fn in_network(address: &Node, within: &Node) -> Result<Condition, Wrong> {
    let end = match &address.kind {
        NodeKind::Call(name, arguments) if arguments.is_empty() && name == "client_ip" => {
            End::Client
        }
        NodeKind::Call(name, arguments) if arguments.is_empty() && name == "server_ip" => {
            End::Server
        }
        _ => {
            let what = format!("incidr() of {}", shown(address));
            return Err(Wrong::new(address.at, what, "client_ip() or server_ip() first"));
        }
    };
    const A_NETWORK: &str = "a network with its prefix length, as '10.0.0.0/8' or '10.1.2.3/32'";
    let NodeKind::Text(text) = &within.kind else {
        return Err(Wrong::new(within.at, format!("{} is no network", shown(within)), A_NETWORK));
    };
    let network = network(text).ok().filter(|_| text.contains('/'));
    let network = network
        .ok_or_else(|| Wrong::new(within.at, format!("{text:?} is not a network"), A_NETWORK))?;
    Ok(Condition::InNetwork(end, unmapped(network)))
}

/// A network of IPv4 addresses that are written as IPv6 ones, in IPv4: those of queries are canonical.
fn unmapped(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    let v4 = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    let v4 = v4.and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok());
    v4.map_or(network, IpNet::V4)
}

/// An address that another one is compared with; brackets may be around it.
fn address(at: usize, text: &str) -> Result<IpAddr, Wrong> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address: Option<IpAddr> = bare.parse().ok();
    address.map(|address| address.to_canonical()).ok_or_else(|| {
        let expected = "an address, as '10.0.0.9'; for networks incidr(client_ip(), '10.0.0.0/8')";
        Wrong::new(at, format!("{text:?} is not an address"), expected)
    })
}

/// A part of an expression in a message.
fn shown(node: &Node) -> String {
    match &node.kind {
        NodeKind::Text(text) => format!("'{text}'"),
        NodeKind::Number(number) => number.to_string(),
        NodeKind::Bool(holds) => holds.to_string(),
        NodeKind::List(_) => "[...]".to_owned(),
        NodeKind::Call(name, arguments) if arguments.is_empty() => format!("{name}()"),
        NodeKind::Call(name, _) => format!("{name}(...)"),
        NodeKind::Not(_) => "not ...".to_owned(),
        NodeKind::All(_) => "... and ...".to_owned(),
        NodeKind::Any(_) => "... or ...".to_owned(),
        NodeKind::Binary(operator, _) => format!("... {} ...", operator.name()),
    }
}
