//! The few nftables expressions that the rules are made of.

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Cmp, DataAttribute, ExpressionAttribute, Expressions, ListAttribute, Meta, MetaKey, Operator,
    Payload, Register,
};
use serde::Serialize;

/// One step of a rule. Loads go to register 1, comparisons read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Expr {
    /// Loads the layer 3 protocol (`NFPROTO_*`).
    NfProto,
    /// Loads the layer 4 protocol (`IPPROTO_*`).
    L4Proto,
    /// Loads bytes of the IP header.
    Network {
        /// The first byte.
        offset: u32,
        /// How many.
        len: u32,
    },
    /// Loads bytes of the UDP or TCP header.
    Transport {
        /// The first byte.
        offset: u32,
        /// How many.
        len: u32,
    },
    /// Leaves the rule unless the register holds these bytes.
    Equals(Vec<u8>),
    /// Counts packets and bytes.
    Counter,
    /// Marks the packet as not to be tracked.
    Notrack,
    /// Anything that we never write.
    Foreign(String),
}

impl Expr {
    /// Its wire form. A foreign one has none, since it is never written.
    pub(crate) fn encode(&self) -> Option<ListAttribute<ExpressionAttribute>> {
        Some(match self {
            Self::NfProto => meta(MetaKey::Nfproto),
            Self::L4Proto => meta(MetaKey::L4Proto),
            Self::Network { offset, len } => payload(NETWORK_HEADER, *offset, *len),
            Self::Transport { offset, len } => payload(TRANSPORT_HEADER, *offset, *len),
            Self::Equals(bytes) => Expressions::Cmp(vec![
                Cmp::SourceRegister(Register::Reg1),
                Cmp::Op(Operator::Equal),
                Cmp::Data(DataAttribute::Value(bytes.clone())),
            ])
            .into(),
            Self::Counter => Expressions::Other {
                expression_type: "counter".into(),
                attributes: Vec::<DefaultNla>::new(),
            }
            .into(),
            // Takes no data at all, not even an empty attribute.
            Self::Notrack => {
                ListAttribute::Element(vec![ExpressionAttribute::Name("notrack".into())])
            }
            Self::Foreign(_) => return None,
        })
    }

    /// Reads one back; whatever is not exactly as [`Expr::encode`] writes it is foreign.
    pub(crate) fn decode(element: &ListAttribute<ExpressionAttribute>) -> Self {
        let ListAttribute::Element(attributes) = element else {
            return Self::Foreign("no element".into());
        };
        let mut name = None;
        let mut data = None;
        for attribute in attributes {
            match attribute {
                ExpressionAttribute::Name(text) => name = Some(text.as_str()),
                ExpressionAttribute::Data(expressions) => data = Some(expressions),
                _ => {}
            }
        }
        let known = match (name, data) {
            (Some("counter"), _) => Some(Self::Counter),
            (Some("notrack"), _) => Some(Self::Notrack),
            (_, Some(Expressions::Meta(attributes))) => decode_meta(attributes),
            (_, Some(Expressions::Payload(attributes))) => decode_payload(attributes),
            (_, Some(Expressions::Cmp(attributes))) => decode_cmp(attributes),
            _ => None,
        };
        known.unwrap_or_else(|| Self::Foreign(name.unwrap_or("nameless").into()))
    }
}

fn meta(key: MetaKey) -> ListAttribute<ExpressionAttribute> {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(Register::Reg1)]).into()
}

fn payload(base: u32, offset: u32, len: u32) -> ListAttribute<ExpressionAttribute> {
    Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(len),
    ])
    .into()
}

fn decode_meta(attributes: &[Meta]) -> Option<Expr> {
    if !attributes.contains(&Meta::DestinationRegister(Register::Reg1)) {
        return None;
    }
    attributes.iter().find_map(|attribute| match attribute {
        Meta::Key(MetaKey::Nfproto) => Some(Expr::NfProto),
        Meta::Key(MetaKey::L4Proto) => Some(Expr::L4Proto),
        _ => None,
    })
}

fn decode_payload(attributes: &[Payload]) -> Option<Expr> {
    if !attributes.contains(&Payload::DestinationRegister(Register::Reg1)) {
        return None;
    }
    let (mut base, mut from, mut length) = (None, None, None);
    for attribute in attributes {
        match attribute {
            Payload::Base(value) => base = Some(*value),
            Payload::Offset(value) => from = Some(*value),
            Payload::Len(value) => length = Some(*value),
            _ => {}
        }
    }
    let (offset, len) = (from?, length?);
    match base? {
        NETWORK_HEADER => Some(Expr::Network { offset, len }),
        TRANSPORT_HEADER => Some(Expr::Transport { offset, len }),
        _ => None,
    }
}

fn decode_cmp(attributes: &[Cmp]) -> Option<Expr> {
    let ours = [Cmp::SourceRegister(Register::Reg1), Cmp::Op(Operator::Equal)];
    if !ours.iter().all(|attribute| attributes.contains(attribute)) {
        return None;
    }
    attributes.iter().find_map(|attribute| match attribute {
        Cmp::Data(DataAttribute::Value(bytes)) => Some(Expr::Equals(bytes.clone())),
        _ => None,
    })
}

/// `NFT_PAYLOAD_NETWORK_HEADER`.
const NETWORK_HEADER: u32 = 1;
/// `NFT_PAYLOAD_TRANSPORT_HEADER`.
const TRANSPORT_HEADER: u32 = 2;
