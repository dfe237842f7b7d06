//! From a [`Source`] to kube's configuration: address, authorities, credentials.
//!
//! Files are read here, once for each client, and [`stamps`] tells whether one of them has been replaced since. So every
//! file that a kubeconfig names counts alike, and a new client is made with all of them as they are then.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::FutureExt;
use kube::config::{AuthInfo, ExecInteractiveMode, KubeConfigOptions, Kubeconfig};
use rustls::client::ResolvesClientCert;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::{ExposeSecret, SecretString};

use super::spec::{Source, Tls};
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

/// What a client is made of.
pub(super) struct Settings {
    pub(super) config: kube::Config,
    /// The client certificate, if there is one. It is not left to kube, whose check of key and certificate refuses
    /// certificates of X.509 version 1, which API servers accept.
    pub(super) certificate: Option<Arc<dyn ResolvesClientCert>>,
    /// The same in DER, without those that have signed it.
    pub(super) leaf: Option<Vec<u8>>,
}

/// The files of a pod's service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Identity of a file's content: device, inode, and the time of its last change. A link that is swapped leads to another
/// inode.
type Stamp = (u64, u64, i64, i64);

/// What the files looked like that a client was made from, by path.
#[derive(Default, PartialEq, Eq, Debug)]
pub(super) struct Stamps(Vec<(PathBuf, Option<Stamp>)>);

impl Stamps {
    /// Of the files of `source`; those that a kubeconfig names are added with [`Stamps::add`] when it was read.
    pub(super) fn of(source: &Source) -> Self {
        let files: Vec<PathBuf> = match source {
            Source::InCluster => vec![account("ca.crt"), account("token")],
            Source::Kubeconfig { file, .. } => vec![file.clone()],
            Source::Endpoint { tls: Some(Tls { cert, key, ca }), .. } => {
                [cert, key, ca].into_iter().flatten().cloned().collect()
            }
            Source::Endpoint { tls: None, .. } | Source::Folder(_) => Vec::new(),
        };
        let mut stamps = Self::default();
        files.into_iter().for_each(|file| stamps.add(file));
        stamps
    }

    fn add(&mut self, file: PathBuf) {
        let stamp = stamp(&file);
        self.0.push((file, stamp));
    }

    /// True if some file is another one by now.
    pub(super) fn have_changed(&self) -> bool {
        self.0.iter().any(|(file, before)| stamp(file) != *before)
    }
}

