//! The text of a line, and of the `extra` of `dnstap`: a template that is read once and filled in for each query.

use std::fmt::Write;
use std::net::IpAddr;

use crate::clients::Clients;
use crate::cluster::object::ObjectId;
use crate::request::{Origin, Outcome, Request, Transport};
use crate::wire::{NameRef, Query, flags, read_u16};

/// CoreDNS's common log format.
const COMMON: &str = "{remote}:{port} - {>id} \"{type} {class} {name} {proto} {size} {>do} {>bufsize}\" \
                      {rcode} {>rflags} {rsize} {duration}";

/// A text with places to fill in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template(Vec<Part>);

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
    Zone,
}

/// What a template is filled in with.
pub struct Values<'a> {
    /// The query.
    pub query: &'a Query<'a>,
    /// Who asks.
    pub client: IpAddr,
    /// How it came; `None` for a query to an upstream.
    pub origin: Option<&'a Origin>,
    /// What became of it, if that is told.
    pub finished: Option<Finished<'a>>,
    /// Who clients are.
    pub clients: &'a Clients,
    /// The name of the view that the query fitted, if that was one.
    pub view: Option<&'a str>,
}

/// What became of a query.
#[derive(Clone, Copy)]
pub struct Finished<'a> {
    /// Who answered what.
    pub outcome: &'a Outcome,
    /// The finished message.
    pub reply: &'a [u8],
    /// The time since it was received, in microseconds.
    pub micros: u64,
}

/// A placeholder that stands for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// It is written as it is.
    Placeholder(String),
    /// `{/LABEL}`: a dash is written.
    Metadata(String),
}

impl Unknown {
    /// What is wrong, and what to do.
    pub fn complaint(&self) -> (String, &'static str) {
        match self {
            Self::Placeholder(text) => {
                (format!("there is no placeholder {text}"), "use one that the manual lists")
            }
            Self::Metadata(text) => (
                format!("there is no metadata {text}: it is always `-`"),
                "use {/kubernetes/client-namespace}, {/kubernetes/client-pod-name}, {/kubernetes/zone} or {/view/name}, or leave it out",
            ),
        }
    }
}

impl Template {
    /// CoreDNS's common log format.
    pub fn common() -> Self {
        Self::parse(COMMON).0
    }

    /// Reads a format; what comes with it are the placeholders that do not exist.
    pub fn parse(format: &str) -> (Self, Vec<Unknown>) {
        let format = format
            .replace("{combined}", &format!("{COMMON} \"{{>opcode}}\""))
            .replace("{common}", COMMON);
        let (mut parts, mut unknown) = (Vec::new(), Vec::new());
        let mut rest = format.as_str();
        while let Some((before, inside, after)) = split(rest) {
            push_text(&mut parts, before);
            match Field::of(inside) {
                Some(field) => parts.push(Part::Field(field)),
                None if inside.starts_with('/') => {
                    parts.push(Part::Nothing);
                    unknown.push(Unknown::Metadata(format!("{{{inside}}}")));
                }
                None => {
                    let placeholder = format!("{{{inside}}}");
                    push_text(&mut parts, &placeholder);
                    unknown.push(Unknown::Placeholder(placeholder));
                }
            }
            rest = after;
        }
        push_text(&mut parts, rest);
        (Self(parts), unknown)
    }

    /// The text, if nothing is to be filled in.
    pub fn plain(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether it names the Pod that asks.
    pub fn names_clients(&self) -> bool {
        let names =
            |part: &Part| matches!(part, Part::Field(Field::ClientNamespace | Field::ClientPod));
        self.0.iter().any(names)
    }

    /// The text, filled in.
    pub fn filled(&self, values: &Values<'_>) -> String {
        let mut line = String::with_capacity(160);
        for part in &self.0 {
            match part {
                Part::Text(text) => line.push_str(text),
                Part::Field(field) => values.write(*field, &mut line),
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
            "/kubernetes/zone" => Self::Zone,
            _ => return None,
        })
    }
}

impl<'a> Values<'a> {
    /// Of a query that was received.
    pub fn of(
        request: &'a Request<'a>,
        finished: Option<Finished<'a>>,
        clients: &'a Clients,
    ) -> Self {
        let Request { query, origin } = request;
        let (client, origin) = (origin.client.ip(), Some(origin));
        Self { query, client, origin, finished, clients, view: None }
    }

    /// Logs all fields of a finished query under the placeholders' names.
    pub(super) fn write_fields(&self) {
        let (Some(origin), Some(finished)) = (self.origin, &self.finished) else { return };
        let query = self.query;
        tracing::info!(
            target: super::TARGET,
            remote = %self.client,
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
            rcode = %finished.outcome.rcode,
            rflags = self.text(Field::ReplyFlags),
            rsize = finished.reply.len(),
            plugin = finished.outcome.plugin.name(),
            namespace = self.pod(|id| id.namespace.to_string()),
            pod = self.pod(|id| id.name.to_string()),
            view = self.view,
            duration = finished.micros as f64 / 1e6,
        );
    }

