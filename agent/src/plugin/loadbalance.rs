//! `loadbalance [round_robin]`: whether the addresses of an answer go round. The turning itself is done where the records
//! are: in `kubernetes`, `hosts` and `cache`, which copy them from another place each time.

use crate::config::Args;
use crate::corefile::{Diagnostics, Directive};
use crate::plugin::directive::{ReadContext, ReadDirective};

/// What a `loadbalance` line means. Without the line, addresses keep their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config;

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        Self::parse(directive, cx.diagnostics)
    }
}

impl Config {
    /// Reads the directive.
    pub fn parse(directive: &Directive, diagnostics: &mut Diagnostics) -> Self {
        let mut args = Args::of(directive, diagnostics);
        match args.next().map(|word| (word.as_str(), word)) {
            None | Some(("round_robin", _)) => {}
            Some(("weighted", word)) => {
                args.error_at(
                    &word.at,
                    "the policy \"weighted\" is not supported by Nodens",
                    "round_robin",
                );
                // Its options belong to it.
                return Self;
            }
            Some((other, word)) => {
                args.error_at(&word.at, format!("there is no policy {other:?}"), "round_robin");
            }
        }
        args.end();
        for option in directive.options() {
            let mut args = Args::of_option(directive, option, diagnostics);
            match option.name.as_str() {
                "prefer" => {
                    args.refuse("not supported by Nodens", "remove the line");
                    args.rest();
                }
                _ => args.unknown_option(&[]),
            }
            args.end();
        }
        Self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::testing::read;

    #[test]
    fn round_robin_or_nothing() {
        assert_eq!(read("loadbalance", Config::parse).1, "");
        assert_eq!(read("loadbalance round_robin", Config::parse).1, "");
    }

    #[test]
    fn all_that_is_wrong() {
        for (line, wanted) in [
            (
                "loadbalance weighted f {\n reload 5s\n}",
                "the policy \"weighted\" is not supported by Nodens",
            ),
            ("loadbalance random", "there is no policy \"random\""),
            ("loadbalance round_robin x", "there is an argument too many"),
            ("loadbalance {\n prefer 10.0.0.0/8\n}", "prefer: not supported by Nodens; remove"),
        ] {
            let shown = read(line, Config::parse).1;
            assert!(shown.contains(wanted) && shown.lines().count() == 1, "{line}: {shown}");
        }
    }
}
