//! Every condition. `docs/troubleshooting.md` has a section for each, and `manifests/monitoring` an alert; tests hold both
//! against this table.

use super::Condition;
use super::Severity::{Fail, Warn};

/// The alert of all conditions of severity `fail` that have none of their own.
pub const FAILING: &str = "NodensFailing";
/// The same of severity `warn`.
pub const DEGRADED: &str = "NodensDegraded";

macro_rules! conditions {
    ($($ident:ident = $severity:ident $id:literal {
        title: $title:literal,
        cure: $cure:literal,
        anchor: $anchor:literal,
        alert: $alert:expr,
    })*) => {
        $(
            #[doc = $title]
            pub static $ident: Condition = Condition {
                id: $id,
                severity: $severity,
                title: $title,
                cure: $cure,
                anchor: $anchor,
                alert: $alert,
            };
        )*

        /// All of them, in the order of this file.
        pub static ALL: &[&Condition] = &[$(&$ident),*];
    };
}

conditions! {
    NOT_READY = Fail "not_ready" {
        title: "/ready returns 503",
        cure: "Remove what it waits for; a start and a stop end by themselves.",
        anchor: "where-to-look-first",
        alert: "NodensNotReady",
    }
    STALLED = Fail "stalled" {
        title: "queries are not answered",
        cure: "Look for a node without free processor time, and for a firewall between the process and its own addresses.",
        anchor: "the-workers-are-stalled",
        alert: "NodensNotReady",
    }
    NEIGHBOUR_SILENT = Fail "neighbour_silent" {
        title: "another instance holds our addresses and does not answer",
        cure: "End that process: until then queries that the kernel gives to its sockets are lost.",
        anchor: "another-instance-does-not-answer",
        alert: FAILING,
    }
    CLUSTER_UNKNOWN = Fail "cluster_unknown" {
        title: "the cluster's objects are not known yet",
        cure: "Check the API server's address, the credentials and the ClusterRole: the evidence has the last error.",
        anchor: "the-api-server-cannot-be-reached",
        alert: "NodensNotReady",
    }
    CLUSTER_STALE = Fail "cluster_stale" {
        title: "cluster names are answered from an old state",
        cure: "Bring the API server back; until then do not move workloads.",
        anchor: "answers-are-stale-after-the-api-server-was-lost",
        alert: "NodensStoreStale",
    }
    API_REFUSED = Warn "api_refused" {
        title: "the API server refuses us",
        cure: "401: renew the credentials. 403: grant the verb that the evidence names.",
        anchor: "403-a-right-is-missing",
        alert: "NodensWatchErrors",
    }
    API_AWAY = Warn "api_away" {
        title: "the API server is not heard",
        cure: "Check the way to the API server from this node; known names are answered meanwhile, changes are missed.",
        anchor: "the-api-server-cannot-be-reached",
        alert: "NodensApiServerUnreachable",
    }
    SNAPSHOT_IN_USE = Warn "snapshot_in_use" {
        title: "cluster names are answered from the last run's snapshot",
        cure: "Check the way to the API server from this node, and the credentials.",
        anchor: "the-api-server-cannot-be-reached",
        alert: "NodensRunsOnSnapshot",
    }
    NODE_UNKNOWN = Warn "node_unknown" {
        title: "the API server knows nothing of this node",
        cure: "Give the node's name as `kubectl get nodes` has it: in NODE_NAME, or behind `pods node`.",
        anchor: "the-node-is-unknown",
        alert: DEGRADED,
    }
    OBJECTS_SKIPPED = Warn "objects_skipped" {
        title: "invalid objects are not served",
        cure: "Put the object right; the log names each once.",
        anchor: "objects-are-not-served",
        alert: "NodensObjectsSkipped",
    }
    OBJECTS_UNREADABLE = Warn "objects_unreadable" {
        title: "the folder of objects cannot be read",
        cure: "Put right what the evidence says; until then names are answered from what was read before.",
        anchor: "objects-are-not-served",
        alert: "NodensWatchErrors",
    }
    SNAPSHOT_UNWRITTEN = Warn "snapshot_unwritten" {
        title: "the snapshot cannot be written",
        cure: "Make its folder writable for the server's user, and see that the disk is not full.",
        anchor: "the-snapshot-cannot-be-written",
        alert: DEGRADED,
    }
    NO_UPSTREAM = Fail "no_upstream" {
        title: "a forward has no upstream",
        cure: "Name an address in the forward line, a resolv.conf that has servers other than this one, or, for a host name, another resolver.",
        anchor: "resolvconf",
        alert: "NodensUpstreamsDown",
    }
    UPSTREAMS_AWAY = Fail "upstreams_away" {
        title: "no upstream of a forward can be used",
        cure: "Ask one from the node with dig: if it answers, look at the evidence; if not, at network and resolvers.",
        anchor: "servfail-for-names-outside",
        alert: "NodensUpstreamsDown",
    }
    UPSTREAM_AWAY = Warn "upstream_away" {
        title: "an upstream does not answer",
        cure: "Ask it from the node with dig; if it is gone for good, remove it from resolv.conf or the Corefile.",
        anchor: "servfail-for-names-outside",
        alert: "NodensUpstreamDown",
    }
    UPSTREAM_LOOPS = Warn "upstream_loops" {
        title: "queries to an upstream come back",
        cure: "Forward to the node's real resolvers and not to a stub that forwards to this server.",
        anchor: "a-loop",
        alert: "NodensLoop",
    }
    ANSWERS_FAIL = Fail "answers_fail" {
        title: "many answers are SERVFAIL",
        cure: "The log of `errors` has the reason of each; mostly it is an upstream.",
        anchor: "servfail-for-names-outside",
        alert: "NodensErrors",
    }
    DENIALS_OVERRULED = Warn "denials_overruled" {
        title: "upstreams deny names that were good for long, whose last answers are given",
        cure: "`nodens observe --source stale` shows the names: ask another resolver for them. `nodens cache flush NAME` forgets one.",
        anchor: "upstreams-deny-what-was-good",
        alert: DEGRADED,
    }
    QUERIES_DROPPED = Warn "queries_dropped" {
        title: "queries are refused because too many wait",
        cure: "Look for slow upstreams, or for a client that floods the node with names that are not cached.",
        anchor: "queries-are-dropped",
        alert: "NodensQueriesDropped",
    }
    REPLIES_UNSENT = Warn "replies_unsent" {
        title: "the kernel refuses to send replies",
        cure: "Look for a firewall that rejects, full buffers, or clients whose addresses have no route.",
        anchor: "replies-are-not-sent",
        alert: "NodensRepliesUnsent",
    }
    CLIENTS_LIMITED = Warn "clients_limited" {
        title: "clients ask for more than their share",
        cure: "`nodens top` shows who asks most. If that is right, raise the rate of `limit`; if not, mend the client.",
        anchor: "queries-are-dropped",
        alert: DEGRADED,
    }
    CONFIGURATION_REFUSED = Warn "configuration_refused" {
        title: "the configuration on disk is refused, and an older one runs",
        cure: "Put the file right (`nodens check` prints every mistake): the next start would fail.",
        anchor: "a-change-has-no-effect",
        alert: "NodensConfigurationRefused",
    }
    CONFIGURATION_HELD_BACK = Warn "configuration_held_back" {
        title: "the configuration on disk would silence the node, and an older one runs",
        cure: "Put the file right; if it is meant, `nodens reload --force`.",
        anchor: "a-change-has-no-effect",
        alert: "NodensConfigurationHeldBack",
    }
    CERTIFICATE_UNREADABLE = Warn "certificate_unreadable" {
        title: "a certificate on disk cannot be used, and an older one is shown to clients",
        cure: "Put right what the evidence says: certificate and key, as PEM, that belong together.",
        anchor: "a-certificate-cannot-be-used",
        alert: DEGRADED,
    }
    NETWORK_BROKEN = Fail "network_broken" {
        title: "the node's network is not as it should be, and cannot be repaired",
        cure: "The evidence has the kernel's error: a right, a module, or an address that other software uses.",
        anchor: "the-link-or-address-is-missing",
        alert: "NodensSetupErrors",
    }
    NETWORK_REPAIRED = Warn "network_repaired" {
        title: "something removes parts of the node's network",
        cure: "Find what does: a network manager, a firewall script, or a second agent for the same address.",
        anchor: "the-link-or-address-is-missing",
        alert: "NodensNetworkRepaired",
    }
    NETWORK_UNWATCHED = Warn "network_unwatched" {
        title: "changes of the node's network are not seen at once",
        cure: "Restart Nodens when the cause in the log is gone; until then the network is checked at each interval only.",
        anchor: "the-link-or-address-is-missing",
        alert: DEGRADED,
    }
    MISSES_SHED = Fail "misses_shed" {
        title: "memory is short: most names that are not cached are refused",
        cure: "Raise the memory limit, or lower what the cluster takes (`endpoints headless`).",
        anchor: "memory-is-short",
        alert: FAILING,
    }
    MEMORY_SHORT = Warn "memory_short" {
        title: "memory is short: cache and connections are cut",
        cure: "Raise the memory limit, or lower what the cluster takes (`endpoints headless`).",
        anchor: "memory-is-short",
        alert: "NodensMemoryShed",
    }
    FILES_SHORT = Warn "files_short" {
        title: "file descriptors are nearly used up",
        cure: "Find out whose connections they are (`ss -tn sport = :53`), or raise the limit (LimitNOFILE).",
        anchor: "file-descriptors-are-nearly-used-up",
        alert: "NodensFilesNearLimit",
    }
    OVERLOADED = Warn "overloaded" {
        title: "our own /health does not answer in time",
        cure: "Remove a CPU limit of the pod, or load of the node; a restart does not help.",
        anchor: "the-workers-are-stalled",
        alert: "NodensHealthCheckFails",
    }
    PAGES_UNSERVED = Warn "pages_unserved" {
        title: "/metrics, /health or /ready cannot be served",
        cure: "Free the address, or write another one behind the directive; it is tried again every 5 seconds.",
        anchor: "port-in-use",
        alert: DEGRADED,
    }
    PANICKED = Warn "panicked" {
        title: "a panic was caught",
        cure: "Report it with its lines in the log: it is a bug. Only the query that caused it is affected.",
        anchor: "the-server-crashes",
        alert: "NodensPanic",
    }
    CRASHED = Warn "crashed" {
        title: "the server has crashed and was started again",
        cure: "If it was not killed on purpose, report it with its lines in the log; until then run the previous release.",
        anchor: "the-server-crashes",
        alert: "NodensCrashing",
    }
    SUSPECTS_REFUSED = Warn "suspects_refused" {
        title: "queries are refused that the server has crashed over",
        cure: "Report them with the lines in the log; they are answered again ten minutes after the crash.",
        anchor: "the-server-crashes",
        alert: "NodensCrashing",
    }
    TAKEOVER_FAILED = Warn "takeover_failed" {
        title: "an instance that was to take over has failed",
        cure: "Put right what the evidence says, and start it again; this instance serves on.",
        anchor: "an-upgrade-fails",
        alert: "NodensTakeoverFailed",
    }
    TAKEOVER_IMPOSSIBLE = Warn "takeover_impossible" {
        title: "no instance can take over from this one",
        cure: "Make the folder of --handover-socket writable for the server's user, and restart it.",
        anchor: "an-upgrade-fails",
        alert: DEGRADED,
    }
    SOCKET_MISSING = Warn "socket_missing" {
        title: "commands cannot reach this server",
        cure: "Make the folder of --socket writable for the server's user, and restart it.",
        anchor: "nodens-status-does-not-work",
        alert: DEGRADED,
    }
    LOG_LOST = Warn "log_lost" {
        title: "log lines are lost",
        cure: "The reader of the log is too slow: log less (`log` with classes), or give it more room.",
        anchor: "log-lines-are-lost",
        alert: DEGRADED,
    }
}
