//! `tls CERT KEY [CA] { client_auth MODE }`: the certificate of a server block that is reached over TLS or HTTPS, and which clients
//! it takes.

use super::Block;
use crate::config::{Args, Transport};
use crate::corefile::{Diagnostic, Diagnostics, Directive, Location, Token};
use crate::plugin::directive::{ReadContext, ReadDirective};
use crate::server::tls::files::ClientAuth;

/// What one line means.
pub type Config = crate::server::tls::files::Files;

const MODES: [(&str, ClientAuth); 5] = [
    ("nocert", ClientAuth::None),
    ("request", ClientAuth::Request),
    ("require", ClientAuth::Require),
    ("verify_if_given", ClientAuth::VerifyIfGiven),
    ("require_and_verify", ClientAuth::RequireAndVerify),
];

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        let path = |word: Option<&Token>| word.map(|word| cx.root.join(word.as_str()));
        let mut args = Args::of(directive, cx.diagnostics);
        let certificate = path(args.required("a file with the certificate"));
        let key = path(args.required("a file with the key of the certificate"));
        let roots = path(args.next());
        args.end();
        let (certificate, key) = (certificate.unwrap_or_default(), key.unwrap_or_default());
        let mut config = Self { certificate, key, roots, client_auth: ClientAuth::None };
        for option in directive.options() {
            let mut args = Args::of_option(directive, option, cx.diagnostics);
            match option.name.as_str() {
                "client_auth" => {
                    let word = args.required("how clients prove who they are");
                    let mode = |word: &Token| MODES.iter().find(|(name, _)| *name == word.as_str());
                    match word.map(|word| (word, mode(word))) {
                        Some((_, Some((_, mode)))) => config.client_auth = *mode,
                        Some((word, None)) => {
                            let what = format!("{:?} is no way of client_auth", word.as_str());
                            args.error_at(&word.at, what, MODES.map(|(name, _)| name).join(", "));
                        }
                        None => {}
                    }
                    args.end();
                }
                "keylog" => {
                    args.rest();
                    args.warning("session keys are not written to a file", "remove the line");
                }
                "acme" | "email" | "ca" | "storage" | "ca_root" | "resolver" => {
                    args.rest();
                    args.refuse(
                        "certificates are not obtained by ACME here",
                        "have cert-manager or the like write the files; a change is noticed",
                    );
                }
                _ => args.unknown_option(&["client_auth"]),
            }
        }
        let mut args = Args::of(directive, cx.diagnostics);
        if config.needs_roots() && config.roots.is_none() {
            args.refuse(
                "client_auth has no authorities to verify certificates by",
                "add the file of the CA behind the key",
            );
        } else if config.roots.is_some() && !config.needs_roots() {
            args.warning(
                "the CA has no effect: certificates of clients are not verified",
                "add client_auth require_and_verify, or leave out the CA",
            );
        }
        config
    }
}

/// What is wrong between blocks: one that is encrypted has a `tls`, and only such a one; those that share a port over TLS have the
/// same.
pub fn check(blocks: &[Block], diagnostics: &mut Diagnostics) {
    let mut at_ports: Vec<(Transport, u16, &Config, &Location)> = Vec::new();
    for block in blocks {
        let mut encrypted =
            block.written.zones.iter().filter(|zone| zone.transport.is_encrypted()).peekable();
        let line = block.written.named("tls").last();
        match (encrypted.peek(), line) {
            (Some(zone), None) => diagnostics.push(
                Diagnostic::error(zone.at.clone(), format!("{zone} has no certificate"))
                    .help("write `tls CERT KEY` in the block"),
            ),
            (None, Some(line)) => diagnostics.push(
                Diagnostic::warning(
                    line.at().clone(),
                    "it has no effect: the block is not encrypted",
                )
                .help("begin a key of the block with tls:// or https://, or remove the line")
                .directive("tls"),
            ),
            _ => {}
        }
        let (Some(config), Some(line)) = (block.tls.last(), line) else { continue };
        for zone in encrypted {
            let known = at_ports
                .iter()
                .find(|(transport, port, ..)| (*transport, *port) == (zone.transport, zone.port));
            match known {
                None => at_ports.push((zone.transport, zone.port, config, line.at())),
                Some((_, _, other, _)) if *other == config => {}
                Some((.., at)) => {
                    let what = format!(
                        "another block at port {} has another certificate or other clients, at {at}",
                        zone.port
                    );
                    diagnostics.push(
                        Diagnostic::error(line.at().clone(), what)
                            .help("give all blocks of a port the same `tls` line, or another port")
                            .directive("tls"),
                    );
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::corefile;

    fn read_all(text: &str) -> (Vec<Block>, String) {
        let (file, mut diagnostics) = corefile::parse("Corefile", text, &|_| None);
        let blocks = crate::plugin::read(&file, 53, &mut diagnostics);
        (blocks, diagnostics.to_string())
    }

    #[test]
    fn lines_are_read_as_coredns_writes_them() {
        let blocks = |line: &str| format!("tls://. {{\n {line}\n whoami\n}}\n");
        for (line, wanted) in [
            ("tls cert.pem key.pem", ""),
            ("tls cert.pem key.pem ca.pem {\n client_auth require_and_verify\n }", ""),
            ("tls cert.pem key.pem ca.pem {\n client_auth verify_if_given\n }", ""),
            ("tls cert.pem key.pem {\n client_auth request\n }", ""),
            ("tls cert.pem key.pem ca.pem", "the CA has no effect"),
            ("tls cert.pem", "a file with the key"),
            ("tls cert.pem key.pem {\n client_auth require_and_verify\n }", "has no authorities"),
            ("tls cert.pem key.pem {\n client_auth all\n }", "\"all\" is no way of client_auth"),
            ("tls cert.pem key.pem {\n keylog /tmp/keys\n }", "are not written"),
            ("tls {\n acme example.org\n }", "not obtained by ACME"),
            ("log", "tls://.:853 has no certificate"),
        ] {
            let (_, said) = read_all(&blocks(line));
            assert_eq!(said.is_empty(), wanted.is_empty(), "{line}: {said}");
            assert!(said.contains(wanted), "{line}: {said}");
        }
        let (blocks, said) = read_all(
            "https://. {\n root /etc\n tls a/cert.pem key.pem\n whoami\n}\n. {\n tls a b\n whoami\n}",
        );
        assert!(said.contains("it has no effect"), "{said}");
        assert_eq!(blocks[0].tls[0].certificate, PathBuf::from("/etc/a/cert.pem"));
    }

    #[test]
    fn blocks_of_one_port_share_a_certificate() {
        let (_, said) =
            read_all("tls://a {\n tls c k\n whoami\n}\ntls://b {\n tls c k2\n whoami\n}");
        assert!(said.contains("another block at port 853"), "{said}");
        let (_, said) =
            read_all("tls://a {\n tls c k\n whoami\n}\ntls://b https://b {\n tls c k\n whoami\n}");
        assert_eq!(said, "");
        let (_, said) = read_all("tls://a:53 {\n tls c k\n whoami\n}\na {\n whoami\n}");
        assert!(said.contains("port 53"), "{said}");
    }
}
