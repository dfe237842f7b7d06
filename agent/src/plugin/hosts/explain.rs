//! Which line a name stands in, for `nodens explain`.

use super::Hosts;
use super::source::read_if_changed;
use crate::request::{Request, Step};
use crate::trace::Notes;
use crate::wire::{NameBuf, NameRef, RecordType};

/// Lines that are told of.
const MAX_LINES: usize = 3;

impl Hosts {
    /// Notes the lines that an answer comes from. Reads the file.
    pub(super) fn notes_on(&self, request: &Request<'_>, step: Step, notes: &mut Notes) {
        let (asked, qtype) = (request.query.name(), request.query.qtype());
        if !matches!(step, Step::Done(_)) || qtype == RecordType::PTR {
            return;
        }
        if self.table.load().addresses_of(asked).is_none() {
            notes.because("the name is in no line, and no `fallthrough` passes it on".to_owned());
            return;
        }
        let inline = self.config.inline.lines();
        let inline = inline.filter(|line| has(line, asked));
        inline.take(MAX_LINES).for_each(|line| notes.describe(format!("`{line}` in the Corefile")));
        // What cannot be read now was read before.
        if let Ok(Some((text, _))) = read_if_changed(&self.config.file, None) {
            let path = self.config.file.display();
            let lines = text.lines().zip(1..).filter(|(line, _)| has(line, asked));
            let told = lines.map(|(line, number)| format!("{path}:{number}: `{}`", line.trim()));
            told.take(MAX_LINES).for_each(|line| notes.describe(line));
        }
    }
}

/// Whether a line gives this name an address.
fn has(line: &str, asked: NameRef<'_>) -> bool {
    let line = line.split('#').next().unwrap_or_default();
    line.split_whitespace().skip(1).any(|word| {
        let mut name = NameBuf::new();
        name.push_text(word).is_ok() && NameBuf::lower(name.as_name()).as_name() == asked
    })
}
