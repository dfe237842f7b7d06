//! What nftables does to a query that comes from another host or a pod: the rules of all tables,
//! followed as the kernel follows them, as far as they can be told without the packet.
//!
//! Rules of the legacy iptables modules are not seen by nftables and are not followed.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, Nla as _};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute,
    Lookup, Meta, MetaKey, Operator, Payload, Register, Verdict, VerdictAttribute,
};

use crate::kernel::nfnetlink::exchange;
use crate::nft::{Base, Origin, decode_base, decode_expressions, dump_chain, dump_every_chain};

/// A query to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Where it goes.
    pub to: IpAddr,
    /// TCP instead of UDP.
    pub tcp: bool,
    /// The port.
    pub port: u16,
}

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Every chain lets it through.
    Accepted,
    /// This chain drops it for certain.
    Dropped(String),
    /// This chain drops it unless one of its rules accepts it for a reason that cannot be told
    /// here, such as the interface that it comes from.
    Unclear(String),
    /// This chain has a rule for its port that drops it for a reason that cannot be told here.
    MayDrop(String),
}

/// Follows a packet through every chain at prerouting and input.
///
/// # Errors
///
/// The rules cannot be read: no permission (CAP_NET_ADMIN), or no nftables.
pub fn follow(packet: Packet) -> io::Result<Decision> {
    let chains = exchange(vec![dump_every_chain()])?;
    let mut bases: Vec<Base> = chains.iter().filter_map(decode_base).collect();
    bases.retain(|base| base.sees(packet.to.is_ipv4()));
    bases.sort_by_key(|base| (base.hook, base.priority));
    let mut walk = Walk { packet, chains: BTreeMap::new(), steps: 0, read: &read_chain };
    let mut unclear = None;
    for base in bases {
        match walk.base(&base)? {
            Decision::Accepted => {}
            dropped @ Decision::Dropped(_) => return Ok(dropped),
            other => unclear = unclear.or(Some(other)),
        }
    }
    Ok(unclear.unwrap_or(Decision::Accepted))
}

fn read_chain(origin: &Origin) -> io::Result<Vec<Rule>> {
    let replies = exchange(vec![dump_chain(origin)])?;
    let rules = replies.iter().filter_map(|reply| decode_expressions(reply, origin));
    Ok(rules.take(MAX_RULES).collect())
}

type Rule = Vec<ListAttribute<ExpressionAttribute>>;

/// Rules of one chain that are looked at.
const MAX_RULES: usize = 10_000;
/// Rules that are followed in all.
const MAX_STEPS: usize = 50_000;
/// Chains that lead to chains; the kernel allows 16.
const MAX_DEPTH: usize = 16;

struct Walk<'a> {
    packet: Packet,
    chains: BTreeMap<Origin, Vec<Rule>>,
    steps: usize,
    read: &'a dyn Fn(&Origin) -> io::Result<Vec<Rule>>,
}

/// Where a chain leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Accept,
    Drop,
    /// To the rule behind the one that led here, or to the policy.
    Return,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Effect {
    /// Nothing that ends the chain.
    None,
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
    /// Perhaps the packet is accepted here.
    MayAccept,
    /// Perhaps it is dropped here, by a rule for its port.
    MayDrop,
    /// Perhaps something that is not told here.
    Unknown,
}

/// What rules do that cannot be told for certain.
#[derive(Debug, Clone, Copy, Default)]
struct May {
    accept: bool,
    drop: bool,
}

impl Walk<'_> {
    fn base(&mut self, base: &Base) -> io::Result<Decision> {
        let mut may = May::default();
        let end = self.chain(&base.origin, 0, &mut may)?;
        let drops = match end {
            End::Drop => true,
            End::Accept => false,
            End::Return => base.drops,
        };
        let chain = base.origin.to_string();
        Ok(match (drops, may) {
            (false, May { drop: false, .. }) => Decision::Accepted,
            (false, May { drop: true, .. }) => Decision::MayDrop(chain),
            (true, May { accept: true, .. }) => Decision::Unclear(chain),
            (true, May { accept: false, .. }) => Decision::Dropped(chain),
        })
    }

    fn chain(&mut self, origin: &Origin, depth: usize, may: &mut May) -> io::Result<End> {
        if !self.chains.contains_key(origin) {
            let rules = (self.read)(origin)?;
            self.chains.insert(origin.clone(), rules);
        }
        let rules = self.chains.get(origin).cloned().unwrap_or_default();
        for rule in &rules {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                may.accept = true;
                return Ok(End::Return);
            }
            let goes = |name: String| Origin { chain: name, ..origin.clone() };
            match effect(rule, self.packet) {
                Effect::None | Effect::Unknown => {}
                Effect::Accept => return Ok(End::Accept),
                Effect::Drop => return Ok(End::Drop),
                Effect::Return => return Ok(End::Return),
                Effect::MayAccept => may.accept = true,
                Effect::MayDrop => may.drop = true,
                Effect::Jump(name) | Effect::Goto(name) if depth >= MAX_DEPTH => {
                    let _ = name;
                    may.accept = true;
                }
                Effect::Jump(name) => match self.chain(&goes(name), depth + 1, may)? {
                    End::Return => {}
                    end => return Ok(end),
                },
                Effect::Goto(name) => return self.chain(&goes(name), depth + 1, may),
            }
        }
        Ok(End::Return)
    }
}

