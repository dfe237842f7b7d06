//! Refreshes of stale answers are queries that wait, and bounded as such.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Mutex;

use nodens::admission::ALPHA;
use nodens::server::worker::MAX_FORWARDED;

use super::*;

/// Queries for upstreams that may wait on behalf of one client: its share of what a group of upstreams gets.
const SHARE: usize = MAX_FORWARDED * ALPHA / (ALPHA + 1) * ALPHA / (ALPHA + 1) + 1;
/// Some hundreds more.
const NAMES: usize = SHARE + 500;
/// Names that are asked for at a time: their answers fit into the buffer of a socket.
const PART: usize = 100;
/// A query for a name that gets no answer waits for longer than this.
const HELD: Duration = Duration::from_millis(3_500);

/// Answers are kept for a second, and served for an hour after that.
fn start_stale(upstream: &Upstream) -> Nodens {
    setup(&[upstream.address()], "", "", "")
        .corefile(|text| {
            text.replace("servfail 5s", "servfail 5s\n serve_stale 1h immediate")
                .replace("cache 30", "cache 1")
        })
        .start()
}

#[test]
fn refreshes_give_way_to_a_flood() {
    let upstream = zone();
    let nodens = start_stale(&upstream);
    for n in 0..100 {
        nodens.client().ask(&www(n), RecordType::A).unwrap();
    }
    let before = asked(&upstream);
    upstream.always(Act::Drop);
    poll::pause(Duration::from_millis(1_500));
    // Each is answered from the old answer, whatever becomes of its refresh.
    for n in 0..100 {
        let answer = nodens.client().ask(&www(n), RecordType::A).unwrap();
        assert_eq!(answer.data(RecordType::A), [format!("192.0.2.{n}")]);
    }
    assert!(asked(&upstream) > before);
}

#[test]
fn refreshes_of_one_client_have_a_bound() {
    let mut text =
        "$ORIGIN test.\n$TTL 60\n@ IN SOA ns.test. admin.test. 1 3600 600 86400 60\n".to_owned();
    for n in 0..NAMES {
        text.push_str(&format!("w{n} IN A 192.0.2.1\n"));
    }
    for n in 0..500 {
        text.push_str(&format!("live{n} IN A 192.0.2.2\n"));
    }
    let upstream = Upstream::with_zone(&text);
    let nodens = start_stale(&upstream);
    let socket = UdpSocket::bind("127.0.0.3:0").unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let parts = || (0..NAMES).step_by(PART).map(|from| from..NAMES.min(from + PART));
    parts().for_each(|part| ask_for_all(&socket, &nodens, part));
    poll::pause(Duration::from_millis(1_500));

    let refreshed: Arc<Mutex<HashSet<String>>> = Arc::default();
    let (names, begun) = (Arc::clone(&refreshed), Instant::now());
    upstream.on_query(move |seen| {
        if !seen.name.starts_with('w') {
            return Act::Answer;
        }
        if seen.at.saturating_duration_since(begun) < HELD {
            names.lock().unwrap().insert(seen.name.clone());
        }
        Act::Drop
    });
    // The upstream answers another client, so that the refreshes wait for as long as any query does.
    let mut live = 0..;
    let mut is_alive = || {
        let name = format!("live{}.test.", live.next().unwrap_or(0));
        nodens.client().ask(&name, RecordType::A).unwrap();
    };
    for part in parts() {
        ask_for_all(&socket, &nodens, part);
        is_alive();
    }
    let count = || refreshed.lock().unwrap().len();
    poll::until(Duration::from_secs(1), || {
        is_alive();
        count() > SHARE
    });
    assert!((1..=SHARE).contains(&count()), "{} of {NAMES} at once", count());
}

/// Asks for the addresses of all these names, and waits for as many good answers.
fn ask_for_all(socket: &UdpSocket, nodens: &Nodens, names: Range<usize>) {
    for n in names.clone() {
        let question = Question::new(&www(n), RecordType::A);
        socket.send_to(&question.to_bytes(), nodens.dns()).unwrap();
    }
    let mut reply = [0; 512];
    for n in names {
        let len = socket.recv(&mut reply).unwrap();
        assert_eq!((len > 12, reply[3] & 15, reply[7]), (true, 0, 1), "answer {n}");
    }
}
