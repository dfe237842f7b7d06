//! The keys of a server block: zones with a transport and a port.

use std::fmt;
use std::net::IpAddr;

use super::reverse;
use super::value::{ValueError, is_digits};
use crate::corefile::{Diagnostic, Diagnostics, Location, Token};
use crate::wire::name::Name;

/// How queries for a server block arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// UDP and TCP, port 53.
    Dns,
    /// DNS over TLS, port 853.
    Tls,
    /// DNS over HTTPS, port 443.
    Https,
    /// DNS over QUIC, port 853.
    Quic,
}

/// One zone of a server block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneKey {
    /// The zone, in lower-cased wire form.
    pub name: Name,
    /// The scheme before it; `dns` where there is none.
    pub transport: Transport,
    /// The port after it, or the transport's own.
    pub port: u16,
    /// Where it was written.
    pub at: Location,
}

impl Transport {
    /// The port where none is written.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Dns => 53,
            Self::Tls | Self::Quic => 853,
            Self::Https => 443,
        }
    }

    /// Whether it is over TLS, so that it needs a certificate.
    pub fn is_encrypted(self) -> bool {
        self != Self::Dns
    }

    /// The scheme, without `://`.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::Https => "https",
            Self::Quic => "quic",
        }
    }
}

/// As CoreDNS shows it in logs: `dns://example.org.:53`.
impl fmt::Display for ZoneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.transport.scheme(), self.name, self.port)
    }
}

/// Reads one key; `dns_port` stands for the port of plain DNS where none is written. A network becomes its reverse zones; a key that is wrong becomes none, and a diagnostic.
pub(super) fn parse(key: &Token, dns_port: u16, diagnostics: &mut Diagnostics) -> Vec<ZoneKey> {
    if key.is_placeholder() {
        return Vec::new();
    }
    let read = transport(key.as_str()).and_then(|(transport, rest)| {
        let (zone, port) = split_port(rest)?;
        let default = match transport {
            Transport::Dns => dns_port,
            other => other.default_port(),
        };
        Ok((transport, zone, port.unwrap_or(default), zone_names(zone)?))
    });
    let (transport, zone, port, names) = match read {
        Ok(read) => read,
        Err(wrong) => {
            diagnostics
                .push(Diagnostic::error(key.at.clone(), wrong.what).expected(wrong.expected));
            return Vec::new();
        }
    };
    if transport == Transport::Quic {
        let what =
            format!("{:?}: serving over {} is not supported yet", key.as_str(), transport.scheme());
        diagnostics.push(
            Diagnostic::error(key.at.clone(), what)
                .expected("a zone without a scheme, or with dns://, tls:// or https://"),
        );
    }
    if let Some((what, expected)) = doubtful(zone) {
        diagnostics.push(
            Diagnostic::warning(key.at.clone(), format!("{zone:?} {what}")).expected(expected),
        );
    }
    names.into_iter().map(|name| ZoneKey { name, transport, port, at: key.at.clone() }).collect()
}

/// The zones that one word stands for: a name, or a network as `10.0.0.0/17` for its reverse zones.
pub fn zone_names(text: &str) -> Result<Vec<Name>, ValueError> {
    let name = |text: &str| {
        Name::from_text(text)
            .map_err(|error| ValueError::new(format!("{text:?} is not a zone: {error}"), A_ZONE))
    };
    if let Some(network) = network(text)? {
        return reverse::zones(network).iter().map(|zone| name(zone)).collect();
    }
    let wrong =
        |what: &str, expected: &str| Err(ValueError::new(format!("{text:?} {what}"), expected));
    if text.is_empty() {
        return wrong("is not a zone", A_ZONE);
    }
    if text.contains(['{', '}', '$', '<', '>']) {
        return wrong("looks like a template that was not filled in", A_ZONE);
    }
    if text.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        return wrong("has a space in it", "one zone in each word; a variable holds one word only");
    }
    if text.contains(',') {
        return wrong("has a comma in it", "a space after the comma");
    }
    if text.contains(':') {
        return wrong("is not a zone with a port", "ZONE or ZONE:PORT, as .:53");
    }
    if !text.is_ascii() {
        return wrong(
            "has letters outside of ASCII",
            "the zone as it is in the DNS, as xn--bcher-kva.example",
        );
    }
    Ok(vec![name(text)?])
}

