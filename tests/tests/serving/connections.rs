//! TCP: pipelining, half-closed and idle connections, and the share of one client.

use super::*;

#[test]
fn pipelined_answers_come_when_they_are_ready() {
    let upstream = upstream();
    let nodens = forwarding(&upstream, "0s").start();
    let mut connection = nodens.client().connect().unwrap();
    let slow = Question::new("slow.test.", RecordType::A);
    let fast = Question::new("fast.test.", RecordType::A);
    let error = Question::new("not.served.", RecordType::A);
    // One write with three queries, cut in the middle of a length: framing must not depend on segments.
    let mut stream = Vec::new();
    for question in [&slow, &fast, &error] {
        let bytes = question.to_bytes();
        stream.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
        stream.extend(bytes);
    }
    let begun = Instant::now();
    let (head, tail) = stream.split_at(1);
    connection.send_raw(head).unwrap();
    connection.send_raw(tail).unwrap();
    let mut order = Vec::new();
    for _ in 0..3 {
        let answer = connection.receive().unwrap().unwrap();
        order.push((id(&answer), begun.elapsed()));
    }
    println!("answered after {:?}", order.iter().map(|(_, time)| time).collect::<Vec<_>>());
    let ids: Vec<u16> = order.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids.last(), Some(&id_of(&slow)), "the slow one is last");
    assert!(ids.contains(&id_of(&fast)) && ids.contains(&id_of(&error)));
    assert!(order[1].1 < SLOW && order[2].1 >= SLOW);
    // The connection goes on; a client that closes its side still gets what it waits for.
    connection.send(&fast.to_bytes()).unwrap();
    assert_eq!(id(&connection.receive().unwrap().unwrap()), id_of(&fast));
}

#[test]
fn half_closed_connections_get_their_answers() {
    let upstream = upstream();
    let nodens = forwarding(&upstream, "0s").start();
    let mut stream = TcpStream::connect(nodens.dns()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let bytes = Question::new("slow.test.", RecordType::A).to_bytes();
    stream.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(&bytes).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert!(all.len() > 14 && rcode(&all[2..]) == 0, "{all:02x?}");
}

#[test]
fn idle_and_half_sent_connections_end() {
    let nodens = plain();
    let begun = Instant::now();
    let wait = |first: &[u8]| {
        let mut stream = TcpStream::connect(nodens.dns()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(first).unwrap();
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        assert!(ended.is_ok() && rest.is_empty(), "{ended:?} {rest:02x?}");
        begun.elapsed()
    };
    // At the same time, so that the test takes the longest of them.
    let (idle, length, half) = std::thread::scope(|scope| {
        let idle = scope.spawn(|| wait(&[]));
        let length = scope.spawn(|| wait(&[0]));
        let half = scope.spawn(|| wait(&[0, 40, 1, 2, 3]));
        (idle.join().unwrap(), length.join().unwrap(), half.join().unwrap())
    });
    println!(
        "closed: idle after {idle:?}, half a length after {length:?}, half a query after {half:?}"
    );
    let between = |time: Duration, low: u64, high: u64| {
        time >= Duration::from_secs(low) && time < Duration::from_secs(high)
    };
    assert!(between(idle, 9, 15) && between(length, 2, 8) && between(half, 2, 8));
}

#[test]
fn one_client_cannot_take_all_connections() {
    let nodens = plain();
    let limit = PER_CLIENT + 8;
    let mut open: Vec<TcpStream> =
        (0..limit).map(|_| TcpStream::connect(nodens.dns()).unwrap()).collect();
    let closed = |stream: &mut TcpStream| {
        stream.set_nonblocking(true).unwrap();
        matches!(stream.read(&mut [0; 1]), Ok(0))
    };
    poll::wait_for("the connections above the limit to be closed", SOON, || {
        open.iter_mut().filter_map(|stream| closed(stream).then_some(())).count()
            == limit - PER_CLIENT
    });
    // Another client is served; so is the first again, when it has let one go.
    let other = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    other.bind(&"127.0.0.9:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    other.connect(&nodens.dns().into()).unwrap();
    let mut other = TcpStream::from(other);
    other.set_read_timeout(Some(SOON)).unwrap();
    let query = Question::new("a.example.test.", RecordType::A).to_bytes();
    other.write_all(&u16::try_from(query.len()).unwrap().to_be_bytes()).unwrap();
    other.write_all(&query).unwrap();
    let mut reply = [0; 14];
    other.read_exact(&mut reply).unwrap();
    assert_eq!(rcode(&reply[2..]), 0);
    open.clear();
    poll::wait_for("the first client to be served again", SOON, || {
        nodens.client().tcp(&Question::new("a.example.test.", RecordType::A)).is_ok()
    });
}
