//! `limit QPS [BURST]`: how many queries a second each client may ask. A directive of our own.
//!
//! A client is a Pod of this node with all its addresses, where its Pods are known, else an address. Every query of a client
//! counts, whatever answers it; what is looked up for it on the way, such as the target of an alias,
//! does not. The buckets are the process's: all workers share them, and they outlive a reload.

mod buckets;
mod config;
mod selector;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use self::buckets::Taken;
pub use self::buckets::{Buckets, CAPACITY, Rate};
pub use self::config::{Action, Config};
use crate::chain::{Handler, Local};
use crate::clients::{Clients, first_address};
use crate::cluster::object::{NodePod, ObjectId};
use crate::metrics::{Scrape, names};
use crate::plugin::directive::{BuildContext, BuildHandler};
use crate::request::{Outcome, Plugin, Request, Step, ede};
use crate::trace::Notes;
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
        request: &Request<'_>,
        is_dry: bool,
    ) -> Option<(Action, Rate)> {
        for line in self.lines.iter().filter(|line| !line.excepts(address)) {
            let own = pod.and_then(|pod| line.rate_of(pod));
            let rate = own.unwrap_or(line.rate);
            let known_by = pod.map_or(address, |pod| first_address(pod, address));
            let client = line.client(known_by, own.is_some());
            let (key, now) = ((line.id, client), request.origin.received);
            if is_dry {
                if !self.buckets.has(key, rate, now) {
                    return Some((line.action, rate));
                }
                continue;
            }
            match self.buckets.take(key, rate, now) {
                Taken::Yes => {}
                Taken::Evicting => drop(self.evictions.fetch_add(1, Relaxed)),
                Taken::No => return Some((line.action, rate)),
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
        let address = request.origin.client.ip();
        let (action, rate) = match self.exceeded(address, pod, request, local.is_dry) {
            None => return Step::Next,
            Some(exceeded) => exceeded,
        };
        if action == Action::Drop {
            return Step::Done(Outcome::silence(Plugin::Limit));
        }
        reply.set_rcode(Rcode::REFUSED);
        // There is no code for this. A Pod is told of itself only.
        let qps = rate.qps();
        match pod.map(|pod| &pod.id) {
            None => reply.extended_error_of(
                ede::OTHER,
                format_args!("too many queries: at most {qps} a second"),
            ),
            Some(ObjectId { namespace, name }) => reply.extended_error_of(
                ede::OTHER,
                format_args!("too many queries: at most {qps} a second for Pod {namespace}/{name}"),
            ),
        }
        Step::Done(Outcome::new(Plugin::Limit, Rcode::REFUSED))
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

    fn explain(&self, request: &Request<'_>, step: Step, notes: &mut Notes) {
        let address = request.origin.client.ip();
        let mut describe = |pod: Option<&NodePod>| {
            let who = pod.map_or(address.to_string(), |pod| {
                format!("Pod {}/{}", pod.id.namespace, pod.id.name)
            });
            for line in self.lines.iter().filter(|line| !line.excepts(address)) {
                let text = format!("{who} may ask {}", line.describe(pod));
                if matches!(step, Step::Done(_)) {
                    notes.because(text)
                } else {
                    notes.describe(text)
                }
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
        let told = b"\0\x0f\0\x26\0\0too many queries: at most 1 a second";
        assert_eq!(refused.message.options(), told);
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
            ("limit 10 {\n label app=web\n}", "label: an argument is missing"),
            ("limit 10 {\n label app=w=b 5\n}", "label: in \"app=w=b\" \"=\" is not a comma"),
            ("limit 10 {\n label app in (a) 5\n}", "label: there are too many words"),
            ("limit 10 {\n label a 5\n label a 6\n}", "the label has a rate already"),
            ("limit 10 {\n block\n}", "there is no option \"block\""),
        ] {
            let (_, said) = complaints(text, Config::parse);
            assert!(said.len() == 1 && said[0].contains(wanted), "{text}: {said:?}");
        }
    }
}
