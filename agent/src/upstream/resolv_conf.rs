//! The servers of a resolv.conf (resolv.conf(5)).

use std::net::SocketAddr;

use crate::upstream::address::with_zone;
use crate::wire::Name;

/// Octets read of a file; what stands behind is not looked at.
pub const MAX_FILE: usize = 64 * 1_024;
/// Servers taken from one file. glibc takes 3; CoreDNS and systemd-resolved take more.
pub const MAX_SERVERS: usize = 32;

/// Domains taken from one file, as musl and the kubelet limit them.
pub const MAX_DOMAINS: usize = 32;

/// What a resolv.conf says of servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Its servers in their order, each once, with port 53.
    pub servers: Vec<SocketAddr>,
    /// Words behind `nameserver` that are no addresses, a few of them.
    pub unreadable: Vec<Box<str>>,
}

impl ResolvConf {
    /// Reads text. Whatever it is, the result is what could be read of it.
    pub fn parse(text: &[u8]) -> Self {
        let mut conf = Self::default();
        let text = text.get(..MAX_FILE).unwrap_or(text);
        for line in text.split(|&octet| octet == b'\n') {
            let Ok(line) = std::str::from_utf8(line) else { continue };
            // glibc wants the keyword at the start of the line; others allow blanks, and so do people.
            let mut words = line.split_ascii_whitespace();
            if words.next() != Some("nameserver") {
                continue;
            }
            let Some(word) = words.next() else { continue };
            match server(word) {
                Some(server)
                    if !conf.servers.contains(&server) && conf.servers.len() < MAX_SERVERS =>
                {
                    conf.servers.push(server);
                }
                Some(_) => {}
                None if conf.unreadable.len() < 4 => {
                    conf.unreadable.push(word.chars().take(64).collect::<String>().into())
                }
                None => {}
            }
        }
        conf
    }
}

/// The domains of its last `search` or `domain` line, in lower case and without the last dot.
pub fn search_domains(text: &str) -> Vec<String> {
    let mut domains = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if matches!(words.next(), Some("search" | "domain")) {
            domains = words
                .map(|word| word.trim_end_matches('.').to_ascii_lowercase())
                .filter(|word| !word.is_empty() && Name::from_text(word).is_ok())
                .take(MAX_DOMAINS)
                .collect();
        }
    }
    domains
}

/// `options ndots:N`, the last one.
pub fn ndots(text: &str) -> Option<u8> {
    let options = text.lines().filter_map(|line| line.trim_start().strip_prefix("options"));
    let words = options.flat_map(str::split_whitespace);
    words.filter_map(|word| word.strip_prefix("ndots:")?.parse().ok()).next_back()
}

/// An address with or without an interface: `fe80::1%eth0`. Brackets and a port, as in `[::1]:53`, are taken too.
fn server(word: &str) -> Option<SocketAddr> {
    if let Ok(address) = word.parse::<SocketAddr>() {
        return Some(address);
    }
    let (ip, zone) = match word.split_once('%') {
        Some((ip, zone)) => (ip, Some(zone)),
        None => (word, None),
    };
    with_zone(ip.parse().ok()?, 53, zone).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_in_their_order() {
        let text = b"# comment\n; other\nsearch a.b c.d\n nameserver 10.0.0.1 trailing\nnameserver\t2001:db8::1\n\
            options ndots:5\nnameserver 10.0.0.1\nnameserver fe80::1%lo\r\nnameservers 1.2.3.4\nnameserver\n\
            nameserver dns.example\n#nameserver 9.9.9.9\n\xff\xfe\nnameserver 10.0.0.2";
        let conf = ResolvConf::parse(text);
        let servers: Vec<String> = conf.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.1:53", "[2001:db8::1]:53", "[fe80::1%1]:53", "10.0.0.2:53"]);
        assert_eq!(conf.unreadable, ["dns.example".into()]);
    }

    #[test]
    fn the_last_search_list_and_the_last_ndots_count() {
        let text = "search a.org b.org\nnameserver 192.0.2.1\ndomain C.org.\n# search d.org\n\
                    options ndots:2 rotate\n options timeout:1 ndots:3\n#options ndots:9\n";
        assert_eq!(search_domains(text), ["c.org"]);
        assert!(search_domains("nameserver 192.0.2.1\n").is_empty());
        assert_eq!((ndots(text), ndots("options ndots:x\n")), (Some(3), None));
    }

    proptest::proptest! {
        #[test]
        fn any_octets_are_read(text in proptest::collection::vec(0u8.., 0..400)) {
            let _ = ResolvConf::parse(&text);
        }

        #[test]
        fn any_lines_are_read_and_the_result_is_bounded(lines in proptest::collection::vec("(nameserver )?\\PC{0,30}", 0..80)) {
            let conf = ResolvConf::parse(lines.join("\n").as_bytes());
            proptest::prop_assert!(conf.servers.len() <= MAX_SERVERS && conf.unreadable.len() <= 4);
        }

        #[test]
        fn whatever_is_written_is_found(ips in proptest::collection::vec(proptest::arbitrary::any::<std::net::IpAddr>(), 0..20)) {
            let text: String = ips.iter().map(|ip| format!("nameserver {ip}\n")).collect();
            let mut wanted: Vec<_> = ips.iter().map(|&ip| SocketAddr::new(ip, 53)).collect();
            let mut seen = std::collections::HashSet::new();
            wanted.retain(|server| seen.insert(*server));
            proptest::prop_assert_eq!(ResolvConf::parse(text.as_bytes()).servers, wanted);
        }
    }
}
