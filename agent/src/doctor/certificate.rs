//! Until when a certificate is valid (RFC 5280 section 4.1.2.5). Nothing else of it is read: who signed it is rustls' business.

use std::time::SystemTime;

use k8s_openapi::jiff::civil::DateTime;
use k8s_openapi::jiff::tz::TimeZone;

/// When a certificate in DER ends.
pub fn ends(der: &[u8]) -> Option<SystemTime> {
    // Certificate ::= SEQUENCE { tbsCertificate SEQUENCE { [0] version, serialNumber, signature, issuer, validity, ... } ... }
    let (_, certificate, _) = element(der)?;
    let (_, mut fields, _) = element(certificate)?;
    let (tag, _, rest) = element(fields)?;
    if tag == EXPLICIT_VERSION {
        fields = rest;
    }
    for _ in 0..3 {
        (_, _, fields) = element(fields)?;
    }
    let (_, validity, _) = element(fields)?;
    let (_, _, rest) = element(validity)?;
    let (tag, text, _) = element(rest)?;
    time(tag, std::str::from_utf8(text).ok()?)
}

const EXPLICIT_VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Tag, content and what follows of the first element.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        short @ 0..0x80 => (usize::from(short), rest),
        // Four octets of length are more than any certificate needs.
        long => {
            let octets = usize::from(long & 0x7f);
            let length = rest.get(..octets).filter(|octets| (1..=4).contains(&octets.len()))?;
            let length = length.iter().fold(0, |sum, &octet| sum << 8 | usize::from(octet));
            (length, rest.get(octets..)?)
        }
    };
    Some((tag, rest.get(..length)?, rest.get(length..)?))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn time(tag: u8, text: &str) -> Option<SystemTime> {
    let digits = text.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME => (digits.get(..2)?.parse::<u64>().ok()?, digits.get(2..)?),
        GENERALIZED_TIME => (digits.get(..4)?.parse::<u64>().ok()?, digits.get(4..)?),
        _ => return None,
    };
    let year = match tag {
        UTC_TIME if year < 50 => 2_000 + year,
        UTC_TIME => 1_900 + year,
        _ => year,
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<i8>().ok();
    let (year, month, day) = (i16::try_from(year).ok()?, part(0)?, part(2)?);
    let (hour, minute, second) = (part(4)?, part(6)?, part(8)?);
    let civil = DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
    Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp().into())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn seconds(tag: u8, text: &str) -> Option<u64> {
        Some(time(tag, text)?.duration_since(UNIX_EPOCH).unwrap().as_secs())
    }

    #[test]
    fn both_kinds_of_time_are_read() {
        assert_eq!(seconds(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(seconds(UTC_TIME, "240229123456Z"), Some(1_709_210_096));
        assert_eq!(seconds(GENERALIZED_TIME, "40960101000000Z"), Some(67_090_118_400));
        for bad in ["", "Z", "240229Z", "241329000000Z", "240229123456"] {
            assert_eq!(seconds(UTC_TIME, bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_octets_are_read(octets in proptest::collection::vec(0u8.., 0..300)) {
            let _ = ends(&octets);
        }
    }
}
