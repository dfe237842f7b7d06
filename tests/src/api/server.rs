//! The server's handle for tests, and what it shares with its connections.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ServerConfig;
use serde_json::Value;
use tokio::sync::watch;

use super::certificates::Authority;
use super::credentials::{self, Identity};
use super::fault::{Fault, Faults, Scope};
use super::listener::Control;
use super::log::{Log, RequestRecord};
use super::options::{Behaviour, Options};
use super::request::ApiRequest;
use super::resource::Resource;
use super::store::Store;

/// A running API server; stops when dropped.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    control: Control,
}

/// What the handle and all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Arc<Store>,
    pub(crate) faults: Faults,
    pub(crate) log: Log,
    /// Grows with each [`ApiServer::retire`].
    pub(crate) retirements: watch::Sender<u64>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    behaviour: Behaviour,
    tokens: Vec<String>,
    anonymous: bool,
    authority: Authority,
    tls: Option<Arc<ServerConfig>>,
}

impl ApiServer {
    /// Starts a server with the default options and no objects.
    ///
    /// # Panics
    /// When it cannot be started; a test has no use for the error.
    #[must_use]
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    /// Starts a server.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn with(options: Options) -> Self {
        Self::try_with(options)
            .unwrap_or_else(|error| panic!("cannot start the test API server: {error:#}"))
    }

    /// Starts a server.
    ///
    /// # Errors
    /// No port, no thread, or no certificate.
    pub fn try_with(options: Options) -> anyhow::Result<Self> {
        let authority = Authority::new("test-kubernetes-ca")?;
        let tls = if options.plain_http { None } else { Some(authority.server_config()?) };
        let shared = Arc::new(Shared {
            store: Arc::new(Store::new(100_000)),
            faults: Faults::new(),
            log: Log::default(),
            retirements: watch::Sender::new(0),
            state: Mutex::new(State {
                behaviour: options.behaviour,
                tokens: vec![options.token],
                anonymous: options.anonymous,
                authority,
                tls,
            }),
        });
        let control = Control::start(shared.clone())?;
        Ok(Self { shared, control })
    }

    /// Its objects.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.shared.store
    }

    /// Creates or replaces an object; returns the new revision. See [`Store::put`].
    pub fn put(&self, object: Value) -> u64 {
        self.store().put(object)
    }

    /// Deletes an object, by plural resource name; false if there was none.
    pub fn delete(&self, resource: &str, namespace: &str, name: &str) -> bool {
        self.store().delete(Resource::named(resource), namespace, name)
    }

    /// Stores every object of a list. See [`Store::load`].
    pub fn load(&self, list: Value) {
        self.store().load(list);
    }

    /// Stores every object of a JSON file, or of a YAML file with any number of documents.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load_file(&self, path: &Path) -> anyhow::Result<()> {
        use anyhow::Context;
        use serde::Deserialize;
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let value = Value::deserialize(document).with_context(|| path.display().to_string())?;
            self.load(value);
        }
        Ok(())
    }

    /// `https://127.0.0.1:PORT`, or `http://` without TLS.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.shared.lock().tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.control.address)
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.control.address.port()
    }

    /// The authority's certificate, as PEM.
    #[must_use]
    pub fn ca_pem(&self) -> String {
        self.shared.lock().authority.pem().to_owned()
    }

    /// The newest bearer token that is valid; empty if none is.
    #[must_use]
    pub fn token(&self) -> String {
        self.shared.lock().tokens.last().cloned().unwrap_or_default()
    }

    /// Adds a new token and returns it; with `expire`, all older ones are invalid from now on.
    pub fn rotate_token(&self, expire: bool) -> String {
        let mut state = self.shared.lock();
        let token = format!("test-token-{}", state.tokens.len() + 1 + usize::from(expire) * 1000);
        if expire {
            state.tokens.clear();
        }
        state.tokens.push(token.clone());
        token
    }

    /// Replaces authority and server certificate; clients that trust the old one alone fail from now on.
    ///
    /// # Panics
    /// When no certificate can be made.
    pub fn rotate_authority(&self) {
        let fresh = Authority::new("test-kubernetes-ca-next")
            .and_then(|authority| authority.server_config().map(|config| (authority, config)));
        let (authority, config) =
            fresh.unwrap_or_else(|error| panic!("no new authority: {error:#}"));
        let mut state = self.shared.lock();
        state.authority = authority;
        state.tls = Some(config);
    }

    /// Shows a certificate of the same authority from now on that has expired yesterday.
    ///
    /// # Panics
    /// When no certificate can be made.
    pub fn expire_certificate(&self) {
        let mut state = self.shared.lock();
        let config = state.authority.server_config_for(-1);
        state.tls = Some(config.unwrap_or_else(|error| panic!("no certificate: {error:#}")));
    }

    /// Writes a kubeconfig with a client certificate that is valid for so many days from now.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write_kubeconfig_for(&self, path: &Path, days: i64) {
        let pair = self.shared.lock().authority.client_for("nodens", days);
        let pair = pair.unwrap_or_else(|error| panic!("no client certificate: {error:#}"));
        self.write_kubeconfig_as(path, &Identity::Certificate(pair));
    }

    /// Writes a kubeconfig with the newest token.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write_kubeconfig(&self, path: &Path) {
        self.write_kubeconfig_as(path, &Identity::Token(self.token()));
    }

    /// Writes a kubeconfig with a client certificate of the server's authority.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write_kubeconfig_with_certificate(&self, path: &Path) {
        let pair = self.shared.lock().authority.client("nodens");
        let pair = pair.unwrap_or_else(|error| panic!("no client certificate: {error:#}"));
        self.write_kubeconfig_as(path, &Identity::Certificate(pair));
    }

    /// Writes `client.crt`, `client.key` and `ca.crt` to a folder: a client certificate of the server's authority, and the
    /// authority.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn write_certificates(&self, folder: &Path) {
        let pair = self.shared.lock().authority.client("nodens");
        let pair = pair.unwrap_or_else(|error| panic!("no client certificate: {error:#}"));
        let made = std::fs::create_dir_all(folder);
        let files =
            [("client.crt", pair.certificate), ("client.key", pair.key), ("ca.crt", self.ca_pem())];
        for (name, text) in files {
            let written = std::fs::write(folder.join(name), text);
            assert!(written.is_ok(), "cannot write {}: {made:?} {written:?}", folder.display());
        }
    }

    /// Writes a kubeconfig with any identity.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write_kubeconfig_as(&self, path: &Path, identity: &Identity) {
        let ca = self.ca_pem();
        let ca = self.shared.lock().tls.is_some().then_some(ca);
        credentials::write_kubeconfig(path, &self.url(), ca.as_deref(), identity)
            .unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Writes or rotates a service account's folder (`token`, `ca.crt`, `namespace`) with the newest token.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_service_account(&self, folder: &Path) {
        credentials::write_service_account(folder, &self.token(), &self.ca_pem())
            .unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// The environment of a pod: where its API server is.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        vec![
            ("KUBERNETES_SERVICE_HOST".into(), self.control.address.ip().to_string()),
            ("KUBERNETES_SERVICE_PORT".into(), self.port().to_string()),
        ]
    }

    /// Changes behaviour while running.
    pub fn configure(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.shared.lock().behaviour);
    }

    /// Lets a fault hit every request.
    pub fn inject(&self, fault: Fault) {
        self.inject_for(Scope::default(), fault);
    }

    /// Lets a fault hit some requests.
    pub fn inject_for(&self, scope: Scope, fault: Fault) {
        self.shared.faults.add(scope, fault);
    }

    /// Takes one fault away, in all its scopes.
    pub fn withdraw(&self, fault: Fault) {
        self.shared.faults.remove(fault);
    }

    /// Takes all faults away and opens the port.
    pub fn heal(&self) {
        self.shared.faults.clear();
        self.control.set_open(true);
    }

    /// Closes the port and drops all connections: connection refused, until [`ApiServer::heal`].
    pub fn refuse(&self) {
        self.control.set_open(false);
        self.control.cut();
    }

    /// Drops all connections, open watches too; the port stays open.
    pub fn cut(&self) {
        self.control.cut();
    }

    /// Ends as a server does that is asked to: GOAWAY on every connection, and the end of every watch without an error. The
    /// port stays open, as that of another server behind the same address.
    pub fn retire(&self) {
        self.shared.retirements.send_modify(|n| *n += 1);
    }

    /// Every request so far.
    #[must_use]
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.shared.log.all()
    }

    /// Requests with this verb for this resource.
    #[must_use]
    pub fn requests_of(&self, verb: &str, resource: &str) -> Vec<RequestRecord> {
        self.requests().into_iter().filter(|r| r.verb == verb && r.resource == resource).collect()
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        self.shared.log.clear();
    }
}

impl Shared {
    pub(crate) fn behaviour(&self) -> Behaviour {
        self.lock().behaviour.clone()
    }

    pub(crate) fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.lock().tls.clone()
    }

    pub(crate) fn authenticated(&self, request: &ApiRequest, certificate: bool) -> bool {
        let state = self.lock();
        state.anonymous
            || certificate
            || request.bearer.as_ref().is_some_and(|token| state.tokens.contains(token))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
