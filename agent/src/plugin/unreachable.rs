//! Warnings about lines that can never have an effect: they are legal, and probably not what was meant.

use super::scope::{are_related, covers};
use super::{Block, Line, log, view};
use crate::config::{Effect, Plugin, ZoneKey, table, value};
use crate::corefile::{Diagnostic, Diagnostics, Directive, Token};
use crate::wire::Name;

/// Warns about the lines of a configuration that can never have an effect.
pub(crate) fn check(blocks: &[Block], diagnostics: &mut Diagnostics) {
    // A line with a mistake may mean anything; what it hides is not known.
    for block in blocks.iter().filter(|block| block.is_sound) {
        check_block(block, diagnostics);
    }
    check_file(blocks, diagnostics);
    views(blocks, diagnostics);
    uncaught(blocks, diagnostics);
}

fn check_block(block: &Block, diagnostics: &mut Diagnostics) {
    let zones = block.written.zone_names();
    no_answer(block, diagnostics);
    durations_as_zones(block, diagnostics);
    superseded(block, diagnostics);
    rewrites(block, diagnostics);
    without_partner(block, diagnostics);
    pairs(block, "acl", &block.acl, |one, other| one.shadows(other), diagnostics);
    pairs(block, "template", &block.template, |one, other| one.shadows(other), diagnostics);
    pairs(block, "log", &block.log, log::Config::shadows, diagnostics);
    // A rewritten name may be outside of the block's zones, and names outside reach the directives behind `rewrite`.
    // A block without zones has an error.
    if block.rewrite.is_empty() && !zones.is_empty() {
        let lines = block.handler_lines();
        foreign_zones(&lines, &zones, diagnostics);
        behind_an_end(&lines, &zones, diagnostics);
    }
}

/// Warns about lines that count for the whole file and differ from the first of their kind.
fn check_file(blocks: &[Block], diagnostics: &mut Diagnostics) {
    let mut lines = blocks.iter().flat_map(|block| block.written.named("reload"));
    let Some(first) = lines.next() else { return };
    for line in lines.filter(|line| !have_same_words(line, first)) {
        let what = format!("has no effect: the line at {} counts for the whole file", first.at());
        warn(line, what, "write it once", diagnostics);
    }
}

/// Blocks for which an earlier one with the same zone and address leaves no query of a zone.
fn views(blocks: &[Block], diagnostics: &mut Diagnostics) {
    for (number, block) in blocks.iter().enumerate() {
        let mut above = blocks.iter().take(number);
        let Some((zone, first)) = above.find_map(|above| Some((taken(above, block)?, above)))
        else {
            continue;
        };
        let view = block.written.named("view").next();
        let at = view.map_or(&block.written.at, Directive::at).clone();
        let what = format!(
            "no query for {zone} comes here: the block at {} takes them first",
            first.written.at
        );
        let warning = Diagnostic::warning(at, what);
        diagnostics.push(warning.help("write it above that one, or remove it").directive("view"));
    }
}

/// Zones of which some queries fit no block, since all that have the zone, or one around it, are for views.
fn uncaught(blocks: &[Block], diagnostics: &mut Diagnostics) {
    if blocks.iter().any(|block| !block.is_sound) {
        return;
    }
    let mut said: Vec<&ZoneKey> = Vec::new();
    for block in blocks.iter().filter(|block| !block.view.is_empty()) {
        let Some(line) = block.written.named("view").next() else { continue };
        for zone in &block.written.zones {
            let catches = |other: &Block| {
                let takes_all = other.view.first().is_none_or(view::Config::takes_all);
                takes_all
                    && is_bound_as(other, block)
                    && other.written.zones.iter().any(|wider| is_around(wider, zone))
            };
            let is_said = said.iter().any(|said| is_around(said, zone));
            if is_said || blocks.iter().any(catches) {
                continue;
            }
            said.push(zone);
            let what = format!("queries for {} that fit no view of it are refused", zone.name);
            let help = "write a block without a view for them, after those with one";
            warn(line, what, help, diagnostics);
        }
    }
}

/// Whether queries for names of `zone` may come to a block for `wider`.
fn is_around(wider: &ZoneKey, zone: &ZoneKey) -> bool {
    wider.port == zone.port
        && wider.transport == zone.transport
        && zone.name.as_ref().is_within(wider.name.as_ref())
}

