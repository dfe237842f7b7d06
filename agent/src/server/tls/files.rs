//! What a `tls` line of a server block names.

use std::path::PathBuf;

/// Which certificates clients have to have. The words and what they mean are CoreDNS's, which are those of Go's `ClientAuthType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// None is asked for.
    #[default]
    None,
    /// One is asked for, and not looked at.
    Request,
    /// There has to be one, by any signer.
    Require,
    /// If there is one, one of the authorities has to have signed it.
    VerifyIfGiven,
    /// There has to be one that one of the authorities has signed.
    RequireAndVerify,
}

/// The files of one `tls` line, and which clients it takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// The chain of certificates, PEM, the server's own first.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The authorities of clients, PEM.
    pub roots: Option<PathBuf>,
    /// Which clients are taken.
    pub client_auth: ClientAuth,
}

impl Files {
    /// The files that it names.
    pub fn paths(&self) -> Vec<PathBuf> {
        let files = [Some(&self.certificate), Some(&self.key), self.roots.as_ref()];
        files.into_iter().flatten().cloned().collect()
    }

    /// Whether authorities of clients are needed.
    pub fn needs_roots(&self) -> bool {
        matches!(self.client_auth, ClientAuth::VerifyIfGiven | ClientAuth::RequireAndVerify)
    }
}
