//! `template`: answers that are made of the question.
//!
//! What is known when the configuration is read is prepared then: a record whose owner is `.Name` and whose data are
//! constant is copied into the reply, without any text being put together or read.

mod config;
mod expand;

pub use config::Config;
use config::{Entry, Prepared};
use expand::Data;

use crate::chain::{Handler, Local, Next};
use crate::corefile::Directive;
use crate::metrics::{Counter, Scrape, names};
use crate::plugin::directive::{BuildContext, BuildHandler, ReadContext, ReadDirective};
use crate::plugin::lookup::follow;
use crate::plugin::pattern::NameText;
use crate::request::Resolving;
use crate::request::{Answer, Outcome, OwnedRequest, Plugin, Request, Step, ede};
use crate::wire::{
    Class, Compressor, Name, Owner, Rcode, Record, RecordType, Reply, Section, flags, text,
};

/// All `template` directives of a server block, in the order in which they were written.
#[derive(Debug)]
pub struct Template {
    templates: Vec<Config>,
}

/// What a query comes to.
enum Found<'t> {
    /// No template is for it.
    Nothing,
    /// A template is for its zone, class and type, no expression matches, and the name does not fall through.
    Unmatched,
    /// This one, with the number of the expression that matched.
    Matched(&'t Config, Option<usize>),
}

/// A record that a template did not give, and where that is counted.
struct Failed<'e> {
    count: &'e Counter,
    error: String,
}

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        Self::parse(directive, cx.zones, cx.diagnostics)
    }

    fn zones(&self) -> Vec<&Name> {
        self.zones.iter().collect()
    }

    fn ends(&self, zone: &Name) -> bool {
        self.is_for_every_type() && self.passes_nothing(zone)
    }
}

impl BuildHandler for Config {
    fn build(lines: Vec<Self>, cx: &mut BuildContext<'_>) -> anyhow::Result<()> {
        cx.push(Template::new(lines));
        Ok(())
    }
}

impl Template {
    /// A handler for these directives.
    pub fn new(templates: Vec<Config>) -> Self {
        Self { templates }
    }

    fn find(&self, request: &Request<'_>, name: &mut Option<NameText>) -> Found<'_> {
        let query = &request.query;
        for template in &self.templates {
            if !template.is_for(query.qclass(), query.qtype())
                || template.zones.find(query.name()).is_none()
            {
                continue;
            }
            if template.matches.is_empty() {
                return Found::Matched(template, None);
            }
            let name = name.get_or_insert_with(|| NameText::of(query.name()));
            match template.matches.iter().position(|regex| regex.is_match(name.as_str())) {
                Some(number) => return Found::Matched(template, Some(number)),
                None if template.fallthrough.passes(query.name()) => {}
                None => return Found::Unmatched,
            }
        }
        Found::Nothing
    }
}

impl Handler for Template {
    fn plugin(&self) -> Plugin {
        Plugin::Template
    }

    fn serve(&self, request: &Request<'_>, reply: &mut Reply<'_>, local: &mut Local) -> Step {
        let mut name = None;
        match self.find(request, &mut name) {
            Found::Nothing => Step::Next,
            Found::Unmatched => {
                reply.set_rcode(Rcode::SERVFAIL);
                Step::Done(Outcome::new(Plugin::Template, Rcode::SERVFAIL))
            }
            Found::Matched(template, number) => {
                if template.follows_alias(request.query.qtype()) {
                    return Step::Wait;
                }
                match template.write(request, number, name.as_ref(), reply) {
                    Ok(outcome) => {
                        template.matched.add(u64::from(!local.is_dry));
                        Step::Done(outcome)
                    }
                    // Once more in a task, from where it gets to the log.
                    Err(_) => {
                        reply.reset();
                        Step::Wait
                    }
                }
            }
        }
    }

    fn collect(&self, server: &str, view: &str, out: &mut Scrape) {
        self.templates.iter().for_each(|template| template.collect(server, view, out));
    }

    fn resolve<'a>(&'a self, request: &'a OwnedRequest, next: Next<'a>) -> Resolving<'a> {
        Box::pin(async move {
            let Ok(view) = request.view() else { return Answer::unreadable() };
            let mut name = None;
            let Found::Matched(template, number) = self.find(&view, &mut name) else {
                return next.resolve(request).await;
            };
            let counts = u64::from(request.trace.is_none());
            template.matched.add(counts);
            let mut failure = None;
            let answer = Answer::written(&view, |reply| {
                template.write(&view, number, name.as_ref(), reply).unwrap_or_else(|error| {
                    error.count(counts);
                    failure = Some(error);
                    Outcome::new(Plugin::Template, Rcode::SERVFAIL)
                })
            });
            if let Some(Failed { error, .. }) = failure {
                let error = format!("the template at {} gives no record: {error}", template.at);
                return Answer::failure(
                    &view,
                    Plugin::Template,
                    Rcode::SERVFAIL,
                    ede::OTHER,
                    &error,
                );
            }
            follow(request, &view, answer).await
        })
    }
}

