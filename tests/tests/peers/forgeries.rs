//! Forged answers: wrong in one of id, port, question, source address and source port, and right in all else.

use std::cell::Cell;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use tests::peers::forger::{FORGED, Forger, OF_EACH, TRUE};
use tests::peers::note;
use tests::process::Setup;

const COREFILE: &str = ".:@dns@ {
    bind 127.0.0.1
    prometheus 127.0.0.1:@metrics@
    ready 127.0.0.1:@ready@
    cache
    forward . @to@ {
        @options@
    }
}
";

/// Ways in which a forgery is wrong.
const WAYS: u64 = 5;
/// Forgeries in CI; NODENS_FORGERIES sets another number.
const FORGERIES: u64 = 200_000;
/// So many of the names are asked for again at the end, out of the cache.
const AGAIN: u64 = 200;

fn forgeries() -> u64 {
    let set = std::env::var("NODENS_FORGERIES").ok();
    set.map_or(FORGERIES, |n| n.parse().expect("NODENS_FORGERIES is a number"))
}

/// Sends so many forgeries, and returns what was sent and how long it took.
fn none_is_believed(options: &str, wanted: u64) {
    let forger = Forger::start().unwrap();
    let corefile = COREFILE.replace("@options@", options);
    let nodens = Setup::new(&corefile).word("to", forger.address()).start();
    let client = nodens.client();
    let begun = Instant::now();
    let queries = wanted.div_ceil(WAYS * OF_EACH);
    let truth = TRUE.to_string();
    let check = |name: &str| {
        let answer = client.ask(name, RecordType::A).unwrap();
        assert_eq!(answer.data(RecordType::A), [truth.as_str()], "{name}");
        assert!(!answer.normal.answer.iter().any(|line| line.contains(&FORGED.to_string())));
    };
    for n in 0..queries {
        check(&format!("n{n}.forged.test."));
    }
    // What was kept is true as well, and nothing was kept about what nobody has asked for.
    let asked = forger.sent().answers.load(Relaxed);
    (0..queries.min(AGAIN)).for_each(|n| check(&format!("n{n}.forged.test.")));
    assert_eq!(forger.sent().answers.load(Relaxed), asked, "from the cache");
    check("victim.forged.test.");
    assert_eq!(forger.sent().answers.load(Relaxed), asked + 1, "not from the cache");

    let sent = forger.sent();
    let took = begun.elapsed();
    let count = |count: &std::sync::atomic::AtomicU64| count.load(Relaxed) as f64;
    let to = forger.address().to_string();
    let counted = Cell::new((0.0, 0.0));
    // Those sent to other sockets of Nodens count there as well, if the socket was still open.
    let least = count(&sent.wrong_id);
    let most = least + count(&sent.to_known_port);
    nodens.wait_for_metrics("the forgeries that arrived", Duration::from_secs(5), |metrics| {
        let name = "nodens_forward_unexpected_answers_total";
        let by = |reason| metrics.sum(name, &[("to", &to), ("reason", reason)]);
        let (ids, questions) = (by("id"), by("question"));
        counted.set((ids, questions));
        assert_eq!((by("late"), by("case")), (0.0, 0.0));
        ids >= least && ids <= most && questions == count(&sent.wrong_question)
    });
    let (ids, questions) = counted.get();
    assert!(sent.forgeries() >= wanted);
    note(&format!(
        "{} forgeries in {took:.1?}, 0 accepted ({} wrong ids, {} questions, {} addresses, {} source ports, {} ports; \
         counted: {ids} ids, {questions} questions); {} true answers from {} ports of Nodens; {options:?}",
        sent.forgeries(),
        sent.wrong_id.load(Relaxed),
        sent.wrong_question.load(Relaxed),
        sent.wrong_source.load(Relaxed),
        sent.wrong_source_port.load(Relaxed),
        sent.wrong_port.load(Relaxed),
        sent.answers.load(Relaxed),
        forger.ports(),
    ));
}

#[test]
fn forged_answers_are_never_believed() {
    none_is_believed("", forgeries());
}

#[test]
fn forged_answers_are_never_believed_at_fresh_ports() {
    none_is_believed("source_port fresh", forgeries() / 10);
}
