//! `list` and `get`: whole lists, pages of a consistent snapshot, one object.

use std::io;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, StreamExt};
use serde_json::{Value, json};

use super::protobuf;
use super::request::ApiRequest;
use super::resource::Resource;
use super::status::Status;
use super::store::{Object, Snapshot, Store};

/// A body in pieces.
pub(crate) type Pieces = BoxStream<'static, io::Result<Bytes>>;

/// About how large a piece of a body is.
pub(crate) const PIECE: usize = 64 * 1024;

/// Answers a list. Real semantics: with `resourceVersion=0` the watch cache answers and `limit` is ignored, and so it does
/// for a version without a limit, if it has come so far; else etcd is read, and the first page fixes a snapshot from which
/// all further pages are read.
pub(crate) fn respond(
    store: &Store,
    resource: &'static Resource,
    request: &ApiRequest,
    in_protobuf: bool,
) -> Result<Pieces, Status> {
    let selector = request.selector()?;
    let revision = request.revision("resourceVersion")?;
    let limit: usize = match request.parameter("limit") {
        "" => 0,
        text => text.parse().map_err(|_| Status::new(400, format!("invalid limit: {text}")))?,
    };
    let token = request.parameter("continue");
    if request.flag("sendInitialEvents") {
        return Err(Status::invalid_option(
            "sendInitialEvents",
            "Forbidden: sendInitialEvents is forbidden for list",
        ));
    }
    if !token.is_empty() {
        if revision.is_some_and(|r| r > 0) {
            return Err(Status::new(
                400,
                "specifying resource version is not allowed when using continue",
            ));
        }
        let (number, start) = read_token(token)?;
        let snapshot = store.kept(number).ok_or_else(Status::continue_expired)?;
        let part = Part { number, start, limit };
        return Ok(page(resource, &snapshot, part, request.metadata_only, in_protobuf));
    }
    let cached = revision.is_some_and(|version| version == 0 || limit == 0);
    let snapshot = match cached {
        true => store.cached(resource, &selector),
        false => store.snapshot(resource, &selector),
    };
    if let Some(asked) = revision.filter(|asked| *asked > snapshot.revision) {
        return Err(Status::too_large(asked, snapshot.revision));
    }
    if limit == 0 || revision == Some(0) || snapshot.objects.len() <= limit {
        let whole = Part { number: 0, start: 0, limit: 0 };
        return Ok(page(resource, &snapshot, whole, request.metadata_only, in_protobuf));
    }
    let part = Part { number: store.keep(&snapshot), start: 0, limit };
    Ok(page(resource, &snapshot, part, request.metadata_only, in_protobuf))
}

/// Answers a get.
pub(crate) fn get(
    store: &Store,
    resource: &'static Resource,
    namespace: Option<&str>,
    name: &str,
    metadata_only: bool,
) -> Result<Bytes, Status> {
    let object = store
        .object(resource, namespace.unwrap_or(""), name)
        .ok_or_else(|| Status::not_found(resource, name))?;
    let mut out = BytesMut::new();
    write_typed(&mut out, resource, &object, metadata_only);
    Ok(out.freeze())
}

/// Writes an object with `kind` and `apiVersion` in front, as gets and watch events carry it.
pub(crate) fn write_typed(
    out: &mut BytesMut,
    resource: &Resource,
    object: &Object,
    metadata_only: bool,
) {
    let (kind, api_version, json) = if metadata_only {
        ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned(), object.metadata_only())
    } else {
        (resource.kind, resource.api_version(), object.json())
    };
    match json.strip_prefix(b"{") {
        Some(rest) => {
            out.extend_from_slice(
                format!(r#"{{"kind":"{kind}","apiVersion":"{api_version}""#).as_bytes(),
            );
            if rest.first() != Some(&b'}') {
                out.extend_from_slice(b",");
            }
            out.extend_from_slice(rest);
        }
        // A raw object that is no JSON object goes out as it is.
        None => out.extend_from_slice(json),
    }
}

/// Which part of a snapshot a page is.
struct Part {
    number: u64,
    start: usize,
    limit: usize,
}

