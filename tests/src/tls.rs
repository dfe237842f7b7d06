//! A client of DNS over TLS.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::Message;
use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::api::certificates::Pair;
use crate::client::Question;

/// How long a client waits for anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whom a client trusts, and who it is. Sessions are resumed by connections of one such.
#[derive(Debug, Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
}

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct TlsConnection(StreamOwned<ClientConnection, TcpStream>);

impl TlsClient {
    /// Trusts the authority with this certificate, as PEM; shows `own`, if there is one; speaks one of `protocols`, if there are
    /// some.
    ///
    /// # Panics
    /// The certificates are none.
    #[must_use]
    pub fn new(authority: &str, own: Option<&Pair>, protocols: &[&str]) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            Some(own) => {
                let chain = CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![chain], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self { config: Arc::new(config) }
    }

    /// The same, with a full handshake for each connection.
    #[must_use]
    pub fn without_resumption(self) -> Self {
        let mut config = (*self.config).clone();
        config.resumption = Resumption::disabled();
        Self { config: Arc::new(config) }
    }

    /// Connects to a server whose certificate is for `name`.
    ///
    /// # Errors
    /// No connection, or no handshake.
    ///
    /// # Panics
    /// `name` is none.
    pub fn connect(&self, server: SocketAddr, name: &str) -> io::Result<TlsConnection> {
        let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let tls =
            ClientConnection::new(Arc::clone(&self.config), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(tls, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(TlsConnection(stream))
    }
}

impl TlsConnection {
    /// Sends messages with one write.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn send(&mut self, questions: &[Question]) -> io::Result<()> {
        let mut octets = Vec::new();
        for question in questions {
            let message = question.to_bytes();
            octets.extend_from_slice(&(message.len() as u16).to_be_bytes());
            octets.extend_from_slice(&message);
        }
        self.send_raw(&octets)
    }

    /// Sends octets.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn send_raw(&mut self, octets: &[u8]) -> io::Result<()> {
        self.0.write_all(octets)?;
        self.0.flush()
    }

    /// The next answer. `None`: the server has ended the connection in good form.
    ///
    /// # Errors
    /// The connection has ended otherwise, or nothing comes.
    pub fn receive(&mut self) -> io::Result<Option<Message>> {
        let mut len = [0; 2];
        if self.0.read(&mut len[..1])? == 0 {
            return Ok(None);
        }
        self.0.read_exact(&mut len[1..])?;
        let mut octets = vec![0; usize::from(u16::from_be_bytes(len))];
        self.0.read_exact(&mut octets)?;
        Message::from_vec(&octets).map(Some).map_err(io::Error::other)
    }

    /// One question and its answer.
    ///
    /// # Errors
    /// As [`TlsConnection::send`] and [`TlsConnection::receive`].
    pub fn ask(&mut self, question: &Question) -> io::Result<Message> {
        self.send(std::slice::from_ref(question))?;
        self.receive()?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// The server's certificate.
    ///
    /// # Panics
    /// It has none.
    #[must_use]
    pub fn certificate(&self) -> Vec<u8> {
        self.0.conn.peer_certificates().unwrap()[0].to_vec()
    }

    /// Whether the handshake continued an earlier session.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.0.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        &self.0.sock
    }
}
