//! What `forward` says.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Args, zone_names};
use crate::corefile::{Diagnostics, Directive, Token};
use crate::upstream::TransportConfig;
use crate::upstream::address::{NamedTarget, Scheme, Target, TargetError, Written};
use crate::upstream::follow::RESOLVED_CONF;
use crate::upstream::names::Asked;
use crate::upstream::tls::TlsFiles;
use crate::wire::{Name, Rcode};

/// Upstreams and files on one line. CoreDNS takes 15.
const MAX_TO: usize = 64;

/// The options of the block.
pub(super) const OPTIONS: &[&str] = &[
    "bootstrap",
    "case_randomization",
    "doh_method",
    "except",
    "expire",
    "failfast_all_unhealthy_upstreams",
    "failover",
    "force_tcp",
    "health_check",
    "hedge",
    "max_age",
    "max_concurrent",
    "max_connect_attempts",
    "max_fails",
    "max_idle_conns",
    "next",
    "next_on_nodata",
    "policy",
    "prefer_udp",
    "resolved_conf",
    "resolver",
    "source_port",
    "tls",
    "tls_servername",
];

/// How an upstream is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Policy {
    /// Any.
    #[default]
    Random,
    /// One after the other.
    RoundRobin,
    /// The first that answers, in the order in which they were written.
    Sequential,
    /// The one with the shortest round trip; now and then another, to see whether that has changed.
    Fastest,
}

/// One word behind FROM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// An address.
    Target(Target),
    /// A host name, whose addresses are followed.
    Named(NamedTarget),
    /// A file in the form of resolv.conf, which is followed.
    File(PathBuf),
}

/// `health_check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// From one probe of an upstream that is down to the next.
    pub interval: Duration,
    /// False with `no_rec`.
    pub recursion: bool,
    /// `domain`: whose NS records are asked for.
    pub domain: Name,
}

/// One `forward` line with its block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The names that are forwarded are those within these.
    pub from: Vec<Name>,
    /// ... but for these.
    pub except: Vec<Name>,
    /// To whom.
    pub to: Vec<To>,
    /// How they are spoken to.
    pub transport: TransportConfig,
    /// How one is chosen.
    pub policy: Policy,
    /// Failures in a row that make an upstream count as down; 0: it never does.
    pub max_fails: u32,
    /// Tries for one query; 0: the built-in bound.
    pub max_connect_attempts: usize,
    /// How upstreams in doubt are probed.
    pub health_check: HealthCheck,
    /// Queries in flight at most.
    pub max_concurrent: Option<usize>,
    /// Response codes for which the next `forward` is asked.
    pub next: Vec<Rcode>,
    /// Whether the next `forward` is asked for NODATA as well.
    pub next_on_nodata: bool,
    /// Response codes for which the next upstream is asked.
    pub failover: Vec<Rcode>,
    /// SERVFAIL at once while all upstreams are down.
    pub failfast: bool,
    /// Whether a second upstream is asked when the first is late.
    pub hedge: bool,
    /// The files of `tls`.
    pub tls: TlsFiles,
    /// Where systemd-resolved writes its real upstreams.
    pub resolved_conf: PathBuf,
    /// Who is asked for the addresses of names; empty: the servers of the node's resolv.conf.
    pub resolvers: Vec<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            from: vec![Name::root()],
            except: Vec::new(),
            to: Vec::new(),
            transport: TransportConfig::default(),
            policy: Policy::default(),
            max_fails: 2,
            max_connect_attempts: 0,
            health_check: HealthCheck {
                interval: Duration::from_millis(500),
                recursion: true,
                domain: Name::root(),
            },
            max_concurrent: None,
            next: Vec::new(),
            next_on_nodata: false,
            failover: Vec::new(),
            failfast: false,
            hedge: true,
            tls: TlsFiles::default(),
            resolved_conf: RESOLVED_CONF.into(),
            resolvers: Vec::new(),
        }
    }
}

