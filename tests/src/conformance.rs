//! The conformance record: 12,015 questions that CoreDNS answered, asked again of the real binary.
//!
//! `tests/data/conformance/README.md` says what the record is, `NOTES.md` beside it how to read it, and
//! `deviations.toml` where an RFC wants another answer than the recorded one.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use hickory_proto::rr::RecordType;
use serde::Deserialize;

use crate::api::ApiServer;
use crate::client::Client;
use crate::normal::Normal;
use crate::process::{Nodens, Ready, Setup};
use crate::upstream::Upstream;

mod deviation;
mod report;

pub use deviation::{Class, Deviations};
pub use report::Report;

/// The zones of the recorded Corefiles.
const ZONES: [&str; 3] = ["cluster.local.", "in-addr.arpa.", "ip6.arpa."];

/// The cluster that was recorded.
const CLUSTER: &str = include_str!("../data/conformance/cluster.json");

/// The upstream's zone.
const UPSTREAM: &str = include_str!("../data/conformance/upstream.zone");

/// One question and its recorded answer.
#[derive(Debug, Clone, Deserialize)]
pub struct Recorded {
    /// The name as it was asked, case included.
    pub name: String,
    /// The type.
    #[serde(rename = "type")]
    pub kind: String,
    rcode: String,
    aa: bool,
    answer: Vec<String>,
    authority: Vec<String>,
    additional: Vec<String>,
}

/// One of the five configurations with its record.
#[derive(Debug)]
pub struct Variant {
    /// Its name, such as `insecure`.
    pub name: &'static str,
    corefile: &'static str,
    ttl: u32,
    questions: Vec<Recorded>,
    existing: Existing,
}

/// The names that exist, as the record itself shows.
#[derive(Debug, Default)]
struct Existing {
    here: BTreeSet<String>,
    below: BTreeSet<String>,
}

impl Variant {
    /// Loads a variant's record.
    ///
    /// # Errors
    /// No such variant, or a broken record.
    pub fn load(name: &str) -> anyhow::Result<Self> {
        macro_rules! data {
            ($name:literal) => {
                (
                    $name,
                    include_str!(concat!("../data/conformance/", $name, ".Corefile")),
                    include_str!(concat!("../data/conformance/", $name, ".jsonl")),
                )
            };
        }
        let (name, corefile, lines) = match name {
            "insecure" => data!("insecure"),
            "verified" => data!("verified"),
            "namespaces" => data!("namespaces"),
            "ignore_empty" => data!("ignore_empty"),
            "noendpoints" => data!("noendpoints"),
            other => bail!("no variant {other} in the record"),
        };
        let questions = lines
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("{name}.jsonl: {line}")))
            .collect::<anyhow::Result<Vec<Recorded>>>()?;
        let ttl = corefile
            .lines()
            .find_map(|l| l.trim().strip_prefix("ttl "))
            .map_or(Ok(5), str::parse)?;
        let existing = Existing::of(&questions);
        Ok(Self { name, corefile, ttl, questions, existing })
    }

    /// Every question with its recorded answer.
    #[must_use]
    pub fn questions(&self) -> &[Recorded] {
        &self.questions
    }

    /// Starts the real binary with this variant's Corefile, a server with the recorded cluster and the upstream; asks
    /// everything and compares.
    ///
    /// # Panics
    /// When something cannot be started.
    #[must_use]
    pub fn run(&self, deviations: &Deviations) -> Report {
        let server = ApiServer::start();
        server.load(
            serde_json::from_str(CLUSTER).unwrap_or_else(|error| panic!("cluster.json: {error}")),
        );
        let upstream = Upstream::with_zone(UPSTREAM);
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        let kubeconfig = folder.path().join("kubeconfig");
        server.write_kubeconfig(&kubeconfig);
        let corefile = self
            .corefile
            .replacen(". {", ".:@dns@ {\n    bind 127.0.0.1", 1)
            .replace("KUBECONFIG", &kubeconfig.to_string_lossy())
            .replace("UPSTREAM", &upstream.address().to_string());
        let nodens = Setup::new(&corefile).ready(Ready::Answer).start();
        wait_for_sync(&nodens);
        let client = nodens.client();
        self.judge(deviations, |question| ask(&client, question))
    }

    /// Compares what `answer` yields for each question with the record and the deviations.
    #[must_use]
    pub fn judge(
        &self,
        deviations: &Deviations,
        answer: impl Fn(&Recorded) -> Result<Normal, String> + Sync,
    ) -> Report {
        // Two threads: the server under test is not idle while an answer is compared.
        let (first, second) = self.questions.split_at(self.questions.len() / 2);
        let part = |questions: &[Recorded]| {
            let mut report = Report::new(self.name);
            for question in questions {
                self.compare(&mut report, deviations, question, &answer(question));
            }
            report
        };
        let (mut report, rest) = std::thread::scope(|scope| {
            let other = scope.spawn(|| part(second));
            (part(first), other.join().unwrap_or_else(|_| panic!("the comparison panicked")))
        });
        report.merge(rest);
        report.check_counts(deviations);
        report
    }

    fn compare(
        &self,
        report: &mut Report,
        deviations: &Deviations,
        question: &Recorded,
        answer: &Result<Normal, String>,
    ) {
        let recorded = question.normal();
        let class = deviations.class_of(self, question);
        let expected = match class {
            Some(class) => class.expected(self, question),
            None => recorded.clone(),
        };
        match answer {
            Ok(actual) if *actual == expected => match class {
                Some(class) => report.deviated(class),
                None => report.same(),
            },
            Ok(actual) if *actual == recorded => report.no_longer(question, class),
            Ok(actual) => report.differs(question, &expected, actual, class),
            Err(problem) => report.failed(question, problem),
        }
    }

    /// The authority section of a negative answer for a name.
    fn soa(&self, name: &str) -> Vec<String> {
        let name = name.to_lowercase();
        let zone = ZONES
            .iter()
            .find(|z| name == **z || name.ends_with(&format!(".{z}")))
            .copied()
            .unwrap_or(".");
        let ttl = self.ttl;
        vec![format!(
            "{zone} {ttl} soa ns.dns.{zone} hostmaster.{zone} serial 7200 1800 86400 {ttl}"
        )]
    }
}

