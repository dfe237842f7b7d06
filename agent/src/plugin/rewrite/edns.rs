//! `rewrite edns0`: options that go upstream with a query (RFC 6891 section 6.1.2).
//!
//! What a client sends in its own OPT record ends here (see `upstream::question`), so the options of a query that is forwarded
//! are those that rules put there.

use std::net::IpAddr;

use crate::config::{Args, ValueError, value};
use crate::request::Request;
use crate::wire::{Layout, read_u16};

/// The server's identity (RFC 5001).
const NSID: u16 = 3;
/// The client's subnet (RFC 7871).
const SUBNET: u16 = 8;
/// The longest data of an option of ours: it has to fit into a datagram beside the longest name.
const MAX_DATA: usize = 512;

/// One rule.
#[derive(Debug)]
pub(super) struct Rule {
    action: Action,
    /// `None`: `unset all`.
    code: Option<u16>,
    data: Data,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// Puts the option there, in the place of one that is there.
    Set,
    /// Puts the option there, besides one that is there.
    Append,
    /// Changes an option that is there.
    Replace,
    /// Takes the option away.
    Unset,
}

/// What an option says.
#[derive(Debug)]
enum Data {
    Octets(Box<[u8]>),
    Name,
    Type,
    ClientIp,
    ClientPort,
    Protocol,
    ServerIp,
    ServerPort,
    /// As many bits of the client's address: IPv4, IPv6.
    Subnet(u8, u8),
}

/// The options that go upstream.
#[derive(Debug, Default)]
pub(super) struct Options(Vec<(u16, Vec<u8>)>);

impl Rule {
    /// Reads what stands behind `edns0`.
    pub(super) fn parse(args: &mut Args<'_, '_>) -> Option<Self> {
        const KINDS: &str = "local, nsid or subnet";
        let kind = args.required(KINDS)?;
        let kind_name = kind.as_str().to_ascii_lowercase();
        if !matches!(&*kind_name, "local" | "nsid" | "subnet") {
            args.error_at(
                &kind.at,
                format!("there is no kind of option {:?}", kind.as_str()),
                KINDS,
            );
            return None;
        }
        let action = args.value("set, append, replace or unset", action)?;
        let code = match &*kind_name {
            "nsid" => Some(NSID),
            "subnet" => Some(SUBNET),
            _ if action == Action::Unset
                && args.peek().is_some_and(|word| word.as_str().eq_ignore_ascii_case("all")) =>
            {
                args.next();
                None
            }
            _ => Some(args.value("an option code as 0xffee", code)?),
        };
        let data = match &*kind_name {
            _ if action == Action::Unset => Data::Octets(Box::default()),
            "nsid" => Data::Octets(Box::default()),
            "subnet" => {
                let v4 = args.integer("bits of IPv4 addresses, and of IPv6 addresses", 0..=32)?;
                Data::Subnet(v4, args.integer("bits of IPv6 addresses", 0..=128)?)
            }
            _ => {
                args.value("text, 0x and hexadecimal digits, or a variable as {client_ip}", data)?
            }
        };
        if let Some(word) = args.peek().filter(|word| word.as_str() == "revert") {
            args.error_at(
                &word.at,
                "nodens does not undo options in answers",
                "no revert: a client gets the options of its answer as they come",
            );
            return None;
        }
        if data.depends_on_client() {
            args.warning(
                "what this option says depends on the client, and answers are cached without regard to it",
                "if answers differ by it, remove `cache` from this server block",
            );
        }
        Some(Self { action, code, data })
    }

    /// Whether it changes anything of a query with these octets.
    pub(super) fn is_for_any(&self) -> bool {
        // Without a rule that puts one there, nothing is sent on at all.
        self.action != Action::Unset
    }

    /// Whether it is for every query.
    pub(super) fn always_applies(&self) -> bool {
        matches!(self.action, Action::Set | Action::Append)
            && !matches!(self.data, Data::Subnet(..))
    }

