//! The text of a line: a template that is read once and filled in for each query.

use std::fmt::Write;
use std::net::IpAddr;

use crate::clients::Clients;
use crate::cluster::object::ObjectId;
use crate::request::{Outcome, Request, Transport};
use crate::wire::{flags, read_u16};

/// CoreDNS's common log format.
const COMMON: &str = "{remote}:{port} - {>id} \"{type} {class} {name} {proto} {size} {>do} {>bufsize}\" \
                      {rcode} {>rflags} {rsize} {duration}";

/// A line with places to fill in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
    /// `{/LABEL}`: metadata that there is not.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Type,
    Name,
    Class,
    Proto,
    Remote,
    Port,
    Local,
    Size,
    BufSize,
    Do,
    Id,
    Opcode,
    ReplyFlags,
    ReplySize,
    Duration,
    Rcode,
    ClientNamespace,
    ClientPod,
    View,
}

/// A finished query.
pub(super) struct Exchange<'a> {
    pub(super) request: &'a Request<'a>,
    pub(super) outcome: &'a Outcome,
    pub(super) reply: &'a [u8],
    pub(super) micros: u64,
    pub(super) clients: &'a Clients,
    /// The name of the view that it fitted, if that was one.
    pub(super) view: Option<&'a str>,
}

impl Template {
    pub(super) fn common() -> Self {
        Self::parse(COMMON).0
    }

    /// Reads a format; what comes with it are the placeholders that do not exist, which stay as they are.
    pub(super) fn parse(format: &str) -> (Self, Vec<String>) {
        let format = format
            .replace("{combined}", &format!("{COMMON} \"{{>opcode}}\""))
            .replace("{common}", COMMON);
        let (mut parts, mut unknown) = (Vec::new(), Vec::new());
        let mut rest = format.as_str();
        while let Some((before, inside, after)) = split(rest) {
            push_text(&mut parts, before);
            match Field::of(inside) {
                Some(field) => parts.push(Part::Field(field)),
                None if inside.starts_with('/') => parts.push(Part::Nothing),
                None => {
                    let placeholder = format!("{{{inside}}}");
                    push_text(&mut parts, &placeholder);
                    unknown.push(placeholder);
                }
            }
            rest = after;
        }
        push_text(&mut parts, rest);
        (Self(parts), unknown)
    }

    /// Whether a line names the Pod that asks.
    pub(super) fn names_clients(&self) -> bool {
        let names =
            |part: &Part| matches!(part, Part::Field(Field::ClientNamespace | Field::ClientPod));
        self.0.iter().any(names)
    }

    pub(super) fn filled(&self, exchange: &Exchange<'_>) -> String {
        let mut line = String::with_capacity(160);
        for part in &self.0 {
            match part {
                Part::Text(text) => line.push_str(text),
                Part::Field(field) => exchange.write(*field, &mut line),
                Part::Nothing => line.push('-'),
            }
        }
        line
    }
}

impl Field {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "type" => Self::Type,
            "name" => Self::Name,
            "class" => Self::Class,
            "proto" => Self::Proto,
            "remote" => Self::Remote,
            "port" => Self::Port,
            "local" => Self::Local,
            "size" => Self::Size,
            "rsize" => Self::ReplySize,
            "duration" => Self::Duration,
            "rcode" => Self::Rcode,
            ">bufsize" => Self::BufSize,
            ">do" => Self::Do,
            ">id" => Self::Id,
            ">opcode" => Self::Opcode,
            ">rflags" => Self::ReplyFlags,
            "/kubernetes/client-namespace" => Self::ClientNamespace,
            "/kubernetes/client-pod-name" => Self::ClientPod,
            "/view/name" => Self::View,
            _ => return None,
        })
    }
}

