//! `minimal`: answers without what was not asked for.
//!
//! Every query becomes a task, since only the finished answer shows what can go.

use std::sync::Arc;

use crate::chain::{Handler, Local, Next, Resolving};
use crate::config::{Args, no_block};
use crate::corefile::{Diagnostics, Directive};
use crate::request::{Answer, OwnedRequest, Plugin, Request, Step};
use crate::wire::{Message, Name, Rcode, Record, RecordType, Reply, Section, record};

/// The directive has no arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config;

/// Takes the authority and the additional section away where there are answers, and the additional section where there
/// are none, but for referrals, which need it.
#[derive(Clone, Copy, Debug)]
pub struct Minimal;

impl Config {
    /// Reads the directive.
    pub fn parse(directive: &Directive, _: &[Name], diagnostics: &mut Diagnostics) -> Self {
        Args::of(directive, diagnostics).end();
        no_block(directive, diagnostics);
        Self
    }
}

impl Handler for Minimal {
    fn plugin(&self) -> Plugin {
        Plugin::Minimal
    }

    fn serve(&self, _: &Request<'_>, _: &mut Reply<'_>, _: &mut Local) -> Step {
        Step::Wait
    }

    fn resolve<'a>(&'a self, request: &'a OwnedRequest, next: Next<'a>) -> Resolving<'a> {
        Box::pin(async move {
            let answer = next.resolve(request).await;
            match shortened(request, &answer.message) {
                Some(message) => Answer { message: Arc::new(message), ..answer },
                None => answer,
            }
        })
    }
}

/// The message without its optional sections; `None` where it has none.
fn shortened(request: &OwnedRequest, message: &Message) -> Option<Message> {
    let layout = message.layout();
    let any = |section, rtype| {
        let wanted = |found| rtype == RecordType::ANY || found == rtype;
        layout.records.iter().any(|at| at.section == section && wanted(at.rtype))
    };
    let answered = message.rcode() == Rcode::NOERROR && any(Section::Answer, RecordType::ANY);
    let referral =
        any(Section::Authority, RecordType::NS) && !any(Section::Authority, RecordType::SOA);
    if !answered && referral {
        return None;
    }
    let last = if answered { Section::Answer } else { Section::Authority };
    if layout.records.last().is_none_or(|at| at.section <= last) {
        return None;
    }
    let view = request.view().ok()?;
    let mut records = Record::all_of(message).ok()?;
    records.retain(|(section, _)| *section <= last);
    Some(record::rebuild(&view.query, message, &records))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::testing::{Client, Fixed};

    #[test]
    fn optional_sections_go() {
        let records =
            "a.org. 5 A 1.1.1.1\nauthority org. 5 NS ns.org.\nadditional ns.org. 5 A 1.1.1.2";
        let client = Client::new(vec![Arc::new(Minimal), Fixed::new(records)]);
        assert_eq!(client.text("a.org", RecordType::A), "NOERROR a.org. 5 A 1.1.1.1");
        let referral = "NOERROR authority org. 5 NS ns.org.; additional ns.org. 5 A 1.1.1.2";
        assert_eq!(client.text("a.org", RecordType::MX), referral);
        let records = "authority org. 5 SOA a. b. 1 1 1 1 1\nadditional ns.org. 5 A 1.1.1.2";
        let client = Client::new(vec![Arc::new(Minimal), Fixed::waiting(records)]);
        assert_eq!(client.text("a.org", RecordType::A), "NXDOMAIN authority org. 5 SOA a.");
    }
}