/// The network of a word that has the shape of one.
fn network(text: &str) -> Result<Option<ipnet::IpNet>, ValueError> {
    let Some((address, prefix)) = text.split_once('/') else { return Ok(None) };
    // `32/27.104.21.in-addr.arpa`, as of RFC 2317, is a name.
    let Ok(address) = address.parse::<IpAddr>() else { return Ok(None) };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let network = prefix.parse().ok().and_then(|prefix| ipnet::IpNet::new(address, prefix).ok());
    match network {
        Some(network) => Ok(Some(network)),
        None => Err(ValueError::new(
            format!("{text:?} is not a network"),
            format!("a prefix length from 0 to {longest}"),
        )),
    }
}

fn transport(key: &str) -> Result<(Transport, &str), ValueError> {
    let Some((scheme, rest)) = key.split_once("://") else { return Ok((Transport::Dns, key)) };
    let transport = match scheme.to_ascii_lowercase().as_str() {
        "dns" => Transport::Dns,
        "tls" => Transport::Tls,
        "https" => Transport::Https,
        "quic" => Transport::Quic,
        "grpc" | "unix" | "https3" => {
            return Err(ValueError::new(
                format!("{key:?}: nodens does not serve over {scheme}"),
                "a zone without a scheme",
            ));
        }
        _ => {
            return Err(ValueError::new(
                format!("{key:?} has the unknown scheme {scheme:?}"),
                "dns://, tls://, https:// or none",
            ));
        }
    };
    Ok((transport, rest))
}

/// Cuts the port off. In `2001:db8::/32` the colons belong to the address: a port comes after the prefix length.
fn split_port(key: &str) -> Result<(&str, Option<u16>), ValueError> {
    let after_network = key
        .find('/')
        .filter(|slash| key.get(..*slash).is_some_and(|ip| ip.parse::<IpAddr>().is_ok()));
    let tail = key.get(after_network.unwrap_or(0)..).unwrap_or(key);
    let Some((_, port)) = tail.rsplit_once(':') else { return Ok((key, None)) };
    let zone = key.get(..key.len() - port.len() - 1).unwrap_or(key);
    if !is_digits(port) {
        return Err(ValueError::new(
            format!("{port:?} in {key:?} is not a port"),
            "a port from 1 to 65535",
        ));
    }
    if zone.is_empty() {
        return Err(ValueError::new(
            format!("{key:?} has no zone"),
            format!(".{key} for all names"),
        ));
    }
    match port.parse() {
        Ok(0) | Err(_) => Err(ValueError::new(
            format!("the port in {key:?} is out of range"),
            "a port from 1 to 65535",
        )),
        Ok(port) => Ok((zone, Some(port))),
    }
}

/// Zones that are legal and rarely meant.
fn doubtful(zone: &str) -> Option<(&'static str, &'static str)> {
    if zone.parse::<IpAddr>().is_ok() {
        return Some(("is taken as the name of a zone", "a zone here, and the address after bind"));
    }
    if zone == "*" || zone.starts_with("*.") {
        return Some((
            "covers only names with a literal *",
            "the zone without *., which covers all names below it",
        ));
    }
    let (address, _) = zone.split_once('/')?;
    let truncated = zone.parse::<ipnet::IpNet>().ok()?.trunc().addr();
    (address.parse::<IpAddr>().ok()? != truncated).then_some((
        "has bits beyond its prefix, which are ignored",
        "the first address of the network",
    ))
}

