//! `nodens lookup`: one question to one server, for an image that has no shell and no `dig`.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

use crate::args::Lookup;
use crate::upstream::resolv_conf::{MAX_FILE, ResolvConf};

/// The UDP payload that fits every path (DNS flag day 2020).
const PAYLOAD: u16 = 1_232;
/// Datagrams that are sent before the server counts as silent.
const TRIES: u32 = 3;
/// Where a pod's or a machine's own resolver is named.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// What was typed is no name.
    #[error("{0:?} is no domain name: {1}")]
    Name(String, String),
    /// What was typed is no record type.
    #[error("{0:?} is no record type; A, AAAA, SRV, PTR, TXT and others are")]
    Type(String),
    /// No server was named and there is none to be found.
    #[error("{RESOLV_CONF} names no server ({0}); name one with --server")]
    NoServer(String),
    /// The server cannot be asked.
    #[error(
        "cannot ask {0}: {1}; is it the address of a DNS server that can be reached from here?"
    )]
    Transport(SocketAddr, #[source] io::Error),
    /// The server answers nothing.
    #[error("{0} does not answer within {1:?}; `nodens status` on its node says whether it serves")]
    Silence(SocketAddr, Duration),
    /// The server answers nonsense.
    #[error("{0} sent something that is no answer to this question")]
    Nonsense(SocketAddr),
    /// The output cannot be written.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

/// Asks and prints the answer: its records as in a zone file, then who answered what in what time. True if there are records
/// in it.
///
/// # Errors
/// No answer came.
pub fn run(args: &Lookup, out: &mut impl Write) -> Result<bool, LookupError> {
    let server = match args.server {
        Some(server) => server.0,
        None => own_server()?,
    };
    let question = question(args)?;
    let begun = Instant::now();
    let mut over = "UDP";
    let mut answer = None;
    if !args.tcp {
        answer = Some(by_udp(server, &question, args.timeout.0)?);
    }
    if answer.as_ref().is_none_or(|answer| answer.metadata.truncation) {
        over = "TCP";
        answer = Some(by_tcp(server, &question, args.timeout.0)?);
    }
    let Some(answer) = answer else { return Ok(false) };
    let took = begun.elapsed();
    for record in &answer.answers {
        writeln!(out, "{}", escaped(&record.to_string()))?;
    }
    let code = answer.metadata.response_code;
    let records = answer.answers.len();
    writeln!(
        out,
        "; {code}, {records} {}, from {server} over {over} in {:.1} ms",
        if records == 1 { "record" } else { "records" },
        took.as_secs_f64() * 1_000.0
    )?;
    Ok(code == ResponseCode::NoError && records > 0)
}

/// Control characters of a text as in a zone file: a server shall not steer the terminal.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => escaped.push(c),
            c if c.is_control() => escaped.push_str(&format!("\\{:03}", u32::from(c))),
            c => escaped.push(c),
        }
    }
    escaped
}

fn question(args: &Lookup) -> Result<Message, LookupError> {
    let wrong =
        |error: &dyn std::fmt::Display| LookupError::Name(args.name.clone(), error.to_string());
    let mut name = Name::from_utf8(&args.name).map_err(|error| wrong(&error))?;
    name.set_fqdn(true);
    let kind: RecordType = args
        .record_type
        .to_ascii_uppercase()
        .parse()
        .map_err(|_| LookupError::Type(args.record_type.clone()))?;
    let mut id = [0; 2];
    getrandom::fill(&mut id)
        .map_err(|error| LookupError::Output(io::Error::other(error.to_string())))?;
    let mut message = Message::new(u16::from_be_bytes(id), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, kind));
    message.edns.get_or_insert_with(Edns::new).set_max_payload(PAYLOAD);
    Ok(message)
}

/// The first server of the resolv.conf here.
fn own_server() -> Result<SocketAddr, LookupError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        std::fs::File::open(RESOLV_CONF)?.take(MAX_FILE as u64).read_to_end(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|error| LookupError::NoServer(error.to_string()))?;
    let servers = ResolvConf::parse(&text).servers;
    servers.first().copied().ok_or_else(|| LookupError::NoServer("no nameserver line".to_owned()))
}

fn by_udp(
    server: SocketAddr,
    question: &Message,
    patience: Duration,
) -> Result<Message, LookupError> {
    let failed = |error| LookupError::Transport(server, error);
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).map_err(failed)?;
    socket.connect(server).map_err(failed)?;
    let octets = encode(question)?;
    let end = Instant::now() + patience;
    let mut buffer = [0; 65_535];
    for attempt in 1..=TRIES {
        socket.send(&octets).map_err(failed)?;
        // Each try has its part of the time that is left.
        let until =
            Instant::now() + end.saturating_duration_since(Instant::now()) / (TRIES + 1 - attempt);
        while let Some(left) = left(until) {
            socket.set_read_timeout(Some(left)).map_err(failed)?;
            match socket.recv(&mut buffer) {
                Ok(length) => {
                    // What somebody else has sent, or an older answer: the right one may follow.
                    let octets = buffer.get(..length).unwrap_or_default();
                    if let Some(answer) = decode(octets, question) {
                        return Ok(answer);
                    }
                }
                Err(error) if is_silence(&error) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
    Err(LookupError::Silence(server, patience))
}

fn by_tcp(
    server: SocketAddr,
    question: &Message,
    patience: Duration,
) -> Result<Message, LookupError> {
    let end = Instant::now() + patience;
    let failed = |error: io::Error| match is_silence(&error) {
        true => LookupError::Silence(server, patience),
        false => LookupError::Transport(server, error),
    };
    let mut stream = TcpStream::connect_timeout(&server, patience).map_err(failed)?;
    let octets = encode(question)?;
    let length = u16::try_from(octets.len()).unwrap_or(u16::MAX);
    let message = [&length.to_be_bytes()[..], &octets].concat();
    let mut exchange = || -> io::Result<Vec<u8>> {
        stream.set_write_timeout(Some(left(end).ok_or(io::ErrorKind::TimedOut)?))?;
        stream.write_all(&message)?;
        let mut length = [0; 2];
        read_all(&mut stream, &mut length, end)?;
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        read_all(&mut stream, &mut answer, end)?;
        Ok(answer)
    };
    let answer = exchange().map_err(failed)?;
    decode(&answer, question).ok_or(LookupError::Nonsense(server))
}

/// Fills `buffer` before `end`, however slowly the octets come.
fn read_all(stream: &mut TcpStream, mut buffer: &mut [u8], end: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        stream.set_read_timeout(Some(left(end).ok_or(io::ErrorKind::TimedOut)?))?;
        match stream.read(buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => buffer = buffer.get_mut(read..).unwrap_or_default(),
        }
    }
    Ok(())
}

/// The time until `end`; `None`: it has come.
fn left(end: Instant) -> Option<Duration> {
    Some(end.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
}

fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn encode(question: &Message) -> Result<Vec<u8>, LookupError> {
    question.to_vec().map_err(|error| LookupError::Output(io::Error::other(error)))
}

/// The message, if it is the answer to this question.
fn decode(octets: &[u8], question: &Message) -> Option<Message> {
    let answer = Message::from_vec(octets).ok()?;
    let is_answer = answer.metadata.id == question.metadata.id
        && answer.metadata.message_type == MessageType::Response
        // An error about a question that could not be read may leave it out (RFC 1035, section 4.1.1).
        && (answer.queries.is_empty() || answer.queries == question.queries);
    is_answer.then_some(answer)
}
