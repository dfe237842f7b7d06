//! `dnstap ENDPOINT [full] [BUFFER [QUEUE]] { ... }`: every query and response, of clients and of upstreams, to a collector.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | what the directive means |
//! | [`payload`] | a message in the schema of dnstap.info |
//! | [`frames`] | frame streams: the handshake, and how a frame begins and ends |
//! | [`sender`] | the queue, and the task that sends what is in it |

pub mod config;
mod directive;
pub mod frames;
pub mod payload;
pub mod sender;

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use self::config::Config;
use self::payload::{Exchange, Kind, Protocol};
pub use self::sender::Sender;
use crate::chain::QueryLog;
use crate::clients::Clients;
use crate::clock::CoarseInstant;
use crate::plugin::log::Values;
use crate::request::{Outcome, Request, Transport};
use crate::wire::Query;

/// One `dnstap` line that runs.
pub struct Dnstap {
    config: Config,
    sender: Arc<Sender>,
    clients: Arc<Clients>,
    /// The name of the block's view, if it has one.
    view: Option<Box<str>>,
}

impl Dnstap {
    /// Starts what a line of a block, of this view, says. To be called in the control runtime. Connects when there is something to send.
    ///
    /// # Errors
    /// The trust in a `tls://` collector cannot be set up.
    pub fn start(
        config: Config,
        clients: &Arc<Clients>,
        view: Option<&str>,
    ) -> anyhow::Result<Arc<Self>> {
        let (sender, clients) = (Sender::start(&config)?, Arc::clone(clients));
        Ok(Arc::new(Self { config, sender, clients, view: view.map(Into::into) }))
    }

    /// What it counts.
    pub fn sender(&self) -> &Arc<Sender> {
        &self.sender
    }

    /// Sends a query to an upstream on behalf of `client` that was sent at `sent`, and its response, if one has come.
    pub fn forwarded(
        &self,
        client: IpAddr,
        upstream: (SocketAddr, Protocol),
        query: &[u8],
        response: Option<&[u8]>,
        sent: CoarseInstant,
        now: CoarseInstant,
    ) {
        let (address, protocol) = upstream;
        let exchange = Exchange {
            kind: Kind::ForwarderQuery,
            protocol,
            // As CoreDNS: the upstream is the one that is queried.
            query_address: address,
            response_address: None,
            query_time: wall(sent, now),
            query: Some(query),
            response_time: None,
            response: None,
        };
        let extra = self.extra(|| {
            let query = &Query::parse(query).ok()?;
            let (origin, finished) = (None, None);
            let (clients, view) = (&*self.clients, self.view.as_deref());
            let values = Values { query, client, origin, finished, clients, view };
            Some(self.config.extra.filled(&values))
        });
        self.send(&exchange, &extra);
        if let Some(response) = response {
            let exchange = Exchange {
                kind: Kind::ForwarderResponse,
                response_time: Some(wall(now, now)),
                query: None,
                response: Some(response),
                ..exchange
            };
            self.send(&exchange, &extra);
        }
    }

    /// The text of `extra`, filled in if there is anything to fill in. A query and its response have the same.
    fn extra(&self, fill: impl FnOnce() -> Option<String>) -> Cow<'_, str> {
        match self.config.extra.plain() {
            Some(text) => text.into(),
            None => fill().unwrap_or_default().into(),
        }
    }

    fn send(&self, exchange: &Exchange<'_>, extra: &str) {
        if !self.config.wants(exchange.kind) {
            return;
        }
        let exchange = Exchange {
            query: exchange.query.filter(|_| self.config.full),
            response: exchange.response.filter(|_| self.config.full),
            ..*exchange
        };
        self.sender.send(exchange.encode(&self.config.header, extra));
    }
}

impl QueryLog for Dnstap {
    fn wants(&self, _: &Request<'_>, _: &Outcome) -> bool {
        true
    }

    fn write(&self, request: &Request<'_>, outcome: &Outcome, reply: &[u8], micros: u64) {
        let origin = &request.origin;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let exchange = Exchange {
            kind: Kind::ClientQuery,
            protocol: match origin.transport {
                Transport::Udp => Protocol::Udp,
                Transport::Tcp => Protocol::Tcp,
            },
            query_address: origin.client,
            response_address: Some(origin.local),
            query_time: now.saturating_sub(Duration::from_micros(micros)),
            query: Some(request.query.packet()),
            response_time: None,
            response: None,
        };
        let extra = self.extra(|| {
            let view = self.view.as_deref();
            let values = Values { view, ..Values::of(request, None, &self.clients) };
            Some(self.config.extra.filled(&values))
        });
        self.send(&exchange, &extra);
        if !outcome.silent {
            let exchange = Exchange {
                kind: Kind::ClientResponse,
                query: None,
                response_time: Some(now),
                response: Some(reply),
                ..exchange
            };
            self.send(&exchange, &extra);
        }
    }
}

/// The time since 1970 of a moment that is not after `now`.
fn wall(at: CoarseInstant, now: CoarseInstant) -> Duration {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    wall.saturating_sub(Duration::from_millis(now.millis_since(at)))
}
