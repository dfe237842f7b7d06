//! What a session reads and writes: a TCP connection, plain or within TLS.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;

use crate::server::tls::stream::TlsStream;

/// One connection.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

impl Stream {
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket().local_addr()
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.socket(),
        }
    }

    /// Whether nothing of it is in this process between two queries, so that another one can serve it.
    pub(super) fn can_move(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// Returns once there may be something to read.
    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.readable().await,
            Self::Tls(stream) => stream.readable().await,
        }
    }

    /// Reads what is there, 0 at the end; of a plain connection looks at it with [`RecvFlags::PEEK`].
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if nothing is.
    pub(super) fn read(&mut self, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => read(stream, buffer, flags),
            Self::Tls(stream) => stream.try_read(buffer),
        }
    }

    /// Writes what is taken at once.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if nothing is.
    pub(super) fn try_write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.try_write(octets),
            Self::Tls(stream) => stream.try_write(octets),
        }
    }

    pub(super) async fn write_all(&mut self, octets: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(octets).await,
            Self::Tls(stream) => {
                stream.write_all(octets).await?;
                stream.flush().await
            }
        }
    }

    /// True if something that was written has not been sent.
    pub(super) fn has_unsent(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.has_unsent(),
        }
    }

    /// Says goodbye, where the protocol has a word for it.
    pub(super) fn close(&mut self) {
        if let Self::Tls(stream) = self {
            stream.close();
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

fn read(stream: &TcpStream, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
    let mut read = Ok(0);
    let polled = stream.try_io(Interest::READABLE, || {
        read = recv(stream, &mut *buffer, flags).map(|(_, len)| len).map_err(io::Error::from);
        match &read {
            // Less than the buffer: what comes later makes a new event, and the call that would find nothing is spared.
            Ok(len) if *len > 0 && *len < buffer.len() => Err(io::ErrorKind::WouldBlock.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            _ => Ok(()),
        }
    });
    match (polled, read) {
        (Err(_), Ok(0)) => Err(io::ErrorKind::WouldBlock.into()),
        (_, read) => read,
    }
}
