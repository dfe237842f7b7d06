//! The handler beside the conformance record.

use super::*;

/// The deviations that the notes beside the record list, by what they look like.
fn is_deviation(expected: &Value, message: &Message) -> bool {
    let asked = expected["name"].as_str().unwrap();
    let denied_by_coredns = expected["rcode"] == "NXDOMAIN" && message.rcode() == Rcode::NOERROR;
    let no_data = message.layout().section(Section::Answer).next().is_none();
    // FQDN slices: a CNAME beside addresses.
    let fqdn = |section: &str| {
        strings(&expected[section]).any(|record| record.ends_with("CNAME far.example.org."))
    };
    // The SOA of the denial behind an alias.
    let alone: Vec<_> = strings(&expected["answer"]).collect();
    if matches!(alone.as_slice(), [alias] if alias.ends_with("CNAME ext.example.net.")) {
        return records(message, Section::Authority).iter().all(|record| record.contains(" SOA "));
    }
    let arpa = asked.ends_with(".arpa.");
    let labels: Vec<&str> = asked.trim_end_matches(".cluster.local.").split('.').collect();
    let empty_non_terminal = arpa
        || asked == "cluster.local."
        || matches!(
            labels.as_slice(),
            ["svc" | "pod" | "dns" | "dns-version"]
                | ["ns", "dns"]
                | [_, "svc" | "pod"]
                | ["_tcp" | "_udp" | "_sctp", _, _, "svc"]
        );
    fqdn("answer") || (denied_by_coredns && no_data && empty_non_terminal)
}

#[track_caller]
fn compare(which: &str) {
    let view = variant(which);
    let server = Server::new(view.clone(), recorded_index(&view.exposed, which == "verified"));
    let (mut asked, mut deviations, mut wrong) = (0, 0, Vec::new());
    for line in data(&format!("{which}.jsonl")).lines() {
        let expected: Value = serde_json::from_str(line).unwrap();
        let text = expected["name"].as_str().unwrap();
        if !name(text).as_ref().is_within(name("cluster.local").as_ref())
            && !text.ends_with(".arpa.")
        {
            continue;
        }
        asked += 1;
        let message =
            server.ask(text, RecordType::from_name(expected["type"].as_str().unwrap()).unwrap());
        let section =
            |name: &str| strings(&expected[name]).map(str::to_owned).collect::<BTreeSet<_>>();
        let same = message.rcode().to_string() == expected["rcode"].as_str().unwrap()
            && message.layout().flags & flags::AA != 0
            && records(&message, Section::Answer) == section("answer")
            && records(&message, Section::Authority) == section("authority")
            && records(&message, Section::Additional) == section("additional");
        if same {
            continue;
        }
        if is_deviation(&expected, &message) {
            deviations += 1;
            continue;
        }
        wrong.push(format!(
            "{text} {}: {} {:?} {:?} {:?}\n   wanted {} {} {} {}",
            expected["type"],
            message.rcode(),
            records(&message, Section::Answer),
            records(&message, Section::Authority),
            records(&message, Section::Additional),
            expected["rcode"],
            expected["answer"],
            expected["authority"],
            expected["additional"]
        ));
    }
    assert!(asked > 2_000, "{asked} questions");
    println!("{which}: {asked} questions, {deviations} deviations, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{} of {asked} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn answers_as_recorded_insecure() {
    compare("insecure");
}

#[test]
fn answers_as_recorded_verified() {
    compare("verified");
}

#[test]
fn answers_as_recorded_namespaces() {
    compare("namespaces");
}

#[test]
fn answers_as_recorded_ignore_empty() {
    compare("ignore_empty");
}

#[test]
fn answers_as_recorded_noendpoints() {
    compare("noendpoints");
}
