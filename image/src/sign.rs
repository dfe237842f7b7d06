//! Signatures by a key that is given from outside: ECDSA with P-256 and SHA-256, as cosign makes and verifies them.

use anyhow::{Context, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::json;

use crate::digest::canonical;

/// The content type of a DSSE envelope's payload.
const IN_TOTO: &str = "application/vnd.in-toto+json";

/// A private key.
pub struct Key {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl Key {
    /// Reads a key of PKCS #8 in PEM (RFC 7468), without a password, as
    /// `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256` writes it.
    ///
    /// # Errors
    /// It is another kind of key, or none.
    pub fn read(pem: &str) -> anyhow::Result<Self> {
        const WANTED: &str = "wanted a P-256 key as `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256` writes it";
        if pem.contains("ENCRYPTED") {
            bail!(
                "the key has a password; {WANTED}, and keep the file where only the release can read it"
            );
        }
        let begin = "-----BEGIN PRIVATE KEY-----";
        let body = pem
            .split_once(begin)
            .and_then(|(_, rest)| rest.split_once("-----END PRIVATE KEY-----"));
        let (body, _) = body.with_context(|| format!("there is no {begin}; {WANTED}"))?;
        let der = STANDARD
            .decode(body.split_whitespace().collect::<String>())
            .context("the key's text is not base64")?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der, &random)
            .map_err(|error| anyhow!("the key cannot be used ({error}); {WANTED}"))?;
        Ok(Self { pair, random })
    }

    /// The signature of these octets, as base64 of its DER form: what `cosign verify-blob --signature` reads.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn sign(&self, octets: &[u8]) -> anyhow::Result<String> {
        let signature = self.pair.sign(&self.random, octets);
        let signature = signature.map_err(|_| anyhow!("cannot sign: no random numbers"))?;
        Ok(STANDARD.encode(signature.as_ref()))
    }

    /// The public half in PEM, as `openssl pkey -pubout` and `cosign public-key` write it.
    #[must_use]
    pub fn public(&self) -> String {
        // SubjectPublicKeyInfo (RFC 5480) of id-ecPublicKey and prime256v1, up to the point itself.
        const HEAD: [u8; 26] = [
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
            0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        let text = STANDARD.encode([&HEAD, self.pair.public_key().as_ref()].concat());
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// A statement of in-toto in an envelope of DSSE, which `cosign verify-blob-attestation` reads.
    ///
    /// # Errors
    /// As [`Key::sign`].
    pub fn envelope(&self, statement: &[u8]) -> anyhow::Result<Vec<u8>> {
        let signature = self.sign(&encoded(IN_TOTO, statement))?;
        canonical(json!({
            "payloadType": IN_TOTO, "payload": STANDARD.encode(statement),
            "signatures": [{ "keyid": "", "sig": signature }],
        }))
    }
}

/// What an envelope's signature is of: DSSE's pre-authentication encoding.
fn encoded(kind: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), body.len());
    [head.as_bytes(), body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made for this test and used nowhere else.
    const PEM: &str = "-----BEGIN PRIVATE KEY-----\n@KEY@\n-----END PRIVATE KEY-----\n";

    #[test]
    fn the_envelope_is_dsse() {
        assert_eq!(
            encoded("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn other_keys_are_refused_with_a_word_on_what_is_wanted() {
        for text in [
            "",
            PEM,
            "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAA==\n",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
        ] {
            let error = Key::read(text).err().unwrap();
            assert!(
                format!("{error:#}").contains("openssl genpkey")
                    || format!("{error:#}").contains("base64"),
                "{error:#}"
            );
        }
    }
}
