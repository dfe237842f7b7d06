//! The way to the API server: address, credentials and TLS by kube, sockets by us.
//!
//! A dead connection has to be noticed within seconds, or names would be answered from the past without anybody knowing:
//! so TCP keepalive, TCP_USER_TIMEOUT, and a limit to every wait. Redirects, retries and pauses are the watch's business.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use http::header::{ACCEPT, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::sync::Mutex;
use tower::ServiceBuilder;

use super::spec::{Source, Timing, Tls};
use super::status::Status;
use crate::logging::causes;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The environment or the service account's files are not those of a pod.
    #[error(
        "cannot use the pod's service account: {0}; outside of a cluster, name a kubeconfig or an endpoint"
    )]
    InCluster(String),
    /// The kubeconfig cannot be used.
    #[error("cannot use kubeconfig {file}: {reason}")]
    Kubeconfig {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The URL cannot be used.
    #[error("endpoint `{0}` is not an http or https URL")]
    Endpoint(String),
    /// Certificates, keys or credentials cannot be used.
    #[error("cannot set up the client for {url}: {reason}")]
    Setup {
        /// The server.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A folder has no API server.
    #[error("a folder of objects has no API server")]
    Folder,
}

/// What a request came to, where it is not a response with status 200.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot reach the API server: {0}")]
    Unreachable(String),
    #[error("the API server did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the API server says {code} {reason}: {message}")]
    Status { code: u16, reason: String, message: String, retry_after: Option<Duration> },
}

/// Makes clients, and makes a new one when the old one's credentials are refused.
pub(super) struct Connector {
    source: Source,
    timing: Timing,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    generation: u64,
    client: Option<kube::Client>,
    /// Of the files that the client was made from.
    stamp: Vec<Option<Stamp>>,
}

/// What tells whether a file is still the one that was read: device, inode, and the time of its last change.
type Stamp = (u64, u64, i64, i64);

/// A response with status 200, and which client it came from.
pub(super) type Reply = Response<Body>;

impl Connector {
    pub(super) fn new(source: Source, timing: Timing) -> Self {
        Self { source, timing, current: Mutex::default() }
    }

    /// Asks for `path_and_query`. Credentials that are refused with 401 are read again for the next request.
    pub(super) async fn get(
        &self,
        path_and_query: &str,
        status: &Status,
    ) -> Result<Reply, RequestError> {
        let (generation, client) = self.client(status).await?;
        let request = Request::get(path_and_query)
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .body(Body::empty())
            .map_err(|error| RequestError::Unreachable(error.to_string()))?;
        let asked = Instant::now();
        let sent = tokio::time::timeout(self.timing.read, client.send(request)).await;
        let code = match &sent {
            Ok(Ok(response)) => Some(response.status().as_u16()),
            Ok(Err(_)) | Err(_) => None,
        };
        status.note_request(code, asked.elapsed());
        match code {
            Some(401) => self.forget(generation).await,
            None => self.forget_if_changed(generation).await,
            Some(_) => {}
        }
        match sent {
            Err(_) => Err(RequestError::Silent(self.timing.read)),
            Ok(Err(error)) => Err(RequestError::Unreachable(plain(&error))),
            Ok(Ok(response)) if response.status().is_success() => Ok(response),
            Ok(Ok(response)) => Err(refusal(response, self.timing.read).await),
        }
    }

