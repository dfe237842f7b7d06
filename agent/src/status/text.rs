//! The status for people: the verdict and why, then what a person looks for.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use crate::detail::in_words;

/// Of the names' column.
const WIDTH: usize = 15;

/// The answer of a running server as text.
pub fn text(status: &Value) -> String {
    let mut page = Page::default();
    page.verdict(status);
    page.server(status);
    page.traffic(&status["last_minute"]);
    page.views(&status["blocks"]);
    page.sources(&status["sources"]);
    page.names(&status["forwards"]);
    page.upstreams(status);
    page.cache(&status["cache"], &status["memory"]);
    page.clients(&status["clients"]);
    page.network(&status["network"]);
    page.instances(status);
    page.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    /// A line with a name.
    fn line(&mut self, name: &str, text: &str) {
        // Written to a string: cannot fail.
        let _ = writeln!(self.0, "{name:<WIDTH$}{text}");
    }

    fn verdict(&mut self, status: &Value) {
        let conditions = list(&status["conditions"]);
        let titles: Vec<String> = conditions.iter().map(|c| word(&c["title"])).collect();
        let why = if titles.is_empty() { "nothing is wrong".to_owned() } else { titles.join("; ") };
        let _ = writeln!(self.0, "{}: {why}", word(&status["state"]));
        for condition in conditions {
            let since = condition["since_seconds_ago"].as_u64().map_or(String::new(), ago);
            let severity = word(&condition["severity"]);
            let _ = writeln!(self.0, "\n  {severity} {} ({since})", word(&condition["id"]));
            for line in list(&condition["evidence"]) {
                let _ = writeln!(self.0, "    {}", word(line));
            }
            let _ = writeln!(self.0, "    cure: {}", word(&condition["cure"]));
            let _ = writeln!(self.0, "    see {}", word(&condition["manual"]));
        }
        self.0.push('\n');
    }

    fn server(&mut self, status: &Value) {
        let uptime = duration(status["uptime_seconds"].as_u64().unwrap_or_default());
        self.line(
            "server",
            &format!(
                "nodens {}, revision {}, process {}, up {uptime}, workers {}",
                word(&status["version"]),
                word(&status["revision"]),
                word(&status["pid"]),
                word(&status["workers"]),
            ),
        );
        self.line("addresses", &words(&status["addresses"]));
        if status["encrypted"].as_array().is_some_and(|encrypted| !encrypted.is_empty()) {
            self.line("encrypted", &words(&status["encrypted"]));
        }
        let ready =
            if status["ready"] == true { "yes".to_owned() } else { words(&status["waiting"]) };
        self.line("ready", &ready);
        let configuration = &status["configuration"];
        let loaded = configuration["loaded_seconds_ago"].as_u64().map_or("-".to_owned(), ago);
        let (file, hash) = (word(&configuration["file"]), word(&configuration["hash"]));
        self.line("configuration", &format!("{file}, hash {hash}, loaded {loaded}"));
        if configuration["changed"].is_string() {
            self.line("", &format!("changed {}", word(&configuration["changed"])));
        }
        for kind in ["refused", "held_back"] {
            if configuration[kind].is_string() {
                let name = kind.replace('_', " ");
                self.line("", &format!("{name}: {}", word(&configuration[kind])));
            }
        }
    }

    fn traffic(&mut self, rates: &Value) {
        let seconds = rates["seconds"].as_f64().unwrap_or_default();
        self.line(
            "queries",
            &format!(
                "{}/s in the last {seconds:.0} s (UDP {}, TCP {}), dropped {}/s",
                word(&rates["queries_per_second"]),
                word(&rates["udp_per_second"]),
                word(&rates["tcp_per_second"]),
                word(&rates["dropped_per_second"]),
            ),
        );
        self.line("", &format!("by source: {}", shares(&rates["answered_per_second"])));
        self.line("", &format!("by code: {}", shares(&rates["rcodes_per_second"])));
        let latency = &rates["latency_ms"];
        if latency["p50"].is_number() {
            let of = |part: &str| format!("{part} {} ms", word(&latency[part]));
            self.line("latency", &["p50", "p90", "p99"].map(of).join(", "));
        }
    }

    /// `kubernetes` lines that share a store, as most do, are told once, with all their zones.
    fn sources(&mut self, sources: &Value) {
        let mut told: Vec<(&Value, Vec<String>)> = Vec::new();
        for source in list(sources) {
            let zones = list(&source["zones"]).iter().map(word);
            match told.iter_mut().find(|(other, _)| is_one_store(other, source)) {
                Some((_, all)) => {
                    all.extend(zones.filter(|zone| !all.contains(zone)).collect::<Vec<_>>());
                }
                None => told.push((source, zones.collect())),
            }
        }
        for (source, zones) in told {
            self.source(source, &zones.join(", "));
        }
    }

    fn source(&mut self, source: &Value, zones: &str) {
        let server = match word(&source["api_server"]) {
            server if server.is_empty() => word(&source["source"]),
            server => format!("{} at {server}", word(&source["source"])),
        };
        let state = word(&source["state"]);
        self.line("source", &format!("{server}, zones {zones}: {state}"));
        for (kind, told) in source["kinds"].as_object().into_iter().flatten() {
            let age = told["age_seconds"].as_f64();
            let age = age.map_or("never heard".to_owned(), |age| format!("heard {age} s ago"));
            let live = if told["live"] == true { "live" } else { "not live" };
            let skipped = match told["skipped"].as_u64() {
                None | Some(0) => String::new(),
                Some(skipped) => format!(", {skipped} skipped"),
            };
            let objects = word(&told["objects"]);
            self.line("", &format!("{kind}: {objects}, {age}, {live}{skipped}"));
        }
        if source["lag_ms"].is_number() {
            self.line(
                "",
                &format!("changes are read {} ms after they came", word(&source["lag_ms"])),
            );
        }
    }

    /// Server blocks that serve some queries only.
    fn views(&mut self, blocks: &Value) {
        let mut name = "views";
        for block in list(blocks).iter().filter(|block| block["view"].is_string()) {
            let (view, zones) = (word(&block["view"]), words(&block["zones"]));
            self.line(name, &format!("{view}: zones {zones} at {}", words(&block["addresses"])));
            name = "";
        }
    }

    /// Upstreams by name, and their addresses. Several lines may have one.
    fn names(&mut self, forwards: &Value) {
        let mut told: Vec<String> = Vec::new();
        let names = list(forwards).iter().flat_map(|forward| list(&forward["names"]));
        for name in names {
            let mut text = format!("{}: {}", word(&name["name"]), words(&name["addresses"]));
            if let Some(age) = name["age_seconds"].as_u64() {
                let _ = write!(text, ", learnt {}", ago(age));
            }
            if name["error"].is_string() {
                let again = word(&name["due_seconds"]);
                let _ = write!(text, "; {}, asked again in {again} s", word(&name["error"]));
            }
            if !told.contains(&text) {
                self.line(if told.is_empty() { "names" } else { "" }, &text);
                told.push(text);
            }
        }
    }

    fn upstreams(&mut self, status: &Value) {
        for upstream in list(&status["upstreams"]) {
            let number = |key: &str| upstream[key].as_f64();
            let mut text = format!("{} {}", word(&upstream["to"]), word(&upstream["state"]));
            if let Some(millis) = number("round_trip_ms") {
                let _ = write!(text, ", {millis} ms");
            }
            if let Some(share) = number("share_percent") {
                let _ = write!(text, ", {share} % of answers");
            }
            if let Some(failures) = number("failures_per_second").filter(|&rate| rate > 0.0) {
                let _ = write!(text, ", {failures} failures/s");
            }
            self.line("upstream", &format!("{text} (for {})", words(&upstream["from"])));
        }
        for forward in list(&status["forwards"]) {
            if forward["trouble"].is_string() {
                let (from, trouble) = (words(&forward["from"]), word(&forward["trouble"]));
                self.line("forward", &format!("{from}: {trouble}"));
            }
        }
    }

    fn cache(&mut self, cache: &Value, memory: &Value) {
        let hits = cache["hit_percent"].as_f64();
        let hits = hits.map_or("no look-ups".to_owned(), |part| format!("{part} % hits"));
        let (entries, used, limit) =
            (word(&cache["entries"]), mib(&cache["bytes"]), mib(&cache["limit_bytes"]));
        self.line("cache", &format!("{hits}, {entries} entries, {used} of {limit} MiB"));
        if memory["limit_bytes"].is_number() {
            let (used, limit) = (mib(&memory["used_bytes"]), mib(&memory["limit_bytes"]));
            let shed =
                memory["shed"].as_str().map_or(String::new(), |shed| format!(", shed: {shed}"));
            self.line("memory", &format!("{used} of {limit} MiB{shed}"));
        }
    }

    fn clients(&mut self, clients: &Value) {
        let of = |key: &str| word(&clients[key]);
        let text = format!(
            "{} queries wait, {} TCP connections; in the last minute: limited {}, dropped {}, TCP refused {}",
            of("waiting"),
            of("tcp_connections"),
            of("limited"),
            of("dropped"),
            of("tcp_refused"),
        );
        self.line("clients", &text);
        let top: Vec<String> = list(&clients["top"])
            .iter()
            .map(|row| {
                let pod = row["pod"].as_str().map_or(String::new(), |pod| format!(" ({pod})"));
                format!("{}{pod} {}/s", word(&row["client"]), word(&row["per_second"]))
            })
            .collect();
        if !top.is_empty() {
            self.line("", &format!("who asks most: {}", top.join(", ")));
        }
    }

    fn network(&mut self, network: &Value) {
        if network.is_null() {
            return;
        }
        let broken = list(&network["broken"]);
        let state = if broken.is_empty() {
            "as it should be".to_owned()
        } else {
            words(&network["broken"])
        };
        let (link, addresses) = (word(&network["interface"]), words(&network["addresses"]));
        let repairs = word(&network["repairs"]);
        self.line("network", &format!("{link}, {addresses}: {state}; repaired {repairs} times"));
    }

    fn instances(&mut self, status: &Value) {
        let can = if status["can_hand_over"] == true { "possible" } else { "not possible" };
        let supervisor = match status["supervisor"].as_u64() {
            Some(pid) => format!("supervisor {pid}, {} restarts", word(&status["restarts"])),
            None => "no supervisor".to_owned(),
        };
        let failed = word(&status["failed_takeovers"]);
        let mut text = format!("{can}; {supervisor}; failed take-overs {failed}");
        if let Some(why) = status["last_failed_takeover"].as_str() {
            let _ = write!(text, ", the last: {why}");
        }
        self.line("hand-over", &text);
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A value as a word; a whole number without its fraction.
fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(float) => float.to_string(),
            None => number.to_string(),
        },
        other => other.to_string(),
    }
}

