//! `limit QPS [BURST]`: how many queries a second each client may ask. A directive of our own.
//!
//! A client is a Pod of this node with all its addresses, where its Pods are known, else an address. Every query of a client
//! counts, whatever answers it; what is looked up for it on the way, such as the target of an alias,
//! does not. The buckets are the process's: all workers share them, and they outlive a reload.

mod buckets;
mod config;
mod selector;

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use self::buckets::Taken;
pub use self::buckets::{Buckets, CAPACITY, Rate};
use self::config::Sharer;
pub use self::config::{Action, Config};
use crate::chain::{Handler, Local};
use crate::clients::{Clients, first_address};
use crate::clock::CoarseInstant;
use crate::cluster::object::NodePod;
use crate::metrics::{Scrape, names};
use crate::plugin::directive::{BuildContext, BuildHandler};
use crate::request::{Outcome, Plugin, Request, Step};
use crate::trace::Notes;
use crate::wire::message::OPTION_EDE;
use crate::wire::reply::OPTIONS;
use crate::wire::{Rcode, Reply};

/// All `limit` lines of a server block: a query has to be within each.
pub struct Limit {
    lines: Vec<Config>,
    buckets: Arc<Buckets>,
    clients: Arc<Clients>,
    /// Clients that were forgotten while their bucket was not full.
    evictions: AtomicU64,
}

impl BuildHandler for Config {
    fn build(lines: Vec<Self>, cx: &mut BuildContext<'_>) -> anyhow::Result<()> {
        let buckets = Arc::clone(cx.shared.limits.get_or_init(Arc::default));
        cx.push(Limit::new(lines, buckets, Arc::clone(&cx.shared.clients)));
        Ok(())
    }
}

impl Limit {
    /// A handler for these lines.
    pub fn new(lines: Vec<Config>, buckets: Arc<Buckets>, clients: Arc<Clients>) -> Self {
        Self { lines, buckets, clients, evictions: AtomicU64::new(0) }
    }

    /// The first line that the query exceeds, and the rate. A dry run takes no token.
    fn exceeded(
        &self,
        address: IpAddr,
        pod: Option<&NodePod>,
        now: CoarseInstant,
        is_dry: bool,
    ) -> Option<(&Config, Rate)> {
        for line in self.lines.iter().filter(|line| !line.excepts(address)) {
            let own = pod.and_then(|pod| line.rate_of(pod));
            let rate = own.unwrap_or(line.rate);
            let known_by = pod.map_or(address, |pod| first_address(pod, address));
            let key = (line.id, line.client(known_by, own.is_some()));
            if is_dry {
                if !self.buckets.has(key, rate, now) {
                    return Some((line, rate));
                }
                continue;
            }
            match self.buckets.take(key, rate, now) {
                Taken::Yes => {}
                Taken::Evicting => drop(self.evictions.fetch_add(1, Relaxed)),
                Taken::No => return Some((line, rate)),
            }
        }
        None
    }

    /// Serves a client: a Pod, or one of which only the address is known.
    fn serve_client(
        &self,
        pod: Option<&NodePod>,
        request: &Request<'_>,
        reply: &mut Reply<'_>,
        local: &Local,
    ) -> Step {
        let (address, now) = (request.origin.client.ip(), request.origin.received);
        let Some((line, rate)) = self.exceeded(address, pod, now, local.is_dry) else {
            return Step::Next;
        };
        if line.action == Action::Drop {
            return Step::Done(Outcome::silence(Plugin::Limit));
        }
        reply.set_rcode(Rcode::REFUSED);
        if request.query.edns().is_some() {
            // A Pod is told of itself only.
            reply.push_options(TooMany::new(rate, &line.sharer(address, pod)).option());
        }
        Step::Done(Outcome::new(Plugin::Limit, Rcode::REFUSED))
    }
}

/// The extended error of a refused query (RFC 8914) in wire form: code 0 (Other), since there is none for this, with a text.
/// It takes no memory; a name that is too long is cut off.
struct TooMany {
    octets: [u8; OPTIONS],
    len: usize,
}

impl TooMany {
    fn new(rate: Rate, sharer: &Sharer<'_>) -> Self {
        let mut made = Self { octets: [0; OPTIONS], len: 6 };
        // What does not fit is left out.
        let _ = write!(made, "at most {} a second for {sharer}", rate.qps());
        let Self { octets: [_, code, _, len, ..], len: all } = &mut made;
        (*code, *len) = (OPTION_EDE as u8, (*all - 4) as u8);
        made
    }

