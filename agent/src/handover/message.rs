//! The messages between processes, one in a packet: a kind, then text; at most one descriptor beside it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::VERSION;

/// The longest message, in bytes. Longer ones are cut by the sender and refused by the receiver.
pub const MAX_MESSAGE: usize = 4_096;

/// What is said. Unknown kinds are [`Message::Unknown`], and what follows the known part of a message is ignored: both are of
/// a later version.
#[derive(Debug)]
pub enum Message {
    /// The first message of both sides: the version of the format, and a text (the sender's release; from a supervisor, how
    /// the last child ended, or nothing).
    Hello {
        /// [`super::VERSION`] of the sender.
        version: u16,
        /// For people.
        text: String,
    },
    /// Something with a name.
    Item {
        /// What it is.
        name: String,
        /// A duplicate of the sender's descriptor.
        fd: OwnedFd,
    },
    /// What had this name is no longer wanted.
    Forget(String),
    /// That was all.
    End,
    /// The sender answers queries.
    Serving,
    /// The sender will not answer queries, for this reason.
    Failed(String),
    /// The sender reads nothing more from the sockets; connections may follow. True if it waits for the end of this connection, to
    /// take over again.
    Left(bool),
    /// Another hand-over is under way.
    Busy,
    /// The sender does its work.
    Alive,
    /// To be passed on to the service manager, as it is.
    Notify(String),
    /// A new instance is to be started from the program's file.
    Upgrade,
    /// The sender hands over through this connection, and exits when all under way is answered.
    HandedOver(OwnedFd),
    /// Where the sender is to listen, as [`super::Place`] is written.
    Wanted(String),
    /// The sender listens nowhere where the other is to listen: they have nothing to do with each other.
    Unrelated,
    /// Of a later version.
    Unknown(u8),
}

/// A message that is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message of kind {0}")]
pub struct Malformed(pub u8);

impl Message {
    /// The first message of this release.
    pub fn hello() -> Self {
        Self::Hello { version: VERSION, text: env!("CARGO_PKG_VERSION").to_owned() }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Hello { .. } => 1,
            Self::Item { .. } => 2,
            Self::Forget(_) => 3,
            Self::End => 4,
            Self::Serving => 5,
            Self::Failed(_) => 6,
            Self::Left(_) => 7,
            Self::Busy => 8,
            Self::Alive => 9,
            Self::Notify(_) => 10,
            Self::Upgrade => 11,
            Self::HandedOver(_) => 12,
            Self::Wanted(_) => 13,
            Self::Unrelated => 14,
            Self::Unknown(kind) => *kind,
        }
    }

    /// The bytes on the wire, at most [`MAX_MESSAGE`], and the descriptor that goes with them.
    pub fn encode(&self) -> (Vec<u8>, Option<BorrowedFd<'_>>) {
        let mut bytes = vec![self.kind()];
        let mut descriptor = None;
        match self {
            Self::Hello { version, text } => {
                bytes.extend_from_slice(&version.to_be_bytes());
                bytes.extend_from_slice(text.as_bytes());
            }
            Self::Item { name, fd } => {
                bytes.extend_from_slice(name.as_bytes());
                descriptor = Some(fd.as_fd());
            }
            Self::Forget(text) | Self::Failed(text) | Self::Notify(text) | Self::Wanted(text) => {
                bytes.extend_from_slice(text.as_bytes());
            }
            Self::Left(waits) => bytes.push(u8::from(*waits)),
            Self::HandedOver(fd) => descriptor = Some(fd.as_fd()),
            Self::End
            | Self::Serving
            | Self::Busy
            | Self::Alive
            | Self::Upgrade
            | Self::Unrelated
            | Self::Unknown(_) => {}
        }
        bytes.truncate(MAX_MESSAGE);
        (bytes, descriptor)
    }

    /// Reads a message. Total: any bytes are a message, [`Message::Unknown`] included, or [`Malformed`].
    pub fn decode(bytes: &[u8], descriptor: Option<OwnedFd>) -> Result<Self, Malformed> {
        let Some((&kind, rest)) = bytes.split_first() else { return Err(Malformed(0)) };
        // Cut in the middle of a character at worst.
        let text = || String::from_utf8_lossy(rest).into_owned();
        // For logs: one line, without escapes.
        let line = |bytes: &[u8]| -> String {
            let text = String::from_utf8_lossy(bytes);
            text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
        };
        let malformed = Malformed(kind);
        Ok(match kind {
            1 => {
                let (version, text) = rest.split_first_chunk::<2>().ok_or(malformed)?;
                Self::Hello { version: u16::from_be_bytes(*version), text: line(text) }
            }
            2 => Self::Item { name: text(), fd: descriptor.ok_or(malformed)? },
            3 => Self::Forget(text()),
            4 => Self::End,
            5 => Self::Serving,
            6 => Self::Failed(line(rest)),
            7 => Self::Left(rest.first().is_some_and(|waits| *waits != 0)),
            8 => Self::Busy,
            9 => Self::Alive,
            10 => Self::Notify(text()),
            11 => Self::Upgrade,
            12 => Self::HandedOver(descriptor.ok_or(malformed)?),
            13 => Self::Wanted(text()),
            14 => Self::Unrelated,
            other => Self::Unknown(other),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    /// The bytes of this release's messages. They stay as they are: later releases must read them.
    #[test]
    fn the_format_of_release_0_1_stays() {
        let vectors: [(&[u8], Message); 14] = [
            (b"\x01\x00\x010.1.0", Message::Hello { version: 1, text: "0.1.0".into() }),
            (
                b"\x02udp 127.0.0.1:53 0",
                Message::Item { name: "udp 127.0.0.1:53 0".into(), fd: descriptor() },
            ),
            (b"\x03tcp [::1]:53 1", Message::Forget("tcp [::1]:53 1".into())),
            (b"\x04", Message::End),
            (b"\x05", Message::Serving),
            (b"\x06no memory", Message::Failed("no memory".into())),
            (b"\x07\x01", Message::Left(true)),
            (b"\x08", Message::Busy),
            (b"\x09", Message::Alive),
            (b"\x0aREADY=1", Message::Notify("READY=1".into())),
            (b"\x0b", Message::Upgrade),
            (b"\x0c", Message::HandedOver(descriptor())),
            (b"\x0dnet:[1] 1.2.3.4:53", Message::Wanted("net:[1] 1.2.3.4:53".into())),
            (b"\x0e", Message::Unrelated),
        ];
        for (bytes, message) in vectors {
            assert_eq!(message.encode().0, bytes, "{message:?}");
            let read = Message::decode(bytes, Some(descriptor())).unwrap();
            assert_eq!(read.encode().0, bytes);
        }
    }

    #[test]
    fn what_is_not_understood_harms_nothing() {
        assert!(matches!(Message::decode(b"\xc8later", None), Ok(Message::Unknown(0xc8))));
        assert!(matches!(Message::decode(b"\x05and more", None), Ok(Message::Serving)));
        assert!(matches!(Message::decode(b"\x07", None), Ok(Message::Left(false))));
        for bad in [&b""[..], b"\x01", b"\x01\x00", b"\x02a name without a descriptor", b"\x0c"] {
            assert!(Message::decode(bad, None).is_err(), "{bad:?}");
        }
        assert!(matches!(Message::decode(b"\x06\xff\xfe", None), Ok(Message::Failed(_))));
        let long = Message::Failed("x".repeat(10_000));
        assert_eq!(long.encode().0.len(), MAX_MESSAGE);
    }
}