    async fn client(&self, status: &Status) -> Result<(u64, kube::Client), ClientError> {
        let mut current = self.current.lock().await;
        if let Some(client) = &current.client {
            return Ok((current.generation, client.clone()));
        }
        // Before the files are read: a change that comes between is seen the next time.
        current.stamp = stamps(&self.source);
        let config = configure(&self.source)?;
        if config.proxy_url.is_some() {
            tracing::warn!(source = %self.source, "the proxy that the kubeconfig or HTTPS_PROXY names is not used");
        }
        let url = config.cluster_url.clone();
        let timing = self.timing;
        // Credential plugins are programs that kube runs and waits for.
        let client = tokio::task::spawn_blocking(move || build(config, timing)).await;
        let client = match client {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => {
                return Err(ClientError::Setup { url: url.to_string(), reason: causes(&error) });
            }
            Err(error) => {
                return Err(ClientError::Setup { url: url.to_string(), reason: error.to_string() });
            }
        };
        status.note_host(url.authority().map_or("", |authority| authority.as_str()));
        current.generation += 1;
        current.client = Some(client.clone());
        Ok((current.generation, client))
    }

    /// Makes the next request build a new client, unless somebody saw to that already.
    async fn forget(&self, generation: u64) {
        let mut current = self.current.lock().await;
        if current.generation == generation {
            current.client = None;
        }
    }

    /// Does so where a file was replaced since: new authorities or another server, which no 401 tells of.
    async fn forget_if_changed(&self, generation: u64) {
        let mut current = self.current.lock().await;
        if current.generation == generation && current.stamp != stamps(&self.source) {
            current.client = None;
        }
    }
}

/// Stamps of the files that are read when a client is made. (kube reads a pod's token and authority again every minute, but
/// after a connection that failed for want of the new authority nobody should have to wait for it.)
fn stamps(source: &Source) -> Vec<Option<Stamp>> {
    let files: Vec<&Path> = match source {
        Source::InCluster => vec![Path::new(POD_AUTHORITY)],
        Source::Kubeconfig { file, .. } => vec![file],
        Source::Endpoint { tls: Some(Tls { cert, key, ca }), .. } => {
            [cert, key, ca].into_iter().flatten().map(PathBuf::as_path).collect()
        }
        Source::Endpoint { tls: None, .. } | Source::Folder(_) => Vec::new(),
    };
    let stamp = |metadata: Metadata| {
        (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
    };
    files.into_iter().map(|file| std::fs::metadata(file).ok().map(stamp)).collect()
}

/// Which cluster `source` leads to: its address and a sum of its certificate authorities, which differ between clusters
/// where addresses do not.
pub(super) fn identity(source: &Source) -> Result<String, ClientError> {
    let config = configure(source)?;
    let mut sum = crc32fast::Hasher::new();
    for authority in config.root_cert.iter().flatten() {
        sum.update(authority);
    }
    if config.root_cert.is_none()
        && let Some(file) = &config.root_cert_file
    {
        let read = std::fs::read(file);
        sum.update(&read.map_err(|error| ClientError::Setup {
            url: config.cluster_url.to_string(),
            reason: format!("cannot read {}: {error}", file.display()),
        })?);
    }
    Ok(format!("{} signed by {:08x}", config.cluster_url, sum.finalize()))
}

fn configure(source: &Source) -> Result<kube::Config, ClientError> {
    match source {
        Source::InCluster => {
            kube::Config::incluster_env().map_err(|error| ClientError::InCluster(causes(&error)))
        }
        Source::Kubeconfig { file, context } => {
            let bad = |error: kube::config::KubeconfigError| ClientError::Kubeconfig {
                file: file.display().to_string(),
                reason: causes(&error),
            };
            let kubeconfig = Kubeconfig::read_from(file).map_err(bad)?;
            let options = KubeConfigOptions { context: context.clone(), ..Default::default() };
            // The function waits for nothing; its future is ready when it is polled first.
            let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
                .now_or_never()
                .ok_or_else(|| ClientError::Kubeconfig {
                    file: file.display().to_string(),
                    reason: "not ready".into(),
                })?
                .map_err(bad)?;
            Ok(config)
        }
        Source::Endpoint { url, tls } => {
            let uri: http::Uri = url.parse().map_err(|_| ClientError::Endpoint(url.clone()))?;
            if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.authority().is_none() {
                return Err(ClientError::Endpoint(url.clone()));
            }
            let mut config = kube::Config::new(uri);
            if let Some(Tls { cert, key, ca }) = tls {
                let text = |path: &Option<PathBuf>| {
                    path.as_ref().map(|path| path.to_string_lossy().into_owned())
                };
                config.auth_info.client_certificate = text(cert);
                config.auth_info.client_key = text(key);
                config.root_cert_file = ca.clone();
            }
            Ok(config)
        }
        Source::Folder(_) => Err(ClientError::Folder),
    }
}

fn build(mut config: kube::Config, timing: Timing) -> Result<kube::Client, kube::Error> {
    let agent = concat!("nodens/", env!("CARGO_PKG_VERSION"));
    config.headers.push((USER_AGENT, HeaderValue::from_static(agent)));
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(timing.connect));
    http.set_keepalive(Some(KEEPALIVE));
    http.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    http.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    http.set_tcp_user_timeout(Some(USER_TIMEOUT));
    let https = config.rustls_https_connector_with_connector(http)?;
    let client = HttpClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .http1_max_buf_size(READ_BUFFER)
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(1)
        .build::<_, Body>(https);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(client);
    Ok(kube::Client::new(service, config.default_namespace))
}

