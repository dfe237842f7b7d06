//! The directives that only set something: `bufsize`, `nsid`, `chaos`, `root`, `debug` and `timeouts`.

use std::path::PathBuf;
use std::time::Duration;

use crate::chain::Identity;
use crate::config::{Args, ValueError, no_block, value};
use crate::corefile::Directive;
use crate::plugin::directive::{ReadContext, ReadDirective};
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufSize(pub usize);

/// `nsid [DATA...]`: what a client gets that asks for the server's identity (RFC 5001), for `Chain::nsid`. The host's name
/// if nothing is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nsid(pub Box<[u8]>);

/// `chaos [VERSION] [AUTHOR...]`: the answers of class CHAOS, for `Chain::identity`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chaos(pub Identity);

/// `root PATH`: the folder where relative paths of other directives begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(pub PathBuf);

/// `debug`: no arguments, no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Debug;

impl ReadDirective for BufSize {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        no_block(directive, cx.diagnostics);
        let mut args = Args::of(directive, cx.diagnostics);
        let size = args.optional(|text| value::integer(text, MIN_UDP_PAYLOAD..=MAX_UDP_PAYLOAD));
        args.end();
        Self(size.unwrap_or(OUR_UDP_PAYLOAD).into())
    }
}

impl ReadDirective for Nsid {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        no_block(directive, cx.diagnostics);
        let mut args = Args::of(directive, cx.diagnostics);
        let words: Vec<&str> = args.rest().iter().map(|word| word.as_str()).collect();
        let text = words.join(" ");
        if text.len() > MAX_TEXT {
            args.error("the identity is too long", format!("at most {MAX_TEXT} octets"));
        }
        if text.is_empty() {
            Self(Identity::default().hostname.as_bytes().into())
        } else {
            Self(text.as_bytes().into())
        }
    }
}

impl ReadDirective for Chaos {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        no_block(directive, cx.diagnostics);
        let mut args = Args::of(directive, cx.diagnostics);
        let mut identity = Identity::default();
        let mut texts = args.rest().iter();
        if let Some(version) = texts.next() {
            identity.version = version.as_str().into();
        }
        identity.authors = texts.map(|author| author.as_str().into()).collect();
        if identity.authors.iter().chain([&identity.version]).any(|text| text.len() > MAX_TEXT) {
            args.error("a text is too long", format!("at most {MAX_TEXT} octets each"));
        }
        Self(identity)
    }
}

impl ReadDirective for Root {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        no_block(directive, cx.diagnostics);
        let mut args = Args::of(directive, cx.diagnostics);
        let path = args.required("a folder").map_or_else(PathBuf::new, |word| word.as_str().into());
        if !path.as_os_str().is_empty() && !path.is_dir() {
            args.warning(
                format!("there is no folder {}", path.display()),
                "create it, or correct the path",
            );
        }
        args.end();
        Self(path)
    }
}

impl ReadDirective for Debug {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        no_block(directive, cx.diagnostics);
        Args::of(directive, cx.diagnostics).end();
        Self
    }
}

impl ReadDirective for Timeouts {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        let mut timeouts = Self::default();
        Args::of(directive, cx.diagnostics).end();
        for option in directive.options() {
            let mut args = Args::of_option(directive, option, cx.diagnostics);
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
            Args::of(directive, cx.diagnostics)
                .error("it has no options", "read, write or idle, in a block");
        }
        timeouts
    }
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
    use std::path::Path;

    use super::*;
    use crate::corefile::Diagnostics;
    use crate::plugin::testing::{block, directive};

    fn read<T: ReadDirective>(text: &str) -> (T, usize) {
        let (mut diagnostics, block) = (Diagnostics::default(), block("."));
        let mut cx = ReadContext {
            block: &block,
            zones: &[],
            root: Path::new(""),
            diagnostics: &mut diagnostics,
        };
        let value = T::read(&directive(text), &mut cx);
        (value, diagnostics.iter().count())
    }

    #[test]
    fn values_and_their_defaults() {
        assert_eq!(read("bufsize"), (BufSize(1232), 0));
        assert_eq!(read("bufsize 4096"), (BufSize(4096), 0));
        assert_eq!(read::<BufSize>("bufsize 400").1, 1);
        assert_eq!(read("nsid a b"), (Nsid(b"a b"[..].into()), 0));
        assert!(!read::<Nsid>("nsid").0.0.is_empty());
        assert_eq!(read::<Nsid>(&format!("nsid {}", "x".repeat(256))).1, 1);
        let (Chaos(identity), _) = read("chaos Nodens-x \"A <a@b>\" B");
        assert_eq!((&*identity.version, identity.authors.len()), ("Nodens-x", 2));
        assert_eq!(read::<Chaos>("chaos").0, Chaos(Identity::default()));
        assert_eq!(read("root /"), (Root("/".into()), 0));
        assert_eq!(read::<Root>("root /no/such/folder").1, 1);
        assert_eq!(read::<Root>("root").1, 1);
        assert_eq!(read::<Debug>("debug x").1, 1);
    }

    #[test]
    fn timeouts_are_durations_or_seconds() {
        let (found, wrong) = read::<Timeouts>("timeouts {\n read 30\n idle 1m\n}");
        let seconds = |value: Duration| value.as_secs();
        assert_eq!(
            (seconds(found.read), seconds(found.write), seconds(found.idle), wrong),
            (30, 5, 60, 0)
        );
        assert_eq!(read::<Timeouts>("timeouts {\n read 0s\n other 1s\n}").1, 2);
        assert_eq!(read::<Timeouts>("timeouts").1, 1);
    }
}
