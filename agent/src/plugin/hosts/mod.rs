//! `hosts [FILE [ZONES...]] { INLINE; ttl SECONDS; no_reverse; reload DURATION; fallthrough [ZONES...] }`: names from a file
//! like /etc/hosts and from the Corefile.
//!
//! As in CoreDNS: a name that has only addresses of the other family is answered without records, and one that is not there
//! is passed on where `fallthrough` says so, else answered with SERVFAIL, since a hosts file has no SOA to deny with. An
//! address without names is always passed on.

mod directive;
mod explain;
mod source;
mod table;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;

use self::source::read_if_changed;
use self::table::{Builder, Table};
use crate::chain::{Handler, Local};
use crate::config::{Args, ServerBlock};
use crate::corefile::{Diagnostics, Directive};
use crate::file_watch::{FileVersion, FileWatch};
use crate::metrics::{Scrape, Source, names};
use crate::plugin::scope::Fallthrough;
use crate::request::{Outcome, Plugin, Request, Step};
use crate::trace::Notes;
use crate::wire::{Name, NameRef, Owner, Rcode, RecordType, Reply, Section, flags};

/// The file that is read where none is written.
const DEFAULT_FILE: &str = "/etc/hosts";
/// Seconds, as in CoreDNS.
const DEFAULT_TTL: u32 = 3_600;
/// As in CoreDNS.
const DEFAULT_RELOAD: Duration = Duration::from_secs(5);

/// What a `hosts` line means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    file: PathBuf,
    /// Names outside of them are not served.
    zones: Vec<Name>,
    /// The lines that stand in the Corefile.
    inline: String,
    ttl: u32,
    reverse: bool,
    /// Zero: the file is read once.
    reload: Duration,
    /// Whether a name that is not there is passed on.
    fallthrough: Fallthrough,
    /// Whether other types than addresses of a name that is there are passed on as well.
    passes_types: bool,
}

impl Config {
    /// Reads the directive of `block`. A file that is missing may come later and is no mistake.
    pub fn parse(
        directive: &Directive,
        block: &ServerBlock,
        diagnostics: &mut Diagnostics,
    ) -> Self {
        let mut args = Args::of(directive, diagnostics);
        let file = args.next().map_or(DEFAULT_FILE, |word| word.as_str()).into();
        let mut config = Self {
            file,
            zones: args.zones_or(&block.zone_names()),
            inline: String::new(),
            ttl: DEFAULT_TTL,
            reverse: true,
            reload: DEFAULT_RELOAD,
            fallthrough: Fallthrough::Never,
            passes_types: false,
        };
        args.end();
        for option in directive.options() {
            config.option(option, Args::of_option(directive, option, diagnostics));
        }
        if config.passes_types && config.fallthrough == Fallthrough::Never {
            Args::of(directive, diagnostics).error(
                "fallthrough_unsupported stands without fallthrough",
                "fallthrough beside it, whose zones are meant",
            );
        }
        config
    }

    /// The file that is followed.
    pub fn file(&self) -> &Path {
        &self.file
    }

    fn option(&mut self, option: &Directive, mut args: Args<'_, '_>) {
        match option.name.as_str() {
            "ttl" => self.ttl = args.integer("seconds", 1..=65_535).unwrap_or(self.ttl),
            "no_reverse" => self.reverse = false,
            "reload" => {
                self.reload =
                    args.duration("a duration, as 5s; 0s for never").unwrap_or(self.reload);
            }
            "fallthrough" => self.fallthrough = Fallthrough::parse(&mut args),
            "fallthrough_unsupported" => self.passes_types = true,
            line => {
                if table::address(line).is_none() {
                    args.warning(
                        "neither an address nor an option: the line is ignored",
                        "write ADDRESS NAME..., ttl, no_reverse, reload or fallthrough",
                    );
                } else if args.is_empty() {
                    args.warning("the address has no name", "write ADDRESS NAME...");
                }
                self.inline.push_str(line);
                for word in args.rest() {
                    self.inline.push(' ');
                    self.inline.push_str(word.as_str());
                }
                self.inline.push('\n');
            }
        }
        args.end();
    }

    /// The handler, with the file read; `rotate` makes addresses go round (`loadbalance`). A task on `runtime` follows the
    /// file for as long as the handler lives.
    pub fn build(self, rotate: bool, runtime: &Handle) -> Arc<Hosts> {
        let period = self.reload;
        let path = self.file.clone();
        let hosts = Arc::new(Hosts::new(self, rotate));
        hosts.refresh();
        if !period.is_zero() {
            let hosts = Arc::downgrade(&hosts);
            runtime.spawn(async move {
                let mut watch = FileWatch::new([path], period);
                loop {
                    let Some(strong) = hosts.upgrade() else { return };
                    // Big files take their time. An error here is a panic there, which has been reported.
                    let _ = tokio::task::spawn_blocking(move || strong.refresh()).await;
                    watch.due().await;
                }
            });
        }
        hosts
    }
}