/// The authority of a pod's API server; the folder is Kubernetes' for ever.
const POD_AUTHORITY: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
/// A connection reads at most so much at once: four TLS records, after which a larger buffer gains nothing.
const READ_BUFFER: usize = 64 << 10;
/// A connection that has been silent for so long is probed.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// The time between probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Unanswered probes that end a connection: 20 + 3 x 5 s after the last sign of life.
const KEEPALIVE_RETRIES: u32 = 3;
/// The longest that what we sent may stay unacknowledged (RFC 5482).
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections are held by watches; between list and watch one may idle for a moment.
const POOL_IDLE: Duration = Duration::from_secs(15);

async fn refusal(response: Reply, patience: Duration) -> RequestError {
    let code = response.status().as_u16();
    let seconds = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let reason = response.status().canonical_reason().unwrap_or("").to_owned();
    // A Status object says more than the code does; nobody needs more than its first few kilobytes.
    let body = http_body_util::Limited::new(response.into_body(), 64 << 10).collect();
    let bytes = match tokio::time::timeout(patience, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        _ => bytes::Bytes::new(),
    };
    let status: StatusObject = serde_json::from_slice(&bytes).unwrap_or_default();
    let advised = status
        .details
        .and_then(|details| details.retry_after_seconds)
        .filter(|&seconds| seconds > 0);
    RequestError::Status {
        code,
        reason: status.reason.unwrap_or(reason),
        message: status
            .message
            .unwrap_or_else(|| "no further word".into())
            .chars()
            .take(500)
            .collect(),
        retry_after: seconds.or(advised).map(Duration::from_secs),
    }
}

/// `v1.Status`, as errors are told.
#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct StatusObject {
    reason: Option<String>,
    message: Option<String>,
    details: Option<StatusDetails>,
}

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct StatusDetails {
    #[serde(rename = "retryAfterSeconds")]
    retry_after_seconds: Option<u64>,
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

    #[test]
    fn an_endpoint_has_to_be_a_url() {
        for url in ["10.0.0.1:6443", "ftp://10.0.0.1", "", "https://"] {
            let source = Source::Endpoint { url: url.into(), tls: None };
            let error = configure(&source).unwrap_err().to_string();
            assert!(error.contains("is not an http or https URL"), "{url}: {error}");
        }
    }

    #[test]
    fn a_missing_kubeconfig_is_named() {
        let source = Source::Kubeconfig { file: "/nonexistent/config".into(), context: None };
        let error = configure(&source).unwrap_err().to_string();
        assert!(error.starts_with("cannot use kubeconfig /nonexistent/config: "), "{error}");
        assert!(error.contains("No such file"), "{error}");
    }
}
