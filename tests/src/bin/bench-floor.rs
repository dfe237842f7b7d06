//! What no server can be faster than: programs that make the system calls of one, and next to nothing else.
//!
//! ```text
//! bench-floor echo ADDRESS              flips one bit of each query
//! bench-floor table ADDRESS             finds each answer in a table: the floor of a cache
//! bench-floor forward ADDRESS UPSTREAM  sends each on, and the answer back: the floor of a forwarder
//! bench-floor tcp ADDRESS               echo over TCP
//! ```

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;

use anyhow::{Context, bail};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tests::bench::datagrams::{Batch, Peer};
use tests::bench::table::Table;

/// Sockets to the upstream: as many as dnsdist is given.
const UPSTREAM_SOCKETS: usize = 4;
/// Octets of one TCP connection's buffer.
const STREAM: usize = 65_536;
/// Marks of sockets that have no number.
const CLIENTS: u64 = u64::MAX;
const DATAGRAMS: u64 = u64::MAX - 1;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let address = |at: usize| -> anyhow::Result<SocketAddrV4> {
        let text = words.get(at).context("usage: bench-floor MODE ADDRESS:PORT [UPSTREAM:PORT]")?;
        text.parse().with_context(|| format!("{text} is no IPv4 address with a port"))
    };
    let socket = UdpSocket::bind(address(1)?)?;
    match words[0].as_str() {
        "echo" => serve(&socket, |_, len| len),
        "table" => {
            let mut table = Table::default();
            serve(&socket, |buffer, len| table.answer(buffer, len).unwrap_or(len))
        }
        "forward" => forward(&socket, address(2)?),
        "tcp" => streams(&socket, address(1)?),
        mode => bail!("unknown mode {mode}"),
    }
}

fn serve(
    socket: &UdpSocket,
    mut answer: impl FnMut(&mut [u8], usize) -> usize,
) -> anyhow::Result<()> {
    let mut batch = Batch::new(false);
    loop {
        let n = batch.receive(socket.as_fd(), true)?;
        for i in 0..n {
            let len = batch.packet(i).len();
            let buffer = batch.buffer(i);
            buffer[2] |= 0x80;
            let len = answer(buffer, len);
            batch.set_len(i, len);
        }
        batch.send_all(socket.as_fd(), n);
    }
}

/// The client that waits for the answer with an id of the floor's own.
#[derive(Clone, Copy, Default)]
struct Waiting {
    client: Peer,
    id: [u8; 2],
}

struct Upstream {
    socket: UdpSocket,
    next: u16,
    waiting: Vec<Waiting>,
}

fn forward(socket: &UdpSocket, address: SocketAddrV4) -> anyhow::Result<()> {
    socket.set_nonblocking(true)?;
    let mut upstreams = Vec::new();
    for _ in 0..UPSTREAM_SOCKETS {
        let to = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        to.connect(address)?;
        to.set_nonblocking(true)?;
        upstreams.push(Upstream { socket: to, next: 0, waiting: vec![Waiting::default(); 65_536] });
    }
    let (mut clients, mut answers) = (Batch::new(false), Batch::new(false));
    let (mut to_upstream, mut turn) = (Batch::new(true), 0);
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, CLIENTS))?;
    for (upstream, number) in upstreams.iter().zip(0..) {
        epoll.add(&upstream.socket, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
    }
    let mut events = [EpollEvent::empty(); 64];
    loop {
        let ready = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..ready] {
            if event.data() == CLIENTS {
                turn = (turn + 1) % UPSTREAM_SOCKETS;
                let Ok(n) = clients.receive(socket.as_fd(), false) else { continue };
                upstreams[turn].ask(&clients, n, &mut to_upstream);
                continue;
            }
            let upstream = &upstreams[event.data() as usize];
            let Ok(n) = answers.receive(upstream.socket.as_fd(), false) else { continue };
            for i in 0..n {
                let id = u16::from_be_bytes(answers.buffer(i)[..2].try_into().unwrap_or_default());
                let waiting = upstream.waiting[usize::from(id)];
                answers.buffer(i)[..2].copy_from_slice(&waiting.id);
                answers.set_peer(i, waiting.client);
            }
            answers.send_all(socket.as_fd(), n);
        }
    }
}

impl Upstream {
    fn ask(&mut self, clients: &Batch, n: usize, out: &mut Batch) {
        for i in 0..n {
            let query = clients.packet(i);
            let buffer = out.buffer(i);
            buffer[..query.len()].copy_from_slice(query);
            let id = buffer[..2].try_into().unwrap_or_default();
            self.waiting[usize::from(self.next)] = Waiting { client: clients.peer(i), id };
            buffer[..2].copy_from_slice(&self.next.to_be_bytes());
            out.set_len(i, query.len());
            self.next = self.next.wrapping_add(1);
        }
        out.send_all(self.socket.as_fd(), n);
    }
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    len: usize,
}

fn streams(socket: &UdpSocket, address: SocketAddrV4) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    socket.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, CLIENTS))?;
    // Datagrams too, so that a client that waits for the start sees it.
    epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, DATAGRAMS))?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut events = [EpollEvent::empty(); 64];
    loop {
        let ready = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..ready] {
            match event.data() {
                CLIENTS => {
                    let Ok((stream, _)) = listener.accept() else { continue };
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    let number = connections.len() as u64;
                    epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
                    connections.push(Some(Connection { stream, buffer: vec![0; STREAM], len: 0 }));
                }
                DATAGRAMS => {
                    let mut buffer = [0; 512];
                    let Ok((len, peer)) = socket.recv_from(&mut buffer) else { continue };
                    buffer[2] |= 0x80;
                    let _ = socket.send_to(&buffer[..len], peer);
                }
                number => {
                    let slot = &mut connections[number as usize];
                    // Closing the socket takes it off the epoll as well.
                    if slot.as_mut().is_some_and(|connection| connection.serve().is_err()) {
                        *slot = None;
                    }
                }
            }
        }
    }
}

impl Connection {
    fn serve(&mut self) -> std::io::Result<()> {
        match self.stream.read(&mut self.buffer[self.len..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => self.len += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut at = 0;
        while at + 2 <= self.len {
            let len = usize::from(u16::from_be_bytes([self.buffer[at], self.buffer[at + 1]]));
            if at + 2 + len > self.len {
                break;
            }
            if len > 2 {
                self.buffer[at + 4] |= 0x80;
            }
            at += 2 + len;
        }
        self.stream.write_all(&self.buffer[..at])?;
        self.buffer.copy_within(at..self.len, 0);
        self.len -= at;
        Ok(())
    }
}
