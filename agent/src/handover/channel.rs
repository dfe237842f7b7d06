//! A connection between two processes of a node that keeps messages apart and carries descriptors (SOCK_SEQPACKET, unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg,
    sendmsg, socketpair,
};
use socket2::SockRef;

use super::message::{MAX_MESSAGE, Message};

/// One end. Calls block, within the time of [`Channel::set_patience`].
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Both ends of a new one.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC;
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self(one), Self(other)))
    }

    /// Over a connected SOCK_SEQPACKET socket.
    pub fn over(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// How long [`Channel::send`] and [`Channel::receive`] wait for the other side; `None`: for ever.
    pub fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        SockRef::from(&self.0).set_read_timeout(patience)?;
        SockRef::from(&self.0).set_write_timeout(patience)
    }

    /// Sends a message. [`io::ErrorKind::WouldBlock`]: the other side did not take it in time.
    pub fn send(&self, message: &Message) -> io::Result<()> {
        let (bytes, descriptor) = message.encode();
        self.send_parts(&bytes, descriptor, SendFlags::NOSIGNAL)
    }

    /// Sends a message if the other side has room for it at once.
    pub fn try_send(&self, message: &Message) -> io::Result<()> {
        let (bytes, descriptor) = message.encode();
        self.send_parts(&bytes, descriptor, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
    }

    /// Sends an item without giving the descriptor away.
    pub fn send_item(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.send(&Message::Item { name: name.to_owned(), fd: fd.try_clone_to_owned()? })
    }

    fn send_parts(
        &self,
        bytes: &[u8],
        descriptor: Option<BorrowedFd<'_>>,
        flags: SendFlags,
    ) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        loop {
            match sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, flags) {
                Err(rustix::io::Errno::INTR) => {}
                done => return Ok(done.map(drop)?),
            }
        }
    }

    /// True if the other side has closed and nothing of it is left to be received.
    pub fn has_ended(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(recv(&self.0, &mut [0; 1][..], flags), Ok((_, 0)))
    }

    /// The next message; `None`: the other side has closed. Descriptors beyond the first are closed.
    pub fn receive(&self) -> io::Result<Option<Message>> {
        let mut bytes = [0; MAX_MESSAGE];
        // Room for more than one, so that none that a sender adds stays open.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut into = [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.0, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                received => break received?,
            }
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                descriptors.extend(more);
            }
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
        }
        let bytes = bytes.get(..received.bytes).unwrap_or_default();
        let message = Message::decode(bytes, descriptors.into_iter().next());
        message.map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn messages_and_descriptors_arrive() {
        let (here, there) = Channel::pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        here.send_item("a pipe", writer.as_fd()).unwrap();
        drop(writer);
        here.send(&Message::End).unwrap();
        let Some(Message::Item { name, fd }) = there.receive().unwrap() else { panic!() };
        assert_eq!(name, "a pipe");
        std::fs::File::from(fd).write_all(b"through").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        assert!(matches!(there.receive(), Ok(Some(Message::End))));
        there.set_patience(Some(Duration::from_millis(10))).unwrap();
        assert_eq!(there.receive().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(!there.has_ended());
        here.send(&Message::Alive).unwrap();
        drop(here);
        assert!(!there.has_ended() && matches!(there.receive(), Ok(Some(Message::Alive))));
        assert!(there.has_ended());
        assert!(matches!(there.receive(), Ok(None)));
    }

    #[test]
    fn nonsense_is_an_error_and_leaves_no_descriptor_open() {
        let (here, there) = Channel::pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let send = |bytes: &[u8], fds: &[BorrowedFd<'_>]| {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
            sendmsg(&here.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
        };
        let fd = writer.as_fd();
        send(&[0x05], &[fd; 8]);
        assert!(matches!(there.receive(), Ok(Some(Message::Serving))));
        send(&[7; MAX_MESSAGE + 1], &[fd]);
        assert_eq!(there.receive().unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(writer);
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "no descriptor of it is left");
    }
}
