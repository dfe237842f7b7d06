//! The address and the transport of an upstream, as they are written in `forward`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

/// The path of DNS over HTTPS that is used if none is written (RFC 8484 section 4.1.1 shows it).
const DOH_PATH: &str = "/dns-query";

/// How an upstream is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `dns://` or nothing: UDP, and TCP if an answer is truncated.
    Plain,
    /// `tls://` (RFC 7858).
    Tls,
    /// `https://` (RFC 8484).
    Https,
    /// `quic://` (RFC 9250).
    Quic,
}

impl Scheme {
    /// The port if none is written.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Plain => 53,
            Self::Tls | Self::Quic => 853,
            Self::Https => 443,
        }
    }

    /// The `proto` label of metrics for its streams.
    pub fn stream_label(self) -> &'static str {
        match self {
            Self::Plain => "tcp",
            Self::Tls => "tcp-tls",
            Self::Https => "https",
            Self::Quic => "quic",
        }
    }

    /// What is written before the address.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Tls => "tls://",
            Self::Https => "https://",
            Self::Quic => "quic://",
        }
    }
}

/// One upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Its address and port.
    pub address: SocketAddr,
    /// Whose certificate it must show; `None`: one for its address.
    pub server_name: Option<Arc<str>>,
    /// The path of DNS over HTTPS.
    pub path: Arc<str>,
}

/// Why a word is no upstream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Nothing is there; a variable that is not set, most likely.
    #[error("the address is empty")]
    Empty,
    /// Several in one word, as the value of a variable may have them.
    #[error("{0:?} is several words in one, which a variable's value is not split into")]
    Words(String),
    /// A scheme that Nodens does not speak to upstreams.
    #[error("there is no scheme {0:?} for upstreams")]
    Scheme(String),
    /// Neither an address nor a name nor a file.
    #[error("{0:?} is no address, no host name and no file")]
    HostName(String),
    /// An interface that does not exist.
    #[error("the interface {0:?} of a link-local address does not exist")]
    Interface(String),
    /// A port that is none.
    #[error("{0:?} is no port")]
    Port(String),
    /// `ADDRESS:PORT%NAME`.
    #[error("the port is before the name of the server: write {0}")]
    PortFirst(String),
}

impl Target {
    /// A plain upstream.
    pub fn plain(address: SocketAddr) -> Self {
        Self { scheme: Scheme::Plain, address, server_name: None, path: DOH_PATH.into() }
    }

    /// Reads an upstream that is an address, as [`Written::parse`].
    pub fn parse(word: &str) -> Result<Self, TargetError> {
        match Written::parse(word)? {
            Written::Address(target) => Ok(target),
            Written::Host(named) => Err(TargetError::HostName(named.host.to_string())),
        }
    }
}

/// An upstream as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// By its address.
    Address(Target),
    /// By its name.
    Host(NamedTarget),
}

/// An upstream whose addresses are what its name resolves to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NamedTarget {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Its name, lower case, without a final dot.
    pub host: Arc<str>,
    /// Its port.
    pub port: u16,
    /// Whose certificate it must show; `None`: one for its name.
    pub server_name: Option<Arc<str>>,
    /// The path of DNS over HTTPS.
    pub path: Arc<str>,
}

impl NamedTarget {
    /// The upstream at one of its addresses.
    pub fn at(&self, ip: IpAddr) -> Target {
        let is_encrypted = self.scheme != Scheme::Plain;
        let name = || self.server_name.clone().unwrap_or_else(|| Arc::clone(&self.host));
        Target {
            scheme: self.scheme,
            address: SocketAddr::new(ip, self.port),
            server_name: is_encrypted.then(name),
            path: Arc::clone(&self.path),
        }
    }
}

