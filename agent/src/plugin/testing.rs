//! What the tests of several directives have in common: directives read from text, chains of handlers asked as a client
//! asks, and answers as lines of text.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::chain::{Chain, Handler, Local};
use crate::clock::CoarseInstant;
use crate::config::ServerBlock;
use crate::corefile::{Diagnostics, Directive};
use crate::plugin::pattern::NameText;
use crate::request::{Origin, Outcome, Plugin, Request, Step, Transport};
use crate::server::Dispatch;
use crate::server::answer::{Disposition, answer};
use crate::wire::query::write_query;
use crate::wire::{
    Class, Compressor, Message, Name, Query, Rcode, Record, RecordType, Reply, Section, flags, text,
};

/// The first directive of a server block for `example.org` that holds `text`.
pub fn directive(text: &str) -> Directive {
    let text = format!("example.org {{\n{text}\n}}\n");
    let (mut file, diagnostics) = crate::corefile::parse("Corefile", &text, &|_| None);
    assert!(!diagnostics.has_errors(), "{diagnostics}");
    file.blocks.remove(0).directives.remove(0)
}

/// What `parse` makes of the directive in `text`, in a block for `example.org`.
pub fn parsed<C>(text: &str, parse: fn(&Directive, &[Name], &mut Diagnostics) -> C) -> C {
    let (config, diagnostics) = complaints(text, parse);
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
    config
}

/// As [`parsed`], with what is wrong, one line each.
pub fn complaints<C>(
    text: &str,
    parse: fn(&Directive, &[Name], &mut Diagnostics) -> C,
) -> (C, Vec<String>) {
    let mut diagnostics = Diagnostics::default();
    let zones = [Name::from_text("example.org").unwrap()];
    let config = parse(&directive(text), &zones, &mut diagnostics);
    (config, diagnostics.to_string().lines().map(str::to_owned).collect())
}

/// Parses one directive as the second line of a Corefile; what comes back is the result and all diagnostics.
#[track_caller]
pub fn read<T>(text: &str, parse: impl FnOnce(&Directive, &mut Diagnostics) -> T) -> (T, String) {
    let (mut file, mut diagnostics) =
        crate::corefile::parse("Corefile", &format!(". {{\n{text}\n}}"), &|_| None);
    assert!(diagnostics.is_empty(), "{diagnostics}");
    let directive = file.blocks.remove(0).directives.remove(0);
    let result = parse(&directive, &mut diagnostics);
    (result, diagnostics.to_string())
}

/// A server block of these zones, without directives.
pub fn block(zones: &str) -> ServerBlock {
    let (file, mut diagnostics) =
        crate::corefile::parse("Corefile", &format!("{zones} {{\n whoami\n}}"), &|_| None);
    let block = crate::config::read(&file, 53, &mut diagnostics).remove(0);
    assert!(diagnostics.is_empty(), "{diagnostics}");
    block
}

/// Shows a query for `name`'s addresses, from 192.0.2.7 over UDP.
pub fn request<T>(name: &str, show: impl FnOnce(&Request<'_>) -> T) -> T {
    request_of(name, RecordType::A, show)
}

/// As [`request`], for any type.
pub fn request_of<T>(name: &str, qtype: RecordType, show: impl FnOnce(&Request<'_>) -> T) -> T {
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
            received: CoarseInstant::now(),
        },
    })
}

/// Answers with fixed records: those whose owner and type were asked for, and CNAMEs; NXDOMAIN where there are none. Can
/// be made to wait first, as `forward` does.
pub struct Fixed {
    records: Vec<(Section, Record)>,
    waits: bool,
}

impl Fixed {
    /// Records in text, one a line.
    pub fn new(records: &str) -> Arc<Self> {
        Arc::new(Self { records: Self::read(records), waits: false })
    }

    /// The same, but never at once.
    pub fn waiting(records: &str) -> Arc<Self> {
        Arc::new(Self { records: Self::read(records), waits: true })
    }

    fn read(records: &str) -> Vec<(Section, Record)> {
        let section = |line: &str| match line.split_once(' ') {
            Some(("authority", rest)) => (Section::Authority, text::record(rest).unwrap()),
            Some(("additional", rest)) => (Section::Additional, text::record(rest).unwrap()),
            _ => (Section::Answer, text::record(line).unwrap()),
        };
        records.lines().map(str::trim).filter(|line| !line.is_empty()).map(section).collect()
    }

