//! A configuration that is read and checked as a whole, with nothing built, opened or changed. `nodens check` prints a
//! plan, the start and a reload carry it out, so that all three come to the same verdict.

use netsetup::LinkName;

use crate::assemble::own_addresses;
use crate::cluster::Source;
use crate::corefile::{Diagnostic, Diagnostics, Directive, File};
use crate::plugin::{self, Block, bind, forward, reload};
use crate::upstream::OwnAddresses;

/// What was read, and what is wrong with it.
pub struct Plan {
    /// What was written, after imports and variables.
    pub file: File,
    /// What it means. Serves no purpose if there are errors.
    pub blocks: Vec<Block>,
    /// Errors and warnings of all stages, in the order of their lines.
    pub diagnostics: Diagnostics,
}

impl Plan {
    /// Checks a file that was read with these diagnostics. `dns_port` is the port of zones that name none, `link` the
    /// interface that the start makes.
    pub fn new(
        file: File,
        mut diagnostics: Diagnostics,
        dns_port: u16,
        link: Option<&LinkName>,
    ) -> Self {
        let blocks = if diagnostics.is_malformed() {
            Vec::new()
        } else {
            plugin::read(&file, dns_port, &mut diagnostics)
        };
        plugin::unreachable::check(&blocks, &mut diagnostics);
        blocks.iter().for_each(|block| check_machine(block, link, &mut diagnostics));
        diagnostics.sort();
        Self { file, blocks, diagnostics }
    }

    /// A hash of what was written, imports included.
    pub fn hash(&self) -> String {
        reload::hash(&self.file)
    }

    /// Where it would listen.
    ///
    /// # Errors
    /// The interface of a `bind` has no addresses yet.
    pub fn own_addresses(&self) -> anyhow::Result<OwnAddresses> {
        own_addresses(&self.blocks)
    }

    /// Adds what is wrong with upstreams at this moment: none is left of a forward. It is no reason not to start, since
    /// a file that names them may change.
    pub fn check_upstreams(&mut self) {
        let own = self.own_addresses().unwrap_or_default();
        for block in &self.blocks {
            for (config, line) in block.forward.iter().zip(block.written.named("forward")) {
                forward::check(config, line, &own, &mut self.diagnostics);
            }
        }
        self.diagnostics.sort();
    }
}

/// What a block needs of this machine: interfaces, and files of certificates and credentials.
fn check_machine(block: &Block, link: Option<&LinkName>, diagnostics: &mut Diagnostics) {
    let mut fail = |line: &Directive, what: String, help: &str| {
        let error = Diagnostic::error(line.at().clone(), what).help(help);
        diagnostics.push(error.directive(line.name.as_str()));
    };
    let made = |name: &str| link.is_some_and(|link| link.as_str() == name);
    let lines: Vec<&Directive> = block.written.named("bind").collect();
    let names_made = lines.iter().flat_map(|line| &line.args).any(|word| made(word.as_str()));
    if let (Err(error), Some(line), false) = (bind::resolve(&block.bind), lines.first(), names_made)
    {
        fail(line, error.to_string(), "name an address or an interface of this machine");
    }
    for (config, line) in block.forward.iter().zip(block.written.named("forward")) {
        if let Some(error) = config.needs_tls().then(|| config.tls.load().err()).flatten() {
            fail(line, error.to_string(), "name files that exist and can be read");
        }
    }
    for (config, line) in block.kubernetes.iter().zip(block.written.named("kubernetes")) {
        let Source::Kubeconfig { file, .. } = &config.spec.source else { continue };
        if let Err(error) = std::fs::metadata(file) {
            let what = format!("kubeconfig {}: {error}", file.display());
            let warning = Diagnostic::warning(line.at().clone(), what);
            let help = "the API server is not asked before the file is there";
            diagnostics.push(warning.help(help).directive("kubernetes"));
        }
    }
}
