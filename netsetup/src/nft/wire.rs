//! The nfnetlink requests for the table, and the decoding of what the kernel dumps.

use std::fmt;

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainFlags, ChainMessage, ExpressionAttribute, Hook as HookAttribute,
    HookNumber, InetHookNumber, ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage,
    TableAttribute, TableFlags, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};

use super::{Chain, Expr, Hook, Rule, TABLE, Table};

/// The hook of packets to this node, in all three families.
const NF_INET_LOCAL_IN: u32 = 1;

/// A message for the kernel and its netlink flags.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) flags: u16,
    pub(crate) message: NetfilterMessage,
}

impl Request {
    fn new(flags: u16, message: NfTablesMessage) -> Self {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
        Self { flags: NLM_F_REQUEST | flags, message: NetfilterMessage::new(header, message) }
    }

    /// A dump of whatever `message` asks for.
    pub(crate) fn dump(message: NetfilterMessage) -> Self {
        Self { flags: NLM_F_REQUEST | NLM_F_DUMP, message }
    }

    fn batch(message: ControlMessage) -> Self {
        let header = NetfilterHeader::new(
            NetfilterProtoFamily::Unspec,
            0,
            libc::NFNL_SUBSYS_NFTABLES as u16,
        );
        Self { flags: NLM_F_REQUEST, message: NetfilterMessage::new(header, message) }
    }

    /// Appends its bytes to `buffer`, numbered `sequence`.
    pub(crate) fn write(self, sequence: u32, buffer: &mut Vec<u8>) {
        let mut header = NetlinkHeader::default();
        header.flags = self.flags;
        header.sequence_number = sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(self.message));
        message.finalize();
        let start = buffer.len();
        buffer.resize(start + message.buffer_len().next_multiple_of(4), 0);
        if let Some(end) = buffer.get_mut(start..) {
            message.serialize(end);
        }
    }
}

/// The transaction that makes the kernel's table equal to `table`, whether or not there is one
/// already.
///
/// The table is made before it is deleted because deleting a table that is not there would fail the
/// whole transaction; `NFT_MSG_DESTROYTABLE`, which would not, needs Linux 6.3.
pub(crate) fn replace(table: &Table) -> Vec<Request> {
    let mut requests =
        vec![Request::batch(ControlMessage::BatchBegin), new_table(), delete_table(), new_table()];
    for chain in &table.chains {
        requests.push(new_chain(chain));
        requests.extend(chain.rules.iter().map(|rule| new_rule(&chain.name, rule)));
    }
    seal(requests)
}

/// The transaction that leaves no table, whether or not there is one.
pub(crate) fn remove() -> Vec<Request> {
    seal(vec![Request::batch(ControlMessage::BatchBegin), new_table(), delete_table()])
}

/// Asks for the acknowledgement of the last message and ends the batch. The kernel reports errors
/// of every message, asked or not, so one acknowledgement is enough.
fn seal(mut requests: Vec<Request>) -> Vec<Request> {
    if let Some(last) = requests.last_mut() {
        last.flags |= NLM_F_ACK;
    }
    requests.push(Request::batch(ControlMessage::BatchEnd));
    requests
}

/// Asks for the table. The acknowledgement after it makes the end of the reply look like that of
/// every other request.
pub(crate) fn get_table() -> Request {
    let attributes = vec![TableAttribute::Name(TABLE.into())];
    Request::new(NLM_F_ACK, NfTablesMessage::GetTable(TableMessage { attributes }))
}

/// Asks for all chains of the family (old kernels cannot filter by table).
pub(crate) fn dump_chains() -> Request {
    Request::new(NLM_F_DUMP, NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() }))
}

/// Asks for the chains of every family and table.
pub(crate) fn dump_every_chain() -> Request {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let message = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
    Request::dump(NetfilterMessage::new(header, message))
}

