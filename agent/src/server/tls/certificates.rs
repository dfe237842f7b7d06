//! What a TLS listener shows its clients, and whom it takes: read from the files of `tls`, and again when one changes.
//!
//! Connections that are open keep what they began with. A file that is wrong changes nothing: what was read before is used on, and
//! the condition `certificate_unreadable` holds.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::files::{ClientAuth, Files};
use super::scheme::Scheme;
use crate::conditions::{Found, Watched, table};
use crate::detail::Detail;
use crate::file_watch::{FileVersions, FileWatch};
use crate::upstream::tls::{TlsError, certificates};

/// How often the files are looked at, beside what inotify says.
const POLL: Duration = Duration::from_secs(10);
/// Tickets for resumption that a client gets: one for each connection that it may open next.
const TICKETS: usize = 2;

/// The certificate of one `tls` line.
pub struct Certificates {
    files: Files,
    scheme: Scheme,
    current: ArcSwap<ServerConfig>,
    /// The files as they were when they were read.
    seen: Mutex<FileVersions>,
    /// Why the files as they are cannot be used.
    trouble: Mutex<Option<String>>,
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// One of them cannot be read, or they do not fit together.
    pub fn new(files: Files, scheme: Scheme) -> Result<Arc<Self>, TlsError> {
        // Before they are read, so that no change is missed.
        let seen = Mutex::new(FileVersions::of(files.paths()));
        let current = ArcSwap::from_pointee(load(&files, scheme)?);
        Ok(Arc::new(Self { files, scheme, current, seen, trouble: Mutex::default() }))
    }

    /// What the next connection is to be greeted with.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Follows the files until it is dropped. To be spawned on the control runtime.
    pub async fn follow(this: Weak<Self>) {
        let Some(paths) = this.upgrade().map(|this| this.files.paths()) else { return };
        let mut watch = FileWatch::new(paths, POLL);
        loop {
            // Looked at with each poll, so that the watch ends soon after who wanted it.
            let Some(this) = this.upgrade() else { return };
            let read = tokio::task::spawn_blocking(move || this.read_if_changed()).await;
            if let Err(error) = read {
                tracing::error!(%error, "changes of certificates are no longer noticed");
                return;
            }
            watch.due().await;
        }
    }

    fn read_if_changed(&self) {
        let has_changed = self.seen.lock().unwrap_or_else(PoisonError::into_inner).has_changed();
        // What has failed may have failed for a moment only.
        if !has_changed && self.trouble().is_none() {
            return;
        }
        let path = self.files.certificate.display();
        let before = self.trouble().clone();
        let trouble = match load(&self.files, self.scheme) {
            Ok(config) => {
                self.current.store(Arc::new(config));
                tracing::info!("the certificate {path} was read again");
                None
            }
            Err(error) => {
                let error = error.to_string();
                if before.as_ref() != Some(&error) {
                    tracing::warn!(error, "the certificate {path} is used as it was before");
                }
                Some(error)
            }
        };
        *self.trouble() = trouble;
    }

    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those that are in use, so that a reload keeps them, and the sessions that clients may resume. One for the process.
#[derive(Default)]
pub struct KnownCertificates(Mutex<Vec<Weak<Certificates>>>);

impl KnownCertificates {
    /// The one of a line: as it is used already, or read from its files and followed from now on.
    ///
    /// # Errors
    /// As [`Certificates::new`].
    pub fn of(&self, line: &Files, scheme: Scheme) -> Result<Arc<Certificates>, TlsError> {
        if let Some(used) = self.used(line, scheme) {
            used.read_if_changed();
            return Ok(used);
        }
        let read = Certificates::new(line.clone(), scheme)?;
        Handle::current().spawn(Certificates::follow(Arc::downgrade(&read)));
        self.lock().push(Arc::downgrade(&read));
        Ok(read)
    }

    fn used(&self, line: &Files, scheme: Scheme) -> Option<Arc<Certificates>> {
        let mut known = self.lock();
        known.retain(|known| known.strong_count() > 0);
        let mut used = known.iter().filter_map(Weak::upgrade);
        used.find(|used| used.files == *line && used.scheme == scheme)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Certificates>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listener that is not served, since its certificate cannot be read.
pub struct Unserved(String);

impl Unserved {
    /// The one at this address, and why.
    pub fn new(at: &str, error: &TlsError) -> Arc<Self> {
        Arc::new(Self(format!("{at} is not served: {error}")))
    }
}

impl Detail for Unserved {
    fn name(&self) -> &str {
        "tls"
    }

    fn detail(&self) -> Value {
        json!({ "trouble": self.0 })
    }
}

impl Watched for Unserved {
    fn look(&self, found: &mut Found) {
        found.add(&table::CERTIFICATE_UNREADABLE, self.0.as_str());
    }
}

impl Detail for Certificates {
    fn name(&self) -> &str {
        "tls"
    }

    fn detail(&self) -> Value {
        json!({
            "scheme": self.scheme.name(),
            "certificate": self.files.certificate,
            "trouble": *self.trouble(),
        })
    }
}

impl Watched for Certificates {
    fn look(&self, found: &mut Found) {
        if let Some(trouble) = &*self.trouble() {
            found.add(&table::CERTIFICATE_UNREADABLE, trouble.as_str());
        }
    }
}

/// Reads what a `tls` line names.
///
/// # Errors
/// A file cannot be read, or the key is not the certificate's.
pub fn load(files: &Files, scheme: Scheme) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|source| TlsError::File { path: files.key.clone(), source })?;
    let verifier = verifier(files, &provider)?;
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut server = builder.with_single_cert(certificates(&files.certificate)?, key)?;
    server.alpn_protocols = scheme.protocols();
    // Its own, so that what a client has proven to another listener counts for nothing here.
    server.ticketer = ring::Ticketer::new()?;
    server.send_tls13_tickets = TICKETS;
    Ok(server)
}

/// Whether a certificate's key may be read by everyone on the machine.
pub fn is_open_to_all(key: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(key).is_ok_and(|meta| meta.permissions().mode() & 0o004 != 0)
}

fn verifier(
    files: &Files,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let is_mandatory =
        matches!(files.client_auth, ClientAuth::Require | ClientAuth::RequireAndVerify);
    match (files.client_auth, &files.roots) {
        (ClientAuth::None, _) => Ok(None),
        (ClientAuth::VerifyIfGiven | ClientAuth::RequireAndVerify, Some(path)) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate)?;
            }
            let provider = Arc::clone(provider);
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let builder = if is_mandatory { builder } else { builder.allow_unauthenticated() };
            Ok(Some(builder.build().map_err(|error| TlsError::Roots(error.to_string()))?))
        }
        _ => Ok(Some(Arc::new(AnyClient { provider: Arc::clone(provider), is_mandatory }))),
    }
}

/// Takes any certificate; that the client has its key is still checked.
#[derive(Debug)]
struct AnyClient {
    provider: Arc<CryptoProvider>,
    is_mandatory: bool,
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        self.is_mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
