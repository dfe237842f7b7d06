//! The state machine of a query by virtual time: no socket, no runtime, no clock.

use std::borrow::Cow;

use super::super::failure::Failure;
use super::super::outcome::Finished;
use super::super::query::{Cx, DEADLINE, ForwardQuery};
use super::*;
use crate::upstream::event::{AttemptId, Event};
use crate::upstream::{Question, Transport};
use crate::wire::Message;

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const UDP: Transport = Transport::Udp;
const STREAM: Transport = Transport::Stream;

/// One query, its moment, and what is out.
struct Sim {
    forward: Arc<Forward>,
    query: ForwardQuery,
    now: CoarseInstant,
    /// Tries that were sent and have had no event: number, last octet of the upstream, over what.
    out: Vec<(AttemptId, u8, Transport)>,
}

/// A forward to 192.0.2.1 up to 192.0.2.`upstreams`, in this order.
fn forward(upstreams: u8, options: &str) -> Arc<Forward> {
    let to: Vec<String> = (1..=upstreams).map(|n| format!("192.0.2.{n}")).collect();
    let line = format!("forward . {} {{\npolicy sequential\n{options}\n}}", to.join(" "));
    let (config, said) = read(&line, Config::parse);
    assert_eq!(said, "");
    Forward::new(config, ForwardContext::default()).unwrap()
}

fn start(forward: &Arc<Forward>, millis: u64) -> Sim {
    let name = Name::from_text("www.example").unwrap();
    let question = Question::new(name.as_ref(), RecordType::A, true);
    let now = CoarseInstant::from_millis(1_000_000 + millis);
    let query = ForwardQuery::start(&mut cx(forward, now), CLIENT, question, 7);
    let mut sim = Sim { forward: Arc::clone(forward), query, now, out: Vec::new() };
    sim.drain();
    sim
}

fn cx(forward: &Forward, now: CoarseInstant) -> Cx<'_> {
    Cx { now, worker: 0, random: |_| 0, forward }
}

impl Sim {
    fn drain(&mut self) {
        while let Some(send) = self.query.poll_send() {
            let std::net::IpAddr::V4(ip) = send.upstream.target().address.ip() else { panic!() };
            self.out.push((send.attempt, ip.octets()[3], send.transport));
        }
    }

    fn handle(&mut self, event: Event<'_>) {
        self.query.handle(&mut cx(&self.forward, self.now), event);
        self.drain();
    }

    /// The upstreams that are to answer.
    fn asked(&self) -> Vec<(u8, Transport)> {
        self.out.iter().map(|(_, last, transport)| (*last, *transport)).collect()
    }

    fn take(&mut self, last: u8) -> AttemptId {
        let at = self.out.iter().position(|(_, out, _)| *out == last);
        self.out.remove(at.unwrap_or_else(|| panic!("{last} is not asked: {:?}", self.out))).0
    }

    fn respond_with(&mut self, last: u8, message: Vec<u8>) {
        let (attempt, message) = (self.take(last), Cow::Owned(message));
        let round_trip = Duration::from_millis(10);
        self.handle(Event::Response { attempt, message, oversize: false, round_trip });
    }

    /// The upstream answers with its own number as the address.
    fn answer(&mut self, last: u8, more_flags: u16) {
        self.respond_with(last, answer(self.query.question().packet(), more_flags, last));
    }

    fn rcode(&mut self, last: u8, rcode: Rcode) {
        self.respond_with(last, error(self.query.question().packet(), rcode));
    }

    fn fail(&mut self, last: u8, error: UpstreamError) {
        let attempt = self.take(last);
        self.handle(Event::Failed { attempt, error });
    }

    /// Lets time pass until the next time-out, and delivers it. Returns how long that was.
    fn time_out(&mut self) -> u64 {
        let due = self.query.poll_timeout();
        let passed = due.millis_since(self.now);
        self.now = due;
        self.handle(Event::Timeout);
        passed
    }

    /// Delivers time-outs until the query ends; returns the milliseconds since `self.now`.
    fn run_out(&mut self) -> u64 {
        let begun = self.now;
        while !self.query.is_finished() {
            self.time_out();
        }
        self.now.millis_since(begun)
    }