/// The family, table and name of a chain that drops every packet to this node which no rule of it
/// accepts, as `nft` writes them; `None` for any other chain.
pub(crate) fn decode_input_drop(message: &NetfilterMessage) -> Option<String> {
    let family = match message.header.family {
        NetfilterProtoFamily::Inet => "inet",
        NetfilterProtoFamily::IPv4 => "ip",
        NetfilterProtoFamily::IPv6 => "ip6",
        _ => return None,
    };
    let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) = &message.inner else {
        return None;
    };
    let (mut table, mut name, mut at_input, mut drops) = ("", "", false, false);
    for attribute in &chain.attributes {
        match attribute {
            ChainAttribute::Table(text) => table = text,
            ChainAttribute::Name(text) => name = text,
            ChainAttribute::Hook(hook) => {
                let input = |attribute: &HookAttribute| match attribute {
                    HookAttribute::Number(number) => u32::from(*number) == NF_INET_LOCAL_IN,
                    _ => false,
                };
                at_input = hook.iter().any(input);
            }
            ChainAttribute::Policy(policy) => drops = *policy == libc::NF_DROP as u32,
            _ => {}
        }
    }
    (at_input && drops).then(|| format!("{family} {table} {name}"))
}

/// A chain by its family, table and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Origin {
    /// `inet`, `ip` or `ip6`.
    pub(crate) family: &'static str,
    pub(crate) table: String,
    pub(crate) chain: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.family, self.table, self.chain)
    }
}

/// A chain that packets to this node pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) origin: Origin,
    /// Prerouting or input: `NF_INET_PRE_ROUTING`, `NF_INET_LOCAL_IN`.
    pub(crate) hook: u32,
    pub(crate) priority: i32,
    /// Whether it drops what no rule decides.
    pub(crate) drops: bool,
}

impl Base {
    /// Whether packets of IPv4, or of IPv6, pass it.
    pub(crate) fn sees(&self, is_ipv4: bool) -> bool {
        match self.origin.family {
            "ip" => is_ipv4,
            "ip6" => !is_ipv4,
            _ => true,
        }
    }
}

/// Reads a chain that packets to this node pass; `None` for any other.
pub(crate) fn decode_base(message: &NetfilterMessage) -> Option<Base> {
    let family = family(message)?;
    let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) = &message.inner else {
        return None;
    };
    let (mut table, mut name) = (String::new(), String::new());
    let (mut hook, mut priority, mut drops) = (None, 0, false);
    for attribute in &chain.attributes {
        match attribute {
            ChainAttribute::Table(text) => table = text.clone(),
            ChainAttribute::Name(text) => name = text.clone(),
            ChainAttribute::Hook(attributes) => {
                for attribute in attributes {
                    match attribute {
                        HookAttribute::Number(number) => hook = Some(u32::from(*number)),
                        HookAttribute::Priority(value) => priority = *value as i32,
                        _ => {}
                    }
                }
            }
            ChainAttribute::Policy(policy) => drops = *policy == libc::NF_DROP as u32,
            _ => {}
        }
    }
    let hook = hook.filter(|hook| *hook <= NF_INET_LOCAL_IN)?;
    Some(Base { origin: Origin { family, table, chain: name }, hook, priority, drops })
}

fn family(message: &NetfilterMessage) -> Option<&'static str> {
    match message.header.family {
        NetfilterProtoFamily::Inet => Some("inet"),
        NetfilterProtoFamily::IPv4 => Some("ip"),
        NetfilterProtoFamily::IPv6 => Some("ip6"),
        _ => None,
    }
}

/// Asks for the rules of one chain, in order. Kernels that do not filter send more.
pub(crate) fn dump_chain(origin: &Origin) -> Request {
    let family = match origin.family {
        "ip" => NetfilterProtoFamily::IPv4,
        "ip6" => NetfilterProtoFamily::IPv6,
        _ => NetfilterProtoFamily::Inet,
    };
    let attributes = vec![
        RuleAttribute::Table(origin.table.clone()),
        RuleAttribute::Chain(origin.chain.clone()),
    ];
    let message = NfTablesMessage::GetRule(RuleMessage { attributes });
    Request::dump(NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message))
}

