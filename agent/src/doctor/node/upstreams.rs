//! Each upstream, asked directly from this node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};

use super::super::exchange::{self, Answer, ExchangeError, Question};
use super::super::facts::{Asked, Facts};
use super::super::finding::Finding;
use super::lookups;
use crate::upstream::address::Scheme;
use crate::wire::OUR_UDP_PAYLOAD;

/// For one try. Two follow each other within the deadline of a check.
const PATIENCE: Duration = Duration::from_millis(850);
/// An answer that takes longer is slow: a client of glibc gives up after 5 s, and a page makes dozens of look-ups.
const SLOW: Duration = Duration::from_millis(300);
/// Upstreams that are asked.
const MAX_UPSTREAMS: usize = 16;
/// What a packet of 1,500 octets has room for, without the headers of IPv6 and UDP.
const UNFRAGMENTED: usize = 1_452;
/// The largest UDP answer that is asked for.
const LARGE: u16 = 4_096;

/// Whether each answers over UDP, how fast, and with what.
pub async fn udp(facts: Arc<Facts>) -> Finding {
    each(&facts, |server, question| async move {
        let mut tried = exchange::udp(server, &question, PATIENCE).await;
        if tried.is_err() {
            tried = exchange::udp(server, &question, PATIENCE).await;
        }
        match tried {
            Ok(answer) => judged(server, &answer),
            Err(error) => Finding::problem(
                format!("{server}: {error}, twice"),
                "see whether it runs and this node may reach its port 53 (UDP); or forward to another",
            ),
        }
    })
    .await
}

fn judged(server: SocketAddr, answer: &Answer) -> Finding {
    let (code, took) = (answer.message.metadata.response_code, answer.took);
    if matches!(code, ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp) {
        return Finding::warning(
            format!("{server} answers {code}"),
            "it does not resolve for this node: look at its access list and at its own upstreams; --outside-name asks for a name \
             that it should know",
        );
    }
    if took > SLOW {
        return Finding::warning(
            format!("{server} took {} ms", took.as_millis()),
            "forward to a nearer one, or see why it is slow; `policy fastest` prefers the others",
        );
    }
    Finding::ok(format!("{server} in {} ms", took.as_millis()))
}

/// Whether each answers over TCP, without which long answers fail.
pub async fn tcp(facts: Arc<Facts>) -> Finding {
    each(&facts, |server, question| async move {
        match exchange::tcp(server, &question, PATIENCE * 3 / 2).await {
            Ok(answer) => Finding::ok(format!("{server} in {} ms", answer.took.as_millis())),
            Err(error) => match exchange::udp(server, &question, PATIENCE / 3).await {
                Ok(_) => Finding::problem(
                    format!("{server} answers over UDP, but not over TCP: {error}"),
                    "let TCP port 53 through: an answer that is truncated over UDP is SERVFAIL without it",
                ),
                Err(_) => Finding::skipped(format!("{server} does not answer at all")),
            },
        }
    })
    .await
}

/// Whether each knows EDNS (RFC 6891).
pub async fn edns(facts: Arc<Facts>) -> Finding {
    each(&facts, |server, question| async move {
        let with = question.with_edns(OUR_UDP_PAYLOAD);
        // A single datagram may be lost on its way.
        let asked = async {
            match exchange::udp(server, &with, PATIENCE).await {
                Err(ExchangeError::Silent(_)) => exchange::udp(server, &with, PATIENCE / 2).await,
                other => other,
            }
        };
        let (with, without) = tokio::join!(asked, exchange::udp(server, &question, PATIENCE));
        let cure = "a server or firewall of before 2000: replace it; until then every first query of a while costs a retry, \
                    answers are cut at 512 octets and DNSSEC does not work";
        match (with, without) {
            (_, Err(_)) => Finding::skipped(format!("{server} does not answer over UDP")),
            (Err(error), Ok(_)) => {
                Finding::problem(format!("{server} answers plain queries, but with EDNS: {error}"), cure)
            }
            (Ok(answer), Ok(_)) => match answer.message.metadata.response_code {
                code @ (ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS) => {
                    Finding::warning(format!("{server} answers {code} to EDNS"), cure)
                }
                _ if answer.message.edns.is_none() => {
                    Finding::warning(format!("{server} ignores EDNS: no OPT in its answer"), cure)
                }
                _ => Finding::ok(format!("{server} knows EDNS")),
            },
        }
    })
    .await
}

