//! The names of sockets.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// What a listening socket is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SocketKind {
    /// DNS over UDP.
    Udp,
    /// DNS over TCP.
    Tcp,
    /// DNS over TLS or HTTPS.
    Tls,
    /// `/metrics`, `/health` and `/ready`.
    Http,
}

impl SocketKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Http => "http",
        }
    }
}

/// One listening socket of an instance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SocketName {
    /// What it is for.
    pub kind: SocketKind,
    /// The address as it was configured: its port may be 0.
    pub address: SocketAddr,
    /// 0 up to the number of sockets of this kind and address.
    pub number: u16,
}

impl fmt::Display for SocketName {
    /// `udp 169.254.20.10:53 0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.kind.as_str(), self.address, self.number)
    }
}

impl FromStr for SocketName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split(' ');
        let (kind, address, number) = (words.next(), words.next(), words.next());
        let kind = [SocketKind::Udp, SocketKind::Tcp, SocketKind::Tls, SocketKind::Http]
            .into_iter()
            .find(|known| Some(known.as_str()) == kind)
            .ok_or(())?;
        let address = address.and_then(|text| text.parse().ok()).ok_or(())?;
        let number = number.and_then(|text| text.parse().ok()).ok_or(())?;
        if words.next().is_none() { Ok(Self { kind, address, number }) } else { Err(()) }
    }
}

/// Where a process listens: its network namespace, its addresses, and the link that it keeps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    namespace: String,
    link: Option<String>,
    addresses: Vec<SocketAddr>,
}

/// What the word for the link begins with.
const LINK: &str = "dev:";

impl Place {
    /// Of this process.
    pub fn new(link: Option<&str>, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let namespace = std::fs::read_link("/proc/self/ns/net").unwrap_or_default();
        let namespace = namespace.to_string_lossy().into_owned();
        let link = link.map(str::to_owned);
        Self { namespace, link, addresses: addresses.into_iter().collect() }
    }

    /// True if both have an address or the link of one network namespace: they cannot both go on.
    pub fn meets(&self, other: &Self) -> bool {
        let shares_address = self.addresses.iter().any(|address| other.addresses.contains(address));
        let shares_link = self.link.is_some() && self.link == other.link;
        self.namespace == other.namespace && (shares_address || shares_link)
    }
}

impl fmt::Display for Place {
    /// `net:[4026531840] dev:nodelocaldns 169.254.20.10:53 10.96.0.10:53`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.namespace)?;
        self.link.iter().try_for_each(|link| write!(f, " {LINK}{link}"))?;
        self.addresses.iter().try_for_each(|address| write!(f, " {address}"))
    }
}

impl From<&str> for Place {
    /// Words that are no addresses are left out: the last one may have been cut off.
    fn from(text: &str) -> Self {
        let mut words = text.split(' ');
        let namespace = words.next().unwrap_or_default().to_owned();
        let (mut link, mut addresses) = (None, Vec::new());
        for word in words {
            match word.strip_prefix(LINK) {
                Some(name) => link = Some(name.to_owned()),
                None => addresses.extend(word.parse::<SocketAddr>()),
            }
        }
        Self { namespace, link, addresses }
    }
}

/// What the name of a client's connection begins with.
const CONNECTION: &str = "connection ";

/// The name of a connection that was made to `address`; `number` tells those apart that one process has.
pub fn connection_name(address: SocketAddr, number: Option<u64>) -> String {
    match number {
        Some(number) => format!("{CONNECTION}{address} {number}"),
        None => format!("{CONNECTION}{address}"),
    }
}

/// The listening address in the name of a connection. Total.
pub fn connection_address(name: &str) -> Option<SocketAddr> {
    name.strip_prefix(CONNECTION)?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for text in [
            "udp 169.254.20.10:53 0",
            "tcp [fd00::10]:53 7",
            "http 0.0.0.0:9153 0",
            "tls 10.0.0.1:853 0",
        ] {
            assert_eq!(SocketName::from_str(text).map(|name| name.to_string()), Ok(text.into()));
        }
        for bad in
            ["", "udp", "udp 1.2.3.4 0", "sctp 1.2.3.4:53 0", "udp 1.2.3.4:53 0 0", "memory cache"]
        {
            assert!(SocketName::from_str(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn places_meet_at_an_address_of_one_namespace() {
        let place = |text: &str| Place::from(text);
        let one = place("net:[1] 127.0.0.1:53 10.0.0.1:53");
        assert_eq!(Place::from(one.to_string().as_str()), one);
        assert!(one.meets(&place("net:[1] 10.0.0.1:53 127.0.0.1:5")));
        for other in
            ["net:[2] 10.0.0.1:53", "net:[1] 10.0.0.1:54", "net:[1]", "", "net:[1] 10.0.0.1"]
        {
            assert!(!one.meets(&place(other)), "{other}");
        }
        let linked = place("net:[1] dev:nodelocaldns 10.0.0.7:53");
        assert_eq!(Place::from(linked.to_string().as_str()), linked);
        assert!(
            linked.meets(&place("net:[1] dev:nodelocaldns 10.0.0.8:53")) && !linked.meets(&one)
        );
        assert!(!linked.meets(&place("net:[2] dev:nodelocaldns 10.0.0.7:53")));
        let own = Place::new(None, ["127.0.0.1:53".parse().unwrap()]);
        assert!(own.meets(&own) && own.to_string().starts_with("net:["));
    }
}
