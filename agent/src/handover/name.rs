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
    /// `/metrics`, `/health` and `/ready`.
    Http,
}

impl SocketKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
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
        let kind = [SocketKind::Udp, SocketKind::Tcp, SocketKind::Http]
            .into_iter()
            .find(|known| Some(known.as_str()) == kind)
            .ok_or(())?;
        let address = address.and_then(|text| text.parse().ok()).ok_or(())?;
        let number = number.and_then(|text| text.parse().ok()).ok_or(())?;
        if words.next().is_none() { Ok(Self { kind, address, number }) } else { Err(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for text in ["udp 169.254.20.10:53 0", "tcp [fd00::10]:53 7", "http 0.0.0.0:9153 0"] {
            assert_eq!(SocketName::from_str(text).map(|name| name.to_string()), Ok(text.into()));
        }
        for bad in ["", "udp", "udp 1.2.3.4 0", "sctp 1.2.3.4:53 0", "udp 1.2.3.4:53 0 0", "memory cache"] {
            assert!(SocketName::from_str(bad).is_err(), "{bad}");
        }
    }
}
