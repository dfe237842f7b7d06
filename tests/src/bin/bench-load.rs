//! Asks a server as fast as it answers, or at a rate, and counts answers and how long they took. Prints one line of JSON.
//! It never sleeps while it measures: a server that had to wake its client would pay for that.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use socket2::SockRef;
use tests::bench::datagrams::{BATCH, Batch};
use tests::bench::latency::Latencies;
use tests::bench::questions::{Questions, Random};

const USAGE: &str = "usage: bench-load --server ADDRESS:PORT --workload NAME [OPTION]...
  --seconds S        ask for so long (default 2)
  --rate Q           so many a second, at random times; else as fast as answers come
  --outstanding N    queries under way at once without a rate (default 192)
  --sockets N        client sockets or connections (default 16)
  --seed N           chooses among the questions
  --tcp              over TCP
  --warm             ask each question of the workload once, until it is answered";

/// Datagrams sent with one call to one socket.
const SEND: usize = 16;
/// A query without an answer is lost after this.
const LOST: Duration = Duration::from_secs(2);
/// Queries under way on one socket at a rate.
const WINDOW: usize = 8_192;

struct Arguments {
    server: SocketAddrV4,
    workload: String,
    seconds: f64,
    rate: Option<f64>,
    outstanding: usize,
    sockets: usize,
    seed: u64,
    tcp: bool,
    warm: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = parse(std::env::args().skip(1))?;
    let questions = match arguments.warm {
        true => Some(Questions::warm(&arguments.workload)),
        false => Questions::of(&arguments.workload, arguments.seed),
    };
    let questions = questions.with_context(|| format!("no workload {}", arguments.workload))?;
    let tally = match (arguments.warm, arguments.tcp) {
        (true, _) => warm(&arguments, &questions)?,
        (_, true) => streams(&arguments, questions)?,
        (_, false) => Load::new(&arguments, questions)?.run()?,
    };
    println!("{}", tally.line());
    Ok(())
}

/// What came of it all.
#[derive(Default)]
struct Tally {
    sent: u64,
    answered: u64,
    lost: u64,
    rcodes: [u64; 16],
    latencies: Latencies,
    seconds: f64,
}

impl Tally {
    fn answer(&mut self, rcode: u8, nanos: u64) {
        self.answered += 1;
        self.rcodes[usize::from(rcode & 15)] += 1;
        self.latencies.add(nanos);
    }

    fn line(&self) -> serde_json::Value {
        let micros = |share| self.latencies.percentile(share).as_nanos() as f64 / 1e3;
        serde_json::json!({
            "sent": self.sent, "answered": self.answered, "lost": self.lost, "seconds": self.seconds,
            "noerror": self.rcodes[0], "servfail": self.rcodes[2], "nxdomain": self.rcodes[3],
            "refused": self.rcodes[5],
            "p50_us": micros(0.5), "p99_us": micros(0.99), "p999_us": micros(0.999),
        })
    }
}

/// One client socket. The id of a query is the number of the slot that holds the time when it was sent.
struct Client {
    socket: UdpSocket,
    sent: Vec<u64>,
    free: Vec<u16>,
}

impl Client {
    fn new(server: SocketAddrV4, window: usize) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        SockRef::from(&socket).set_recv_buffer_size(4 << 20)?;
        let window = window.clamp(1, usize::from(u16::MAX));
        Ok(Self { socket, sent: vec![0; window], free: (0..window as u16).rev().collect() })
    }

    fn is_idle(&self) -> bool {
        self.free.len() == self.sent.len()
    }

    /// Takes answers in. Returns how many there were.
    fn receive(&mut self, batch: &mut Batch, start: Instant, tally: &mut Tally) -> usize {
        let Ok(n) = batch.receive(self.socket.as_fd(), false) else { return 0 };
        let now = start.elapsed().as_nanos() as u64;
        for i in 0..n {
            let packet = batch.packet(i);
            let (Some(id), Some(flags)) = (packet.first_chunk::<2>(), packet.get(3)) else {
                continue;
            };
            let slot = u16::from_be_bytes(*id);
            let Some(sent) = self.sent.get_mut(usize::from(slot)).filter(|sent| **sent != 0) else {
                continue;
            };
            tally.answer(*flags, now.saturating_sub(*sent));
            *sent = 0;
            self.free.push(slot);
        }
        n
    }

    /// Gives up what is too old.
    fn give_up(&mut self, now: u64, tally: &mut Tally) {
        for (slot, sent) in self.sent.iter_mut().enumerate() {
            if *sent != 0 && now > *sent + LOST.as_nanos() as u64 {
                *sent = 0;
                self.free.push(slot as u16);
                tally.lost += 1;
            }
        }
    }
}

struct Load {
    clients: Vec<Client>,
    questions: Questions,
    random: Random,
    inbound: Batch,
    outbound: Batch,
    tally: Tally,
    length: Duration,
    gap: Option<f64>,
}