    /// Changes the options; true where it was for this query.
    pub(super) fn apply(&self, request: &Request<'_>, name: &str, options: &mut Options) -> bool {
        let there = |options: &Options, code| {
            options.0.iter().any(|(other, _)| *other == code) || option(request, code).is_some()
        };
        let Some(code) = self.code else {
            options.0.clear();
            return true;
        };
        match self.action {
            Action::Unset => {
                let any = there(options, code);
                options.0.retain(|(other, _)| *other != code);
                return any;
            }
            Action::Replace if !there(options, code) => return false,
            Action::Set | Action::Replace => options.0.retain(|(other, _)| *other != code),
            Action::Append => {}
        }
        options.0.push((code, self.data.octets(request, name)));
        true
    }
}

impl Options {
    /// As the data of an OPT record; `None` where there are none.
    pub(super) fn octets(&self) -> Option<Box<[u8]>> {
        let mut octets = Vec::new();
        for (code, data) in &self.0 {
            octets.extend_from_slice(&code.to_be_bytes());
            octets.extend_from_slice(&(data.len() as u16).to_be_bytes());
            octets.extend_from_slice(data);
        }
        (!octets.is_empty()).then(|| octets.into())
    }
}

impl Data {
    fn depends_on_client(&self) -> bool {
        matches!(self, Self::ClientIp | Self::ClientPort | Self::Subnet(..))
    }

    fn octets(&self, request: &Request<'_>, name: &str) -> Vec<u8> {
        let origin = &request.origin;
        let ip = |ip: IpAddr| match ip.to_canonical() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        match self {
            Self::Octets(octets) => octets.to_vec(),
            Self::Name => name.as_bytes().to_vec(),
            Self::Type => request.query.qtype().0.to_be_bytes().to_vec(),
            Self::ClientIp => ip(origin.client.ip()),
            Self::ClientPort => origin.client.port().to_be_bytes().to_vec(),
            Self::Protocol => origin.transport.name().as_bytes().to_vec(),
            Self::ServerIp => ip(origin.local.ip()),
            Self::ServerPort => origin.local.port().to_be_bytes().to_vec(),
            Self::Subnet(v4, v6) => subnet(request, *v4, *v6),
        }
    }
}

/// As many bits of the client's address, or what the client gives away of it if that is less: its own option with a
/// shorter prefix, none at all included, is its wish and is forwarded as it came (RFC 7871 section 7.1.2).
fn subnet(request: &Request<'_>, v4: u8, v6: u8) -> Vec<u8> {
    let client = request.origin.client.ip().to_canonical();
    let (family, octets, bits) = match client {
        IpAddr::V4(ip) => (1, ip.octets().to_vec(), v4),
        IpAddr::V6(ip) => (2, ip.octets().to_vec(), v6),
    };
    if let Some(theirs) = option(request, SUBNET) {
        match theirs {
            [0, family @ (1 | 2), prefix, _, address @ ..]
                if usize::from(*prefix).div_ceil(8) == address.len() =>
            {
                if *prefix < if *family == 1 { v4 } else { v6 } {
                    return address_prefix(*family, *prefix, address.to_vec());
                }
            }
            // It cannot be read: it may be meant to give nothing away.
            _ => return address_prefix(family, 0, octets),
        }
    }
    address_prefix(family, bits, octets)
}

/// Family, source prefix length, scope prefix length, address (RFC 7871 section 6).
fn address_prefix(family: u8, bits: u8, octets: Vec<u8>) -> Vec<u8> {
    let mut data = vec![0, family, bits, 0];
    data.extend(truncated(octets, bits));
    data
}

/// The first `bits` bits, in as many octets as they need, the rest of the last one zero.
fn truncated(mut octets: Vec<u8>, bits: u8) -> Vec<u8> {
    octets.truncate(usize::from(bits).div_ceil(8));
    if let (Some(last), odd @ 1..) = (octets.last_mut(), bits % 8) {
        *last &= 0xff << (8 - odd);
    }
    octets
}

