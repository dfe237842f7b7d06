//! `nodens observe` and `nodens top`: what the running server sends, printed.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write};
use std::time::Duration;

use serde_json::{Value, json};

use super::record::{FORMAT, Record, Sent, plugins};
use crate::args::{ObserveFlags, Output, TopFlags};
use crate::control::{self, Request};

/// Prints queries as they are answered, until as many were printed as are wanted.
///
/// # Errors
/// The server cannot be reached, refuses or ends; or the output cannot be written.
pub fn observe(flags: &ObserveFlags, out: &mut impl Write) -> anyhow::Result<()> {
    let (head, mut frames) =
        control::open(&flags.socket, &Request::Observe { filter: flags.filter() })?;
    if head.get("plugins") != Some(&json!(plugins())) || head.get("format") != Some(&json!(FORMAT))
    {
        let theirs = head.get("version").unwrap_or(&Value::Null);
        anyhow::bail!(
            "the server ({theirs}) is of another version; use the nodens of that version"
        );
    }
    let (mut left, mut lost) = (flags.count.unwrap_or(u64::MAX), 0);
    let mut line = String::new();
    while left > 0 {
        let Some(frame) = frames.receive()? else {
            anyhow::bail!("the server has ended; run it again to observe the next one");
        };
        let Some((lost_now, mut rest)) = frame.split_first_chunk() else {
            // Nothing was answered for a while.
            out.flush()?;
            continue;
        };
        let lost_now = u64::from_be_bytes(*lost_now);
        if lost_now > lost {
            eprintln!(
                "nodens: {} queries are not shown: more come than can be printed",
                lost_now - lost
            );
            lost = lost_now;
        }
        while let (Some((sent, behind)), true) = (Record::read(rest), left > 0) {
            line.clear();
            match flags.output {
                Output::Text => text_line(&sent, &mut line)?,
                Output::Json => writeln!(line, "{}", json_of(&sent))?,
            }
            out.write_all(line.as_bytes())?;
            (rest, left) = (behind, left - 1);
        }
        out.flush()?;
    }
    Ok(())
}

/// Prints what is on top, once or again and again.
///
/// # Errors
/// The server cannot be reached; or the output cannot be written.
#[expect(clippy::disallowed_methods, reason = "nothing is to be done until the next print")]
pub fn top(flags: &TopFlags, out: &mut impl Write) -> anyhow::Result<()> {
    // A file or a pipe is no screen.
    let is_once = flags.once || flags.output == Output::Json || !std::io::stdout().is_terminal();
    loop {
        let (rows, to_text): (_, fn(&Value) -> String) = (
            flags.rows,
            match flags.waste {
                true => waste_text,
                false => top_text,
            },
        );
        let request = match flags.waste {
            true => Request::Waste { rows },
            false => Request::Top { rows },
        };
        let shown = control::ask(&flags.socket, &request)?;
        match flags.output {
            Output::Json => writeln!(out, "{shown:#}")?,
            // Home, and clear what was there.
            Output::Text if !is_once => write!(out, "\x1b[H\x1b[2J{}", to_text(&shown))?,
            Output::Text => write!(out, "{}", to_text(&shown))?,
        }
        out.flush()?;
        if is_once {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(flags.every.max(1)));
    }
}

fn json_of(Sent { record, at, pod }: &Sent<'_>) -> Value {
    json!({
        "time": *at as f64 / 1e3,
        "client": record.client.ip().to_string(),
        "pod": pod,
        "port": record.client.port(),
        "transport": record.transport.name(),
        "name": record.name().to_string(),
        "type": record.qtype.to_string(),
        "rcode": (!record.is_silent).then(|| record.rcode.to_string()),
        "source": record.source(),
        "plugin": record.plugin.name(),
        "milliseconds": f64::from(record.micros) / 1e3,
        "bytes": record.size,
    })
}

