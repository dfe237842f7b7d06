//! DNS over QUIC (RFC 9250) with hickory's transport, in front of a server that speaks TCP: no server of Debian 12 offers it
//! over plain sockets. Messages pass as they are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use anyhow::Context;
use hickory_net::quic::{QuicServer, QuicStream, QuicStreams};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::oneshot;

use crate::api::certificates::Pair;

/// A running front; stops when dropped.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    carried: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Front {
    /// Starts one for `server` with this certificate.
    ///
    /// # Errors
    /// No socket, or a certificate that rustls refuses.
    pub fn start(server: SocketAddr, certificate: &Pair) -> anyhow::Result<Self> {
        let chain = CertificateDer::from_pem_slice(certificate.certificate.as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)?;
        config.alpn_protocols = vec![b"doq".to_vec()];

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let quic = runtime.block_on(async {
            let socket = UdpSocket::bind("127.0.0.1:0").await?;
            QuicServer::with_socket_and_tls_config(socket, Arc::new(config)).context("QUIC")
        })?;
        let address = quic.local_addr()?;
        let carried = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&carried);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("quic".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(quic, server, count) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, carried, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many queries it has carried.
    #[must_use]
    pub fn carried(&self) -> usize {
        self.carried.load(Ordering::Relaxed)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(mut quic: QuicServer, server: SocketAddr, count: Arc<AtomicUsize>) {
    loop {
        match quic.next().await {
            Ok(Some((streams, _))) => drop(tokio::spawn(serve(streams, server, count.clone()))),
            Ok(None) => return,
            // A handshake that failed, as when the client does not believe the certificate.
            Err(_) => {}
        }
    }
}

async fn serve(mut streams: QuicStreams, server: SocketAddr, count: Arc<AtomicUsize>) {
    while let Some(Ok(mut stream)) = streams.next().await {
        let count = count.clone();
        tokio::spawn(async move {
            if carry(&mut stream, server).await.is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}

/// One query: a stream of its own on the one side, a connection of its own on the other.
async fn carry(stream: &mut QuicStream, server: SocketAddr) -> anyhow::Result<()> {
    let query = stream.receive_bytes().await?;
    let mut tcp = TcpStream::connect(server).await?;
    tcp.write_u16(u16::try_from(query.len())?).await?;
    tcp.write_all(&query).await?;
    let mut answer = vec![0; usize::from(tcp.read_u16().await?)];
    tcp.read_exact(&mut answer).await?;
    stream.send_bytes(answer.into()).await?;
    stream.finish().await?;
    Ok(())
}
