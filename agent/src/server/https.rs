//! DNS over HTTPS (RFC 8484), HTTP/2 and HTTP/1.1: one query is one request, answered by the worker as any other.
//!
//! What a connection holds is bounded: its streams, each query, and each answer until it is sent, which are charged to the client's
//! budget. An answer goes into HTTP in pieces of [`PIECE`] octets as the client takes them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::answer::{Disposition, answer};
use super::pending;
use super::send_queue::{OwedReply, ReplyPath};
use super::tcp::{IDLE_WHEN_SCARCE, Shared};
use super::tls::Secured;
use super::tls::stream::TlsStream;
use super::worker::{DRAIN, Phase, drained};
use crate::admission::Permit;
use crate::chain::Local;
use crate::clock::CoarseInstant;
use crate::plugin::settings::Timeouts;
use crate::request::{Origin, Transport};
use crate::wire::rdata::negative_ttl;
use crate::wire::{HEADER_LEN, Layout, MAX_MESSAGE, RecordType, Section};

/// The one path (RFC 8484 section 4.1 leaves it to the server; it is CoreDNS's).
const PATH: &str = "/dns-query";
const MESSAGE: HeaderValue = HeaderValue::from_static("application/dns-message");
/// Requests of one connection at a time.
const STREAMS: u32 = 64;
/// Octets of an answer that HTTP gets at a time.
const PIECE: usize = 4 << 10;
/// Octets of the headers of a request. With GET the query is among them.
const HEADERS: u32 = 16 << 10;
/// Octets that HTTP/1.1 buffers, which is the longest GET.
const BUFFER: usize = 16 << 10;
/// Octets of requests that HTTP/2 lets a client send before they are looked at.
const WINDOW: u32 = 32 << 10;
/// What HTTP takes of a connection beside TLS, charged to the client's budget: either of these two, and what it notes.
const CONNECTION: usize = 64 << 10;
/// How long a connection that is to end, and has nothing to do, may still take its time.
const GOODBYE: Duration = Duration::from_secs(1);
/// The same where a new client waits for its place, which it does for a tenth of a second.
const HURRIED: Duration = Duration::from_millis(40);

/// One connection.
struct Connection {
    shared: Arc<Shared>,
    client: SocketAddr,
    local: SocketAddr,
    /// Requests that are being resolved: what they wait for is not the client's doing.
    resolving: AtomicUsize,
    /// Answers that the client has not taken.
    sending: AtomicUsize,
    /// When it last did something: asked, or took a piece of an answer.
    since: Mutex<Instant>,
}

/// Serves a connection until it ends.
pub(super) fn serve(
    Secured { connection, client, place }: Secured,
    shared: &Arc<Shared>,
    phase: &watch::Receiver<Phase>,
) {
    let Ok(stream) = connection.resume() else { return };
    let ip = client.ip().to_canonical();
    let Some(octets) = shared.connections.bytes(ip, CONNECTION) else {
        return shared.connections.count_refused();
    };
    let local = stream.socket().local_addr().unwrap_or(shared.listener.address);
    let connection = Arc::new(Connection {
        shared: Arc::clone(shared),
        client: SocketAddr::new(ip, client.port()),
        local: SocketAddr::new(local.ip().to_canonical(), local.port()),
        resolving: AtomicUsize::new(0),
        sending: AtomicUsize::new(0),
        since: Mutex::new(Instant::now()),
    });
    tokio::spawn(run(connection, stream, (place, octets), phase.clone()));
}

async fn run(
    connection: Arc<Connection>,
    stream: TlsStream,
    (place, _octets): (Permit, Permit),
    mut phase: watch::Receiver<Phase>,
) {
    let mut http = Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(connection.timeouts().idle)
        .max_buf_size(BUFFER);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS)
        .max_send_buf_size(PIECE)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    let of_requests = Arc::clone(&connection);
    let service = service_fn(move |request| {
        let connection = Arc::clone(&of_requests);
        async move { Ok::<_, Infallible>(connection.respond(request).await) }
    });
    let mut served = pin!(http.serve_connection(TokioIo::new(stream), service));
    let shared = Arc::clone(&connection.shared);
    // Since it is to end: until when it may say goodbye, and until when a query that came before may be answered.
    let mut ending: Option<(Instant, Instant)> = None;
    loop {
        let left = connection.patience();
        let left = ending.map_or(left, |(end, _)| end.saturating_duration_since(Instant::now()));
        let ends = tokio::select! {
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    tracing::trace!(%error, client = %connection.client, "connection ended");
                }
                return;
            }
            () = tokio::time::sleep(left) => {
                if let Some((end, last)) = &mut ending {
                    if connection.is_idle() || end >= last {
                        return;
                    }
                    *end = *last;
                    continue;
                }
                let is_over = connection.patience().is_zero();
                // An answer that is not taken cannot be waited for.
                if is_over && connection.sending.load(Relaxed) > 0 {
                    return;
                }
                is_over.then_some(GOODBYE)
            }
            _ = drained(&mut phase), if ending.is_none() => {
                Some(if connection.is_idle() { GOODBYE } else { DRAIN })
            }
            () = shared.connections.scarce(), if ending.is_none() => {
                let gives_up = connection.is_idle()
                    && (place.is_over_share() || connection.since() >= IDLE_WHEN_SCARCE);
                if gives_up {
                    shared.connections.count_refused();
                }
                gives_up.then_some(HURRIED)
            }
        };
        if let Some(time) = ends {
            let now = Instant::now();
            ending = Some((now + time, now + DRAIN));
            served.as_mut().graceful_shutdown();
        }
    }
}

