//! ExternalName Services: a CNAME, and its target resolved by whoever serves it.

use super::ask::Ask;
use super::{Content, Kubernetes, Verdict};
use crate::cluster::index::group::Kind;
use crate::request::{Answer, MAX_DEPTH, Outcome, OwnedRequest, Plugin, Request, ede};
use crate::wire::query::write_query;
use crate::wire::{
    Class, MAX_UDP_PAYLOAD, Message, Name, NameBuf, NameRef, Owner, Rcode, RecordType, Reply,
    Section, flags,
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

    fn write_cname(&self, target: NameRef<'_>, reply: &mut Reply<'_>) -> bool {
        reply.record(
            Section::Answer,
            Owner::Question,
            RecordType::CNAME,
            self.view.ttl,
            target.as_bytes(),
        )
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
        let target = self.target.as_ref();
        let failure = |code: u16, error: String| {
            Answer::failure(view, Plugin::Kubernetes, Rcode::SERVFAIL, code, &error)
        };
        if request.depth >= MAX_DEPTH {
            return failure(
                ede::OTHER,
                format!(
                    "ExternalName Services lead to each other in a circle, to {target} at last"
                ),
            );
        }
        let qtype = view.query.qtype();
        let Some(chain) = request.dispatch.find(target, qtype) else {
            return failure(
                ede::OTHER,
                format!("no server block serves {target}, which an ExternalName Service leads to"),
            );
        };
        let mut packet = Vec::with_capacity(64);
        let word = flags::RD | view.query.flags() & flags::CD;
        let edns = Some((MAX_UDP_PAYLOAD, view.query.dnssec_ok()));
        write_query(&mut packet, view.query.id(), word, target, qtype, Class::IN, edns);
        let inner = request.inner(packet);
        let answer = chain.resolve(&inner).await;
        self.merge(kubernetes, view, &answer)
    }

    fn merge(&self, kubernetes: &Kubernetes, view: &Request<'_>, answer: &Answer) -> Answer {
        let message = &answer.message;
        let rcode = message.rcode();
        let nothing = message.layout().section(Section::Answer).next().is_none();
        let merged = Answer::written(view, |reply| {
            reply.set_flags(flags::AA, true);
            if self.ours && nothing && rcode == Rcode::NOERROR {
                // As CoreDNS: where a target of ours has no such record, the alias has none either.
                if let Some((_, cut)) = kubernetes.zone_of(view.query.name()) {
                    kubernetes.write_soa(
                        Section::Authority,
                        &Ask::new(&view.query, cut),
                        view,
                        reply,
                    );
                }
                return Outcome::new(Plugin::Kubernetes, Rcode::NOERROR);
            }
            reply.set_rcode(rcode);
            reply.push_options(message.options());
            kubernetes.write_cname(self.target.as_ref(), reply);
            copy_records(message, Section::Answer, reply);
            if rcode == Rcode::NXDOMAIN {
                // The SOA says how long the denial holds (RFC 2308 section 5); the code is the target's (RFC 6604).
                copy_records(message, Section::Authority, reply);
            }
            Outcome::new(Plugin::Kubernetes, rcode)
        });
        Answer { error: answer.error.clone(), ..merged }
    }
}

/// Copies the records of one section, names expanded, since pointers in them lead to where they came from.
fn copy_records(message: &Message, section: Section, reply: &mut Reply<'_>) {
    let bytes = message.as_bytes();
    for record in message.layout().section(section) {
        let Ok(owner) = record.owner(bytes) else { continue };
        let start = usize::from(record.ttl_at) + 6;
        let names = match record.rtype {
            RecordType::CNAME | RecordType::NS | RecordType::PTR | RecordType::DNAME => 1,
            RecordType::SOA => 2,
            _ => 0,
        };
        let mut rdata = Vec::with_capacity(64);
        let mut at = start;
        for _ in 0..names {
            let Ok((name, next)) = NameBuf::expand(bytes, at) else { return };
            rdata.extend_from_slice(name.as_name().as_bytes());
            at = next;
        }
        rdata.extend_from_slice(bytes.get(at..record.end.into()).unwrap_or(&[]));
        let owner = Owner::Name(owner.as_name());
        if !reply.record_of(section, owner, record.rtype, record.class, record.ttl, &rdata) {
            return;
        }
    }
}