impl Load {
    fn new(arguments: &Arguments, questions: Questions) -> anyhow::Result<Self> {
        let window = match arguments.rate {
            Some(_) => WINDOW,
            None => arguments.outstanding.div_ceil(arguments.sockets),
        };
        let clients = (0..arguments.sockets).map(|_| Client::new(arguments.server, window));
        Ok(Self {
            clients: clients.collect::<Result<_, _>>()?,
            questions,
            random: Random(arguments.seed | 1),
            inbound: Batch::new(true),
            outbound: Batch::new(true),
            tally: Tally::default(),
            length: Duration::from_secs_f64(arguments.seconds),
            gap: arguments.rate.map(|rate| 1e9 / rate),
        })
    }

    fn run(mut self) -> anyhow::Result<Tally> {
        let start = Instant::now();
        // Time zero would look like no time at all.
        let (mut due, mut turn, mut look) = (1.0_f64, 0_usize, LOST / 8);
        loop {
            let elapsed = start.elapsed();
            let sending = elapsed < self.length;
            let idle = self.clients.iter().all(Client::is_idle);
            if !sending && (idle || elapsed > self.length + LOST / 2) {
                break;
            }
            let now = elapsed.as_nanos() as u64;
            if elapsed > look {
                look += LOST / 8;
                self.clients.iter_mut().for_each(|c| c.give_up(now, &mut self.tally));
            }
            if let Some(gap) = self.gap.filter(|_| sending) {
                while due as u64 <= now {
                    turn = (turn + 1) % self.clients.len();
                    self.send_one(turn, due as u64);
                    due += -self.random.unit().ln() * gap;
                }
            }
            let mut moved = 0;
            for number in 0..self.clients.len() {
                let client = &mut self.clients[number];
                if !client.is_idle() {
                    moved += client.receive(&mut self.inbound, start, &mut self.tally);
                }
                if sending && self.gap.is_none() {
                    moved += self.send_batch(number, now.max(1));
                }
            }
            if moved == 0 && self.gap.is_none() {
                // The upstream shares this processor.
                std::thread::yield_now();
            }
        }
        self.tally.seconds = start.elapsed().min(self.length).as_secs_f64();
        self.tally.lost = self.tally.sent - self.tally.answered;
        Ok(self.tally)
    }

    fn send_one(&mut self, number: usize, time: u64) {
        let client = &mut self.clients[number];
        let Some(slot) = client.free.pop() else { return };
        let mut packet = [0; 512];
        let len = self.questions.write_next(&mut packet, slot);
        self.tally.sent += 1;
        match client.socket.send(&packet[..len]) {
            Ok(_) => client.sent[usize::from(slot)] = time,
            Err(_) => client.free.push(slot),
        }
    }

    fn send_batch(&mut self, number: usize, time: u64) -> usize {
        let client = &mut self.clients[number];
        let n = client.free.len().min(SEND).min(BATCH);
        let slots = client.free.split_off(client.free.len() - n);
        for (i, slot) in slots.iter().enumerate() {
            let len = self.questions.write_next(self.outbound.buffer(i), *slot);
            self.outbound.set_len(i, len);
        }
        let sent = self.outbound.send(client.socket.as_fd(), 0, n);
        slots[..sent].iter().for_each(|slot| client.sent[usize::from(*slot)] = time);
        client.free.extend_from_slice(&slots[sent..]);
        self.tally.sent += sent as u64;
        sent
    }
}

/// Asks each question once, and again what was not answered, gently.
fn warm(arguments: &Arguments, questions: &Questions) -> anyhow::Result<Tally> {
    let mut client = Client::new(arguments.server, 64)?;
    let (mut inbound, mut packet) = (Batch::new(true), [0; 512]);
    let mut tally = Tally::default();
    let start = Instant::now();
    let mut asked_in: Vec<usize> = vec![0; 64];
    let mut waiting: VecDeque<usize> = (0..questions.len()).collect();
    let end = start + Duration::from_secs(60);
    while !(waiting.is_empty() && client.is_idle()) && Instant::now() < end {
        client.receive(&mut inbound, start, &mut tally);
        let now = start.elapsed().as_nanos() as u64 + 1;
        for (slot, sent) in client.sent.iter_mut().enumerate() {
            if *sent != 0 && now > *sent + 500_000_000 {
                *sent = 0;
                client.free.push(slot as u16);
                waiting.push_back(asked_in[slot]);
            }
        }
        while let Some(slot) = client.free.pop() {
            let Some(number) = waiting.pop_front() else {
                client.free.push(slot);
                break;
            };
            let len = questions.write(number, &mut packet, slot);
            asked_in[usize::from(slot)] = number;
            // What cannot be sent now counts as lost, and comes again.
            let _ = client.socket.send(&packet[..len]);
            client.sent[usize::from(slot)] = now;
            tally.sent += 1;
        }
        std::thread::yield_now();
    }
    tally.seconds = start.elapsed().as_secs_f64();
    tally.lost = (questions.len() as u64).saturating_sub(tally.answered);
    Ok(tally)
}