fn page(
    resource: &'static Resource,
    snapshot: &Snapshot,
    Part { number, start, limit }: Part,
    metadata_only: bool,
    in_protobuf: bool,
) -> Pieces {
    let all = snapshot.objects.clone();
    let end = if limit == 0 { all.len() } else { all.len().min(start.saturating_add(limit)) };
    let mut metadata = json!({"resourceVersion": snapshot.revision.to_string()});
    if end < all.len() {
        metadata["continue"] = json!(write_token(number, end));
        metadata["remainingItemCount"] = json!(all.len() - end);
    }
    if in_protobuf {
        return protobuf_page(resource, &all, start.min(end)..end, &metadata);
    }
    let (kind, api_version) = if metadata_only {
        ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned())
    } else {
        (format!("{}List", resource.kind), resource.api_version())
    };
    let head = format!(
        r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{metadata},"items":["#
    );
    // Built-in types have neither kind nor apiVersion on list items, custom resources have both.
    let typed = resource.custom || metadata_only;
    let state =
        Items { resource, all, next: start.min(end), end, typed, metadata_only, head: Some(head) };
    stream::unfold(Some(state), |state| async move {
        let mut state = state?;
        let piece = state.piece();
        let more = !piece.1;
        Some((Ok(piece.0), more.then_some(state)))
    })
    .boxed()
}

/// A page in protobuf. Its length has to be known before its first object is written.
fn protobuf_page(
    resource: &'static Resource,
    all: &[Arc<Object>],
    range: std::ops::Range<usize>,
    metadata: &Value,
) -> Pieces {
    let objects = all.get(range).unwrap_or_default();
    let metadata = protobuf::list_metadata(metadata);
    let items = objects.iter().map(|object| object.protobuf(resource).len());
    let len: usize = items.chain([metadata.len()]).map(protobuf::bytes_len).sum();
    let mut pieces = Vec::new();
    let mut out = Vec::with_capacity(PIECE + PIECE / 4);
    protobuf::envelope(&mut out, &resource.api_version(), &format!("{}List", resource.kind), len);
    protobuf::bytes(&mut out, 1, &metadata);
    for object in objects {
        protobuf::bytes(&mut out, 2, object.protobuf(resource));
        if out.len() >= PIECE {
            pieces.push(Ok(Bytes::from(std::mem::take(&mut out))));
        }
    }
    protobuf::end_envelope(&mut out);
    pieces.push(Ok(Bytes::from(out)));
    stream::iter(pieces).boxed()
}

struct Items {
    resource: &'static Resource,
    all: Arc<Vec<Arc<Object>>>,
    next: usize,
    end: usize,
    typed: bool,
    metadata_only: bool,
    head: Option<String>,
}

impl Items {
    /// The next piece of the body, and whether it is the last.
    fn piece(&mut self) -> (Bytes, bool) {
        let mut out = BytesMut::with_capacity(PIECE + PIECE / 4);
        let mut first = false;
        if let Some(head) = self.head.take() {
            out.extend_from_slice(head.as_bytes());
            first = true;
        }
        while self.next < self.end && out.len() < PIECE {
            if !std::mem::take(&mut first) {
                out.extend_from_slice(b",");
            }
            if let Some(object) = self.all.get(self.next) {
                if self.typed {
                    write_typed(&mut out, self.resource, object, self.metadata_only);
                } else {
                    out.extend_from_slice(object.json());
                }
            }
            self.next += 1;
        }
        let last = self.next >= self.end;
        if last {
            out.extend_from_slice(b"]}\n");
        }
        (out.freeze(), last)
    }
}

fn write_token(snapshot: u64, start: usize) -> String {
    URL_SAFE_NO_PAD
        .encode(json!({"v": "meta.k8s.io/v1", "snapshot": snapshot, "start": start}).to_string())
}

fn read_token(token: &str) -> Result<(u64, usize), Status> {
    let bad = || Status::new(400, "continue key is not valid");
    let text = URL_SAFE_NO_PAD.decode(token).map_err(|_| bad())?;
    let value: Value = serde_json::from_slice(&text).map_err(|_| bad())?;
    let snapshot = value["snapshot"].as_u64().ok_or_else(bad)?;
    let start = value["start"].as_u64().and_then(|s| usize::try_from(s).ok()).ok_or_else(bad)?;
    Ok((snapshot, start))
}