impl Connection {
    fn timeouts(&self) -> Timeouts {
        self.shared.listener.dispatch.load().timeouts()
    }

    fn is_idle(&self) -> bool {
        self.resolving.load(Relaxed) == 0 && self.sending.load(Relaxed) == 0
    }

    /// How long ago the client last did something.
    fn since(&self) -> Duration {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// How long the client may still take: to take an answer, or to ask.
    fn patience(&self) -> Duration {
        let Timeouts { write, idle, .. } = self.timeouts();
        if self.sending.load(Relaxed) > 0 {
            return write.saturating_sub(self.since());
        }
        if self.is_idle() { idle.saturating_sub(self.since()) } else { idle }
    }

    fn touch(&self) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    async fn respond(self: &Arc<Self>, request: Request<Incoming>) -> Response<Answer> {
        let resolving = Counted::new(self, |connection| &connection.resolving);
        let response = match self.query(request).await {
            Ok(query) => self.answer(&query).await,
            Err(status) => Err(status),
        };
        let status = response.as_ref().map_or_else(|status| *status, Response::status);
        if let Some(encryption) = &self.shared.listener.encryption {
            encryption.responses.note(status);
        }
        drop(resolving);
        response.unwrap_or_else(refusal)
    }

    /// The message that a request carries.
    async fn query(&self, request: Request<Incoming>) -> Result<Query, StatusCode> {
        let (parts, body) = request.into_parts();
        let charged = self.shared.connections.bytes(self.client.ip(), 0);
        let mut query =
            Query { octets: Vec::new(), permit: charged.ok_or(StatusCode::TOO_MANY_REQUESTS)? };
        let refused = match parts.method {
            _ if parts.uri.path() != PATH => Some(StatusCode::NOT_FOUND),
            Method::GET => {
                query.push(&of_uri(&parts.uri).ok_or(StatusCode::BAD_REQUEST)?)?;
                return Ok(query);
            }
            Method::POST if is_message(&parts.headers) => None,
            Method::POST => Some(StatusCode::UNSUPPORTED_MEDIA_TYPE),
            _ => Some(StatusCode::METHOD_NOT_ALLOWED),
        };
        // Also of one that is refused: some clients take the end of a request that was not read for that of its response.
        let read = timeout(self.timeouts().read, query.read(body)).await;
        match refused {
            Some(status) => Err(status),
            None => read.map_err(|_| StatusCode::REQUEST_TIMEOUT)?.map(|()| query),
        }
    }

    /// Runs on the worker's thread, as all of this does.
    async fn answer(self: &Arc<Self>, query: &Query) -> Result<Response<Answer>, StatusCode> {
        let worker = &self.shared.worker;
        let origin = Origin {
            client: self.client,
            local: self.local,
            transport: Transport::Tcp,
            worker: worker.number,
            received: CoarseInstant::now(),
        };
        let dispatch = Arc::clone(&self.shared.listener.dispatch.load());
        let mut out = Vec::new();
        let pending = {
            let handled = catch_unwind(AssertUnwindSafe(|| {
                Local::with(|local| answer(&query.octets, origin, &dispatch, local, &mut out))
            }));
            match handled {
                Ok(Disposition::Reply) => None,
                Ok(Disposition::Drop) => return Err(dropped(&query.octets)),
                Ok(Disposition::Pending(reply, request)) => {
                    let Some(place) = worker.admit(&request.origin) else {
                        reply.refuse();
                        return Err(StatusCode::SERVICE_UNAVAILABLE);
                    };
                    let (sender, receiver) = oneshot::channel();
                    let path = ReplyPath::Tcp(Box::new(Owed(sender)));
                    pending::resolve(reply.since(Instant::now()), &request, place, path);
                    Some(receiver)
                }
                Err(_) => {
                    worker.panicked();
                    return Err(StatusCode::INTERNAL_SERVER_ERROR);
                }
            }
        };
        if let Some(pending) = pending {
            out = pending.await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        }
        let permit = self.shared.connections.bytes(self.client.ip(), out.capacity());
        let permit = permit.ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
        let age = lifetime(&out);
        let sending = Counted::new(self, |connection| &connection.sending);
        let body = Answer { left: Bytes::from(out), _permit: Some(permit), sending: Some(sending) };
        let mut response = Response::new(body);
        response.headers_mut().insert(CONTENT_TYPE, MESSAGE);
        if let Ok(value) = HeaderValue::from_str(&format!("max-age={age}")) {
            response.headers_mut().insert(CACHE_CONTROL, value);
        }
        Ok(response)
    }
}

/// A query, charged until it is answered.
struct Query {
    octets: Vec<u8>,
    permit: Permit,
}

impl Query {
    async fn read(&mut self, mut body: Incoming) -> Result<(), StatusCode> {
        while let Some(frame) = body.frame().await {
            // The client has given it up, or means something else.
            let frame = frame.map_err(|_| StatusCode::BAD_REQUEST)?;
            if let Ok(octets) = frame.into_data() {
                self.push(&octets)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, octets: &[u8]) -> Result<(), StatusCode> {
        if self.octets.len() + octets.len() > MAX_MESSAGE {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        if !self.permit.grow(octets.len()) {
            return Err(StatusCode::TOO_MANY_REQUESTS);
        }
        self.octets.extend_from_slice(octets);
        Ok(())
    }
}

/// One of what a connection counts, while this lives. Its begin and end are something that the client does.
struct Counted {
    connection: Arc<Connection>,
    count: fn(&Connection) -> &AtomicUsize,
}

impl Counted {
    fn new(connection: &Arc<Connection>, count: fn(&Connection) -> &AtomicUsize) -> Self {
        connection.touch();
        count(connection).fetch_add(1, Relaxed);
        Self { connection: Arc::clone(connection), count }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.connection.touch();
        (self.count)(&self.connection).fetch_sub(1, Relaxed);
    }
}

/// The reply that is owed to a request. Dropped without one, the request is refused.
struct Owed(oneshot::Sender<Vec<u8>>);

impl OwedReply for Owed {
    fn send(self: Box<Self>, write: &mut dyn FnMut(&mut Vec<u8>) -> bool) {
        let mut octets = Vec::new();
        if write(&mut octets) {
            // The client may have gone.
            let _ = self.0.send(octets);
        }
    }
}

/// The body of a response: empty, or a message, which is charged until HTTP has taken the last piece of it.
struct Answer {
    left: Bytes,
    _permit: Option<Permit>,
    sending: Option<Counted>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let len = self.left.len().min(PIECE);
        let piece = self.left.split_to(len);
        if let Some(sending) = &self.sending {
            sending.connection.touch();
        }
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

fn refusal(status: StatusCode) -> Response<Answer> {
    let mut response = Response::new(Answer { left: Bytes::new(), _permit: None, sending: None });
    *response.status_mut() = status;
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
    }
    response
}

/// The message in `?dns=`, base64url without padding (RFC 8484 section 4.1.1).
fn of_uri(uri: &Uri) -> Option<Vec<u8>> {
    let mut fields = uri.query()?.split('&');
    let text = fields.find_map(|field| field.strip_prefix("dns="))?;
    let octets = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?;
    (octets.len() <= MAX_MESSAGE).then_some(octets)
}

/// Why a message has no reply: it is none, or a directive drops it.
fn dropped(query: &[u8]) -> StatusCode {
    let is_query = query.len() >= HEADER_LEN && query.get(2).is_some_and(|flags| flags & 0x80 == 0);
    if is_query { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::BAD_REQUEST }
}

/// Whether a request says that it carries a message.
fn is_message(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/dns-message")
}

/// For how many seconds HTTP may keep an answer: the shortest time to live of its records, of a denial that of the SOA (RFC 8484
/// section 5.1).
fn lifetime(message: &[u8]) -> u32 {
    let Ok(layout) = Layout::parse(message) else { return 0 };
    let of = |section| layout.records.iter().filter(move |r| r.section == section);
    let soa = of(Section::Authority).find(|record| record.rtype == RecordType::SOA);
    let denied = soa.map(|soa| negative_ttl(soa.ttl, soa.rdata(message)));
    of(Section::Answer).map(|record| record.ttl).min().or(denied).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_found_in_the_address() {
        let of = |text: &str| of_uri(&text.parse().unwrap());
        assert_eq!(of("/dns-query?dns=AAAB").as_deref(), Some(&[0, 0, 1][..]));
        assert_eq!(of("/dns-query?ct=x&dns=AAA").as_deref(), Some(&[0, 0][..]));
        assert_eq!(of("/dns-query?dns=AAA=").as_deref(), Some(&[0, 0][..]));
        for wrong in ["/dns-query", "/dns-query?dns", "/dns-query?dns=*", "/dns-query?dns=A+/A"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
