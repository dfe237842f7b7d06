//! What a client may read of an error. Extended errors (RFC 8914) reach every pod; addresses of upstreams, paths and lines
//! of the configuration stay in the log.

use std::net::IpAddr;

/// The text without words that are addresses, paths or places in a file.
pub fn for_clients(error: &str) -> String {
    let words = error.split(' ').map(|word| {
        let core = word.trim_matches([':', ',', ';', '(', ')', '`', '"']);
        if is_internal(core) { word.replace(core, "...") } else { word.to_owned() }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn is_internal(word: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    word.contains('/')
        || word.parse::<IpAddr>().is_ok()
        // An address with its port, or a file with its line.
        || word.rsplit_once(':').is_some_and(|(_, number)| is_number(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_paths_and_places_are_left_out() {
        for (error, shown) in [
            (
                "no answer within 5 s: 192.0.2.1:53: timed out",
                "no answer within 5 s: ...: timed out",
            ),
            ("tls://9.9.9.9%dns.test: refused", "...: refused"),
            ("[2001:db8::1]:53, 2001:db8::2: refused", "..., ...: refused"),
            ("template at Corefile:12: no record", "template at ...: no record"),
            ("/etc/resolv.conf: names none; name an address", "...: names none; name an address"),
            ("max_concurrent: too many queries", "max_concurrent: too many queries"),
        ] {
            assert_eq!(for_clients(error), shown);
        }
    }
}
