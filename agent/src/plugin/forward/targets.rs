//! Who is to be asked: what is written, and what the files say now.

use super::config::{Config, To};
use crate::corefile::{Diagnostic, Diagnostics, Directive};
use crate::upstream::follow::{self, Reading};
use crate::upstream::names::Names;
use crate::upstream::own::is_nowhere;
use crate::upstream::{OwnAddresses, Target};

const CURE: &str = "name an address in the forward line, or a resolv.conf that has servers other than this one \
    (on a node with systemd-resolved: /run/systemd/resolve/resolv.conf)";

/// What is said of a name that brought no address.
const UNRESOLVED: &str = "cannot be resolved";

/// The upstreams of a forward, each once, and what there is to say about them. `names`: what is known of host names; without it
/// they are left out.
pub fn of(config: &Config, own: &OwnAddresses, names: Option<&Names>) -> (Vec<Target>, Reading) {
    let mut targets: Vec<Target> = Vec::new();
    let mut all = Reading::default();
    for to in &config.to {
        match to {
            To::Target(target) if is_nowhere(target.address.ip()) => {
                all.notes.push(format!("{target} cannot be an upstream address: ignored"));
            }
            To::Target(target) if own.contains(target.address) => {
                all.notes.push(format!(
                    "{target} is an address this server listens on and would forward to itself: ignored"
                ));
            }
            To::Target(target) => push_once(&mut targets, target.clone()),
            To::Named(named) => {
                let Some(names) = names else { continue };
                let known = names.get(&config.asked(named));
                let of_name = known.iter().flat_map(|known| known.addresses.iter());
                for target in of_name.map(|ip| named.at(*ip)) {
                    if is_nowhere(target.address.ip()) || own.contains(target.address) {
                        let address = target.address;
                        all.notes.push(format!("{named} has the address {address}, which cannot be an upstream: ignored"));
                    } else {
                        push_once(&mut targets, target);
                    }
                }
                if let Some(error) = known.as_ref().and_then(|known| known.error.as_deref()) {
                    let has_any = known.as_ref().is_some_and(|known| !known.addresses.is_empty());
                    let kept = if has_any { "; its addresses of before are used" } else { "" };
                    all.notes.push(format!("{named} {UNRESOLVED}: {error}{kept}"));
                } else if known.is_none() {
                    all.waiting = true;
                }
            }
            To::File(path) => {
                let files = [path.clone()];
                let reading = follow::read(&files, &config.resolved_conf, own);
                reading
                    .servers
                    .into_iter()
                    .for_each(|server| push_once(&mut targets, Target::plain(server)));
                all.notes.extend(reading.notes);
                all.files.extend(reading.files);
            }
        }
    }
    (targets, all)
}

/// Says where a forward would have nobody to ask. With addresses alone it is an error: nothing but another file changes it.
/// Where files name upstreams it is no reason not to start, since they may change: a warning, for `nodens check`.
pub fn check(
    config: &Config,
    directive: &Directive,
    own: &OwnAddresses,
    diagnostics: &mut Diagnostics,
) {
    for resolver in config.resolvers.iter().filter(|resolver| own.contains(**resolver)) {
        let what = format!("resolver {resolver} is an address that this server listens on");
        let help = "name a server that answers before this one does";
        let made = Diagnostic::error(directive.at().clone(), what).help(help);
        diagnostics.push(made.directive(directive.name.as_str()));
    }
    let (targets, reading) = of(config, own, None);
    // Without any upstream written the mistake is another, and has been told. What names have is not known yet.
    if !targets.is_empty() || config.to.is_empty() || config.named().next().is_some() {
        return;
    }
    let at = directive.at().clone();
    let what = match reading.notes.is_empty() {
        true => "there is no upstream".to_owned(),
        false => format!("there is no upstream: {}", reading.notes.join("; ")),
    };
    let made = match config.files().is_empty() {
        true => Diagnostic::error(at, what),
        false => Diagnostic::warning(at, what),
    };
    diagnostics.push(made.directive(directive.name.as_str()).help(CURE));
}

/// Why there is no upstream, and what to do.
pub(super) fn problem(reading: &Reading) -> String {
    let files: Vec<String> = reading.files.iter().map(|file| file.display().to_string()).collect();
    match (files.is_empty(), reading.notes.last()) {
        (_, Some(note)) if note.contains(UNRESOLVED) => {
            format!("{note}; name another server with `resolver`, or an address")
        }
        (_, None) if reading.waiting => "the names of upstreams are not resolved yet".to_owned(),
        (_, Some(note)) => format!("{note}; {CURE}"),
        (false, None) => format!("{} names none; {CURE}", files.join(", ")),
        (true, None) => CURE.to_owned(),
    }
}

fn push_once(targets: &mut Vec<Target>, target: Target) {
    if !targets.contains(&target) {
        targets.push(target);
    }
}
