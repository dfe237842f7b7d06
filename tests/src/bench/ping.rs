//! One query at a time at random moments, as a pod asks: how long its answer takes while the server does other things.
//!
//! The time of an answer is the kernel's, taken when the datagram arrived, and the asker comes before other threads where it
//! may: so the figure is the server's, however busy the asker's processor is.
#![allow(unsafe_code, reason = "no safe wrapper of sched_setscheduler is at hand")]

use std::io::IoSliceMut;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;

use super::latency::Latencies;
use super::questions::{Questions, Random};
use crate::poll::pause;

/// An answer that takes longer is lost.
const LOST: Duration = Duration::from_millis(200);
/// The shortest and the longest pause between two queries, in microseconds.
const PAUSE: (usize, usize) = (100, 300);

/// What came of it in each phase.
#[derive(Default)]
pub struct Pings {
    /// How long answers took.
    pub latencies: Latencies,
    /// Queries without an answer.
    pub lost: u64,
}

/// The value of `phase` that ends [`ping`]; one that is no phase either lets queries go uncounted.
pub const END: usize = usize::MAX;

/// Asks `server` until `phase` is over, and counts each query in its phase, unless that ended meanwhile.
///
/// # Errors
/// The system calls'.
pub fn ping(
    server: SocketAddrV4,
    questions: &mut Questions,
    phase: &AtomicUsize,
) -> anyhow::Result<[Pings; 2]> {
    come_first();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(LOST))?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    let (mut phases, mut packet, mut id) = (<[Pings; 2]>::default(), [0; 512], 0_u16);
    let mut random = Random(u64::from(std::process::id()) | 1);
    loop {
        let now = phase.load(Relaxed);
        if now == END {
            return Ok(phases);
        }
        id = id.wrapping_add(1);
        let len = questions.write_next(&mut packet, id);
        let sent = SystemTime::now().duration_since(UNIX_EPOCH)?;
        socket.send(&packet[..len])?;
        let arrival = arrival(&socket, id)?;
        let counted = phases.get_mut(now).filter(|_| phase.load(Relaxed) == now);
        match (counted, arrival) {
            (Some(pings), Some(at)) => {
                pings.latencies.add(at.saturating_sub(sent).as_nanos() as u64);
            }
            (Some(pings), None) => pings.lost += 1,
            (None, _) => {}
        }
        let micros = PAUSE.0 + random.below(PAUSE.1 - PAUSE.0);
        pause(Duration::from_micros(micros as u64));
    }
}

/// When the answer with this id arrived, since 1970; `None` where none did.
fn arrival(socket: &UdpSocket, id: u16) -> anyhow::Result<Option<Duration>> {
    let mut buffer = [0; 1_500];
    loop {
        let mut control = nix::cmsg_space!(TimeSpec);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::empty();
        let message = match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)
        {
            Err(nix::Error::EAGAIN) => return Ok(None),
            Err(nix::Error::EINTR) => continue,
            other => other?,
        };
        let stamp = message.cmsgs()?.find_map(|part| match part {
            ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
            _ => None,
        });
        let bytes = message.bytes;
        if bytes >= 12 && buffer[..2] == id.to_be_bytes() {
            return Ok(stamp);
        }
    }
}

/// Lets this thread go before those of usual priority. Where it may not, the figures hold the scheduler's delays.
pub fn come_first() {
    // SAFETY: `sched_param` is a plain C structure for which zero octets are a valid value.
    let mut parameter: libc::sched_param = unsafe { std::mem::zeroed() };
    parameter.sched_priority = 1;
    // SAFETY: the kernel only reads the structure, which lives through the call; zero stands for this thread.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameter) };
}