/// What a register holds, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Known(Vec<u8>),
    /// An interface other than `lo`, by number or name.
    Elsewhere,
    /// The bits of a connection's state, of a packet that begins one or is not tracked.
    Fresh,
    Unknown,
}

/// Whether the packet passes a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Match {
    Yes,
    No,
    Perhaps,
}

fn effect(rule: &Rule, packet: Packet) -> Effect {
    let mut registers: BTreeMap<u32, Value> = BTreeMap::new();
    let (mut certain, mut names_port) = (true, false);
    for element in rule {
        let ListAttribute::Element(attributes) = element else { continue };
        let mut name = "";
        let mut data = None;
        for attribute in attributes {
            match attribute {
                ExpressionAttribute::Name(text) => name = text,
                ExpressionAttribute::Data(expression) => data = Some(expression),
                _ => {}
            }
        }
        match data {
            Some(Expressions::Meta(meta)) => load_meta(meta, packet, &mut registers),
            Some(Expressions::Payload(payload)) => {
                names_port |= is_port(payload);
                load_payload(payload, packet, &mut registers);
            }
            Some(Expressions::Bitwise(bitwise)) => mask(bitwise, &mut registers),
            Some(Expressions::Other { expression_type, attributes }) if expression_type == "ct" => {
                load_ct(attributes, &mut registers);
            }
            Some(Expressions::Cmp(cmp)) => match compare(cmp, &registers) {
                Match::Yes => {}
                Match::No => return Effect::None,
                Match::Perhaps => certain = false,
            },
            Some(Expressions::Lookup(lookup)) => {
                // A map of verdicts may lead anywhere.
                if lookup.contains(&Lookup::DestinationRegister(Register::Verdict)) {
                    return Effect::MayAccept;
                }
                certain = false;
                registers.clear();
            }
            Some(Expressions::Immediate(immediate)) => match verdict(immediate) {
                Some(effect) => return if certain { effect } else { perhaps(effect, names_port) },
                None => registers.clear(),
            },
            Some(Expressions::Other { expression_type, attributes })
                if expression_type == "target" && is_reject(attributes) =>
            {
                return if certain { Effect::Drop } else { perhaps(Effect::Drop, names_port) };
            }
            _ => match name {
                // These let every packet pass on.
                "counter" | "log" | "notrack" | "quota" | "dynset" | "flow_offload" => {}
                "reject" if certain => return Effect::Drop,
                "reject" => return perhaps(Effect::Drop, names_port),
                "masq" | "nat" | "redir" | "tproxy" => {
                    return if certain { Effect::Accept } else { Effect::MayAccept };
                }
                // `fib`, `limit`, the matches and targets of iptables-nft and whatever is new. Some load
                // a register.
                "target" => return Effect::Unknown,
                _ => {
                    certain = false;
                    registers.clear();
                }
            },
        }
    }
    Effect::None
}

/// The same where it is not certain that the packet comes so far.
fn perhaps(effect: Effect, names_port: bool) -> Effect {
    match effect {
        Effect::Accept | Effect::Jump(_) | Effect::Goto(_) => Effect::MayAccept,
        Effect::Drop if names_port => Effect::MayDrop,
        _ => Effect::Unknown,
    }
}

/// Whether the port of the packet is loaded, which a rule for other ports compares without a match.
fn is_port(payload: &[Payload]) -> bool {
    payload.contains(&Payload::Base(TRANSPORT)) && payload.contains(&Payload::Offset(2))
}