/// The steps of a rule of that chain; `None` for a rule of another.
pub(crate) fn decode_expressions(
    message: &NetfilterMessage,
    origin: &Origin,
) -> Option<Vec<ListAttribute<ExpressionAttribute>>> {
    let NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) = &message.inner else {
        return None;
    };
    let (mut table, mut chain, mut steps) = ("", "", Vec::new());
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Table(text) => table = text,
            RuleAttribute::Chain(text) => chain = text,
            RuleAttribute::Expressions(list) => steps = list.clone(),
            _ => {}
        }
    }
    let is_of_it = family(message) == Some(origin.family)
        && (table, chain) == (origin.table.as_str(), origin.chain.as_str());
    is_of_it.then_some(steps)
}

/// Asks for the table's rules, in order.
pub(crate) fn dump_rules() -> Request {
    let attributes = vec![RuleAttribute::Table(TABLE.into())];
    Request::new(NLM_F_DUMP, NfTablesMessage::GetRule(RuleMessage { attributes }))
}

/// Reads whether a table is dormant; `None` if the message is about another table.
pub(crate) fn decode_table(message: &NetfilterMessage) -> Option<bool> {
    let NetfilterMessageInner::NfTables(NfTablesMessage::NewTable(table)) = &message.inner else {
        return None;
    };
    let ours =
        table.attributes.iter().any(|a| matches!(a, TableAttribute::Name(name) if name == TABLE));
    let dormant = |a: &TableAttribute| match a {
        TableAttribute::Flags(flags) => flags.contains(TableFlags::Dormant),
        _ => false,
    };
    ours.then(|| table.attributes.iter().any(dormant))
}

/// Reads a chain, without its rules; `None` if it is another table's.
pub(crate) fn decode_chain(message: &NetfilterMessage) -> Option<Chain> {
    let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) = &message.inner else {
        return None;
    };
    let mut ours = false;
    let mut decoded = Chain { name: String::new(), hook: None, accepts: true, rules: Vec::new() };
    for attribute in &chain.attributes {
        match attribute {
            ChainAttribute::Table(name) => ours = name == TABLE,
            ChainAttribute::Name(name) => decoded.name = name.clone(),
            ChainAttribute::Hook(hook) => decoded.hook = decode_hook(hook),
            ChainAttribute::Policy(policy) => decoded.accepts = *policy == libc::NF_ACCEPT as u32,
            _ => {}
        }
    }
    ours.then_some(decoded)
}

/// Reads a rule and the name of its chain; `None` if it is another table's.
pub(crate) fn decode_rule(message: &NetfilterMessage) -> Option<(String, Rule)> {
    let NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) = &message.inner else {
        return None;
    };
    let mut ours = false;
    let mut chain = String::new();
    let mut decoded = Rule { exprs: Vec::new(), comment: None };
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Table(name) => ours = name == TABLE,
            RuleAttribute::Chain(name) => chain = name.clone(),
            RuleAttribute::Expressions(list) => {
                decoded.exprs = list.iter().map(Expr::decode).collect()
            }
            RuleAttribute::UserData(data) => decoded.comment = decode_comment(data),
            _ => {}
        }
    }
    ours.then_some((chain, decoded))
}

fn new_table() -> Request {
    let attributes = vec![TableAttribute::Name(TABLE.into())];
    Request::new(NLM_F_CREATE, NfTablesMessage::NewTable(TableMessage { attributes }))
}

fn delete_table() -> Request {
    let attributes = vec![TableAttribute::Name(TABLE.into())];
    Request::new(0, NfTablesMessage::DeleteTable(TableMessage { attributes }))
}