const A_ZONE: &str = "a zone, as example.org or .";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(key: &str) -> (Vec<String>, String) {
        let mut diagnostics = Diagnostics::default();
        let token = Token::new(key, Location::new(std::path::Path::new("Corefile"), 1));
        let keys = parse(&token, 53, &mut diagnostics);
        (keys.iter().map(ZoneKey::to_string).collect(), diagnostics.to_string())
    }

    #[test]
    fn zones_ports_and_schemes() {
        for (key, expected) in [
            (".", "dns://.:53"),
            (".:5353", "dns://.:5353"),
            ("Example.ORG", "dns://example.org.:53"),
            ("example.org.:54", "dns://example.org.:54"),
            ("dns://example.org", "dns://example.org.:53"),
            ("tls://example.org", "tls://example.org.:853"),
            ("HTTPS://.:8443", "https://.:8443"),
            ("DNS://.:1053", "dns://.:1053"),
            ("10.0.0.0/8", "dns://10.in-addr.arpa.:53"),
            ("10.0.0.0/8:54", "dns://10.in-addr.arpa.:54"),
            ("2001:db8::/32", "dns://8.b.d.0.1.0.0.2.ip6.arpa.:53"),
            ("2001:db8::/32:54", "dns://8.b.d.0.1.0.0.2.ip6.arpa.:54"),
            ("32/27.104.21.in-addr.arpa", "dns://32/27.104.21.in-addr.arpa.:53"),
            ("_sip._tcp.a-b.org", "dns://_sip._tcp.a-b.org.:53"),
            ("5gc.telco.vlab", "dns://5gc.telco.vlab.:53"),
        ] {
            assert_eq!(read(key), (vec![expected.to_owned()], String::new()), "{key}");
        }
        assert_eq!(read("10.0.0.0/17").0.len(), 128);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (key, expected) in [
            (":53", "\":53\" has no zone, expected .:53 for all names"),
            (".:domain", "\"domain\" in \".:domain\" is not a port"),
            (".:", "\"\" in \".:\" is not a port"),
            (".:1-5", "\"1-5\" in"),
            (".:0", "the port in"),
            (".:65536", "the port in"),
            (
                "10.0.0.0/33",
                "\"10.0.0.0/33\" is not a network, expected a prefix length from 0 to 32",
            ),
            ("fd00::/129", "\"fd00::/129\" is not a network"),
            ("grpc://.", "\"grpc://.\": nodens does not serve over grpc"),
            ("unix:///run/x.sock", "\"unix:///run/x.sock\": nodens does not serve over unix"),
            (
                "tcp://.",
                "\"tcp://.\" has the unknown scheme \"tcp\", expected dns://, tls://, https:// or none",
            ),
            ("a,b", "\"a,b\" has a comma in it"),
            ("a b", "\"a b\" has a space in it"),
            ("${domain}", "\"${domain}\" looks like a template"),
            ("a..b", "\"a..b\" is not a zone: a label is empty"),
            ("b\u{fc}cher.example", "\"b\u{fc}cher.example\" has letters outside"),
        ] {
            let (zones, shown) = read(key);
            assert!(zones.is_empty(), "{key}");
            assert!(shown.starts_with(&format!("Corefile:1: {expected}")), "{shown}");
        }
        let (zones, shown) = read("quic://.");
        assert_eq!(zones.len(), 1);
        assert!(shown.contains("serving over quic is not supported yet"), "{shown}");
        let long = "a".repeat(64);
        assert!(read(&long).1.contains("a label is longer than 63 octets"));
    }

    #[test]
    fn what_is_doubtful_is_a_warning() {
        for key in ["10.0.0.1:53", "*.a.org", "10.1.2.3/8"] {
            let (zones, shown) = read(key);
            assert_eq!(zones.len(), 1, "{key}");
            assert!(shown.starts_with("Corefile:1: warning: "), "{shown}");
        }
    }

    proptest! {
        #[test]
        fn any_key_gives_zones_or_an_error(key in "\\PC{0,30}|[a-f0-9:./*]{0,30}|[a-z]{1,5}://[a-z.:0-9]{0,9}") {
            let mut diagnostics = Diagnostics::default();
            let token = Token::new(key, Location::new(std::path::Path::new("Corefile"), 1));
            let zones = parse(&token, 53, &mut diagnostics);
            prop_assert!(zones.len() <= 128);
            prop_assert!(!zones.is_empty() || diagnostics.has_errors());
        }
    }
}