    fn finished(&mut self) -> Finished {
        assert!(self.query.is_finished(), "{:?}", self.out);
        self.query.finish().unwrap()
    }

    /// The number of the upstream whose answer it is, and if it is truncated.
    fn answered(&mut self) -> (u8, bool) {
        let finished = self.finished();
        let message: &Message = finished.message().unwrap();
        let record = message.layout().records.first().unwrap();
        (record.rdata(message.as_bytes())[3], message.truncated())
    }

    fn failure(&mut self) -> Failure {
        self.finished().result.err().unwrap()
    }
}

fn io() -> UpstreamError {
    UpstreamError::Io("refused".into())
}

/// Answers quickly, as far as the estimates go.
fn quick(forward: &Forward) {
    for upstream in forward.upstreams() {
        (0..100).for_each(|_| upstream.round_trips.record(Duration::from_millis(1)));
    }
}

#[test]
fn the_first_answer_ends_it() {
    let mut sim = start(&forward(2, ""), 0);
    assert_eq!(sim.asked(), [(1, UDP)]);
    sim.answer(1, 0);
    assert_eq!(sim.answered(), (1, false));
    // What comes after the end changes nothing.
    sim.handle(Event::Timeout);
    assert!(sim.asked().is_empty());
}

#[test]
fn an_error_leads_to_the_next_upstream_at_once_and_the_last_one_is_told() {
    let mut sim = start(&forward(2, "max_connect_attempts 2"), 0);
    sim.fail(1, io());
    assert_eq!(sim.asked(), [(2, UDP)]);
    sim.fail(2, io());
    assert!(
        matches!(sim.failure(), Failure::Upstream { upstream, .. } if &*upstream == "192.0.2.2:53")
    );
}

#[test]
fn a_hedge_is_sent_when_the_first_is_late_and_either_answer_is_taken() {
    for first in [1, 2] {
        let forward = forward(2, "");
        quick(&forward);
        let mut sim = start(&forward, 0);
        assert!((20..25).contains(&sim.time_out()));
        assert_eq!(sim.asked(), [(1, UDP), (2, UDP)]);
        assert!(forward.upstreams()[0].health.is_suspect());
        sim.answer(first, 0);
        assert_eq!(sim.answered(), (first, false));
    }
}

#[test]
fn the_budget_bounds_hedges_and_each_query_earns_once() {
    let forward = forward(2, "");
    quick(&forward);
    let hedged = |forward: &Arc<Forward>| {
        let mut sim = start(forward, 0);
        sim.time_out();
        sim.out.len() == 2
    };
    let hedges = (0..100).filter(|_| hedged(&forward)).count();
    // Five were saved, and a hundred queries earn nearly three: nothing is earned while all five are there.
    assert_eq!(hedges, HEDGES_SAVED as usize + 2);
    let off = super::query::forward(2, "hedge off");
    quick(&off);
    assert!(!hedged(&off));
}

#[test]
fn a_try_that_times_out_is_still_listened_to() {
    let forward = forward(2, "hedge off");
    quick(&forward);
    let mut sim = start(&forward, 0);
    while sim.out.len() == 1 {
        sim.time_out();
    }
    assert_eq!(sim.now.as_millis(), 1_000_250);
    assert_eq!(forward.upstreams()[0].health.failures(), 1);
    sim.answer(1, 0);
    assert_eq!(sim.answered(), (1, false));
    assert_eq!(forward.upstreams()[0].health.failures(), 0);
}

#[test]
fn it_ends_before_clients_give_up() {
    let mut sim = start(&forward(4, ""), 0);
    assert_eq!(sim.run_out(), DEADLINE.as_millis() as u64);
    assert!(matches!(sim.failure(), Failure::Upstream { error: UpstreamError::Timeout(_), .. }));
    // One upstream has three tries, and then there is nothing to wait for.
    let one = forward(1, "");
    quick(&one);
    assert_eq!(start(&one, 0).run_out(), 250 + 500 + 1_000);
}

