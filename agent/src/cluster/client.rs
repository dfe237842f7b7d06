//! The way to the API server: kube's authentication and TLS, one HTTP/2 connection for all kinds, and a limit to every wait.
//!
//! A dead connection has to be noticed within seconds, or names would be answered from the past without anyone knowing it:
//! so TCP keepalive, TCP_USER_TIMEOUT, HTTP/2 pings, and a deadline for every response. Redirects, retries and pauses are
//! the watch's business.

use std::time::{Duration, Instant};

use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kube::client::{Body, ConfigExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tower::util::MapResponse;
use tower::{ServiceBuilder, ServiceExt};

use super::credentials::{ClientError, Settings, Stamps, settings, setup_reason};
use super::decode::Encoding;
use super::limiter::{Limiter, Place};
use super::read_delay::{Noted, ReadDelays};
use super::request::Ask;
use super::spec::{Source, Spec, Timing};
use super::status::Status;
use crate::logging::causes;

/// What a request came to, where it is not a response with status 200.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// There is no client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No connection, or it broke.
    #[error("cannot reach the API server: {server}: {reason}")]
    Unreachable {
        /// Its address.
        server: String,
        /// What the kernel, TLS or HTTP said.
        reason: String,
    },
    /// No answer in this time.
    #[error("the API server did not answer within {} s", .0.as_secs_f64())]
    Silent(Duration),
    /// Another status than 200.
    #[error("the API server says {code} {reason}: {message}")]
    Status {
        /// The status.
        code: u16,
        /// Its name, as the server has it.
        reason: String,
        /// What the server said.
        message: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
}

type Tcp = TokioIo<TcpStream>;

/// Makes clients, and makes a new one when the old one's credentials were refused or replaced.
pub(super) struct Connector {
    source: Source,
    timing: Timing,
    limiter: Limiter,
    delays: ReadDelays,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    /// Differs between clients, so that a client is discarded once however many requests have failed with it.
    generation: u64,
    client: Option<kube::Client>,
    /// Of the files that the client was made from.
    stamps: Stamps,
}

/// A response with status 200.
pub(super) struct Reply {
    pub(super) encoding: Encoding,
    /// True if the body is compressed by gzip.
    pub(super) gzip: bool,
    pub(super) body: Body,
    /// Held while a list is read.
    pub(super) place: Place,
}

impl Connector {
    pub(super) fn new(spec: &Spec, delays: ReadDelays) -> Self {
        let limiter = Limiter::new(spec.limits);
        let (source, timing) = (spec.source.clone(), spec.timing);
        Self { source, timing, limiter, delays, current: Mutex::default() }
    }

    /// Sends a request and waits for the head of the response. Credentials that are refused with 401 are read again for the
    /// next request.
    pub(super) async fn get(&self, ask: &Ask, status: &Status) -> Result<Reply, RequestError> {
        let unreachable =
            |reason| RequestError::Unreachable { server: status.host().to_owned(), reason };
        let came = Instant::now();
        let place = self.limiter.admit().await;
        status.limiter_duration.observe(came.elapsed());
        let (generation, client) = self.client(status).await?;
        let mut request = Request::get(&ask.url).header(ACCEPT, accepted(ask.encoding));
        if ask.gzip {
            request = request.header(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let request =
            request.body(Body::empty()).map_err(|error| unreachable(error.to_string()))?;
        let asked = Instant::now();
        let sent = tokio::time::timeout(self.timing.read, client.send(request)).await;
        let code = match &sent {
            Ok(Ok(response)) => Some(response.status().as_u16()),
            Ok(Err(_)) | Err(_) => None,
        };
        status.note_request(code, asked.elapsed());
        match code {
            Some(401) => self.discard(generation, true).await,
            None => self.discard(generation, false).await,
            Some(_) => {}
        }
        match sent {
            Err(_) => {
                // Requests share a connection: one that is silent is not used again.
                self.discard(generation, true).await;
                Err(RequestError::Silent(self.timing.read))
            }
            Ok(Err(error)) => Err(unreachable(plain(&error))),
            Ok(Ok(response)) if response.status().is_success() => Ok(reply(response, place)),
            Ok(Ok(response)) => Err(refusal(response, self.timing.read).await),
        }
    }

    /// The client that is in use, or a new one where a file has been replaced since it was made.
    async fn client(&self, status: &Status) -> Result<(u64, kube::Client), ClientError> {
        let mut current = self.current.lock().await;
        if let Some(client) = current.client.clone().filter(|_| !current.stamps.have_changed()) {
            return Ok((current.generation, client));
        }
        current.client = None;
        let mut stamps = Stamps::of(&self.source);
        let settings = settings(&self.source, &mut stamps)?;
        current.stamps = stamps;
        if settings.config.proxy_url.is_some() {
            tracing::warn!(source = %self.source, "the proxy that the kubeconfig or HTTPS_PROXY names is not used");
        }
        let url = settings.config.cluster_url.clone();
        status.note_host(url.authority().map_or("", |authority| authority.as_str()));
        let (timing, delays) = (self.timing, self.delays.clone());
        // Credential plugins are programs that kube runs and waits for.
        let client = tokio::task::spawn_blocking(move || {
            let config = settings.config.clone();
            build(settings, timing, delays).map_err(|error| setup_reason(&error, &config))
        });
        let client = client.await.unwrap_or_else(|error| Err(error.to_string()));
        let client =
            client.map_err(|reason| ClientError::Setup { url: url.to_string(), reason })?;
        current.generation += 1;
        current.client = Some(client.clone());
        Ok((current.generation, client))
    }

    /// Makes the next request build a new client, unless another one did already: in any case, or if a file was replaced.
    async fn discard(&self, generation: u64, in_any_case: bool) {
        let mut current = self.current.lock().await;
        if current.generation == generation && (in_any_case || current.stamps.have_changed()) {
            current.client = None;
        }
    }
}

/// The `Accept` header. JSON is named beside protobuf, for servers that have nothing else.
fn accepted(encoding: Encoding) -> HeaderValue {
    HeaderValue::from_static(match encoding {
        Encoding::Json => "application/json",
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf, application/json",
    })
}

/// What a body is written in, by its head; JSON if it does not say.
fn encoding(headers: &HeaderMap) -> Encoding {
    match headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes) {
        Some(kind) if kind.starts_with(b"application/vnd.kubernetes.protobuf") => {
            Encoding::Protobuf
        }
        _ => Encoding::Json,
    }
}

fn reply(response: Response<Body>, place: Place) -> Reply {
    let headers = response.headers();
    let gzip = headers.get(CONTENT_ENCODING).is_some_and(|value| value == "gzip");
    Reply { encoding: encoding(headers), gzip, body: response.into_body(), place }
}

pub(super) fn build(
    settings: Settings,
    timing: Timing,
    delays: ReadDelays,
) -> Result<kube::Client, kube::Error> {
    let Settings { mut config, certificate, .. } = settings;
    let agent = concat!("nodens/", env!("CARGO_PKG_VERSION"));
    config.headers.push((USER_AGENT, HeaderValue::from_static(agent)));
    // With a file of authorities kube verifies by that file. It must not look for those of the system as well: an image has none.
    if config.root_cert_file.is_some() {
        config.root_cert.get_or_insert_default();
    }
    let mut tls = config.rustls_client_config()?;
    if let Some(certificate) = certificate {
        tls.client_auth_cert_resolver = certificate;
    }
    let client = HttpClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .http1_max_buf_size(READ_BUFFER)
        .http2_keep_alive_interval(KEEPALIVE)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(1)
        .build::<_, Body>(connector(tcp(timing, delays), tls, config.tls_server_name.as_deref())?);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(client);
    Ok(kube::Client::new(service, config.default_namespace))
}

/// Connections over TCP that are given up when they are dead, and whose reads are noted.
fn tcp(
    timing: Timing,
    delays: ReadDelays,
) -> MapResponse<HttpConnector, impl Fn(Tcp) -> Noted<Tcp> + Clone + use<>> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(timing.connect));
    http.set_keepalive(Some(KEEPALIVE));
    http.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    http.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    http.set_tcp_user_timeout(Some(USER_TIMEOUT));
    let noted = move |tcp| Noted::new(tcp, delays.clone());
    http.map_response(noted)
}

