//! Answers that are kept, rewritten, followed or made: the times, flags, codes and names that clients get of them.

#[path = "answers/aliases.rs"]
mod aliases;
#[path = "answers/hostile.rs"]
mod hostile;
#[path = "answers/rewriting.rs"]
mod rewriting;
#[path = "answers/sizes.rs"]
mod sizes;
#[path = "answers/special.rs"]
mod special;
#[path = "answers/times.rs"]
mod times;

use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tests::client::{Answer, Question};
use tests::process::{Nodens, Setup};
use tests::upstream::{Act, Seen, Upstream};

const SOON: Duration = Duration::from_secs(15);

const ZONE: &str = "$ORIGIN .
$TTL 1800
. IN SOA ns.test. admin.test. 1 3600 600 86400 60
www.test. IN A 192.0.2.1
alias.test. IN CNAME www.test.
nx.test. IN CNAME glb.test.
other.test. IN CNAME there.aws.
new.test. IN A 192.0.2.7
";

/// A server block for everything, with these directives in front of a `forward` to `upstream`.
fn start(upstream: &Upstream, directives: &str) -> Nodens {
    setup(upstream, directives).start()
}

fn setup(upstream: &Upstream, directives: &str) -> Setup {
    let corefile = format!(
        ".:@dns@ {{
    bind 127.0.0.1
    errors
    ready 127.0.0.1:@ready@
    {directives}
    forward . {}
}}
",
        upstream.address()
    );
    Setup::new(&corefile)
}

fn zone() -> Upstream {
    let upstream = Upstream::with_zone(ZONE);
    upstream.offer_recursion();
    upstream
}

fn udp(nodens: &Nodens, name: &str) -> Answer {
    nodens.client().udp(&Question::new(name, RecordType::A)).unwrap()
}

fn tcp(nodens: &Nodens, name: &str, kind: RecordType) -> Answer {
    nodens.client().tcp(&Question::new(name, kind)).unwrap()
}

/// The code and the answer section, in one line.
fn line(answer: &Answer) -> String {
    let normal = &answer.normal;
    format!("{} {}", normal.rcode, normal.answer.join("; ")).trim_end().to_owned()
}

/// The times to live of all records.
fn ttls(answer: &Answer) -> Vec<u32> {
    let message = &answer.message;
    message.answers.iter().chain(&message.authorities).map(|record| record.ttl).collect()
}

/// The response to a query that was seen, changed.
fn response(seen: &Seen, change: impl FnOnce(&mut Message)) -> Act {
    let mut message = Message::from_vec(&seen.bytes).unwrap();
    message.metadata.message_type = MessageType::Response;
    message.metadata.recursion_available = true;
    message.edns = None;
    change(&mut message);
    Act::Raw(message.to_vec().unwrap())
}

fn record(name: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(Name::from_ascii(name).unwrap(), ttl, data)
}

fn cname(name: &str, ttl: u32, target: &str) -> Record {
    let target = Name::from_ascii(target).unwrap();
    record(name, ttl, RData::CNAME(hickory_proto::rr::rdata::CNAME(target)))
}

fn a(name: &str, ttl: u32, last: u8) -> Record {
    record(name, ttl, RData::A(std::net::Ipv4Addr::new(192, 0, 2, last).into()))
}

const NXDOMAIN: ResponseCode = ResponseCode::NXDomain;

/// A response with these octets behind the question, and these counts.
fn raw(seen: &Seen, counts: [u16; 3], records: &[u8]) -> Act {
    let end = nodens::wire::Layout::parse(&seen.bytes).unwrap().question_end;
    let mut bytes = seen.bytes[..end].to_vec();
    bytes[2] |= 0x80;
    for (at, count) in [6, 8, 10].into_iter().zip(counts) {
        bytes[at..at + 2].copy_from_slice(&count.to_be_bytes());
    }
    bytes.extend_from_slice(records);
    Act::Raw(bytes)
}

/// So many addresses of the name that was asked for, each by a pointer to the question.
fn addresses(seen: &Seen, count: u16) -> Act {
    let mut records = Vec::new();
    for n in 0..count {
        let [high, low] = n.to_be_bytes();
        if seen.kind == RecordType::A {
            let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, high, low];
            records.extend_from_slice(&record);
        } else {
            records.extend_from_slice(&[0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 60, 0, 16, 0x20, 1]);
            records.extend_from_slice(&[0; 12]);
            records.extend_from_slice(&[high, low]);
        }
    }
    raw(seen, [count, 0, 0], &records)
}
