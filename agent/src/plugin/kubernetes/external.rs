//! ExternalName Services: a CNAME, and its target resolved by whoever serves it.

use super::ask::Ask;
use super::{Content, Kubernetes, Verdict};
use crate::cluster::index::group::Kind;
use crate::plugin::lookup::{Parts, lookup};
use crate::request::{Answer, Outcome, OwnedRequest, Plugin, Request};
use crate::wire::{
    Class, Message, Name, NameRef, Owner, Rcode, Record, RecordType, Reply, Section, flags,
};

/// An ExternalName Service that was asked for addresses.
pub(super) struct External {
    target: Name,
    /// True where the target is a name that the same directive answers.
    ours: bool,
}

impl Kubernetes {
    /// The answer at an ExternalName Service itself: a CNAME where that is asked for, and the chase where addresses are.
    pub(super) fn external_name(
        &self,
        ask: &Ask<'_>,
        target: NameRef<'_>,
        reply: &mut Reply<'_>,
    ) -> Verdict {
        match ask.qtype {
            _ if ask.count() != 3 => Verdict::NoName,
            RecordType::A | RecordType::AAAA => Verdict::Chase,
            RecordType::CNAME => {
                self.write_cname(target, reply);
                Verdict::Answered
            }
            _ => Verdict::NoData,
        }
    }

    /// The ExternalName Service that a query for addresses asks for, if it is one.
    pub(super) fn external(&self, request: &Request<'_>) -> Option<External> {
        let query = &request.query;
        let (zone, cut) = self.zone_of(query.name())?;
        let ask = Ask::new(query, cut);
        let addresses = matches!(ask.qtype, RecordType::A | RecordType::AAAA);
        let service =
            ask.count() == 3 && ask.above_zone(0) == b"svc" && self.is_exposed(ask.above_zone(1));
        if !addresses
            || !service
            || zone.content == Content::Addresses
            || query.qclass() != Class::IN
        {
            return None;
        }
        let target =
            self.index.group(ask.service_key(), zone.content == Content::Imports, |group| {
                match &group.service.as_ref()?.kind {
                    Kind::ExternalName(name) => Some(name.clone()),
                    _ => None,
                }
            })??;
        let ours = self
            .zone_of(target.as_ref())
            .is_some_and(|(zone, _)| zone.content != Content::Addresses);
        Some(External { target, ours })
    }

    fn write_cname(&self, target: NameRef<'_>, reply: &mut Reply<'_>) {
        let (owner, ttl) = (Owner::Question, self.view.ttl);
        reply.record(Section::Answer, owner, RecordType::CNAME, ttl, target.as_bytes());
    }
}

impl External {
    /// Resolves the target by the server block that serves it, and puts its records behind the CNAME.
    pub(super) async fn resolve(
        self,
        kubernetes: &Kubernetes,
        request: &OwnedRequest,
        view: &Request<'_>,
    ) -> Answer {
        let qtype = view.query.qtype();
        let found = lookup(request, Plugin::Kubernetes, self.target.as_ref(), qtype).await;
        if self.ours && found.as_ref().is_some_and(|found| is_empty(&found.message)) {
            return kubernetes.no_data(view);
        }
        let alias = Record {
            owner: view.query.name().to_name(),
            rtype: RecordType::CNAME,
            class: Class::IN,
            ttl: kubernetes.view.ttl,
            rdata: self.target.as_bytes().into(),
        };
        let mut parts = Parts::of_alias(Plugin::Kubernetes, alias);
        parts.append_target(qtype, found);
        parts.into_answer(view)
    }
}

impl Kubernetes {
    /// As CoreDNS: where a target of ours has no such record, the alias has none either.
    fn no_data(&self, view: &Request<'_>) -> Answer {
        Answer::written(view, |reply| {
            reply.set_flags(flags::AA, true);
            if let Some((_, cut)) = self.zone_of(view.query.name()) {
                self.write_soa(Section::Authority, &Ask::new(&view.query, cut), view, reply);
            }
            Outcome::new(Plugin::Kubernetes, Rcode::NOERROR)
        })
    }
}

/// NOERROR without any answer.
fn is_empty(message: &Message) -> bool {
    message.rcode() == Rcode::NOERROR && message.layout().section(Section::Answer).next().is_none()
}