impl Written {
    /// Reads `[SCHEME://]HOST[%NAME][:PORT][/PATH]`, where HOST is an address or a name. IPv6 addresses are in brackets if a port
    /// follows. Behind `%` is the server's name with `tls://`, `https://` and `quic://`, and the interface of a link-local
    /// address otherwise.
    pub fn parse(word: &str) -> Result<Self, TargetError> {
        if word.trim().contains(char::is_whitespace) {
            return Err(TargetError::Words(word.to_owned()));
        }
        let (scheme, rest) = match word.split_once("://") {
            None => (Scheme::Plain, word),
            Some(("dns", rest)) => (Scheme::Plain, rest),
            Some(("tls", rest)) => (Scheme::Tls, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(("quic", rest)) => (Scheme::Quic, rest),
            Some((other, _)) => return Err(TargetError::Scheme(other.to_owned())),
        };
        let (rest, path) = match rest.find('/') {
            Some(at) if scheme == Scheme::Https => rest.split_at(at),
            _ => (rest, DOH_PATH),
        };
        let path: Arc<str> = if path == "/" { DOH_PATH } else { path }.into();
        if rest.is_empty() {
            return Err(TargetError::Empty);
        }
        let (host, port) = split_port(rest);
        let port = match port {
            None => scheme.default_port(),
            Some(port) => match port.parse() {
                Ok(0) | Err(_) => return Err(bad_port(scheme, &host, port)),
                Ok(port) => port,
            },
        };
        let (address, behind) = match host.split_once('%') {
            Some((address, behind)) => (address, Some(behind)),
            None => (host.as_str(), None),
        };
        let Ok(ip) = address.parse::<IpAddr>() else {
            let host = host_name(address).ok_or_else(|| TargetError::HostName(address.into()))?;
            if scheme == Scheme::Plain && behind.is_some() {
                return Err(TargetError::HostName(word.to_owned()));
            }
            let server_name = behind.map(Into::into);
            return Ok(Self::Host(NamedTarget { scheme, host, port, server_name, path }));
        };
        let (server_name, zone) =
            if scheme == Scheme::Plain { (None, behind) } else { (behind.map(Into::into), None) };
        Ok(Self::Address(Target { scheme, address: with_zone(ip, port, zone)?, server_name, path }))
    }
}

/// A host name as it is looked up: labels of letters, digits and dashes, the last of them not of digits alone, which would be an
/// address with a mistake.
fn host_name(text: &str) -> Option<Arc<str>> {
    let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_label = |label: &str| {
        let good = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_');
        (1..=63).contains(&label.len()) && label.bytes().all(good) && !label.starts_with('-')
    };
    let last = lower.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|octet| octet.is_ascii_digit());
    let is_host = lower.len() <= 253 && lower.split('.').all(is_label) && !is_number;
    is_host.then(|| lower.into())
}

/// As it is written.
impl fmt::Display for NamedTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.scheme.prefix(), self.host)?;
        if self.port == self.scheme.default_port() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// The address, without the port if that is the scheme's own, as `to` labels of metrics and logs have it.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.scheme.prefix(), self.address)
    }
}

/// Puts an address together, with the number of its interface if one is named.
pub(super) fn with_zone(
    ip: IpAddr,
    port: u16,
    zone: Option<&str>,
) -> Result<SocketAddr, TargetError> {
    match (ip, zone) {
        (IpAddr::V6(ip), Some(zone)) => {
            let number = interface(zone).ok_or_else(|| TargetError::Interface(zone.to_owned()))?;
            Ok(SocketAddrV6::new(ip, port, 0, number).into())
        }
        (ip, _) => Ok(SocketAddr::new(ip, port)),
    }
}

fn interface(zone: &str) -> Option<u32> {
    zone.parse().ok().or_else(|| nix::net::if_::if_nametoindex(zone).ok())
}

/// The error for a port that is none, which is often a name that was written behind the port.
fn bad_port(scheme: Scheme, host: &str, port: &str) -> TargetError {
    match port.split_once('%') {
        Some((number, name)) if number.parse().is_ok_and(|port: u16| port > 0) => {
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            TargetError::PortFirst(format!("{}{host}%{name}:{number}", scheme.prefix()))
        }
        _ => TargetError::Port(port.to_owned()),
    }
}

