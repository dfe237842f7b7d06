//! The normal form of the conformance record: a record as `name ttl type rdata`, in lower case.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// The content of a response, ready to be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Normal {
    /// `NOERROR`, `NXDOMAIN` and so on; the number where there is no name.
    pub rcode: String,
    /// The AA bit.
    pub aa: bool,
    /// Records of the answer section, sorted.
    pub answer: Vec<String>,
    /// Records of the authority section, sorted.
    pub authority: Vec<String>,
    /// Records of the additional section, sorted, without OPT.
    pub additional: Vec<String>,
}

impl Normal {
    /// Brings a response into the normal form.
    #[must_use]
    pub fn of(message: &Message) -> Self {
        Self {
            rcode: rcode(message.metadata.response_code),
            aa: message.metadata.authoritative,
            answer: section(&message.answers),
            authority: section(&message.authorities),
            additional: section(&message.additionals),
        }
    }
}

/// The usual name of a response code.
#[must_use]
pub fn rcode(code: ResponseCode) -> String {
    match code {
        ResponseCode::NoError => "NOERROR".into(),
        ResponseCode::FormErr => "FORMERR".into(),
        ResponseCode::ServFail => "SERVFAIL".into(),
        ResponseCode::NXDomain => "NXDOMAIN".into(),
        ResponseCode::NotImp => "NOTIMP".into(),
        ResponseCode::Refused => "REFUSED".into(),
        // BADSIG shares the number; without TSIG it is BADVERS.
        ResponseCode::BADVERS | ResponseCode::BADSIG => "BADVERS".into(),
        other => u16::from(other).to_string(),
    }
}

/// One record as `name ttl type rdata`, in lower case but for the type.
#[must_use]
pub fn record(record: &Record) -> String {
    let (name, data) = (text(&record.name), rdata(&record.data));
    format!(
        "{} {} {} {}",
        name.to_lowercase(),
        record.ttl,
        record.record_type(),
        data.to_lowercase()
    )
}

/// A name as it stands in the message, with the final dot.
#[must_use]
pub fn text(name: &Name) -> String {
    let mut name = name.clone();
    name.set_fqdn(true);
    name.to_ascii()
}

fn section(records: &[Record]) -> Vec<String> {
    let kept = records.iter().filter(|r| r.record_type() != RecordType::OPT);
    let mut lines: Vec<String> = kept.map(record).collect();
    lines.sort_unstable();
    lines
}

fn rdata(data: &RData) -> String {
    match data {
        RData::CNAME(name) => text(name),
        RData::NS(name) => text(name),
        RData::PTR(name) => text(name),
        RData::MX(mx) => format!("{} {}", mx.preference, text(&mx.exchange)),
        RData::SRV(srv) => {
            format!("{} {} {} {}", srv.priority, srv.weight, srv.port, text(&srv.target))
        }
        RData::SOA(soa) => format!(
            "{} {} {} {} {} {} {}",
            text(&soa.mname),
            text(&soa.rname),
            soa.serial,
            soa.refresh,
            soa.retry,
            soa.expire,
            soa.minimum
        ),
        RData::TXT(txt) => {
            let strings = txt.txt_data.iter();
            let quoted: Vec<String> =
                strings.map(|s| format!("\"{}\"", String::from_utf8_lossy(s))).collect();
            quoted.join(" ")
        }
        other => other.to_string(),
    }
}
