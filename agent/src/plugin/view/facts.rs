//! What conditions read of a query. Texts are written on the stack, and only those that are asked for.

use std::cell::OnceCell;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};

use crate::cluster::object::NodePod;
use crate::plugin::pattern::NameText;
use crate::request::{Request, Transport};
use crate::wire::{MAX_MESSAGE, MIN_UDP_PAYLOAD, flags};

/// One of the two ends of a query's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Client,
    Server,
}

/// A text of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Text {
    /// One that was written, or that is the same for every query.
    Fixed(Box<str>),
    /// The name asked for, in lower case, with its final dot.
    Name,
    Type,
    Class,
    /// `udp` or `tcp`.
    Protocol,
    /// Without brackets.
    Address(End),
    Port(End),
    /// Of the Pod that asks; empty if it is not known.
    Namespace,
    /// Of the Pod that asks; empty if it is not known.
    PodName,
}

/// A number of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    Fixed(i64),
    /// Octets of a reply that the client takes.
    BufferSize,
    Id,
    Opcode,
    /// Octets of the query.
    Size,
}

/// A query, and who sent it.
pub(super) struct Facts<'r> {
    request: &'r Request<'r>,
    pod: Option<&'r NodePod>,
    name: OnceCell<NameText>,
    qtype: OnceCell<Short>,
    class: OnceCell<Short>,
    client: OnceCell<Short>,
    server: OnceCell<Short>,
    ports: [OnceCell<Short>; 2],
}

impl<'r> Facts<'r> {
    pub(super) fn new(request: &'r Request<'r>, pod: Option<&'r NodePod>) -> Self {
        Self {
            request,
            pod,
            name: OnceCell::new(),
            qtype: OnceCell::new(),
            class: OnceCell::new(),
            client: OnceCell::new(),
            server: OnceCell::new(),
            ports: [const { OnceCell::new() }; 2],
        }
    }

    pub(super) fn text<'f>(&'f self, text: &'f Text) -> &'f str {
        let query = &self.request.query;
        match text {
            Text::Fixed(text) => text,
            Text::Name => self.name.get_or_init(|| NameText::of(query.name())).as_str(),
            Text::Type => match query.qtype().name() {
                Some(name) => name,
                None => self.qtype.get_or_init(|| Short::of(query.qtype())).as_str(),
            },
            Text::Class => self.class.get_or_init(|| Short::of(query.qclass())).as_str(),
            Text::Protocol => self.request.origin.transport.name(),
            Text::Address(end) => {
                let cell = if *end == End::Client { &self.client } else { &self.server };
                cell.get_or_init(|| Short::of(self.address(*end))).as_str()
            }
            Text::Port(end) => {
                let [client, server] = &self.ports;
                let cell = if *end == End::Client { client } else { server };
                cell.get_or_init(|| Short::of(self.socket(*end).port())).as_str()
            }
            Text::Namespace => self.pod.map_or("", |pod| &pod.id.namespace),
            Text::PodName => self.pod.map_or("", |pod| &pod.id.name),
        }
    }

    pub(super) fn number(&self, number: Number) -> i64 {
        let query = &self.request.query;
        match number {
            Number::Fixed(number) => number,
            // Over TCP it is the greatest message, whatever EDNS says, as in CoreDNS.
            Number::BufferSize => match (self.request.origin.transport, query.edns()) {
                (Transport::Tcp, _) => MAX_MESSAGE as i64,
                (Transport::Udp, Some(edns)) => edns.udp_payload.into(),
                (Transport::Udp, None) => MIN_UDP_PAYLOAD.into(),
            },
            Number::Id => query.id().into(),
            Number::Opcode => ((query.flags() & flags::OPCODE) >> 11).into(),
            Number::Size => query.packet().len() as i64,
        }
    }

    /// An IPv4 address as such, even if the socket is of IPv6.
    pub(super) fn address(&self, end: End) -> IpAddr {
        self.socket(end).ip().to_canonical()
    }

    pub(super) fn dnssec_ok(&self) -> bool {
        self.request.query.dnssec_ok()
    }

    fn socket(&self, end: End) -> SocketAddr {
        match end {
            End::Client => self.request.origin.client,
            End::Server => self.request.origin.local,
        }
    }
}

/// A text of at most 46 octets of ASCII: an address, a port, `TYPE65535`.
struct Short {
    len: usize,
    octets: [u8; 46],
}

impl Short {
    fn of(value: impl fmt::Display) -> Self {
        let mut short = Self { len: 0, octets: [0; 46] };
        // What is written here is shorter.
        let _ = write!(short, "{value}");
        short
    }

    fn as_str(&self) -> &str {
        self.octets.get(..self.len).and_then(|octets| str::from_utf8(octets).ok()).unwrap_or("")
    }
}

impl fmt::Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        let to = self.octets.get_mut(self.len..end).ok_or(fmt::Error)?;
        to.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}
