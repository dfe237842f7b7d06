//! Queries to upstreams and their responses, for `dnstap`.

use std::net::IpAddr;

use super::Forward;
use super::attempt::Attempt;
use crate::clock::CoarseInstant;
use crate::plugin::dnstap::payload::Protocol;
use crate::upstream::{Question, Scheme, Transport};

impl Forward {
    /// Sends a try that has ended to those who tap: with the response, if one has come. `client` is the one for which it was
    /// begun; others may have come to wait for the same answer.
    pub(super) fn tap(
        &self,
        attempt: &Attempt,
        (client, question): (IpAddr, &Question),
        response: Option<&[u8]>,
        now: CoarseInstant,
    ) {
        if self.context.taps.is_empty() {
            return;
        }
        let target = attempt.upstream.target();
        let protocol = match (target.scheme, attempt.transport) {
            (Scheme::Plain, Transport::Udp) => Protocol::Udp,
            (Scheme::Plain, Transport::Stream) => Protocol::Tcp,
            (Scheme::Tls, _) => Protocol::Dot,
            (Scheme::Https, _) => Protocol::Doh,
            (Scheme::Quic, _) => Protocol::Doq,
        };
        for tap in self.context.taps.iter() {
            let upstream = (target.address, protocol);
            tap.forwarded(client, upstream, question.packet(), response, attempt.sent, now);
        }
    }
}