impl Config {
    /// Reads `forward FROM TO... { ... }`.
    pub fn parse(directive: &Directive, diagnostics: &mut Diagnostics) -> Self {
        let mut config = Self::default();
        let mut args = Args::of(directive, diagnostics);
        if let Some(word) = args.peek().filter(|word| is_upstream(word.as_str())) {
            let text = word.as_str();
            args.error_at(
                &word.at,
                format!("the zone to forward is missing before {text:?}"),
                format!("forward . {text}"),
            );
            return config;
        }
        if let Some(from) =
            args.value("the zone to forward, as in `forward . 10.0.0.1`", zone_names)
        {
            config.from = from;
        }
        config.read_to(&mut args);
        let mut server_name = None;
        for option in directive.options() {
            let mut args = Args::of_option(directive, option, diagnostics);
            match option.name.as_str() {
                "tls_servername" => {
                    server_name = args.required("the name in the server's certificate").cloned()
                }
                _ => config.option(option, &mut args),
            }
            args.end();
        }
        config.name_servers(directive, server_name, diagnostics);
        // What could not be read may have been one.
        let are_read = config.to.len() + 1 == directive.args.len();
        if !config.resolvers.is_empty() && config.named().next().is_none() && are_read {
            Args::of(directive, diagnostics).warning(
                "resolver has no effect: no upstream is a host name",
                "write an upstream by its name, or remove it",
            );
        }
        config
    }

    fn read_to(&mut self, args: &mut Args<'_, '_>) {
        const WANTED: &str = "an address as 10.0.0.1, [fd00::1]:53 or tls://9.9.9.9, a name as tls://dns.quad9.net, or a file as /etc/resolv.conf";
        if args.is_empty() {
            args.error("no upstream to forward to", WANTED);
        }
        if args.len() > MAX_TO {
            args.error("there are too many upstreams", format!("at most {MAX_TO}"));
        }
        for word in args.rest().iter().take(MAX_TO) {
            if word.is_placeholder() {
                continue;
            }
            if is_file(word.as_str()) {
                self.to.push(To::File(word.as_str().into()));
                continue;
            }
            match Written::parse(word.as_str()) {
                Ok(Written::Address(target)) => self.to.push(To::Target(target)),
                Ok(Written::Host(named)) => {
                    look_at(&named, word, args);
                    self.to.push(To::Named(named));
                }
                Err(error) => {
                    let wanted = match &error {
                        TargetError::Words(_) => "a variable for each address",
                        TargetError::Scheme(_) => "dns://, tls://, https:// or quic://",
                        TargetError::PortFirst(_) => "ADDRESS%NAME:PORT",
                        _ => WANTED,
                    };
                    args.error_at(&word.at, error.to_string(), wanted);
                }
            }
        }
    }

    fn name_servers(
        &mut self,
        directive: &Directive,
        name: Option<Token>,
        diagnostics: &mut Diagnostics,
    ) {
        let mut args = Args::of(directive, diagnostics);
        let mut unnamed = false;
        for to in &mut self.to {
            let (scheme, server_name, has_name) = match to {
                To::Target(target) => (target.scheme, &mut target.server_name, false),
                To::Named(named) => (named.scheme, &mut named.server_name, true),
                To::File(_) => continue,
            };
            if scheme == Scheme::Plain {
                continue;
            }
            if let Some(wrong) = server_name.as_ref().filter(|name| !is_server_name(name)) {
                let what = format!("{wrong:?} is no name that a certificate can have");
                args.error(what, "one as dns.quad9.net");
            }
            match (&server_name, &name) {
                (Some(_), Some(name)) => args.error_at(
                    &name.at,
                    "tls_servername stands beside an upstream that brings its own name",
                    "the one or the other",
                ),
                (None, Some(name)) => *server_name = Some(name.text.clone()),
                (None, None) => unnamed |= !has_name,
                (Some(_), None) => {}
            }
        }
        if let (Some(_), false, true) = (&name, self.needs_tls(), self.files().is_empty()) {
            args.warning(
                "tls_servername has no effect: no upstream is encrypted",
                "write upstreams as tls://ADDRESS, or remove it",
            );
        }
        if unnamed {
            args.warning(
                "an encrypted upstream has no server name: its certificate must be valid for its address",
                "add tls_servername, or a name as in tls://9.9.9.9%dns.quad9.net",
            );
        }
    }

