//! Every metric by name: the one list that the code, `docs/metrics.md` and the tests share.
//!
//! The doc comment of a family is also its HELP text. A name here is the name that Prometheus stores, so counters end in
//! `_total`. A new family is added here and to `docs/metrics.md`; a test compares the two.

use super::scrape::{Family, Kind};

macro_rules! families {
    ($( $(#[doc = $help:literal])+ $ident:ident = $kind:ident $name:literal [$($label:literal),*]; )*) => {
        $(
            $(#[doc = $help])+
            pub static $ident: Family =
                Family { name: $name, help: concat!($($help),+), kind: Kind::$kind, labels: &[$($label),*] };
        )*

        /// Every family of this program, in the order of this file.
        pub static ALL: &[&Family] = &[$(&$ident),*];
    };
}

families! {
    /// Always 1; the labels say what was built.
    BUILD_INFO = Gauge "coredns_build_info" ["version", "revision", "goversion"];
    /// Panics that were caught.
    PANICS = Counter "coredns_panics_total" [];
    /// Always 1; the directives of each server block.
    PLUGIN_ENABLED = Gauge "coredns_plugin_enabled" ["server", "zone", "view", "name"];

    /// Queries.
    DNS_REQUESTS = Counter "coredns_dns_requests_total" ["server", "zone", "view", "proto", "family", "type"];
    /// Time from receiving a query to sending its response.
    DNS_REQUEST_DURATION = Histogram "coredns_dns_request_duration_seconds" ["server", "zone", "view"];
    /// Size of queries.
    DNS_REQUEST_SIZE = Histogram "coredns_dns_request_size_bytes" ["server", "zone", "view", "proto"];
    /// Queries that ask for DNSSEC records.
    DNS_DO_REQUESTS = Counter "coredns_dns_do_requests_total" ["server", "zone", "view"];
    /// Size of responses.
    DNS_RESPONSE_SIZE = Histogram "coredns_dns_response_size_bytes" ["server", "zone", "view", "proto"];
    /// Responses by response code and by the directive that made them.
    DNS_RESPONSES = Counter "coredns_dns_responses_total" ["server", "zone", "view", "rcode", "plugin"];

    /// Messages received by UDP and TCP: each is answered, dropped, or waits.
    RECEIVED = Counter "nodens_received_total" ["proto"];
    /// How long queries had been in a UDP socket's queue when they were read, by the kernel's receive time, of one in 64 reads.
    UDP_QUEUE = Histogram "nodens_udp_queue_seconds" [];
    /// Replies by what the answer came from: store, configured, cache, stale, upstream, server or probe.
    ANSWERED = Counter "nodens_answered_total" ["source"];
    /// Messages that got no reply: acl, limit, malformed, overflow, panic or lost.
    DROPPED = Counter "nodens_dropped_total" ["reason"];
    /// Queries that wait for an answer from elsewhere.
    WAITING_QUERIES = Gauge "nodens_waiting_queries" [];
    /// Queries that were dropped because too many waited.
    WAITING_OVERFLOW = Counter "nodens_waiting_overflow_total" [];
    /// Replies that the kernel refused to send.
    UNSENT_REPLIES = Counter "nodens_unsent_replies_total" [];
    /// Open TCP connections of clients.
    TCP_CONNECTIONS = Gauge "nodens_tcp_connections" [];
    /// TLS handshakes of clients: full, resumed or failed.
    TLS_HANDSHAKES = Counter "nodens_tls_handshakes_total" ["result"];
    /// Responses over HTTPS by HTTP status code.
    HTTPS_RESPONSES = Counter "coredns_dns_https_responses_total" ["server", "status"];
    /// Bytes that TCP connections of clients buffer.
    TCP_BUFFER_BYTES = Gauge "nodens_tcp_buffer_bytes" [];
    /// TCP connections that were refused or closed because their client had its share of places or bytes.
    TCP_REFUSED = Counter "nodens_tcp_refused_total" [];

    /// Who observes queries (`nodens observe`).
    OBSERVE_READERS = Gauge "nodens_observe_readers" [];
    /// Queries that `nodens observe` and `nodens top` have not seen because they came too fast.
    OBSERVE_DROPPED = Counter "nodens_observe_dropped_total" [];

    /// Queries by the namespace of the Pod that asked, from the sample of nodens top; _others beyond 100 namespaces.
    CLIENT_QUERIES = Counter "nodens_client_queries_total" ["namespace"];
    /// Queries that a search list made in vain, by the namespace of the Pod that asked, from the sample of nodens top.
    CLIENT_WASTED_QUERIES = Counter "nodens_client_wasted_queries_total" ["namespace"];
    /// Messages sent to a dnstap collector.
    DNSTAP_SENT = Counter "nodens_dnstap_sent_total" ["to"];
    /// Messages that a dnstap collector did not get because it is away or too slow.
    DNSTAP_DROPPED = Counter "nodens_dnstap_dropped_total" ["to"];
    /// 1 while a dnstap collector is connected, else 0.
    DNSTAP_CONNECTED = Gauge "nodens_dnstap_connected" ["to"];

    /// Messages in the cache.
    CACHE_ENTRIES = Gauge "coredns_cache_entries" ["server", "type", "zones", "view"];
    /// Queries answered from the cache.
    CACHE_HITS = Counter "coredns_cache_hits_total" ["server", "type", "zones", "view"];
    /// Queries that the cache could not answer.
    CACHE_MISSES = Counter "coredns_cache_misses_total" ["server", "zones", "view"];
    /// Queries that reached the cache.
    CACHE_REQUESTS = Counter "coredns_cache_requests_total" ["server", "zones", "view"];
    /// Answers that were refreshed before they expired (prefetch).
    CACHE_PREFETCH = Counter "coredns_cache_prefetch_total" ["server", "zones", "view"];
    /// Responses that did not match the question and were not cached.
    CACHE_DROPS = Counter "coredns_cache_drops_total" ["server", "zones", "view"];
    /// Responses that a full cache did not admit because their question came for the first time.
    NODENS_CACHE_TURNED_AWAY = Counter "nodens_cache_turned_away_total" ["server", "zones", "view"];
    /// Denials instead of which the last good answer was given (`stale_on_denial`).
    CACHE_DENIALS_OVERRULED = Counter "nodens_cache_denials_overruled_total" ["server", "zones", "view"];
    /// Queries answered with records that had expired.
    CACHE_SERVED_STALE = Counter "coredns_cache_served_stale_total" ["server", "zones", "view"];
    /// Messages evicted to make room for others.
    CACHE_EVICTIONS = Counter "coredns_cache_evictions_total" ["server", "type", "zones", "view"];
    /// Queries refused because too many waited for the answer to the same question.
    NODENS_CACHE_OVERFLOW = Counter "nodens_cache_overflow_total" ["server", "zones", "view"];
    /// Octets held by the cache of all server blocks, overhead included.
    NODENS_CACHE_BYTES = Gauge "nodens_cache_bytes" [];
    /// Octets that the cache may hold.
    NODENS_CACHE_LIMIT_BYTES = Gauge "nodens_cache_limit_bytes" [];

    /// Queries that found every upstream of a forward set aside.
    FORWARD_HEALTHCHECK_BROKEN = Counter "coredns_forward_healthcheck_broken_total" [];
    /// Queries refused because max_concurrent was reached.
    FORWARD_MAX_CONCURRENT_REJECTS = Counter "coredns_forward_max_concurrent_rejects_total" [];
    /// Time until an upstream's answer.
    PROXY_REQUEST_DURATION = Histogram "coredns_proxy_request_duration_seconds" ["proxy_name", "to", "rcode"];
    /// Health checks that failed.
    PROXY_HEALTHCHECK_FAILURES = Counter "coredns_proxy_healthcheck_failures_total" ["proxy_name", "to", "rcode"];
    /// Queries sent over an open connection to an upstream.
    PROXY_CONN_CACHE_HITS = Counter "coredns_proxy_conn_cache_hits_total" ["proxy_name", "to", "proto"];
    /// Connections opened to an upstream for a query.
    PROXY_CONN_CACHE_MISSES = Counter "coredns_proxy_conn_cache_misses_total" ["proxy_name", "to", "proto"];
    /// Messages from an upstream's address that match no open query: late or forged.
    FORWARD_UNEXPECTED_ANSWERS = Counter "nodens_forward_unexpected_answers_total" ["to", "reason"];
    /// Tries of an upstream that had no answer in time.
    FORWARD_TIMEOUTS = Counter "nodens_forward_timeouts_total" ["to"];
    /// Tries of an upstream that failed in another way.
    FORWARD_ERRORS = Counter "nodens_forward_errors_total" ["to"];
    /// Queries sent to a second upstream because this one was slower than usual.
    FORWARD_HEDGES = Counter "nodens_forward_hedges_total" ["to"];
    /// Truncated answers over UDP that were asked for again over TCP.
    FORWARD_TRUNCATED = Counter "nodens_forward_truncated_total" ["to"];
    /// Queries refused because their group of upstreams had its share of waiting queries.
    FORWARD_SHARE_REJECTS = Counter "nodens_forward_share_rejects_total" [];
    /// 1 while an upstream answers, else 0.
    FORWARD_UPSTREAM_UP = Gauge "nodens_forward_upstream_up" ["to"];
    /// Addresses of an upstream's host name that are in use.
    FORWARD_NAME_ADDRESSES = Gauge "nodens_forward_name_addresses" ["name"];
    /// Look-ups of an upstream's host name that brought no address.
    FORWARD_NAME_FAILURES = Counter "nodens_forward_name_failures_total" ["name"];
    /// 1 while queries to an upstream come back to this server, else 0.
    LOOP_UPSTREAM = Gauge "nodens_loop_upstream" ["upstream"];

    /// Time from a change of a Service's endpoints until answers show it.
    KUBERNETES_PROGRAMMING_DURATION = Histogram "coredns_kubernetes_dns_programming_duration_seconds" ["service_kind"];
    /// Time until the API server's response.
    KUBERNETES_REQUEST_DURATION = Histogram "coredns_kubernetes_rest_client_request_duration_seconds" ["verb", "host"];
    /// Time that requests to the API server waited for the client-side rate limit.
    KUBERNETES_RATE_LIMITER_DURATION = Histogram "coredns_kubernetes_rest_client_rate_limiter_duration_seconds" ["verb", "host"];
    /// Requests to the API server.
    KUBERNETES_REQUESTS = Counter "coredns_kubernetes_rest_client_requests_total" ["method", "code", "host"];

    /// Time since the last event or bookmark, or since the snapshot in use was written.
    KUBERNETES_STORE_AGE = Gauge "nodens_kubernetes_store_age_seconds" ["kind"];
    /// 1 while the API server has been silent for longer than max_staleness, else 0; only if that is set.
    KUBERNETES_STALE = Gauge "nodens_kubernetes_stale" [];
    /// Objects in the store.
    KUBERNETES_OBJECTS = Gauge "nodens_kubernetes_objects" ["kind"];
    /// 1 once all objects were listed since the start, else 0.
    KUBERNETES_SYNCED = Gauge "nodens_kubernetes_synced" ["kind"];
    /// 1 for the zone of this node, if it is known; only with topology.
    KUBERNETES_NODE_ZONE = Gauge "nodens_kubernetes_node_zone" ["zone"];
    /// 1 while answers come from the snapshot of the last run, else 0.
    KUBERNETES_SNAPSHOT_IN_USE = Gauge "nodens_kubernetes_snapshot_in_use" [];
    /// Events received from watches.
    KUBERNETES_EVENTS = Counter "nodens_kubernetes_events_total" ["kind", "type"];
    /// Complete lists, the first included.
    KUBERNETES_RELISTS = Counter "nodens_kubernetes_relists_total" ["kind"];
    /// Lists and watches that failed.
    KUBERNETES_WATCH_ERRORS = Counter "nodens_kubernetes_watch_errors_total" ["kind"];
    /// Objects that were skipped because they are invalid.
    KUBERNETES_SKIPPED_OBJECTS = Counter "nodens_kubernetes_skipped_objects_total" ["kind"];
    /// How long what the API server had sent waited to be read, at most, by reads of its connection.
    KUBERNETES_READ_DELAY = Histogram "nodens_kubernetes_read_delay_seconds" [];
    /// Octets of the API server's response bodies.
    KUBERNETES_RECEIVED_BYTES = Counter "nodens_kubernetes_received_bytes_total" [];

    /// Queries that acl answered with REFUSED.
    ACL_BLOCKED = Counter "coredns_acl_blocked_requests_total" ["server", "zone", "view"];
    /// Queries that acl answered without records.
    ACL_FILTERED = Counter "coredns_acl_filtered_requests_total" ["server", "zone", "view"];
    /// Queries that acl did not answer at all.
    ACL_DROPPED = Counter "coredns_acl_dropped_requests_total" ["server", "zone", "view"];
    /// Queries that acl let through.
    ACL_ALLOWED = Counter "coredns_acl_allowed_requests_total" ["server", "view"];
    /// Queries of clients that have exceeded limit, by what they got: drop or refuse.
    LIMIT_REQUESTS = Counter "nodens_limit_requests_total" ["server", "zone", "view", "action"];
    /// Queries that were answered with a later name of the client's search list.
    AUTOPATH_SUCCESS = Counter "coredns_autopath_success_total" ["server"];
    /// Clients whose rate was forgotten while it still counted, since the table of limit was full.
    LIMIT_EVICTIONS = Counter "nodens_limit_evictions_total" ["server"];
    /// Queries that a template matched.
    TEMPLATE_MATCHES = Counter "coredns_template_matches_total" ["server", "zone", "view", "class", "type"];
    /// Records for which a template could not be expanded.
    TEMPLATE_FAILURES = Counter "coredns_template_failures_total" ["server", "zone", "view", "class", "type", "section", "template"];
    /// Expanded templates that are not valid records.
    TEMPLATE_RR_FAILURES = Counter "coredns_template_rr_failures_total" ["server", "zone", "view", "class", "type", "section", "template"];
    /// Answers for which dns64 synthesized IPv6 addresses.
    DNS64_TRANSLATED = Counter "coredns_dns64_requests_translated_total" ["server"];
    /// Queries for localhost below a domain, which search lists make.
    LOCAL_LOCALHOST = Counter "coredns_local_localhost_requests_total" [];

    /// Names in hosts files and in the Corefile's hosts blocks.
    HOSTS_ENTRIES = Gauge "coredns_hosts_entries" [];
    /// When a hosts file was read last, seconds since 1970.
    HOSTS_RELOAD_TIMESTAMP = Gauge "coredns_hosts_reload_timestamp_seconds" [];

    /// 1 while /ready returns 200, else 0.
    READY = Gauge "nodens_ready" [];
    /// 1 while a condition holds, else 0: what `nodens status` lists as wrong.
    CONDITION = Gauge "nodens_condition" ["condition", "severity"];
    /// Duration of the server's own requests to the health endpoint.
    HEALTH_REQUEST_DURATION = Histogram "coredns_health_request_duration_seconds" [];
    /// The server's own requests to the health endpoint that failed.
    HEALTH_REQUEST_FAILURES = Counter "coredns_health_request_failures_total" [];
    /// Reloads that failed; the previous configuration stays in effect.
    RELOAD_FAILED = Counter "coredns_reload_failed_total" [];
    /// 1 while the configuration on disk is refused or held back and an older one is in effect, else 0.
    CONFIG_REFUSED = Gauge "nodens_configuration_refused" [];
    /// Always 1; the first digits of the hash of the running configuration.
    CONFIG_INFO = Gauge "nodens_config_info" ["hash"];
    /// When the running configuration was loaded, seconds since 1970.
    CONFIG_LAST_SUCCESS = Gauge "nodens_config_last_success_timestamp_seconds" [];
    /// Since when the configuration on disk is refused, seconds since 1970; 0 if it is not.
    CONFIG_REFUSED_SINCE = Gauge "nodens_config_refused_since_timestamp_seconds" [];
    /// Since when the configuration on disk is held back, seconds since 1970; 0 if it is not.
    CONFIG_HELD_BACK_SINCE = Gauge "nodens_config_held_back_since_timestamp_seconds" [];
    /// Always 1; the hash of the running configuration.
    RELOAD_VERSION_INFO = Gauge "coredns_reload_version_info" ["hash", "value"];
    /// Failures to set the node's network up.
    NODECACHE_SETUP_ERRORS = Counter "coredns_nodecache_setup_errors_total" ["errortype"];
    /// Parts of the node's network that were missing and were set up again.
    NETSETUP_REPAIRS = Counter "nodens_netsetup_repairs_total" ["what"];

    /// Instances that were to take over from this one and ended before they served.
    HANDOVER_FAILURES = Counter "nodens_handover_failures_total" [];
    /// Starts of the server by its supervisor after a crash, since the supervisor's own start.
    RESTARTS = Counter "nodens_supervisor_restarts_total" [];

    /// Log lines that were dropped because the reader of the log was too slow.
    LOG_DROPPED = Counter "nodens_log_dropped_total" [];

    /// The memory limit of the control group, in octets; only where there is one.
    MEMORY_LIMIT_BYTES = Gauge "nodens_memory_limit_bytes" [];
    /// Octets in use of the memory limit, without the file cache; only where there is a limit.
    MEMORY_USED_BYTES = Gauge "nodens_memory_used_bytes" [];
    /// 1 while this is cut because memory is short, else 0.
    MEMORY_SHED = Gauge "nodens_memory_shed" ["what"];

    /// User and system CPU time.
    PROCESS_CPU = Counter "process_cpu_seconds_total" [];
    /// Open file descriptors.
    PROCESS_OPEN_FDS = Gauge "process_open_fds" [];
    /// The limit of open file descriptors.
    PROCESS_MAX_FDS = Gauge "process_max_fds" [];
    /// Resident memory.
    PROCESS_RESIDENT_MEMORY = Gauge "process_resident_memory_bytes" [];
    /// Virtual memory.
    PROCESS_VIRTUAL_MEMORY = Gauge "process_virtual_memory_bytes" [];
    /// When the process started, seconds since 1970.
    PROCESS_START_TIME = Gauge "process_start_time_seconds" [];
    /// Threads.
    PROCESS_THREADS = Gauge "process_threads" [];
}