/// Whether this is iptables' target REJECT, which is no expression of nftables' own.
fn is_reject(attributes: &[DefaultNla]) -> bool {
    attributes.iter().filter(|attribute| attribute.kind() == NFTA_TARGET_NAME).any(|attribute| {
        let mut octets = vec![0; attribute.value_len()];
        attribute.emit_value(&mut octets);
        octets.starts_with(b"REJECT\0")
    })
}

const NFTA_TARGET_NAME: u16 = 1;

/// Registers of 16 octets are made of four of 4.
fn register(register: Register) -> u32 {
    match u32::from(register) {
        long @ 1..=4 => 8 + (long - 1) * 4,
        short => short,
    }
}

fn load_meta(meta: &[Meta], packet: Packet, registers: &mut BTreeMap<u32, Value>) {
    let (mut key, mut to) = (None, None);
    for attribute in meta {
        match attribute {
            Meta::Key(wanted) => key = Some(*wanted),
            Meta::DestinationRegister(register) => to = Some(*register),
            _ => {}
        }
    }
    let value = match key {
        Some(MetaKey::Nfproto) => {
            let family = if packet.to.is_ipv4() { libc::NFPROTO_IPV4 } else { libc::NFPROTO_IPV6 };
            Value::Known(vec![family as u8])
        }
        Some(MetaKey::L4Proto) => {
            let protocol = if packet.tcp { libc::IPPROTO_TCP } else { libc::IPPROTO_UDP };
            Value::Known(vec![protocol as u8])
        }
        Some(MetaKey::Iif | MetaKey::Iifname) => Value::Elsewhere,
        _ => Value::Unknown,
    };
    if let Some(to) = to {
        registers.insert(register(to), value);
    }
}

fn load_payload(payload: &[Payload], packet: Packet, registers: &mut BTreeMap<u32, Value>) {
    let (mut base, mut offset, mut length, mut to) = (None, None, None, None);
    for attribute in payload {
        match attribute {
            Payload::Base(value) => base = Some(*value),
            Payload::Offset(value) => offset = Some(*value),
            Payload::Len(value) => length = Some(*value),
            Payload::DestinationRegister(register) => to = Some(*register),
            _ => {}
        }
    }
    let protocol = if packet.tcp { libc::IPPROTO_TCP } else { libc::IPPROTO_UDP };
    let value = match (base, offset, length, packet.to) {
        (Some(TRANSPORT), Some(2), Some(2), _) => Value::Known(packet.port.to_be_bytes().to_vec()),
        (Some(NETWORK), Some(9), Some(1), IpAddr::V4(_)) => Value::Known(vec![protocol as u8]),
        (Some(NETWORK), Some(6), Some(1), IpAddr::V6(_)) => Value::Known(vec![protocol as u8]),
        // The address, or its first octets where a prefix is meant.
        (Some(NETWORK), Some(16), Some(length @ 1..=4), IpAddr::V4(ip)) => {
            first(&ip.octets(), length)
        }
        (Some(NETWORK), Some(24), Some(length @ 1..=16), IpAddr::V6(ip)) => {
            first(&ip.octets(), length)
        }
        _ => Value::Unknown,
    };
    if let Some(to) = to {
        registers.insert(register(to), value);
    }
}

fn first(octets: &[u8], length: u32) -> Value {
    octets.get(..length as usize).map_or(Value::Unknown, |octets| Value::Known(octets.to_vec()))
}

/// Loads something of the tracked connection. Only its state is known.
fn load_ct(attributes: &[DefaultNla], registers: &mut BTreeMap<u32, Value>) {
    let number = |kind: u16| {
        let attribute = attributes.iter().find(|attribute| attribute.kind() == kind)?;
        let mut octets = vec![0; attribute.value_len()];
        attribute.emit_value(&mut octets);
        Some(u32::from_be_bytes(octets.try_into().ok()?))
    };
    let Some(to) = number(NFTA_CT_DREG) else { return };
    let value = match number(NFTA_CT_KEY) {
        Some(NFT_CT_STATE) => Value::Fresh,
        _ => Value::Unknown,
    };
    registers.insert(register(Register::from(to)), value);
}

const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
const NFT_CT_STATE: u32 = 0;
/// The bits of `new` and `untracked`.
const FRESH: u32 = 8 | 64;