    fn write(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Outcome {
        let query = &request.query;
        let (mut found, mut names) = (false, Compressor::new());
        for (section, record) in &self.records {
            let asked = record.owner.as_ref() == query.name()
                && (record.rtype == query.qtype() || record.rtype == RecordType::CNAME);
            found |= record.owner.as_ref() == query.name();
            if asked || *section != Section::Answer {
                reply.compressed(&mut names, *section, &record.as_ref());
            }
        }
        reply.set_flags(flags::AA, true);
        reply.set_rcode(if found { Rcode::NOERROR } else { Rcode::NXDOMAIN });
        Outcome::new(Plugin::Hosts, reply.rcode())
    }
}

impl Handler for Fixed {
    fn plugin(&self) -> Plugin {
        Plugin::Hosts
    }

    fn serve(&self, request: &Request<'_>, reply: &mut Reply<'_>, _: &mut Local) -> Step {
        if self.waits { Step::Wait } else { Step::Done(self.write(request, reply)) }
    }

    fn resolve<'a>(
        &'a self,
        request: &'a crate::request::OwnedRequest,
        _: crate::chain::Next<'a>,
    ) -> crate::request::Resolving<'a> {
        Box::pin(async move {
            let view = request.view().unwrap();
            crate::request::Answer::written(&view, |reply| self.write(&view, reply))
        })
    }
}

/// A client of one chain.
pub struct Client {
    dispatch: Arc<Dispatch>,
    /// Whom the queries come from.
    pub from: SocketAddr,
    /// The query's flags.
    pub flags: u16,
    /// EDNS: size and DO.
    pub edns: Option<(u16, bool)>,
    /// The query's class.
    pub class: Class,
}

/// What a client gets.
#[derive(Debug)]
pub struct Got {
    /// The message.
    pub message: Message,
}

impl Client {
    /// Of a chain for all names.
    pub fn new(handlers: Vec<Arc<dyn Handler>>) -> Self {
        let chain = Chain::new(Name::root(), "dns://:53".into(), handlers, 1);
        Self {
            dispatch: Arc::new(Dispatch::new(vec![Arc::new(chain)])),
            from: "10.0.0.9:5353".parse().unwrap(),
            flags: flags::RD,
            edns: None,
            class: Class::IN,
        }
    }

    /// Asks; `None` is silence.
    pub fn ask(&self, name: &str, qtype: RecordType) -> Option<Got> {
        let name = Name::from_text(name).unwrap();
        let mut packet = Vec::new();
        write_query(&mut packet, 4242, self.flags, name.as_ref(), qtype, self.class, self.edns);
        let origin = Origin {
            client: self.from,
            local: "10.0.0.10:53".parse().unwrap(),
            transport: Transport::Udp,
            worker: 0,
            received: CoarseInstant::now(),
        };
        let mut out = Vec::new();
        match answer(&packet, origin, &self.dispatch, &mut Local::new(0), &mut out) {
            Disposition::Drop => return None,
            Disposition::Reply => {}
            Disposition::Pending(reply, request) => {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let answer = runtime.block_on(reply.resolve());
                if !reply.write(&request, &answer, Instant::now(), &mut out) {
                    return None;
                }
            }
        }
        Some(Got { message: Message::from_received(out).unwrap() })
    }

    /// The response code, a space and the answer section's records, joined by `; `.
    pub fn text(&self, name: &str, qtype: RecordType) -> String {
        self.ask(name, qtype).map_or_else(|| "silence".to_owned(), |got| got.text())
    }
}

impl Got {
    /// See [`Client::text`]; records of other sections have `authority` or `additional` before them.
    pub fn text(&self) -> String {
        let records = Record::all_of(&self.message).unwrap();
        let lines: Vec<String> = records
            .iter()
            .map(|(section, record)| match section {
                Section::Answer => line(record),
                Section::Authority => format!("authority {}", line(record)),
                Section::Additional => format!("additional {}", line(record)),
            })
            .collect();
        format!("{} {}", self.message.rcode(), lines.join("; ")).trim_end().to_owned()
    }

    /// The header's flags.
    pub fn flags(&self) -> u16 {
        self.message.layout().flags
    }
}

fn line(record: &Record) -> String {
    let owner = NameText::of(record.owner.as_ref());
    let data = match (record.rtype, &*record.rdata) {
        (RecordType::A, [a, b, c, d]) => format!("{a}.{b}.{c}.{d}"),
        (RecordType::AAAA, octets) => {
            <[u8; 16]>::try_from(octets).map(std::net::Ipv6Addr::from).unwrap().to_string()
        }
        (RecordType::TXT | RecordType::HINFO, octets) => {
            String::from_utf8_lossy(octets).into_owned()
        }
        _ => record.target().map(|target| target.to_string()).unwrap_or_default(),
    };
    format!("{} {} {} {data}", owner.as_str(), record.ttl, record.rtype)
}
