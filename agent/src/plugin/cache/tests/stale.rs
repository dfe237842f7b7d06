use std::time::Duration;

use super::*;

#[tokio::test]
async fn stale_answers_are_given_at_once_and_refreshed() {
    let mut rig = Rig::new("{\n serve_stale\n}");
    rig.says(answers(vec![a("www.example.org", 60, 1)]));
    rig.ask("www.example.org").await;
    advance(100_000);
    rig.says(answers(vec![a("www.example.org", 60, 2)]));
    let got = rig.ask("www.example.org").await;
    assert_eq!((got.outcome.cache, got.lasts(), got.ttls()), (CacheUse::Stale, vec![1], vec![30]));
    assert_eq!(got.extended_errors(), [3]);
    settle().await;
    let got = rig.ask("www.example.org").await;
    assert_eq!(
        (got.outcome.cache, got.lasts(), got.ttls()),
        (CacheUse::Success, vec![2], vec![60])
    );
    assert_eq!(rig.asked(), 2);
    assert_eq!(rig.cache.stats().prefetches.load(Relaxed), 1);
}

#[tokio::test]
async fn a_failed_refresh_waits_before_the_next() {
    let mut rig = Rig::new("{\n serve_stale 1h immediate 15s 20s\n}");
    rig.says(answers(vec![a("www.example.org", 60, 1)]));
    rig.ask("www.example.org").await;
    advance(100_000);
    rig.says(fails());
    for _ in 0..5 {
        let got = rig.ask("www.example.org").await;
        assert_eq!((got.outcome.cache, got.ttls()), (CacheUse::Stale, vec![15]));
        settle().await;
    }
    assert_eq!(rig.asked(), 2);
    assert!(!rig.ask("www.example.org").await.waited);
    advance(20_000);
    rig.ask("www.example.org").await;
    settle().await;
    assert_eq!(rig.asked(), 3);
}

#[tokio::test]
async fn a_refresh_wants_recursion_whoever_was_its_occasion() {
    for options in ["serve_stale", "serve_stale 1h verify"] {
        let mut rig = Rig::new(&format!("{{\n {options}\n}}"));
        rig.says(answers(vec![a("www.example.org", 60, 1)]));
        rig.ask("www.example.org").await;
        advance(100_000);
        rig.says(answers(vec![a("www.example.org", 60, 2)]));
        rig.ask_packet(&query("www.example.org", RecordType::A, 0)).await;
        settle().await;
        assert_eq!(rig.upstream.recursive.load(Ordering::SeqCst), 2, "{options}");
        // Without RD it would not have been kept.
        assert_eq!(rig.ask("www.example.org").await.lasts(), [2], "{options}");
        assert_eq!(rig.asked(), 2);
    }
}

#[tokio::test]
async fn stale_answers_end() {
    let mut rig = Rig::new("{\n serve_stale 10s\n servfail 0\n}");
    rig.says(answers(vec![a("www.example.org", 60, 1)]));
    rig.ask("www.example.org").await;
    rig.says(fails());
    advance(69_999);
    assert_eq!(rig.ask("www.example.org").await.outcome.cache, CacheUse::Stale);
    advance(1);
    assert_eq!(rig.ask("www.example.org").await.outcome.rcode, Rcode::SERVFAIL);
}

#[tokio::test]
async fn failures_go_after_their_end_however_long_stale_answers_stay() {
    let mut rig = Rig::new("{\n servfail 1s\n serve_stale 1h\n}");
    rig.says(answers(vec![a("www.example.org", 60, 1)]));
    rig.ask("www.example.org").await;
    rig.says(fails());
    rig.ask("fails.example.org").await;
    let store = Arc::clone(rig.cache.store());
    let sweep = || (store.sweep(now(), 3_600, 0), store.iter().count());
    assert_eq!(sweep(), (0, 2));
    advance(999);
    assert_eq!(sweep(), (0, 2));
    advance(1);
    assert_eq!(sweep(), (1, 1), "the failure");
    advance(3_658_999);
    assert_eq!(sweep(), (0, 1));
    advance(1);
    assert_eq!(sweep(), (1, 0), "the answer");
}

