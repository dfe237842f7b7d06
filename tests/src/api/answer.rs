//! The way of one request: log, faults, credentials, rules, answer; and what faults do to a body.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::time::MissedTickBehavior;

use super::compress::compress;
use super::fault::{Fault, Garbage};
use super::list::Pieces;
use super::log::RequestRecord;
use super::options::{Behaviour, Protobuf};
use super::request::{ApiRequest, Target};
use super::server::Shared;
use super::status::Status;
use super::{discovery, list, protobuf, watch};

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The way of one request: log, faults, credentials, rules, answer.
pub(crate) async fn handle(
    shared: Arc<Shared>,
    request: Request<Incoming>,
    certificate: bool,
    connection: u64,
) -> Result<Response<Body>, Infallible> {
    let (parts, _) = request.into_parts();
    let request = ApiRequest::read(&parts);
    let place = shared.log.begin(RequestRecord {
        at: Instant::now(),
        verb: request.verb.clone(),
        resource: request.resource_name().to_owned(),
        namespace: match &request.target {
            Target::Resource { namespace, .. } => namespace.clone(),
            Target::Path(_) => None,
        },
        query: request.query.clone(),
        user_agent: request.user_agent.clone(),
        accept: request.accept.clone(),
        gzip: request.gzip,
        http2: parts.version == http::Version::HTTP_2,
        connection,
        status: 0,
    });
    let faults = shared.faults.take(&request.verb, request.resource_name());
    if faults.contains(&Fault::Stall) {
        let mut changes = shared.faults.changes();
        while shared.faults.holds(&request.verb, request.resource_name(), Fault::Stall) {
            if changes.changed().await.is_err() {
                break;
            }
        }
    }
    let mut response = match answer(&shared, &request, certificate, &faults) {
        Ok(answer) => success(answer, &faults).await,
        Err(status) => failure(&status, request.prefers_protobuf() && speaks_protobuf(&shared)),
    };
    let ahead = shared.behaviour().ahead;
    if ahead != 0
        && let Ok(date) = date(ahead).parse()
    {
        response.headers_mut().insert(http::header::DATE, date);
    }
    shared.log.answered(place, response.status().as_u16());
    Ok(response)
}

fn answer(
    shared: &Arc<Shared>,
    request: &ApiRequest,
    certificate: bool,
    faults: &[Fault],
) -> Result<Answer, Status> {
    for fault in faults {
        match fault {
            Fault::Status { code, retry_after } => {
                let status =
                    Status::new(*code, "the server is currently unable to handle the request");
                return Err(match retry_after {
                    Some(seconds) => status.retry_after(*seconds),
                    None => status,
                });
            }
            Fault::Unauthorized => return Err(Status::unauthorized()),
            Fault::Gone if !request.parameter("continue").is_empty() => {
                return Err(Status::continue_expired());
            }
            _ => {}
        }
    }
    let behaviour = shared.behaviour();
    let Target::Resource { resource, namespace, name } = &request.target else {
        return path(request, &behaviour).map(Answer::json);
    };
    if !shared.authenticated(request, certificate) {
        return Err(Status::unauthorized());
    }
    if resource.custom && !behaviour.multicluster {
        return Err(Status::new(404, "the server could not find the requested resource"));
    }
    let (namespace, name) = (namespace.as_deref(), name.as_deref());
    let allowed = behaviour.policy.is_none_or(|p| p.allows(&request.verb, resource, name));
    if !allowed || faults.contains(&Fault::Forbidden) {
        return Err(Status::forbidden(&request.verb, resource, namespace, name));
    }
    let in_protobuf = match behaviour.protobuf {
        _ if !request.prefers_protobuf() || request.metadata_only => false,
        Protobuf::Supported => protobuf::knows(resource),
        Protobuf::Absent if request.accept.contains("application/json") => false,
        Protobuf::Absent | Protobuf::Refused => return Err(Status::not_acceptable()),
    };
    match (request.verb.as_str(), name) {
        ("get", Some(name)) => {
            let body = list::get(&shared.store, resource, namespace, name, request.metadata_only)?;
            Ok(Answer::json(whole(body)))
        }
        ("list", _) => {
            let pieces = list::respond(&shared.store, resource, request, in_protobuf)?;
            Ok(Answer {
                pieces,
                in_protobuf,
                compress: request.gzip && behaviour.gzip,
                watch: false,
            })
        }
        ("watch", _) => {
            let pieces = watch::respond(shared, resource, request, in_protobuf)?;
            Ok(Answer { pieces, in_protobuf, compress: false, watch: true })
        }
        (verb, _) => {
            let message =
                format!("the server does not allow this method on the requested resource: {verb}");
            Err(Status::new(405, message))
        }
    }
}

/// A body, and what it is.
struct Answer {
    pieces: Pieces,
    in_protobuf: bool,
    /// The client accepts gzip, and the server has it.
    compress: bool,
    watch: bool,
}

impl Answer {
    fn json(pieces: Pieces) -> Self {
        Self { pieces, in_protobuf: false, compress: false, watch: false }
    }
}

fn speaks_protobuf(shared: &Shared) -> bool {
    shared.behaviour().protobuf == Protobuf::Supported
}

