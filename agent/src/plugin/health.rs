//! `health [ADDRESS] { lameduck DURATION }`: the endpoint `/health`, and how long a shutdown is announced before it begins.

use std::time::Duration;

use crate::config::{Args, ListenAddress};
use crate::corefile::{Diagnostics, Directive};
use crate::plugin::directive::{ReadContext, ReadDirective};

/// Where `/health` is served where nothing is written, as in CoreDNS.
pub const DEFAULT_ADDRESS: ListenAddress = ListenAddress { ip: None, port: 8080 };

/// What a `health` line means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where `/health` is served.
    pub address: ListenAddress,
    /// How long the process continues to answer after a signal to stop, while `/ready` answers 503.
    pub lameduck: Duration,
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
        let address = args.listen_address_or(DEFAULT_ADDRESS);
        args.end();
        let mut config = Self { address, lameduck: Duration::ZERO };
        for option in directive.options() {
            let mut args = Args::of_option(directive, option, diagnostics);
            match option.name.as_str() {
                "lameduck" => {
                    if let Some(duration) = args.duration("a duration, as 5s") {
                        config.lameduck = duration;
                    }
                }
                _ => args.unknown_option(&["lameduck"]),
            }
            args.end();
        }
        config
    }
}

/// How long a process with these lines announces its end: the longest of them, since there is one process.
pub fn lameduck<'a>(configs: impl Iterator<Item = &'a Config>) -> Duration {
    configs.map(|config| config.lameduck).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::testing::read;

    #[test]
    fn address_and_lameduck() {
        let (config, shown) = read("health", Config::parse);
        assert_eq!(config, Config { address: DEFAULT_ADDRESS, lameduck: Duration::ZERO });
        assert_eq!(shown, "");
        let (config, shown) = read("health 169.254.20.10:8081 {\n lameduck 5s\n}", Config::parse);
        assert_eq!(config.address.to_string(), "169.254.20.10:8081");
        assert_eq!((lameduck([config].iter()), shown.as_str()), (Duration::from_secs(5), ""));
    }

    #[test]
    fn all_that_is_wrong() {
        let (_, shown) = read("health 8080 more {\n lameduck 5\n lameduk 5s\n}", Config::parse);
        assert_eq!(
            shown
                .lines()
                .map(|line| line.split(", expected").next().unwrap_or(""))
                .collect::<Vec<_>>(),
            [
                "Corefile:2: health: \"8080\" has no port after a colon",
                "Corefile:2: health: there is an argument too many: \"more\"",
                "Corefile:3: health: lameduck: \"5\" has no unit",
                "Corefile:4: health: there is no option \"lameduk\"",
            ]
        );
    }
}
