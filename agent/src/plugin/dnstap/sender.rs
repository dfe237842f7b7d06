//! The queue of messages for one collector, and the task that sends them. Nothing waits for a collector: what does not fit into the
//! queue is dropped and counted.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, Receiver};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::config::{Config, Endpoint};
use super::frames;
use crate::metrics::{Counter, Scrape, Source, names};
use crate::upstream::tls::{TlsFiles, unverified};

/// Messages that a queue of length 1 holds: CoreDNS's.
pub const QUEUE: usize = 10_000;
/// Bytes that a queue of length 1 holds.
const QUEUE_BYTES: usize = 16 << 20;
/// How long a collector may take to be connected, and for each write.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long the end of a stream may take.
const END: Duration = Duration::from_secs(1);
/// If so many wait, they are sent without a pause.
const MANY: usize = 256;
/// How long messages gather otherwise, so that not each of them is a write.
const GATHER: Duration = Duration::from_millis(10);
/// Bytes that are written at a time.
const WRITE: usize = 64 << 10;
/// The first pause before a collector that is away is tried again, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// One collector's queue.
pub struct Sender {
    /// The label of metrics.
    to: String,
    queue: mpsc::Sender<Vec<u8>>,
    state: Arc<State>,
    max_bytes: usize,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What the queue and the task share.
#[derive(Default)]
struct State {
    /// Bytes in the queue.
    bytes: AtomicUsize,
    sent: Counter,
    dropped: Counter,
    is_connected: AtomicBool,
    /// No more messages will come.
    ends: Notify,
}

/// The task's side.
struct Task {
    to: String,
    endpoint: Endpoint,
    buffer: usize,
    tls: Option<Arc<ClientConfig>>,
    state: Arc<State>,
}

/// Frames on their way.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    messages: u64,
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

impl Sender {
    /// Starts the task; it ends with the sender, when the queue is sent.
    ///
    /// # Errors
    /// The trust in a `tls://` collector cannot be set up.
    pub fn start(config: &Config) -> anyhow::Result<Arc<Self>> {
        let tls = match (&config.endpoint, config.skip_verify) {
            (Endpoint::Tls(_), true) => Some(unverified()?),
            (Endpoint::Tls(_), false) => Some(TlsFiles::default().load()?),
            _ => None,
        };
        let queue_length = config.queue as usize;
        let (queue, messages) = mpsc::channel(QUEUE * queue_length);
        let (to, state) = (config.endpoint.to_string(), Arc::<State>::default());
        let task = Task {
            to: to.clone(),
            endpoint: config.endpoint.clone(),
            buffer: (config.buffer as usize) << 20,
            tls,
            state: Arc::clone(&state),
        };
        let task = Mutex::new(Some(tokio::spawn(task.run(messages))));
        Ok(Arc::new(Self { to, queue, state, max_bytes: QUEUE_BYTES * queue_length, task }))
    }

    /// Sends what is queued and ends the stream, unless that takes longer than [`END`]. What comes after that is dropped.
    pub async fn end(&self) {
        self.state.ends.notify_one();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            // Whether it has ended or not, nothing more is to be done.
            let _ = timeout(END, task).await;
        }
    }

    /// Queues a message, or drops it.
    pub fn send(&self, message: Vec<u8>) {
        let (len, state) = (message.len(), &self.state);
        if state.bytes.fetch_add(len, Relaxed) + len > self.max_bytes
            || self.queue.try_send(message).is_err()
        {
            state.bytes.fetch_sub(len, Relaxed);
            state.dropped.add(1);
        }
    }
}

impl Source for Sender {
    fn collect(&self, out: &mut Scrape) {
        let (state, to) = (&self.state, [&*self.to]);
        out.count(&names::DNSTAP_SENT, &to, state.sent.value());
        out.count(&names::DNSTAP_DROPPED, &to, state.dropped.value());
        let is_connected = u8::from(state.is_connected.load(Relaxed));
        out.gauge(&names::DNSTAP_CONNECTED, &to, is_connected.into());
    }
}

