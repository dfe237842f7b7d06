//! A message in the protobuf schema of dnstap (dnstap.info, `dnstap.proto`). A dozen fields are written, so that no generator is
//! needed for them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A client's query was received.
    ClientQuery = 5,
    /// A client's query was answered.
    ClientResponse = 6,
    /// A query was sent to an upstream.
    ForwarderQuery = 7,
    /// An upstream has answered.
    ForwarderResponse = 8,
}

impl Kind {
    /// All that are sent.
    pub const ALL: [Self; 4] =
        [Self::ClientQuery, Self::ClientResponse, Self::ForwarderQuery, Self::ForwarderResponse];

    /// The name in the schema.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClientQuery => "CLIENT_QUERY",
            Self::ClientResponse => "CLIENT_RESPONSE",
            Self::ForwarderQuery => "FORWARDER_QUERY",
            Self::ForwarderResponse => "FORWARDER_RESPONSE",
        }
    }
}

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Datagrams.
    Udp = 1,
    /// A stream in the clear.
    Tcp = 2,
    /// DNS over TLS.
    Dot = 3,
    /// DNS over HTTPS.
    Doh = 4,
    /// DNS over QUIC.
    Doq = 7,
}

/// What is the same in all messages of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// `identity`.
    pub identity: String,
    /// `version`.
    pub version: String,
}

/// One message.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// What happened.
    pub kind: Kind,
    /// How it travels.
    pub protocol: Protocol,
    /// Who asks; an upstream that is asked.
    pub query_address: SocketAddr,
    /// Who answers.
    pub response_address: Option<SocketAddr>,
    /// Since 1970.
    pub query_time: Duration,
    /// The query, if it is sent along.
    pub query: Option<&'a [u8]>,
    /// Since 1970.
    pub response_time: Option<Duration>,
    /// The response, if it is sent along.
    pub response: Option<&'a [u8]>,
}

impl Exchange<'_> {
    /// The whole payload of a data frame; `extra` is what the operator adds, empty: nothing.
    pub fn encode(&self, header: &Header, extra: &str) -> Vec<u8> {
        let mut message =
            Vec::with_capacity(128 + self.query.or(self.response).map_or(0, <[u8]>::len));
        number(1, self.kind as u64, &mut message);
        let query_ip = self.query_address.ip().to_canonical();
        number(2, if query_ip.is_ipv4() { 1 } else { 2 }, &mut message);
        number(3, self.protocol as u64, &mut message);
        address(4, query_ip, &mut message);
        if let Some(response) = self.response_address {
            address(5, response.ip().to_canonical(), &mut message);
        }
        number(6, self.query_address.port().into(), &mut message);
        if let Some(response) = self.response_address {
            number(7, response.port().into(), &mut message);
        }
        time(8, self.query_time, &mut message);
        if let Some(query) = self.query {
            bytes(10, query, &mut message);
        }
        if let Some(at) = self.response_time {
            time(12, at, &mut message);
        }
        if let Some(response) = self.response {
            bytes(14, response, &mut message);
        }
        let mut payload = Vec::with_capacity(message.len() + 64);
        let texts = [(1, &*header.identity), (2, &*header.version), (3, extra)];
        for (field, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            bytes(field, text.as_bytes(), &mut payload);
        }
        bytes(14, &message, &mut payload);
        // MESSAGE, the only type that there is.
        number(15, 1, &mut payload);
        payload
    }
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(field: u64, value: u64, out: &mut Vec<u8>) {
    varint(field << 3, out);
    varint(value, out);
}

fn bytes(field: u64, value: &[u8], out: &mut Vec<u8>) {
    varint(field << 3 | 2, out);
    varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

fn address(field: u64, ip: IpAddr, out: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => bytes(field, &ip.octets(), out),
        IpAddr::V6(ip) => bytes(field, &ip.octets(), out),
    }
}

/// Seconds as `uint64` and, in the next field, nanoseconds as `fixed32`.
fn time(field: u64, at: Duration, out: &mut Vec<u8>) {
    number(field, at.as_secs(), out);
    varint((field + 1) << 3 | 5, out);
    out.extend_from_slice(&at.subsec_nanos().to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_the_fields_of_the_schema() {
        let header = Header { identity: "n".into(), version: "v".into() };
        let exchange = Exchange {
            kind: Kind::ClientResponse,
            protocol: Protocol::Udp,
            query_address: "192.0.2.7:300".parse().unwrap(),
            response_address: None,
            query_time: Duration::new(1, 2),
            query: None,
            response_time: None,
            response: Some(b"ab"),
        };
        let message = [
            &[0x08, 6, 0x10, 1, 0x18, 1, 0x22, 4, 192, 0, 2, 7][..],
            &[0x30, 0xac, 2, 0x40, 1, 0x4d, 2, 0, 0, 0, 0x72, 2, b'a', b'b'],
        ]
        .concat();
        let len = message.len() as u8;
        let payload =
            [&[0x0a, 1, b'n', 0x12, 1, b'v', 0x72, len][..], &message, &[0x78, 1]].concat();
        assert_eq!(exchange.encode(&header, ""), payload);
    }
}