/// The data of an option of the client's own OPT record.
fn option<'a>(request: &Request<'a>, code: u16) -> Option<&'a [u8]> {
    let packet = request.query.packet();
    let edns = Layout::parse(packet).ok()?.edns?;
    let mut options = packet.get(edns.options.into()..edns.end.into())?;
    while let (Some(other), Some(len)) = (read_u16(options, 0), read_u16(options, 2)) {
        let end = 4 + usize::from(len);
        if other == code {
            return options.get(4..end);
        }
        options = options.get(end..)?;
    }
    None
}

fn action(word: &str) -> Result<Action, ValueError> {
    match word.to_ascii_lowercase().as_str() {
        "set" => Ok(Action::Set),
        "append" => Ok(Action::Append),
        "replace" => Ok(Action::Replace),
        "unset" => Ok(Action::Unset),
        _ => Err(ValueError::new(
            format!("there is no action {word:?}"),
            "set, append, replace or unset",
        )),
    }
}

fn code(word: &str) -> Result<u16, ValueError> {
    match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        Some(digits) => u16::from_str_radix(digits, 16).map_err(|_| {
            ValueError::new(format!("{word:?} is no option code"), "0 to 65535, or 0x0 to 0xffff")
        }),
        None => value::integer(word, 0..=u16::MAX),
    }
}

fn data(word: &str) -> Result<Data, ValueError> {
    const VARIABLES: &str =
        "{qname}, {qtype}, {client_ip}, {client_port}, {protocol}, {server_ip} or {server_port}";
    if let Some(variable) = word.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) {
        return Ok(match variable {
            "qname" => Data::Name,
            "qtype" => Data::Type,
            "client_ip" => Data::ClientIp,
            "client_port" => Data::ClientPort,
            "protocol" => Data::Protocol,
            "server_ip" => Data::ServerIp,
            "server_port" => Data::ServerPort,
            label if label.contains('/') => {
                let what = format!("{word:?} is metadata, which nodens does not have");
                return Err(ValueError::new(what, VARIABLES));
            }
            _ => return Err(ValueError::new(format!("there is no variable {word:?}"), VARIABLES)),
        });
    }
    let octets = match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        None => word.as_bytes().to_vec(),
        Some(digits) => hexadecimal(digits).ok_or_else(|| {
            ValueError::new(
                format!("{word:?} is not hexadecimal"),
                "0x and an even number of digits",
            )
        })?,
    };
    if octets.len() > MAX_DATA {
        let what = format!("the option has {} octets", octets.len());
        return Err(ValueError::new(what, format!("{MAX_DATA} at most")));
    }
    Ok(Data::Octets(octets.into()))
}

fn hexadecimal(digits: &str) -> Option<Vec<u8>> {
    let nibble = |digit: &u8| char::from(*digit).to_digit(16);
    let pairs = digits.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some((nibble(high)? << 4 | nibble(low)?) as u8),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_octets() {
        let octets = |word| match data(word) {
            Ok(Data::Octets(octets)) => octets.to_vec(),
            other => panic!("{word}: {other:?}"),
        };
        assert_eq!((octets("0x6162"), octets("hello")), (b"ab".to_vec(), b"hello".to_vec()));
        for word in ["0x616", "0xzz", "{nope}", "{kubernetes/client-namespace}"] {
            assert!(data(word).is_err(), "{word}");
        }
        assert_eq!((code("0xffee").ok(), code("65001").ok()), (Some(0xffee), Some(65_001)));
        assert!(code("0x10000").is_err() && code("x").is_err());
    }

    #[test]
    fn subnets_have_no_bits_behind_their_end() {
        assert_eq!(truncated(vec![10, 1, 255, 7], 24), [10, 1, 255]);
        assert_eq!(truncated(vec![10, 1, 255, 7], 17), [10, 1, 128]);
        assert!(truncated(vec![10, 1, 255, 7], 0).is_empty());
        assert_eq!(truncated(vec![255; 16], 57)[7], 128);
    }

    proptest::proptest! {
        #[test]
        fn any_word_is_data_or_an_error(word in "(0x)?[{}a-f0-9/x]{0,20}") {
            let _ = (data(&word), code(&word));
        }
    }
}