    /// What the Pod that asks is called, if it is known.
    fn pod(&self, read: impl FnOnce(&ObjectId) -> String) -> Option<String> {
        self.clients.pod(self.client, |pod| read(&pod.id))
    }

    fn text(&self, field: Field) -> String {
        let mut text = String::new();
        self.write(field, &mut text);
        text
    }

    fn write(&self, field: Field, line: &mut String) {
        if self.write_known(field, line).is_none() {
            line.push('-');
        }
    }

    /// `None`: it is not known, for which a dash stands, as in CoreDNS.
    fn write_known(&self, field: Field, line: &mut String) -> Option<()> {
        let query = self.query;
        // A `String` takes everything that is written to it.
        let _ = match field {
            Field::Type => write!(line, "{}", query.qtype()),
            Field::Name => write!(line, "{}", query.name()),
            Field::Class => write!(line, "{}", query.qclass()),
            Field::Proto => write!(line, "{}", self.origin?.transport.name()),
            Field::Remote => write_ip(line, self.client),
            Field::Local => write_ip(line, self.origin?.local.ip()),
            Field::Port => write!(line, "{}", self.origin?.client.port()),
            Field::Size => write!(line, "{}", query.packet().len()),
            Field::BufSize => write!(line, "{}", self.bufsize()),
            Field::Do => write!(line, "{}", query.dnssec_ok()),
            Field::Id => write!(line, "{}", query.id()),
            Field::Opcode => write!(line, "{}", (query.flags() & flags::OPCODE) >> 11),
            Field::ReplyFlags => return write_flags(self.finished?.reply, line),
            Field::ReplySize => write!(line, "{}", self.finished?.reply.len()),
            Field::Duration => write!(line, "{}s", self.finished?.micros as f64 / 1e6),
            Field::Rcode => write!(line, "{}", self.finished?.outcome.rcode),
            Field::ClientNamespace => {
                line.push_str(&self.pod(|id| id.namespace.to_string())?);
                Ok(())
            }
            Field::ClientPod => {
                line.push_str(&self.pod(|id| id.name.to_string())?);
                Ok(())
            }
            Field::View => {
                line.push_str(self.view?);
                Ok(())
            }
            Field::Zone => {
                line.push_str(&zone(query.name())?);
                Ok(())
            }
        };
        Some(())
    }

    /// What the client takes: its EDNS size, else the transport's own, as in CoreDNS.
    fn bufsize(&self) -> usize {
        match (self.query.edns(), self.origin.map(|origin| origin.transport)) {
            (Some(edns), _) => edns.udp_payload.into(),
            (None, Some(Transport::Tcp)) => crate::wire::MAX_MESSAGE,
            (None, _) => crate::wire::MIN_UDP_PAYLOAD.into(),
        }
    }
}

/// The zone that a zonal name asks for: all labels before `pin._zone` or `prefer._zone`, as in CoreDNS.
fn zone(name: NameRef<'_>) -> Option<String> {
    let labels: Vec<&[u8]> = name.labels().collect();
    let at = labels.windows(2).position(|pair| matches!(pair, [b"pin" | b"prefer", b"_zone"]))?;
    let zone = labels.get(..at).filter(|zone| !zone.is_empty())?;
    Some(zone.iter().map(|label| label.escape_ascii().to_string()).collect::<Vec<_>>().join("."))
}

/// `None`: no flag is set.
fn write_flags(reply: &[u8], line: &mut String) -> Option<()> {
    const NAMES: [(u16, &str); 7] = [
        (flags::QR, "qr"),
        (flags::AA, "aa"),
        (flags::TC, "tc"),
        (flags::RD, "rd"),
        (flags::RA, "ra"),
        (flags::AD, "ad"),
        (flags::CD, "cd"),
    ];
    let word = read_u16(reply, 2).unwrap_or(0);
    let set = NAMES.iter().filter(|(mask, _)| word & mask != 0);
    let mut separator = "";
    for (_, name) in set {
        line.push_str(separator);
        line.push_str(name);
        separator = ",";
    }
    (!separator.is_empty()).then_some(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Name;

    #[test]
    fn the_zone_of_a_zonal_name_is_found() {
        for (name, wanted) in [
            ("z1.pin._zone.db.shop.svc.cluster.local", Some("z1")),
            ("corp.example.com.prefer._zone.db.shop.svc.cluster.local", Some("corp.example.com")),
            ("pin._zone.db.shop.svc.cluster.local", None),
            ("z1.pin.db.shop.svc.cluster.local", None),
            ("db.shop.svc.cluster.local", None),
        ] {
            let name = Name::from_text(name).unwrap();
            assert_eq!(zone(name.as_ref()).as_deref(), wanted, "{name}");
        }
    }
}