#[test]
fn a_truncated_answer_is_asked_for_over_a_stream_and_then_of_the_others() {
    let mut sim = start(&forward(2, ""), 0);
    sim.answer(1, flags::TC);
    assert_eq!(sim.asked(), [(1, STREAM)]);
    sim.answer(1, 0);
    assert_eq!(sim.answered(), (1, false));
    // The stream is refused, silent, or its answer truncated as well.
    for broken in ["refused", "silent", "truncated"] {
        let forward = forward(2, "hedge off");
        let mut sim = start(&forward, 0);
        sim.answer(1, flags::TC);
        match broken {
            "refused" => sim.fail(1, UpstreamError::Connect("refused".into())),
            "silent" => {
                while sim.out.len() == 1 {
                    sim.time_out();
                }
            }
            _ => sim.answer(1, flags::TC),
        }
        assert!(sim.asked().contains(&(2, UDP)), "{broken}");
        let (mut whole, mut none) = (sim, start(&forward, 60_000));
        whole.answer(2, 0);
        assert_eq!(whole.answered(), (2, false), "{broken}");
        // No upstream has the whole.
        none.answer(1, flags::TC);
        none.fail(1, UpstreamError::Connect("refused".into()));
        none.answer(2, flags::TC);
        none.fail(2, UpstreamError::Connect("refused".into()));
        let finished = none.finished();
        assert!(finished.message().unwrap().truncated() && finished.is_transient);
        assert!(finished.error.is_some());
    }
}

#[test]
fn a_lone_upstream_is_not_asked_again_for_what_it_truncates() {
    let forward = forward(1, "");
    quick(&forward);
    let mut sim = start(&forward, 0);
    sim.answer(1, flags::TC);
    // There is no other upstream: the stream has all the time of a try.
    assert_eq!(sim.run_out(), 2_000);
    assert_eq!(sim.answered(), (1, true));
}

#[test]
fn silent_streams_keep_a_client_for_one_try_and_every_upstream_has_its_turn() {
    for upstreams in 2..=4 {
        let forward = forward(upstreams, "hedge off");
        quick(&forward);
        let mut sim = start(&forward, 0);
        let (begun, mut truncated) = (sim.now, Vec::new());
        while !sim.query.is_finished() {
            match sim.out.iter().find(|(_, _, transport)| *transport == UDP) {
                Some(&(_, upstream, _)) => {
                    truncated.push(upstream);
                    sim.answer(upstream, flags::TC);
                }
                None => drop(sim.time_out()),
            }
        }
        assert_eq!(truncated, (1..=upstreams).collect::<Vec<_>>());
        assert_eq!(sim.now.millis_since(begun), 2_000);
        let finished = sim.finished();
        assert!(finished.message().unwrap().truncated() && finished.is_transient);
    }
}

#[test]
fn a_malformed_truncated_answer_counts_the_same() {
    let mut sim = start(&forward(1, ""), 0);
    let mut message = answer(sim.query.question().packet(), flags::TC, 1);
    message.truncate(message.len() - 2);
    sim.respond_with(1, message);
    assert_eq!(sim.asked(), [(1, STREAM)]);
    sim.fail(1, UpstreamError::Connect("refused".into()));
    assert!(matches!(sim.failure(), Failure::Upstream { error: UpstreamError::Connect(_), .. }));
}

#[test]
fn a_malformed_answer_is_the_upstreams_error() {
    let forward = forward(2, "");
    let mut sim = start(&forward, 0);
    let mut message = answer(sim.query.question().packet(), 0, 1);
    message.truncate(message.len() - 2);
    sim.respond_with(1, message.clone());
    assert_eq!(forward.upstreams()[0].counters(0).errors.value(), 1);
    assert_eq!(sim.asked(), [(2, UDP)]);
    let mut alone = start(&super::query::forward(1, "max_connect_attempts 1"), 0);
    alone.respond_with(1, message);
    let finished = alone.finished();
    assert!(finished.is_transient, "it is not to be cached");
    assert!(matches!(
        finished.result.err().unwrap(),
        Failure::Upstream { error: UpstreamError::Malformed(_), .. }
    ));
}

