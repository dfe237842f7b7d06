use super::*;

#[tokio::test]
async fn an_answer_comes_back_whole_and_counted() {
    let fake = Fake::udp(|query, _| {
        let mut message = answer(query, flags::AD | flags::AA, 7);
        // An OPT record with an extended error.
        message[11] = 1;
        let mut options = Vec::new();
        crate::wire::message::push_extended_error(&mut options, 3, "stale");
        message.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, options.len() as u8]);
        message.extend_from_slice(&options);
        vec![Reaction::Send(message)]
    })
    .await;
    let fixture = forward_to(&[&fake], "");
    let answer = fixture.ask("www.example.com").await;
    assert_eq!(
        (last(&answer), answer.outcome.plugin, answer.outcome.rcode),
        (7, Plugin::Forward, Rcode::NOERROR)
    );
    let flags = answer.message.layout().flags;
    assert!(
        flags & flags::AD != 0 && flags & flags::AA != 0 && !answer.message.options().is_empty()
    );
    let metrics = Metrics::new();
    metrics.replace(vec![Arc::clone(&fixture.forward) as _]);
    let text = metrics.text(Format::Prometheus);
    let to = fake.address;
    for line in [
        format!(
            "coredns_proxy_request_duration_seconds_count{{proxy_name=\"forward\",to=\"{to}\",rcode=\"NOERROR\"}} 1\n"
        ),
        format!(
            "coredns_proxy_conn_cache_misses_total{{proxy_name=\"forward\",to=\"{to}\",proto=\"udp\"}} 1\n"
        ),
        format!("nodens_forward_upstream_up{{to=\"{to}\"}} 1\n"),
        "coredns_forward_max_concurrent_rejects_total 0\n".to_owned(),
    ] {
        assert!(text.contains(&line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn forged_answers_are_passed_over_and_counted() {
    let fake = Fake::udp(|query, _| {
        let good = answer(query, 0, 1);
        let mut id = answer(query, 0, 66);
        id[0] ^= 0x55;
        let mut question = answer(query, 0, 66);
        question[13] ^= 1;
        let mut qtype = answer(query, 0, 66);
        let end = Layout::parse(query).unwrap().question_end;
        qtype[end - 3] = 28;
        vec![
            Reaction::SendFromElsewhere(answer(query, 0, 66)),
            Reaction::Send(id),
            Reaction::Send(question),
            Reaction::Send(qtype),
            Reaction::Send(query.to_vec()),
            Reaction::Send(good),
        ]
    })
    .await;
    let fixture = forward_to(&[&fake], "");
    assert_eq!(fixture.last("www.example.com").await, 1);
    assert_eq!(fixture.unexpected(Unexpected::Id), 1);
    assert_eq!(fixture.unexpected(Unexpected::Question), 2);
    assert_eq!(fixture.unexpected(Unexpected::NoResponse), 1);
}

#[tokio::test]
async fn what_is_cut_off_is_asked_for_again_over_tcp() {
    for whole in [true, false] {
        let fake = Fake::udp(move |query, _| {
            let mut message = answer(query, flags::TC, 1);
            if !whole {
                message.resize(5_000, 0);
            }
            vec![Reaction::Send(message)]
        })
        .await;
        let connections = with_tcp(&fake, 2).await;
        let fixture = forward_to(&[&fake], "");
        assert_eq!(fixture.last("one.example").await, 2);
        assert_eq!(fixture.last("two.example").await, 2);
        assert_eq!(
            (connections.load(Relaxed), fake.asked()),
            (1, 2),
            "the connection is used again"
        );
    }
    // Nobody there over TCP: what there is is passed on, and says itself that it is cut off.
    let fake = Fake::udp(|query, _| vec![Reaction::Send(answer(query, flags::TC, 1))]).await;
    let answer = forward_to(&[&fake], "").ask("one.example").await;
    assert!(answer.message.truncated() && last(&answer) == 1);
}

#[tokio::test]
async fn tcp_is_pipelined_and_connections_expire() {
    let fake = Fake::silent().await;
    let connections = with_tcp(&fake, 3).await;
    let fixture = forward_to(&[&fake], "force_tcp\nexpire 100ms");
    let names: Vec<String> = (0..50).map(|n| format!("n{n}.example")).collect();
    let answers = futures_util::future::join_all(names.iter().map(|name| fixture.last(name))).await;
    assert!(answers.iter().all(|&last| last == 3));
    assert_eq!((connections.load(Relaxed), fake.asked()), (1, 0));
    eventually("the idle connection to end", 5, async || fake.ended.load(Relaxed) == 1).await;
    assert_eq!(fixture.last("again.example").await, 3);
    assert_eq!(connections.load(Relaxed), 2, "over a new one");
}

#[tokio::test]
async fn failover_and_next_follow_their_codes() {
    let refusing = Fake::udp(|query, _| vec![Reaction::Send(error(query, Rcode::REFUSED))]).await;
    let nothing = Fake::udp(|query, _| vec![Reaction::Send(error(query, Rcode::NXDOMAIN))]).await;
    let good = Fake::good(3).await;
    let plain = forward_to(&[&refusing, &good], "policy sequential");
    assert_eq!(plain.ask("one.example").await.outcome.rcode, Rcode::REFUSED);
    let failover = forward_to(&[&refusing, &good], "policy sequential\nfailover REFUSED");
    assert_eq!(failover.last("one.example").await, 3);
    let both = forward_to(&[&refusing, &refusing], "policy sequential\nfailover REFUSED");
    assert_eq!(both.ask("one.example").await.outcome.rcode, Rcode::REFUSED);
    let lines = |to: &Fake| {
        [
            format!("forward . {} {{\n next NXDOMAIN\n}}", nothing.address),
            format!("forward . {}", to.address),
        ]
    };
    assert_eq!(fixture(&lines(&good)).last("one.example").await, 3);
    let alone = forward_to(&[&nothing], "next NXDOMAIN");
    assert_eq!(alone.ask("one.example").await.outcome.rcode, Rcode::NXDOMAIN);
    let nodata = Fake::udp(|query, _| vec![Reaction::Send(error(query, Rcode::NOERROR))]).await;
    let lines =
        [format!("forward . {} {{\n next_on_nodata\n}}", nodata.address), lines(&good)[1].clone()];
    assert_eq!(fixture(&lines).last("one.example").await, 3);
}

#[tokio::test]
async fn a_server_without_edns_is_asked_without() {
    let old = Fake::udp(|query, _| {
        vec![Reaction::Send(if query[11] == 0 {
            answer(query, 0, 4)
        } else {
            // The bare header.
            let mut message = error(query, Rcode::FORMERR)[..12].to_vec();
            message[4..].fill(0);
            message
        })]
    })
    .await;
    let fixture = forward_to(&[&old], "");
    assert_eq!(fixture.last("one.example").await, 4);
    assert_eq!(old.asked(), 2);
    // BADVERS has half of its code in an OPT record.
    let confused = Fake::udp(|query, _| {
        let mut message = error(query, Rcode::NOERROR);
        message[11] = 1;
        message.extend_from_slice(&[0, 0, 41, 4, 208, 1, 0, 0, 0, 0, 0]);
        vec![Reaction::Send(if query[11] == 0 { answer(query, 0, 5) } else { message })]
    })
    .await;
    assert_eq!(forward_to(&[&confused], "").last("one.example").await, 5);
    // One that always says so is believed.
    let broken = Fake::udp(|query, _| vec![Reaction::Send(error(query, Rcode::FORMERR))]).await;
    assert_eq!(forward_to(&[&broken], "").ask("one.example").await.outcome.rcode, Rcode::FORMERR);
}

#[tokio::test]
async fn zones_and_exceptions_are_kept() {
    let good = Fake::good(1).await;
    let fixture =
        fixture(&[format!("forward example.org {} {{\n except no.example.org\n}}", good.address)]);
    assert_eq!(fixture.last("www.example.org").await, 1);
    for name in ["www.no.example.org", "example.com"] {
        assert_eq!(
            fixture.ask(name).await.outcome,
            Outcome::new(Plugin::Server, Rcode::REFUSED),
            "{name}"
        );
    }
}

#[tokio::test]
async fn random_case_is_checked_and_servers_that_do_not_keep_it_are_asked_over_tcp() {
    let good = Fake::good(1).await;
    let fixture = forward_to(&[&good], "case_randomization");
    let name = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.example";
    assert_eq!(fixture.last(name).await, 1);
    let lower =
        Fake::udp(|query, _| vec![Reaction::Send(answer(&query.to_ascii_lowercase(), 0, 1))]).await;
    with_tcp(&lower, 2).await;
    assert_eq!(forward_to(&[&lower], "case_randomization").last(name).await, 2);
}

#[tokio::test]
async fn a_fresh_port_for_every_query() {
    let ports = Arc::new(std::sync::Mutex::new(std::collections::HashSet::new()));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let seen = Arc::clone(&ports);
    tokio::spawn(async move {
        let mut buf = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut buf).await {
            seen.lock().unwrap().insert(from.port());
            let _ = socket.send_to(&answer(&buf[..len], 0, 1), from).await;
        }
    });
    for (options, range) in [("source_port fresh", 30..=40), ("", 2..=8)] {
        let fixture = fixture(&[format!("forward . {address} {{\n{options}\n}}")]);
        for n in 0..40 {
            assert_eq!(fixture.last(&format!("n{n}.example")).await, 1);
        }
        let ports = std::mem::take(&mut *ports.lock().unwrap()).len();
        assert!(range.contains(&ports), "{ports} ports");
    }
}
