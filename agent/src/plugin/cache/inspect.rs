//! What `nodens cache show` and `nodens cache flush` say. Walks the whole store: for a control task, never for a worker.

use serde_json::{Value, json};

use super::Store;
use super::entry::{Entry, Kind, bits};
use crate::clock::CoarseInstant;
use crate::wire::name::NameError;
use crate::wire::{Name, NameRef};

/// Entries that are shown at a time; more are only counted.
const MAX_SHOWN: usize = 1_000;

/// What is kept for `name` and everything below it; without a name, how much is kept.
pub fn show(store: &Store, name: Option<&str>, now: CoarseInstant) -> Result<Value, NameError> {
    let Some(name) = name else { return Ok(summary(store)) };
    let name = lower(name)?;
    let mut found: Vec<_> = store.iter().filter(|entry| is_shown(entry, name.as_ref())).collect();
    found.sort_by_cached_key(|entry| (entry.name().to_string(), entry.qtype().0, entry.bits()));
    let more = found.len().saturating_sub(MAX_SHOWN);
    found.truncate(MAX_SHOWN);
    let entries: Vec<Value> = found.iter().map(|entry| describe(entry, now)).collect();
    Ok(json!({ "entries": entries, "more": more }))
}

/// Forgets what is kept for `name` and everything below it, or all.
pub fn flush(store: &Store, name: Option<&str>) -> Result<Value, NameError> {
    let name = name.map(lower).transpose()?;
    let removed = store
        .remove_if(|entry| name.as_ref().is_none_or(|name| entry.name().is_within(name.as_ref())));
    Ok(json!({ "removed": removed }))
}

/// What [`show`] or [`flush`] returned, for people.
pub fn text(value: &Value) -> String {
    let number = |value: &Value, key: &str| value.get(key).and_then(Value::as_u64).unwrap_or(0);
    if let Some(removed) = value.get("removed") {
        return format!("{removed} removed\n");
    }
    let Some(entries) = value.get("entries").and_then(Value::as_array) else {
        return format!(
            "{} positive, {} negative answers; {} of {} bytes; {} evicted, {} fetched ahead; {} asked right now\n",
            number(value, "success"),
            number(value, "denial"),
            number(value, "bytes"),
            number(value, "limit_bytes"),
            number(value, "evictions"),
            number(value, "prefetches"),
            number(value, "flights"),
        );
    };
    let mut out = String::new();
    for entry in entries {
        let word = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or("?");
        let times = match number(entry, "ttl") {
            0 => format!("ended {} s ago", number(entry, "ended")),
            ttl => format!("{ttl} s left"),
        };
        let flags = entry.get("flags").and_then(Value::as_array).into_iter().flatten();
        let flags: String =
            flags.filter_map(Value::as_str).map(|flag| format!(" {flag}")).collect();
        let view = entry.get("view").and_then(Value::as_str);
        let view = view.map_or(String::new(), |view| format!(", view {view}"));
        out.push_str(&format!(
            "{} {}{flags}: {}, {times} of {} s{view}\n",
            word("name"),
            word("type"),
            word("kind"),
            number(entry, "lifetime")
        ));
        for record in entry.get("records").and_then(Value::as_array).into_iter().flatten() {
            out.push_str(&format!("    {}\n", record.as_str().unwrap_or("?")));
        }
    }
    match number(value, "more") {
        0 if entries.is_empty() => out.push_str("nothing is kept for it\n"),
        0 => {}
        more => out.push_str(&format!("and {more} more\n")),
    }
    out
}

fn lower(name: &str) -> Result<Name, NameError> {
    Name::from_text(&name.to_ascii_lowercase())
}

fn is_shown(entry: &Entry, name: NameRef<'_>) -> bool {
    entry.bits() & bits::CUT == 0 && entry.name().is_within(name)
}

fn summary(store: &Store) -> Value {
    store.settle();
    let (mut success, mut denial, mut evictions, mut prefetches) = (0, 0, 0, 0);
    for stats in store.all_stats() {
        success += stats.entries(false);
        denial += stats.entries(true);
        evictions += stats.evictions(false) + stats.evictions(true);
        prefetches += stats.prefetches.load(std::sync::atomic::Ordering::Relaxed);
    }
    json!({
        "success": success,
        "denial": denial,
        "bytes": store.weight(),
        "limit_bytes": store.limit(),
        "evictions": evictions,
        "prefetches": prefetches,
        "flights": store.flights().len(),
    })
}

fn describe(entry: &Entry, now: CoarseInstant) -> Value {
    let age = now.seconds_since(entry.stored());
    let mut flags = Vec::new();
    for (bit, name) in [(bits::DNSSEC_OK, "do"), (bits::CHECKING_DISABLED, "cd")] {
        if entry.bits() & bit != 0 {
            flags.push(name);
        }
    }
    let kind = match entry.kind() {
        Kind::Success => "success",
        Kind::NxDomain => "nxdomain",
        Kind::NoData => "nodata",
        Kind::Failure => "failure",
    };
    json!({
        "name": entry.name().to_string(),
        "type": entry.qtype().to_string(),
        "flags": flags,
        "kind": kind,
        "rcode": entry.rcode().to_string(),
        "ttl": entry.remaining(now),
        "ended": age.saturating_sub(entry.lifetime()),
        "lifetime": entry.lifetime(),
        "bytes": entry.weight(),
        "block": format!("{:016x}", entry.stats().block),
        "view": entry.stats().view.get(),
        "records": records(entry.message()),
    })
}

/// The records in presentation format, with the times to live as they were kept.
fn records(message: &[u8]) -> Vec<String> {
    let Ok(message) = hickory_proto::op::Message::from_vec(message) else {
        return vec![format!("{} octets that cannot be shown", message.len())];
    };
    let sections = [&message.answers, &message.authorities, &message.additionals];
    sections.into_iter().flatten().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_sentences() {
        let summary =
            text(&json!({ "success": 2, "denial": 1, "bytes": 900, "limit_bytes": 1000 }));
        assert!(
            summary.starts_with("2 positive, 1 negative answers; 900 of 1000 bytes;"),
            "{summary}"
        );
        assert_eq!(text(&json!({ "entries": [], "more": 0 })), "nothing is kept for it\n");
        assert_eq!(text(&json!({ "removed": 3 })), "3 removed\n");
        let entry = json!({ "name": "a.org.", "type": "A", "kind": "success", "ttl": 5, "lifetime": 30,
                            "flags": ["do"], "view": "office", "records": ["a.org. 30 IN A 192.0.2.1"] });
        assert_eq!(
            text(&json!({ "entries": [entry], "more": 7 })),
            "a.org. A do: success, 5 s left of 30 s, view office\n    a.org. 30 IN A 192.0.2.1\nand 7 more\n"
        );
    }
}
