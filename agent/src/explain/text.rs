//! What `nodens explain` prints for people.

use std::fmt::Write as _;

use serde_json::Value;

/// The answer to `Request::Explain` as text. Total: what is missing is left out.
pub fn text(shown: &Value) -> String {
    let mut out = String::new();
    // Written to a string: cannot fail.
    let _ = writeln!(out, "{}", word(shown, "verdict"));
    for reason in words(shown, "reasons") {
        let _ = writeln!(out, "  because {reason}");
    }
    if let Some(cost) = shown.get("cost").filter(|cost| cost.is_object()) {
        let _ = writeln!(out, "  costs {}", self::cost(cost));
    }
    for advice in words(shown, "advice") {
        let _ = writeln!(out, "  cheaper: {advice}");
    }
    for note in words(shown, "notes") {
        let _ = writeln!(out, "  note: {note}");
    }
    let search: Vec<&str> = words(shown, "search").collect();
    let ndots = shown.get("ndots").and_then(Value::as_u64).unwrap_or(0);
    let who = match (word(shown, "pod"), word(shown, "owner")) {
        ("", _) => String::new(),
        (pod, "") => format!(" (Pod {pod})"),
        (pod, owner) => format!(" (Pod {pod} of {owner})"),
    };
    let asks = format!("{}{who} asks {}", word(shown, "client"), word(shown, "server"));
    match search.as_slice() {
        [] => drop(writeln!(out, "\n{asks}, without a search list")),
        domains => drop(writeln!(out, "\n{asks}, search {}, ndots {ndots}", domains.join(" "))),
    }
    for (number, tried) in items(shown, "tries").iter().enumerate() {
        let of = match tried.get("domain").and_then(Value::as_str) {
            Some(domain) => format!("with {domain}"),
            None => "as it is".to_owned(),
        };
        let _ = writeln!(out, "\n{}. {} ({of})", number + 1, word(tried, "name"));
        for query in items(tried, "queries") {
            self::query(query, &mut out);
        }
    }
    out
}

/// `8 queries, where 2 are enough`
fn cost(cost: &Value) -> String {
    let number = |key: &str| cost.get(key).and_then(Value::as_u64);
    let is = |key: &str| cost.get(key) == Some(&Value::Bool(true));
    let queries = match number("queries") {
        Some(1) => "1 query".to_owned(),
        count => format!("{} queries", count.unwrap_or(0)),
    };
    let queries = match is("at_least") {
        true => format!("at least {queries}"),
        false => queries,
    };
    match number("enough") {
        _ if is("by_autopath") => {
            format!("{queries}: `autopath` answers the first query with what the list comes to")
        }
        Some(1) => format!("{queries}, where 1 is enough"),
        Some(enough) => format!("{queries}, where {enough} are enough"),
        None => queries,
    }
}

fn query(query: &Value, out: &mut String) {
    let is = |key: &str| query.get(key) == Some(&Value::Bool(true));
    let became = match (is("silent"), is("would_ask_upstream")) {
        (true, _) => "no answer".to_owned(),
        (_, true) => "would be asked of an upstream".to_owned(),
        _ => format!("{} from {}", word(query, "rcode"), word(query, "source")),
    };
    let block = match (word(query, "zone"), word(query, "server")) {
        ("", _) => String::new(),
        (zone, server) => format!(" by block {zone} at {server}"),
    };
    let view = query.get("view").and_then(Value::as_str);
    let view = view.map_or(String::new(), |view| format!(", view {view}"));
    let _ = writeln!(out, "   {:<5} {became}{block}{view}", word(query, "type"));
    for passed in words(query, "passed_over") {
        let _ = writeln!(out, "         the query does not fit view {passed}");
    }
    let after: Vec<&str> = words(query, "autopath_continues_with").collect();
    if !after.is_empty() {
        let after = after.join(" ");
        let _ = writeln!(
            out,
            "         `autopath` answers it with the first of these that exists: {after}"
        );
    }
    for record in words(query, "records") {
        let _ = writeln!(out, "           {record}");
    }
    if let Some(error) = query.get("error").and_then(Value::as_str) {
        let _ = writeln!(out, "         error: {error}");
    }
    let (mut name, own) = (word(query, "name"), word(query, "name"));
    for step in items(query, "steps") {
        if word(step, "name") != name {
            name = word(step, "name");
            if name != own {
                let _ = writeln!(out, "         for {name} {}", word(step, "type"));
            }
        }
        let did = match word(step, "did") {
            "passed" => "passes it on",
            "answered" => "answers",
            _ => "needs another answer",
        };
        let notes: Vec<&str> = words(step, "notes").collect();
        let notes =
            if notes.is_empty() { String::new() } else { format!(": {}", notes.join("; ")) };
        let _ = writeln!(out, "         {:<12} {did}{notes}", word(step, "directive"));
    }
}

fn items<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn words<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = &'v str> {
    items(value, key).iter().filter_map(Value::as_str)
}

fn word<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn people_read_why_first() {
        let shown = json!({
            "verdict": "`web` does not exist, after 1 query",
            "reasons": ["Service `web` is in namespace `shop`, not in `default`"],
            "advice": ["write `web.`"], "notes": [], "client": "10.0.0.7", "server": "169.254.20.10:53",
            "search": ["default.svc.cluster.local"], "ndots": 5,
            "cost": { "queries": 4, "enough": 1, "by_autopath": false },
            "tries": [{
                "name": "web.default.svc.cluster.local.", "domain": "default.svc.cluster.local",
                "queries": [{
                    "name": "web.default.svc.cluster.local.", "type": "A", "server": "dns://:53", "zone": "cluster.local.", "view": "shop",
                    "source": "store", "rcode": "NXDOMAIN", "silent": false, "would_ask_upstream": false,
                    "error": null, "records": [], "passed_over": ["batch (Corefile:3)"],
                    "steps": [{ "name": "web.default.svc.cluster.local.", "type": "A", "directive": "kubernetes",
                                "did": "answered", "notes": ["one", "two"] }],
                }],
            }],
        });
        let wanted = "\
`web` does not exist, after 1 query
  because Service `web` is in namespace `shop`, not in `default`
  costs 4 queries, where 1 is enough
  cheaper: write `web.`

10.0.0.7 asks 169.254.20.10:53, search default.svc.cluster.local, ndots 5

1. web.default.svc.cluster.local. (with default.svc.cluster.local)
   A     NXDOMAIN from store by block cluster.local. at dns://:53, view shop
         the query does not fit view batch (Corefile:3)
         kubernetes   answers: one; two
";
        assert_eq!(text(&shown), wanted);
        assert_eq!(text(&Value::Null).lines().count(), 3);
        let by_autopath = json!({ "queries": 2, "enough": null, "by_autopath": true });
        assert!(cost(&by_autopath).starts_with("2 queries: `autopath` answers the first query"));
    }
}