    fn option(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or_default()
    }
}

impl fmt::Write for TooMany {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.octets.get_mut(self.len..).unwrap_or_default();
        let taken = text.floor_char_boundary(room.len());
        for (to, octet) in room.iter_mut().zip(text.bytes().take(taken)) {
            *to = octet;
        }
        self.len += taken;
        Ok(())
    }
}

impl Handler for Limit {
    fn plugin(&self) -> Plugin {
        Plugin::Limit
    }

    fn serve(&self, request: &Request<'_>, reply: &mut Reply<'_>, local: &mut Local) -> Step {
        let of_pod = |pod: &NodePod| self.serve_client(Some(pod), request, reply, local);
        let found = self.clients.pod(request.origin.client.ip(), of_pod);
        found.unwrap_or_else(|| self.serve_client(None, request, reply, local))
    }

    fn explain(&self, request: &Request<'_>, _: Step, notes: &mut Notes) {
        let (address, now) = (request.origin.client.ip(), request.origin.received);
        let mut describe = |pod: Option<&NodePod>| {
            let exceeded = self.exceeded(address, pod, now, true).map(|(line, _)| line.id);
            for line in self.lines.iter().filter(|line| !line.excepts(address)) {
                let is_exceeded = exceeded == Some(line.id);
                let text = line.describe(address, pod, is_exceeded);
                if is_exceeded { notes.because(text) } else { notes.describe(text) }
            }
        };
        let of_pod = self.clients.pod(address, |pod| describe(Some(pod)));
        of_pod.unwrap_or_else(|| describe(None));
    }

    fn is_for_clients_only(&self) -> bool {
        true
    }

