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
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::answer::{Disposition, answer};
use super::pending;
use super::send_queue::{OwedReply, ReplyPath};
use super::tcp::Shared;
use super::tls::Secured;
use super::tls::stream::TlsStream;
use super::worker::{Phase, drained};
use crate::admission::Permit;
use crate::chain::Local;
use crate::clock::CoarseInstant;
use crate::plugin::settings::Timeouts;
use crate::request::{Origin, Transport};
use crate::wire::{HEADER_LEN, Layout, MAX_MESSAGE, Section};

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
const BUFFER: usize = 96 << 10;

/// One connection.
struct Connection {
    shared: Arc<Shared>,
    client: SocketAddr,
    local: SocketAddr,
    /// Requests that are not answered.
    busy: AtomicUsize,
    /// When there was one last.
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
    let local = stream.socket().local_addr().unwrap_or(shared.listener.address);
    let connection = Arc::new(Connection {
        shared: Arc::clone(shared),
        client: SocketAddr::new(ip, client.port()),
        local: SocketAddr::new(local.ip().to_canonical(), local.port()),
        busy: AtomicUsize::new(0),
        since: Mutex::new(Instant::now()),
    });
    tokio::spawn(run(connection, stream, place, phase.clone()));
}

async fn run(
    connection: Arc<Connection>,
    stream: TlsStream,
    _place: Permit,
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
        .initial_stream_window_size(MAX_MESSAGE as u32 + 1)
        .initial_connection_window_size(4 * (MAX_MESSAGE as u32 + 1));
    let of_requests = Arc::clone(&connection);
    let service = service_fn(move |request| {
        let connection = Arc::clone(&of_requests);
        async move { Ok::<_, Infallible>(connection.respond(request).await) }
    });
    let mut served = pin!(http.serve_connection(TokioIo::new(stream), service));
    let shared = Arc::clone(&connection.shared);
    let mut is_ending = false;
    loop {
        let left = connection.patience();
        tokio::select! {
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    tracing::trace!(%error, client = %connection.client, "connection ended");
                }
                return;
            }
            () = tokio::time::sleep(left) => {
                if !connection.patience().is_zero() {
                    continue;
                }
                if is_ending {
                    // It was told to end and does not.
                    return;
                }
                is_ending = true;
                connection.touch();
                served.as_mut().graceful_shutdown();
            }
            _ = drained(&mut phase), if !is_ending => {
                is_ending = true;
                connection.touch();
                served.as_mut().graceful_shutdown();
            }
            () = shared.connections.scarce(), if !is_ending && connection.is_idle() => {
                shared.connections.count_refused();
                is_ending = true;
                served.as_mut().graceful_shutdown();
            }
        }
    }
}

impl Connection {
    fn timeouts(&self) -> Timeouts {
        self.shared.listener.dispatch.load().timeouts()
    }

    fn is_idle(&self) -> bool {
        self.busy.load(Relaxed) == 0
    }

    /// How long it may still be idle.
    fn patience(&self) -> Duration {
        let idle = self.timeouts().idle;
        if !self.is_idle() {
            return idle;
        }
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        idle.saturating_sub(since.elapsed())
    }

    fn touch(&self) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    async fn respond(self: &Arc<Self>, request: Request<Incoming>) -> Response<Answer> {
        self.busy.fetch_add(1, Relaxed);
        let busy = Busy(Arc::clone(self));
        let response = match self.query(request).await {
            Ok(query) => self.answer(&query, busy).await,
            Err(status) => Err(status),
        };
        let status = response.as_ref().map_or_else(|status| *status, Response::status);
        if let Some(encryption) = &self.shared.listener.encryption {
            encryption.responses.note(status);
        }
        response.unwrap_or_else(refusal)
    }

    /// The message that a request carries.
    async fn query(&self, request: Request<Incoming>) -> Result<Query, StatusCode> {
        if request.uri().path() != PATH {
            return Err(StatusCode::NOT_FOUND);
        }
        let octets = match *request.method() {
            Method::GET => Bytes::from(of_uri(request.uri()).ok_or(StatusCode::BAD_REQUEST)?),
            Method::POST => {
                if request.headers().get(CONTENT_TYPE) != Some(&MESSAGE) {
                    return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
                }
                let body = Limited::new(request.into_body(), MAX_MESSAGE).collect();
                match timeout(self.timeouts().read, body).await {
                    Ok(Ok(body)) => body.to_bytes(),
                    Ok(Err(_)) => return Err(StatusCode::PAYLOAD_TOO_LARGE),
                    Err(_) => return Err(StatusCode::REQUEST_TIMEOUT),
                }
            }
            _ => return Err(StatusCode::METHOD_NOT_ALLOWED),
        };
        let charged = self.shared.connections.bytes(self.client.ip(), octets.len());
        let permit = charged.ok_or(StatusCode::TOO_MANY_REQUESTS)?;
        Ok(Query { octets, permit })
    }

    /// Runs on the worker's thread, as all of this does.
    async fn answer(&self, query: &Query, busy: Busy) -> Result<Response<Answer>, StatusCode> {
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
        let mut response = Response::new(Answer {
            left: Bytes::from(out),
            _permit: Some(permit),
            _busy: Some(busy),
        });
        response.headers_mut().insert(CONTENT_TYPE, MESSAGE);
        if let Ok(value) = HeaderValue::from_str(&format!("max-age={age}")) {
            response.headers_mut().insert(CACHE_CONTROL, value);
        }
        Ok(response)
    }
}

/// A query, charged until it is answered.
struct Query {
    octets: Bytes,
    #[allow(dead_code, reason = "held for its drop")]
    permit: Permit,
}

/// The connection has something to do while this lives.
struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.touch();
        self.0.busy.fetch_sub(1, Relaxed);
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
    _busy: Option<Busy>,
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
    let mut response = Response::new(Answer { left: Bytes::new(), _permit: None, _busy: None });
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

/// For how many seconds HTTP may keep an answer: the shortest time to live of its answers, of a denial that of the SOA (RFC 8484
/// section 5.1).
fn lifetime(message: &[u8]) -> u32 {
    let Ok(layout) = Layout::parse(message) else { return 0 };
    let of = |section| layout.records.iter().filter(move |r| r.section == section).map(|r| r.ttl);
    of(Section::Answer).min().or_else(|| of(Section::Authority).min()).unwrap_or(0)
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