/// Whether each truncates what would fit, so that every answer takes TCP.
pub async fn truncation(facts: Arc<Facts>) -> Finding {
    each(&facts, |server, question| async move {
        let asked = question.with_edns(OUR_UDP_PAYLOAD);
        let (over_udp, over_tcp) = tokio::join!(
            exchange::udp(server, &asked, PATIENCE),
            exchange::tcp(server, &asked, PATIENCE)
        );
        let Ok(over_udp) = over_udp else {
            return Finding::skipped(format!("{server} does not answer over UDP"));
        };
        if !over_udp.message.metadata.truncation {
            return Finding::ok(format!("{server} answers in full over UDP"));
        }
        let cure = "it is set to send clients to TCP (RRL with slip 1, an upstream that rate-limits this node, or a middlebox): \
                    ask its operator, or use `force_tcp`, which saves the first try";
        match over_tcp {
            Ok(whole) if whole.octets <= usize::from(OUR_UDP_PAYLOAD) => Finding::problem(
                format!(
                    "{server} truncates an answer of {} octets, though {OUR_UDP_PAYLOAD} were offered",
                    whole.octets
                ),
                cure,
            ),
            Ok(whole) => Finding::ok(format!(
                "{server} truncates an answer of {} octets, which is too long",
                whole.octets
            )),
            Err(error) => Finding::problem(format!("{server} truncates, and over TCP: {error}"), cure),
        }
    })
    .await
}

/// Whether answers that need fragments arrive.
pub async fn fragments(facts: Arc<Facts>) -> Finding {
    each(&facts, |server, question| async move {
        // The keys of the root with their signatures are the longest answer that every resolver has.
        let is_outside = question.kind == RecordType::A;
        let large = Question { name: Name::root(), kind: RecordType::DNSKEY, edns: Some(LARGE), dnssec: true };
        let mut asked = vec![large];
        if is_outside {
            asked.push(Question { kind: RecordType::TXT, edns: Some(LARGE), dnssec: true, ..question });
        }
        let whole = join_all(asked.iter().map(|large| exchange::tcp(server, large, PATIENCE))).await;
        let longest = whole.into_iter().zip(asked).filter_map(|(answer, asked)| Some((answer.ok()?.octets, asked)));
        let Some((octets, asked)) = longest.max_by_key(|(octets, _)| *octets) else {
            return Finding::skipped(format!("{server} does not answer over TCP"));
        };
        if octets <= UNFRAGMENTED || octets > usize::from(LARGE) {
            return Finding::skipped(format!(
                "{server} has no answer that needs fragments ({octets} octets); --outside-name with long TXT records would"
            ));
        }
        match exchange::udp(server, &asked, PATIENCE).await {
            Ok(answer) if answer.message.metadata.truncation => {
                Finding::ok(format!("{server} truncates rather than fragments"))
            }
            Ok(answer) => Finding::ok(format!("{server}: {} octets over UDP arrive", answer.octets)),
            Err(ExchangeError::Silent(_)) => Finding::warning(
                format!("{server}: an answer of {octets} octets arrives over TCP, but in fragments over UDP it does not"),
                "something between drops fragments (firewall, overlay network): let them through. Nodens itself asks for 1,232 \
                 octets at most and is not hit; pods that ask upstreams themselves are",
            ),
            Err(error) => Finding::skipped(format!("{server}: {error}")),
        }
    })
    .await
}

/// Whether those over TLS show a certificate that is good, and answer.
pub async fn tls(facts: Arc<Facts>) -> Finding {
    let encrypted =
        facts.setup.upstreams.iter().filter(|asked| asked.target.scheme != Scheme::Plain);
    let encrypted: Vec<Asked> = encrypted.take(MAX_UPSTREAMS).cloned().collect();
    let asked = encrypted.iter().map(|asked| {
        let question = Question::within(&asked.zone, facts.outside_name.as_deref());
        async move {
            let target = &asked.target;
            if target.scheme != Scheme::Tls {
                return Finding::skipped(format!("{target}: HTTPS and QUIC are tried by the server only"));
            }
            match lookups::directly(asked, question.name, question.kind).await {
                Ok(_) => Finding::ok(format!("{target} answers over TLS")),
                Err(error) => Finding::problem(
                    format!("{target}: {error}"),
                    "behind `%` or in tls_servername is the name in its certificate, behind `tls` the authority that has signed \
                     it; port 853 has to be open, and the clock right",
                ),
            }
        }
    });
    Finding::worst(join_all(asked).await, facts.no_upstream("no upstream over TLS is configured"))
}

/// Runs a check for each plain upstream.
async fn each<F: Future<Output = Finding>>(
    facts: &Facts,
    check: impl Fn(SocketAddr, Question) -> F,
) -> Finding {
    let question = |asked: &Asked| Question::within(&asked.zone, facts.outside_name.as_deref());
    let plain = facts.setup.upstreams.iter().filter(|asked| asked.target.scheme == Scheme::Plain);
    let asked = plain.take(MAX_UPSTREAMS).map(|asked| check(asked.target.address, question(asked)));
    Finding::worst(join_all(asked).await, "no plain upstream is configured")
}
