//! `prometheus [ADDRESS]`: the endpoint `/metrics`. All server blocks are counted, whether they have the line or not, and
//! every address shows the same: there is one set of metrics.

use std::net::{IpAddr, Ipv4Addr};

use crate::config::{Args, ListenAddress};
use crate::corefile::{Diagnostics, Directive};
use crate::plugin::directive::{ReadContext, ReadDirective};

/// Where `/metrics` is served where nothing is written, as in CoreDNS: `localhost:9153`.
pub const DEFAULT_ADDRESS: ListenAddress =
    ListenAddress { ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), port: 9153 };

/// What a `prometheus` line means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where `/metrics` is served.
    pub address: ListenAddress,
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
        for option in directive.options() {
            let mut args = Args::of_option(directive, option, diagnostics);
            match option.name.as_str() {
                "tls" => {
                    args.error(
                        "nodens serves metrics without TLS",
                        "an address that only the scraper reaches",
                    );
                    args.rest();
                }
                // Those of Go's runtime.
                "runtime_metrics" => args.warning(
                    "has no effect in Nodens: the metrics of the process are always there",
                    "remove the line",
                ),
                _ => args.unknown_option(&[]),
            }
            args.end();
        }
        Self { address }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::testing::read;

    #[test]
    fn an_address_or_the_default() {
        assert_eq!(
            read("prometheus", Config::parse),
            (Config { address: DEFAULT_ADDRESS }, String::new())
        );
        let (config, shown) = read("prometheus :9253", Config::parse);
        assert_eq!((config.address.to_string().as_str(), shown.as_str()), (":9253", ""));
    }

    #[test]
    fn all_that_is_wrong() {
        let (_, shown) = read("prometheus 9153 {\n tls a b\n x\n}", Config::parse);
        assert_eq!(shown.lines().count(), 3, "{shown}");
        assert!(
            shown.contains("Corefile:3: prometheus: tls: nodens serves metrics without TLS"),
            "{shown}"
        );
    }
}