/// The same over TLS, of HTTP/2 if the server offers it, or plain.
fn connector<H>(
    tcp: H,
    tls: rustls::ClientConfig,
    server_name: Option<&str>,
) -> Result<HttpsConnector<H>, kube::Error> {
    let mut builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    if let Some(name) = server_name {
        let name = rustls_pki_types::ServerName::try_from(name.to_owned())
            .map_err(|error| kube::Error::Service(Box::new(error)))?;
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    Ok(builder.enable_http1().enable_http2().wrap_connector(tcp))
}

/// A connection of HTTP/1 reads at most so much at once: four TLS records, after which a larger buffer gains nothing.
const READ_BUFFER: usize = 64 << 10;
/// What a stream, and a connection, may send before it is read: the bound of what waits in memory. At a round-trip time of
/// 1 ms it allows 256 MB/s.
const STREAM_WINDOW: u32 = 256 << 10;
/// See [`STREAM_WINDOW`]: for all kinds together.
const CONNECTION_WINDOW: u32 = 512 << 10;
/// A connection that has been silent for so long is probed, by TCP and, while it has requests, by an HTTP/2 ping.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// An unanswered ping ends the connection.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// The time between probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Unanswered probes that end a connection: 20 + 3 x 5 s after the last sign of life.
const KEEPALIVE_RETRIES: u32 = 3;
/// The longest that sent octets may stay unacknowledged (RFC 5482).
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections are held by watches; between list and watch one may idle for a moment.
const POOL_IDLE: Duration = Duration::from_secs(15);
/// The most that is read of a response that is an error.
const MAX_REFUSAL: usize = 64 << 10;

pub(super) async fn refusal(response: Response<Body>, patience: Duration) -> RequestError {
    let code = response.status().as_u16();
    let seconds = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let reason = response.status().canonical_reason().unwrap_or("").to_owned();
    let encoding = encoding(response.headers());
    // A Status object says more than the code does.
    let body = http_body_util::Limited::new(response.into_body(), MAX_REFUSAL).collect();
    let bytes = match tokio::time::timeout(patience, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        _ => bytes::Bytes::new(),
    };
    let status = encoding.refusal(&bytes);
    let advised = status.retry_after_seconds.filter(|&seconds| seconds > 0);
    RequestError::Status {
        code,
        reason: status.reason.unwrap_or(reason),
        message: status.message.unwrap_or_else(|| "no further word".into()),
        retry_after: seconds.or(advised).map(Duration::from_secs),
    }
}

/// An error of the client without the names of its layers and the links of its libraries, which tell an operator nothing.
pub(super) fn plain(error: &(dyn std::error::Error + 'static)) -> String {
    const LAYERS: [&str; 3] =
        ["ServiceError: ", "client error (Connect): ", "error reading a body from connection: "];
    let text = causes(error);
    let text =
        LAYERS.iter().fold(text.as_str(), |text, layer| text.strip_prefix(layer).unwrap_or(text));
    text.split(": https://docs.rs/").next().unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_without_the_layers_of_the_client() {
        let error = |text: &str| plain(&std::io::Error::other(text.to_owned()));
        let wanted = "tcp connect error: Connection refused (os error 111)";
        assert_eq!(error(&format!("ServiceError: client error (Connect): {wanted}")), wanted);
        let cut = "ServiceError: error reading a body from connection: closed: https://docs.rs/x#y";
        assert_eq!(error(cut), "closed");
    }
}
