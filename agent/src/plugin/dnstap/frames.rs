//! Frame streams (farsightsec/fstrm, "Frame Streams Protocol"): frames with a length before them, and control frames that begin
//! with a length of zero. The bidirectional handshake is READY, ACCEPT, START; STOP and FINISH end a stream.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// What the frames hold.
const CONTENT_TYPE: &[u8] = b"protobuf:dnstap.Dnstap";
/// Bytes of a control frame (`FSTRM_CONTROL_FRAME_LENGTH_MAX`).
const MAX_CONTROL: usize = 512;
/// The only field of control frames.
const FIELD_CONTENT_TYPE: u32 = 1;

const ACCEPT: u32 = 1;
const START: u32 = 2;
const STOP: u32 = 3;
const READY: u32 = 4;

/// Why a collector does not take the stream.
#[derive(Debug, thiserror::Error)]
pub enum FramesError {
    /// The connection broke.
    #[error("the connection to the collector failed: {0}")]
    Io(#[from] std::io::Error),
    /// It has answered something else than ACCEPT.
    #[error("the collector does not speak frame streams in both directions")]
    NoHandshake,
    /// It takes other content only.
    #[error("the collector does not take dnstap messages")]
    Content,
}

/// Agrees with a collector that dnstap messages follow.
pub async fn open(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<(), FramesError> {
    stream.write_all(&control(READY, true)).await?;
    stream.flush().await?;
    let mut head = [0; 8];
    stream.read_exact(&mut head).await?;
    let [e0, e1, e2, e3, l0, l1, l2, l3] = head;
    let (escape, len) =
        (u32::from_be_bytes([e0, e1, e2, e3]), u32::from_be_bytes([l0, l1, l2, l3]) as usize);
    if escape != 0 || !(4..=MAX_CONTROL).contains(&len) {
        return Err(FramesError::NoHandshake);
    }
    let mut frame = vec![0; len];
    stream.read_exact(&mut frame).await?;
    accepted(&frame)?;
    stream.write_all(&control(START, true)).await?;
    Ok(())
}

/// Ends a stream. The collector's FINISH is not waited for.
pub async fn close(stream: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
    stream.write_all(&control(STOP, false)).await?;
    stream.shutdown().await
}

fn control(kind: u32, has_content_type: bool) -> Vec<u8> {
    let mut body = kind.to_be_bytes().to_vec();
    if has_content_type {
        body.extend_from_slice(&FIELD_CONTENT_TYPE.to_be_bytes());
        body.extend_from_slice(&(CONTENT_TYPE.len() as u32).to_be_bytes());
        body.extend_from_slice(CONTENT_TYPE);
    }
    [&0u32.to_be_bytes()[..], &(body.len() as u32).to_be_bytes(), &body].concat()
}

/// Whether the body of a control frame is an ACCEPT of our content. Without a content type it takes any.
fn accepted(frame: &[u8]) -> Result<(), FramesError> {
    let Some((kind, mut fields)) = frame.split_first_chunk() else {
        return Err(FramesError::NoHandshake);
    };
    if u32::from_be_bytes(*kind) != ACCEPT {
        return Err(FramesError::NoHandshake);
    }
    if fields.is_empty() {
        return Ok(());
    }
    while let Some((head, behind)) = fields.split_first_chunk::<8>() {
        let [k0, k1, k2, k3, l0, l1, l2, l3] = *head;
        let (kind, len) =
            (u32::from_be_bytes([k0, k1, k2, k3]), u32::from_be_bytes([l0, l1, l2, l3]));
        let Some((content, behind)) = behind.split_at_checked(len as usize) else {
            return Err(FramesError::NoHandshake);
        };
        if kind == FIELD_CONTENT_TYPE && content == CONTENT_TYPE {
            return Ok(());
        }
        fields = behind;
    }
    Err(FramesError::Content)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What [`open`] says to a collector that answers these bytes.
    async fn answered(bytes: &[u8]) -> (Result<(), FramesError>, Vec<u8>) {
        let (mut ours, mut theirs) = tokio::io::duplex(4_096);
        theirs.write_all(bytes).await.unwrap();
        let opened = open(&mut ours).await;
        drop(ours);
        let mut sent = Vec::new();
        theirs.read_to_end(&mut sent).await.unwrap();
        (opened, sent)
    }

    proptest! {
        #[test]
        fn any_frame_is_read_or_refused(frame in prop::collection::vec(any::<u8>(), 0..MAX_CONTROL)) {
            let _ = accepted(&frame);
        }
    }

    #[tokio::test]
    async fn a_collector_that_accepts_is_started() {
        for accept in [control(ACCEPT, true), control(ACCEPT, false)] {
            let (opened, sent) = answered(&accept).await;
            opened.unwrap();
            assert_eq!(sent, [control(READY, true), control(START, true)].concat());
        }
    }

    #[tokio::test]
    async fn others_are_refused() {
        let mut other = control(ACCEPT, true);
        *other.last_mut().unwrap() = b'?';
        assert!(matches!(answered(&other).await.0, Err(FramesError::Content)));
        for wrong in [
            control(START, true),
            b"HTTP/1.1 400 Bad Request\r\n".to_vec(),
            [&[0; 4][..], &u32::MAX.to_be_bytes()].concat(),
            [&[0; 4][..], &12u32.to_be_bytes(), &ACCEPT.to_be_bytes(), &[0xff; 8]].concat(),
        ] {
            let opened = answered(&wrong).await.0;
            assert!(
                matches!(opened, Err(FramesError::NoHandshake | FramesError::Content)),
                "{wrong:?}"
            );
        }
    }
}