fn stamp(file: &Path) -> Option<Stamp> {
    let of = |metadata: Metadata| {
        (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
    };
    std::fs::metadata(file).ok().map(of)
}

fn account(name: &str) -> PathBuf {
    Path::new(ACCOUNT).join(name)
}

/// Identity of the cluster that `source` leads to: its address and a sum of its certificate authorities, which differ
/// between clusters where addresses do not.
pub(super) fn identity(source: &Source) -> Result<String, ClientError> {
    let Settings { config, .. } = settings(source, &mut Stamps::default())?;
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

/// Reads all that a client of `source` is made of. Files that are found on the way are added to `stamps` before they are
/// read, so that a change that comes between is seen the next time.
pub(super) fn settings(source: &Source, stamps: &mut Stamps) -> Result<Settings, ClientError> {
    let mut config = match source {
        Source::InCluster => in_cluster()?,
        Source::Kubeconfig { file, context } => kubeconfig(file, context.as_deref(), stamps)?,
        Source::Endpoint { url, tls } => endpoint(url, tls.as_ref())?,
        Source::Folder(_) => return Err(ClientError::Folder),
    };
    let setup = |reason| ClientError::Setup { url: config.cluster_url.to_string(), reason };
    let certificate = certificate(&config.auth_info).map_err(setup)?;
    let token = token(&config.auth_info).map_err(setup)?;
    let auth = &mut config.auth_info;
    auth.token = token;
    auth.token_file = None;
    (auth.client_certificate, auth.client_certificate_data) = (None, None);
    (auth.client_key, auth.client_key_data) = (None, None);
    if let Some(exec) = &mut auth.exec {
        // A server has no terminal; and what the plugin complains of belongs into the message.
        exec.interactive_mode = Some(ExecInteractiveMode::Never);
    }
    let (certificate, leaf) = certificate.unzip();
    Ok(Settings { config, certificate, leaf })
}

fn in_cluster() -> Result<kube::Config, ClientError> {
    let bad = ClientError::InCluster;
    let variable = |name: &str| {
        let value = std::env::var(name).ok().filter(|value| !value.is_empty());
        value.ok_or_else(|| bad(format!("the environment variable {name} is not set")))
    };
    let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let url = format!("https://{host}:{port}");
    let url = url.parse().map_err(|error| bad(format!("{url} is no address: {error}")))?;
    let mut config = kube::Config::new(url);
    for name in ["ca.crt", "token"] {
        let file = account(name);
        std::fs::File::open(&file)
            .map_err(|error| bad(format!("cannot read {}: {error}", file.display())))?;
    }
    config.root_cert_file = Some(account("ca.crt"));
    config.auth_info.token_file = Some(account("token").to_string_lossy().into_owned());
    Ok(config)
}

fn kubeconfig(
    file: &Path,
    context: Option<&str>,
    stamps: &mut Stamps,
) -> Result<kube::Config, ClientError> {
    let bad = |reason| ClientError::Kubeconfig { file: file.display().to_string(), reason };
    // Paths in it that are relative have been resolved when this returns.
    let kubeconfig = Kubeconfig::read_from(file).map_err(|error| bad(causes(&error)))?;
    named_files(&kubeconfig).into_iter().for_each(|file| stamps.add(file));
    let name = context.map(str::to_owned).or_else(|| kubeconfig.current_context.clone());
    let chosen = kubeconfig.contexts.iter().find(|context| Some(&context.name) == name.as_ref());
    let user = chosen.and_then(|chosen| chosen.context.as_ref()?.user.clone());
    // kube would continue as an anonymous user.
    if let Some(user) = user.filter(|user| !user.is_empty())
        && !kubeconfig.auth_infos.iter().any(|known| known.name == user)
    {
        let context = name.unwrap_or_default();
        return Err(bad(format!("context {context} names user {user}, which is not in the file")));
    }
    let options =
        KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    // The function waits for nothing; its future is ready when it is polled first.
    kube::Config::from_custom_kubeconfig(kubeconfig, &options)
        .now_or_never()
        .ok_or_else(|| bad("not ready".into()))?
        .map_err(|error| bad(causes(&error)))
}

/// Every file that a kubeconfig names, of any context.
fn named_files(kubeconfig: &Kubeconfig) -> Vec<PathBuf> {
    let authorities = kubeconfig
        .clusters
        .iter()
        .filter_map(|named| named.cluster.as_ref()?.certificate_authority.clone());
    let credentials = kubeconfig.auth_infos.iter().filter_map(|named| named.auth_info.as_ref());
    let credentials = credentials.flat_map(|auth| {
        let AuthInfo { token_file, client_certificate, client_key, .. } = auth;
        [token_file, client_certificate, client_key].into_iter().flatten().cloned()
    });
    authorities.chain(credentials).map(PathBuf::from).collect()
}

fn endpoint(url: &str, tls: Option<&Tls>) -> Result<kube::Config, ClientError> {
    let uri: http::Uri = url.parse().map_err(|_| ClientError::Endpoint(url.to_owned()))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.authority().is_none() {
        return Err(ClientError::Endpoint(url.to_owned()));
    }
    let mut config = kube::Config::new(uri);
    if let Some(Tls { cert, key, ca }) = tls {
        let text =
            |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        config.auth_info.client_certificate = text(cert);
        config.auth_info.client_key = text(key);
        config.root_cert_file = ca.clone();
    }
    Ok(config)
}

/// The bearer token, without the line end that a file has.
fn token(auth: &AuthInfo) -> Result<Option<SecretString>, String> {
    let text = match (&auth.token, &auth.token_file) {
        (Some(token), _) => token.expose_secret().to_owned(),
        (None, Some(file)) => {
            std::fs::read_to_string(file).map_err(|error| format!("cannot read {file}: {error}"))?
        }
        (None, None) => return Ok(None),
    };
    let text = text.trim();
    if text.is_empty() {
        return match &auth.token_file {
            Some(file) => Err(format!("the token file {file} is empty")),
            None => Ok(None),
        };
    }
    if !text.bytes().all(|octet| octet.is_ascii_graphic()) {
        return Err("the token has a character within it that no token has".into());
    }
    Ok(Some(text.to_owned().into()))
}

/// A client certificate with its key, and itself in DER.
type Shown = (Arc<dyn ResolvesClientCert>, Vec<u8>);

/// The client certificate and its key, of files or of the kubeconfig itself.
fn certificate(auth: &AuthInfo) -> Result<Option<Shown>, String> {
    let data = auth.client_certificate_data.as_deref();
    let Some(chain) = pem("certificate", auth.client_certificate.as_deref(), data)? else {
        return Ok(None);
    };
    let data = auth.client_key_data.as_ref().map(|secret| secret.expose_secret());
    let Some(key) = pem("key", auth.client_key.as_deref(), data)? else {
        return Err("there is a client certificate without a key".into());
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the client certificate cannot be read: {error}"))?;
    let Some(leaf) = chain.first().map(|certificate| certificate.to_vec()) else {
        return Err("the client certificate cannot be read: it is not in PEM".into());
    };
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|error| format!("the client key cannot be read: {error}"))?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key)
        .map_err(|error| format!("the client key cannot be used: {error}"))?;
    Ok(Some((Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))), leaf)))
}