    /// True where an upstream is encrypted.
    pub fn needs_tls(&self) -> bool {
        self.to.iter().any(|to| match to {
            To::Target(target) => target.scheme != Scheme::Plain,
            To::Named(named) => named.scheme != Scheme::Plain,
            To::File(_) => false,
        })
    }

    /// Upstreams by name.
    pub fn named(&self) -> impl Iterator<Item = &NamedTarget> {
        self.to.iter().filter_map(|to| if let To::Named(named) = to { Some(named) } else { None })
    }

    /// What is asked for the addresses of one.
    pub fn asked(&self, named: &NamedTarget) -> Asked {
        Asked { host: Arc::clone(&named.host), resolvers: self.resolvers.as_slice().into() }
    }

    /// The files that are followed.
    pub fn files(&self) -> Vec<PathBuf> {
        let file = |to: &To| if let To::File(path) = to { Some(path.clone()) } else { None };
        self.to.iter().filter_map(file).collect()
    }
}

/// Warns of words that are hardly meant as the names of servers.
fn look_at(named: &NamedTarget, word: &Token, args: &mut Args<'_, '_>) {
    if named.scheme != Scheme::Plain {
        return;
    }
    if OPTIONS.contains(&word.as_str()) || word.as_str() == "tls_servername" {
        args.error_at(
            &word.at,
            format!("the option {:?} is not in a block", word.as_str()),
            "it in braces",
        );
    } else if !named.host.contains('.') || named.host.ends_with(".conf") {
        args.warning(
            format!("{:?} is taken for the name of a server", word.as_str()),
            "write its whole name, or an address",
        );
    }
}

fn is_server_name(name: &str) -> bool {
    rustls::pki_types::ServerName::try_from(name).is_ok()
}

/// Whether the first word is no zone but an upstream: FROM was forgotten.
fn is_upstream(word: &str) -> bool {
    word.starts_with('/')
        || word.starts_with("./")
        || word.contains("://")
        || word.parse::<std::net::IpAddr>().is_ok()
        || word.parse::<std::net::SocketAddr>().is_ok()
}