/// A zone of which `above` leaves no query to `later`.
fn taken<'b>(above: &Block, later: &'b Block) -> Option<&'b Name> {
    if !above.is_sound || !later.is_sound {
        return None;
    }
    let takes = match (above.view.first(), later.view.first()) {
        // Two without a view are an error.
        (None, None) => false,
        (None, Some(_)) => true,
        (Some(first), None) => first.takes_all(),
        (Some(first), Some(later)) => first.shadows(later),
    };
    let is_same = |one: &ZoneKey, other: &ZoneKey| {
        one.name == other.name && one.port == other.port && one.transport == other.transport
    };
    let mut zones = later.written.zones.iter();
    let zone = zones.find(|zone| above.written.zones.iter().any(|other| is_same(zone, other)))?;
    (takes && is_bound_as(above, later)).then_some(&zone.name)
}

/// Whether `one` listens wherever `other` does.
fn is_bound_as(one: &Block, other: &Block) -> bool {
    let (bound, listens) = (bound_to(one), bound_to(other));
    match listens.is_empty() {
        true => bound.is_empty(),
        false => listens.iter().all(|word| bound.contains(word)),
    }
}

/// The addresses and interfaces of a block's `bind` lines.
fn bound_to(block: &Block) -> Vec<&str> {
    block.written.named("bind").flat_map(|line| &line.args).map(Token::as_str).collect()
}

/// Whether two lines have the same arguments, wherever they were written.
fn have_same_words(one: &Directive, other: &Directive) -> bool {
    one.args.iter().map(Token::as_str).eq(other.args.iter().map(Token::as_str))
}

fn warn(line: &Directive, what: String, help: &str, diagnostics: &mut Diagnostics) {
    let warning = Diagnostic::warning(line.at().clone(), what).help(help);
    diagnostics.push(warning.directive(line.name.as_str()));
}

/// A block that refuses every query.
fn no_answer(block: &Block, diagnostics: &mut Diagnostics) {
    let effect = |line: &Directive| table::find(line.name.as_str()).map(|entry| entry.effect);
    let mut lines = block.written.directives.iter();
    if !block.written.is_complete || lines.any(|line| effect(line) == Some(Effect::Answers)) {
        return;
    }
    let what = "no directive of this server block answers: every query is refused";
    let warning = Diagnostic::warning(block.written.at.clone(), what);
    diagnostics.push(warning.help("add one that does, such as forward"));
}

/// `cache 60s`: the word is taken for a zone.
fn durations_as_zones(block: &Block, diagnostics: &mut Diagnostics) {
    for line in block.written.named("cache") {
        for word in &line.args {
            let text = word.as_str();
            let is_number = text.parse::<u64>().is_ok();
            let Some(time) = value::duration(text).ok().filter(|_| !is_number) else { continue };
            let what = format!("{text:?} is taken for a zone, and only names within it are cached");
            let help = format!("write seconds without a unit: cache {}", time.as_secs().max(1));
            warn(line, what, &help, diagnostics);
        }
    }
}

/// Settings of which the last line of a block counts, and zones that a later `file` line serves.
fn superseded(block: &Block, diagnostics: &mut Diagnostics) {
    for name in ["bufsize", "chaos", "health", "root", "timeouts"] {
        let lines: Vec<&Directive> = block.written.named(name).collect();
        let Some((last, others)) = lines.split_last() else { continue };
        for line in others.iter().filter(|line| !have_same_words(line, last)) {
            let what = format!("has no effect: the line at {} replaces it", last.at());
            warn(line, what, "remove one of them", diagnostics);
        }
    }
    for line in block.written.named("kubernetes") {
        for name in ["topology", "pods", "endpoints", "ttl", "snapshot", "max_staleness"] {
            // `pods node` stands beside the mode of the names of Pods.
            let is_beside = |option: &Directive| {
                name == "pods" && option.args.first().is_some_and(|word| word.as_str() == "node")
            };
            let options = line.options().iter().filter(|option| option.name.as_str() == name);
            let options: Vec<&Directive> = options.filter(|option| !is_beside(option)).collect();
            let Some((last, others)) = options.split_last() else { continue };
            for option in others.iter().filter(|option| !have_same_words(option, last)) {
                let what = format!("has no effect: the line at {} replaces it", last.at());
                warn(option, what, "remove one of them", diagnostics);
            }
        }
    }
    let files: Vec<Line<'_>> = of_plugin(block, Plugin::File);
    for (number, line) in files.iter().enumerate() {
        for zone in line.config.zones() {
            let mut later = files.iter().skip(number + 1);
            let Some(other) = later.find(|other| other.config.zones().contains(&zone)) else {
                continue;
            };
            let what = format!("has no effect for {zone}: {} replaces it", other.written.at());
            warn(line.written, what, "name each zone in one file line only", diagnostics);
        }
    }
}

