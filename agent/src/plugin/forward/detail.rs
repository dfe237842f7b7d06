//! What a forward reports of itself to `/ready?verbose` and `nodens status`.

use serde_json::{Value, json};

use super::Forwarding;
use crate::conditions::{Found, Watched, table};
use crate::detail::Detail;
use crate::upstream::Upstream;
use crate::wire::Name;

impl Watched for Forwarding {
    fn look(&self, found: &mut Found) {
        let set = self.0.set.load();
        let from: Vec<String> = self.0.zones().iter().map(ToString::to_string).collect();
        let from = from.join(" ");
        if set.upstreams.is_empty() {
            found.add(&table::NO_UPSTREAM, format!("forward {from}: {}", set.problem));
            return;
        }
        let all_are_away = !set.upstreams.iter().any(|upstream| upstream.health.is_available());
        for upstream in &set.upstreams {
            let to = upstream.label();
            // A loop first: an upstream that is not asked for it has no failures either.
            if upstream.health.is_looping() {
                found.add(&table::UPSTREAM_LOOPS, format!("forward {from}: {to}"));
            } else if upstream.health.is_down() && !all_are_away {
                let failures = upstream.health.failures();
                let evidence = format!("forward {from}: {to} has not answered {failures} tries");
                found.add(&table::UPSTREAM_AWAY, evidence);
            }
        }
        if all_are_away {
            let upstreams =
                set.upstreams.iter().map(|upstream| told(upstream).get("state").cloned());
            let states = set.upstreams.iter().zip(upstreams).take(MAX_NAMED);
            let states: Vec<String> = states
                .map(|(upstream, state)| {
                    format!(
                        "{} {}",
                        upstream.label(),
                        state.as_ref().and_then(Value::as_str).unwrap_or_default()
                    )
                })
                .collect();
            found.add(&table::UPSTREAMS_AWAY, format!("forward {from}: {}", states.join("; ")));
        }
    }
}

/// Upstreams that one line of evidence names.
const MAX_NAMED: usize = 4;

impl Detail for Forwarding {
    fn name(&self) -> &str {
        "forward"
    }

    fn detail(&self) -> Value {
        let set = self.0.set.load();
        let text = |names: &[Name]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut value = json!({
            "zones": text(&self.0.context.zones),
            "from": text(&self.0.zones()),
            "upstreams": set.upstreams.iter().map(|upstream| told(upstream)).collect::<Vec<_>>(),
        });
        let Some(fields) = value.as_object_mut() else { return value };
        if set.upstreams.is_empty() {
            fields.insert("trouble".to_owned(), (*set.problem).into());
        }
        let names = self.0.told_names();
        if !names.is_empty() {
            fields.insert("names".to_owned(), names.into());
        }
        value
    }
}

fn told(upstream: &Upstream) -> Value {
    let (health, mean) = (&upstream.health, upstream.round_trips.mean());
    // A loop first: an upstream that is not asked for it has no failures either.
    let state = match (health.is_looping(), health.is_down()) {
        (true, _) => "set aside: its queries come back here",
        (false, true) => "set aside: it does not answer",
        (false, false) if mean.is_none() && health.failures() == 0 => "not asked yet",
        (false, false) => "up",
    };
    json!({
        "to": &**upstream.label(),
        "state": state,
        "failures": health.failures(),
        "round_trip_ms": mean.map(|mean| (mean.as_secs_f64() * 1e4).round() / 10.0),
    })
}
