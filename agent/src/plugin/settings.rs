//! The directives that only set something: `bufsize`, `nsid`, `chaos`, `root`, `debug` and `timeouts`.

use std::path::PathBuf;
use std::time::Duration;

use crate::chain::Identity;
use crate::config::{Args, ValueError, no_block, value};
use crate::corefile::{Diagnostics, Directive};
use crate::wire::{MAX_UDP_PAYLOAD, MIN_UDP_PAYLOAD, OUR_UDP_PAYLOAD};

/// The most that one character-string holds (RFC 1035 section 3.3), octets.
const MAX_TEXT: usize = 255;

/// How long a TCP client may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the rest of a message that has begun.
    pub read: Duration,
    /// For taking an answer.
    pub write: Duration,
    /// Between two messages.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        // CoreDNS's.
        Self {
            read: Duration::from_secs(3),
            write: Duration::from_secs(5),
            idle: Duration::from_secs(10),
        }
    }
}

/// `bufsize [SIZE]`: the most octets of a UDP reply, for `Chain::max_udp`.
pub fn bufsize(directive: &Directive, diagnostics: &mut Diagnostics) -> usize {
    no_block(directive, diagnostics);
    let mut args = Args::of(directive, diagnostics);
    let size = args.optional(|text| value::integer(text, MIN_UDP_PAYLOAD..=MAX_UDP_PAYLOAD));
    args.end();
    size.unwrap_or(OUR_UDP_PAYLOAD).into()
}

/// `nsid [DATA...]`: what a client gets that asks for the server's identity (RFC 5001), for `Chain::nsid`. The host's name
/// where nothing is written.
pub fn nsid(directive: &Directive, diagnostics: &mut Diagnostics) -> Box<[u8]> {
    no_block(directive, diagnostics);
    let mut args = Args::of(directive, diagnostics);
    let words: Vec<&str> = args.rest().iter().map(|word| word.as_str()).collect();
    let text = words.join(" ");
    if text.len() > MAX_TEXT {
        args.error("the identity is too long", format!("at most {MAX_TEXT} octets"));
    }
    if text.is_empty() {
        Identity::default().hostname.as_bytes().into()
    } else {
        text.as_bytes().into()
    }
}

/// `chaos [VERSION] [AUTHOR...]`: what class CHAOS is told, for `Chain::identity`.
pub fn chaos(directive: &Directive, diagnostics: &mut Diagnostics) -> Identity {
    no_block(directive, diagnostics);
    let mut args = Args::of(directive, diagnostics);
    let mut identity = Identity::default();
    let mut texts = args.rest().iter();
    if let Some(version) = texts.next() {
        identity.version = version.as_str().into();
    }
    identity.authors = texts.map(|author| author.as_str().into()).collect();
    if identity.authors.iter().chain([&identity.version]).any(|text| text.len() > MAX_TEXT) {
        args.error("a text is too long", format!("at most {MAX_TEXT} octets each"));
    }
    identity
}

/// `root PATH`: the folder where relative paths of other directives begin.
pub fn root(directive: &Directive, diagnostics: &mut Diagnostics) -> PathBuf {
    no_block(directive, diagnostics);
    let mut args = Args::of(directive, diagnostics);
    let path = args.required("a folder").map_or_else(PathBuf::new, |word| word.as_str().into());
    if !path.as_os_str().is_empty() && !path.is_dir() {
        args.warning(format!("there is no folder {}", path.display()), "a folder that exists");
    }
    args.end();
    path
}

/// `debug`: no arguments.
pub fn debug(directive: &Directive, diagnostics: &mut Diagnostics) {
    no_block(directive, diagnostics);
    Args::of(directive, diagnostics).end();
}

/// `timeouts { read|write|idle DURATION }`.
pub fn timeouts(directive: &Directive, diagnostics: &mut Diagnostics) -> Timeouts {
    let mut timeouts = Timeouts::default();
    Args::of(directive, diagnostics).end();
    for option in directive.options() {
        let mut args = Args::of_option(directive, option, diagnostics);
        let slot = match option.name.as_str() {
            "read" => &mut timeouts.read,
            "write" => &mut timeouts.write,
            "idle" => &mut timeouts.idle,
            _ => {
                args.unknown_option(&["read", "write", "idle"]);
                continue;
            }
        };
        *slot = args.value("a duration as 5s", seconds).unwrap_or(*slot);
        args.end();
    }
    if directive.options().is_empty() {
        Args::of(directive, diagnostics)
            .error("it has no options", "read, write or idle, in a block");
    }
    timeouts
}

/// A duration from a second to a day; a number alone is seconds, as in CoreDNS for this directive.
fn seconds(text: &str) -> Result<Duration, ValueError> {
    let range = Duration::from_secs(1)..=Duration::from_secs(86_400);
    match text.parse::<u32>() {
        Ok(number) => value::duration_in(&format!("{number}s"), range),
        Err(_) => value::duration_in(text, range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::testing::directive;

    fn read<T>(text: &str, parse: fn(&Directive, &mut Diagnostics) -> T) -> (T, usize) {
        let mut diagnostics = Diagnostics::default();
        let value = parse(&directive(text), &mut diagnostics);
        (value, diagnostics.iter().count())
    }

    #[test]
    fn values_and_their_defaults() {
        assert_eq!(read("bufsize", bufsize), (1232, 0));
        assert_eq!(read("bufsize 4096", bufsize), (4096, 0));
        assert_eq!(read("bufsize 400", bufsize).1, 1);
        assert_eq!(read("nsid a b", nsid), (b"a b"[..].into(), 0));
        assert!(!read("nsid", nsid).0.is_empty());
        assert_eq!(read(&format!("nsid {}", "x".repeat(256)), nsid).1, 1);
        let (identity, _) = read("chaos Nodens-x \"A <a@b>\" B", chaos);
        assert_eq!((&*identity.version, identity.authors.len()), ("Nodens-x", 2));
        assert_eq!(read("chaos", chaos).0, Identity::default());
        assert_eq!(read("root /", root), ("/".into(), 0));
        assert_eq!(read("root /no/such/folder", root).1, 1);
        assert_eq!(read("root", root).1, 1);
        assert_eq!(read("debug x", debug).1, 1);
    }

    #[test]
    fn timeouts_are_durations_or_seconds() {
        let (found, wrong) = read("timeouts {\n read 30\n idle 1m\n}", timeouts);
        let seconds = |value: Duration| value.as_secs();
        assert_eq!(
            (seconds(found.read), seconds(found.write), seconds(found.idle), wrong),
            (30, 5, 60, 0)
        );
        assert_eq!(read("timeouts {\n read 0s\n other 1s\n}", timeouts).1, 2);
        assert_eq!(read("timeouts", timeouts).1, 1);
    }
}
