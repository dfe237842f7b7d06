{{- /* The Corefile of the values; the same text as in manifests/base and manifests/overlays. */ -}}
{{- define "nodens.corefile" -}}
{{- $local := ne .Values.mode "pod-network" -}}
{{- $first := index .Values.localIPs 0 -}}
{{- if eq .Values.mode "link-local" -}}
# All queries of the node's pods, on one link-local address. `nodens check FILE` lists every mistake of a Corefile.
{{- else if eq .Values.mode "takeover" -}}
# All queries of the node's pods, on the link-local address and on that of the Service kube-dns. `nodens check FILE` lists
# every mistake of a Corefile.
{{- else -}}
# All queries of the node's pods, on the pod's own address: the redirect policy sends them here. `nodens check FILE`
# lists every mistake of a Corefile.
{{- end }}
.:53 {
{{- if eq .Values.mode "link-local" }}
    # The address that kubelet's clusterDNS names; the same as in the arguments of the DaemonSet.
    bind {{ join " " .Values.localIPs }}
{{ else if eq .Values.mode "takeover" }}
    # The link-local address, and the ClusterIP that every kubelet knows already. Kubernetes sets the variable in the namespace
    # of the Service. For dual stack write the other family's ClusterIP here, in -localip and in --clusterip.
    bind {{ join " " .Values.localIPs }} {$ {{- include "nodens.clusterDNSVariable" . -}} }
{{ end }}
    # Queries that fail are logged, with the reason.
    errors
    # Reads this file again when it changes. A file with mistakes is rejected, and the running configuration stays.
    reload
{{- if $local }}
    # /health, for people and monitoring: 503 when the workers stall or the sockets do not answer. On the link-local
    # address, where no other program of the node has the port. After SIGTERM queries are answered for 5 s more.
    health {{ include "nodens.hostPort" (dict "ip" $first "port" 8080) }} {
        lameduck 5s
    }
    # /ready, for people: lists what is missing. The readiness probe checks the same in its own process.
    ready {{ include "nodens.hostPort" (dict "ip" $first "port" 8181) }}
    # /metrics on the node's own address only; the DaemonSet sets POD_IP. Brackets fit IPv4 and IPv6.
{{- else }}
    # /health, for people and monitoring: 503 when the workers stall or the sockets do not answer. After
    # SIGTERM queries are answered for 5 s more.
    health :8080 {
        lameduck 5s
    }
    # /ready, for people: lists what is missing. The readiness probe checks the same in its own process.
    ready :8181
    # /metrics on the pod's address; the DaemonSet sets POD_IP. Brackets fit IPv4 and IPv6.
{{- end }}
    prometheus [{$POD_IP}]:9153

    # Cluster names and the addresses of the cluster, from a watch of the API server. {{ .Values.clusterDomain }} is the cluster's domain
    # (kubelet: clusterDomain).
    kubernetes {{ .Values.clusterDomain }}{{ if .Values.kubernetes.multicluster }} clusterset.local{{ end }} in-addr.arpa ip6.arpa {
        # Names of pods' addresses (10-244-1-7.default.pod.{{ .Values.clusterDomain }}) exist in every existing namespace. `verified`
        # checks that the pod exists: that needs the right to watch pods (components/pods-verified) and memory for them.
        pods {{ .Values.kubernetes.pods }}
        {{- if .Values.kubernetes.podsOfNode }}
        # Who a client is: in the log, in limits and in `nodens top`.
        pods node
        {{- end }}
        {{- with .Values.kubernetes.topology }}
        # Endpoints of headless Services with a trafficDistribution that are in this node's zone, or on it.
        topology {{ . }}
        {{- end }}
        {{- if .Values.kubernetes.zonal }}
        # ZONE.pin._zone.SERVICE.NAMESPACE.svc and ZONE.prefer._zone.SERVICE.NAMESPACE.svc.
        zonal
        {{- end }}
{{- if eq .Values.kubernetes.endpoints "headless" }}
        # Only EndpointSlices with the label service.kubernetes.io/headless are watched: half the memory, and a small part of
        # the changes. Names of single endpoints of Services that have a ClusterIP are asked of `fallback`, if it is given, and
        # do not exist otherwise. The overlay all-endpoints watches all.
        endpoints headless
{{- else if eq .Values.kubernetes.endpoints "all" }}
        # All EndpointSlices are watched: names of single endpoints of all Services, and of their addresses, are answered here.
        endpoints all
{{- else if eq .Values.kubernetes.endpoints "none" }}
        # No EndpointSlices are watched: headless Services and names of endpoints do not exist.
        endpoints none
{{- end }}
{{- if .Values.kubernetes.multicluster }}
        # Services of a set of clusters, by ServiceImports: that needs the right to watch them (components/multicluster).
        multicluster clusterset.local
{{- end }}
        # Addresses that are not the cluster's go to the node's resolvers.
        fallthrough in-addr.arpa ip6.arpa
{{- if .Values.kubernetes.snapshot }}
        # The store is saved on the node, and served at the next start before the API server is reached.
        snapshot /var/lib/nodens
{{- end }}
{{- if .Values.kubernetes.fallback }}
        # Used until the first lists are complete. /ready returns 503 until then.
        fallback {{ join " " .Values.kubernetes.fallback }}
{{- else if eq .Values.mode "takeover" }}
        # Until the first lists are complete, queries go to the pods of the cluster DNS, by another Service: the ClusterIP of
        # kube-dns leads to Nodens itself. /ready returns 503 until then.
        fallback {$NODENS_UPSTREAM_SERVICE_HOST}
{{- else if $local }}
        # A cluster DNS to use until the first lists are complete, if a node starts without a snapshot and without the API server.
        # fallback 10.96.0.10
{{- end }}
{{- if .Values.kubernetes.maxStaleness }}
        # When the API server is silent for so long, /ready returns 503; names are still answered.
        max_staleness {{ .Values.kubernetes.maxStaleness }}
{{- end }}
    }
    # Answers of the node's resolvers. Cluster names are never cached.
    cache {
        # The budget of the whole process; the memory limit of the DaemonSet includes it.
        size {{ .Values.cache.size }}
{{- if .Values.cache.serveStale }}
        # While the resolvers do not answer, expired answers of the last hour are used.
        serve_stale {{ .Values.cache.serveStale }} verify
{{- end }}
    }
    # A resolver that sends queries back here is not used.
    loop
    # All other names: the resolvers of the node. dnsPolicy Default gives the pod a copy of the node's resolv.conf as of its
    # start. If it names systemd-resolved's stub, resolved's own servers are used, and followed when they change; otherwise
    # use components/node-resolv-conf to follow the node's file.
    forward . {{ join " " .Values.forward.to }} {
        # Beyond this many at a time, queries are refused at once, so dead resolvers do not fill the memory.
        max_concurrent {{ .Values.forward.maxConcurrent }}
    }
}
{{ with .Values.extraServers }}{{ . }}{{ end -}}
{{- end -}}

{{- /* ip and port as an address. */ -}}
{{- define "nodens.hostPort" -}}
{{- if contains ":" .ip }}[{{ .ip }}]{{ else }}{{ .ip }}{{ end }}:{{ .port }}
{{- end -}}

{{- /* The variable in which the kubelet puts the ClusterIP of the cluster DNS. */ -}}
{{- define "nodens.clusterDNSVariable" -}}
{{ .Values.clusterDNS.service | upper | replace "-" "_" }}_SERVICE_HOST
{{- end -}}