#[test]
fn a_connection_that_ends_after_it_had_worked_costs_no_try() {
    let forward = forward(1, "force_tcp\nmax_connect_attempts 1");
    let mut sim = start(&forward, 0);
    // Other queries are answered all the while.
    forward.upstreams()[0].health.succeeded(sim.now);
    for _ in 0..100 {
        sim.fail(1, UpstreamError::Lost);
        assert_eq!(sim.asked(), [(1, STREAM)]);
    }
    sim.answer(1, 0);
    assert_eq!(sim.answered(), (1, false));
    assert_eq!(forward.upstreams()[0].health.failures(), 0);
    // It does not go on for ever.
    let mut sim = start(&forward, 0);
    let mut lost = 0;
    while !sim.query.is_finished() {
        sim.fail(1, UpstreamError::Lost);
        lost += 1;
    }
    assert_eq!(lost, 129);
    // Nor for a server that closes every connection without an answer.
    let dead = super::query::forward(1, "force_tcp\nmax_connect_attempts 1");
    let mut sim = start(&dead, 0);
    sim.fail(1, UpstreamError::Lost);
    sim.fail(1, UpstreamError::Lost);
    assert!(matches!(sim.failure(), Failure::Upstream { error: UpstreamError::Lost, .. }));
    assert_eq!(dead.upstreams()[0].health.failures(), 1);
}

#[test]
fn edns_is_left_out_once_and_codes_of_failover_lead_on() {
    let mut sim = start(&forward(2, "failover REFUSED"), 0);
    sim.rcode(1, Rcode::FORMERR);
    assert!(!sim.query.question().has_edns());
    sim.rcode(1, Rcode::REFUSED);
    assert_eq!(sim.finished().message().unwrap().rcode(), Rcode::REFUSED, "both tries are used");
    let mut sim = start(&forward(2, "failover REFUSED"), 0);
    sim.rcode(1, Rcode::REFUSED);
    sim.answer(2, 0);
    assert_eq!(sim.answered(), (2, false));
    let mut sim = start(&forward(1, ""), 0);
    sim.rcode(1, Rcode::FORMERR);
    sim.rcode(1, Rcode::FORMERR);
    assert_eq!(sim.finished().message().unwrap().rcode(), Rcode::FORMERR);
    // The retry fails: what was said about EDNS is no answer to the client.
    for rcode in [Rcode::FORMERR, Rcode::NOTIMP] {
        let mut sim = start(&forward(1, ""), 0);
        sim.rcode(1, rcode);
        sim.run_out();
        let failure = sim.failure();
        assert!(matches!(failure, Failure::Upstream { error: UpstreamError::Timeout(_), .. }));
        let mut sim = start(&forward(2, "hedge off"), 0);
        sim.rcode(1, rcode);
        sim.fail(1, io());
        sim.answer(2, 0);
        assert_eq!(sim.answered(), (2, false));
    }
}

#[test]
fn a_failure_is_transient_while_another_upstream_has_not_failed() {
    let forward = forward(2, "");
    let mut sim = start(&forward, 0);
    sim.rcode(1, Rcode::SERVFAIL);
    assert!(sim.finished().is_transient);
    let mut sim = start(&forward, 1);
    assert_eq!(sim.asked(), [(2, UDP)], "the one that has failed at it comes last");
    sim.rcode(2, Rcode::SERVFAIL);
    assert!(!sim.finished().is_transient);
}

#[test]
fn one_dead_name_beside_good_ones_takes_no_upstream_down() {
    let forward = forward(2, "hedge off");
    quick(&forward);
    let mut dead: Vec<Sim> = (0..50).map(|n| start(&forward, n)).collect();
    // Good names are answered all the while.
    for millis in (0..4_000).step_by(5) {
        for upstream in forward.upstreams() {
            upstream.health.succeeded(CoarseInstant::from_millis(1_000_000 + millis));
        }
        for sim in dead.iter_mut().filter(|sim| !sim.query.is_finished()) {
            sim.now = CoarseInstant::from_millis(1_000_000 + millis);
            if sim.query.poll_timeout() <= sim.now {
                sim.handle(Event::Timeout);
            }
        }
        assert!(forward.upstreams().iter().all(|up| up.health.failures() == 0));
    }
    // Without any answer since, it is a failure.
    let mut sim = start(&forward, 10_000);
    sim.run_out();
    assert!(forward.upstreams().iter().all(|up| up.health.failures() > 0));
}