    fn collect(&self, server: &str, _: &str, out: &mut Scrape) {
        out.count(&names::LIMIT_EVICTIONS, &[server], self.evictions.load(Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::object::ObjectId;
    use crate::plugin::testing::{Client, Fixed, complaints, parsed};
    use crate::wire::RecordType;

    fn client(directives: &[&str]) -> Client {
        let mut lines: Vec<Config> =
            directives.iter().map(|text| parsed(text, Config::parse)).collect();
        lines.iter_mut().enumerate().for_each(|(number, line)| line.id = number as u64);
        let limit = Limit::new(lines, Arc::default(), Arc::default());
        let mut client = Client::new(vec![Arc::new(limit), Fixed::new("a. 5 A 1.1.1.1")]);
        client.edns = Some((1232, false));
        client
    }

    /// The results of so many queries from an address, those of a kind counted.
    fn ask(client: &mut Client, from: &str, count: usize) -> Vec<(String, usize)> {
        client.from = from.parse().unwrap();
        let mut got: Vec<(String, usize)> = Vec::new();
        for _ in 0..count {
            let text = client.text("a", RecordType::A);
            match got.last_mut() {
                Some((last, count)) if *last == text => *count += 1,
                _ => got.push((text, 1)),
            }
        }
        got
    }

    const GOOD: &str = "NOERROR a. 5 A 1.1.1.1";

    fn counts(pairs: &[(&str, usize)]) -> Vec<(String, usize)> {
        pairs.iter().map(|(text, count)| ((*text).to_owned(), *count)).collect()
    }

    #[test]
    fn each_client_has_a_bucket() {
        let mut client = client(&["limit 1 5 {\n refuse\n except 10.1.0.0/16 fd01::/16\n}"]);
        let limited = counts(&[(GOOD, 5), ("REFUSED", 3)]);
        for from in ["10.0.0.1:5", "10.0.0.2:5", "[fd00::1]:5", "[fd00::2]:5"] {
            assert_eq!(ask(&mut client, from, 8), limited, "{from}");
        }
        // Another port, and the address in the other form, are the same client.
        for from in ["10.0.0.1:6", "[::ffff:10.0.0.1]:6"] {
            assert_eq!(ask(&mut client, from, 2), counts(&[("REFUSED", 2)]), "{from}");
        }
        for from in ["10.1.2.3:5", "[fd01::1]:5", "[::ffff:10.1.2.3]:5"] {
            assert_eq!(ask(&mut client, from, 99), counts(&[(GOOD, 99)]), "{from}");
        }
        client.from = "10.0.0.1:5".parse().unwrap();
        let refused = client.ask("a", RecordType::A).unwrap();
        let told = b"\0\x0f\0\x21\0\0at most 1 a second for 10.0.0.1";
        assert_eq!(refused.message.options(), told);
    }

    #[test]
    fn prefixes_make_a_client_and_every_line_counts() {
        let mut wide = client(&["limit 1 4 {\n prefix4 24\n prefix6 64\n}"]);
        assert_eq!(ask(&mut wide, "10.0.0.1:5", 3), counts(&[(GOOD, 3)]));
        assert_eq!(ask(&mut wide, "10.0.0.255:5", 3), counts(&[(GOOD, 1), ("silence", 2)]));
        assert_eq!(ask(&mut wide, "10.0.1.0:5", 5), counts(&[(GOOD, 4), ("silence", 1)]));
        let mut shared = client(&["limit 1 1 {\n refuse\n prefix4 23\n prefix6 1\n}"]);
        for (from, network) in [("10.0.1.7:5", "10.0.0.0/23"), ("[f000::1]:5", "8000::/1")] {
            assert_eq!(ask(&mut shared, from, 2), counts(&[(GOOD, 1), ("REFUSED", 1)]));
            let told = shared.ask("a", RecordType::A).unwrap();
            let told = String::from_utf8_lossy(&told.message.options()[6..]).into_owned();
            assert_eq!(told, format!("at most 1 a second for {network}"));
        }
        assert_eq!(ask(&mut wide, "[fd00::1]:5", 4), counts(&[(GOOD, 4)]));
        assert_eq!(ask(&mut wide, "[fd00::ffff]:5", 1), counts(&[("silence", 1)]));
        let mut both = client(&["limit 1 2 {\n refuse\n}", "limit 1 3 {\n prefix4 8\n}"]);
        assert_eq!(ask(&mut both, "10.0.0.1:5", 3), counts(&[(GOOD, 2), ("REFUSED", 1)]));
        assert_eq!(ask(&mut both, "10.9.0.1:5", 2), counts(&[(GOOD, 1), ("silence", 1)]));
    }

    #[test]
    fn an_extended_error_takes_no_memory_however_long_the_name() {
        let id = ObjectId { namespace: "n".repeat(63).into(), name: "p".repeat(253).into() };
        let told = TooMany::new(Rate::new(1_000_000, 1), &Sharer::Pod(&id));
        let octets = told.option();
        assert_eq!((octets.len(), octets[3]), (OPTIONS, OPTIONS as u8 - 4));
        assert!(octets[6..].starts_with(b"at most 1000000 a second for Pod nnnn"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, wanted) in [
            ("limit", "an argument is missing, expected queries a second"),
            ("limit 0", "\"0\" is out of range"),
            ("limit 10 0", "\"0\" is out of range"),
            ("limit 10 20 30", "there is an argument too many"),
            ("limit ten", "\"ten\" is not a whole number"),
            ("limit 10 {\n drop\n refuse\n}", "refuse: what happens beyond the limit"),
            ("limit 10 {\n drop now\n}", "drop: there is an argument too many"),
            ("limit 10 {\n prefix4 33\n}", "prefix4: \"33\" is out of range"),
            ("limit 10 {\n prefix6 0\n}", "prefix6: \"0\" is out of range"),
            ("limit 10 {\n except\n}", "except: a network is missing"),
            ("limit 10 {\n except pods\n}", "except: \"pods\" is not a network"),
            ("limit 10 {\n namespace shop\n}", "namespace: an argument is missing"),
            ("limit 10 {\n namespace a_b 5\n}", "\"a_b\" is not a namespace"),
            ("limit 10 {\n namespace a 5\n namespace a 6\n}", "has a rate already"),
            ("limit 10 {\n label app=web\n}", "label: an argument is missing"),
            ("limit 10 {\n label app=w=b 5\n}", "label: in \"app=w=b\" \"=\" is not a comma"),
            ("limit 10 {\n label app in (a) 5\n}", "label: behind the selector stands no number"),
            ("limit 10 {\n label app = web\n}", "label: behind the selector stands no number"),
            ("limit 10 {\n label app=a 5 10 20\n}", "label: there is an argument too many"),
            (
                "limit 10 {\n label app=a 5\n label \"app == a\" 6\n}",
                "the label has a rate already",
            ),
            ("limit 10 {\n label a 5\n label a 6\n}", "the label has a rate already"),
            ("limit 10 {\n block\n}", "there is no option \"block\""),
        ] {
            let (_, said) = complaints(text, Config::parse);
            assert!(said.len() == 1 && said[0].contains(wanted), "{text}: {said:?}");
        }
    }
}
