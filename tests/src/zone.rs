//! A zone for the test upstream: records from a master file, and the answer to each question as an authority gives it.

use std::collections::BTreeMap;

use anyhow::{Context, anyhow};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};
use hickory_proto::serialize::txt::Parser;

/// How many CNAMEs in a row are followed.
const CHAIN: usize = 8;

/// The records of one zone.
#[derive(Debug, Clone)]
pub struct Zone {
    origin: LowerName,
    records: BTreeMap<LowerName, Vec<Record>>,
}

impl Zone {
    /// Reads a master file; the zone's origin is the owner of its SOA.
    ///
    /// # Errors
    /// Bad syntax, or no SOA.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let text = with_ttls(text);
        let (_, sets) = Parser::new(text, None, Some(Name::root()))
            .parse()
            .map_err(|error| anyhow!("zone file: {error}"))?;
        let mut records: BTreeMap<LowerName, Vec<Record>> = BTreeMap::new();
        let mut origin = None;
        for (key, set) in sets {
            let all: Vec<Record> = set.records_without_rrsigs().cloned().collect();
            if key.record_type == RecordType::SOA {
                origin = Some(key.name().clone());
            }
            records.entry(key.name().clone()).or_default().extend(all);
        }
        Ok(Self { origin: origin.context("zone file: no SOA")?, records })
    }

    /// A root zone with nothing but a SOA: everything is NXDOMAIN.
    ///
    /// # Panics
    /// Never; the text is constant.
    #[must_use]
    pub fn empty() -> Self {
        Self::parse("$ORIGIN .\n$TTL 60\n. IN SOA ns.test. admin.test. 1 3600 600 86400 60\n")
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Adds one record.
    pub fn add(&mut self, record: Record) {
        self.records.entry(LowerName::new(&record.name)).or_default().push(record);
    }

    /// Removes all records at a name.
    pub fn remove(&mut self, name: &Name) {
        self.records.remove(&LowerName::new(name));
    }

    /// The authoritative response to a question. Like CoreDNS's `file` plugin it puts the zone's NS records into the
    /// authority section of positive answers.
    #[must_use]
    pub fn answer(&self, request: &Message) -> Message {
        let mut response = Message::new(request.metadata.id, MessageType::Response, OpCode::Query);
        response.metadata.recursion_desired = request.metadata.recursion_desired;
        response.metadata.authoritative = true;
        let Some(query) = request.queries.first() else {
            response.metadata.response_code = ResponseCode::FormErr;
            return response;
        };
        response.add_query(query.clone());
        self.fill(&mut response, query);
        response
    }

    fn fill(&self, response: &mut Message, query: &Query) {
        let mut name = query.name.clone();
        for _ in 0..CHAIN {
            let here = self.records.get(&LowerName::new(&name));
            let wanted = |r: &&Record| {
                query.query_type == RecordType::ANY || r.record_type() == query.query_type
            };
            let found: Vec<Record> = here.into_iter().flatten().filter(wanted).cloned().collect();
            if !found.is_empty() {
                for mut record in found {
                    record.name = name.clone();
                    response.add_answer(record);
                }
                if query.query_type != RecordType::NS {
                    response.add_authorities(self.at_origin(RecordType::NS));
                }
                return;
            }
            let alias = here.into_iter().flatten().find_map(|r| match &r.data {
                RData::CNAME(target) => Some((r.clone(), target.0.clone())),
                _ => None,
            });
            if let Some((record, target)) = alias {
                response.add_answer(record);
                name = target;
                continue;
            }
            if here.is_none() && !self.is_above_another(&name) {
                response.metadata.response_code = ResponseCode::NXDomain;
            }
            break;
        }
        response.add_authorities(self.at_origin(RecordType::SOA));
    }

    fn is_above_another(&self, name: &Name) -> bool {
        let name = LowerName::new(name);
        self.records.keys().any(|other| *other != name && name.zone_of(other))
    }

    fn at_origin(&self, kind: RecordType) -> Vec<Record> {
        let all = self.records.get(&self.origin).into_iter().flatten();
        all.filter(|r| r.record_type() == kind).cloned().collect()
    }
}

/// Writes `$TTL` out: the parser takes the last explicit TTL where a record has none.
fn with_ttls(text: &str) -> String {
    let mut ttl = "3600";
    let mut out = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["$TTL", value, ..] => ttl = value,
            [owner, class, rest @ ..]
                if class.eq_ignore_ascii_case("IN") && !line.starts_with(char::is_whitespace) =>
            {
                out.push_str(&format!("{owner} {ttl} IN {}\n", rest.join(" ")));
                continue;
            }
            _ => {}
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normal::Normal;

    fn ask(zone: &Zone, name: &str, kind: RecordType) -> Normal {
        let mut request = Message::query();
        request.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        Normal::of(&zone.answer(&request))
    }

    #[test]
    fn answers_as_the_recorded_upstream() {
        let zone = Zone::parse(include_str!("../data/conformance/upstream.zone")).unwrap();
        let ptr = ask(&zone, "99.99.99.10.in-addr.arpa.", RecordType::PTR);
        assert_eq!(ptr.answer, ["99.99.99.10.in-addr.arpa. 3600 PTR upstream-ptr.example.com."]);
        assert_eq!(ptr.authority, [". 3600 NS ns.example.com."]);
        let chain = ask(&zone, "x.example.org.", RecordType::A);
        assert_eq!(chain.answer.len(), 3);
        let missing = ask(&zone, "no.example.", RecordType::A);
        assert_eq!((missing.rcode.as_str(), missing.aa), ("NXDOMAIN", true));
        assert_eq!(
            missing.authority,
            [". 60 SOA ns.example.com. admin.example.com. 1 3600 600 86400 60"]
        );
        assert_eq!(ask(&zone, "b.c.example.net.", RecordType::A).rcode, "NOERROR");
        assert_eq!(
            ask(&zone, "txt.example.com.", RecordType::TXT).answer,
            ["txt.example.com. 3600 TXT \"hello from upstream\""]
        );
        for (name, kind) in
            [("svc.example.com.", RecordType::HTTPS), ("mx.example.com.", RecordType::MX)]
        {
            assert_eq!(ask(&zone, name, kind).answer.len(), 1, "{name}");
        }
    }
}
