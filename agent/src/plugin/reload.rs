//! `reload [INTERVAL [JITTER]] { force }`: how often the Corefile is looked at. Without the line it is read again on a signal only.

use std::time::Duration;

use crate::config::Args;
use crate::corefile::{Diagnostics, Directive, File};
use crate::plugin::directive::{ReadContext, ReadDirective};

/// How often, where nothing is written, as in CoreDNS.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);
/// By how much the interval varies, where nothing is written, as in CoreDNS.
pub const DEFAULT_JITTER: Duration = Duration::from_secs(15);
/// CoreDNS refuses less.
pub const MIN_INTERVAL: Duration = Duration::from_secs(2);
/// CoreDNS refuses less.
pub const MIN_JITTER: Duration = Duration::from_secs(1);
/// Longer than any process runs; keeps additions from overflowing.
const MAX: Duration = Duration::from_secs(365 * 86_400);

/// What a `reload` line means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How often the Corefile is looked at.
    pub interval: Duration,
    /// By how much, up or down, so that the nodes of a cluster do not all reload at once. At most half of the interval.
    pub jitter: Duration,
    /// Whether this configuration is loaded even if the node would be silent by it.
    pub force: bool,
}

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        Self::parse(directive, cx.diagnostics)
    }
}

impl Config {
    /// Reads the directive.
    pub fn parse(directive: &Directive, diagnostics: &mut Diagnostics) -> Self {
        let mut args = Args::of(directive, diagnostics);
        let mut config = Self { interval: DEFAULT_INTERVAL, jitter: DEFAULT_JITTER, force: false };
        if !args.is_empty() {
            config.interval =
                args.duration_in("an interval", MIN_INTERVAL..=MAX).unwrap_or(DEFAULT_INTERVAL);
        }
        if !args.is_empty() {
            config.jitter =
                args.duration_in("a jitter", MIN_JITTER..=MAX).unwrap_or(DEFAULT_JITTER);
        }
        args.end();
        for option in directive.options() {
            let mut args = Args::of_option(directive, option, diagnostics);
            match option.name.as_str() {
                "force" => config.force = true,
                _ => args.unknown_option(&["force"]),
            }
            args.end();
        }
        config.jitter = config.jitter.min(config.interval / 2);
        config
    }

    /// How long to wait for the next look, where `random` is anything from 0 to 255: the interval, plus or minus half of
    /// the jitter.
    pub fn wait(&self, random: u8) -> Duration {
        self.interval - self.jitter / 2 + self.jitter * u32::from(random) / 255
    }
}

/// A hash of a Corefile after imports and variables: SHA-512 in hexadecimal, the value of
/// `coredns_reload_version_info`. Comments and blanks do not count.
pub fn hash(file: &File) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA512, file.to_string().as_bytes());
    digest.as_ref().iter().fold(String::with_capacity(128), |mut text, octet| {
        text.push_str(&format!("{octet:02x}"));
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::testing::read;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn interval_and_jitter() {
        for (line, interval, jitter) in [
            ("reload", 30, 15_000),
            ("reload 10s", 10, 5_000),
            ("reload 60s 3s", 60, 3_000),
            ("reload 2s 1s", 2, 1_000),
            ("reload 10s {\n force\n}", 10, 5_000),
        ] {
            let (config, shown) = read(line, Config::parse);
            assert_eq!(
                (config.interval, config.jitter),
                (SECOND * interval, Duration::from_millis(jitter)),
                "{line}"
            );
            assert_eq!((shown.as_str(), config.force), ("", line.contains("force")));
        }
        let config = Config { interval: SECOND * 30, jitter: SECOND * 10, force: false };
        assert_eq!((config.wait(0), config.wait(255)), (SECOND * 25, SECOND * 35));
    }

    #[test]
    fn all_that_is_wrong() {
        for (line, wanted) in [
            ("reload 60", "\"60\" has no unit"),
            ("reload 1s", "\"1s\" is out of range"),
            ("reload 30s 10ms", "\"10ms\" is out of range"),
            ("reload 30s 10s 5s", "there is an argument too many"),
            ("reload {\n x\n}", "there is no option \"x\""),
            ("reload {\n force now\n}", "there is an argument too many"),
        ] {
            assert!(read(line, Config::parse).1.contains(wanted), "{line}");
        }
    }
}
