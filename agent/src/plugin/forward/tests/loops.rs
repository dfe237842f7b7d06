use super::*;

/// Two servers that point at one another, and back.
#[tokio::test]
async fn a_loop_is_set_aside_and_returns_when_it_is_gone() {
    let guard = Arc::new(LoopGuard::new());
    let looping = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let (ours, on) = (Arc::clone(&guard), Arc::clone(&looping));
    let other = Fake::udp(move |query, _| {
        if on.load(Relaxed) {
            // What it is asked it asks us.
            let parsed = crate::wire::Query::parse(query).unwrap();
            let mut buf = Vec::new();
            let mut reply = Reply::begin(&mut buf, &parsed, false);
            let name = parsed.name_as_asked().to_string();
            request_of(&name, parsed.qtype(), |request| {
                crate::plugin::loop_::Loop(Arc::clone(&ours)).serve(
                    request,
                    &mut reply,
                    &mut Local::new(0),
                )
            });
            reply.finish(None);
        }
        vec![Reaction::Send(error(query, Rcode::NXDOMAIN))]
    })
    .await;
    let good = Fake::good(1).await;
    let to = format!("forward . {} {}", other.address, good.address);
    let (config, _) = read(&to, Config::parse);
    let context = ForwardContext { workers: 1, loops: Some(guard), ..ForwardContext::default() };
    let forward = Forward::new(config, context).unwrap();
    tokio::spawn(Forward::background(Arc::downgrade(&forward)));
    let until = async |wanted: bool| {
        let is_so = async || forward.upstreams()[0].health.is_looping() == wanted;
        eventually(&format!("looping to be {wanted}"), 5, is_so).await;
    };
    until(true).await;
    assert!(!forward.upstreams()[1].health.is_looping());
    looping.store(false, Relaxed);
    forward.suspicious.store(true, Relaxed);
    forward.probe_soon();
    until(false).await;
}

#[tokio::test]
async fn all_upstreams_looping_is_servfail_at_once() {
    let good = Fake::good(1).await;
    let fixture = forward_to(&[&good], "");
    fixture.forward.upstreams()[0].health.set_looping(true);
    let answer = fixture.ask("one.example").await;
    assert_eq!((answer.outcome.rcode, good.asked()), (Rcode::SERVFAIL, 0));
    assert!(answer.error.unwrap().contains("come back here"));
    let waiting = Forwarding(Arc::clone(&fixture.forward)).not_ready().unwrap();
    assert!(waiting.contains(&good.address.to_string()), "{waiting}");
}
