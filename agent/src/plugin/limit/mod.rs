//! `limit QPS [BURST]`: how many queries a second each client may ask. A directive of our own.
//!
//! A client is a Pod of this node with all its addresses, where its Pods are known, else an address. Every query of a client
//! counts, whatever answers it; what is looked up for it on the way, such as the target of an alias,
//! does not. The buckets are the process's: all workers share them, and they outlive a reload.

mod buckets;
mod config;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use self::buckets::Taken;
pub use self::buckets::{Buckets, CAPACITY, Rate};
pub use self::config::{Action, Config};
use crate::chain::{Handler, Local};
use crate::clients::{Clients, first_address};
use crate::cluster::object::NodePod;
use crate::metrics::{Scrape, names};
use crate::plugin::directive::{BuildContext, BuildHandler};
use crate::request::{Outcome, Plugin, Request, Step};
use crate::wire::{Rcode, Reply};

/// The extended error of a refused query (RFC 8914): code 0 (Other), since there is none for this, with a text. As an option
/// in wire form, since `Reply::extended_error` allocates.
const TOO_MANY: &[u8] = b"\0\x0f\0\x12\0\0too many queries";

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

    /// What the first line that the query exceeds says. A dry run takes no token.
    fn exceeded(&self, request: &Request<'_>, is_dry: bool) -> Option<Action> {
        let address = request.origin.client.ip();
        let of_pod = |pod: &NodePod| {
            let (first, namespace) = (first_address(pod, address), &*pod.id.namespace);
            self.exceeded_by((address, first), Some(namespace), request, is_dry)
        };
        let found = self.clients.pod(address, of_pod);
        found.unwrap_or_else(|| self.exceeded_by((address, address), None, request, is_dry))
    }

    /// The same for a client that asks from `address` and is known by another, of a namespace that is known.
    fn exceeded_by(
        &self,
        (address, known_by): (IpAddr, IpAddr),
        namespace: Option<&str>,
        request: &Request<'_>,
        is_dry: bool,
    ) -> Option<Action> {
        for line in self.lines.iter().filter(|line| !line.excepts(address)) {
            let own = namespace.and_then(|namespace| line.rate_of(namespace));
            let rate = own.unwrap_or(line.rate);
            let client = line.client(known_by, own.is_some());
            let (key, now) = ((line.id, client), request.origin.received);
            if is_dry {
                if !self.buckets.has(key, rate, now) {
                    return Some(line.action);
                }
                continue;
            }
            match self.buckets.take(key, rate, now) {
                Taken::Yes => {}
                Taken::Evicting => drop(self.evictions.fetch_add(1, Relaxed)),
                Taken::No => return Some(line.action),
            }
        }
        None
    }
}

impl Handler for Limit {
    fn plugin(&self) -> Plugin {
        Plugin::Limit
    }

    fn serve(&self, request: &Request<'_>, reply: &mut Reply<'_>, local: &mut Local) -> Step {
        match self.exceeded(request, local.is_dry) {
            None => Step::Next,
            Some(Action::Drop) => Step::Done(Outcome::silence(Plugin::Limit)),
            Some(Action::Refuse) => {
                reply.set_rcode(Rcode::REFUSED);
                reply.push_options(TOO_MANY);
                Step::Done(Outcome::new(Plugin::Limit, Rcode::REFUSED))
            }
        }
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
        assert_eq!(refused.message.options(), TOO_MANY);
    }

    #[test]
    fn prefixes_make_a_client_and_every_line_counts() {
        let mut wide = client(&["limit 1 4 {\n prefix4 24\n prefix6 64\n}"]);
        assert_eq!(ask(&mut wide, "10.0.0.1:5", 3), counts(&[(GOOD, 3)]));
        assert_eq!(ask(&mut wide, "10.0.0.255:5", 3), counts(&[(GOOD, 1), ("silence", 2)]));
        assert_eq!(ask(&mut wide, "10.0.1.0:5", 5), counts(&[(GOOD, 4), ("silence", 1)]));
        assert_eq!(ask(&mut wide, "[fd00::1]:5", 4), counts(&[(GOOD, 4)]));
        assert_eq!(ask(&mut wide, "[fd00::ffff]:5", 1), counts(&[("silence", 1)]));
        let mut both = client(&["limit 1 2 {\n refuse\n}", "limit 1 3 {\n prefix4 8\n}"]);
        assert_eq!(ask(&mut both, "10.0.0.1:5", 3), counts(&[(GOOD, 2), ("REFUSED", 1)]));
        assert_eq!(ask(&mut both, "10.9.0.1:5", 2), counts(&[(GOOD, 1), ("silence", 1)]));
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
            ("limit 10 {\n block\n}", "there is no option \"block\""),
        ] {
            let (_, said) = complaints(text, Config::parse);
            assert!(said.len() == 1 && said[0].contains(wanted), "{text}: {said:?}");
        }
    }
}
