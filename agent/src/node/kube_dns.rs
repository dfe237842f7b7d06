//! The ConfigMap `kube-dns`, mounted as a folder: `stubDomains` and `upstreamNameservers`, both JSON.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::config::zone_names;
use crate::corefile::{Directive, Location, ServerBlock, Token};
use crate::file_watch;

/// For how many seconds answers of stub domains are kept at most, as in NodeLocal DNSCache.
const CACHE_SECONDS: &str = "30";
/// A ConfigMap has at most 1 MiB in all.
const MAX_BYTES: u64 = 1 << 20;

/// Why the ConfigMap cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KubeDnsError {
    /// A file cannot be read.
    #[error("{0}: cannot be read: {1}")]
    Read(PathBuf, #[source] io::Error),
    /// No JSON of the right shape.
    #[error("{0}: {1}; wanted {2}")]
    Json(PathBuf, #[source] serde_json::Error, &'static str),
    /// A domain that is no name.
    #[error("{0}: {1:?} is not a domain")]
    Domain(PathBuf, String),
    /// An upstream that is no address.
    #[error("{0}: {1:?} is not an address; wanted IP or IP:PORT")]
    Server(PathBuf, String),
    /// A stub domain without upstreams.
    #[error("{0}: the stub domain {1:?} has no servers")]
    NoServers(PathBuf, String),
}

/// The contents of the ConfigMap. Empty without one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KubeDns {
    /// The servers of each domain.
    pub stub_domains: BTreeMap<String, Vec<String>>,
    /// What to ask for all other names, in place of the node's own resolvers.
    pub upstreams: Vec<String>,
}

impl KubeDns {
    /// Reads the folder. Missing files count as empty.
    pub fn read(folder: &Path) -> Result<Self, KubeDnsError> {
        let [stub_file, upstream_file] = files(folder);
        let stub_domains: BTreeMap<String, Vec<String>> =
            json(&stub_file, r#"as in {"example.org": ["192.0.2.1"]}"#)?;
        let upstreams: Vec<String> = json(&upstream_file, r#"as in ["192.0.2.1", "192.0.2.2"]"#)?;
        for (domain, servers) in &stub_domains {
            if zone_names(domain).is_err() {
                return Err(KubeDnsError::Domain(stub_file, domain.clone()));
            }
            if servers.is_empty() {
                return Err(KubeDnsError::NoServers(stub_file, domain.clone()));
            }
            check_servers(&stub_file, servers)?;
        }
        check_servers(&upstream_file, &upstreams)?;
        Ok(Self { stub_domains, upstreams })
    }

    /// A server block for each stub domain: answers kept for a short while, the rest asked of its servers.
    pub fn blocks(&self, folder: &Path, addresses: &[IpAddr], dns_port: u16) -> Vec<ServerBlock> {
        let [file, _] = files(folder);
        let at = Location::new(file, 1);
        let token = |text: &str| Token::new(text, at.clone());
        let directive =
            |name: &str, args: Vec<Token>| Directive { name: token(name), args, block: None };
        let block = |(domain, servers): (&String, &Vec<String>)| {
            let mut directives =
                vec![directive("errors", vec![]), directive("cache", vec![token(CACHE_SECONDS)])];
            if !addresses.is_empty() {
                let addresses = addresses.iter().map(|ip| token(&ip.to_string())).collect();
                directives.push(directive("bind", addresses));
            }
            let to = std::iter::once(".").chain(servers.iter().map(String::as_str));
            directives.push(directive("forward", to.map(token).collect()));
            ServerBlock {
                keys: vec![token(&format!("{domain}:{dns_port}"))],
                directives,
                at: at.clone(),
            }
        };
        self.stub_domains.iter().map(block).collect()
    }
}

/// The files of the folder that mean something here.
pub(super) fn files(folder: &Path) -> [PathBuf; 2] {
    ["stubDomains", "upstreamNameservers"].map(|name| folder.join(name))
}

/// The value in a file; the default where there is no file, or nothing in it.
fn json<T: DeserializeOwned + Default>(
    file: &Path,
    wanted: &'static str,
) -> Result<T, KubeDnsError> {
    let text = match file_watch::read(file, MAX_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
        read => read.and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other)),
    };
    let text = text.map_err(|error| KubeDnsError::Read(file.to_owned(), error))?;
    if text.trim().is_empty() {
        return Ok(T::default());
    }
    serde_json::from_str(&text).map_err(|error| KubeDnsError::Json(file.to_owned(), error, wanted))
}

fn check_servers(file: &Path, servers: &[String]) -> Result<(), KubeDnsError> {
    let good =
        |server: &String| server.parse::<IpAddr>().is_ok() || server.parse::<SocketAddr>().is_ok();
    match servers.iter().find(|server| !good(server)) {
        Some(bad) => Err(KubeDnsError::Server(file.to_owned(), bad.clone())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corefile::File;

    fn folder(stub: &str, upstream: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let [stub_file, upstream_file] = files(folder.path());
        std::fs::write(stub_file, stub).unwrap();
        std::fs::write(upstream_file, upstream).unwrap();
        folder
    }

    #[test]
    fn stub_domains_become_server_blocks() {
        let folder = folder(
            r#"{"corp.example": ["10.0.0.1", "10.0.0.2:5353"], "b.example": ["fd00::1"]}"#,
            r#"["192.0.2.1", "[2001:db8::1]:53"]"#,
        );
        let config = KubeDns::read(folder.path()).unwrap();
        assert_eq!(config.upstreams.len(), 2);
        let addresses = ["169.254.20.10".parse().unwrap(), "fd00::10".parse().unwrap()];
        let blocks = config.blocks(folder.path(), &addresses, 53);
        assert_eq!(blocks[0].at.file.file_name().unwrap(), "stubDomains");
        assert_eq!(
            File { blocks }.to_string(),
            "b.example:53 {\n    errors\n    cache 30\n    bind 169.254.20.10 fd00::10\n    forward . fd00::1\n}\n\n\
             corp.example:53 {\n    errors\n    cache 30\n    bind 169.254.20.10 fd00::10\n    \
             forward . 10.0.0.1 10.0.0.2:5353\n}\n"
        );
        let none = tempfile::tempdir().unwrap();
        assert_eq!(KubeDns::read(none.path()).unwrap(), KubeDns::default());
        assert_eq!(KubeDns::read(&none.path().join("gone")).unwrap(), KubeDns::default());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_file() {
        for (stub, upstream, wanted) in [
            ("{", "", "stubDomains"),
            (r#"{"a": "10.0.0.1"}"#, "", "wanted as in"),
            (r#"{"a b": ["10.0.0.1"]}"#, "", "not a domain"),
            (r#"{"a {": ["10.0.0.1"]}"#, "", "not a domain"),
            (r#"{"a": ["dns.example"]}"#, "", "not an address"),
            (r#"{"a": []}"#, "", "has no servers"),
            ("", r#"["/etc/passwd"]"#, "upstreamNameservers"),
            ("", r#"{"a": 1}"#, "wanted as in"),
        ] {
            let error = KubeDns::read(folder(stub, upstream).path()).unwrap_err().to_string();
            assert!(error.contains(wanted), "{stub} {upstream}: {error}");
        }
    }
}
