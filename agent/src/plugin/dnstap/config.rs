//! What a `dnstap` line means.

use std::path::PathBuf;

use super::payload::{Header, Kind};
use crate::chain::Identity;
use crate::config::{Args, ValueError};
use crate::corefile::{Diagnostics, Directive};
use crate::plugin::log::Template;

const ENDPOINT: &str =
    "a path, or an address such as tcp://192.0.2.1:6000 or tls://collector.example:6000";
/// MiB of the collector's send buffer that may be asked for.
const MAX_BUFFER: u32 = 64;
/// Multiples of the queue that may be asked for.
const MAX_QUEUE: u32 = 100;
/// Octets of a text.
const MAX_TEXT: usize = 255;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the collector is.
    pub endpoint: Endpoint,
    /// `full`: with the DNS messages themselves.
    pub full: bool,
    /// MiB of the send buffer of a TCP connection.
    pub buffer: u32,
    /// The length of the queue in units of [`super::sender::QUEUE`].
    pub queue: u32,
    /// `skipverify`: any certificate is good.
    pub skip_verify: bool,
    /// `identity` and `version`.
    pub header: Header,
    /// `extra`; empty: none.
    pub extra: Template,
    /// Bit `n`: messages of the kind of that number.
    kinds: u16,
}

/// Where a collector is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// `HOST:PORT`, in the clear.
    Tcp(String),
    /// `HOST:PORT`, over TLS.
    Tls(String),
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
            Self::Tls(host) => write!(f, "tls://{host}"),
        }
    }
}

impl Config {
    /// Whether messages of a kind are sent.
    pub fn wants(&self, kind: Kind) -> bool {
        self.kinds >> kind as u16 & 1 == 1
    }

    /// Whether its messages name the Pods that ask.
    pub fn names_clients(&self) -> bool {
        self.extra.names_clients()
    }

    /// Reads a line.
    pub fn parse(directive: &Directive, diagnostics: &mut Diagnostics) -> Self {
        let mut config = Self {
            endpoint: Endpoint::Unix(PathBuf::new()),
            full: false,
            buffer: 1,
            queue: 1,
            skip_verify: false,
            header: Header {
                identity: Identity::default().hostname.into(),
                version: Identity::default().version.into(),
            },
            extra: Template::default(),
            kinds: u16::MAX,
        };
        let mut args = Args::of(directive, diagnostics);
        if let Some(endpoint) = args.value(ENDPOINT, endpoint) {
            config.endpoint = endpoint;
        }
        if args.follows("full", 0) {
            let _ = args.next();
            config.full = true;
        }
        if !args.is_empty() {
            config.buffer = args.integer("MiB of the send buffer", 1..=MAX_BUFFER).unwrap_or(1);
        }
        if !args.is_empty() {
            let queue = args.integer("the length of the queue in ten thousands", 1..=MAX_QUEUE);
            config.queue = queue.unwrap_or(1);
        }
        args.end();
        for option in directive.options() {
            let mut args = Args::of_option(directive, option, diagnostics);
            match option.name.as_str() {
                "skipverify" => config.skip_verify = true,
                "identity" => set(&mut config.header.identity, &mut args),
                "version" => set(&mut config.header.version, &mut args),
                "extra" => config.extra = extra(&mut args),
                "message_types" => config.kinds = kinds(&mut args),
                _ => args.unknown_option(&[
                    "skipverify",
                    "identity",
                    "version",
                    "extra",
                    "message_types",
                ]),
            }
            args.end();
        }
        config
    }
}

fn set(text: &mut String, args: &mut Args<'_, '_>) {
    let word = args.value("a text of at most 255 octets", |word| match word.len() <= MAX_TEXT {
        true => Ok(word.to_owned()),
        false => Err(ValueError::new("the text is too long", "at most 255 octets")),
    });
    if let Some(word) = word {
        *text = word;
    }
}

/// Reads a text with the placeholders of `log`.
fn extra(args: &mut Args<'_, '_>) -> Template {
    let mut text = String::new();
    set(&mut text, args);
    let (template, unknown) = Template::parse(&text);
    for unknown in unknown {
        let (what, help) = unknown.complaint();
        args.warning(what, help);
    }
    template
}