fn of_plugin(block: &Block, plugin: Plugin) -> Vec<Line<'_>> {
    block.handler_lines().into_iter().filter(|line| line.plugin == plugin).collect()
}

/// Rules that no query is left for.
fn rewrites(block: &Block, diagnostics: &mut Diagnostics) {
    let rules: Vec<_> = block.rewrite.iter().zip(block.written.named("rewrite")).collect();
    for (number, (later, line)) in rules.iter().enumerate() {
        let above = rules.get(..number).unwrap_or_default();
        // A rule that renames lets later ones see another name, so that those above it are no measure.
        let renaming = above.iter().rposition(|(rule, _)| rule.renames());
        let comparable = above.get(renaming.map_or(0, |at| at + 1)..).unwrap_or_default();
        let ending = comparable.iter().find(|(rule, _)| rule.shadows(later));
        let replacing =
            renaming.and_then(|at| above.get(at)).filter(|(rule, _)| rule.replaces(later));
        let Some((_, first)) = ending.or(replacing) else { continue };
        let what = match ending {
            Some(_) => {
                format!("never applies: the rule at {} ends the evaluation first", first.at())
            }
            None => format!("never applies: the rule at {} replaces the name first", first.at()),
        };
        warn(line, what, "move it up, or remove it", diagnostics);
    }
}

/// Lines that work on what other directives do, of which there are none.
fn without_partner(block: &Block, diagnostics: &mut Diagnostics) {
    if !block.written.is_complete {
        return;
    }
    let has = |name: &str| block.written.named(name).next().is_some();
    let fallback = block.kubernetes.iter().any(|config| !config.fallback.is_empty());
    if block.forward.is_empty() && !fallback {
        for line in block.written.named("loop") {
            warn(line, "has no effect: there is no `forward`".into(), "remove it", diagnostics);
        }
    }
    if !has("cache") && !has("hosts") && !has("kubernetes") {
        for line in block.written.named("loadbalance") {
            let what = "has no effect: only `cache`, `hosts` and `kubernetes` rotate addresses";
            warn(line, what.into(), "add `cache`, or remove it", diagnostics);
        }
    }
    let forwards: Vec<_> = block.forward.iter().zip(block.written.named("forward")).collect();
    for (number, (config, line)) in forwards.iter().enumerate() {
        let mut later = forwards.iter().skip(number + 1).flat_map(|(later, _)| &later.from);
        let is_followed = later.any(|zone| config.from.iter().any(|from| are_related(from, zone)));
        let goes_on = !config.next.is_empty() || config.next_on_nodata;
        if goes_on && !is_followed && block.whoami.is_empty() {
            let what = "`next` has no effect: no `forward` for these names follows";
            warn(line, what.into(), "add one below, or remove `next`", diagnostics);
        }
    }
}

/// Lines of one directive of which the first that fits decides.
fn pairs<C>(
    block: &Block,
    name: &str,
    configs: &[C],
    shadows: impl Fn(&C, &C) -> bool,
    diagnostics: &mut Diagnostics,
) {
    let lines: Vec<_> = configs.iter().zip(block.written.named(name)).collect();
    for (number, (later, line)) in lines.iter().enumerate() {
        let mut above = lines.iter().take(number);
        if let Some((_, first)) = above.find(|(config, _)| shadows(config, later)) {
            let what = format!("has no effect: the line at {} decides first", first.at());
            warn(line, what, "write the narrower line first, or remove it", diagnostics);
        }
    }
}

