//! One word and the type that it stands for.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

/// Why a word is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}, expected {expected}")]
pub struct ValueError {
    /// What is wrong with it, with the word in quotes.
    pub what: String,
    /// What is expected in its place.
    pub expected: String,
}

/// Where an HTTP endpoint listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddress {
    /// `None` for every address, as in `:8080`.
    pub ip: Option<IpAddr>,
    /// The port, zero only where it was written as zero.
    pub port: u16,
}

impl ValueError {
    /// Makes one; `expected` reads on from "expected".
    pub fn new(what: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { what: what.into(), expected: expected.into() }
    }
}

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.ip {
            Some(ip) => SocketAddr::new(ip, self.port).fmt(f),
            None => write!(f, ":{}", self.port),
        }
    }
}

/// The name of a namespace, in lower case.
pub fn namespace(text: &str) -> Result<Arc<str>, ValueError> {
    let lower = text.to_ascii_lowercase();
    let good = lower.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-');
    if good && (1..=63).contains(&lower.len()) {
        return Ok(lower.into());
    }
    Err(ValueError::new(
        format!("{text:?} is not a namespace"),
        "letters, digits and dashes, at most 63",
    ))
}

/// `on` or `off`, or a word for true or false.
pub fn on_off(text: &str) -> Result<bool, ValueError> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => boolean(text)
            .map_err(|_| ValueError::new(format!("{text:?} is neither on nor off"), "on or off")),
    }
}

/// A duration as Go writes them: `5s`, `1h30m`, `0.5s`, `300ms`. A number needs a unit, but for `0`.
pub fn duration(text: &str) -> Result<Duration, ValueError> {
    const EXPECTED: &str = "a duration as in 30s, 500ms or 1h30m";
    let wrong = || ValueError::new(format!("{text:?} is not a duration"), EXPECTED);
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(ValueError::new(
            format!("{text:?} has no unit"),
            format!("{EXPECTED}: perhaps {text}s"),
        ));
    }
    if text.starts_with('-') {
        return Err(ValueError::new(format!("{text:?} is negative"), EXPECTED));
    }
    let mut rest = text;
    let mut nanoseconds: u128 = 0;
    while !rest.is_empty() {
        let number = take(&mut rest, |letter| letter.is_ascii_digit() || letter == '.');
        let unit = take(&mut rest, |letter| !letter.is_ascii_digit() && letter != '.');
        let scale: u128 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(wrong()),
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && part.is_empty()
            || whole.len() > 15
            || part.len() > 15
            || part.contains('.')
        {
            return Err(wrong());
        }
        let digits = |digits: &str| if digits.is_empty() { Ok(0) } else { digits.parse::<u128>() };
        let (Ok(whole), Ok(fraction)) = (digits(whole), digits(part)) else { return Err(wrong()) };
        nanoseconds += whole * scale + fraction * scale / 10_u128.pow(part.len() as u32);
    }
    // Go's own limit, 292 years.
    match u64::try_from(nanoseconds) {
        Ok(nanoseconds) if !text.is_empty() && nanoseconds <= i64::MAX as u64 => {
            Ok(Duration::from_nanos(nanoseconds))
        }
        _ => Err(wrong()),
    }
}

