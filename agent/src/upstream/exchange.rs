//! DNS over HTTPS (RFC 8484) and over QUIC (RFC 9250), by hickory's transports.
//!
//! Their connections are used directly, not through hickory's resolver, so that answers come through as the octets that
//! the upstream sent: with their EDNS, and whatever their response code.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hickory_net::h2::HttpsClientStream;
use hickory_net::proto::op::{DnsRequest, DnsRequestOptions, Message};
use hickory_net::quic::QuicClientStream;
use hickory_net::runtime::TokioRuntimeProvider;
use hickory_net::xfer::DnsExchange;
use hickory_net::{DnsHandle, NetError};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::clock::CoarseInstant;
use crate::upstream::UpstreamError;
use crate::upstream::session::Session;
use crate::wire::{read_u16, write_u16};

/// One query over HTTPS or QUIC takes so long at most; it has been given up before.
const QUERY: Duration = Duration::from_secs(5);

/// A connection over HTTPS or QUIC.
pub struct Exchange {
    handle: DnsExchange<TokioRuntimeProvider>,
}

impl Exchange {
    /// Connects over HTTP/2.
    pub async fn https(
        to: SocketAddr,
        config: &Arc<rustls::ClientConfig>,
        name: &Arc<str>,
        path: &Arc<str>,
    ) -> Result<Self, UpstreamError> {
        let mut builder =
            HttpsClientStream::builder(Arc::clone(config), TokioRuntimeProvider::new());
        builder.request_timeout(QUERY);
        let stream = builder.build(to, Arc::clone(name), Arc::clone(path)).await.map_err(failed)?;
        // Not by the builder's `exchange`: what that spawns ends with the provider, which is gone when it returns.
        let (handle, background) = DnsExchange::from_stream(stream);
        tokio::spawn(background);
        Ok(Self { handle })
    }

    /// Connects over QUIC.
    pub async fn quic(
        to: SocketAddr,
        config: &Arc<rustls::ClientConfig>,
        name: &Arc<str>,
    ) -> Result<Self, UpstreamError> {
        let builder = QuicClientStream::builder()
            .crypto_config(rustls::ClientConfig::clone(config))
            .request_timeout(QUERY);
        let stream = builder.build(to, Arc::clone(name)).await.map_err(failed)?;
        let (handle, background) = DnsExchange::from_stream(stream);
        tokio::spawn(background);
        Ok(Self { handle })
    }

    /// Moves messages both ways until the connection ends, fails or idles too long.
    pub async fn run(
        self,
        session: &Session,
        idle: Duration,
        mut queue: mpsc::Receiver<Vec<u8>>,
    ) -> UpstreamError {
        let mut flights = FuturesUnordered::new();
        loop {
            tokio::select! {
                next = timeout(idle, queue.recv()) => match next {
                    Ok(Some(framed)) => {
                        session.sent();
                        flights.push(self.ask(framed));
                    }
                    Ok(None) => return UpstreamError::Lost,
                    Err(_) if flights.is_empty() => return UpstreamError::Lost,
                    Err(_) => {}
                },
                Some((id, result)) = flights.next(), if !flights.is_empty() => match result {
                    Ok(answer) => {
                        session.deliver(&answer);
                        session.heard(CoarseInstant::now());
                    }
                    Err(error) => {
                        session.table.fail(id, &error);
                        // Only an answer proves that the connection still works.
                        return error;
                    }
                },
            }
        }
    }

    async fn ask(&self, framed: Vec<u8>) -> (u16, Result<Vec<u8>, UpstreamError>) {
        let message = framed.get(2..).unwrap_or(&[]);
        let id = read_u16(message, 0).unwrap_or(0);
        (id, self.answer(message, id).await)
    }

    async fn answer(&self, message: &[u8], id: u16) -> Result<Vec<u8>, UpstreamError> {
        let message = Message::from_vec(message)
            .map_err(|error| UpstreamError::Exchange(error.to_string().into()))?;
        let mut stream = self.handle.send(DnsRequest::new(message, DnsRequestOptions::default()));
        let response = stream.next().await.ok_or(UpstreamError::Lost)?.map_err(failed)?;
        let mut answer = response.into_buffer();
        // Both transports send 0 (RFC 8484 section 4.1, RFC 9250 section 4.2.1).
        write_u16(&mut answer, 0, id);
        Ok(answer)
    }
}

fn failed(error: NetError) -> UpstreamError {
    UpstreamError::Exchange(error.to_string().into())
}
