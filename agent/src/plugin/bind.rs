//! `bind ADDRESS|INTERFACE... { except ADDRESS|INTERFACE... }`: the addresses that a server block listens on.
//!
//! An interface stands for the addresses that it has when the configuration is built, so the Corefile can be checked on a
//! machine without that interface.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::config::Args;
use crate::corefile::{Diagnostics, Directive, Token};
use crate::plugin::directive::{ReadContext, ReadDirective};

/// Why addresses cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The kernel did not list the interfaces.
    #[error("cannot list the interfaces of this machine: {0}")]
    List(#[source] nix::Error),
    /// Neither an address nor an interface of this machine.
    #[error("{0:?} is neither an address nor an interface of this machine, which has {1}")]
    Unknown(String, String),
    /// The interface is there and has no address that can be listened on.
    #[error("the interface {0:?} has no address yet: give it one, or bind an address")]
    NoAddress(String),
    /// `except` has taken everything away.
    #[error("`except` leaves no address")]
    Nothing,
}

/// One `bind` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    places: Vec<Place>,
    except: Vec<Place>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Address(IpAddr),
    Interface(String),
}

/// The addresses of each interface.
type Interfaces = BTreeMap<String, Vec<IpAddr>>;

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        Self::parse(directive, cx.diagnostics)
    }
}

impl Config {
    /// Reads the line.
    pub fn parse(directive: &Directive, diagnostics: &mut Diagnostics) -> Self {
        let mut args = Args::of(directive, diagnostics);
        let mut config = Self { places: places(&mut args), except: Vec::new() };
        for option in directive.options() {
            let mut args = Args::of_option(directive, option, diagnostics);
            match option.name.as_str() {
                "except" => config.except.extend(places(&mut args)),
                _ => args.unknown_option(&["except"]),
            }
            args.end();
        }
        config
    }
}

/// The addresses that the `bind` lines of a server block name together, each once, in the order of the lines. Empty if
/// there is no line, which means every address.
pub fn resolve(lines: &[Config]) -> Result<Vec<IpAddr>, BindError> {
    if lines.is_empty() {
        return Ok(Vec::new());
    }
    resolve_with(lines, &interfaces()?)
}

fn resolve_with(lines: &[Config], interfaces: &Interfaces) -> Result<Vec<IpAddr>, BindError> {
    let mut except = Vec::new();
    for place in lines.iter().flat_map(|line| &line.except) {
        // An exception for an interface that does not exist has no effect.
        except.extend(place.addresses(interfaces).unwrap_or_default());
    }
    let mut found = Vec::new();
    for place in lines.iter().flat_map(|line| &line.places) {
        for address in place.addresses(interfaces)? {
            if !found.contains(&address) && !except.contains(&address) {
                found.push(address);
            }
        }
    }
    if found.is_empty() { Err(BindError::Nothing) } else { Ok(found) }
}

impl Place {
    fn addresses(&self, interfaces: &Interfaces) -> Result<Vec<IpAddr>, BindError> {
        let name = match self {
            Self::Address(address) => return Ok(vec![*address]),
            Self::Interface(name) => name,
        };
        let Some(addresses) = interfaces.get(name) else {
            let known: Vec<&str> = interfaces.keys().map(String::as_str).collect();
            return Err(BindError::Unknown(name.clone(), known.join(", ")));
        };
        if addresses.is_empty() {
            return Err(BindError::NoAddress(name.clone()));
        }
        Ok(addresses.clone())
    }
}

/// At least one address or interface.
fn places(args: &mut Args<'_, '_>) -> Vec<Place> {
    let first = args.required("an address or an interface");
    let words: Vec<&Token> = first.into_iter().chain(args.rest()).collect();
    let mut found = Vec::new();
    for word in words {
        match word.as_str().parse::<SocketAddr>() {
            Ok(address) => {
                let (ip, port) = (address.ip(), address.port());
                let expected = format!("{ip}, and the port behind the zone as in `.:{port} {{`");
                args.error_at(&word.at, format!("{:?} has a port", word.as_str()), expected);
                found.push(Place::Address(ip));
            }
            Err(_) => found.push(place(word.as_str())),
        }
    }
    found
}

fn place(text: &str) -> Place {
    match text.parse() {
        Ok(address) => Place::Address(address),
        Err(_) => Place::Interface(text.to_owned()),
    }
}

fn interfaces() -> Result<Interfaces, BindError> {
    let mut found = Interfaces::new();
    for entry in nix::ifaddrs::getifaddrs().map_err(BindError::List)? {
        let addresses = found.entry(entry.interface_name).or_default();
        let Some(address) = entry.address else { continue };
        let address = if let Some(v4) = address.as_sockaddr_in() {
            IpAddr::V4(v4.ip())
        } else if let Some(v6) = address.as_sockaddr_in6() {
            // Such an address means nothing without its interface, and a resolv.conf cannot name one.
            if v6.ip().is_unicast_link_local() {
                continue;
            }
            IpAddr::V6(v6.ip())
        } else {
            continue;
        };
        addresses.push(address);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::testing::read;

    fn config(line: &str) -> (Config, String) {
        read(line, Config::parse)
    }

    fn resolved(line: &str) -> String {
        let mut interfaces = Interfaces::new();
        interfaces.insert("lo".into(), vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()]);
        interfaces.insert("wg0".into(), Vec::new());
        match resolve_with(&[config(line).0], &interfaces) {
            Ok(addresses) => {
                addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn addresses_and_interfaces() {
        assert_eq!(resolved("bind 169.254.20.10 10.96.0.10"), "169.254.20.10 10.96.0.10");
        assert_eq!(resolved("bind lo 127.0.0.1 ::"), "127.0.0.1 ::1 ::");
        assert_eq!(resolved("bind lo {\n except 127.0.0.1 eth7\n}"), "::1");
        assert!(resolved("bind lo {\n except lo\n}").contains("leaves no address"));
        assert!(resolved("bind eth7").contains("\"eth7\" is neither an address nor an interface"));
        assert!(resolved("bind wg0").contains("has no address yet"));
    }

    #[test]
    fn this_machine_has_a_loopback() {
        let addresses = resolve(&[config("bind lo").0]).unwrap();
        assert!(addresses.contains(&"127.0.0.1".parse().unwrap()), "{addresses:?}");
        assert_eq!(resolve(&[]).unwrap(), Vec::<IpAddr>::new());
    }

    #[test]
    fn all_that_is_wrong() {
        assert!(config("bind").1.contains("bind: an argument is missing, expected an address"));
        let shown = config("bind 127.0.0.1:53 [::1]:53 lo").1;
        assert_eq!(
            shown,
            "Corefile:2: bind: \"127.0.0.1:53\" has a port, expected 127.0.0.1, and the port behind the zone as in `.:53 {`\n\
             Corefile:2: bind: \"[::1]:53\" has a port, expected ::1, and the port behind the zone as in `.:53 {`\n"
        );
        let shown = config("bind lo {\n except\n exept lo\n}").1;
        assert!(shown.contains("except: an argument is missing"), "{shown}");
        assert!(shown.contains("there is no option \"exept\", expected except"), "{shown}");
    }
}