fn new_chain(chain: &Chain) -> Request {
    let mut attributes =
        vec![ChainAttribute::Table(TABLE.into()), ChainAttribute::Name(chain.name.clone())];
    if let Some((hook, priority)) = chain.hook {
        let number = match hook {
            Hook::Prerouting => InetHookNumber::PreRouting,
            Hook::Output => InetHookNumber::LocalOut,
            Hook::Other(number) => InetHookNumber::Other(number),
        };
        let number = HookAttribute::Number(HookNumber::Inet(number));
        // The attribute is a signed number on the wire.
        attributes
            .push(ChainAttribute::Hook(vec![number, HookAttribute::Priority(priority as u32)]));
        attributes.push(ChainAttribute::Type("filter".into()));
        attributes.push(ChainAttribute::Policy(libc::NF_ACCEPT as u32));
        attributes.push(ChainAttribute::Flags(ChainFlags::Base));
    }
    Request::new(NLM_F_CREATE, NfTablesMessage::NewChain(ChainMessage { attributes }))
}

fn new_rule(chain: &str, rule: &Rule) -> Request {
    let mut attributes = vec![
        RuleAttribute::Table(TABLE.into()),
        RuleAttribute::Chain(chain.into()),
        RuleAttribute::Expressions(rule.exprs.iter().filter_map(Expr::encode).collect()),
    ];
    if let Some(comment) = &rule.comment {
        attributes.push(RuleAttribute::UserData(encode_comment(comment)));
    }
    Request::new(NLM_F_CREATE | NLM_F_APPEND, NfTablesMessage::NewRule(RuleMessage { attributes }))
}

fn decode_hook(attributes: &[HookAttribute]) -> Option<(Hook, i32)> {
    let (mut hook, mut priority) = (None, None);
    for attribute in attributes {
        match attribute {
            HookAttribute::Number(HookNumber::Inet(InetHookNumber::PreRouting)) => {
                hook = Some(Hook::Prerouting)
            }
            HookAttribute::Number(HookNumber::Inet(InetHookNumber::LocalOut)) => {
                hook = Some(Hook::Output)
            }
            HookAttribute::Number(number) => hook = Some(Hook::Other((*number).into())),
            HookAttribute::Priority(value) => priority = Some(*value as i32),
            _ => {}
        }
    }
    Some((hook?, priority?))
}

/// A comment is user data that the kernel only keeps; this is nft's layout: type 0, length, text
/// with its NUL.
fn encode_comment(comment: &str) -> Vec<u8> {
    let text = comment.as_bytes();
    let text = text.get(..254).unwrap_or(text);
    let mut data = vec![0, text.len() as u8 + 1];
    data.extend_from_slice(text);
    data.push(0);
    data
}

fn decode_comment(data: &[u8]) -> Option<String> {
    let [0, len, rest @ ..] = data else {
        return None;
    };
    let text = rest.get(..usize::from(*len))?;
    String::from_utf8(text.strip_suffix(&[0]).unwrap_or(text).to_vec()).ok()
}

#[cfg(test)]
pub(super) fn absorb(table: &mut Table, request: Request) {
    let mut bytes = Vec::new();
    request.write(1, &mut bytes);
    let parsed = NetlinkMessage::<NetfilterMessage>::deserialize(&bytes).expect("own message");
    let NetlinkPayload::InnerMessage(message) = parsed.payload else { panic!("no message") };
    if let Some(chain) = decode_chain(&message) {
        table.chains.push(chain);
    } else if let Some((name, rule)) = decode_rule(&message) {
        table
            .chains
            .iter_mut()
            .find(|chain| chain.name == name)
            .expect("chain first")
            .rules
            .push(rule);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_survive() {
        assert_eq!(decode_comment(&encode_comment("a comment")).as_deref(), Some("a comment"));
        assert_eq!(decode_comment(&[0, 9, b'x']), None);
        assert_eq!(decode_comment(&[]), None);
    }

    #[test]
    fn a_transaction_ends_with_an_acknowledged_message_and_the_end() {
        let requests = remove();
        let flags: Vec<bool> = requests.iter().map(|r| r.flags & NLM_F_ACK != 0).collect();
        assert_eq!(flags, [false, false, true, false]);
    }
}
