//! A DNS client for tests: UDP and TCP, EDNS to order, raw packets, retries until a deadline.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use socket2::{Domain, Socket, Type};
use thiserror::Error;

use crate::normal::Normal;
use crate::poll;

/// The UDP payload size that the conformance record was asked with.
pub const PAYLOAD: u16 = 4096;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// The deadline passed.
    #[error("no answer from {0} within {1:?}")]
    Silence(SocketAddr, Duration),
    /// The transport failed, as with a closed TCP port.
    #[error("cannot ask {0}: {1}")]
    Transport(SocketAddr, #[source] io::Error),
    /// The answer is not a DNS message, or not to this question.
    #[error("unusable answer from {0}: {1}")]
    Unusable(SocketAddr, String),
}

/// A question, with what goes around it.
#[derive(Debug, Clone)]
pub struct Question {
    message: Message,
}

/// A response, in every form that tests want.
#[derive(Debug, Clone)]
pub struct Answer {
    /// As it came.
    pub bytes: Vec<u8>,
    /// Decoded.
    pub message: Message,
    /// In the normal form of the record.
    pub normal: Normal,
    /// Whether it came over TCP.
    pub tcp: bool,
}

/// Asks one server.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    server: SocketAddr,
    deadline: Duration,
    retry: Duration,
    from: Option<IpAddr>,
}

impl Question {
    /// A recursive question of class IN with EDNS, payload 4096.
    ///
    /// # Panics
    /// When the name is none; a slip in the test.
    #[must_use]
    pub fn new(name: &str, kind: RecordType) -> Self {
        static ID: AtomicU16 = AtomicU16::new(1);
        // The step is odd, so all ids come up before one repeats, and they do not look like a counter.
        let id = ID.fetch_add(25_717, Ordering::Relaxed);
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        let mut name =
            Name::from_ascii(name).unwrap_or_else(|error| panic!("not a name: {name}: {error}"));
        name.set_fqdn(true);
        message.add_query(Query::query(name, kind));
        Self { message }.payload(PAYLOAD)
    }

    /// The same with this EDNS payload size.
    #[must_use]
    pub fn payload(self, payload: u16) -> Self {
        self.edns(|edns| {
            edns.set_max_payload(payload);
        })
    }

    /// The same with its EDNS changed.
    #[must_use]
    pub fn edns(mut self, change: impl FnOnce(&mut Edns)) -> Self {
        change(self.message.edns.get_or_insert_with(Edns::new));
        self
    }

    /// The same without EDNS.
    #[must_use]
    pub fn without_edns(mut self) -> Self {
        self.message.edns = None;
        self
    }

    /// The same with the whole message changed.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Message)) -> Self {
        change(&mut self.message);
        self
    }

    /// Its wire form.
    ///
    /// # Panics
    /// When it cannot be encoded.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.message.to_vec().unwrap_or_else(|error| panic!("cannot encode the question: {error}"))
    }

    /// Whether `answer` is to this question: id, QR, and the question section with its case.
    fn is_answered_by(&self, answer: &Message) -> Result<(), String> {
        if answer.metadata.id != self.message.metadata.id {
            return Err(format!("id {} for {}", answer.metadata.id, self.message.metadata.id));
        }
        if answer.metadata.message_type != MessageType::Response {
            return Err("not a response".into());
        }
        let same = match (answer.queries.first(), self.message.queries.first()) {
            (Some(a), Some(q)) => {
                a.query_type == q.query_type
                    && a.query_class == q.query_class
                    && a.name.eq_case(&q.name)
            }
            // An error about a question that could not be read may leave it out.
            (None, _) => true,
            (Some(_), None) => false,
        };
        if same { Ok(()) } else { Err(format!("another question: {:?}", answer.queries)) }
    }
}

impl Answer {
    fn read(bytes: Vec<u8>, tcp: bool) -> Result<Self, String> {
        let message = Message::from_vec(&bytes).map_err(|error| error.to_string())?;
        Ok(Self { normal: Normal::of(&message), bytes, message, tcp })
    }

    /// Whether the TC bit is set.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.message.metadata.truncation
    }

    /// The data of all answer records of this type, as text, sorted.
    #[must_use]
    pub fn data(&self, kind: RecordType) -> Vec<String> {
        let kind = format!(" {kind} ");
        let found =
            self.normal.answer.iter().filter_map(|line| Some(line.split_once(&kind)?.1.to_owned()));
        found.collect()
    }
}

impl Client {
    /// A client that waits up to 5 s and asks again each second.
    #[must_use]
    pub fn new(server: SocketAddr) -> Self {
        let (deadline, retry) = (Duration::from_secs(5), Duration::from_secs(1));
        Self { server, deadline, retry, from: None }
    }

