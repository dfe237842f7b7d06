//! A client that takes any octets for an answer, so that no parser, Nodens' or a library's, is involved.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use crate::client::{Client, Connection};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(6);

/// One question with its bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The name as text, with the final dot; without escapes.
    pub name: String,
    /// The type's number.
    pub kind: u16,
    /// DNSSEC OK, in the EDNS that every question has.
    pub dnssec_ok: bool,
    /// AD: the client understands AD in the answer.
    pub authentic: bool,
    /// CD: the client checks signatures itself.
    pub checking_disabled: bool,
}

/// Asks one server over UDP, and over one TCP connection where an answer is cut off.
pub struct Asker {
    server: SocketAddr,
    udp: UdpSocket,
    tcp: Option<Connection>,
    next: u16,
}

impl Ask {
    /// A question without bits.
    #[must_use]
    pub fn new(name: &str, kind: u16) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            dnssec_ok: false,
            authentic: false,
            checking_disabled: false,
        }
    }

    /// Its wire form with RD and an EDNS of 1,232 octets, as Nodens itself asks.
    #[must_use]
    pub fn packet(&self, id: u16) -> Vec<u8> {
        let mut packet = id.to_be_bytes().to_vec();
        let bits = u8::from(self.authentic) << 5 | u8::from(self.checking_disabled) << 4;
        packet.extend([1, bits, 0, 1, 0, 0, 0, 0, 0, 1]);
        for label in self.name.split('.').filter(|label| !label.is_empty()) {
            packet.push(u8::try_from(label.len()).unwrap_or(63));
            packet.extend(label.bytes());
        }
        packet.push(0);
        packet.extend(self.kind.to_be_bytes());
        packet.extend([0, 1]);
        let dnssec_ok = u8::from(self.dnssec_ok) << 7;
        packet.extend([0, 0, 41, 0x04, 0xd0, 0, 0, dnssec_ok, 0, 0, 0]);
        packet
    }
}

impl Asker {
    /// For this server.
    ///
    /// # Errors
    /// No socket.
    pub fn new(server: SocketAddr) -> io::Result<Self> {
        let udp = UdpSocket::bind("127.0.0.1:0")?;
        udp.connect(server)?;
        udp.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { server, udp, tcp: None, next: 1 })
    }

    /// The whole answer, as a stub resolver gets it.
    ///
    /// # Errors
    /// No answer in time.
    pub fn ask(&mut self, ask: &Ask) -> io::Result<Vec<u8>> {
        let answer = self.udp(ask)?;
        if answer.get(2).is_some_and(|flags| flags & 2 != 0) { self.tcp(ask) } else { Ok(answer) }
    }

    /// The answer over UDP.
    ///
    /// # Errors
    /// No answer in time.
    pub fn udp(&mut self, ask: &Ask) -> io::Result<Vec<u8>> {
        let packet = self.packet(ask);
        self.udp.send(&packet)?;
        let mut buffer = vec![0; 65_535];
        loop {
            let length = self.udp.recv(&mut buffer)?;
            if buffer.get(..2) == packet.get(..2) {
                buffer.truncate(length);
                return Ok(buffer);
            }
        }
    }

    /// The answer over TCP.
    ///
    /// # Errors
    /// No answer in time.
    pub fn tcp(&mut self, ask: &Ask) -> io::Result<Vec<u8>> {
        let packet = self.packet(ask);
        let mut connection = match self.tcp.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let answer = match connection.send(&packet).and_then(|()| connection.receive()) {
            Ok(Some(answer)) => answer,
            // It was idle, or has carried all that the server allows.
            _ => {
                connection = self.connect()?;
                connection.send(&packet)?;
                connection.receive()?.ok_or(io::ErrorKind::UnexpectedEof)?
            }
        };
        self.tcp = Some(connection);
        Ok(answer)
    }

    fn connect(&self) -> io::Result<Connection> {
        Client::new(self.server).within(PATIENCE).connect().map_err(io::Error::other)
    }

    fn packet(&mut self, ask: &Ask) -> Vec<u8> {
        self.next = self.next.wrapping_add(25_717);
        ask.packet(self.next)
    }
}
