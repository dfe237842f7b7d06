//! With which configuration a start begins: that of the file; after a crash the one that ran.
//!
//! A file that has errors, or that a reload would hold back, does no harm to a server that runs. So it must do none to one that
//! crashes: the supervisor keeps the configuration that runs, and the file is read by a reload with all its checks, as soon as
//! queries are answered. A hand-over and a first start read the file.

use std::net::IpAddr;
use std::os::fd::AsFd as _;

use serde_json::{Value, json};

use crate::args::Serve;
use crate::corefile::{Diagnostics, File};
use crate::handover::{Inherited, Keeper as _, memory};
use crate::node::{self, Origin};
use crate::plan::{Machine, Plan};
use crate::plugin::reload;
use crate::supervisor::Link;

/// The item's name. Its content is JSON: version, `tries`, and [`File::to_json`].
const NAME: &str = "configuration";
const VERSION: u64 = 1;
/// After so many starts with the kept configuration that ended before the file was read, every other start uses the file: the
/// configuration itself may be what ends them.
const TRIES: u64 = 5;

/// What the supervisor keeps.
struct Kept {
    file: File,
    /// Starts with it that have not come as far as a reload.
    tries: u64,
}

impl Kept {
    fn take(inherited: &Inherited) -> Option<Self> {
        let bytes = inherited.take_memory(NAME)?;
        let value: Value = serde_json::from_slice(&bytes).ok()?;
        let is_known = value.get("version").and_then(Value::as_u64) == Some(VERSION);
        let file = is_known.then(|| File::from_json(&value)).flatten()?;
        Some(Self { file, tries: value.get("tries").and_then(Value::as_u64).unwrap_or(0) })
    }
}

/// True if a start is to use the file, so that a configuration that ends every start is left.
fn is_doubtful(tries: u64) -> bool {
    tries >= TRIES && tries % 2 == TRIES % 2
}

/// Has the supervisor keep a configuration that runs.
pub(super) fn keep(link: &Link, file: &File, tries: u64) {
    let mut value = file.to_json();
    if let Some(fields) = value.as_object_mut() {
        fields.insert("version".to_owned(), json!(VERSION));
        fields.insert("tries".to_owned(), json!(tries));
    }
    match memory::write(NAME, |to| to.write_all(value.to_string().as_bytes())) {
        Ok(memory) => link.keep(NAME, memory.as_fd()),
        Err(error) => {
            tracing::warn!(%error, "after a crash the Corefile is read as at a first start");
        }
    }
}

/// Reads the configuration as it is now.
pub(super) fn load(args: &Serve, origin: &Origin) -> Plan {
    let (file, diagnostics) = origin.load();
    plan(args, file, diagnostics, &[])
}

/// Checks a configuration for this machine. Addresses of which there are sockets may be missing on it at the moment.
fn plan(args: &Serve, file: File, diagnostics: Diagnostics, sockets: &[IpAddr]) -> Plan {
    plan_of(args, file, diagnostics, sockets, false)
}

/// `has_run`: it is one that ran here before.
fn plan_of(
    args: &Serve,
    file: File,
    diagnostics: Diagnostics,
    sockets: &[IpAddr],
    has_run: bool,
) -> Plan {
    let machine = node::machine(&args.node, true);
    let addresses = [machine.addresses, sockets].concat();
    let machine = Machine { addresses: &addresses, has_run, ..machine };
    Plan::new(file, diagnostics, args.dns_port, &machine)
}

/// With what the start begins; the second is the kept configuration if that is it, and the file is still to be read.
pub(super) fn choose(
    args: &Serve,
    origin: &Origin,
    inherited: &Inherited,
    link: Option<&Link>,
) -> (Plan, Option<File>) {
    let sockets = inherited.addresses();
    let (file, diagnostics) = origin.load();
    let on_disk = plan(args, file, diagnostics, &sockets);
    let is_broken = on_disk.diagnostics.has_errors();
    let kept = Kept::take(inherited);
    let (Some(link), Some(Kept { file, tries })) = (link, kept) else { return (on_disk, None) };
    if !is_broken && reload::hash(&file) == on_disk.hash() {
        return (on_disk, None);
    }
    let as_it_ran = plan_of(args, file.clone(), Diagnostics::default(), &sockets, true);
    let path = origin.path().display();
    if as_it_ran.diagnostics.has_errors() {
        let why = as_it_ran.diagnostics.summary();
        tracing::warn!("the configuration that ran before cannot be used, {path} is read: {why}");
        return (on_disk, None);
    }
    keep(link, &file, tries.saturating_add(1));
    if !is_broken && is_doubtful(tries) {
        tracing::warn!(
            "the configuration that ran before has not served {tries} times; {path} is used"
        );
        return (on_disk, None);
    }
    let why = match is_broken {
        true => format!("it has {}", on_disk.diagnostics.summary()),
        false => "it has changed, and is checked as in a reload once this one serves".to_owned(),
    };
    tracing::warn!("{path} is not used but the configuration that ran before: {why}");
    (as_it_ran, Some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_ends_every_start_is_left_for_the_file() {
        let doubtful: Vec<u64> = (0..10).filter(|tries| is_doubtful(*tries)).collect();
        assert_eq!(doubtful, [5, 7, 9]);
    }

    #[test]
    fn a_format_that_is_not_known_is_not_used() {
        let take = |content: &str| {
            let inherited = Inherited::default();
            let memory = memory::write(NAME, |to| to.write_all(content.as_bytes())).unwrap();
            inherited.add(NAME.to_owned(), memory);
            Kept::take(&inherited).map(|kept| (kept.file.to_string(), kept.tries))
        };
        let block = r#"{"at":"x:1","zones":["."],"directives":[]}"#;
        let text = format!(r#"{{"version":1,"tries":3,"serverBlocks":[{block}]}}"#);
        assert_eq!(take(&text), Some((". {\n}\n".to_owned(), 3)));
        for bad in ["", "{", "{}", &text.replace(":1,\"tries", ":2,\"tries"), r#"{"version":1}"#] {
            assert_eq!(take(bad), None, "{bad}");
        }
    }
}