impl Config {
    fn is_for(&self, class: Class, qtype: RecordType) -> bool {
        (self.class == class || self.class == Class::ANY || class == Class::ANY)
            && (self.qtype == qtype || self.qtype == RecordType::ANY || qtype == RecordType::ANY)
    }

    /// True where an alias may be among the answers, whose target is then asked for.
    fn follows_alias(&self, qtype: RecordType) -> bool {
        !matches!(qtype, RecordType::CNAME | RecordType::ANY)
            && self.answer.iter().any(|entry| entry.may_be_alias)
    }

    fn write(
        &self,
        request: &Request<'_>,
        number: Option<usize>,
        name: Option<&NameText>,
        reply: &mut Reply<'_>,
    ) -> Result<Outcome, Failed<'_>> {
        let query = &request.query;
        reply.set_flags(flags::AA, true);
        reply.set_rcode(self.rcode);
        if let Some((code, text)) = &self.error {
            reply.extended_error(*code, text);
        }
        let sections = [
            (Section::Answer, &self.answer),
            (Section::Authority, &self.authority),
            (Section::Additional, &self.additional),
        ];
        let (mut own, mut names) = (None, None);
        for (section, entries) in sections {
            for entry in entries {
                if let Some(Prepared { rtype, class, ttl, rdata }) = &entry.prepared {
                    reply.record_of(section, Owner::Question, *rtype, *class, *ttl, rdata);
                    continue;
                }
                let name = match name {
                    Some(name) => name,
                    None => own.get_or_insert_with(|| NameText::of(query.name())),
                };
                let record = self.expand(request, entry, number, name.as_str())?;
                let names = names.get_or_insert_with(Compressor::new);
                reply.compressed(names, section, &record.as_ref());
            }
        }
        Ok(Outcome::new(Plugin::Template, self.rcode))
    }

    fn collect(&self, server: &str, view: &str, out: &mut Scrape) {
        let zones: Vec<String> = self.zones.iter().map(ToString::to_string).collect();
        let (zones, class, qtype) =
            (zones.join(","), self.class.to_string(), self.qtype.to_string());
        let labels = [server, &*zones, view, &*class, &*qtype];
        out.count(&names::TEMPLATE_MATCHES, &labels, self.matched.value());
        let sections = [
            ("answer", &self.answer),
            ("authority", &self.authority),
            ("additional", &self.additional),
        ];
        for (section, entry) in sections
            .iter()
            .flat_map(|(name, entries)| entries.iter().map(move |entry| (name, entry)))
        {
            for (family, count) in [
                (&names::TEMPLATE_FAILURES, &entry.failures),
                (&names::TEMPLATE_RR_FAILURES, &entry.rr_failures),
            ] {
                if count.value() > 0 {
                    let [server, zones, view, class, qtype] = labels;
                    let labels = [server, zones, view, class, qtype, section, &*entry.source];
                    out.count(family, &labels, count.value());
                }
            }
        }
    }

    fn expand<'e>(
        &self,
        request: &Request<'_>,
        entry: &'e Entry,
        number: Option<usize>,
        name: &str,
    ) -> Result<Record, Failed<'e>> {
        let query = &request.query;
        let groups = number
            .and_then(|number| self.matches.get(number))
            .and_then(|regex| regex.captures(name));
        let zone =
            self.zones.find(query.name()).map_or_else(|| ".".to_owned(), ToString::to_string);
        let data = Data {
            name,
            zone: &zone,
            class: query.qclass(),
            qtype: query.qtype(),
            remote: request.origin.client.ip(),
            id: query.id(),
            groups: groups.as_ref(),
        };
        let failed = |count, error| Failed { count, error };
        let expanded = entry.text.expand(&data);
        let expanded = expanded.map_err(|error| failed(&entry.failures, error.to_string()))?;
        text::record(&expanded)
            .map_err(|error| failed(&entry.rr_failures, format!("{expanded:?}: {error}")))
    }
}

impl Failed<'_> {
    fn count(&self, n: u64) {
        self.count.add(n);
    }
}

#[cfg(test)]
mod tests;
