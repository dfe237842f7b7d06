//! Which queries a reader wants to see.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::record::{Record, sources};
use crate::wire::Rcode;

/// What `nodens observe` was told, as it was typed. All that is given has to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Names that match this pattern; `*` stands for any text, dots included, and `?` for one character.
    pub name: Option<String>,
    /// Queries of this address, network or Pod (`namespace/name`), or of any of several addresses and networks between commas.
    pub client: Option<String>,
    /// Answers with this code.
    pub rcode: Option<String>,
    /// Answers that took longer than so many microseconds.
    pub slower_than_micros: Option<u64>,
    /// Answers from there.
    pub source: Option<String>,
}

impl Filter {
    /// Namespace and name, if the client is a Pod's.
    pub fn pod(&self) -> Option<(&str, &str)> {
        let text = self.client.as_deref()?;
        let (namespace, name) = text.split_once('/')?;
        let is_address = namespace.parse::<IpAddr>().is_ok();
        let are_named = !namespace.is_empty() && !name.is_empty();
        (!is_address && are_named).then_some((namespace, name))
    }
}

/// A filter that was understood.
#[derive(Clone, Debug, Default)]
pub struct Matcher {
    name: Option<String>,
    /// Any of these; of all clients if there is none.
    clients: Vec<IpNet>,
    rcode: Option<Rcode>,
    slower_than_micros: u64,
    source: Option<&'static str>,
}

impl Matcher {
    /// Understands a filter.
    ///
    /// # Errors
    /// What is wrong with it, and what was wanted.
    pub fn new(filter: &Filter) -> Result<Self, String> {
        let clients = filter.client.iter().flat_map(|text| text.split(','));
        let clients = clients.map(network).collect::<Result<Vec<_>, _>>()?;
        let rcode = filter.rcode.as_deref().map(code).transpose()?;
        let source = filter.source.as_deref().map(source).transpose()?;
        let name = filter.name.as_deref().map(|name| match name {
            // Only the root is so short.
            "." => ".".to_owned(),
            name => name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase(),
        });
        Ok(Self {
            name,
            clients,
            rcode,
            slower_than_micros: filter.slower_than_micros.unwrap_or(0),
            source,
        })
    }

    /// Whether a query is wanted.
    pub fn wants(&self, record: &Record) -> bool {
        self.rcode.is_none_or(|rcode| !record.is_silent && record.rcode == rcode)
            && (self.slower_than_micros == 0 || u64::from(record.micros) > self.slower_than_micros)
            && self.source.is_none_or(|source| record.source() == source)
            && (self.clients.is_empty()
                || self.clients.iter().any(|client| client.contains(&record.client.ip())))
            && self.name.as_deref().is_none_or(|pattern| {
                let text = record.name().to_string();
                let text = text.strip_suffix('.').filter(|text| !text.is_empty()).unwrap_or(&text);
                matches(pattern.as_bytes(), text.as_bytes())
            })
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from).ok();
    text.parse().ok().or_else(address).ok_or_else(|| {
        format!(
            "{text:?} is no address, network or Pod, expected one such as 10.0.0.7, 10.0.0.0/24 or shop/web-0"
        )
    })
}

fn code(text: &str) -> Result<Rcode, String> {
    let number = || text.parse().ok().filter(|number| *number < 4_096).map(Rcode);
    Rcode::from_name(text).or_else(number).ok_or_else(|| {
        format!("{text:?} is no response code, expected one such as NXDOMAIN or SERVFAIL")
    })
}

fn source(text: &str) -> Result<&'static str, String> {
    sources().find(|source| source.eq_ignore_ascii_case(text)).ok_or_else(|| {
        let mut known: Vec<_> = sources().collect();
        known.sort_unstable();
        known.dedup();
        format!("{text:?} is no source, expected one of {}", known.join(", "))
    })
}

