//! Keeps one copy of each string that many objects name: namespaces, port names, hostnames. It also says which strings are
//! not kept at all.

use std::sync::Mutex;

use hashbrown::HashSet;

use super::object::Text;

/// Strings in use, each once. Shared by the watches of all kinds.
#[derive(Default)]
pub struct Interner {
    table: Mutex<Table>,
    drops_pods: bool,
    drops_places: bool,
}

#[derive(Default)]
struct Table {
    texts: HashSet<Text, foldhash::fast::RandomState>,
    sweep_at: usize,
}

impl Interner {
    /// One for objects of which the names of the Pods behind endpoints, and where endpoints are, are kept or not: most
    /// endpoints have both, and they are longer than all else of them.
    pub fn new(keeps_pods: bool, keeps_places: bool) -> Self {
        Self { table: Mutex::default(), drops_pods: !keeps_pods, drops_places: !keeps_places }
    }

    /// Whether it is kept where endpoints are.
    pub(super) fn keeps_places(&self) -> bool {
        !self.drops_places
    }

    /// The name of the Pod behind an endpoint, unless those are not kept.
    pub(super) fn pod(&self, name: &str) -> Option<Text> {
        (!self.drops_pods).then(|| Text::from(name))
    }

    /// The one copy of `text`.
    pub fn intern(&self, text: &str) -> Text {
        // Whoever panicked while holding it left at worst one string too few in it.
        let mut table = self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(known) = table.texts.get(text) {
            return known.clone();
        }
        if table.texts.len() >= table.sweep_at {
            // What nobody else holds is gone from the cluster. Sweeping when the table has doubled costs each insertion O(1).
            table.texts.retain(|text| Text::strong_count(text) > 1);
            table.sweep_at = (table.texts.len() * 2).max(LEAST_SWEEP);
        }
        let text = Text::from(text);
        table.texts.insert(text.clone());
        text
    }
}

/// Below this many strings a sweep is not worth its time.
const LEAST_SWEEP: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_are_kept_once() {
        let interner = Interner::default();
        assert!(Text::ptr_eq(&interner.intern("default"), &interner.intern("default")));
    }

    #[test]
    fn strings_that_nobody_holds_are_swept() {
        let interner = Interner::default();
        let held = interner.intern("held");
        for n in 0..LEAST_SWEEP * 4 {
            interner.intern(&format!("n{n}"));
        }
        let table = interner.table.lock().unwrap();
        assert!(table.texts.len() <= LEAST_SWEEP + 1, "{}", table.texts.len());
        assert!(table.texts.contains(&held));
    }
}
