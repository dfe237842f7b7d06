use super::single_flight::{Join, MAX_FOLLOWERS, SingleFlight};
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_who_ask_the_same_ask_once() {
    let rig = Rig::new("");
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    rig.says(Says { gate: Some(Arc::clone(&gate)), ..answers(vec![a("www.example.org", 300, 1)]) });
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..1_000 {
        let dispatch = Arc::clone(&rig.dispatch);
        clients.spawn(async move {
            let packet = query("www.example.org", RecordType::A, flags::RD);
            let request = Request { query: Query::parse(&packet).unwrap(), origin: origin() };
            let owned = OwnedRequest::new(&request, Arc::clone(&dispatch));
            dispatch.chains()[0].resume(&owned, 0).await.message.layout().records.len()
        });
    }
    gate.add_permits(1);
    let mut answered = 0;
    while let Some(records) = clients.join_next().await {
        answered += records.unwrap();
    }
    assert_eq!((answered, rig.asked()), (1_000, 1));
    assert!(rig.cache.store().flights().is_empty());
}

#[tokio::test]
async fn followers_outlive_their_leader() {
    let rig = Rig::new("");
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    rig.says(Says { gate: Some(Arc::clone(&gate)), ..answers(vec![a("www.example.org", 300, 1)]) });
    let ask = || {
        let dispatch = Arc::clone(&rig.dispatch);
        tokio::spawn(async move {
            let packet = query("www.example.org", RecordType::A, flags::RD);
            let request = Request { query: Query::parse(&packet).unwrap(), origin: origin() };
            let owned = OwnedRequest::new(&request, Arc::clone(&dispatch));
            dispatch.chains()[0].resume(&owned, 0).await.message.layout().records.len()
        })
    };
    let leader = ask();
    settle().await;
    let followers = [ask(), ask(), ask()];
    settle().await;
    assert_eq!((rig.asked(), rig.cache.store().flights().len()), (1, 1));
    leader.abort();
    settle().await;
    assert_eq!(
        (rig.asked(), rig.cache.store().flights().len()),
        (2, 1),
        "one of them has taken over"
    );
    gate.add_permits(1);
    for follower in followers {
        assert_eq!(follower.await.unwrap(), 1);
    }
    assert!(rig.cache.store().flights().is_empty());
}

#[test]
fn another_question_with_the_same_hash_asks_alone() {
    let flights = Arc::new(SingleFlight::new());
    let (one, other) = (Name::from_text("a.org").unwrap(), Name::from_text("b.org").unwrap());
    let key = |name| Key { name, qtype: RecordType::A, bits: 0 };
    let leader = flights.join(5, 1, &key(one.as_ref()), true);
    assert!(matches!(leader, Join::Leader { is_recent: false, .. }));
    assert!(matches!(flights.join(5, 1, &key(one.as_ref()), true), Join::Follower(_)));
    assert!(matches!(flights.join(5, 1, &key(other.as_ref()), true), Join::Collision));
    assert!(matches!(flights.join(5, 2, &key(one.as_ref()), true), Join::Collision));
    assert!(matches!(flights.join(5, 1, &key(one.as_ref()), false), Join::Leader { .. }));
    drop(leader);
    assert!(flights.is_empty());
}

#[test]
fn who_waits_for_one_answer_is_bounded() {
    let flights = Arc::new(SingleFlight::new());
    let name = Name::from_text("a.org").unwrap();
    let key = Key { name: name.as_ref(), qtype: RecordType::A, bits: 0 };
    let leader = flights.join(5, 1, &key, true);
    let waiting: Vec<_> = (0..MAX_FOLLOWERS).map(|_| flights.join(5, 1, &key, true)).collect();
    assert!(waiting.iter().all(|part| matches!(part, Join::Follower(_))));
    assert!(matches!(flights.join(5, 1, &key, true), Join::Overloaded));
    drop(leader);
    assert!(matches!(flights.join(5, 1, &key, true), Join::Leader { .. }));
}
