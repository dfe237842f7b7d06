//! The Corefile, and whom it would forward to.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use serde_json::Value;

use super::super::facts::Facts;
use super::super::finding::{Finding, few};
use super::super::procfs;
use crate::upstream::follow::RESOLVED_CONF;
use crate::upstream::resolv_conf::ResolvConf;

/// The most that is read of a resolv.conf, in octets.
const MAX_RESOLV_CONF: u64 = 64 << 10;

/// Whether the Corefile can be read: it exists, its mode, its SELinux context.
pub fn corefile(facts: &Facts) -> Finding {
    let file = &facts.setup.file;
    if facts.status.is_err() && facts.instances.is_empty() && !facts.is_configured() {
        return Finding::skipped("no server, no process of one and no -conf says which it is");
    }
    match fs::File::open(file).and_then(|mut open| io::copy(&mut open, &mut io::sink())) {
        Ok(octets) => Finding::ok(format!("{}: {octets} octets", file.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Finding::problem(
            format!("{}: {error}", file.display()),
            "name it with -conf, or mount the ConfigMap that has it",
        ),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let (seen, cure) = denied(file);
            Finding::problem(format!("{}: {error}; {seen}", file.display()), cure)
        }
        Err(error) => Finding::problem(
            format!("{}: {error}", file.display()),
            "name a file that can be read with -conf",
        ),
    }
}

/// Why a file may not be read: mode and owner of the file and of the folders above it, or a security module.
fn denied(file: &Path) -> (String, String) {
    let user = nix::unistd::geteuid();
    let context = context(file);
    let context = context.map_or(String::new(), |context| format!(", SELinux context {context}"));
    let mut above: Vec<&Path> =
        file.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
    above.reverse();
    for path in above {
        let Ok(metadata) = fs::metadata(path) else { break };
        let needed = if metadata.is_dir() { 0o111 } else { 0o444 };
        let mode = metadata.permissions().mode();
        if mode & needed != needed {
            let (owner, group) = (metadata.uid(), metadata.gid());
            let seen = format!(
                "{} has mode {:04o}, owner {owner}:{group}{context}; this process is user {user}",
                path.display(),
                mode & 0o7777
            );
            let right = if metadata.is_dir() { "a+x" } else { "a+r" };
            let cure = format!("chmod {right} {}, or run the server as its owner", path.display());
            return (seen, cure);
        }
    }
    (
        format!("the modes allow it to user {user}{context}"),
        "SELinux or AppArmor forbids it: `ausearch -m avc -ts recent` shows the denial; give the file the context \
         container_file_t (chcon -t container_file_t FILE)"
            .to_owned(),
    )
}

/// The SELinux context of a file, where there is SELinux. `ls -Z` shows the same.
fn context(file: &Path) -> Option<String> {
    let mut buffer = [0u8; 256];
    let length = rustix::fs::getxattr(file, "security.selinux", &mut buffer[..]).ok()?;
    let text = String::from_utf8_lossy(buffer.get(..length)?);
    Some(text.trim_end_matches('\0').to_owned())
}

/// Whether a start would take it.
pub fn valid(facts: &Facts) -> Finding {
    let setup = &facts.setup;
    let cure = "`nodens check` prints every mistake with its line";
    if facts.status.is_err() && facts.instances.is_empty() && !facts.is_configured() {
        return Finding::skipped("no Corefile is known");
    }
    if !setup.errors.is_empty() {
        return Finding::problem(few(setup.errors.iter().cloned()), cure);
    }
    if !setup.warnings.is_empty() {
        return Finding::warning(few(setup.warnings.iter().cloned()), cure);
    }
    Finding::ok("no mistake")
}

/// Whether the flags make sense together.
pub fn flags(facts: &Facts) -> Finding {
    let wanted = match &facts.wanted {
        Ok(wanted) => wanted,
        Err(why) => {
            return Finding::problem(why.clone(), "correct the flags: the next start fails");
        }
    };
    let missing: Vec<String> = facts
        .setup
        .listening
        .iter()
        .filter(|address| !wanted.desired.addresses.is_empty() && !is_told(facts, **address))
        .map(|address| address.ip().to_string())
        .collect();
    let unheard: Vec<String> = wanted
        .desired
        .addresses
        .iter()
        .filter(|ip| !facts.setup.listening.is_empty() && !is_heard(facts, **ip))
        .map(ToString::to_string)
        .collect();
    if !unheard.is_empty() {
        return Finding::problem(
            format!("-localip makes {}, at which no server block listens", few(unheard)),
            "name the same addresses in `bind` and -localip: pods that are pointed there get no answer",
        );
    }
    if !missing.is_empty() {
        return Finding::ok(format!("server blocks listen at {} too", few(missing)));
    }
    Finding::ok(match wanted.desired.addresses.is_empty() {
        true => "no address is to be made".to_owned(),
        false => "every address of -localip is listened at".to_owned(),
    })
}

fn is_told(facts: &Facts, address: SocketAddr) -> bool {
    address.ip().is_loopback() || facts.is_ours(address.ip())
}

fn is_heard(facts: &Facts, ip: IpAddr) -> bool {
    facts.setup.listening.iter().any(|heard| {
        let heard = heard.ip();
        heard.to_canonical() == ip.to_canonical() || heard.is_unspecified()
    })
}

/// Whether anybody is left to forward to.
pub fn upstreams(facts: &Facts) -> Finding {
    let setup = &facts.setup;
    let named: Vec<String> = setup.upstreams.iter().map(|asked| asked.target.to_string()).collect();
    let notes = few(setup.notes.iter().cloned());
    if !named.is_empty() {
        let notes = if notes.is_empty() { notes } else { format!(" ({notes})") };
        return Finding::ok(format!("{}{notes}", few(named)));
    }
    if !setup.unresolved.is_empty() {
        let names = few(setup.unresolved.iter().cloned());
        return Finding::warning(
            format!("the addresses of {names} are not known to a running server"),
            "start the server; if it runs, `nodens status` says why, and `resolver` of `forward` names who is asked",
        );
    }
    if notes.is_empty() {
        return Finding::skipped(facts.no_upstream("nothing is forwarded"));
    }
    Finding::problem(
        notes,
        "name an address behind `forward .`, or a resolv.conf with servers other than this one \
         (with systemd-resolved: /run/systemd/resolve/resolv.conf)",
    )
}

/// Whether queries that are forwarded come back: by the server's own probes, and by whom the upstreams on this node ask.
pub fn forwarding_loop(facts: &Facts) -> Finding {
    let cure = "make the upstream ask other servers than Nodens: with systemd-resolved, no DNS= or link server that is one of \
                Nodens' addresses; or name other upstreams behind `forward .`";
    let mut found = Vec::new();
    for upstream in set_aside(facts, "come back") {
        found.push(Finding::problem(
            format!("queries to {upstream} come back to this server"),
            cure,
        ));
    }
    let local: Vec<SocketAddr> = facts
        .setup
        .upstreams
        .iter()
        .map(|asked| asked.target.address)
        .filter(|address| address.ip().is_loopback())
        .collect();
    let resolved = facts.path(RESOLVED_CONF);
    let behind = procfs::read(&resolved, MAX_RESOLV_CONF).unwrap_or_default();
    let behind = ResolvConf::parse(behind.as_bytes()).servers;
    let ours: Vec<String> = behind
        .iter()
        .filter(|server| facts.is_ours(server.ip()))
        .map(ToString::to_string)
        .collect();
    // What resolved asks is ours: a query that it gets comes back.
    let all_ours = !ours.is_empty() && ours.len() == behind.len();
    for stub in &local {
        let evidence = format!(
            "{stub} is forwarded to, and {} names {}",
            resolved.display(),
            few(ours.clone())
        );
        if all_ours {
            found.push(Finding::problem(evidence, cure));
        } else if !ours.is_empty() {
            found.push(Finding::warning(evidence, cure));
        }
    }
    let asked = facts.setup.upstreams.len();
    if found.is_empty() && asked > 0 {
        return Finding::ok(format!("none of {asked} upstreams sends queries back"));
    }
    Finding::worst(found, facts.no_upstream("nothing is forwarded"))
}

/// The upstreams that the running server has set aside for a reason with these words.
fn set_aside(facts: &Facts, words: &str) -> Vec<String> {
    let forwards = ["/forwards", "/details/forward"];
    let forwards = forwards.iter().find_map(|at| facts.told(at)?.as_array());
    let upstreams =
        forwards.into_iter().flatten().filter_map(|forward| forward.get("upstreams")?.as_array());
    let is_aside = |upstream: &&Value| {
        upstream.get("state").and_then(Value::as_str).is_some_and(|state| state.contains(words))
    };
    let mut named: Vec<String> = upstreams
        .flatten()
        .filter(is_aside)
        .filter_map(|upstream| Some(upstream.get("to")?.as_str()?.to_owned()))
        .collect();
    named.sort();
    named.dedup();
    named
}

/// Whether upstreams are stubs of this node, such as systemd-resolved's 127.0.0.53, that could not be seen through.
pub fn stub(facts: &Facts) -> Finding {
    let mut found = Vec::new();
    for asked in &facts.setup.upstreams {
        let ip = asked.target.address.ip();
        if ip.is_loopback() {
            found.push(Finding::warning(
                format!("{} is a stub of this node: one hop and one cache more, and nothing if it stops", asked.target),
                "forward to the servers that the stub asks (with systemd-resolved: /run/systemd/resolve/resolv.conf); from a \
                 pod with its own network a loopback address leads to the pod itself",
            ));
        }
    }
    if found.is_empty() && !facts.setup.upstreams.is_empty() {
        return Finding::ok("no upstream is a loopback address");
    }
    Finding::worst(found, facts.no_upstream("nothing is forwarded"))
}
