//! The upstream of the benchmark: answers every question about the names that the workloads forward, as cheaply as a
//! server can, so that it never is what is measured.
//!
//! ```text
//! hNNNNNNN.hot.bench     A and AAAA
//! NAME.miss.bench        A and AAAA
//! NAME.mem.bench         five addresses: an answer of about 120 octets
//! ns.bench               A, for dnsdist's health check
//! anything else          NXDOMAIN with a SOA record
//! ```

use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;

use ::tests::bench::datagrams::{Batch, SIZE};
use anyhow::Context;
use socket2::SockRef;

/// Seconds that every answer lives: longer than a run.
const TTL: u32 = 3_600;
const A: u8 = 1;
const SOA: u8 = 6;
const AAAA: u8 = 28;

fn main() -> anyhow::Result<()> {
    let text = std::env::args().nth(1).context("usage: bench-upstream ADDRESS:PORT")?;
    let address: SocketAddrV4 = text.parse().with_context(|| text.clone())?;
    let socket = UdpSocket::bind(address)?;
    SockRef::from(&socket).set_recv_buffer_size(4 << 20)?;
    let mut batch = Batch::new(false);
    loop {
        let n = batch.receive(socket.as_fd(), true)?;
        for i in 0..n {
            let len = batch.packet(i).len();
            let len = answer(batch.buffer(i), len).unwrap_or(0);
            batch.set_len(i, len);
        }
        batch.send_all(socket.as_fd(), n);
    }
}

/// Turns a query into its answer; whatever stands behind the question is dropped.
fn answer(buffer: &mut [u8; SIZE], len: usize) -> Option<usize> {
    let query = buffer.get(..len)?;
    let mut labels = Vec::with_capacity(8);
    let mut at = 12;
    loop {
        match usize::from(*query.get(at)?) {
            0 => break,
            n if n < 64 => {
                labels.push((at, query.get(at + 1..at + 1 + n)?));
                at += 1 + n;
            }
            _ => return None,
        }
    }
    let end = at + 5;
    let qtype = *query.get(at + 2)?;
    let mut count = 1;
    let zone = labels.len().checked_sub(2).and_then(|at| labels.get(at..));
    let kind = labels.len().checked_sub(2).and_then(|at| labels.get(at)).map(|label| label.1);
    let in_bench = labels.last().is_some_and(|label| label.1 == b"bench");
    let number = labels.first().map_or(0, |label| digits(label.1));
    if in_bench && qtype == A && kind == Some(b"mem") {
        count = 5;
    }
    let known = in_bench && matches!(kind, Some(b"hot" | b"miss" | b"mem" | b"ns"));
    let owner_at = match zone {
        // `cluster.local`, the zone that is denied; anything else is denied by the root.
        Some([(at, b"cluster"), (_, b"local")]) => *at,
        _ => 0,
    };
    let mut out = Writer { buffer, at: end };
    match (known, qtype) {
        (true, A) => (0..count).for_each(|i| {
            out.record(12, A, &(0x0a00_0000 + number + i).to_be_bytes());
        }),
        (true, AAAA) => {
            let mut address = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            address[12..].copy_from_slice(&number.to_be_bytes());
            out.record(12, AAAA, &address);
        }
        _ => {
            let mut soa = b"\x02ns\x05bench\0\x04root\x05bench\0".to_vec();
            for number in [1, 3_600, 600, 86_400, TTL] {
                soa.extend_from_slice(&number.to_be_bytes());
            }
            out.record(owner_at, SOA, &soa);
        }
    }
    let end = out.at;
    let positive = known && matches!(qtype, A | AAAA);
    // A response to what was asked, with recursion.
    buffer[2] = 0x80 | buffer[2] & 0x79;
    buffer[3] = 0x80 | if known { 0 } else { 3 };
    let (answers, authority) = if positive { (count as u8, 0) } else { (0, 1) };
    buffer[4..12].copy_from_slice(&[0, 1, 0, answers, 0, authority, 0, 0]);
    Some(end)
}

struct Writer<'a> {
    buffer: &'a mut [u8; SIZE],
    at: usize,
}

impl Writer<'_> {
    /// A record whose owner stands at `owner` in the question; zero stands for the root.
    fn record(&mut self, owner: usize, rtype: u8, rdata: &[u8]) {
        if owner == 0 {
            self.put(&[0]);
        } else {
            self.put(&[0xc0, owner as u8]);
        }
        self.put(&[0, rtype, 0, 1]);
        self.put(&TTL.to_be_bytes());
        self.put(&(rdata.len() as u16).to_be_bytes());
        self.put(rdata);
    }

    fn put(&mut self, bytes: &[u8]) {
        if let Some(space) = self.buffer.get_mut(self.at..self.at + bytes.len()) {
            space.copy_from_slice(bytes);
            self.at += bytes.len();
        }
    }
}

/// The number in a label, so that names have different addresses.
fn digits(label: &[u8]) -> u32 {
    let digits = label.iter().filter(|octet| octet.is_ascii_digit());
    digits.fold(0_u32, |number, octet| (number * 10 + u32::from(octet - b'0')) % 0x00ff_fff0)
}

#[cfg(test)]
mod tests {
    use ::tests::bench::questions::question;

    use super::*;

    #[test]
    fn known_names_are_answered_and_others_denied() {
        for (name, qtype, rcode, answers, authority) in [
            ("h0000001.hot.bench", 1, 0, 1, 0),
            ("h0000001.hot.bench", 28, 0, 1, 0),
            ("h0000001.hot.bench", 15, 0, 0, 1),
            ("x.kept.mem.bench", 1, 0, 5, 0),
            ("h0000001.hot.bench.svc.cluster.local", 1, 3, 0, 1),
            ("", 1, 3, 0, 1),
        ] {
            let mut buffer = [0; SIZE];
            let query = question(name, qtype);
            buffer[..query.len()].copy_from_slice(&query);
            let len = answer(&mut buffer, query.len());
            assert!(len.is_some_and(|len| len > query.len()), "{name}");
            assert_eq!(buffer[3] & 15, rcode, "{name}");
            assert_eq!((buffer[7], buffer[9]), (answers, authority), "{name} {qtype}");
        }
    }
}
