//! A configuration that is read and checked as a whole, with nothing built, opened or changed. `nodens check` prints a
//! plan, the start and a reload carry it out, so that all three come to the same verdict.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use netsetup::LinkName;

use crate::assemble::own_addresses;
use crate::cluster::Source;
use crate::corefile::{Diagnostic, Diagnostics, Directive, File, Token};
use crate::plugin::{self, Block, bind, forward, reload};
use crate::server::tls::{Scheme, certificates};
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
    /// Checks a file that was read with these diagnostics. `dns_port` is the port of zones that name none.
    pub fn new(
        file: File,
        mut diagnostics: Diagnostics,
        dns_port: u16,
        machine: &Machine<'_>,
    ) -> Self {
        if diagnostics.is_malformed() {
            // What can be told from the lines that are sound.
            let sound = sound(&file, &diagnostics);
            plugin::read(&sound, dns_port, &mut diagnostics);
            diagnostics.sort();
            return Self { file, blocks: Vec::new(), diagnostics };
        }
        let blocks = plugin::read(&file, dns_port, &mut diagnostics);
        plugin::unreachable::check(&blocks, &mut diagnostics);
        for block in &blocks {
            check_machine(block, machine, &mut diagnostics);
            check_files(block, &mut diagnostics);
        }
        check_upstreams(&blocks, false, &mut diagnostics);
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

    /// Adds what is wrong at this moment with the files that name upstreams: none is left of a forward. It is no reason not
    /// to start, since they may change.
    pub fn check_upstreams(&mut self) {
        check_upstreams(&self.blocks, true, &mut self.diagnostics);
        self.diagnostics.sort();
    }
}

/// The directives of a malformed file that were read as they were meant.
fn sound(file: &File, diagnostics: &Diagnostics) -> File {
    let mut file = file.clone();
    for block in &mut file.blocks {
        block.directives.retain(|line| line.tokens().all(|word| diagnostics.is_sound(&word.at)));
    }
    file.blocks.retain(|block| {
        let mut at = block.keys.iter().map(|key| &key.at).chain([&block.at]);
        at.all(|at| diagnostics.is_sound(at))
    });
    file
}

/// The machine that a configuration is for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine<'a> {
    /// The interface that the start makes.
    pub link: Option<&'a LinkName>,
    /// The addresses that it gives that interface.
    pub addresses: &'a [IpAddr],
    /// A configuration that ran here before is used again: it is not to fail for a certificate that has become unreadable.
    pub has_run: bool,
    /// Whether it is this one. If it may be another one, an address that is not here is no error.
    pub is_here: bool,
}

/// Checks the forwards that are to be checked: those with upstreams in files, or the others.
fn check_upstreams(blocks: &[Block], in_files: bool, diagnostics: &mut Diagnostics) {
    let own: OwnAddresses = own_addresses(blocks).unwrap_or_default();
    for block in blocks {
        for (config, line) in block.forward.iter().zip(block.written.named("forward")) {
            if config.files().is_empty() != in_files {
                forward::check(config, line, &own, diagnostics);
            }
        }
    }
}

/// What a block needs of this machine: interfaces, addresses, and files of certificates and credentials.
fn check_machine(block: &Block, machine: &Machine<'_>, diagnostics: &mut Diagnostics) {
    check_addresses(block, machine, diagnostics);
    let mut fail = |line: &Directive, what: String, help: &str| {
        let error = Diagnostic::error(line.at().clone(), what).help(help);
        diagnostics.push(error.directive(line.name.as_str()));
    };
    let made = |name: &str| machine.link.is_some_and(|link| link.as_str() == name);
    let lines: Vec<&Directive> = block.written.named("bind").collect();
    let names_made = lines.iter().flat_map(|line| &line.args).any(|word| made(word.as_str()));
    let has_placeholder = lines.iter().flat_map(|line| &line.args).any(Token::is_placeholder);
    if let (Err(error), Some(line), false) =
        (bind::resolve(&block.bind), lines.first(), names_made || has_placeholder)
    {
        fail(line, error.to_string(), "name an address or an interface of this machine");
    }
    for (config, line) in block.forward.iter().zip(block.written.named("forward")) {
        if let Some(error) = config.needs_tls().then(|| config.tls.load().err()).flatten() {
            fail(line, error.to_string(), "name files that exist and can be read");
        }
    }
    for (config, line) in block.tls.iter().zip(block.written.named("tls")) {
        let Err(error) = certificates::load(config, Scheme::Tls) else { continue };
        let what = error.to_string();
        let help = "name a certificate and its key, as PEM, that can be read";
        let is_elsewhere = !machine.is_here && config.paths().iter().any(|path| !path.exists());
        let said = match is_elsewhere || machine.has_run {
            true => Diagnostic::warning(line.at().clone(), what),
            false => Diagnostic::error(line.at().clone(), what),
        };
        diagnostics.push(said.help(help).directive(line.name.as_str()));
    }
}