/// A duration as `--slower` takes it, with a unit: `10ms`.
///
/// # Errors
/// What was wanted.
pub fn slower(text: &str) -> Result<Duration, String> {
    let expected = || "expected a duration such as 10ms, 500us or 1s".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(expected)?;
    let (number, unit) = text.split_at_checked(digits).ok_or_else(expected)?;
    let number: u32 = number.parse().map_err(|_| expected())?;
    match unit {
        "us" | "µs" => Ok(Duration::from_micros(number.into())),
        "ms" => Ok(Duration::from_millis(number.into())),
        "s" => Ok(Duration::from_secs(number.into())),
        _ => Err(expected()),
    }
}

/// Whether all of `text` matches `pattern`. Takes at most the product of their lengths in steps.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Behind the last star, and the text that it had not taken yet.
    let mut star = None;
    while let Some(&octet) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(&wanted) if wanted == b'?' || wanted == octet => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((behind, taken)) => {
                    star = Some((behind, taken + 1));
                    (p, t) = (behind, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or(&[]).iter().all(|octet| *octet == b'*')
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, text, wanted) in [
            ("*.example.org", "www.example.org", true),
            ("*.example.org", "example.org", false),
            ("*example*", "a.example.org", true),
            ("w?w.*", "www.a", true),
            ("www", "www.a", false),
            ("*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaa", false),
            ("", "", true),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), wanted, "{pattern} {text}");
        }
    }

    #[test]
    fn all_that_is_given_has_to_hold() {
        let seen = record("www.Example.", Rcode::NXDOMAIN, 20_000);
        let wants = |change: fn(&mut Filter)| {
            let mut filter = Filter::default();
            change(&mut filter);
            Matcher::new(&filter).unwrap().wants(&seen)
        };
        assert!(wants(|_| {}));
        assert!(wants(|filter| filter.name = Some("*.EXAMPLE.".to_owned())));
        assert!(!wants(|filter| filter.name = Some("*.org".to_owned())));
        assert!(wants(|filter| filter.client = Some("192.0.2.0/24".to_owned())));
        assert!(wants(|filter| filter.client = Some("192.0.2.7".to_owned())));
        assert!(!wants(|filter| filter.client = Some("2001:db8::/32".to_owned())));
        assert!(wants(|filter| filter.client = Some("2001:db8::7,192.0.2.7".to_owned())));
        assert!(!wants(|filter| filter.client = Some("2001:db8::7,192.0.2.8".to_owned())));
        assert!(wants(|filter| filter.rcode = Some("nxdomain".to_owned())));
        assert!(!wants(|filter| filter.rcode = Some("0".to_owned())));
        assert!(wants(|filter| filter.slower_than_micros = Some(10_000)));
        assert!(!wants(|filter| filter.slower_than_micros = Some(20_000)));
        assert!(wants(|filter| filter.source = Some("upstream".to_owned())));
        assert!(!wants(|filter| {
            filter.source = Some("upstream".to_owned());
            filter.rcode = Some("SERVFAIL".to_owned());
        }));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let error = |change: fn(&mut Filter)| {
            let mut filter = Filter::default();
            change(&mut filter);
            Matcher::new(&filter).unwrap_err()
        };
        assert!(error(|f| f.client = Some("a".to_owned())).contains("10.0.0.0/24"));
        let of = |client: &str| Filter { client: Some(client.to_owned()), ..Filter::default() };
        assert_eq!(of("shop/web-0").pod(), Some(("shop", "web-0")));
        assert!(["10.0.0.0/24", "::/99", "web", "/x"].iter().all(|text| of(text).pod().is_none()));
        assert!(error(|f| f.rcode = Some("NXDOMAN".to_owned())).contains("SERVFAIL"));
        let sources = error(|f| f.source = Some("sky".to_owned()));
        assert!(sources.contains("cache") && sources.contains("hosts"), "{sources}");
        assert_eq!(slower("10ms").unwrap(), Duration::from_millis(10));
        assert!(slower("10").is_err() && slower("ms").is_err() && slower("9999999999s").is_err());
    }
}
