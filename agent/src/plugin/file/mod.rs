//! `file`: zones from zone files, answered with authority.
//!
//! A file that is missing or wrong keeps nothing from starting: its zone is answered with SERVFAIL and the file is tried
//! again. A zone that was good once is served until a better one is there.

mod answer;
mod zone;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use answer::{Written, write};
use zone::Found;
pub use zone::{LineError, Zone, ZoneError};

use crate::chain::{Handler, Local, Next};
use crate::config::{Args, value};
use crate::corefile::{Diagnostics, Directive};
use crate::file_watch::{FileVersions, FileWatch};
use crate::plugin::directive::{BuildContext, BuildHandler, ReadContext, ReadDirective};
use crate::plugin::lookup::follow;
use crate::plugin::scope::{Fallthrough, covers};
use crate::request::Resolving;
use crate::request::{Answer, Outcome, OwnedRequest, Plugin, Request, Step, ede};
use crate::wire::{Class, Name, NameRef, Rcode, Reply};

/// How often a file is looked at, as in CoreDNS.
const RELOAD: Duration = Duration::from_secs(60);
/// How often a file is looked at that could not be read, where `reload` is off.
const RETRY: Duration = Duration::from_secs(60);

/// One `file` directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    path: PathBuf,
    zones: Vec<Name>,
    /// `None`: never, once it has been read.
    reload: Option<Duration>,
    fallthrough: Fallthrough,
}

/// All `file` directives of a server block.
#[derive(Debug)]
pub struct File {
    // Longest zone first.
    sources: Vec<Source>,
}

/// One zone and where it comes from.
#[derive(Debug)]
struct Source {
    origin: Name,
    path: PathBuf,
    reload: Option<Duration>,
    fallthrough: Fallthrough,
    zone: ArcSwapOption<Zone>,
    /// The files that were read last, good or not; none before the first time.
    seen: Mutex<FileVersions>,
}

impl Config {
    /// Reads one directive; `zones` are the server block's, `root` is where relative paths begin.
    pub fn parse(
        directive: &Directive,
        zones: &[Name],
        root: &Path,
        diagnostics: &mut Diagnostics,
    ) -> Self {
        let mut args = Args::of(directive, diagnostics);
        let path =
            args.required("a zone file").map_or_else(PathBuf::new, |word| root.join(word.as_str()));
        let zones = args.zones_or(zones);
        args.end();
        let mut config =
            Self { path, zones, reload: Some(RELOAD), fallthrough: Fallthrough::Never };
        for option in directive.options() {
            let mut args = Args::of_option(directive, option, diagnostics);
            match option.name.as_str() {
                "reload" => {
                    let found = args.value("a duration, or 0 for never", value::duration);
                    config.reload = found.map_or(config.reload, |every| {
                        (!every.is_zero()).then_some(every.max(Duration::from_secs(1)))
                    });
                }
                // What changes is read whatever the time of its last change says.
                "reload_by_mtime" => {}
                "fallthrough" => config.fallthrough = Fallthrough::parse(&mut args),
                // Without effect in CoreDNS since 1.7.
                "upstream" => {
                    args.rest();
                }
                "transfer" => {
                    args.refuse("zone transfers are not supported by Nodens", "remove the line");
                    args.rest();
                }
                _ => args.unknown_option(&["reload", "fallthrough"]),
            }
            args.end();
        }
        config
    }

    /// The zone file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        Self::parse(directive, cx.zones, cx.root, cx.diagnostics)
    }

    fn zones(&self) -> Vec<&Name> {
        self.zones.iter().collect()
    }

    fn ends(&self, zone: &Name) -> bool {
        self.fallthrough == Fallthrough::Never && covers(&self.zones, zone)
    }
}

impl BuildHandler for Config {
    fn build(lines: Vec<Self>, cx: &mut BuildContext<'_>) -> anyhow::Result<()> {
        let file = Arc::new(File::new(&lines));
        // Ends with the handler.
        tokio::spawn(File::follow(Arc::downgrade(&file)));
        cx.built.handlers.push(file);
        Ok(())
    }
}

impl File {
    /// A handler for these directives. Reads the files; of two for one zone the last one holds, as in CoreDNS.
    pub fn new(configs: &[Config]) -> Self {
        let mut sources: Vec<Source> = Vec::new();
        for config in configs {
            for origin in &config.zones {
                sources.retain(|source| source.origin != *origin);
                sources.push(Source {
                    origin: origin.clone(),
                    path: config.path.clone(),
                    reload: config.reload,
                    fallthrough: config.fallthrough.clone(),
                    zone: ArcSwapOption::empty(),
                    seen: Mutex::default(),
                });
            }
        }
        sources.sort_by_key(|source| std::cmp::Reverse(source.origin.as_ref().label_count()));
        sources.iter().for_each(Source::refresh);
        Self { sources }
    }

