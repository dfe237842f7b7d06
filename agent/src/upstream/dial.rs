//! How a connection to an upstream is set up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::upstream::UpstreamError;
use crate::upstream::address::{Scheme, Target};
use crate::upstream::exchange::Exchange;
use crate::upstream::session::Peer;

/// What was sent and is not acknowledged for so long has not arrived: the kernel ends the connection.
const UNACKNOWLEDGED: Duration = Duration::from_secs(4);
/// The kernel probes a connection without traffic so often, so that a long `expire` keeps no dead ones.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Sets up connections to one upstream.
pub struct Dialer {
    to: SocketAddr,
    how: How,
    peer: Arc<Peer>,
}

enum How {
    Tcp,
    Tls { config: Arc<rustls::ClientConfig>, name: ServerName<'static> },
    Https { config: Arc<rustls::ClientConfig>, name: Arc<str>, path: Arc<str> },
    Quic { config: Arc<rustls::ClientConfig>, name: Arc<str> },
}

/// A connection that is set up.
pub enum Dialed {
    /// Plain.
    Tcp(TcpStream),
    /// Encrypted (RFC 7858).
    Tls(Box<TlsStream<TcpStream>>),
    /// DNS over HTTPS or QUIC: the library's own multiplexing.
    Exchange(Exchange),
}

impl Dialer {
    /// How `target` is reached over a stream: plain targets over TCP, all others by their scheme.
    pub fn new(
        target: &Target,
        tls: Option<&Arc<rustls::ClientConfig>>,
    ) -> Result<Self, UpstreamError> {
        let config = || {
            tls.cloned().ok_or_else(|| UpstreamError::Tls("there is no TLS configuration".into()))
        };
        let how = match target.scheme {
            Scheme::Plain => How::Tcp,
            Scheme::Tls => How::Tls {
                config: config()?,
                name: match &target.server_name {
                    Some(name) => ServerName::try_from(name.to_string()).map_err(|_| {
                        UpstreamError::Tls(format!("{name:?} is no server name").into())
                    })?,
                    None => ServerName::IpAddress(target.address.ip().into()),
                },
            },
            Scheme::Https => How::Https {
                config: config()?,
                name: target
                    .server_name
                    .clone()
                    .unwrap_or_else(|| target.address.ip().to_string().into()),
                path: Arc::clone(&target.path),
            },
            Scheme::Quic => How::Quic {
                config: config()?,
                name: target
                    .server_name
                    .clone()
                    .unwrap_or_else(|| target.address.ip().to_string().into()),
            },
        };
        Ok(Self { to: target.address, how, peer: Arc::default() })
    }

    /// What connections to this upstream have taught.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// Connects.
    pub async fn dial(&self) -> Result<Dialed, UpstreamError> {
        match &self.how {
            How::Tcp => Ok(Dialed::Tcp(self.tcp().await?)),
            How::Tls { config, name } => {
                let stream = self.tcp().await?;
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(name.clone(), stream).await;
                stream
                    .map(|stream| Dialed::Tls(Box::new(stream)))
                    .map_err(|error| UpstreamError::Tls(error.to_string().into()))
            }
            How::Https { config, name, path } => {
                Exchange::https(self.to, config, name, path).await.map(Dialed::Exchange)
            }
            How::Quic { config, name } => {
                Exchange::quic(self.to, config, name).await.map(Dialed::Exchange)
            }
        }
    }

    async fn tcp(&self) -> Result<TcpStream, UpstreamError> {
        let connected = TcpStream::connect(self.to).await;
        let stream = connected.map_err(|error| UpstreamError::Connect(error.to_string().into()))?;
        // What leaves in one write shall leave at once.
        stream.set_nodelay(true).map_err(|error| UpstreamError::io("connecting", &error))?;
        // Neither is needed: `stream` finds out by itself while queries wait.
        let socket = SockRef::from(&stream);
        let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
        let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE));
        Ok(stream)
    }
}
