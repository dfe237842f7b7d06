//! What is asked: the workloads, by name, the same on every machine.

use super::cluster;
use crate::api::generate::Shape;

/// Names that are asked for over and over.
pub const HOT: usize = 1_000;
/// Names of the Zipf workload.
pub const NAMES: usize = 10_000;
/// Names outside the cluster that pods look up with their search list.
const EXTERNAL: usize = 500;
/// The search list of a pod in namespace `default`, with ndots:5.
const SEARCH: [&str; 3] = ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"];
/// The hex digits of a fresh name stand here in its packet.
const DIGITS_AT: usize = 14;

const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// Queries in wire form, asked in order and over again.
#[derive(Default)]
pub struct Questions {
    wire: Vec<u8>,
    starts: Vec<usize>,
    /// The number that the next fresh name carries, where every name is to be new.
    fresh: Option<u32>,
    next: usize,
}

impl Questions {
    /// The questions of a workload (`docs/benchmark.md` names them), chosen by `seed` where there is a choice. `None`: no
    /// such workload.
    #[must_use]
    pub fn of(workload: &str, seed: u64) -> Option<Self> {
        let mut random = Random(seed | 1);
        let mut out = Self::default();
        match workload {
            "w1" | "w5" | "l5k" | "l20k" => {
                (0..100_000).for_each(|_| out.push(&hot(random.below(HOT)), A));
            }
            "w2" => {
                let zipf = Zipf::new(NAMES);
                for _ in 0..400_000 {
                    let name = hot(zipf.pick(&mut random));
                    out.push(&name, if random.below(2) == 0 { A } else { AAAA });
                }
            }
            "w3" => {
                let zipf = Zipf::new(EXTERNAL);
                (0..50_000).for_each(|_| out.search(&hot(zipf.pick(&mut random))));
            }
            "a1" => {
                let zipf = Zipf::new(EXTERNAL);
                (0..50_000).for_each(|_| out.first(&hot(zipf.pick(&mut random))));
            }
            "w4" => {
                out.push("m00000000.miss.bench", A);
                out.fresh = Some(random.draw() as u32);
            }
            "k1" => {
                for _ in 0..200_000 {
                    // Of ten: four addresses, two AAAA, one SRV, one headless, two that do not exist.
                    let kind = ["a", "a", "a", "a", "aaaa", "aaaa", "srv", "headless", "nx", "nx"];
                    out.cluster(kind[random.below(kind.len())], &mut random);
                }
            }
            "store" => {
                let shape = Shape::default();
                for _ in 0..100_000 {
                    let service = random.below(shape.services);
                    let (namespace, name) = shape.service_name(service);
                    if !shape.is_headless(service) {
                        out.push(&format!("{name}.{namespace}.svc.cluster.local"), A);
                    }
                }
            }
            _ => {
                let kind = workload.strip_prefix("k1-").filter(|kind| KINDS.contains(kind))?;
                (0..100_000).for_each(|_| out.cluster(kind, &mut random));
            }
        }
        Some(out)
    }

    /// What is to be asked once before a workload is timed, so that it finds everything cached.
    #[must_use]
    pub fn warm(workload: &str) -> Self {
        let mut out = Self::default();
        match workload {
            "w1" | "w5" | "l5k" | "l20k" => (0..HOT).for_each(|i| out.push(&hot(i), A)),
            "w2" => {
                for name in (0..NAMES).rev().map(hot) {
                    out.push(&name, A);
                    out.push(&name, AAAA);
                }
            }
            "w3" => (0..EXTERNAL).for_each(|i| out.search(&hot(i))),
            "a1" => (0..EXTERNAL).for_each(|i| out.first(&hot(i))),
            // Names of 35 octets whose answers are about 120 long.
            _ => {
                if let Some(entries) = workload.strip_prefix("fill-").and_then(|n| n.parse().ok()) {
                    (0..entries).for_each(|i: usize| {
                        out.push(&format!("e{i:08}.kept-in-the-cache.mem.bench"), A);
                    });
                }
            }
        }
        out
    }

    /// How many there are before they begin again.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// True where there is nothing to ask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Writes the next query with this id and returns its length.
    pub fn write_next(&mut self, buffer: &mut [u8], id: u16) -> usize {
        let len = self.write(self.next, buffer, id);
        self.next = if self.next + 1 == self.starts.len() { 0 } else { self.next + 1 };
        if let Some(number) = &mut self.fresh {
            for (i, digit) in buffer[DIGITS_AT..DIGITS_AT + 8].iter_mut().enumerate() {
                *digit = b"0123456789abcdef"[(*number >> (28 - 4 * i)) as usize & 15];
            }
            *number = number.wrapping_add(1);
        }
        len
    }

