//! What the running server says of itself.

use serde_json::Value;

use super::super::facts::Facts;
use super::super::finding::{Finding, few};

/// A server sends something once a minute; of a store that is older nobody was heard, in seconds.
const SILENT: f64 = 120.0;

/// Whether a server runs and answers at its socket.
pub fn answers(facts: &Facts) -> Finding {
    let why = match &facts.status {
        Ok(status) => {
            let text = |name: &str| match status.get(name) {
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
                None => "unknown".to_owned(),
            };
            return Finding::ok(format!(
                "process {} has run for {} s",
                text("pid"),
                text("uptime_seconds")
            ));
        }
        Err(why) => why,
    };
    let stopped: Vec<String> = facts
        .instances
        .iter()
        .filter(|process| process.is_stopped())
        .map(|process| format!("process {} is stopped by a signal", process.pid))
        .collect();
    if !stopped.is_empty() {
        return Finding::problem(
            few(stopped),
            "let it continue (kill -CONT PID), or end it (kill -KILL PID): its supervisor starts another",
        );
    }
    if let Some(process) = facts.instances.first() {
        return Finding::problem(
            format!("process {} runs, but: {why}", process.pid),
            "name its socket with --socket, run this as its user, or look at its log",
        );
    }
    Finding::problem(
        why.clone(),
        "start the server; if it runs in a container, run this there (kubectl exec POD -- /nodens doctor)",
    )
}

/// Whether it waits for anything, or a part of it does not work.
pub fn conditions(facts: &Facts) -> Finding {
    let Ok(status) = &facts.status else { return Finding::skipped("no server answers") };
    if let Some(list) = status.get("conditions").and_then(Value::as_array) {
        return listed(list);
    }
    let mut problems = Vec::new();
    if let Some(stalled) = status.get("stalled").and_then(Value::as_str) {
        problems.push(stalled.to_owned());
    }
    let waiting = status.get("waiting").and_then(Value::as_array);
    let waiting = waiting.into_iter().flatten().filter_map(Value::as_str);
    problems.extend(waiting.map(|text| format!("waits for {text}")));
    if !problems.is_empty() {
        return Finding::problem(
            few(problems),
            "see the section of the manual for each (docs/troubleshooting.md)",
        );
    }
    match status.get("trouble").and_then(Value::as_str) {
        Some(trouble) => Finding::warning(trouble, "the server's log says more"),
        None => Finding::ok("it waits for nothing"),
    }
}

/// The server's own list of what is wrong, each with its cure.
fn listed(conditions: &[Value]) -> Finding {
    let text = |condition: &Value, name: &str| match condition.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(lines)) => {
            few(lines.iter().filter_map(|line| line.as_str().map(str::to_owned)))
        }
        _ => String::new(),
    };
    let found = conditions.iter().map(|condition| {
        let evidence = format!("{}: {}", text(condition, "title"), text(condition, "evidence"));
        let cure = text(condition, "cure");
        match condition.get("severity").and_then(Value::as_str) {
            Some("warn") => Finding::warning(evidence, cure),
            _ => Finding::problem(evidence, cure),
        }
    });
    match conditions.is_empty() {
        true => Finding::ok("no condition holds"),
        false => Finding::worst(found.collect(), ""),
    }
}

/// A text as it is, anything else as JSON.
fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Whether what runs is what is written.
pub fn configuration(facts: &Facts) -> Finding {
    let Ok(status) = &facts.status else { return Finding::skipped("no server answers") };
    let refused = status.get("refused_configuration").filter(|value| !value.is_null());
    match refused {
        Some(why) if facts.told("/configuration/held_back").is_some() => Finding::problem(
            format!("a changed configuration is held back, the one before runs: {}", text_of(why)),
            "put it right, or apply it (`nodens reload --force`); a restart would apply it as it is",
        ),
        Some(why) => Finding::problem(
            format!("a changed configuration was refused, the one before runs: {}", text_of(why)),
            "mend the Corefile (`nodens check` names the lines); the next start would fail",
        ),
        None => {
            let hash = ["/configuration/hash", "/configuration"];
            let hash = hash.iter().find_map(|at| status.pointer(at)?.as_str());
            let hash = hash.unwrap_or("unknown");
            Finding::ok(format!("configuration {hash} runs, and none was refused"))
        }
    }
}

