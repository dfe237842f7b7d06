//! Who is to be asked: what is written, and what the files say now.

use super::config::{Config, To};
use crate::corefile::{Diagnostic, Diagnostics, Directive};
use crate::upstream::follow::{self, Reading};
use crate::upstream::own::is_nowhere;
use crate::upstream::{OwnAddresses, Target};

const CURE: &str = "name an address in the forward line, or a resolv.conf that has servers other than this one \
    (on a node with systemd-resolved: /run/systemd/resolve/resolv.conf)";

/// The upstreams of a forward, each once, and what there is to say about them.
pub fn of(config: &Config, own: &OwnAddresses) -> (Vec<Target>, Reading) {
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
    let (targets, reading) = of(config, own);
    // Without any upstream written the mistake is another, and has been told.
    if !targets.is_empty() || config.to.is_empty() {
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
