//! One question to one server.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use crate::config::value;

/// A question, and whom to ask.
#[derive(Args, Debug, Clone)]
pub struct Lookup {
    /// The name, in full: no search list is used.
    pub name: String,
    /// The record type.
    #[arg(default_value = "A")]
    pub record_type: String,
    /// Whom to ask: ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT. Without it: the first nameserver of /etc/resolv.conf.
    #[arg(long, value_name = "ADDRESS")]
    pub server: Option<ServerAddress>,
    /// Ask over TCP at once, and not only for what UDP does not carry.
    #[arg(long)]
    pub tcp: bool,
    /// How long to wait for the answer.
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub timeout: Patience,
}

/// The address of a DNS server; the port is 53 where none is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerAddress(pub SocketAddr);

impl FromStr for ServerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        let address = text.parse::<SocketAddr>().ok();
        let address = address.or_else(|| Some((bare.parse::<IpAddr>().ok()?, 53).into()));
        address
            .map(Self)
            .ok_or_else(|| "expected ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT".to_owned())
    }
}

/// A time to wait, more than nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience(pub Duration);

impl FromStr for Patience {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let duration = value::duration(text).map_err(|error| error.to_string())?;
        if duration.is_zero() { Err("expected more than 0".to_owned()) } else { Ok(Self(duration)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_have_a_port_or_53() {
        let read = |text: &str| text.parse::<ServerAddress>().map(|found| found.0.to_string());
        for (text, wanted) in [
            ("169.254.20.10", "169.254.20.10:53"),
            ("127.0.0.1:5353", "127.0.0.1:5353"),
            ("fd00::10", "[fd00::10]:53"),
            ("[fd00::10]", "[fd00::10]:53"),
            ("[fd00::10]:54", "[fd00::10]:54"),
        ] {
            assert_eq!(read(text).unwrap(), wanted);
        }
        for wrong in ["", "dns.example", "10.0.0.1:", "10.0.0.1:70000"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
