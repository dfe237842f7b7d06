//! The table of directives. A new directive is a module and one line here: the parser, the order of the chain, the
//! suggestions for misspelt names, the labels of metrics and the identity of cached answers all follow from the line.

/// Hands the table to another macro, which takes from it what it needs: this module the names and their properties,
/// `plugin` the types. Columns: field of [`Block`](crate::plugin::Block), name in the Corefile, for handlers the
/// [`Plugin`], [`Repeat`], [`Effect`], and the configuration of one line, as a path from `plugin`.
macro_rules! directives {
    ($emit:ident) => {
        $emit! {
            // In the order in which a query passes them.
            handlers {
                local        "local"        Local        Many Answers     (local::Config)
                acl          "acl"          Acl          Many Answers     (acl::Config)
                limit        "limit"        Limit        Many Operations  (limit::Config)
                any          "any"          Any          Many Answers     (any::Config)
                filter_aaaa  "filter_aaaa"  FilterAaaa   Many EditsReply  (filter_aaaa::Config)
                dns64        "dns64"        Dns64        Many EditsReply  (dns64::Config)
                rewrite      "rewrite"      Rewrite      Many EditsReply  (rewrite::Config)
                header       "header"       Header       Many EditsReply  (header::Config)
                minimal      "minimal"      Minimal      Many EditsReply  (minimal::Config)
                template     "template"     Template     Many Answers     (template::Config)
                hosts        "hosts"        Hosts        Once Answers     (hosts::Config)
                kubernetes   "kubernetes"   Kubernetes   Once Answers     (kubernetes::Config)
                file         "file"         File         Many Answers     (file::Config)
                special_names "special_names" SpecialNames Once Answers   (special_names::Config)
                cache        "cache"        Cache        Once EditsReply  (cache::Config)
                loop_        "loop"         Loop         Once Setting     (loop_::Config)
                forward      "forward"      Forward      Many Answers     (forward::Config)
                whoami       "whoami"       Whoami       Many Answers     (whoami::Config)
            }
            settings {
                autopath     "autopath"     Once EditsReply  (autopath::Config)
                bind         "bind"         Many Operations  (bind::Config)
                bufsize      "bufsize"      Many Setting     (settings::BufSize)
                chaos        "chaos"        Many Answers     (settings::Chaos)
                debug        "debug"        Many Operations  (settings::Debug)
                dnstap       "dnstap"       Many Operations  (dnstap::Config)
                errors       "errors"       Once Operations  (errors::Config)
                health       "health"       Many Operations  (health::Config)
                loadbalance  "loadbalance"  Many Setting     (loadbalance::Config)
                log          "log"          Many Operations  (log::Config)
                nsid         "nsid"         Once Setting     (settings::Nsid)
                prometheus   "prometheus"   Once Operations  (prometheus::Config)
                ready        "ready"        Once Operations  (ready::Config)
                reload       "reload"       Many Operations  (reload::Config)
                root         "root"         Many Setting     (settings::Root)
                timeouts     "timeouts"     Many Operations  (settings::Timeouts)
                stale_on_denial "stale_on_denial" Once EditsReply (cache::last_good::Config)
                tls          "tls"          Once Operations  (tls::Config)
                view         "view"         Once EditsReply  (view::Config)
            }
        }
    };
}
pub(crate) use directives;

/// One directive that Nodens serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the Corefile.
    pub name: &'static str,
    /// The handler that it configures; `None` for a setting.
    pub plugin: Option<Plugin>,
    /// How often a server block may have it.
    pub repeat: Repeat,
    /// What it does to answers.
    pub effect: Effect,
}

/// How often a server block may have a directive. `Once` is what CoreDNS refuses to see twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Once.
    Once,
    /// Any number of times.
    Many,
}

/// What a directive does to answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It answers queries on its own.
    Answers,
    /// It changes, keeps or suppresses what other directives answer.
    EditsReply,
    /// It sets something that an answer may show.
    Setting,
    /// No answer that is given or kept differs by a single octet with and without it.
    Operations,
}

/// Every directive: the handlers in the order of the chain, then the settings in alphabetical order.
pub fn all() -> &'static [Entry] {
    TABLE
}

/// The directive of that name.
pub fn find(name: &str) -> Option<&'static Entry> {
    TABLE.iter().find(|entry| entry.name == name)
}

macro_rules! emit {
    (
        handlers { $($handler:ident $name:literal $plugin:ident $repeat:ident $effect:ident ($config:path))* }
        settings { $($setting:ident $set_name:literal $set_repeat:ident $set_effect:ident ($set_config:path))* }
    ) => {
        /// Which directive answered. The names are those of CoreDNS's `plugin` label.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "each is the directive of its name")]
        pub enum Plugin {
            /// The server itself: REFUSED, FORMERR and the like. Its label is empty, as in CoreDNS.
            Server,
            /// Class CHAOS, which the server itself answers.
            Chaos,
            /// Who answers for a name of a search list that fails.
            Autopath,
            $($plugin,)*
        }

        impl Plugin {
            /// Every plugin, in the order of their numbers.
            pub const ALL: [Self; 3 + [$($name),*].len()] =
                [Self::Server, Self::Chaos, Self::Autopath, $(Self::$plugin),*];

            /// The directive's name.
            pub fn name(self) -> &'static str {
                match self {
                    Self::Server => "",
                    Self::Chaos => "chaos",
                    Self::Autopath => "autopath",
                    $(Self::$plugin => $name,)*
                }
            }
        }

        const TABLE: &[Entry] = &[
            $(Entry {
                name: $name,
                plugin: Some(Plugin::$plugin),
                repeat: Repeat::$repeat,
                effect: Effect::$effect,
            },)*
            $(Entry {
                name: $set_name,
                plugin: None,
                repeat: Repeat::$set_repeat,
                effect: Effect::$set_effect,
            },)*
        ];
    };
}
directives!(emit);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_plugins_are_numbered() {
        for (number, entry) in TABLE.iter().enumerate() {
            assert!(TABLE.iter().skip(number + 1).all(|other| other.name != entry.name));
            assert_eq!(find(entry.name), Some(entry));
            assert!(entry.plugin.is_none_or(|plugin| plugin.name() == entry.name));
        }
        assert!(Plugin::ALL.iter().enumerate().all(|(number, plugin)| *plugin as usize == number));
    }
}