/// A duration within limits, both included.
pub fn duration_in(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, ValueError> {
    let found = duration(text)?;
    if range.contains(&found) {
        return Ok(found);
    }
    let (low, high) = (range.start(), range.end());
    let expected = match low.is_zero() {
        true => format!("at most {high:?}"),
        false => format!("{low:?} to {high:?}"),
    };
    Err(ValueError::new(format!("{text:?} is out of range"), expected))
}

/// A whole number within limits, both included.
pub fn integer<T: FromStr + PartialOrd + Display + Copy>(
    text: &str,
    range: RangeInclusive<T>,
) -> Result<T, ValueError> {
    let (low, high) = (*range.start(), *range.end());
    let expected = || format!("a whole number from {low} to {high}");
    match text.parse::<T>() {
        Ok(number) if range.contains(&number) => Ok(number),
        Ok(_) => Err(ValueError::new(format!("{text:?} is out of range"), expected())),
        // Digits only, but more of them than the type holds.
        Err(_) if is_digits(text) => {
            Err(ValueError::new(format!("{text:?} is out of range"), expected()))
        }
        Err(_) => Err(ValueError::new(format!("{text:?} is not a whole number"), expected())),
    }
}

/// A percentage with its sign, as in `80%`.
pub fn percentage(text: &str, range: RangeInclusive<u8>) -> Result<u8, ValueError> {
    let (low, high) = (*range.start(), *range.end());
    let wrong = |what| ValueError::new(format!("{text:?} is {what}"), format!("{low}% to {high}%"));
    let digits = text.strip_suffix('%').ok_or_else(|| wrong("not a percentage"))?;
    integer(digits, range).map_err(|_| wrong("not a percentage within the limits"))
}

/// `true` or `false`.
pub fn boolean(text: &str) -> Result<bool, ValueError> {
    text.parse().map_err(|_| {
        ValueError::new(format!("{text:?} is neither true nor false"), "true or false")
    })
}

/// One address, without a port.
pub fn ip(text: &str) -> Result<IpAddr, ValueError> {
    text.parse().map_err(|_| {
        ValueError::new(
            format!("{text:?} is not an IP address"),
            "an address as 10.0.0.10 or fd00::a",
        )
    })
}

/// An address with or without a port: `10.0.0.1`, `10.0.0.1:54`, `fd00::1`, `[fd00::1]:54`.
pub fn socket_address(text: &str, default_port: u16) -> Result<SocketAddr, ValueError> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.port() {
            0 => Err(ValueError::new(format!("{text:?} has port 0"), "a port from 1 to 65535")),
            _ => Ok(address),
        };
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().map(|ip| SocketAddr::new(ip, default_port)).map_err(|_| {
        ValueError::new(
            format!("{text:?} is not an IP address"),
            "IP or IP:PORT, with IPv6 as [fd00::1]:53",
        )
    })
}

/// Where to listen: `:8080`, `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`.
pub fn listen_address(text: &str) -> Result<ListenAddress, ValueError> {
    const EXPECTED: &str = "an address as :8080 or 127.0.0.1:8080";
    let Some((host, port)) = text.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) else {
        let expected = if is_digits(text) { format!(":{text}") } else { EXPECTED.into() };
        return Err(ValueError::new(format!("{text:?} has no port after a colon"), expected));
    };
    let port = integer(port, 0..=u16::MAX).map_err(|_| {
        ValueError::new(format!("{port:?} in {text:?} is not a port"), "a port from 1 to 65535")
    })?;
    let ip = match host {
        "" => None,
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        _ => {
            let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            let parsed = match bracketed {
                // IPv4 too, so that a manifest can write `[{$POD_IP}]:9153` for either family.
                Some(inside) => inside.parse().ok(),
                None => host.parse().map(IpAddr::V4).ok(),
            };
            Some(parsed.ok_or_else(|| {
                ValueError::new(format!("{host:?} in {text:?} is not an IP address"), EXPECTED)
            })?)
        }
    };
    Ok(ListenAddress { ip, port })
}

/// A network as `10.0.0.0/8`, or one address. Bits beyond the prefix are cleared.
pub fn network(text: &str) -> Result<IpNet, ValueError> {
    let parsed = match text.split_once('/') {
        Some(_) => text.parse::<IpNet>().ok(),
        None => text.parse::<IpAddr>().ok().map(IpNet::from),
    };
    parsed.map(|network| network.trunc()).ok_or_else(|| {
        ValueError::new(
            format!("{text:?} is not a network"),
            "a network as 10.0.0.0/8 or fd00::/64",
        )
    })
}

fn take<'a>(rest: &mut &'a str, is_part: impl Fn(char) -> bool) -> &'a str {
    let end = rest.find(|letter| !is_part(letter)).unwrap_or(rest.len());
    let (taken, left) = rest.split_at(end);
    *rest = left;
    taken
}

