//! The limit of file descriptors: raised at the start, and never used up by clients.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use socket2::{Domain, Socket, Type};
use tests::poll;
use tests::process::{Nodens, Setup};
use tests::upstream::Upstream;

const SOON: Duration = Duration::from_secs(20);

/// Names that are asked while idle clients hold their connections.
const NAMES: u8 = 40;

fn upstream() -> Upstream {
    let mut zone =
        String::from("$ORIGIN test.\n$TTL 60\n@ IN SOA ns.test. admin.test. 1 3600 600 86400 60\n");
    for n in 0..NAMES {
        zone += &format!("n{n} IN A 192.0.2.{n}\n");
    }
    Upstream::with_zone(&zone)
}

fn start(upstream: &Upstream, limits: &str) -> Nodens {
    let corefile = ".:@dns@ {
        bind 127.0.0.1
        health 127.0.0.1:@health@
        ready 127.0.0.1:@ready@
        prometheus 127.0.0.1:@metrics@
        forward . @upstream@
    }";
    Setup::new(corefile)
        .word("upstream", upstream.address())
        .wrapper(&["sh", "-ec", &format!("{limits}; exec \"$@\""), "sh"])
        .start()
}

#[test]
fn the_soft_limit_is_raised_to_the_hard_one() {
    let upstream = upstream();
    let nodens = start(&upstream, "ulimit -Sn 300; ulimit -Hn 900");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", nodens.server())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let values: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(values, ["900", "900"], "{line}");
}

/// An idle connection from one of several addresses, so that the share of one client is not what limits them.
fn connect(to: SocketAddr, from: u8) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, from), 0)).into()).ok()?;
    socket.connect_timeout(&to.into(), SOON).ok()?;
    Some(socket.into())
}

#[test]
fn idle_clients_leave_descriptors_for_everything_else() {
    let upstream = upstream();
    let nodens = start(&upstream, "ulimit -n 300");
    // More than the limit allows; those that are refused are closed at once.
    let clients: Vec<TcpStream> =
        (0..400_u16).filter_map(|n| connect(nodens.dns(), 10 + (n % 20) as u8)).collect();
    assert!(clients.len() > 350, "{}", clients.len());
    poll::wait_for("connections", SOON, || nodens.open_files() > 100);
    for n in 0..NAMES {
        let name = format!("n{n}.test.");
        let answer = nodens.client().ask(&name, RecordType::A).unwrap();
        let data = answer.data(RecordType::A);
        assert_eq!(data, [format!("192.0.2.{n}")], "{name}: {}", answer.normal.rcode);
    }
    assert_eq!(nodens.get(nodens.ports().health, "/health").unwrap().status, 200);
    assert!(nodens.open_files() < 300);
}