impl Task {
    async fn run(self, mut messages: Receiver<Vec<u8>>) {
        let mut batch = Batch::default();
        // What is in hand while there is no collector is sent to the next one.
        while self.next_batch(&mut messages, &mut batch).await {
            let Some(mut stream) = self.connect_until_closed(&messages).await else { return };
            while self.write(stream.as_mut(), &mut batch).await {
                if !self.next_batch(&mut messages, &mut batch).await {
                    // Whether it hears that or not, nothing follows.
                    let _ = timeout(PATIENCE, frames::close(&mut stream)).await;
                    return;
                }
            }
            self.state.is_connected.store(false, Relaxed);
        }
    }

    /// Waits for messages and appends them to `batch` as frames; false at the end.
    async fn next_batch(&self, messages: &mut Receiver<Vec<u8>>, batch: &mut Batch) -> bool {
        if batch.messages > 0 {
            return true;
        }
        // A task that sleeps need not be woken by each message.
        let first = match messages.try_recv() {
            Ok(message) => Some(message),
            Err(_) => tokio::select! {
                biased;
                message = messages.recv() => message,
                () = self.state.ends.notified() => {
                    messages.close();
                    messages.recv().await
                }
            },
        };
        let Some(first) = first else { return false };
        if messages.len() < MANY {
            sleep(GATHER).await;
        }
        let mut next = Some(first);
        while let Some(message) = next {
            self.state.bytes.fetch_sub(message.len(), Relaxed);
            batch.bytes.extend_from_slice(&(message.len() as u32).to_be_bytes());
            batch.bytes.extend_from_slice(&message);
            batch.messages += 1;
            next = if batch.bytes.len() < WRITE { messages.try_recv().ok() } else { None };
        }
        true
    }

    async fn write(&self, stream: &mut dyn Duplex, batch: &mut Batch) -> bool {
        let written = timeout(PATIENCE, async {
            stream.write_all(&batch.bytes).await?;
            stream.flush().await
        });
        match written.await {
            Ok(Ok(())) => {
                self.state.sent.add(std::mem::take(&mut batch.messages));
                batch.bytes.clear();
                true
            }
            // What was written in part is written again whole to the next connection.
            Ok(Err(error)) => {
                tracing::warn!(to = self.to, %error, "dnstap: the collector is away");
                false
            }
            Err(_) => {
                tracing::warn!(to = self.to, "dnstap: the collector does not read");
                false
            }
        }
    }

    /// Tries until there is a connection; `None` once no more messages can come.
    async fn connect_until_closed(&self, messages: &Receiver<Vec<u8>>) -> Option<Box<dyn Duplex>> {
        let (mut pause, longest) = PAUSES;
        let mut has_failed = false;
        loop {
            match timeout(PATIENCE, self.connect()).await {
                Ok(Ok(stream)) => {
                    tracing::info!(to = self.to, "dnstap: sending");
                    self.state.is_connected.store(true, Relaxed);
                    return Some(stream);
                }
                other => {
                    let error = other.map_or("no answer in time".to_owned(), |failed| {
                        failed.err().map_or(String::new(), |error| error.to_string())
                    });
                    // Once, until it is there again.
                    if !has_failed {
                        tracing::warn!(
                            to = self.to,
                            error,
                            "dnstap: no connection to the collector; messages are dropped when the queue is full"
                        );
                    }
                    has_failed = true;
                }
            }
            if messages.is_closed() {
                return None;
            }
            sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    async fn connect(&self) -> Result<Box<dyn Duplex>, frames::FramesError> {
        let mut stream: Box<dyn Duplex> = match &self.endpoint {
            Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Endpoint::Tcp(host) => Box::new(self.tcp(host).await?),
            Endpoint::Tls(host) => {
                let tcp = self.tcp(host).await?;
                let Some(tls) = &self.tls else {
                    return Err(std::io::Error::other("there is no trust").into());
                };
                let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
                let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(name).map_err(std::io::Error::other)?;
                Box::new(
                    tokio_rustls::TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await?,
                )
            }
        };
        frames::open(&mut stream).await?;
        Ok(stream)
    }

    async fn tcp(&self, host: &str) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(host).await?;
        SockRef::from(&stream).set_send_buffer_size(self.buffer)?;
        Ok(stream)
    }
}
