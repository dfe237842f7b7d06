//! A certificate authority for one test: the server's certificate and those of clients.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate with its key, both PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its PKCS#8 key.
    pub key: String,
}

/// A certificate authority that lives as long as the test.
#[derive(Debug)]
pub struct Authority {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority with a key of its own.
    ///
    /// # Errors
    /// Key generation or signing failed.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Its certificate, as `ca.crt` holds it.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Issues a client certificate; the common name is the user, the organisation the group.
    ///
    /// # Errors
    /// Key generation or signing failed.
    pub fn client(&self, user: &str) -> anyhow::Result<Pair> {
        self.client_for(user, LONG)
    }

    /// The same, valid for so many days from now; of a negative number it has expired.
    ///
    /// # Errors
    /// Key generation or signing failed.
    pub fn client_for(&self, user: &str, days: i64) -> anyhow::Result<Pair> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.distinguished_name.push(DnType::CommonName, user);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        valid_for(&mut params, days);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Issues a server certificate for these DNS names and addresses.
    ///
    /// # Errors
    /// Key generation or signing failed.
    pub fn server(&self, names: &[&str]) -> anyhow::Result<Pair> {
        let (certificate, key) = self.issue_server(names, LONG)?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// The TLS configuration of the API server: its certificate, and client certificates of this authority welcome.
    ///
    /// # Errors
    /// Key generation, signing or rustls refused.
    pub fn server_config(&self) -> anyhow::Result<Arc<ServerConfig>> {
        self.server_config_for(LONG)
    }

    /// The same with a certificate that is valid for so many days from now.
    ///
    /// # Errors
    /// Key generation, signing or rustls refused.
    pub fn server_config_for(&self, days: i64) -> anyhow::Result<Arc<ServerConfig>> {
        let names = [
            "127.0.0.1",
            "::1",
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
        ];
        let (certificate, key) = self.issue_server(&names, days)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).context("the authority's certificate")?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .allow_unauthenticated()
                .build()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.der().clone()], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    fn issue_server(
        &self,
        names: &[&str],
        days: i64,
    ) -> anyhow::Result<(rcgen::Certificate, KeyPair)> {
        let mut params =
            CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, "server");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        valid_for(&mut params, days);
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &self.issuer)?, key))
    }
}

/// Ends so many days from now, or was ended by then.
fn valid_for(params: &mut CertificateParams, days: i64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let end = (now.as_secs() / DAY).saturating_add_signed(days);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(end * DAY);
}

const DAY: u64 = 86_400;

/// As good as for ever.
const LONG: i64 = 365 * 2_000;