/// One TCP connection with several queries under way.
struct Stream {
    stream: TcpStream,
    sent: VecDeque<(u16, u64)>,
    input: Vec<u8>,
    filled: usize,
    id: u16,
}

fn streams(arguments: &Arguments, mut questions: Questions) -> anyhow::Result<Tally> {
    let window = arguments.outstanding.div_ceil(arguments.sockets);
    let mut tally = Tally::default();
    let all = (0..arguments.sockets).map(|_| Stream::connect(arguments.server));
    let mut all = all.collect::<Result<Vec<_>, _>>()?;
    let length = Duration::from_secs_f64(arguments.seconds);
    let start = Instant::now();
    loop {
        let elapsed = start.elapsed();
        let sending = elapsed < length;
        let idle = all.iter().all(|stream| stream.sent.is_empty());
        if !sending && (idle || elapsed > length + LOST / 2) {
            break;
        }
        let mut moved = 0;
        for stream in &mut all {
            let mut turn = || -> std::io::Result<()> {
                moved += stream.receive(start, &mut tally)?;
                while sending && stream.sent.len() < window && stream.ask(&mut questions, start)? {
                    tally.sent += 1;
                    moved += 1;
                }
                Ok(())
            };
            // Some servers end a connection that has asked much: what it waited for is lost.
            if turn().is_err() {
                *stream = Stream::connect(arguments.server)?;
            }
        }
        if moved == 0 {
            std::thread::yield_now();
        }
    }
    tally.seconds = start.elapsed().min(length).as_secs_f64();
    tally.lost = tally.sent - tally.answered;
    Ok(tally)
}

impl Stream {
    fn connect(server: SocketAddrV4) -> std::io::Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, sent: VecDeque::new(), input: vec![0; 65_536], filled: 0, id: 0 })
    }

    /// One query in one call, as resolvers of pods do. False: the connection takes no more for now.
    fn ask(&mut self, questions: &mut Questions, start: Instant) -> std::io::Result<bool> {
        let mut frame = [0; 512];
        self.id = self.id.wrapping_add(1);
        let len = questions.write_next(&mut frame[2..], self.id);
        frame[..2].copy_from_slice(&(len as u16).to_be_bytes());
        match self.stream.write(&frame[..len + 2]) {
            Ok(written) if written == len + 2 => {}
            Ok(_) => return Err(ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        self.sent.push_back((self.id, start.elapsed().as_nanos() as u64));
        Ok(true)
    }

    fn receive(&mut self, start: Instant, tally: &mut Tally) -> std::io::Result<usize> {
        match self.stream.read(&mut self.input[self.filled..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => self.filled += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error),
        }
        let now = start.elapsed().as_nanos() as u64;
        let (mut at, mut n) = (0, 0);
        while at + 2 <= self.filled {
            let len = usize::from(u16::from_be_bytes([self.input[at], self.input[at + 1]]));
            let Some(message) = self.input[..self.filled].get(at + 2..at + 2 + len) else { break };
            if let (Some(id), Some(flags)) = (message.first_chunk::<2>(), message.get(3)) {
                let id = u16::from_be_bytes(*id);
                if let Some(at) = self.sent.iter().position(|(sent, _)| *sent == id)
                    && let Some((_, sent)) = self.sent.remove(at)
                {
                    tally.answer(*flags, now.saturating_sub(sent));
                    n += 1;
                }
            }
            at += 2 + len;
        }
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(n)
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> anyhow::Result<Arguments> {
    let (mut server, mut workload) = (None, None);
    let (mut seconds, mut rate, mut outstanding, mut sockets) = (2.0, None, 192, 16);
    let (mut seed, mut tcp, mut warm) = (1, false, false);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} wants a value\n{USAGE}"));
        match word.as_str() {
            "--server" => server = Some(value()?.parse().context("--server")?),
            "--workload" => workload = Some(value()?),
            "--seconds" => seconds = value()?.parse().context("--seconds")?,
            "--rate" => rate = Some(value()?.parse().context("--rate")?),
            "--outstanding" => outstanding = value()?.parse().context("--outstanding")?,
            "--sockets" => sockets = value()?.parse::<usize>().context("--sockets")?.max(1),
            "--seed" => seed = value()?.parse().context("--seed")?,
            "--tcp" => tcp = true,
            "--warm" => warm = true,
            _ => bail!("unknown option {word}\n{USAGE}"),
        }
    }
    let server = server.context(USAGE)?;
    let workload = workload.context(USAGE)?;
    Ok(Arguments { server, workload, seconds, rate, outstanding, sockets, seed, tcp, warm })
}