fn path(request: &ApiRequest, behaviour: &Behaviour) -> Result<Pieces, Status> {
    let path = request.resource_name();
    if matches!(path, "/healthz" | "/livez" | "/readyz") {
        return Ok(whole(Bytes::from_static(b"ok")));
    }
    let node =
        path.strip_prefix("/api/v1/nodes/").and_then(|rest| rest.strip_suffix("/proxy/configz"));
    if let Some(told) = node.and_then(|node| behaviour.configz.get(node)) {
        return Ok(whole(Bytes::from(told.to_string())));
    }
    discovery::document(path, &behaviour.version, behaviour.multicluster)
        .map(|document| whole(Bytes::from(document.to_string())))
        .ok_or_else(|| Status::new(404, "the server could not find the requested resource"))
}

/// The time in so many seconds, as HTTP has it.
fn date(ahead: i64) -> String {
    use k8s_openapi::jiff::{SignedDuration, Timestamp, fmt::rfc2822::DateTimePrinter};
    let at = Timestamp::now() + SignedDuration::from_secs(ahead);
    DateTimePrinter::new().timestamp_to_rfc9110_string(&at).unwrap_or_default()
}

fn whole(body: Bytes) -> Pieces {
    stream::once(async move { Ok(body) }).boxed()
}

async fn success(answer: Answer, faults: &[Fault]) -> Response<Body> {
    let kind = match (answer.in_protobuf, answer.watch) {
        (false, _) => "application/json",
        (true, false) => "application/vnd.kubernetes.protobuf",
        (true, true) => "application/vnd.kubernetes.protobuf;stream=watch",
    };
    let mut builder = Response::builder().status(200).header("content-type", kind);
    let mut pieces = answer.pieces;
    if answer.compress {
        let compressed;
        (pieces, compressed) = compress(pieces).await;
        if compressed {
            builder = builder.header("content-encoding", "gzip");
        }
    }
    for fault in faults {
        pieces = match fault {
            Fault::Garbage(Garbage::Html) => {
                builder = builder.status(502).header("content-type", "text/html");
                whole(Bytes::from_static(
                    b"<html><head><title>502 Bad Gateway</title></head></html>\n",
                ))
            }
            Fault::Garbage(Garbage::Json) => {
                whole(Bytes::from_static(b"{\"kind\": [}, ,\xff\xfe nonsense\n"))
            }
            Fault::Garbage(Garbage::WrongKind) => whole(Bytes::from_static(
                b"{\"kind\":\"Banana\",\"apiVersion\":\"fruit/v1\",\"items\":7}\n",
            )),
            Fault::Garbage(Garbage::Truncated) => truncated(pieces).await,
            Fault::Slow { bytes_per_second } => slowed(pieces, *bytes_per_second),
            Fault::CutAfter { bytes } => cut_after(pieces, *bytes),
            _ => pieces,
        };
    }
    let body = StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync();
    builder.body(body).unwrap_or_default()
}

fn failure(status: &Status, in_protobuf: bool) -> Response<Body> {
    let (kind, body) = match in_protobuf {
        true => ("application/vnd.kubernetes.protobuf", status.to_protobuf()),
        false => ("application/json", status.to_json()),
    };
    let mut builder = Response::builder().status(status.code).header("content-type", kind);
    if let Some(seconds) = status.retry_after {
        builder = builder.header("retry-after", seconds);
    }
    let body = Full::new(body).map_err(|never| match never {}).boxed_unsync();
    builder.body(body).unwrap_or_default()
}

/// The first half of the first piece: of a list its head and some objects, of a watch half an event.
async fn truncated(mut pieces: Pieces) -> Pieces {
    match pieces.next().await {
        Some(Ok(first)) => whole(first.slice(..first.len() / 2)),
        _ => whole(Bytes::new()),
    }
}

fn slowed(pieces: Pieces, bytes_per_second: usize) -> Pieces {
    const STEP: Duration = Duration::from_millis(50);
    let step = (bytes_per_second / 20).max(1);
    let split = pieces.flat_map(move |piece| {
        let parts: Vec<io::Result<Bytes>> = match piece {
            Ok(bytes) => (0..bytes.len())
                .step_by(step)
                .map(|at| Ok(bytes.slice(at..bytes.len().min(at + step))))
                .collect(),
            Err(error) => vec![Err(error)],
        };
        stream::iter(parts)
    });
    let mut pace = tokio::time::interval(STEP);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    stream::unfold((split.boxed(), pace), |(mut split, mut pace)| async move {
        pace.tick().await;
        Some((split.next().await?, (split, pace)))
    })
    .boxed()
}

fn cut_after(pieces: Pieces, bytes: usize) -> Pieces {
    pieces
        .scan(bytes, |left, piece| {
            let out = match piece {
                _ if *left == 0 => Err(io::Error::other("cut by the test")),
                Ok(piece) => {
                    let part = piece.slice(..piece.len().min(*left));
                    *left -= part.len();
                    Ok(part)
                }
                Err(error) => Err(error),
            };
            std::future::ready(Some(out))
        })
        .boxed()
}
