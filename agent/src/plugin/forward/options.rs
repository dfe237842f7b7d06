//! The options in the block of a `forward` line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::config::{Config, OPTIONS, Policy};
use crate::config::{Args, ValueError, value};
use crate::corefile::Directive;
use crate::upstream::SourcePort;
use crate::upstream::address::{Scheme, Target};
use crate::upstream::own::is_nowhere;
use crate::upstream::tls::TlsFiles;
use crate::wire::{Name, Rcode};

/// The longest span of time that an option takes.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);

/// Servers that are asked for the names of upstreams.
const MAX_RESOLVERS: usize = 8;

impl Config {
    /// Reads one option of the block, but for `tls_servername`.
    pub(super) fn option(&mut self, option: &Directive, args: &mut Args<'_, '_>) {
        let spans = Duration::ZERO..=LONGEST;
        match option.name.as_str() {
            "except" => {
                if args.is_empty() {
                    args.error("no zone follows", "the zones that are not forwarded");
                }
                self.except.extend(args.zones_or(&[]));
            }
            "force_tcp" => self.transport.force_tcp = true,
            // What CoreDNS does with it is what we do anyway.
            "prefer_udp" => {}
            "expire" => set(&mut self.transport.expire, args.duration_in("a duration", spans)),
            "max_age" => {
                let age = args.duration_in("a duration", spans);
                self.transport.max_age = age.filter(|age| !age.is_zero());
            }
            "max_idle_conns" => {
                set(&mut self.transport.max_connections, args.integer("a number", 0..=1_000_000))
            }
            "max_fails" => set(&mut self.max_fails, args.integer("a number", 0..=1_000_000)),
            "max_connect_attempts" => {
                set(&mut self.max_connect_attempts, args.integer("a number", 0..=1_000_000));
            }
            "max_concurrent" => {
                let limit = args.integer("a number", 0..=100_000_000);
                self.max_concurrent = limit.filter(|&limit| limit > 0);
            }
            "failfast_all_unhealthy_upstreams" => self.failfast = true,
            "policy" => set(&mut self.policy, args.value("a policy", policy)),
            "health_check" => self.health_check(args),
            "next" => self.next.extend(rcodes(args, true)),
            "next_on_nodata" => self.next_on_nodata = true,
            "failover" => self.failover.extend(rcodes(args, false)),
            "hedge" => set(&mut self.hedge, args.value("on or off", value::on_off)),
            "case_randomization" => {
                self.transport.random_case = args.optional(value::on_off).unwrap_or(true)
            }
            "source_port" => {
                set(&mut self.transport.source_port, args.value("pool or fresh", source_port))
            }
            "resolved_conf" => {
                if let Some(path) = args.required("the path of systemd-resolved's own resolv.conf")
                {
                    self.resolved_conf = path.as_str().into();
                }
            }
            "tls" => self.tls_files(args),
            // Ours is the method of both: POST, whose questions no proxy keeps.
            "doh_method" => {
                args.value("POST", doh_method);
            }
            // CoreDNS's word, and the field's.
            "resolver" | "bootstrap" => {
                if args.is_empty() {
                    args.error("no server follows", "the addresses that are asked for names");
                }
                for word in args.rest() {
                    self.resolvers.extend(args.read(word, resolver));
                }
                if self.resolvers.len() > MAX_RESOLVERS {
                    args.error("there are too many servers", format!("at most {MAX_RESOLVERS}"));
                    self.resolvers.truncate(MAX_RESOLVERS);
                }
            }
            _ => args.unknown_option(OPTIONS),
        }
    }

    fn health_check(&mut self, args: &mut Args<'_, '_>) {
        let range = Duration::from_millis(10)..=LONGEST;
        set(&mut self.health_check.interval, args.duration_in("a duration", range));
        while let Some(word) = args.next() {
            match word.as_str() {
                "no_rec" => self.health_check.recursion = false,
                "domain" => {
                    let name = args.value("a domain name", |text| {
                        Name::from_text(text).map_err(|error| {
                            ValueError::new(
                                format!("{text:?} is no name: {error}"),
                                "a domain name",
                            )
                        })
                    });
                    set(&mut self.health_check.domain, name);
                }
                other => {
                    let what = format!("there is no argument {other:?}");
                    args.error_at(&word.at, what, "no_rec, or domain with a name");
                }
            }
        }
    }

    fn tls_files(&mut self, args: &mut Args<'_, '_>) {
        let mut files: Vec<PathBuf> = Vec::new();
        while files.len() < 3
            && let Some(word) = args.next()
        {
            files.push(word.as_str().into());
        }
        self.tls = match files.as_slice() {
            [] => TlsFiles::default(),
            [ca] => TlsFiles { client: None, roots: Some(ca.clone()) },
            [certificate, key] => {
                TlsFiles { client: Some((certificate.clone(), key.clone())), roots: None }
            }
            [certificate, key, ca, ..] => TlsFiles {
                client: Some((certificate.clone(), key.clone())),
                roots: Some(ca.clone()),
            },
        };
    }
}

fn set<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}

fn policy(word: &str) -> Result<Policy, ValueError> {
    match word {
        "random" => Ok(Policy::Random),
        "round_robin" => Ok(Policy::RoundRobin),
        "sequential" => Ok(Policy::Sequential),
        "fastest" => Ok(Policy::Fastest),
        _ => Err(ValueError::new(
            format!("there is no policy {word:?}"),
            "random, round_robin, sequential or fastest",
        )),
    }
}

fn doh_method(word: &str) -> Result<(), ValueError> {
    match word.to_ascii_uppercase().as_str() {
        "POST" => Ok(()),
        "GET" => Err(ValueError::new(
            "https:// upstreams are asked by POST only",
            "POST, or remove the line",
        )),
        _ => Err(ValueError::new(format!("there is no method {word:?}"), "POST")),
    }
}

fn source_port(word: &str) -> Result<SourcePort, ValueError> {
    match word {
        "pool" => Ok(SourcePort::Pool),
        "fresh" => Ok(SourcePort::Fresh),
        _ => Err(ValueError::new(format!("{word:?} is no way to choose ports"), "pool or fresh")),
    }
}

fn rcodes(args: &mut Args<'_, '_>, noerror: bool) -> Vec<Rcode> {
    if args.is_empty() {
        args.error("no response code follows", "response codes as SERVFAIL or NXDOMAIN");
    }
    let mut codes = Vec::new();
    for word in args.rest() {
        match Rcode::from_name(word.as_str()) {
            Some(Rcode::NOERROR) if !noerror => {
                args.error_at(&word.at, "NOERROR is no failure", "a response code as SERVFAIL");
            }
            Some(code) => codes.push(code),
            None => {
                let what = format!("there is no response code {:?}", word.as_str());
                args.error_at(&word.at, what, "a name as SERVFAIL or NXDOMAIN");
            }
        }
    }
    codes
}

/// A server that is asked for names, over plain DNS: `IP[:PORT]`.
fn resolver(word: &str) -> Result<SocketAddr, ValueError> {
    let target = Target::parse(word).ok().filter(|target| target.scheme == Scheme::Plain);
    let address = target.map(|target| target.address);
    address.filter(|address| !is_nowhere(address.ip()) && !has_interface(address)).ok_or_else(
        || {
            ValueError::new(
                format!("{word:?} is no address of a server"),
                "one as 10.0.0.1 or [fd00::1]:53",
            )
        },
    )
}

/// Whether it is a link-local address with its interface.
pub(super) fn has_interface(address: &SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(address) if address.scope_id() != 0)
}