/// The files that a block follows. One that is missing may come later.
fn check_files(block: &Block, diagnostics: &mut Diagnostics) {
    for (config, line) in block.tls.iter().zip(block.written.named("tls")) {
        if certificates::is_open_to_all(&config.key) {
            let what = format!("everyone on this machine can read {}", config.key.display());
            diagnostics.push(warning(line, what, "chmod o-r"));
        }
    }
    let mut missing = |line: &Directive, what: &str, path: &Path, help: &str| {
        if let Err(error) = std::fs::metadata(path) {
            let what = format!("{what}{}: {error}", path.display());
            diagnostics.push(warning(line, what, help));
        }
    };
    for (config, line) in block.hosts.iter().zip(block.written.named("hosts")) {
        // Without a word it is /etc/hosts, which an image need not have.
        if !line.args.is_empty() {
            missing(line, "", config.file(), "its names are answered once the file is there");
        }
    }
    for (config, line) in block.file.iter().zip(block.written.named("file")) {
        let help = "its zones are answered with SERVFAIL until the file is there";
        missing(line, "", config.path(), help);
    }
    for (config, line) in block.kubernetes.iter().zip(block.written.named("kubernetes")) {
        match &config.spec.source {
            Source::Kubeconfig { file, .. } => {
                let help = "the API server is not asked before the file is there";
                missing(line, "kubeconfig ", file, help);
            }
            Source::Folder(folder) => {
                let help = "no cluster name is answered before the folder is there";
                missing(line, "objects ", folder, help);
            }
            _ => {}
        }
    }
}

fn warning(line: &Directive, what: String, help: &str) -> Diagnostic {
    Diagnostic::warning(line.at().clone(), what).help(help).directive(line.name.as_str())
}
/// Tries each address that a block listens on, at a port of the kernel's choice. The start makes those of its interface.
fn check_addresses(block: &Block, machine: &Machine<'_>, diagnostics: &mut Diagnostics) {
    let lines: Vec<&Directive> = block.written.named("bind").collect();
    for address in bind::resolve(&block.bind).unwrap_or_default() {
        if machine.addresses.contains(&address) {
            continue;
        }
        let Err(error) = UdpSocket::bind((address, 0)) else { continue };
        // An address that was found by its interface is at none of the words.
        let names =
            |line: &&Directive| line.args.iter().any(|word| word.as_str() == address.to_string());
        let line = lines.iter().copied().find(|line| names(line)).or(lines.first().copied());
        let Some(line) = line else { continue };
        let is_missing = error.kind() == std::io::ErrorKind::AddrNotAvailable;
        let is_link_local = matches!(address, IpAddr::V4(ip) if ip.is_link_local());
        if is_missing && is_link_local && !machine.is_here {
            // On the node it is made by -localip; nobody has such an address otherwise.
            continue;
        }
        let what = match is_missing {
            true => format!("no interface has the address {address}"),
            false => format!("cannot listen on {address}: {error}"),
        };
        let help = "name an address of this machine, or have it made with -localip";
        let found = if machine.is_here || !is_missing {
            Diagnostic::error(line.at().clone(), what)
        } else {
            Diagnostic::warning(line.at().clone(), what)
        };
        diagnostics.push(found.help(help).directive("bind"));
    }
}