/// Serves the names of a hosts file.
pub struct Hosts {
    config: Config,
    rotate: bool,
    table: ArcSwap<Table>,
    file: Mutex<FileState>,
}

#[derive(Default)]
struct FileState {
    version: Option<FileVersion>,
    /// The error was logged; it is not said again every five seconds.
    failed: bool,
    /// Seconds since 1970.
    read_at: f64,
}

impl Hosts {
    fn new(config: Config, rotate: bool) -> Self {
        let mut builder = Builder::new(&config.zones, config.ttl, config.reverse);
        builder.add(&config.inline);
        let table = ArcSwap::from_pointee(builder.finish());
        Self { config, rotate, table, file: Mutex::default() }
    }

    /// Reads the file if it has changed. What cannot be read leaves everything as it was.
    fn refresh(&self) {
        let path = &self.config.file;
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let (text, version) = match read_if_changed(path, file.version) {
            Ok(Some(read)) => read,
            Ok(None) => return,
            Err(error) => {
                if !file.failed {
                    tracing::warn!(
                        target: "hosts",
                        "cannot read {}, looking again every {:?}: {error}", path.display(), self.config.reload,
                    );
                }
                file.failed = true;
                return;
            }
        };
        let mut builder = Builder::new(&self.config.zones, self.config.ttl, self.config.reverse);
        if let Some((line, why)) = builder.add(&text) {
            tracing::warn!(target: "hosts", "{}:{line} and perhaps others are ignored: {why}", path.display());
        }
        builder.add(&self.config.inline);
        let table = builder.finish();
        tracing::debug!(target: "hosts", "{} has {} entries", path.display(), table.entries);
        self.table.store(Arc::new(table));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        *file = FileState { version: Some(version), failed: false, read_at: now.as_secs_f64() };
    }

    fn serve_pointer(&self, asked: NameRef<'_>, reply: &mut Reply<'_>) -> Step {
        let table = self.table.load();
        let Some(names) = table.names_of(asked) else { return Step::Next };
        reply.set_flags(flags::AA, true);
        let ttl = self.config.ttl;
        for name in names {
            if !reply.record(
                Section::Answer,
                Owner::Question,
                RecordType::PTR,
                ttl,
                name.as_bytes(),
            ) {
                break;
            }
        }
        Step::Done(Outcome::new(Plugin::Hosts, Rcode::NOERROR))
    }
}

impl Handler for Hosts {
    fn plugin(&self) -> Plugin {
        Plugin::Hosts
    }

    fn serve(&self, request: &Request<'_>, reply: &mut Reply<'_>, local: &mut Local) -> Step {
        let (asked, qtype) = (request.query.name(), request.query.qtype());
        // Reverse zones need not be written.
        if qtype == RecordType::PTR {
            return self.serve_pointer(asked, reply);
        }
        if !self.config.zones.iter().any(|zone| asked.is_within(zone.as_ref())) {
            return Step::Next;
        }
        let table = self.table.load();
        let Some(addresses) = table.addresses_of(asked) else {
            if self.config.fallthrough.passes(asked) {
                return Step::Next;
            }
            reply.set_rcode(Rcode::SERVFAIL);
            return Step::Done(Outcome::new(Plugin::Hosts, Rcode::SERVFAIL));
        };
        let is_address = matches!(qtype, RecordType::A | RecordType::AAAA);
        if !is_address && self.config.passes_types && self.config.fallthrough.passes(asked) {
            return Step::Next;
        }
        reply.set_flags(flags::AA, true);
        let records = match qtype {
            RecordType::A => Some((table::A_LEN, &addresses.v4)),
            RecordType::AAAA => Some((table::AAAA_LEN, &addresses.v6)),
            _ => None,
        };
        if let Some((stride, records)) = records {
            let first = if self.rotate { local.rotate() } else { 0 };
            reply.records_from(Section::Answer, stride, records, first);
        }
        Step::Done(Outcome::new(Plugin::Hosts, Rcode::NOERROR))
    }

    fn explain(&self, request: &Request<'_>, step: Step, notes: &mut Notes) {
        self.notes_on(request, step, notes);
    }
}

impl Source for Hosts {
    fn collect(&self, out: &mut Scrape) {
        out.gauge(&names::HOSTS_ENTRIES, &[], self.table.load().entries as f64);
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        out.gauge_greatest(&names::HOSTS_RELOAD_TIMESTAMP, &[], file.read_at);
    }
}

#[cfg(test)]
mod tests;