    /// Follows the files until the handler is gone. One task for the handler, on any runtime with time and I/O.
    pub async fn follow(this: Weak<Self>) {
        let mut watch: Option<FileWatch> = None;
        loop {
            let Some(strong) = this.upgrade() else { return };
            let Some(every) = strong.sources.iter().filter_map(Source::interval).min() else {
                return;
            };
            let paths = strong.paths();
            let watch = watch.get_or_insert_with(|| FileWatch::new([], every));
            watch.follow(paths.iter().cloned());
            let refreshed = tokio::task::spawn_blocking(move || {
                let followed = strong.sources.iter().filter(|source| source.interval().is_some());
                followed.for_each(Source::refresh);
                strong.paths() == paths
            });
            match refreshed.await {
                Ok(true) => watch.due().await,
                // What it includes now is not watched yet.
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(%error, "changes of zone files are no longer noticed");
                    return;
                }
            }
        }
    }

    /// The zone files and all that they include.
    fn paths(&self) -> Vec<PathBuf> {
        let of = |source: &Source| {
            let seen = source.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let seen: Vec<_> = seen.paths().map(Path::to_path_buf).collect();
            seen
        };
        self.sources.iter().flat_map(of).collect()
    }

    /// Looks at the files once, now.
    pub fn refresh(&self) {
        self.sources.iter().for_each(Source::refresh);
    }

    fn source(&self, name: NameRef<'_>) -> Option<&Source> {
        self.sources.iter().find(|source| name.is_within(source.origin.as_ref()))
    }
}

impl Source {
    fn interval(&self) -> Option<Duration> {
        self.reload.or_else(|| self.zone.load().is_none().then_some(RETRY))
    }

    /// Reads the file if it, or one that it includes, has changed since it was read last.
    fn refresh(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let first = seen.paths().next().is_none();
        if !first && !seen.has_changed() {
            return;
        }
        *seen = FileVersions::default();
        let (path, zone) = (self.path.display(), &self.origin);
        match Zone::load(&self.path, zone, &mut seen) {
            Ok(read) => {
                if read.left_out > 0 {
                    tracing::warn!(%path, %zone, records = read.left_out, "records of DNSSEC, of other classes or outside the zone are left out");
                }
                let before = self.zone.load().as_ref().map(|zone| zone.serial());
                if before == Some(read.serial()) {
                    tracing::warn!(%path, %zone, serial = read.serial(), "the zone file has changed, its serial number has not");
                }
                tracing::info!(%path, %zone, serial = read.serial(), "zone read");
                self.zone.store(Some(Arc::new(read)));
            }
            Err(error) if self.zone.load().is_some() => {
                tracing::warn!(%zone, %error, "the zone file is invalid; the previous version is still served");
            }
            Err(error) => {
                let again = self.reload.unwrap_or(RETRY);
                tracing::warn!(%zone, %error, ?again, "the zone file is invalid; it is read again");
            }
        }
    }
}

impl Handler for File {
    fn plugin(&self) -> Plugin {
        Plugin::File
    }

    fn serve(&self, request: &Request<'_>, reply: &mut Reply<'_>, _: &mut Local) -> Step {
        let query = &request.query;
        let Some(source) = self.source(query.name()) else { return Step::Next };
        let zone = source.zone.load();
        let Some(zone) = zone.as_deref() else {
            reply.set_rcode(Rcode::SERVFAIL);
            reply.extended_error(ede::NOT_READY, "the zone file could not be read");
            return Step::Done(Outcome::new(Plugin::File, Rcode::SERVFAIL));
        };
        if !matches!(query.qclass(), Class::IN | Class::ANY) {
            return Step::Next;
        }
        if source.fallthrough.passes(query.name())
            && matches!(zone.find(query.name(), query.qtype()), Found::Nothing)
        {
            return Step::Next;
        }
        match write(zone, query.name(), query.qtype(), reply) {
            Written::Done(rcode) => Step::Done(Outcome::new(Plugin::File, rcode)),
            Written::Outside(_) => {
                reply.reset();
                Step::Wait
            }
        }
    }

    fn resolve<'a>(&'a self, request: &'a OwnedRequest, next: Next<'a>) -> Resolving<'a> {
        Box::pin(async move {
            let Ok(view) = request.view() else { return Answer::unreadable() };
            let zone = self.source(view.query.name()).and_then(|source| source.zone.load_full());
            let Some(zone) = zone else { return next.resolve(request).await };
            let answer = Answer::written(&view, |reply| {
                let (Written::Done(rcode) | Written::Outside(rcode)) =
                    write(&zone, view.query.name(), view.query.qtype(), reply);
                Outcome::new(Plugin::File, rcode)
            });
            follow(request, &view, answer).await
        })
    }
}

#[cfg(test)]
mod tests;
