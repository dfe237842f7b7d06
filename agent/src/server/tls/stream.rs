//! A TLS connection on a non-blocking socket: octets are taken and given without a task or a lock, as those of a plain one.

use std::io::{self, Read as _, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::{ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::admission::Permit;

/// Octets that rustls may hold to be sent. With what it holds of a record that has not come as a whole, and its state, a connection
/// takes [`CONNECTION`] at most.
const SEND: usize = 8 << 10;
/// What one connection is charged to its client's budget.
pub const CONNECTION: usize = 32 << 10;

/// One connection, from before its handshake on.
pub struct TlsStream {
    stream: TcpStream,
    tls: ServerConnection,
    /// Octets of the client that are decrypted and not taken.
    readable: usize,
    /// Of [`CONNECTION`] octets.
    permit: Permit,
}

/// The same, on its way to another runtime.
pub struct Parked {
    stream: std::net::TcpStream,
    tls: ServerConnection,
    readable: usize,
    permit: Permit,
}

impl TlsStream {
    /// Shakes hands. `permit` is of [`CONNECTION`] octets.
    ///
    /// # Errors
    /// The client has gone, or means something else; it was told, as far as TLS has an alert for it.
    pub async fn accept(
        stream: TcpStream,
        config: Arc<ServerConfig>,
        permit: Permit,
    ) -> io::Result<Self> {
        let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
        tls.set_buffer_limit(Some(SEND));
        let mut accepted = Self { stream, tls, readable: 0, permit };
        while accepted.tls.is_handshaking() {
            accepted.flush().await?;
            if !accepted.tls.is_handshaking() {
                break;
            }
            accepted.stream.readable().await?;
            match accepted.receive() {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        accepted.flush().await?;
        Ok(accepted)
    }

    /// True if the handshake continued an earlier session.
    pub fn is_resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// Takes it out of its runtime.
    pub fn park(self) -> io::Result<Parked> {
        let Self { stream, tls, readable, permit } = self;
        Ok(Parked { stream: stream.into_std()?, tls, readable, permit })
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// Returns once there may be something to read.
    pub async fn readable(&self) -> io::Result<()> {
        if self.readable > 0 { Ok(()) } else { self.stream.readable().await }
    }

    /// Reads what has come, 0 at the end.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if nothing has.
    pub fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.readable == 0 {
            if self.receive()? == 0 {
                return Ok(0);
            }
            if self.readable == 0 && self.is_closed() {
                return Ok(0);
            }
        }
        let len = self.tls.reader().read(into)?;
        self.readable -= len.min(self.readable);
        Ok(len)
    }

    /// Takes some of `octets` to be sent, and sends what the socket takes. What is left is sent by [`TlsStream::flush`].
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if none were taken.
    pub fn try_write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        loop {
            let len = self.tls.writer().write(octets.get(taken..).unwrap_or(&[]))?;
            taken += len;
            match self.send() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                sent => sent?,
            }
            if len == 0 || taken == octets.len() {
                break;
            }
        }
        if taken == 0 && !octets.is_empty() {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            Ok(taken)
        }
    }

    /// True if something is to be sent yet.
    pub fn has_unsent(&self) -> bool {
        self.tls.wants_write()
    }

    /// Sends all that is to be sent.
    pub async fn flush(&mut self) -> io::Result<()> {
        loop {
            match self.send() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stream.writable().await?;
                }
                sent => return sent,
            }
        }
    }

    /// Tells the client that nothing more comes, as far as the socket takes that at once.
    pub fn close(&mut self) {
        self.tls.send_close_notify();
        let _ = self.send();
    }

    fn is_closed(&mut self) -> bool {
        // Without octets that can be read it says whether there will be some.
        matches!(self.tls.reader().read(&mut [0]), Ok(0))
    }

    /// Reads the socket once. Returns how many octets came, encrypted.
    fn receive(&mut self) -> io::Result<usize> {
        let len = self.tls.read_tls(&mut Socket(&self.stream))?;
        match self.tls.process_new_packets() {
            Ok(state) => self.readable = state.plaintext_bytes_to_read(),
            Err(error) => {
                // The alert, if the socket takes it at once.
                let _ = self.send();
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
        Ok(len)
    }

    fn send(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut Socket(&self.stream))?;
        }
        Ok(())
    }
}

impl Parked {
    /// Gives it to the runtime that it is called in.
    pub fn resume(self) -> io::Result<TlsStream> {
        let Self { stream, tls, readable, permit } = self;
        Ok(TlsStream { stream: TcpStream::from_std(stream)?, tls, readable, permit })
    }
}

/// A socket as rustls wants it: it says that it would block.
struct Socket<'s>(&'s TcpStream);

impl io::Read for Socket<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(into)
    }
}

impl io::Write for Socket<'_> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.try_write(octets)
    }

    fn write_vectored(&mut self, octets: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            // Asked first, so that the runtime can make way for others, however fast the client sends.
            if this.readable == 0 {
                ready!(this.stream.poll_read_ready(context))?;
            }
            match this.try_read(into.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => {
                    into.advance(read?);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            ready!(this.stream.poll_write_ready(context))?;
            match this.try_write(octets) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.has_unsent() {
            ready!(this.stream.poll_write_ready(context))?;
            match this.send() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tls.send_close_notify();
        self.poll_flush(context)
    }
}