impl Recorded {
    /// The recorded answer in the form that answers are compared in.
    #[must_use]
    pub fn normal(&self) -> Normal {
        let lower = |lines: &[String]| sorted(lines.iter().map(|l| l.to_lowercase()));
        Normal {
            rcode: self.rcode.clone(),
            aa: self.aa,
            answer: lower(&self.answer),
            authority: lower(&self.authority),
            additional: lower(&self.additional),
        }
    }
}

impl Existing {
    fn of(questions: &[Recorded]) -> Self {
        let mut out = Self::default();
        for question in questions {
            let name = question.name.to_lowercase();
            // SOA is NODATA at every name, whether it exists or not.
            let exists = question.rcode == "NOERROR" && question.kind != "SOA";
            let Some(zone) = ZONES.iter().find(|z| name.ends_with(**z)).filter(|_| exists) else {
                continue;
            };
            let mut rest = name.as_str();
            while rest.len() > zone.len() {
                rest = rest.split_once('.').map_or("", |(_, parent)| parent);
                out.below.insert(rest.to_owned());
            }
            out.here.insert(name);
        }
        out
    }
}

/// Brings a live answer into the form of the record: lower case, sections sorted, the serial by its name.
fn comparable(normal: Normal) -> Normal {
    let line = |line: String| {
        let mut words: Vec<&str> = line.split(' ').collect();
        if let [_, _, "SOA", _, _, serial, ..] = words.as_mut_slice() {
            *serial = "serial";
        }
        words.join(" ").to_lowercase()
    };
    let section = |lines: Vec<String>| sorted(lines.into_iter().map(line));
    Normal {
        rcode: normal.rcode,
        aa: normal.aa,
        answer: section(normal.answer),
        authority: section(normal.authority),
        additional: section(normal.additional),
    }
}

fn sorted(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = lines.collect();
    lines.sort_unstable();
    lines
}

fn ask(client: &Client, question: &Recorded) -> Result<Normal, String> {
    let kind = record_type(&question.kind)?;
    let answer = client.ask(&question.name, kind).map_err(|error| error.to_string())?;
    for record in &answer.message.answers {
        let owner = crate::normal::text(&record.name);
        if owner.eq_ignore_ascii_case(&question.name) && owner != question.name {
            return Err(format!("the question's case is lost: {owner}"));
        }
    }
    Ok(comparable(answer.normal))
}

fn record_type(text: &str) -> Result<RecordType, String> {
    RecordType::from_str(text).map_err(|error| error.to_string())
}

/// Waits until every kind of object has arrived: none of these is SERVFAIL any more.
fn wait_for_sync(nodens: &Nodens) {
    let names = [
        "kubernetes.default.svc.cluster.local.",
        "db.default.svc.cluster.local.",
        "10-1-0-10.default.pod.cluster.local.",
        "default.svc.cluster.local.",
    ];
    let client = nodens.client();
    crate::poll::wait_for("the first sync of the cluster", Duration::from_secs(20), || {
        names
            .iter()
            .all(|name| client.ask(name, RecordType::A).is_ok_and(|a| a.normal.rcode != "SERVFAIL"))
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::Zone;
    use hickory_proto::op::{Message, Query};
    use hickory_proto::rr::Name;

    /// What falls through to the upstream is in the record as well: the upstream of this crate gives the same answers.
    #[test]
    fn the_upstream_answers_as_recorded() {
        let zone = Zone::parse(UPSTREAM).unwrap();
        let variant = Variant::load("ignore_empty").unwrap();
        let from_upstream = |q: &&Recorded| q.authority.iter().any(|line| line.starts_with(". "));
        let mut compared = 0;
        for question in variant.questions().iter().filter(from_upstream) {
            let mut request = Message::query();
            let name = Name::from_ascii(&question.name).unwrap();
            request.add_query(Query::query(name, record_type(&question.kind).unwrap()));
            let answer = comparable(Normal::of(&zone.answer(&request)));
            assert_eq!(answer, question.normal(), "{} {}", question.name, question.kind);
            compared += 1;
        }
        assert!(compared > 1000, "{compared}");
    }
}
