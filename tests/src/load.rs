//! An open-loop client: it asks at a fixed rate whatever the server does, each query once, over many UDP sockets and some
//! persistent TCP connections, and says what was lost and how long answers took.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Mutex;

/// UDP sockets, each with a port of its own.
const SOCKETS: u64 = 32;
/// TCP connections.
const CONNECTIONS: u64 = 8;
/// How long each query may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Queries are sent in steps of this.
const STEP: Duration = Duration::from_millis(1);

/// Gives the wire form of query `n`, whose id is set by the caller.
pub type Questions = Arc<dyn Fn(u64) -> Vec<u8> + Send + Sync>;

/// What became of the queries.
#[derive(Debug, Default)]
pub struct Report {
    /// Queries that were asked.
    pub asked: usize,
    /// What was not answered with NOERROR and a record: when it was asked, and what came.
    pub lost: Vec<(Instant, String)>,
    /// When each answered query was asked, and how long its answer took.
    pub answers: Vec<(Instant, Duration)>,
}

impl Report {
    /// The time within which this share of the answers came that were asked for between two moments.
    #[must_use]
    pub fn quantile(&self, share: f64, from: Instant, to: Instant) -> Duration {
        let within = self.answers.iter().filter(|(at, _)| (from..to).contains(at));
        let mut took: Vec<Duration> = within.map(|(_, took)| *took).collect();
        took.sort_unstable();
        let place = (took.len() as f64 * share) as usize;
        took.get(place.min(took.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// The longest time without any answer between two moments.
    #[must_use]
    pub fn silence(&self, from: Instant, to: Instant) -> Duration {
        let came = self.answers.iter().map(|(at, took)| *at + *took);
        let mut came: Vec<Instant> = came.filter(|at| (from..to).contains(at)).collect();
        came.sort_unstable();
        let gaps = came.iter().zip(came.iter().skip(1)).map(|(one, next)| *next - *one);
        gaps.max().unwrap_or_default()
    }

    fn add(&mut self, other: Self) {
        self.asked += other.asked;
        self.lost.extend(other.lost);
        self.answers.extend(other.answers);
    }
}

/// A running load; stopped by [`Load::stop`].
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Report>,
}

impl Load {
    /// Asks `server` `per_second` queries, `over_tcp` of them over TCP.
    #[must_use]
    pub fn start(server: SocketAddr, per_second: u64, over_tcp: u64, questions: Questions) -> Self {
        Self::start_from(Ipv4Addr::LOCALHOST, server, per_second, over_tcp, questions)
    }

    /// The same from another address of the loopback interface: another client.
    #[must_use]
    pub fn start_from(
        source: Ipv4Addr,
        server: SocketAddr,
        per_second: u64,
        over_tcp: u64,
        questions: Questions,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ends = (source, server);
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
            runtime.block_on(run(ends, per_second, over_tcp, questions, stopped))
        });
        Self { stop, thread }
    }

    /// Stops asking, waits for what is under way, and reports.
    ///
    /// # Panics
    /// When the load itself has failed.
    #[must_use]
    pub fn stop(self) -> Report {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap_or_else(|_| panic!("the load has failed"))
    }
}

/// The client's address, and the server's.
type Ends = (Ipv4Addr, SocketAddr);

async fn run(
    ends: Ends,
    per_second: u64,
    over_tcp: u64,
    questions: Questions,
    stop: Arc<AtomicBool>,
) -> Report {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..SOCKETS {
        let pace = Pace::new(n, SOCKETS, per_second - over_tcp, &stop);
        tasks.spawn(ask_udp(ends, pace, Arc::clone(&questions)));
    }
    for n in 0..CONNECTIONS.min(over_tcp) {
        let pace = Pace::new(n, CONNECTIONS, over_tcp, &stop);
        tasks.spawn(ask_tcp(ends, pace, Arc::clone(&questions)));
    }
    let mut report = Report::default();
    while let Some(part) = tasks.join_next().await {
        report.add(part.unwrap_or_else(|error| panic!("a part of the load has failed: {error}")));
    }
    report
}

/// When one of several askers asks.
struct Pace {
    number: u64,
    per_second: u64,
    of: u64,
    begun: Instant,
    asked: u64,
    stop: Arc<AtomicBool>,
}

impl Pace {
    fn new(number: u64, of: u64, per_second: u64, stop: &Arc<AtomicBool>) -> Self {
        Self { number, per_second, of, begun: Instant::now(), asked: 0, stop: Arc::clone(stop) }
    }

    /// The numbers of the queries that are due; `None` at the end.
    async fn due(&mut self) -> Option<std::ops::Range<u64>> {
        loop {
            if self.stop.load(Relaxed) {
                return None;
            }
            // Of all askers together, evenly: they take turns, and do not ask all in one moment.
            let all = self.begun.elapsed().as_micros() as u64 * self.per_second / 1_000_000;
            let so_far = (all + self.of - 1 - self.number) / self.of;
            if so_far > self.asked {
                let due = self.asked..so_far;
                self.asked = so_far;
                return Some(due);
            }
            tokio::time::sleep(STEP).await;
        }
    }