    /// Writes query `number` with this id and returns its length.
    pub fn write(&self, number: usize, buffer: &mut [u8], id: u16) -> usize {
        let end = self.starts.get(number + 1).copied().unwrap_or(self.wire.len());
        let query = &self.wire[self.starts[number]..end];
        buffer[..query.len()].copy_from_slice(query);
        buffer[..2].copy_from_slice(&id.to_be_bytes());
        query.len()
    }

    fn push(&mut self, name: &str, qtype: u16) {
        self.starts.push(self.wire.len());
        self.wire.extend_from_slice(&question(name, qtype));
    }

    /// The first query of a look-up of an external name in a pod.
    fn first(&mut self, name: &str) {
        self.push(&format!("{name}.{}", SEARCH[0]), A);
    }

    /// What a resolver asks for one look-up of an external name in a pod.
    fn search(&mut self, name: &str) {
        for domain in SEARCH {
            let name = format!("{name}.{domain}");
            self.push(&name, A);
            self.push(&name, AAAA);
        }
        self.push(name, A);
        self.push(name, AAAA);
    }

    fn cluster(&mut self, kind: &str, random: &mut Random) {
        let service = cluster::service_name(random.below(cluster::SERVICES));
        match kind {
            "a" => self.push(&service, A),
            "aaaa" => self.push(&service, AAAA),
            "srv" => self.push(&format!("_http._tcp.{service}"), SRV),
            "headless" => {
                self.push(&cluster::headless_name(random.below(cluster::HEADLESS)), A);
            }
            _ => self.push(&format!("no-{service}"), A),
        }
    }
}

/// The kinds of cluster names that are also measured alone, as `k1-KIND`.
pub const KINDS: [&str; 5] = ["a", "aaaa", "srv", "headless", "nx"];

/// A query for this name and type, with id 0.
#[must_use]
pub fn question(name: &str, qtype: u16) -> Vec<u8> {
    let mut query = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend_from_slice(&qtype.to_be_bytes());
    query.extend_from_slice(&[0, 1]);
    query
}

fn hot(number: usize) -> String {
    format!("h{number:07}.hot.bench")
}

/// Numbers that look random and are the same every time (xorshift64*).
pub struct Random(pub u64);

impl Random {
    /// The next one.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// One below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.draw()) * n as u128) >> 64) as usize
    }

    /// One between 0 and 1, neither of them included.
    pub fn unit(&mut self) -> f64 {
        ((self.draw() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }
}

/// The n-th name is asked for in proportion to 1/n.
struct Zipf {
    sums: Vec<f64>,
}

impl Zipf {
    fn new(names: usize) -> Self {
        let sums = (1..=names).scan(0.0, |sum, n| {
            *sum += 1.0 / n as f64;
            Some(*sum)
        });
        Self { sums: sums.collect() }
    }

    fn pick(&self, random: &mut Random) -> usize {
        let wanted = random.unit() * self.sums.last().copied().unwrap_or(0.0);
        self.sums.partition_point(|sum| *sum < wanted).min(self.sums.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_names_are_all_different_and_of_one_length() {
        let mut questions = Questions::of("w4", 7).unwrap_or_default();
        let mut seen = std::collections::HashSet::new();
        for id in 0..1_000 {
            let mut buffer = [0; 512];
            let len = questions.write_next(&mut buffer, id);
            assert_eq!(buffer[..2], id.to_be_bytes());
            assert!(seen.insert(buffer[12..len].to_vec()));
            assert_eq!(&buffer[12..14], b"\x09m");
        }
    }

    #[test]
    fn every_workload_has_questions_and_the_warm_ones_know_their_names() {
        for workload in ["w1", "w2", "w3", "w4", "w5", "l5k", "l20k", "k1", "k1-srv"] {
            assert!(Questions::of(workload, 1).is_some_and(|q| !q.is_empty()), "{workload}");
        }
        assert!(Questions::of("k1-no", 1).is_none());
        assert_eq!(Questions::warm("w3").len(), EXTERNAL * 8);
        assert_eq!(Questions::warm("fill-10000").len(), 10_000);
    }

    #[test]
    fn zipf_prefers_the_first() {
        let (zipf, mut random) = (Zipf::new(100), Random(3));
        let first = (0..10_000).filter(|_| zipf.pick(&mut random) == 0).count();
        assert!((1_500..2_400).contains(&first), "{first}");
    }
}
