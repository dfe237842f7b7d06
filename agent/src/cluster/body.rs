//! Reads the body of a response: chunk by chunk, decompressed, within bounds, each with a deadline.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use flate2::write::GzDecoder;
use http_body_util::BodyExt;
use kube::client::Body as KubeBody;
use tokio::time::timeout;

use super::client::{Reply, plain};
use super::decode::Encoding;
use super::limiter::Place;
use super::status::Status;

/// How reading ended where it should not have.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("the API server sent nothing for {} s", .0.as_secs())]
    Stalled(Duration),
    #[error("the connection was cut: {0}")]
    Cut(String),
    #[error("the API server sent what cannot be decompressed: {0}")]
    Compression(String),
}

/// The body of a response with status 200.
pub(super) struct Body {
    body: KubeBody,
    /// Present if the body is compressed.
    gzip: Option<Gzip>,
    encoding: Encoding,
    /// Of a list, until it has been read.
    _place: Place,
}

impl Body {
    /// A watch has given its place back by then.
    pub(super) fn new(reply: Reply) -> Self {
        let gzip = reply.gzip.then(Gzip::default);
        Self { body: reply.body, gzip, encoding: reply.encoding, _place: reply.place }
    }

    /// What the body is written in.
    pub(super) fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Waits for the next octets, for `patience` at most, and gives them to `take`, in one piece or in several. Returns
    /// false at the end of the body.
    pub(super) async fn read(
        &mut self,
        patience: Duration,
        status: &Status,
        mut take: impl FnMut(&[u8]),
    ) -> Result<bool, ReadError> {
        let Some(chunk) = self.chunk(patience).await? else {
            if let Some(gzip) = &mut self.gzip {
                gzip.finish(take)?;
            }
            return Ok(false);
        };
        status.note_received(chunk.len());
        match &mut self.gzip {
            Some(gzip) => gzip.push(&chunk, take)?,
            None => take(&chunk),
        }
        Ok(true)
    }

    async fn chunk(&mut self, patience: Duration) -> Result<Option<Bytes>, ReadError> {
        loop {
            match timeout(patience, self.body.frame()).await {
                Err(_) => return Err(ReadError::Stalled(patience)),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(ReadError::Cut(plain(&error))),
                Ok(Some(Ok(frame))) => {
                    // Trailers say nothing that is needed.
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// Decompresses as octets arrive.
struct Gzip {
    decoder: GzDecoder<Vec<u8>>,
    read: u64,
    written: u64,
}

/// Octets that are decompressed at once: deflate makes at most 1,032 of one, so that at most 1 MiB waits to be taken.
const STEP: usize = 1 << 10;
/// A list may be so large whatever it was compressed from ...
const FREE: u64 = 64 << 20;
/// ... and beyond that so many times as large as what it was compressed from. Lists of Kubernetes shrink to a tenth.
const MAX_RATIO: u64 = 200;

impl Default for Gzip {
    fn default() -> Self {
        Self { decoder: GzDecoder::new(Vec::new()), read: 0, written: 0 }
    }
}

impl Gzip {
    fn push(&mut self, chunk: &[u8], mut take: impl FnMut(&[u8])) -> Result<(), ReadError> {
        for step in chunk.chunks(STEP) {
            self.decoder.write_all(step).map_err(|error| broken(&error))?;
            self.read += step.len() as u64;
            self.give(&mut take)?;
        }
        Ok(())
    }

    /// Checks the sum at the end.
    fn finish(&mut self, mut take: impl FnMut(&[u8])) -> Result<(), ReadError> {
        self.decoder.try_finish().map_err(|error| broken(&error))?;
        self.give(&mut take)
    }

    fn give(&mut self, take: &mut impl FnMut(&[u8])) -> Result<(), ReadError> {
        let out = self.decoder.get_mut();
        self.written += out.len() as u64;
        if self.written > FREE.max(self.read.saturating_mul(MAX_RATIO)) {
            return Err(ReadError::Compression("it grows out of all proportion".into()));
        }
        if !out.is_empty() {
            take(out);
            out.clear();
        }
        Ok(())
    }
}

fn broken(error: &std::io::Error) -> ReadError {
    ReadError::Compression(error.to_string())
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn compressed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(4));
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn inflate(bytes: &[u8], size: usize) -> Result<Vec<u8>, ReadError> {
        let (mut gzip, mut out) = (Gzip::default(), Vec::new());
        for chunk in bytes.chunks(size) {
            gzip.push(chunk, |bytes| out.extend_from_slice(bytes))?;
        }
        gzip.finish(|bytes| out.extend_from_slice(bytes))?;
        Ok(out)
    }

    #[test]
    fn chunks_make_no_difference() {
        let text: Vec<u8> = (0..200_000u32).flat_map(|n| n.to_string().into_bytes()).collect();
        let compressed = compressed(&text);
        for size in [1, 7, 1_000, 64 << 10, compressed.len()] {
            assert!(inflate(&compressed, size).unwrap() == text, "chunks of {size}");
        }
    }

    #[test]
    fn what_is_damaged_or_cut_off_is_an_error() {
        let whole = compressed(&b"services ".repeat(1_000));
        for len in 0..whole.len() {
            assert!(inflate(&whole[..len], 64).is_err(), "{len} octets");
        }
        let mut damaged = whole.clone();
        let at = damaged.len() - 6;
        damaged[at] ^= 1;
        assert!(inflate(&damaged, 64).is_err());
        assert!(inflate(b"<html></html>", 64).is_err());
    }

    #[test]
    fn a_bomb_is_refused_with_bounded_memory() {
        let bomb = compressed(&vec![0; 128 << 20]);
        let (mut gzip, mut total, mut most) = (Gzip::default(), 0, 0);
        let result = gzip.push(&bomb, |bytes| {
            total += bytes.len() as u64;
            most = most.max(bytes.len());
        });
        assert!(matches!(result, Err(ReadError::Compression(_))), "{result:?}");
        assert!(total <= FREE && most <= 2 << 20, "{total} {most}");
    }
}