/// Host and port of `HOST`, `HOST:PORT`, `[HOST]`, `[HOST]:PORT`, `[HOST]%NAME:PORT` and bare IPv6 addresses.
fn split_port(text: &str) -> (String, Option<&str>) {
    if let Some((host, after)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let (name, port) = match after.rsplit_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (after, None),
        };
        return (format!("{host}{name}"), port);
    }
    let host = text.split('%').next().unwrap_or(text);
    if host.parse::<Ipv6Addr>().is_ok() {
        // `2620:fe::fe%dns.quad9.net:853`: a port can only follow a name.
        return match text.split_once('%').and_then(|(_, name)| name.rsplit_once(':')) {
            Some((_, port)) => {
                (text.get(..text.len() - port.len() - 1).unwrap_or(text).to_owned(), Some(port))
            }
            None => (text.to_owned(), None),
        };
    }
    match text.rsplit_once(':') {
        Some((host, port)) => (host.to_owned(), Some(port)),
        None => (text.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_their_schemes_ports_and_names() {
        for (word, scheme, address, name) in [
            ("1.1.1.1", Scheme::Plain, "1.1.1.1:53", None),
            ("dns://1.1.1.1:5353", Scheme::Plain, "1.1.1.1:5353", None),
            ("2620:fe::fe", Scheme::Plain, "[2620:fe::fe]:53", None),
            ("[2620:fe::fe]", Scheme::Plain, "[2620:fe::fe]:53", None),
            ("[2620:fe::fe]:5353", Scheme::Plain, "[2620:fe::fe]:5353", None),
            ("fe80::1%lo", Scheme::Plain, "[fe80::1%1]:53", None),
            ("tls://9.9.9.9", Scheme::Tls, "9.9.9.9:853", None),
            ("tls://9.9.9.9%dns.quad9.net", Scheme::Tls, "9.9.9.9:853", Some("dns.quad9.net")),
            (
                "tls://9.9.9.9%dns.quad9.net:10853",
                Scheme::Tls,
                "9.9.9.9:10853",
                Some("dns.quad9.net"),
            ),
            ("tls://2620:fe::11", Scheme::Tls, "[2620:fe::11]:853", None),
            ("tls://[2620:fe::11]%a.b:1", Scheme::Tls, "[2620:fe::11]:1", Some("a.b")),
            ("tls://2620:fe::11%a.b:1", Scheme::Tls, "[2620:fe::11]:1", Some("a.b")),
            ("https://1.1.1.1/q", Scheme::Https, "1.1.1.1:443", None),
            ("quic://1.1.1.1:853", Scheme::Quic, "1.1.1.1:853", None),
        ] {
            let target = Target::parse(word).unwrap_or_else(|error| panic!("{word}: {error}"));
            assert_eq!(
                (target.scheme, target.address),
                (scheme, address.parse().unwrap()),
                "{word}"
            );
            assert_eq!(target.server_name.as_deref(), name, "{word}");
        }
        assert_eq!(&*Target::parse("https://1.1.1.1/q").unwrap().path, "/q");
        assert_eq!(&*Target::parse("https://1.1.1.1").unwrap().path, "/dns-query");
    }

    #[test]
    fn names_are_read_with_their_schemes_ports_and_names() {
        for (word, host, port, at) in [
            ("dns.google", "dns.google", 53, "192.0.2.1:53"),
            ("DNS.Google.:5353", "dns.google", 5353, "192.0.2.1:5353"),
            ("tls://dns.quad9.net", "dns.quad9.net", 853, "tls://192.0.2.1:853"),
            ("tls://dns.quad9.net%a.b:10853", "dns.quad9.net", 10_853, "tls://192.0.2.1:10853"),
            ("https://dns.google/q", "dns.google", 443, "https://192.0.2.1:443"),
            ("quic://dns", "dns", 853, "quic://192.0.2.1:853"),
        ] {
            let Ok(Written::Host(named)) = Written::parse(word) else { panic!("{word}") };
            assert_eq!((&*named.host, named.port), (host, port), "{word}");
            assert_eq!(named.at([192, 0, 2, 1].into()).to_string(), at, "{word}");
            assert_eq!(
                Written::parse(&named.to_string()).map(|again| match again {
                    Written::Host(again) => again.host == named.host && again.port == named.port,
                    Written::Address(_) => false,
                }),
                Ok(true),
                "{word}"
            );
        }
        let server_name = |word: &str| match Written::parse(word) {
            Ok(Written::Host(named)) => named.at([192, 0, 2, 1].into()).server_name,
            other => panic!("{other:?}"),
        };
        assert_eq!(server_name("tls://dns.quad9.net").as_deref(), Some("dns.quad9.net"));
        assert_eq!(server_name("tls://dns.quad9.net%a.b").as_deref(), Some("a.b"));
        assert_eq!(server_name("dns.quad9.net"), None);
    }

    #[test]
    fn what_is_no_address_says_why() {
        assert_eq!(Target::parse(""), Err(TargetError::Empty));
        assert_eq!(Target::parse("grpc://1.1.1.1"), Err(TargetError::Scheme("grpc".into())));
        for word in ["10.0.0.256", "a..b", "-a.b", "dns.google%eth0", "a b", "1.2.3.4.5:53"] {
            assert!(Written::parse(word).is_err(), "{word}");
        }
        assert_eq!(Target::parse("1.1.1.1:0"), Err(TargetError::Port("0".into())));
        for (word, right) in [
            ("tls://1.1.1.1:853%a.b", "tls://1.1.1.1%a.b:853"),
            ("tls://[2620:fe::11]:853%a.b", "tls://[2620:fe::11]%a.b:853"),
        ] {
            assert_eq!(Target::parse(word), Err(TargetError::PortFirst(right.into())));
            assert!(Target::parse(right).is_ok());
        }
        assert_eq!(Target::parse("fe80::1%nosuch0"), Err(TargetError::Interface("nosuch0".into())));
    }

    proptest::proptest! {
        #[test]
        fn any_word_is_an_address_or_an_error(word in "\\PC{0,40}") {
            let _ = Written::parse(&word);
        }

        #[test]
        fn what_is_printed_is_read_again(ip: std::net::IpAddr, port in 1u16.., tls: bool) {
            let scheme = if tls { Scheme::Tls } else { Scheme::Plain };
            let target = Target { scheme, ..Target::plain((ip, port).into()) };
            proptest::prop_assert_eq!(Target::parse(&target.to_string()), Ok(target));
        }
    }
}
