{{- /* The Corefile of the values; the same text as in manifests/base and manifests/overlays. */ -}}
{{- define "nodens.corefile" -}}
{{- $local := ne .Values.mode "pod-network" -}}
{{- $first := index .Values.localIPs 0 -}}
{{- if eq .Values.mode "link-local" -}}
# Everything that the node's pods ask, on one link-local address. `nodens check FILE` lists every mistake of a Corefile.
{{- else if eq .Values.mode "takeover" -}}
# Everything that the node's pods ask, on the link-local address and on that of the Service kube-dns. `nodens check FILE` lists
# every mistake of a Corefile.
{{- else -}}
# Everything that the node's pods ask, on the pod's own address: what leads them here is the redirect policy. `nodens check FILE`
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
    # Reads this file again when it has changed. A file with mistakes is refused, and what runs stays.
    reload
{{- if $local }}
    # /health, for the liveness probe: 503 when the workers stand still or the sockets do not answer. On the link-local
    # address, where no other program of the node has the port. After SIGTERM queries are answered for 5 s more.
    health {{ include "nodens.hostPort" (dict "ip" $first "port" 8080) }} {
        lameduck 5s
    }
    # /ready, for people: says what is missing. The readiness probe asks the same of its own process.
    ready {{ include "nodens.hostPort" (dict "ip" $first "port" 8181) }}
    # /metrics on the node's own address and no other; the DaemonSet sets POD_IP. Brackets fit IPv4 and IPv6.
{{- else }}
    # /health, for the liveness probe: 503 when the workers stand still or the sockets do not answer. After
    # SIGTERM queries are answered for 5 s more.
    health :8080 {
        lameduck 5s
    }
    # /ready, for the readiness probe: says what is missing.
    ready :8181
    # /metrics on the pod's address; the DaemonSet sets POD_IP. Brackets fit IPv4 and IPv6.
{{- end }}
    prometheus [{$POD_IP}]:9153

    # Cluster names and the addresses of the cluster, from a watch of the API server. {{ .Values.clusterDomain }} is the cluster's domain
    # (kubelet: clusterDomain).
    kubernetes {{ .Values.clusterDomain }}{{ if .Values.kubernetes.multicluster }} clusterset.local{{ end }} in-addr.arpa ip6.arpa {
        # Names of pods' addresses (10-244-1-7.default.pod.{{ .Values.clusterDomain }}) exist in every namespace that exists. `verified`
        # checks that there is such a pod: that needs the right to watch pods (components/pods-verified) and memory for them.
        pods {{ .Values.kubernetes.pods }}
{{- if eq .Values.kubernetes.endpoints "headless" }}
        # Only EndpointSlices with the label service.kubernetes.io/headless are watched: half the memory, and a small part of
        # the changes. Names of single endpoints of Services that have a ClusterIP do not exist then.
        endpoints headless
{{- else if eq .Values.kubernetes.endpoints "none" }}
        # No EndpointSlices are watched: headless Services and names of endpoints do not exist.
        endpoints none
{{- end }}
{{- if .Values.kubernetes.multicluster }}
        # Services of a set of clusters, by ServiceImports: that needs the right to watch them (components/multicluster).
        multicluster clusterset.local
{{- end }}
        # Addresses that are not the cluster's are asked of the node's resolvers.
        fallthrough in-addr.arpa ip6.arpa
{{- if .Values.kubernetes.snapshot }}
        # What is known is kept on the node, and served at the next start before the API server has been reached.
        snapshot /var/lib/nodens
{{- end }}
{{- if .Values.kubernetes.fallback }}
        # Asked until the first lists have come. /ready says no until then.
        fallback {{ join " " .Values.kubernetes.fallback }}
{{- else if eq .Values.mode "takeover" }}
        # Until the first lists have come the pods of the cluster DNS are asked, by another Service: the ClusterIP of kube-dns
        # leads to us. /ready says no until then.
        fallback {$NODENS_UPSTREAM_SERVICE_HOST}
{{- else if $local }}
        # A cluster DNS to ask until the first lists have come, on a node that starts without snapshot and without API server.
        # fallback 10.96.0.10
{{- end }}
{{- if .Values.kubernetes.maxStaleness }}
        # After so long without a word from the API server /ready says so; answers go on.
        max_staleness {{ .Values.kubernetes.maxStaleness }}
{{- end }}
    }
    # What the node's resolvers said. Cluster names never come here.
    cache {
        # The budget of the whole process; the memory limit of the DaemonSet reckons with it.
        size {{ .Values.cache.size }}
{{- if .Values.cache.serveStale }}
        # When the resolvers are away, answers of the last hour are better than none.
        serve_stale {{ .Values.cache.serveStale }} verify
{{- end }}
    }
    # A resolver that leads back to us is set aside.
    loop
    # All other names: the resolvers of the node. dnsPolicy Default gives the pod a copy of the node's resolv.conf as of its
    # start. Where that names systemd-resolved's stub, its own servers are asked, and followed when they change; where it does
    # not, components/node-resolv-conf has the node's file followed.
    forward . {{ join " " .Values.forward.to }} {
        # Beyond this many at a time queries are refused at once, so that dead resolvers do not fill the memory.
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