/// `12:34:56.789 192.0.2.7 udp NOERROR upstream 12.3 ms A www.example.org. shop/web-1`
fn text_line(Sent { record, at, pod }: &Sent<'_>, line: &mut String) -> std::fmt::Result {
    let (seconds, millis) = (at / 1_000, at % 1_000);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    write!(line, "{hour:02}:{minute:02}:{second:02}.{millis:03} ")?;
    let code = if record.is_silent { "silence".to_owned() } else { record.rcode.to_string() };
    let took = f64::from(record.micros) / 1e3;
    let (before, pod) = pod.map_or(("", ""), |pod| (" ", pod));
    writeln!(
        line,
        "{:<15} {} {code:<8} {:<8} {took:>8.1} ms {:<5} {}{before}{pod}",
        record.client.ip().to_string(),
        record.transport.name(),
        record.source(),
        record.qtype.to_string(),
        record.name(),
    )
}

/// The answer to [`Request::Top`] for people.
fn top_text(shown: &Value) -> String {
    let mut out = String::new();
    let number = |key: &str| shown.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    let about = if shown.get("sampled") == Some(&Value::Bool(true)) { "about " } else { "" };
    // Written to a string: cannot fail.
    let _ = writeln!(
        out,
        "last {:.0} s: {about}{} queries, {:.1} a second",
        number("seconds"),
        number("queries"),
        number("per_second")
    );
    for (title, key) in [("sources", "sources"), ("codes", "rcodes"), ("types", "types")] {
        let _ = writeln!(out, "{title:<9}{}", counts(shown.get(key)));
    }
    let sections = [
        ("names", "names", "name"),
        ("clients", "clients", "client"),
        ("names that do not exist", "nxdomain_names", "name"),
        ("clients that ask for them", "nxdomain_clients", "client"),
    ];
    for (title, key, field) in sections {
        let rows = rows(shown, key);
        if !rows.is_empty() {
            let _ = writeln!(out, "\n{title}");
        }
        for row in rows {
            let queries = row.get("queries").and_then(Value::as_u64).unwrap_or(0);
            let pod = text(row, "pod");
            let owner = Some(text(row, "owner")).filter(|owner| !owner.is_empty());
            let owner = owner.map_or(String::new(), |owner| format!(" of {owner}"));
            let _ = writeln!(out, "{queries:>9}  {} {pod}{owner}", text(row, field));
        }
    }
    let slowest = rows(shown, "slowest");
    if !slowest.is_empty() {
        let _ = writeln!(out, "\nslowest");
    }
    for row in slowest {
        let took = row.get("milliseconds").and_then(Value::as_f64).unwrap_or(0.0);
        let (name, qtype, client) = (text(row, "name"), text(row, "type"), text(row, "client"));
        let _ = writeln!(out, "{took:>6.0} ms  {name} {qtype} {} of {client}", text(row, "rcode"));
    }
    let upstreams = rows(shown, "upstreams");
    if !upstreams.is_empty() {
        let _ = writeln!(out, "\nupstreams");
    }
    for row in upstreams {
        let mean = row.get("round_trip_ms").and_then(Value::as_f64);
        let mean = mean.map_or("-".to_owned(), |mean| format!("{mean:.1}"));
        let _ = writeln!(out, "{mean:>6} ms  {} {}", text(row, "to"), text(row, "state"));
    }
    out
}

/// The answer to [`Request::Waste`] for people.
fn waste_text(shown: &Value) -> String {
    let mut out = String::new();
    let number = |row: &Value, key: &str| row.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    let about = if shown.get("sampled") == Some(&Value::Bool(true)) { "about " } else { "" };
    let (queries, wasted) = (number(shown, "queries"), number(shown, "wasted"));
    let share = if queries > 0.0 { wasted / queries * 100.0 } else { 0.0 };
    // Written to a string: cannot fail.
    let _ = writeln!(
        out,
        "last {:.0} s: {about}{queries} queries, {wasted} of them wasted by search lists ({share:.0} %)",
        number(shown, "seconds")
    );
    if let Some(note) = shown.get("note").and_then(Value::as_str) {
        let _ = writeln!(out, "note: {note}");
    }
    let lookups = rows(shown, "lookups");
    if !lookups.is_empty() {
        let _ = writeln!(out, "\n   wasted   queries  a look-up  name");
    }
    for row in lookups {
        let each = row.get("queries_per_lookup").and_then(Value::as_f64);
        let each = each.map_or("-".to_owned(), |each| format!("{each:.1}"));
        let (wasted, queries) = (number(row, "wasted"), number(row, "queries"));
        let (name, client, pod) = (text(row, "name"), text(row, "client"), text(row, "pod"));
        let who = format!("{client} {pod}");
        let who = who.trim_end();
        let _ = writeln!(out, "{wasted:>9} {queries:>9} {each:>10}  {name} of {who}");
        let ways = row.get("saved_by").and_then(Value::as_array).into_iter().flatten();
        let ways: Vec<&str> = ways.filter_map(Value::as_str).collect();
        let _ = writeln!(out, "{:>32}{}", "", ways.join("; or "));
    }
    out
}