#[tokio::test(start_paused = true)]
async fn verify_prefers_what_is_new() {
    let mut rig = Rig::new("{\n serve_stale 1h verify\n}");
    rig.says(answers(vec![a("www.example.org", 60, 1)]));
    rig.ask("www.example.org").await;
    advance(100_000);
    rig.says(answers(vec![a("www.example.org", 60, 2)]));
    let got = rig.ask("www.example.org").await;
    assert_eq!((got.outcome.cache, got.lasts()), (CacheUse::Miss, vec![2]));
    advance(100_000);
    rig.says(fails());
    let got = rig.ask("www.example.org").await;
    assert_eq!((got.outcome.cache, got.lasts()), (CacheUse::Stale, vec![2]));
    assert!(!rig.ask("www.example.org").await.waited, "until the failure is looked into again");
    assert_eq!(rig.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn verify_gives_up_in_time_and_goes_on_behind() {
    let mut rig = Rig::new("{\n serve_stale 1h verify 100ms\n}");
    rig.says(answers(vec![a("www.example.org", 60, 1)]));
    rig.ask("www.example.org").await;
    advance(100_000);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    rig.says(Says { gate: Some(Arc::clone(&gate)), ..answers(vec![a("www.example.org", 60, 2)]) });
    let begun = tokio::time::Instant::now();
    for _ in 0..3 {
        assert_eq!(rig.ask("www.example.org").await.lasts(), [1]);
    }
    assert_eq!(begun.elapsed().as_millis() / 10, Duration::from_millis(300).as_millis() / 10);
    assert_eq!(rig.asked(), 2, "one flight for all");
    gate.add_permits(1);
    settle().await;
    let got = rig.ask("www.example.org").await;
    assert_eq!((got.waited, got.lasts()), (false, vec![2]));
}

#[tokio::test]
async fn a_denial_replaces_an_answer_unless_told_otherwise() {
    for (options, last) in [("", None), ("\n prefer_positive", Some(1))] {
        let mut rig = Rig::new(&format!("{{\n serve_stale 1h verify{options}\n}}"));
        rig.says(answers(vec![a("www.example.org", 60, 1)]));
        rig.ask("www.example.org").await;
        advance(100_000);
        rig.says(denies(Rcode::NXDOMAIN, vec![soa(60, 60)]));
        let got = rig.ask("www.example.org").await;
        assert_eq!(
            got.outcome.rcode,
            if last.is_some() { Rcode::NOERROR } else { Rcode::NXDOMAIN }
        );
        assert_eq!(
            rig.ask("www.example.org").await.lasts().first() == last.as_ref(),
            last.is_some()
        );
        assert_eq!(rig.asked(), 2);
    }
}

#[tokio::test]
async fn the_popular_is_fetched_before_its_end() {
    let mut rig = Rig::new("{\n prefetch 3 10s 20%\n}");
    rig.says(answers(vec![a("www.example.org", 100, 1), a("www.example.org", 100, 2)]));
    rig.ask("www.example.org").await;
    for _ in 0..3 {
        advance(1_000);
        rig.ask("www.example.org").await;
    }
    advance(76_999);
    rig.ask("www.example.org").await;
    settle().await;
    assert_eq!(rig.asked(), 1, "not yet, and there was a gap");
    for _ in 0..3 {
        rig.ask("www.example.org").await;
    }
    advance(1);
    for _ in 0..3 {
        let got = rig.ask("www.example.org").await;
        assert_eq!((got.outcome.cache, got.ttls()), (CacheUse::Success, vec![20, 20]));
    }
    settle().await;
    assert_eq!(rig.asked(), 2);
    assert_eq!(rig.cache.stats().prefetches.load(Relaxed), 1);
    advance(20_001);
    let got = rig.ask("www.example.org").await;
    assert_eq!((got.waited, got.ttls()), (false, vec![80, 80]));
}

#[tokio::test]
async fn a_failed_prefetch_leaves_the_answer() {
    let mut rig = Rig::new("{\n prefetch 1 10s 50%\n}");
    rig.says(answers(vec![a("www.example.org", 100, 1)]));
    rig.ask("www.example.org").await;
    advance(60_000);
    rig.says(fails());
    rig.ask("www.example.org").await;
    settle().await;
    assert_eq!(rig.asked(), 2);
    let got = rig.ask("www.example.org").await;
    assert_eq!((got.waited, got.ttls()), (false, vec![40]));
    settle().await;
    assert_eq!(rig.asked(), 2);
    advance(5_000);
    rig.ask("www.example.org").await;
    settle().await;
    assert_eq!(rig.asked(), 3);
}