fn words(value: &Value) -> String {
    match list(value) {
        [] => "none".to_owned(),
        all => all.iter().map(word).collect::<Vec<_>>().join(", "),
    }
}

/// The rates that are not zero, the greatest first.
fn shares(rates: &Value) -> String {
    let rates = rates.as_object().into_iter().flatten();
    let mut rates: Vec<(&str, f64)> =
        rates.filter_map(|(name, rate)| Some((name.as_str(), rate.as_f64()?))).collect();
    rates.retain(|(_, rate)| *rate > 0.0);
    rates.sort_by(|one, other| other.1.total_cmp(&one.1));
    match rates.as_slice() {
        [] => "none".to_owned(),
        rates => rates
            .iter()
            .map(|(name, rate)| format!("{name} {rate}/s"))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

fn mib(bytes: &Value) -> String {
    bytes.as_f64().map_or("-".to_owned(), |bytes| format!("{:.1}", bytes / 1048576.0))
}

fn ago(seconds: u64) -> String {
    format!("{} ago", duration(seconds))
}

fn duration(seconds: u64) -> String {
    in_words(Duration::from_secs(seconds))
}

/// Whether two rows tell of one store: the same source, and the same numbers of the same kinds.
fn is_one_store(one: &Value, other: &Value) -> bool {
    let objects = |row: &Value| -> Vec<(String, String)> {
        let kinds = row["kinds"].as_object().into_iter().flatten();
        kinds.map(|(kind, told)| (kind.clone(), word(&told["objects"]))).collect()
    };
    let same = ["source", "api_server", "state"].iter().all(|key| one[*key] == other[*key]);
    same && objects(one) == objects(other)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_verdict_comes_first_and_then_why() {
        let status = json!({ "state": "WARN", "conditions": [{
            "id": "upstream_away", "severity": "warn", "title": "an upstream does not answer",
            "evidence": ["192.0.2.1:53"], "since_seconds_ago": 125, "cure": "Ask it.",
            "manual": "docs/troubleshooting.md#x",
        }] });
        let text = text(&status);
        let begin = "\
WARN: an upstream does not answer

  warn upstream_away (2 min 5 s ago)
    192.0.2.1:53
    cure: Ask it.
    see docs/troubleshooting.md#x

";
        assert!(text.starts_with(begin), "{text}");
        assert!(super::text(&json!({ "state": "OK" })).starts_with("OK: nothing is wrong\n\n"));
    }

    #[test]
    fn an_answer_of_another_version_is_shown_as_far_as_it_is_understood() {
        for odd in [json!(null), json!([]), json!({ "upstreams": 7, "sources": [{ "kinds": [] }] })]
        {
            assert!(text(&odd).contains("\nserver "), "{odd}");
        }
    }

    #[test]
    fn who_asks_most_is_named() {
        let top = json!([
            { "client": "10.0.0.1", "queries": 40, "per_second": 0.5, "pod": "shop/web" },
            { "client": "10.0.0.2", "queries": 4, "per_second": 0.1 },
        ]);
        let text = text(&json!({ "clients": { "top": top } }));
        let line = "who asks most: 10.0.0.1 (shop/web) 0.5/s, 10.0.0.2 0.1/s\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn shares_are_sorted_and_zeroes_are_left_out() {
        let rates = json!({ "store": 0.0, "cache": 90.5, "upstream": 100.0 });
        assert_eq!(shares(&rates), "upstream 100/s, cache 90.5/s");
        assert_eq!(shares(&json!({})), "none");
    }
}
