//! The process's own question to its `/health`, once a second, as in CoreDNS: when it takes long, the node is overloaded.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::metrics::{Counter, Histogram, Scrape, Source, names};

const PERIOD: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(3);
/// CoreDNS's slim buckets.
const BUCKETS: [f64; 5] = [0.000_25, 0.002_5, 0.025, 0.25, 2.5];

/// The probe and what it has seen.
pub(super) struct Health {
    seen: Arc<Seen>,
    task: Mutex<Option<(SocketAddr, JoinHandle<()>)>>,
}

struct Seen {
    duration: Histogram,
    failures: Counter,
}

impl Health {
    pub(super) fn new() -> Self {
        let seen = Seen { duration: Histogram::new(&BUCKETS), failures: Counter::new() };
        Self { seen: Arc::new(seen), task: Mutex::default() }
    }

    pub(super) fn source(&self) -> Arc<dyn Source> {
        Arc::clone(&self.seen) as _
    }

    /// Probes `address` from now on, or nothing.
    pub(super) fn probe(&self, runtime: &Handle, address: Option<SocketAddr>) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.as_ref().map(|(address, _)| *address) == address {
            return;
        }
        if let Some((_, old)) = task.take() {
            old.abort();
        }
        *task =
            address.map(|address| (address, runtime.spawn(run(Arc::clone(&self.seen), address))));
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        let task = self.task.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, task)) = task.take() {
            task.abort();
        }
    }
}

impl Source for Seen {
    fn collect(&self, out: &mut Scrape) {
        self.duration.collect(out, &names::HEALTH_REQUEST_DURATION, &[]);
        out.count(&names::HEALTH_REQUEST_FAILURES, &[], self.failures.value());
    }
}

async fn run(seen: Arc<Seen>, address: SocketAddr) {
    let address = reachable(address);
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let begun = Instant::now();
        let result = timeout(TIMEOUT, ask(address)).await.unwrap_or_else(|late| Err(late.into()));
        let took = begun.elapsed();
        seen.duration.observe(took.as_secs_f64());
        match result {
            Ok(()) if took <= PERIOD => {}
            Ok(()) => tracing::warn!(
                "our own request to http://{address}/health took {took:?}: the node is overloaded"
            ),
            Err(error) => {
                seen.failures.add(1);
                tracing::warn!("our own request to http://{address}/health failed: {error}");
            }
        }
    }
}

async fn ask(address: SocketAddr) -> io::Result<()> {
    const REQUEST: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(REQUEST).await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    if head.ends_with(b" 200") {
        return Ok(());
    }
    Err(io::Error::other(format!("the answer was {:?}", String::from_utf8_lossy(&head))))
}

/// An address that one can connect to: loopback for the unspecified one.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        // A socket of both families; IPv6 may be there and switched off on the loopback.
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