    /// The number of this asker's query `n` among all.
    fn global(&self, n: u64) -> u64 {
        n * self.of + self.number
    }
}

/// Queries under way by id.
type Waiting = Arc<Mutex<(Vec<Option<Instant>>, Report)>>;

fn waiting() -> Waiting {
    Arc::new(Mutex::new((vec![None; 1 << 16], Report::default())))
}

async fn answered(waiting: &Waiting, reply: &[u8]) {
    let now = Instant::now();
    let [high, low, _, flags, _, _, count_high, count_low, ..] = *reply else { return };
    let mut waiting = waiting.lock().await;
    let Some(asked) = waiting.0[usize::from(u16::from_be_bytes([high, low]))].take() else {
        return;
    };
    // Names that are made up are denied.
    let is_denied = flags & 0xf == 3 && reply.get(13) == Some(&b'u');
    if !is_denied && (flags & 0xf != 0 || (count_high, count_low) == (0, 0)) {
        waiting.1.lost.push((asked, format!("rcode {}, no answer", flags & 0xf)));
    } else {
        waiting.1.answers.push((asked, now - asked));
    }
}

/// Waits until everything is answered, or its time is over.
async fn finish(waiting: Waiting, why: &str) -> Report {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end && waiting.lock().await.0.iter().any(Option::is_some) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut waiting = waiting.lock().await;
    let lost: Vec<Instant> = waiting.0.iter_mut().filter_map(Option::take).collect();
    waiting.1.lost.extend(lost.into_iter().map(|asked| (asked, why.to_owned())));
    std::mem::take(&mut waiting.1)
}

async fn ask_udp((source, server): Ends, mut pace: Pace, questions: Questions) -> Report {
    let socket = UdpSocket::bind((source, 0)).await;
    let socket = Arc::new(socket.unwrap_or_else(|error| panic!("no socket: {error}")));
    socket.connect(server).await.unwrap_or_else(|error| panic!("no server: {error}"));
    let waiting = waiting();
    let (reading, read) = (Arc::clone(&socket), Arc::clone(&waiting));
    let reader = tokio::spawn(async move {
        let mut reply = [0; 2_048];
        loop {
            // An error is an ICMP message for a query that is lost then.
            if let Ok(length) = reading.recv(&mut reply).await {
                answered(&read, &reply[..length]).await;
            }
        }
    });
    while let Some(due) = pace.due().await {
        for n in due {
            let mut query = questions(pace.global(n));
            let id = n as u16;
            query[..2].copy_from_slice(&id.to_be_bytes());
            {
                let mut waiting = waiting.lock().await;
                let old = waiting.0[usize::from(id)].replace(Instant::now());
                waiting.1.lost.extend(old.map(|asked| (asked, "no answer over UDP".to_owned())));
                waiting.1.asked += 1;
            }
            // A refusal is seen as a loss.
            let _ = socket.send(&query).await;
        }
    }
    let report = finish(waiting, "no answer over UDP").await;
    reader.abort();
    report
}

async fn connect((source, server): Ends) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    socket.connect(server).await
}

async fn ask_tcp(ends: Ends, mut pace: Pace, questions: Questions) -> Report {
    let mut report = Report::default();
    let mut next = pace.due().await;
    while next.is_some() {
        let Ok(stream) = connect(ends).await else {
            for _ in next.take().into_iter().flatten() {
                report.asked += 1;
                report.lost.push((Instant::now(), "no TCP connection".to_owned()));
            }
            next = pace.due().await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (mut reader, mut writer) = stream.into_split();
        let waiting = waiting();
        let read = Arc::clone(&waiting);
        let mut reading = tokio::spawn(async move {
            let mut reply = vec![0; 1 << 16];
            while let Ok(length) = reader.read_u16().await {
                let length = usize::from(length);
                if reader.read_exact(&mut reply[..length]).await.is_err() {
                    return;
                }
                answered(&read, &reply[..length]).await;
            }
        });
        let mut is_open = true;
        while let (true, Some(due)) = (is_open, next.take()) {
            for n in due {
                let query = questions(pace.global(n));
                let mut frame = (query.len() as u16).to_be_bytes().to_vec();
                frame.extend_from_slice(&query);
                frame[2..4].copy_from_slice(&(n as u16).to_be_bytes());
                let mut waiting = waiting.lock().await;
                waiting.0[usize::from(n as u16)] = Some(Instant::now());
                waiting.1.asked += 1;
                drop(waiting);
                is_open &= writer.write_all(&frame).await.is_ok();
            }
            tokio::select! {
                due = pace.due() => next = due,
                _ = &mut reading => is_open = false,
            }
        }
        if is_open {
            report.add(finish(waiting, "no answer over TCP").await);
            break;
        }
        let mut waiting = waiting.lock().await;
        let lost: Vec<Instant> = waiting.0.iter_mut().filter_map(Option::take).collect();
        waiting
            .1
            .lost
            .extend(lost.into_iter().map(|asked| (asked, "the TCP connection ended".to_owned())));
        report.add(std::mem::take(&mut waiting.1));
        next = pace.due().await;
    }
    report
}
