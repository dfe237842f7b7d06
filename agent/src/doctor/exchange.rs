//! One query to one server, over UDP or TCP, and what came back: for what a resolver hides, such as truncation and the lack of
//! EDNS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

/// A question with the EDNS that goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The name.
    pub name: Name,
    /// The type.
    pub kind: RecordType,
    /// How many octets of UDP the answer may have; `None`: no EDNS.
    pub edns: Option<u16>,
    /// Whether signatures are asked for.
    pub dnssec: bool,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The message.
    pub message: Message,
    /// Its length in octets.
    pub octets: usize,
    /// How long it took.
    pub took: Duration,
}

/// Why nothing did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// Nothing within the time.
    #[error("no answer within {} ms", .0.as_millis())]
    Silent(Duration),
    /// What the kernel said.
    #[error("{0}")]
    Io(String),
    /// It is no message.
    #[error("the answer is no DNS message: {0}")]
    Malformed(String),
}

impl Question {
    /// Asks for the servers of the root, which every resolver knows; or for addresses of a name.
    pub fn outside(name: Option<&str>) -> Self {
        let name = name.and_then(|name| Name::from_ascii(name).ok());
        let (name, kind) = match name {
            Some(mut name) => {
                name.set_fqdn(true);
                (name, RecordType::A)
            }
            None => (Name::root(), RecordType::NS),
        };
        Self { name, kind, edns: None, dnssec: false }
    }

    /// Asks for what a server of this zone should know: where the zone begins, or what [`Question::outside`] asks.
    pub fn within(zone: &str, name: Option<&str>) -> Self {
        match Name::from_ascii(zone) {
            Ok(zone) if !zone.is_root() => {
                Self { name: zone, kind: RecordType::SOA, edns: None, dnssec: false }
            }
            _ => Self::outside(name),
        }
    }

    /// The same with EDNS.
    pub fn with_edns(&self, octets: u16) -> Self {
        Self { edns: Some(octets), ..self.clone() }
    }

    fn octets(&self, id: u16) -> Result<Vec<u8>, ExchangeError> {
        let mut message = Message::query();
        message.metadata.id = id;
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(self.name.clone(), self.kind));
        if let Some(octets) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(octets).set_dnssec_ok(self.dnssec);
            message.set_edns(edns);
        }
        message.to_vec().map_err(|error| ExchangeError::Malformed(error.to_string()))
    }
}

/// Over UDP; waits once, and sends nothing again.
pub async fn udp(
    server: SocketAddr,
    question: &Question,
    patience: Duration,
) -> Result<Answer, ExchangeError> {
    let (id, begun) = (id(), Instant::now());
    let octets = question.octets(id)?;
    let any: IpAddr = match server.ip() {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let exchange = async {
        let socket = UdpSocket::bind((any, 0)).await.map_err(io)?;
        socket.connect(server).await.map_err(io)?;
        socket.send(&octets).await.map_err(io)?;
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let length = socket.recv(&mut buffer).await.map_err(io)?;
            let received = buffer.get(..length).unwrap_or_default();
            // What is for another query is not looked at: anybody can send it.
            if received.get(..2) == Some(&id.to_be_bytes()) {
                return read(received, begun);
            }
        }
    };
    let done = tokio::time::timeout(patience, exchange).await;
    done.unwrap_or(Err(ExchangeError::Silent(patience)))
}

/// Over TCP, on a connection of its own.
pub async fn tcp(
    server: SocketAddr,
    question: &Question,
    patience: Duration,
) -> Result<Answer, ExchangeError> {
    let (id, begun) = (id(), Instant::now());
    let octets = question.octets(id)?;
    let exchange = async {
        let mut stream = TcpStream::connect(server).await.map_err(io)?;
        let mut framed = u16::try_from(octets.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
        framed.extend_from_slice(&octets);
        stream.write_all(&framed).await.map_err(io)?;
        let length = stream.read_u16().await.map_err(io)?;
        let mut received = vec![0; usize::from(length)];
        stream.read_exact(&mut received).await.map_err(io)?;
        read(&received, begun)
    };
    let done = tokio::time::timeout(patience, exchange).await;
    done.unwrap_or(Err(ExchangeError::Silent(patience)))
}

fn read(octets: &[u8], begun: Instant) -> Result<Answer, ExchangeError> {
    let message = Message::from_vec(octets);
    let message = message.map_err(|error| ExchangeError::Malformed(error.to_string()))?;
    Ok(Answer { message, octets: octets.len(), took: begun.elapsed() })
}

fn io(error: std::io::Error) -> ExchangeError {
    ExchangeError::Io(error.to_string())
}

/// Not to be guessed, so that nobody else can answer.
fn id() -> u16 {
    getrandom::u32().unwrap_or_default() as u16
}