fn pem(what: &str, file: Option<&str>, data: Option<&str>) -> Result<Option<Vec<u8>>, String> {
    use base64::Engine;
    match (data.filter(|data| !data.is_empty()), file.filter(|file| !file.is_empty())) {
        (Some(data), _) => base64::engine::general_purpose::STANDARD
            .decode(data.trim())
            .map(Some)
            .map_err(|error| format!("client-{what}-data is no base64: {error}")),
        (None, Some(file)) => std::fs::read(file)
            .map(Some)
            .map_err(|error| format!("cannot read the client {what} {file}: {error}")),
        (None, None) => Ok(None),
    }
}

/// An error of kube while it makes a client, with what an operator needs of it.
pub(super) fn setup_reason(error: &kube::Error, config: &kube::Config) -> String {
    let kube::Error::Auth(auth) = error else { return causes(error) };
    let exec = config.auth_info.exec.as_ref();
    let command = exec.and_then(|exec| exec.command.as_deref()).unwrap_or("without a name");
    match auth {
        kube::client::AuthError::AuthExecStart(error) => {
            let hint = exec.and_then(|exec| exec.install_hint.as_deref()).map(str::trim);
            let hint = hint.map_or(String::new(), |hint| format!("; {hint}"));
            format!("cannot run the credential plugin {command}: {error}{hint}")
        }
        kube::client::AuthError::AuthExecRun { out, .. } => {
            let complaint = String::from_utf8_lossy(&out.stderr);
            let complaint: String = complaint.trim().chars().take(MAX_COMPLAINT).collect();
            format!("the credential plugin {command} failed ({}): {complaint}", out.status)
        }
        _ => causes(error),
    }
}

/// Characters of what a plugin writes that are shown.
const MAX_COMPLAINT: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    fn error(source: &Source) -> String {
        match settings(source, &mut Stamps::default()) {
            Ok(_) => panic!("no error"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn an_endpoint_has_to_be_a_url() {
        for url in ["10.0.0.1:6443", "ftp://10.0.0.1", "", "https://"] {
            let source = Source::Endpoint { url: url.into(), tls: None };
            let error = error(&source);
            assert!(error.contains("is not an http or https URL"), "{url}: {error}");
        }
    }

    #[test]
    fn a_missing_kubeconfig_is_named() {
        let source = Source::Kubeconfig { file: "/nonexistent/config".into(), context: None };
        let error = error(&source);
        assert!(error.starts_with("cannot use kubeconfig /nonexistent/config: "), "{error}");
        assert!(error.contains("No such file"), "{error}");
    }

    fn kubeconfig_with(user: &str, extra: &str) -> (tempfile::TempDir, Source) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: {user}}}}}]\n\
             clusters: [{{name: k, cluster: {{server: 'https://127.0.0.1:1', certificate-authority: ca.crt}}}}]\n\
             users: [{{name: u, user: {extra}}}]\n"
        );
        std::fs::write(&file, text).unwrap();
        let ca = rcgen_free_authority();
        std::fs::write(dir.path().join("ca.crt"), ca).unwrap();
        (dir, Source::Kubeconfig { file, context: None })
    }

    /// Any PEM does: authorities are not looked at before a connection.
    fn rcgen_free_authority() -> &'static str {
        "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
    }

    #[test]
    fn tokens_lose_their_line_end() {
        let (dir, source) = kubeconfig_with("u", "{tokenFile: token}");
        std::fs::write(dir.path().join("token"), "secret\n").unwrap();
        let read = settings(&source, &mut Stamps::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(read.config.auth_info.token.unwrap().expose_secret(), "secret");
        std::fs::write(dir.path().join("token"), "two\nlines\n").unwrap();
        assert!(error(&source).contains("a character within it"), "{}", error(&source));
        std::fs::write(dir.path().join("token"), "\n").unwrap();
        assert!(error(&source).contains("is empty"), "{}", error(&source));
    }

    #[test]
    fn a_user_that_is_missing_is_named() {
        let (_dir, source) = kubeconfig_with("nobody", "{token: x}");
        let error = error(&source);
        assert!(
            error.ends_with("context c names user nobody, which is not in the file"),
            "{error}"
        );
    }

    #[test]
    fn every_file_that_a_kubeconfig_names_is_followed() {
        let (dir, source) = kubeconfig_with("u", "{tokenFile: token}");
        for file in ["token", "ca.crt", "config"] {
            std::fs::write(dir.path().join("token"), "secret\n").unwrap();
            let mut stamps = Stamps::of(&source);
            settings(&source, &mut stamps).unwrap_or_else(|e| panic!("{e}"));
            assert!(!stamps.have_changed());
            let path = dir.path().join(file);
            let text = std::fs::read(&path).unwrap();
            let aside = dir.path().join("aside");
            std::fs::write(&aside, text).unwrap();
            std::fs::rename(&aside, &path).unwrap();
            assert!(stamps.have_changed(), "{file}");
        }
    }
}
