//! What look-ups cost, as a table in Markdown.

use std::fmt;

use super::Counts;
use super::names::Group;

/// Rows are groups of names, columns are resolvers.
pub struct Table {
    kinds: Vec<(&'static str, u64)>,
    columns: Vec<Column>,
}

struct Column {
    who: String,
    without: Vec<Counts>,
    with: Vec<Counts>,
}

impl Table {
    pub fn new(groups: &[Group]) -> Self {
        let kinds = groups.iter().map(|group| (group.kind, group.names.len() as u64)).collect();
        Self { kinds, columns: Vec::new() }
    }

    pub fn add(&mut self, who: String, without: Vec<Counts>, with: Vec<Counts>) {
        self.columns.push(Column { who, without, with });
    }

    fn row(
        &self,
        f: &mut fmt::Formatter<'_>,
        head: &str,
        cell: impl Fn(&Column) -> String,
    ) -> fmt::Result {
        let cells: Vec<String> = self.columns.iter().map(cell).collect();
        writeln!(f, "| {head} | {} |", cells.join(" | "))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.row(f, "queries for a name", |column| column.who.clone())?;
        writeln!(f, "|---|{}", "---|".repeat(self.columns.len()))?;
        for (at, (kind, count)) in self.kinds.iter().enumerate() {
            self.row(f, &format!("{count} {kind}"), |column| {
                let each = |counts: &[Counts]| mean(counts[at].queries, *count);
                format!("{} -> {}", each(&column.without), each(&column.with))
            })?;
        }
        let names: u64 = self.kinds.iter().map(|(_, count)| count).sum();
        let sum = |counts: &[Counts], of: fn(&Counts) -> u64| counts.iter().map(of).sum::<u64>();
        self.row(f, &format!("all {names}, queries"), |column| {
            let queries = |counts| sum(counts, |one| one.queries);
            format!("{} -> {}", queries(&column.without), queries(&column.with))
        })?;
        self.row(f, &format!("all {names}, octets"), |column| {
            let octets = |counts| sum(counts, |one| one.octets);
            format!("{} -> {}", octets(&column.without), octets(&column.with))
        })
    }
}

/// With one decimal place, if it is no whole number.
fn mean(sum: u64, count: u64) -> String {
    let tenths = (10 * sum + count / 2) / count;
    match tenths % 10 {
        0 => (tenths / 10).to_string(),
        rest => format!("{}.{rest}", tenths / 10),
    }
}