/// `(register & mask) ^ xor`.
fn mask(bitwise: &[Bitwise], registers: &mut BTreeMap<u32, Value>) {
    let (mut from, mut to, mut and, mut xor, mut plain) = (None, None, None, None, true);
    for attribute in bitwise {
        match attribute {
            Bitwise::SourceRegister(register) => from = Some(*register),
            Bitwise::DestinationRegister(register) => to = Some(*register),
            Bitwise::Mask(DataAttribute::Value(octets)) => and = Some(octets),
            Bitwise::Xor(DataAttribute::Value(octets)) => xor = Some(octets),
            // Shifts, and operations between registers.
            Bitwise::Op(operation) => plain &= *operation == 0,
            Bitwise::SourceRegister2(_) => plain = false,
            _ => {}
        }
    }
    let Some(to) = to else { return };
    let value = match (from.and_then(|from| registers.get(&register(from))), and, xor) {
        (Some(Value::Known(value)), Some(and), Some(xor))
            if plain && and.len() == value.len() && xor.len() == value.len() =>
        {
            let octets = value.iter().zip(and).zip(xor);
            Value::Known(octets.map(|((value, and), xor)| value & and ^ xor).collect())
        }
        (Some(Value::Fresh), Some(and), Some(xor)) if plain => match bits(and) {
            Some(wanted) if wanted & FRESH == 0 => Value::Known(xor.clone()),
            _ => Value::Unknown,
        },
        _ => Value::Unknown,
    };
    registers.insert(register(to), value);
}

fn bits(octets: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(octets.try_into().ok()?))
}

/// `NFT_PAYLOAD_NETWORK_HEADER`.
const NETWORK: u32 = 1;
/// `NFT_PAYLOAD_TRANSPORT_HEADER`.
const TRANSPORT: u32 = 2;

fn compare(cmp: &[Cmp], registers: &BTreeMap<u32, Value>) -> Match {
    let (mut from, mut operator, mut wanted) = (None, None, None);
    for attribute in cmp {
        match attribute {
            Cmp::SourceRegister(register) => from = Some(*register),
            Cmp::Op(op) => operator = Some(*op),
            Cmp::Data(DataAttribute::Value(octets)) => wanted = Some(octets),
            _ => {}
        }
    }
    let (Some(from), Some(operator), Some(wanted)) = (from, operator, wanted) else {
        return Match::Perhaps;
    };
    let told = |is: bool| if is { Match::Yes } else { Match::No };
    match (registers.get(&register(from)), operator) {
        (Some(Value::Known(value)), Operator::Equal) => told(value == wanted),
        (Some(Value::Known(value)), Operator::NotEqual) => told(value != wanted),
        (Some(Value::Known(value)), Operator::LessThan) => told(value < wanted),
        (Some(Value::Known(value)), Operator::LessThanEqual) => told(value <= wanted),
        (Some(Value::Known(value)), Operator::GreaterThan) => told(value > wanted),
        (Some(Value::Known(value)), Operator::GreatherThanEqual) => told(value >= wanted),
        (Some(Value::Elsewhere), Operator::Equal) if is_lo(wanted) => Match::No,
        (Some(Value::Elsewhere), Operator::NotEqual) if is_lo(wanted) => Match::Yes,
        (Some(Value::Fresh), Operator::Equal) if bits(wanted).is_some_and(|b| b & FRESH == 0) => {
            Match::No
        }
        _ => Match::Perhaps,
    }
}

/// The name or the number of the loopback interface, which is 1 in every network namespace.
fn is_lo(octets: &[u8]) -> bool {
    let end = octets.iter().position(|&octet| octet == 0).unwrap_or(octets.len());
    octets.get(..end) == Some(b"lo") || octets == 1u32.to_ne_bytes()
}

fn verdict(immediate: &[Immediate]) -> Option<Effect> {
    let verdict = immediate.iter().find_map(|attribute| match attribute {
        Immediate::Data(DataAttribute::Verdict(verdict)) => Some(verdict),
        _ => None,
    })?;
    let (mut code, mut chain) = (None, None);
    for attribute in verdict {
        match attribute {
            VerdictAttribute::Code(verdict) => code = Some(*verdict),
            VerdictAttribute::Chain(name) => chain = Some(name.clone()),
            _ => {}
        }
    }
    Some(match (code?, chain) {
        (Verdict::Jump, Some(chain)) => Effect::Jump(chain),
        (Verdict::Goto, Some(chain)) => Effect::Goto(chain),
        (Verdict::Return, _) => Effect::Return,
        (Verdict::Other(code), _) if code == libc::NF_DROP as u32 => Effect::Drop,
        (Verdict::Other(code), _) if code == libc::NF_ACCEPT as u32 => Effect::Accept,
        _ => Effect::Unknown,
    })
}

#[cfg(test)]
#[path = "firewall_tests.rs"]
mod tests;