fn rows<'a>(shown: &'a Value, key: &str) -> &'a [Value] {
    shown.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn counts(value: Option<&Value>) -> String {
    let fields = value.and_then(Value::as_object).into_iter().flatten();
    let mut all: Vec<(u64, &String)> =
        fields.map(|(name, count)| (count.as_u64().unwrap_or(0), name)).collect();
    all.sort_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(other.1)));
    all.iter().map(|(count, name)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;
    use crate::wire::Rcode;

    #[test]
    fn a_line_tells_of_a_query() {
        let mut line = String::new();
        let seen = record("www.example.org.", Rcode::NXDOMAIN, 12_340);
        text_line(&Sent { record: seen, at: 45_296_789, pod: Some("shop/web") }, &mut line)
            .unwrap();
        let wanted = "12:34:56.789 192.0.2.7       udp NXDOMAIN upstream     12.3 ms A     www.example.org. shop/web\n";
        assert_eq!(line, wanted);
        assert_eq!(json_of(&Sent { record: seen, at: 1_500, pod: None })["time"], 1.5);
    }

    #[test]
    fn waste_is_readable() {
        let shown = json!({
            "seconds": 61.5, "queries": 40, "wasted": 12, "sampled": true, "note": "no Pods are watched",
            "lookups": [
                { "client": "10.0.0.1", "pod": "shop/web", "name": "a.test", "queries": 16, "wasted": 12,
                  "queries_per_lookup": 4.0, "saved_by": ["write `a.test.`", "`ndots:1`"] },
                { "client": "10.0.0.2", "pod": null, "name": "b.test", "queries": 1, "wasted": 1,
                  "queries_per_lookup": null, "saved_by": ["write `b.test.`"] },
            ],
        });
        let wanted = "\
last 62 s: about 40 queries, 12 of them wasted by search lists (30 %)
note: no Pods are watched

   wasted   queries  a look-up  name
       12        16        4.0  a.test of 10.0.0.1 shop/web
                                write `a.test.`; or `ndots:1`
        1         1          -  b.test of 10.0.0.2
                                write `b.test.`
";
        assert_eq!(waste_text(&shown), wanted);
        assert!(waste_text(&Value::Null).starts_with("last 0 s: 0 queries, 0 of them"));
    }

    #[test]
    fn the_top_is_readable() {
        let shown = json!({
            "seconds": 61.5, "queries": 40, "per_second": 0.7, "sampled": false,
            "sources": { "cache": 3, "upstream": 37 }, "rcodes": { "NOERROR": 40 }, "types": { "A": 40 },
            "names": [{ "name": "a.test.", "queries": 30 }],
            "clients": [{ "client": "10.0.0.1", "queries": 40, "pod": "shop/web" }],
            "slowest": [{ "name": "a.test.", "type": "A", "client": "10.0.0.1", "rcode": "NOERROR", "milliseconds": 52.1 }],
            "upstreams": [{ "to": "192.0.2.53:53", "state": "up", "round_trip_ms": 3.25 }],
        });
        let wanted = "\
last 62 s: 40 queries, 0.7 a second
sources  upstream 37, cache 3
codes    NOERROR 40
types    A 40

names
       30  a.test. 

clients
       40  10.0.0.1 shop/web

slowest
    52 ms  a.test. A NOERROR of 10.0.0.1

upstreams
   3.2 ms  192.0.2.53:53 up
";
        assert_eq!(top_text(&shown), wanted);
    }
}