#[test]
fn a_question_a_second_goes_to_one_that_is_down_too() {
    let forward = forward(2, "");
    let health = |forward: &Arc<Forward>| {
        forward.upstreams()[0].health.failed(2);
        forward.upstreams()[0].health.failed(2);
    };
    health(&forward);
    let trial = |forward: &Arc<Forward>, millis| {
        let mut sim = start(forward, millis);
        let trial = sim.query.take_trial().map(|upstream| upstream.label().to_string());
        (sim, trial)
    };
    let (sim, none) = trial(&forward, 0);
    assert_eq!((sim.asked(), none), (vec![(2, UDP)], None), "probes come first");
    assert_eq!(trial(&forward, 1_000).1.as_deref(), Some("192.0.2.1:53"));
    assert_eq!(trial(&forward, 1_999).1, None, "once a second");
    // Also when queries fail fast.
    let fast = super::query::forward(1, "failfast_all_unhealthy_upstreams");
    health(&fast);
    let (mut sim, none) = trial(&fast, 0);
    assert_eq!((sim.failure(), none), (Failure::AllDown, None));
    let (sim, none) = trial(&fast, 1_000);
    assert_eq!((sim.asked(), none), (vec![(1, UDP)], None), "the query itself finds out");
    assert_eq!(trial(&fast, 1_999).0.failure(), Failure::AllDown, "once a second");
}

#[test]
fn queries_of_a_dead_upstream_turn_to_the_next_when_it_goes_down() {
    let forward = forward(2, "hedge off");
    let mut sim = start(&forward, 0);
    forward.upstreams()[0].health.failed(1);
    forward.upstreams()[0].health.failed(2);
    assert_eq!(sim.time_out(), 251, "the recheck comes before the try is over");
    assert_eq!(sim.asked(), [(1, UDP), (2, UDP)]);
}

#[test]
fn upstreams_that_replace_dead_ones_are_taken_up() {
    let (old, new) = (forward(1, ""), forward(2, ""));
    let mut sim = start(&old, 0);
    let upstreams = vec![Arc::clone(&new.upstreams()[1])];
    old.set.store(Arc::new(Set { upstreams, problem: "".into() }));
    sim.time_out();
    assert_eq!(sim.asked(), [(1, UDP), (2, UDP)]);
    sim.answer(2, 0);
    assert_eq!(sim.answered(), (2, false));
}

#[test]
fn limits_are_counted_once_for_each_query_and_given_back() {
    let forward = forward(1, "max_concurrent 2");
    let (one, two) = (start(&forward, 0), start(&forward, 0));
    assert_eq!(start(&forward, 0).failure(), Failure::MaxConcurrent);
    drop((one, two));
    assert_eq!(start(&forward, 0).asked(), [(1, UDP)]);
    let turns = super::query::forward(2, "policy round_robin");
    let firsts: Vec<u8> = (0..4).map(|_| start(&turns, 0).out[0].1).collect();
    assert_eq!(firsts, [1, 2, 1, 2]);
}

#[test]
fn what_nobody_was_asked_for_is_never_cached() {
    let none = forward(1, "");
    none.set.store(Arc::new(Set { upstreams: Vec::new(), problem: "the file is empty".into() }));
    let finished = start(&none, 0).finished();
    assert!(finished.is_transient);
    assert_eq!(
        finished.result.err().unwrap().to_string(),
        "there is no upstream to forward to: the file is empty"
    );
}

/// The machine knows no socket, no runtime and no clock: what it imports says so.
#[test]
fn the_machine_does_no_io() {
    let source = include_str!("../query.rs");
    for banned in ["tokio", "Instant::now", "async ", ".await", "std::net::Udp", "std::net::Tcp"] {
        assert!(!source.contains(banned), "{banned}");
    }
}