pub(super) fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, milliseconds) in [
            ("5s", 5_000),
            ("1h30m", 5_400_000),
            ("300ms", 300),
            ("0.5s", 500),
            (".5s", 500),
            ("1.s", 1_000),
            ("1m0.25s", 60_250),
            ("1000us", 1),
            ("1000\u{b5}s", 1),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in [
            "",
            "s",
            "5x",
            "5 s",
            "5s ",
            "-5s",
            ".s",
            "1.2.3s",
            "5d",
            "9999999h",
            "99999999999999999s",
            "5sm",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(
            duration("60").unwrap_err().to_string(),
            "\"60\" has no unit, expected a duration as in 30s, 500ms or 1h30m: perhaps 60s"
        );
        let range = Duration::from_secs(2)..=Duration::from_secs(60);
        assert_eq!(
            duration_in("1s", range).unwrap_err().to_string(),
            "\"1s\" is out of range, expected 2s to 60s"
        );
    }

    #[test]
    fn numbers_know_their_limits() {
        assert_eq!(integer("30", 0..=3600_u32), Ok(30));
        assert_eq!(integer("0", 1..=15_u8).unwrap_err().what, "\"0\" is out of range");
        assert_eq!(integer("300", 1..=15_u8).unwrap_err().what, "\"300\" is out of range");
        assert_eq!(integer("x", 1..=15_u8).unwrap_err().expected, "a whole number from 1 to 15");
        assert_eq!(percentage("80%", 10..=90), Ok(80));
        assert!(percentage("80", 10..=90).is_err() && percentage("95%", 10..=90).is_err());
        assert_eq!((boolean("true"), boolean("false")), (Ok(true), Ok(false)));
        assert!(boolean("yes").is_err());
    }

    #[test]
    fn addresses() {
        let address = |text: &str| socket_address(text, 53).map(|address| address.to_string());
        assert_eq!(address("1.1.1.1").unwrap(), "1.1.1.1:53");
        assert_eq!(address("1.1.1.1:54").unwrap(), "1.1.1.1:54");
        assert_eq!(address("fd00::1").unwrap(), "[fd00::1]:53");
        assert_eq!(address("[fd00::1]").unwrap(), "[fd00::1]:53");
        assert_eq!(address("[fd00::1]:54").unwrap(), "[fd00::1]:54");
        for text in
            ["", "pihole", "pihole:53", "1.1.1.1:", "1.1.1.1:0", "1.1.1.1:x", "1.1.1", "::1]:53"]
        {
            assert!(address(text).is_err(), "{text}");
        }
        let listen = |text: &str| listen_address(text).map(|address| address.to_string());
        for text in [":8080", "127.0.0.1:8080", "[::1]:8080"] {
            assert_eq!(listen(text).unwrap(), text);
        }
        assert_eq!(listen("localhost:8181").unwrap(), "127.0.0.1:8181");
        assert_eq!(listen("[192.0.2.1]:9153").unwrap(), "192.0.2.1:9153");
        assert_eq!(
            listen("80").unwrap_err(),
            "\"80\" has no port after a colon, expected :80".parse_wrong()
        );
        for text in ["", ":", "[::1]", "::1:8080", "[]:80", "host:80", ":99999"] {
            assert!(listen(text).is_err(), "{text}");
        }
        assert_eq!(network("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(network("10.1.2.3").unwrap().to_string(), "10.1.2.3/32");
        assert!(network("10.0.0.0/33").is_err() && network("x").is_err());
    }

    trait ParseWrong {
        fn parse_wrong(&self) -> ValueError;
    }

    impl ParseWrong for str {
        fn parse_wrong(&self) -> ValueError {
            let (what, expected) = self.split_once(", expected ").unwrap();
            ValueError::new(what, expected)
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in "\\PC{0,24}|[0-9.:smhu\\[\\]/%]{0,24}") {
            let _ = (duration(&text), integer(&text, 0..=9_u8), percentage(&text, 0..=9), boolean(&text));
            let _ = (socket_address(&text, 53), listen_address(&text), network(&text), ip(&text));
        }

        #[test]
        fn durations_add_up(hours in 0..1000_u64, seconds in 0..60_u64, milliseconds in 0..1000_u64) {
            let expected = Duration::from_millis((hours * 3600 + seconds) * 1000 + milliseconds);
            prop_assert_eq!(duration(&format!("{hours}h{seconds}s{milliseconds}ms")), Ok(expected));
        }
    }
}