/// Whether this program and the server are of one version.
pub fn version(facts: &Facts) -> Finding {
    let Ok(status) = &facts.status else { return Finding::skipped("no server answers") };
    let own = env!("CARGO_PKG_VERSION");
    match status.get("version").and_then(Value::as_str) {
        Some(running) if running == own => Finding::ok(format!("both are {own}")),
        Some(running) => Finding::warning(
            format!("the server is {running}, this program {own}"),
            "use the program of the server's version; `nodens upgrade` brings the installed one to service",
        ),
        None => Finding::warning(
            "the server does not say its version",
            "use the program of the server's version",
        ),
    }
}

/// Whether it has crashed, or could not be replaced.
pub fn restarts(facts: &Facts) -> Finding {
    let Ok(status) = &facts.status else { return Finding::skipped("no server answers") };
    let count = |name: &str| status.get(name).and_then(Value::as_u64).unwrap_or(0);
    let (restarts, failed) = (count("restarts"), count("failed_takeovers"));
    if restarts > 0 {
        return Finding::warning(
            format!("the server was started again {restarts} times after a crash"),
            "keep its log, in which each crash is told, and report it",
        );
    }
    if failed > 0 {
        let why = status.get("last_failed_takeover").and_then(Value::as_str).unwrap_or("unknown");
        return Finding::warning(
            format!("{failed} instances could not take over; the last: {why}"),
            "the new instance's log says why it did not serve",
        );
    }
    Finding::ok("no crash, and no failed hand-over")
}

/// Whether cluster names are from now, or from the past.
pub fn store(facts: &Facts) -> Finding {
    let Ok(status) = &facts.status else { return Finding::skipped("no server answers") };
    let clusters = ["/sources", "/details/kubernetes"];
    let clusters = clusters.iter().find_map(|at| status.pointer(at)?.as_array());
    let Some(clusters) = clusters.filter(|clusters| !clusters.is_empty()) else {
        return Finding::skipped("no kubernetes directive");
    };
    let mut found = Vec::new();
    for cluster in clusters {
        let source = cluster.get("source").and_then(Value::as_str).unwrap_or("the API server");
        let age = cluster.get("age_seconds").and_then(Value::as_f64).unwrap_or(0.0);
        let kinds = cluster.get("kinds").and_then(Value::as_object);
        let flag = |kind: &Value, name: &str| kind.get(name).and_then(Value::as_bool) == Some(true);
        // Older servers do not say it, and watch nothing else.
        let is_needed = |kind: &Value| kind.get("needed") != Some(&Value::Bool(false));
        let behind = |name: &str, needed: bool| {
            let kinds = kinds.into_iter().flatten().filter(|(_, kind)| is_needed(kind) == needed);
            let kinds = kinds.filter(|(_, kind)| !flag(kind, name));
            few(kinds.map(|(plural, _)| plural.clone()))
        };
        let (unlisted, unwatched) = (behind("synced", true), behind("live", true));
        let unknown = behind("live", false);
        let error = cluster.get("last_error").and_then(Value::as_str);
        let error = error.map_or(String::new(), |error| format!(": {error}"));
        let cure = "see the category `api`; names that are known are answered meanwhile";
        found.push(if !unlisted.is_empty() {
            Finding::problem(format!("{source}: not listed yet: {unlisted}{error}"), cure)
        } else if !unwatched.is_empty() && age < SILENT {
            let evidence = format!("{source}: not watched at this moment: {unwatched}{error}");
            Finding::warning(
                evidence,
                "see whether it is so again in a minute, and the category `api`",
            )
        } else if !unwatched.is_empty() {
            Finding::problem(
                format!("{source}: not watched now: {unwatched}; the store is {age} s old{error}"),
                cure,
            )
        } else if !unknown.is_empty() {
            Finding::warning(
                format!("{source}: not watched: {unknown}{error}"),
                "names are answered as ever; the category `api` says which right is missing",
            )
        } else {
            // An error that has healed is not one.
            Finding::ok(format!("{source}: all kinds are watched, the store is {age} s old"))
        });
    }
    Finding::worst(found, "no kubernetes directive")
}
