//! `whoami`: tells the client its own address and port, in the additional section, as CoreDNS does.

use std::net::IpAddr;

use crate::chain::{Handler, Local};
use crate::config::{Args, no_block};
use crate::corefile::Directive;
use crate::plugin::directive::{BuildContext, BuildHandler, ReadContext, ReadDirective};
use crate::request::{Outcome, Plugin, Request, Step};
use crate::wire::{NameBuf, Owner, Rcode, RecordType, Reply, Section, flags};

/// The directive, which has neither arguments nor options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config;

/// Answers every query.
pub struct Whoami;

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        Args::of(directive, cx.diagnostics).end();
        no_block(directive, cx.diagnostics);
        Self
    }
}

impl BuildHandler for Config {
    fn build(_: Vec<Self>, cx: &mut BuildContext<'_>) -> anyhow::Result<()> {
        cx.push(Whoami);
        Ok(())
    }
}

impl Handler for Whoami {
    fn plugin(&self) -> Plugin {
        Plugin::Whoami
    }

    fn serve(&self, request: &Request<'_>, reply: &mut Reply<'_>, _: &mut Local) -> Step {
        let client = request.origin.client;
        reply.set_flags(flags::AA, true);
        match client.ip() {
            IpAddr::V4(ip) => {
                reply.record(Section::Additional, Owner::Question, RecordType::A, 0, &ip.octets())
            }
            IpAddr::V6(ip) => reply.record(
                Section::Additional,
                Owner::Question,
                RecordType::AAAA,
                0,
                &ip.octets(),
            ),
        };
        let mut owner = NameBuf::new();
        let protocol = format!("_{}", request.origin.transport.name());
        if owner
            .push_label(protocol.as_bytes())
            .and_then(|()| owner.push_name(request.query.name_as_asked()))
            .is_ok()
        {
            let port = client.port().to_be_bytes();
            let srv = [0, 0, 0, 0, port[0], port[1], 0];
            reply.record(
                Section::Additional,
                Owner::Name(owner.as_name()),
                RecordType::SRV,
                0,
                &srv,
            );
        }
        Step::Done(Outcome::new(Plugin::Whoami, Rcode::NOERROR))
    }
}