fn kinds(args: &mut Args<'_, '_>) -> u16 {
    let expected = Kind::ALL.map(Kind::name).join(", ");
    let mut kinds = 0;
    let mut next = args.required(&expected);
    while let Some(word) = next {
        let kind = args.read(word, |text| {
            let found = Kind::ALL.into_iter().find(|kind| kind.name() == text);
            found.ok_or_else(|| {
                ValueError::new(format!("there is no type {text:?} here"), &*expected)
            })
        });
        kinds |= kind.map_or(0, |kind| 1 << kind as u16);
        next = args.next();
    }
    kinds
}

fn endpoint(text: &str) -> Result<Endpoint, ValueError> {
    let wrong = |what: String| ValueError::new(what, ENDPOINT);
    let host = |text: &str| {
        let (host, port) =
            text.rsplit_once(':').ok_or_else(|| wrong(format!("{text:?} has no port")))?;
        let is_port = port.parse::<u16>().is_ok_and(|port| port != 0);
        match !host.is_empty() && is_port {
            true => Ok(text.to_owned()),
            false => Err(wrong(format!("{text:?} is no HOST:PORT"))),
        }
    };
    match text.split_once("://") {
        Some(("tcp", rest)) => Ok(Endpoint::Tcp(host(rest)?)),
        Some(("tls", rest)) => Ok(Endpoint::Tls(host(rest)?)),
        Some(("unix", "")) => Err(wrong("there is no path".to_owned())),
        Some(("unix", path)) => Ok(Endpoint::Unix(path.into())),
        Some((scheme, _)) => Err(wrong(format!("there is no scheme {scheme:?}"))),
        None => Ok(Endpoint::Unix(text.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::testing::read;

    fn config(text: &str) -> (Config, String) {
        read(text, Config::parse)
    }

    #[test]
    fn lines_of_coredns_are_taken() {
        let (plain, complaints) = config("dnstap /tmp/dnstap.sock");
        assert_eq!(
            (plain.endpoint, complaints),
            (Endpoint::Unix("/tmp/dnstap.sock".into()), String::new())
        );
        assert!(
            !plain.full
                && Kind::ALL.into_iter().all(|kind| Config {
                    kinds: plain.kinds,
                    ..config("dnstap /x").0
                }
                .wants(kind))
        );
        let (full, complaints) = config("dnstap tcp://collector.example:6000 full 1024 2048");
        assert!(full.full && complaints.contains("1024"), "{complaints}");
        let (full, complaints) = config(
            "dnstap tcp://[2001:db8::1]:6000 full 4 2 {\n identity me\n version 1.2\n extra x\n}",
        );
        assert_eq!(
            (full.endpoint, full.buffer, full.queue),
            (Endpoint::Tcp("[2001:db8::1]:6000".into()), 4, 2)
        );
        assert_eq!(
            (&*full.header.identity, &*full.header.version, complaints.as_str()),
            ("me", "1.2", "")
        );
        let (tls, _) = config(
            "dnstap tls://a.example:6000 {\n skipverify\n message_types CLIENT_QUERY FORWARDER_RESPONSE\n}",
        );
        assert!(
            tls.skip_verify
                && tls.wants(Kind::ForwarderResponse)
                && !tls.wants(Kind::ClientResponse)
        );
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (line, wanted) in [
            ("dnstap", "a path, or an address"),
            ("dnstap udp://a:1", "there is no scheme \"udp\""),
            ("dnstap tcp://a", "has no port"),
            ("dnstap tcp://a:0", "no HOST:PORT"),
            ("dnstap /x fll", "fll"),
            ("dnstap /x {\n message_types AUTH_QUERY\n}", "there is no type \"AUTH_QUERY\""),
            (
                "dnstap /x {\n identity a\n extra {/kubernetes/client-pod}\n}",
                "Corefile:4: warning: dnstap: extra: there is no metadata {/kubernetes/client-pod}",
            ),
            ("dnstap /x {\n extra {nothing}\n}", "there is no placeholder {nothing}"),
        ] {
            let complaints = config(line).1;
            assert!(complaints.contains(wanted), "{line}: {complaints}");
        }
    }
}