/// CoreDNS takes whatever is no address and exists for a file; what looks like a path is one even before it exists.
fn is_file(word: &str) -> bool {
    if word.contains("://") || word.parse::<std::net::IpAddr>().is_ok() {
        return false;
    }
    word.starts_with(['/', '.']) || Path::new(word).is_file()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::SourcePort;

    fn parse(text: &str) -> (Config, String) {
        let (file, mut diagnostics) =
            crate::corefile::parse("Corefile", &format!(". {{\n{text}\n}}"), &|_| None);
        let config = Config::parse(&file.blocks[0].directives[0], &mut diagnostics);
        (config, diagnostics.to_string())
    }

    #[test]
    fn every_option_is_read() {
        let (config, said) = parse(
            "forward example.org 10.0.0.1 10.0.0.2:5353 tls://9.9.9.9%dns.quad9.net /etc/resolv.conf {
                except a.example.org b.example.org
                force_tcp
                prefer_udp
                expire 20s
                max_age 1m
                max_idle_conns 3
                max_fails 3
                max_connect_attempts 4
                tls ca.pem
                policy sequential
                health_check 1s no_rec domain example.org
                max_concurrent 1000
                next NXDOMAIN
                next_on_nodata
                failfast_all_unhealthy_upstreams
                failover SERVFAIL REFUSED
                hedge off
                source_port fresh
                case_randomization
                doh_method post
                resolved_conf /host/run/systemd/resolve/resolv.conf
            }",
        );
        assert_eq!(said, "");
        let quad9 = Target::parse("tls://9.9.9.9%dns.quad9.net").unwrap();
        assert_eq!(config.to[2..], [To::Target(quad9), To::File("/etc/resolv.conf".into())]);
        assert_eq!(config.except.len(), 2);
        let transport = TransportConfig {
            force_tcp: true,
            source_port: SourcePort::Fresh,
            random_case: true,
            expire: Duration::from_secs(20),
            max_age: Some(Duration::from_secs(60)),
            max_connections: 3,
        };
        assert_eq!(config.transport, transport);
        assert_eq!(
            (config.max_fails, config.max_connect_attempts, config.policy),
            (3, 4, Policy::Sequential)
        );
        assert_eq!((config.failover.len(), config.next.as_slice()), (2, &[Rcode::NXDOMAIN][..]));
        assert!(
            !config.hedge
                && config.failfast
                && config.next_on_nodata
                && !config.health_check.recursion
        );
        assert_eq!(
            (config.max_concurrent, config.health_check.domain.to_string()),
            (Some(1000), "example.org.".into())
        );
    }

    #[test]
    fn the_usual_lines_are_read() {
        let (config, said) = parse("forward . /etc/resolv.conf {\n max_concurrent 1000\n}");
        assert_eq!((said.as_str(), config.files().len(), config.max_fails), ("", 1, 2));
        let (config, said) =
            parse("forward . tls://1.1.1.1 tls://1.0.0.1 {\n tls_servername one.example\n}");
        assert_eq!(said, "");
        let To::Target(target) = &config.to[1] else { panic!() };
        assert_eq!(target.server_name.as_deref(), Some("one.example"));
    }

    #[test]
    fn every_mistake_is_named() {
        let (_, said) = parse(
            "forward . 10.0.0.256 tls://dns..net grpc://1.1.1.1 {
                max_fail 2
                max_fails x
                policy best
                expire 5
                failover NOERROR NXDOMAN
                next
                health_check 1s sometimes
                resolver 1.1.1.300
                doh_method GET
                except
            }",
        );
        for part in [
            "\"10.0.0.256\" is no address, no host name and no file",
            "\"dns..net\" is no address, no host name and no file",
            "no scheme \"grpc\"",
            "max_fails",
            "no policy \"best\"",
            "has no unit",
            "NOERROR is no failure",
            "\"NXDOMAN\"",
            "no response code follows",
            "no argument \"sometimes\"",
            "resolver: \"1.1.1.300\" is no address of a server",
            "asked by POST only",
            "except: no zone follows",
        ] {
            assert!(said.contains(part), "{part}:\n{said}");
        }
        assert!(parse("forward .").1.contains("no upstream to forward to"));
        assert!(parse("forward").1.contains("argument is missing"));
        for word in ["192.0.2.1", "192.0.2.1:53", "tls://192.0.2.1", "/etc/resolv.conf"] {
            let (_, said) = parse(&format!("forward {word} 192.0.2.2"));
            assert!(said.contains("the zone to forward is missing"), "{said}");
            assert!(said.ends_with(&format!("expected forward . {word}\n")), "{said}");
        }
        let (config, said) = parse(
            "forward . tls://dns.quad9.net Dns.Example.:5353 {\n resolver 10.0.0.1 10.0.0.2:54\n bootstrap [fd00::1]:53\n}",
        );
        assert_eq!((said.as_str(), config.named().count(), config.resolvers.len()), ("", 2, 3));
        assert!(config.needs_tls());
        for (line, wanted) in [
            ("forward . 10.0.0.1 force_tcp", "the option \"force_tcp\" is not in a block"),
            ("forward . 10.0.0.1 resolvconf", "warning: forward: \"resolvconf\" is taken for"),
            ("forward . tls://dns.quad9.net%a..b", "\"a..b\" is no name that a certificate"),
            ("forward . dns.a {\n resolver 0.0.0.0\n}", "\"0.0.0.0\" is no address of a server"),
            ("forward . dns.a {\n resolver fe80::1%lo\n}", "is no address of a server"),
        ] {
            let (_, said) = parse(line);
            assert!(said.contains(wanted), "{line}: {said}");
        }
        let (_, said) = parse("forward . 10.0.0.1 {\n resolver 10.0.0.2\n}");
        assert!(said.contains("resolver has no effect"), "{said}");
        let (_, said) = parse("forward . tls://9.9.9.9%a.b {\n tls_servername c.d\n}");
        assert!(said.contains("the one or the other"), "{said}");
        assert!(parse("forward . tls://9.9.9.9").1.contains("warning"));
    }
}
