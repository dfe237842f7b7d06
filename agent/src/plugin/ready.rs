//! `ready [ADDRESS] { monitor until-ready|continuously }`: the endpoint `/ready`.
//!
//! CoreDNS stops asking a plugin once it was ready. By default Nodens does: it answers 503 again when a
//! handler can no longer do its work. `monitor until-ready` is CoreDNS's way.

use crate::config::{Args, ListenAddress, ValueError};
use crate::corefile::{Diagnostics, Directive};
use crate::detail::Monitor;
use crate::plugin::directive::{ReadContext, ReadDirective};

/// Where `/ready` is served where nothing is written, as in CoreDNS.
pub const DEFAULT_ADDRESS: ListenAddress = ListenAddress { ip: None, port: 8181 };

/// What a `ready` line means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where `/ready` is served.
    pub address: ListenAddress,
    /// How long handlers are asked.
    pub monitor: Monitor,
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
        let mut config = Self { address, monitor: Monitor::default() };
        for option in directive.options() {
            let mut args = Args::of_option(directive, option, diagnostics);
            match option.name.as_str() {
                "monitor" => {
                    config.monitor =
                        args.value("until-ready or continuously", monitor).unwrap_or_default();
                }
                _ => args.unknown_option(&["monitor"]),
            }
            args.end();
        }
        config
    }
}

fn monitor(text: &str) -> Result<Monitor, ValueError> {
    match text {
        "continuously" => Ok(Monitor::Continuously),
        "until-ready" => Ok(Monitor::UntilReady),
        _ => Err(ValueError::new(
            format!("there is no monitor {text:?}"),
            "until-ready or continuously",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::testing::read;

    #[test]
    fn address_and_monitor() {
        let (config, shown) = read("ready", Config::parse);
        assert_eq!(config, Config { address: DEFAULT_ADDRESS, monitor: Monitor::Continuously });
        assert_eq!(shown, "");
        let (config, shown) =
            read("ready localhost:8182 {\n monitor until-ready\n}", Config::parse);
        assert_eq!(
            (config.monitor, config.address.port, shown.as_str()),
            (Monitor::UntilReady, 8182, "")
        );
    }

    #[test]
    fn all_that_is_wrong() {
        let (_, shown) = read("ready 80 {\n monitor never\n}", Config::parse);
        assert!(
            shown.contains("Corefile:2: ready: \"80\" has no port after a colon, expected :80"),
            "{shown}"
        );
        assert!(
            shown.contains("Corefile:3: ready: monitor: there is no monitor \"never\""),
            "{shown}"
        );
    }
}
