//! The socket, its connections, and what can be done to them: closing the port, cutting everything.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::answer::handle;
use super::fault::Fault;
use super::server::Shared;
use crate::poll::wait_for;

/// Controls a running listener from the test's thread.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) address: SocketAddr,
    open: watch::Sender<bool>,
    cut: watch::Sender<u64>,
    shutdown: watch::Sender<bool>,
    listening: Arc<AtomicBool>,
    generation: Generation,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// A token that every connection holds; all connections up to a cut hold the same one.
type Generation = Arc<Mutex<Arc<()>>>;

/// The pause before the next try to listen.
const AGAIN: Duration = Duration::from_millis(20);
/// How long the server's thread may take for what a test wants of it.
const PATIENCE: Duration = Duration::from_secs(10);

impl Control {
    /// Binds an ephemeral port of 127.0.0.1 and serves it from a thread of its own.
    pub(crate) fn start(shared: Arc<Shared>) -> anyhow::Result<Self> {
        // The guard stays bound, never listening, so that the port is ours while the server refuses.
        let guard = bound(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)))?;
        let address =
            guard.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (open, cut, shutdown) =
            (watch::Sender::new(true), watch::Sender::new(0), watch::Sender::new(false));
        let listening = Arc::new(AtomicBool::new(false));
        let generation = Generation::default();
        let task = Accept {
            address,
            shared,
            open: open.subscribe(),
            cut: cut.subscribe(),
            shutdown: shutdown.subscribe(),
            listening: listening.clone(),
            generation: generation.clone(),
        };
        let thread =
            std::thread::Builder::new().name("test-apiserver".into()).spawn(move || {
                let _guard = guard;
                runtime.block_on(task.run());
                runtime.shutdown_background();
            })?;
        let control =
            Self { address, open, cut, shutdown, listening, generation, thread: Some(thread) };
        control.set_open(true);
        Ok(control)
    }

    /// Opens or closes the port; returns when it is so.
    pub(crate) fn set_open(&self, open: bool) {
        self.open.send_replace(open);
        wait_for("the test API server's port", PATIENCE, || {
            self.listening.load(Ordering::SeqCst) == open
        });
    }

    /// Drops every connection; returns when they are gone.
    pub(crate) fn cut(&self) {
        let old =
            std::mem::take(&mut *self.generation.lock().unwrap_or_else(PoisonError::into_inner));
        self.cut.send_modify(|n| *n += 1);
        wait_for("connections to be cut", PATIENCE, || Arc::strong_count(&old) == 1);
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.shutdown.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

struct Accept {
    address: SocketAddr,
    shared: Arc<Shared>,
    open: watch::Receiver<bool>,
    cut: watch::Receiver<u64>,
    shutdown: watch::Receiver<bool>,
    listening: Arc<AtomicBool>,
    generation: Generation,
}

impl Accept {
    async fn run(mut self) {
        while !*self.shutdown.borrow() {
            if !*self.open.borrow_and_update() {
                self.listening.store(false, Ordering::SeqCst);
                tokio::select! {
                    _ = self.open.changed() => {}
                    _ = self.shutdown.changed() => {}
                }
                continue;
            }
            match self.listen() {
                Ok(listener) => self.accept_all(&listener).await,
                Err(error) => {
                    eprintln!("test API server cannot listen on {}: {error}", self.address);
                    let _ = tokio::time::timeout(AGAIN, self.shutdown.changed()).await;
                }
            }
        }
    }

    fn listen(&self) -> io::Result<TcpListener> {
        let socket = bound(self.address)?;
        socket.listen(1024)?;
        TcpListener::from_std(socket.into())
    }

    /// Accepts until the port is to be closed.
    async fn accept_all(&mut self, listener: &TcpListener) {
        self.listening.store(true, Ordering::SeqCst);
        loop {
            tokio::select! {
                accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                    let shared = self.shared.clone();
                    let mut cut = self.cut.clone();
                    cut.borrow_and_update();
                    let token = self.generation.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    tokio::spawn(async move {
                        let _token = token;
                        tokio::select! {
                            () = connection(shared, stream) => {}
                            _ = cut.changed() => {}
                        }
                    });
                },
                _ = self.open.changed() => return,
                _ = self.shutdown.changed() => return,
            }
        }
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut faults = shared.faults.changes();
    while shared.faults.holds("connect", "", Fault::StallConnections) {
        if faults.changed().await.is_err() {
            return;
        }
    }
    static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
    let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    match shared.tls() {
        Some(config) => {
            let mut config = (*config).clone();
            if shared.behaviour().http2 {
                config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            }
            if let Ok(stream) = TlsAcceptor::from(Arc::new(config)).accept(stream).await {
                let certificate = stream.get_ref().1.peer_certificates().is_some();
                serve(shared, stream, certificate, number).await;
            }
        }
        None => serve(shared, stream, false, number).await,
    }
}

async fn serve<S>(shared: Arc<Shared>, mut stream: S, certificate: bool, number: u64)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if shared.faults.garbles_connections() {
        let _ = stream.write_all(b"\x00\xff220 mail ready\r\n\x16\x03\x01garbage\r\n\r\n").await;
        let _ = stream.shutdown().await;
        return;
    }
    let mut retired = shared.retirements.subscribe();
    let service = service_fn(move |request| handle(shared.clone(), request, certificate, number));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new());
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = retired.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