/// Zones that no query of this block can be in.
fn foreign_zones(lines: &[Line<'_>], zones: &[Name], diagnostics: &mut Diagnostics) {
    for line in lines {
        let named = line.config.zones();
        let foreign = named.iter().filter(|zone| !zones.iter().any(|own| are_related(own, zone)));
        for zone in foreign {
            let what =
                format!("no query for {zone} comes here: it is outside of the block's zones");
            let help = "name it in the keys of this server block, or remove it";
            warn(line.written, what, help, diagnostics);
        }
    }
}

/// Lines that answer, behind lines that let nothing through.
fn behind_an_end(lines: &[Line<'_>], zones: &[Name], diagnostics: &mut Diagnostics) {
    for (number, line) in lines.iter().enumerate() {
        if line.effect != Effect::Answers {
            continue;
        }
        let named = line.config.zones();
        // What may arrive here: the narrower of the line's zones and the block's.
        let reached: Vec<&Name> = match named.as_slice() {
            [] => zones.iter().collect(),
            named => narrower(named, zones),
        };
        // Several lines of these are compared with each other by `pairs` and `superseded`.
        let is_compared = matches!(line.plugin, Plugin::Acl | Plugin::Template | Plugin::File);
        let above =
            lines.iter().take(number).filter(|above| !is_compared || above.plugin != line.plugin);
        let ender = |zone: &Name| above.clone().find(|above| above.config.ends(zone));
        let Some(first) = reached.first().and_then(|zone| ender(zone)) else { continue };
        if reached.iter().all(|zone| ender(zone).is_some()) {
            let (name, at) = (first.plugin.name(), first.written.at());
            let what = format!("is never asked: the {name} line at {at} lets no query through");
            let help =
                "write the narrower line first, let the other fall through, or remove this one";
            warn(line.written, what, help, diagnostics);
        }
    }
}

/// Of each pair of related zones, the one that is within the other.
fn narrower<'z>(named: &[&'z Name], zones: &'z [Name]) -> Vec<&'z Name> {
    let mut found = Vec::new();
    for &zone in named {
        if covers(zones, zone) {
            found.push(zone);
        } else {
            found.extend(zones.iter().filter(|own| own.as_ref().is_within(zone.as_ref())));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    /// The warnings on a Corefile, without their advice.
    fn warnings(text: &str) -> Vec<String> {
        let (file, mut diagnostics) = crate::corefile::parse("Corefile", text, &|_| None);
        let blocks = super::super::read(&file, 53, &mut diagnostics);
        super::check(&blocks, &mut diagnostics);
        diagnostics.sort();
        assert!(!diagnostics.has_errors(), "{diagnostics}");
        let shown = diagnostics.to_string();
        shown.lines().map(|line| line.split(';').next().unwrap().to_owned()).collect()
    }

    #[track_caller]
    fn dead(text: &str, expected: &[&str]) {
        let found = warnings(text);
        assert_eq!(found.len(), expected.len(), "{text}\n{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(&format!("Corefile:{expected}")), "{text}\n{found}");
        }
    }

    #[test]
    fn lines_without_effect_are_named() {
        dead(". {\n log\n errors\n}", &["1: warning: no directive of this server block answers"]);
        dead(
            ". {\n cache 3600s\n whoami\n}",
            &["2: warning: cache: \"3600s\" is taken for a zone"],
        );
        dead(
            ". {\n forward . 192.0.2.1\n forward a.org 192.0.2.2\n whoami\n}",
            &[
                "3: warning: forward: is never asked: the forward line at",
                "4: warning: whoami: is never",
            ],
        );
        dead(
            "cluster.local {\n kubernetes cluster.locl {\n objects /x\n }\n}",
            &["2: warning: kubernetes: no query for cluster.locl. comes here"],
        );
        dead(
            "a.org {\n forward b.org 192.0.2.1\n forward . 192.0.2.1\n}",
            &["2: warning: forward: no query for b.org. comes here"],
        );
        dead(
            ". {\n rewrite name exact a b\n rewrite name exact a c\n whoami\n}",
            &["3: warning: rewrite: never applies: the rule at Corefile:2"],
        );
        dead(
            ". {\n acl {\n  allow\n  block net 192.0.2.0/24\n }\n acl a.org {\n  block\n }\n whoami\n}",
            &[
                "4: warning: acl: block: has no effect",
                "6: warning: acl: has no effect: the line at",
            ],
        );
        dead(". {\n acl {\n  block\n }\n whoami\n}", &["5: warning: whoami: is never asked"]);
        dead(
            ". {\n template IN ANY .\n template IN A a.org {\n  answer \"{{ .Name }} 1 IN A 192.0.2.1\"\n }\n}",
            &["3: warning: template: has no effect"],
        );
        dead(
            ". {\n rewrite continue name exact a b\n rewrite name exact a c\n whoami\n}",
            &["3: warning: rewrite: never applies: the rule at Corefile:2 replaces the name"],
        );
        dead(
            ". {\n loop\n loadbalance\n whoami\n}",
            &["2: warning: loop: has", "3: warning: loadb"],
        );
        dead(
            ". {\n forward . 192.0.2.1 {\n  next NXDOMAIN\n }\n}",
            &["2: warning: forward: `next` has no effect"],
        );
        dead(
            ". {\n whoami\n reload 10s\n}\na {\n whoami\n reload 10s\n}\nb {\n whoami\n reload\n}",
            &["11: warning: reload: has no effect"],
        );
        dead(
            "a {\n kubernetes a {\n  objects /x\n }\n file /dev/null a\n}",
            &["5: warning: file: is never asked"],
        );
        dead(". {\n log\n log a.org\n whoami\n}", &["3: warning: log: has no effect"]);
        dead(". {\n bufsize 512\n bufsize\n whoami\n}", &["2: warning: bufsize: has no effect"]);
    }

    #[test]
    fn blocks_whose_queries_others_take_are_named() {
        let number = std::cell::Cell::new(0);
        let view = |key: &str, view: &str, more: &str| {
            number.set(number.get() + 1);
            let view = match view {
                "" => String::new(),
                view => format!(" view v{} {{\n{view} }}\n", number.get()),
            };
            format!("{key} {{\n{view}{more} whoami\n}}\n")
        };
        let (a, all, any) = (" expr do()\n", " expr true\n", "");
        let both = " expr do()\n expr size() < 99\n";
        let told = "warning: view: no query for . comes here: the block at Corefile:1";
        let uncaught = |line: &u32, zone: &str| {
            format!("{line}: warning: view: queries for {zone} that fit no view of it are refused")
        };
        for (blocks, line, alone) in [
            (view(".", any, "") + &view(".", a, ""), Some(5), None),
            (view(".", a, "") + &view(".", a, ""), Some(8), Some(2)),
            (view(".", a, "") + &view(".", both, ""), Some(8), Some(2)),
            (view(".", all, "") + &view(".", any, ""), Some(7), None),
            (view(".", a, " bind ::1 ::2\n") + &view("a .", a, " bind ::2\n"), Some(9), Some(2)),
            (view(".", both, "") + &view(".", a, "") + &view(".", any, ""), None, None),
            (view(".", a, " bind ::1\n") + &view(".", a, " bind ::2\n"), None, Some(2)),
            (view(".", any, "") + &view("a", a, ""), None, None),
            (view(".", any, "") + &view(".:54", a, ""), None, Some(5)),
        ] {
            let taken = line.iter().map(|line: &u32| format!("{line}: {told}"));
            let wanted: Vec<String> =
                alone.iter().map(|line| uncaught(line, ".")).chain(taken).collect();
            dead(&blocks, &wanted.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }

    #[test]
    fn lines_with_an_effect_are_not() {
        for text in [
            ". {\n forward a.org 192.0.2.2\n forward . 192.0.2.1\n}",
            ". {\n forward . 192.0.2.1 {\n  next NXDOMAIN\n }\n forward . 192.0.2.2\n}",
            ". {\n forward . 192.0.2.1 {\n  except a.org\n }\n forward a.org 192.0.2.2\n}",
            ". {\n forward . 192.0.2.1 {\n  except b.a.org\n }\n forward a.org 192.0.2.2\n}",
            "a.org {\n rewrite name suffix a.org b.org\n forward b.org 192.0.2.1\n}",
            ". {\n rewrite continue name exact a b\n rewrite name exact b c\n whoami\n}",
            "a.org b.org {\n cache 30 a.org\n forward . 192.0.2.1\n}",
            ". {\n acl {\n  allow net 192.0.2.0/24\n  block\n }\n forward . 192.0.2.1\n}",
            ". {\n template IN AAAA .\n forward . 192.0.2.1\n}",
            ". {\n log . {\n  class error\n }\n whoami\n}",
            "a {\n kubernetes a {\n  pods insecure\n  pods node n1\n }\n}",
            "a {\n kubernetes a {\n  pods node n1\n  pods verified\n }\n}",
            ". {\n hosts {\n  192.0.2.1 a\n }\n forward . 192.0.2.1\n}",
            "10.0.0.0/8 {\n forward . 192.0.2.1\n cache 30\n}",
        ] {
            dead(text, &[]);
        }
    }
}
