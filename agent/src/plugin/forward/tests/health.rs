use super::*;

#[tokio::test]
async fn a_dead_upstream_is_left_out_and_comes_back() {
    let dead =
        Fake::udp(
            |query, n| if n < 4 { Vec::new() } else { vec![Reaction::Send(answer(query, 0, 1))] },
        )
        .await;
    let good = Fake::good(2).await;
    let fixture = forward_to(&[&dead, &good], "policy sequential\nhedge off\nhealth_check 50ms");
    assert_eq!(fixture.last("one.example").await, 2);
    assert_eq!(fixture.last("two.example").await, 2);
    assert!(fixture.forward.upstreams()[0].health.is_down());
    let begun = Instant::now();
    for n in 0..20 {
        fixture.last(&format!("n{n}.example")).await;
    }
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    // Probes find out that it is back.
    let is_up = async || !fixture.forward.upstreams()[0].health.is_down();
    eventually("the upstream to be back", 10, is_up).await;
    assert_eq!(fixture.last("three.example").await, 1);
}

#[tokio::test]
async fn a_closed_port_costs_no_time() {
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let good = Fake::good(2).await;
    let fixture =
        fixture(&[format!("forward . {closed} {} {{\n policy sequential\n}}", good.address)]);
    let begun = Instant::now();
    assert_eq!(fixture.last("one.example").await, 2);
    assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn late_answers_are_told_from_forged_ones_and_show_life() {
    let slow = Fake::udp(|query, _| {
        vec![Reaction::After(Duration::from_millis(120), answer(query, 0, 1))]
    })
    .await;
    let good = Fake::good(2).await;
    let fixture = forward_to(&[&slow, &good], "policy sequential");
    // It has been quick until now.
    (0..100)
        .for_each(|_| fixture.forward.upstreams()[0].round_trips.record(Duration::from_millis(1)));
    assert_eq!(fixture.last("one.example").await, 2);
    eventually("the late answer", 5, async || fixture.unexpected(Unexpected::Late) > 0).await;
    assert!(!fixture.forward.upstreams()[0].health.is_down());
}

#[tokio::test]
async fn hedges_are_bounded() {
    let slow =
        Fake::udp(|query, _| vec![Reaction::After(Duration::from_millis(60), answer(query, 0, 1))])
            .await;
    let good = Fake::good(2).await;
    let fixture = forward_to(&[&slow, &good], "policy sequential");
    let mut second = 0;
    for n in 0..60 {
        // Each time as if it had always been quick.
        (0..100).for_each(|_| {
            fixture.forward.upstreams()[0].round_trips.record(Duration::from_micros(200))
        });
        second += usize::from(fixture.last(&format!("n{n}.example")).await == 2);
    }
    assert!((1..=HEDGES_SAVED as usize + 2).contains(&second), "{second}");
    let off = forward_to(&[&slow, &good], "policy sequential\nhedge off");
    (0..100)
        .for_each(|_| off.forward.upstreams()[0].round_trips.record(Duration::from_micros(200)));
    assert_eq!(off.last("one.example").await, 1);
}

#[tokio::test]
async fn every_upstream_dead_is_servfail_and_says_why() {
    let dead = [Fake::silent().await, Fake::silent().await];
    let fixture = forward_to(&[&dead[0], &dead[1]], "max_connect_attempts 2");
    let begun = Instant::now();
    let answer = fixture.ask("one.example").await;
    assert_eq!((answer.outcome.rcode, answer.outcome.plugin), (Rcode::SERVFAIL, Plugin::Forward));
    assert!(answer.error.as_deref().unwrap().contains("no answer within"));
    assert!(begun.elapsed() < Duration::from_secs(6));
    assert_eq!(dead[0].asked().min(1) + dead[1].asked().min(1), 2);
}

#[tokio::test]
async fn slow_upstreams_have_their_time_where_all_are_down() {
    let slow = |last| {
        Fake::udp(move |query, _| {
            vec![Reaction::After(Duration::from_millis(600), answer(query, 0, last))]
        })
    };
    let (one, other) = (slow(7).await, slow(7).await);
    let fixture = forward_to(&[&one, &other], "");
    for upstream in fixture.forward.upstreams() {
        upstream.health.failed(1);
    }
    assert_eq!(fixture.last("one.example").await, 7);
}

#[tokio::test]
async fn probes_for_loops_stay_within_the_block() {
    let zones = |names: &[&str]| names.iter().map(|name| Name::from_text(name).unwrap()).collect();
    let probed = |line: &str, names: &[&str]| {
        let (config, _) = read(line, Config::parse);
        let context = ForwardContext { zones: zones(names), ..ForwardContext::default() };
        Forward::new(config, context).unwrap().probed_zone().unwrap().to_string()
    };
    let trimmed = |line, names: &[&str]| probed(line, names).trim_end_matches('.').to_owned();
    assert_eq!(trimmed("forward . 192.0.2.1", &["corp.internal"]), "corp.internal");
    assert_eq!(trimmed("forward a.b.test 192.0.2.1", &["corp.internal", "b.test"]), "a.b.test");
    assert_eq!(
        trimmed("forward . 192.0.2.1 {\nexcept corp.internal\n}", &["corp.internal", "b.test"]),
        "b.test"
    );
    assert_eq!(trimmed("forward a.test 192.0.2.1", &["."]), "a.test");
}

#[tokio::test]
async fn failfast_answers_at_once_while_all_are_down() {
    let dead = Fake::silent().await;
    let fixture = forward_to(&[&dead], "failfast_all_unhealthy_upstreams\nhealth_check 1h");
    fixture.forward.upstreams()[0].health.failed(1);
    let asked = dead.asked();
    assert_eq!(fixture.ask("one.example").await.outcome.rcode, Rcode::SERVFAIL);
    assert_eq!(dead.asked(), asked);
    assert_eq!(fixture.forward.broken.value(), 1);
}

#[tokio::test]
async fn max_concurrent_refuses_what_is_too_much() {
    let slow = Fake::udp(|query, _| {
        vec![Reaction::After(Duration::from_millis(200), answer(query, 0, 1))]
    })
    .await;
    let fixture = forward_to(&[&slow], "max_concurrent 2");
    let answers = futures_util::future::join_all(
        ["a.example", "b.example", "c.example"].map(|name| fixture.ask(name)),
    )
    .await;
    let refused = answers.iter().filter(|answer| answer.outcome.rcode == Rcode::REFUSED).count();
    assert_eq!((refused, fixture.forward.limits.rejected.value()), (1, 1));
    assert_eq!(fixture.last("d.example").await, 1, "places are given back");
}