impl Exchange<'_> {
    /// Logs all fields under the placeholders' names.
    pub(super) fn write_fields(&self) {
        let query = &self.request.query;
        let origin = &self.request.origin;
        tracing::info!(
            target: super::TARGET,
            remote = %origin.client.ip(),
            port = origin.client.port(),
            local = %origin.local.ip(),
            proto = origin.transport.name(),
            id = query.id(),
            "type" = %query.qtype(),
            class = %query.qclass(),
            name = %query.name(),
            size = query.packet().len(),
            "do" = query.dnssec_ok(),
            bufsize = self.bufsize(),
            rcode = %self.outcome.rcode,
            rflags = self.text(Field::ReplyFlags),
            rsize = self.reply.len(),
            plugin = self.outcome.plugin.name(),
            namespace = self.pod(|id| id.namespace.to_string()),
            pod = self.pod(|id| id.name.to_string()),
            view = self.view,
            duration = self.micros as f64 / 1e6,
        );
    }

    /// What the Pod that asks is called, if it is known.
    fn pod(&self, read: impl FnOnce(&ObjectId) -> String) -> Option<String> {
        self.clients.pod(self.request.origin.client.ip(), |pod| read(&pod.id))
    }

    fn text(&self, field: Field) -> String {
        let mut text = String::new();
        self.write(field, &mut text);
        text
    }

    fn write(&self, field: Field, line: &mut String) {
        let query = &self.request.query;
        let origin = &self.request.origin;
        // A `String` takes everything that is written to it.
        let _ = match field {
            Field::Type => write!(line, "{}", query.qtype()),
            Field::Name => write!(line, "{}", query.name()),
            Field::Class => write!(line, "{}", query.qclass()),
            Field::Proto => write!(line, "{}", origin.transport.name()),
            Field::Remote => write_ip(line, origin.client.ip()),
            Field::Local => write_ip(line, origin.local.ip()),
            Field::Port => write!(line, "{}", origin.client.port()),
            Field::Size => write!(line, "{}", query.packet().len()),
            Field::BufSize => write!(line, "{}", self.bufsize()),
            Field::Do => write!(line, "{}", query.dnssec_ok()),
            Field::Id => write!(line, "{}", query.id()),
            Field::Opcode => write!(line, "{}", (query.flags() & flags::OPCODE) >> 11),
            Field::ReplyFlags => {
                self.write_flags(line);
                Ok(())
            }
            Field::ReplySize => write!(line, "{}", self.reply.len()),
            Field::Duration => write!(line, "{}s", self.micros as f64 / 1e6),
            Field::Rcode => write!(line, "{}", self.outcome.rcode),
            Field::ClientNamespace => self.write_pod(line, |id| id.namespace.to_string()),
            Field::ClientPod => self.write_pod(line, |id| id.name.to_string()),
            Field::View => write!(line, "{}", self.view.unwrap_or("-")),
        };
    }

    /// A dash stands for a client that is unknown, as in CoreDNS.
    fn write_pod(
        &self,
        line: &mut String,
        read: impl FnOnce(&ObjectId) -> String,
    ) -> std::fmt::Result {
        line.push_str(self.pod(read).as_deref().unwrap_or("-"));
        Ok(())
    }

    /// What the client takes: its EDNS size, else the transport's own, as in CoreDNS.
    fn bufsize(&self) -> usize {
        match (self.request.query.edns(), self.request.origin.transport) {
            (Some(edns), _) => edns.udp_payload.into(),
            (None, Transport::Udp) => crate::wire::MIN_UDP_PAYLOAD.into(),
            (None, Transport::Tcp) => crate::wire::MAX_MESSAGE,
        }
    }

    fn write_flags(&self, line: &mut String) {
        const NAMES: [(u16, &str); 7] = [
            (flags::QR, "qr"),
            (flags::AA, "aa"),
            (flags::TC, "tc"),
            (flags::RD, "rd"),
            (flags::RA, "ra"),
            (flags::AD, "ad"),
            (flags::CD, "cd"),
        ];
        let word = read_u16(self.reply, 2).unwrap_or(0);
        let set = NAMES.iter().filter(|(mask, _)| word & mask != 0);
        let mut separator = "";
        for (_, name) in set {
            line.push_str(separator);
            line.push_str(name);
            separator = ",";
        }
        if separator.is_empty() {
            line.push('-');
        }
    }
}

/// IPv6 addresses in brackets, so that a port can follow.
fn write_ip(line: &mut String, ip: IpAddr) -> std::fmt::Result {
    match ip {
        IpAddr::V4(ip) => write!(line, "{ip}"),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => write!(line, "{ip}"),
            None => write!(line, "[{ip}]"),
        },
    }
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        Some(Part::Text(before)) => before.push_str(text),
        _ if text.is_empty() => {}
        _ => parts.push(Part::Text(text.to_owned())),
    }
}

/// The text before, in and after the first pair of braces.
fn split(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('{')?;
    let (inside, after) = rest.split_once('}')?;
    Some((before, inside, after))
}
