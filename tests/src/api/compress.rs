//! gzip, as API servers use it: for lists of some size, at the fastest level.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream::{self, StreamExt};

use super::list::Pieces;

/// Shorter bodies are sent as they are.
const LEAST: usize = 128 << 10;

/// Compresses a body if it is long enough; returns whether it is compressed.
pub(crate) async fn compress(mut pieces: Pieces) -> (Pieces, bool) {
    let (mut begun, mut len) = (Vec::new(), 0);
    while len < LEAST {
        match pieces.next().await {
            Some(Ok(piece)) => {
                len += piece.len();
                begun.push(Ok(piece));
            }
            Some(Err(error)) => {
                begun.push(Err(error));
                break;
            }
            None => return (stream::iter(begun).boxed(), false),
        }
    }
    let encoder = Some(GzEncoder::new(Vec::new(), Compression::fast()));
    let all = stream::iter(begun).chain(pieces).boxed();
    let compressed = stream::unfold((all, encoder), |(mut all, encoder)| async move {
        let mut encoder = encoder?;
        loop {
            match all.next().await {
                Some(Ok(piece)) => {
                    if let Err(error) = encoder.write_all(&piece) {
                        return Some((Err(error), (all, None)));
                    }
                    let out = std::mem::take(encoder.get_mut());
                    if !out.is_empty() {
                        return Some((Ok(Bytes::from(out)), (all, Some(encoder))));
                    }
                }
                Some(Err(error)) => return Some((Err(error), (all, None))),
                None => return Some((encoder.finish().map(Bytes::from), (all, None))),
            }
        }
    });
    (compressed.boxed(), true)
}
