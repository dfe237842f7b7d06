use super::*;

#[tokio::test]
async fn new_upstreams_of_a_file_take_over_once_they_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resolv.conf");
    let old = Fake::good(1).await;
    let new = Fake::udp(
        |query, n| if n < 2 { Vec::new() } else { vec![Reaction::Send(answer(query, 0, 2))] },
    )
    .await;
    let write = |fakes: &[&Fake]| {
        let text: String =
            fakes.iter().map(|fake| format!("nameserver {}\n", fake.address)).collect();
        std::fs::write(folder.path().join("new"), text).unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
    };
    write(&[&old]);
    let fixture = fixture(&[format!("forward . {}", path.display())]);
    assert_eq!(fixture.last("a.example").await, 1);
    write(&[&new]);
    let mut n = 0;
    eventually("the new server to be used", 15, async || {
        n += 1;
        fixture.last(&format!("n{n}.example")).await == 2
    })
    .await;
    assert!(new.asked() >= 3);
}

#[tokio::test]
async fn nobody_to_forward_to_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resolv.conf");
    let fixture = fixture(&[format!("forward . {}", path.display())]);
    let answer = fixture.ask("one.example").await;
    assert_eq!(answer.outcome.rcode, Rcode::SERVFAIL);
    let error = answer.error.unwrap();
    assert!(error.contains("cannot be read") && error.contains("name an address"), "{error}");
    // It appears later.
    let good = Fake::good(5).await;
    std::fs::write(&path, format!("nameserver {}\n", good.address)).unwrap();
    eventually("the server to be used", 10, async || fixture.last("one.example").await == 5).await;
}