    /// The same with another deadline, and no retry before it.
    #[must_use]
    pub fn within(self, deadline: Duration) -> Self {
        Self { deadline, retry: deadline, ..self }
    }

    /// The same from this address.
    #[must_use]
    pub fn from(self, address: IpAddr) -> Self {
        Self { from: Some(address), ..self }
    }

    /// Asks as a stub resolver does: UDP with payload 4096, TCP after TC.
    ///
    /// # Errors
    /// No answer, or none that can be used.
    pub fn ask(&self, name: &str, kind: RecordType) -> Result<Answer, AskError> {
        let question = Question::new(name, kind);
        let answer = self.udp(&question)?;
        if answer.is_truncated() { self.tcp(&question) } else { Ok(answer) }
    }

    /// Asks over UDP, again and again until the deadline.
    ///
    /// # Errors
    /// No answer, or none that can be used.
    pub fn udp(&self, question: &Question) -> Result<Answer, AskError> {
        let bytes = question.to_bytes();
        let end = Instant::now() + self.deadline;
        let socket = self.socket()?;
        let mut problem = None;
        while Instant::now() < end {
            // A closed port shows as an error on the next call; the server may still be starting.
            let _ = socket.send(&bytes);
            let again = (Instant::now() + self.retry).min(end);
            while let Some(received) = receive(&socket, again) {
                let checked = Answer::read(received, false)
                    .and_then(|answer| question.is_answered_by(&answer.message).map(|()| answer));
                match checked {
                    Ok(answer) => return Ok(answer),
                    Err(text) => problem = Some(text),
                }
            }
        }
        Err(match problem {
            Some(text) => AskError::Unusable(self.server, text),
            None => AskError::Silence(self.server, self.deadline),
        })
    }

    /// Asks over TCP.
    ///
    /// # Errors
    /// No connection, no answer, or none that can be used.
    pub fn tcp(&self, question: &Question) -> Result<Answer, AskError> {
        let mut connection = self.connect()?;
        connection.send(&question.to_bytes()).map_err(|e| AskError::Transport(self.server, e))?;
        let bytes = connection.receive().map_err(|e| AskError::Transport(self.server, e))?;
        let bytes = bytes.ok_or(AskError::Silence(self.server, self.deadline))?;
        Answer::read(bytes, true)
            .and_then(|answer| question.is_answered_by(&answer.message).map(|()| answer))
            .map_err(|text| AskError::Unusable(self.server, text))
    }

    /// Opens a TCP connection for several messages.
    ///
    /// # Errors
    /// No connection.
    pub fn connect(&self) -> Result<Connection, AskError> {
        let stream = self
            .stream()
            .and_then(|stream| {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(self.deadline))?;
                Ok(stream)
            })
            .map_err(|error| AskError::Transport(self.server, error))?;
        Ok(Connection { stream })
    }

    /// Sends any bytes in one datagram and returns what comes back before the deadline.
    #[must_use]
    pub fn raw_udp(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let socket = self.socket().ok()?;
        socket.send(bytes).ok()?;
        receive(&socket, Instant::now() + self.deadline)
    }

    fn stream(&self) -> io::Result<TcpStream> {
        let Some(from) = self.from else {
            return TcpStream::connect_timeout(&self.server, self.deadline);
        };
        let socket = Socket::new(Domain::for_address(self.server), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        socket.connect_timeout(&self.server.into(), self.deadline)?;
        Ok(socket.into())
    }

    fn socket(&self) -> Result<UdpSocket, AskError> {
        let any: IpAddr = match self.server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        UdpSocket::bind((self.from.unwrap_or(any), 0))
            .and_then(|socket| socket.connect(self.server).map(|()| socket))
            .map_err(|error| AskError::Transport(self.server, error))
    }
}

/// A TCP connection that carries DNS messages.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
}

impl Connection {
    /// Sends one message, length in front, in one segment.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let length = u16::try_from(message.len()).map_err(io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(message);
        self.stream.write_all(&framed)
    }

    /// Sends any bytes, without a length.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next message; `None` when the server closed the connection.
    ///
    /// # Errors
    /// The connection is broken, or the deadline passed.
    pub fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut length = [0; 2];
        match self.stream.read(&mut length[..1])? {
            0 => return Ok(None),
            _ => self.stream.read_exact(&mut length[1..])?,
        }
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        self.stream.read_exact(&mut message)?;
        Ok(Some(message))
    }
}

fn receive(socket: &UdpSocket, until: Instant) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 65_535];
    loop {
        let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        socket.set_read_timeout(Some(left)).ok()?;
        match socket.recv(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Some(buffer);
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                poll::pause(Duration::from_millis(5).min(left));
                return None;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}
