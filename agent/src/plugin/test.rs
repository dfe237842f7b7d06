//! What the tests of the plugins share.

use crate::clock::Tick;
use crate::config::ServerBlock;
use crate::corefile::{Diagnostics, Directive};
use crate::request::{Origin, Request, Transport};
use crate::wire::query::write_query;
use crate::wire::{Class, Name, Query, RecordType, flags};

/// Parses one directive as the second line of a Corefile; what comes back is the result and all diagnostics.
#[track_caller]
pub(crate) fn parsed<T>(
    text: &str,
    parse: impl FnOnce(&Directive, &mut Diagnostics) -> T,
) -> (T, String) {
    let (mut file, mut diagnostics) =
        crate::corefile::parse("Corefile", &format!(". {{\n{text}\n}}"), &|_| None);
    assert!(diagnostics.is_empty(), "{diagnostics}");
    let directive = file.blocks.remove(0).directives.remove(0);
    let result = parse(&directive, &mut diagnostics);
    (result, diagnostics.to_string())
}

/// A server block of these zones, without directives.
pub(crate) fn block(zones: &str) -> ServerBlock {
    let (file, mut diagnostics) =
        crate::corefile::parse("Corefile", &format!("{zones} {{\n whoami\n}}"), &|_| None);
    let block = crate::config::read(&file, 53, &|_| true, &mut diagnostics).remove(0);
    assert!(diagnostics.is_empty(), "{diagnostics}");
    block
}

/// Shows a query for `name`'s addresses, from 192.0.2.7 over UDP.
pub(crate) fn request<T>(name: &str, show: impl FnOnce(&Request<'_>) -> T) -> T {
    request_of(name, RecordType::A, show)
}

/// As [`request`], for any type.
pub(crate) fn request_of<T>(
    name: &str,
    qtype: RecordType,
    show: impl FnOnce(&Request<'_>) -> T,
) -> T {
    let mut packet = Vec::new();
    let name = Name::from_text(name).unwrap();
    write_query(&mut packet, 7, flags::RD, name.as_ref(), qtype, Class::IN, None);
    show(&Request {
        query: Query::parse(&packet).unwrap(),
        origin: Origin {
            client: "192.0.2.7:4242".parse().unwrap(),
            local: "10.0.0.10:53".parse().unwrap(),
            transport: Transport::Udp,
            worker: 0,
            received: Tick::default(),
        },
    })
}
