{{- define "nodens.labels" -}}
app.kubernetes.io/name: nodens
k8s-app: {{ include "nodens.name" . }}
{{- end -}}

{{- /* The DaemonSet of all nodes, or that of the canary nodes. */ -}}
{{- define "nodens.name" -}}
{{ if .Values.canary }}nodens-canary{{ else }}nodens{{ end }}
{{- end -}}

{{- define "nodens.configData" -}}
{{ .Values.corefile | default (include "nodens.corefile" .) }}
{{- end -}}

{{- /* With hashedConfig, each Corefile has a ConfigMap of its own. */ -}}
{{- define "nodens.configName" -}}
{{ include "nodens.name" . }}{{ if .Values.hashedConfig }}-{{ include "nodens.configData" . | sha256sum | trunc 10 }}{{ end }}
{{- end -}}

{{- /* The same, and those by which a Prometheus operator chooses what it takes up. */ -}}
{{- define "nodens.monitoringLabels" -}}
{{ include "nodens.labels" . }}
{{- range $name, $value := .Values.monitoring.labels }}
{{ $name | quote }}: {{ $value | quote }}
{{- end }}
{{- end -}}

{{- /* A digest always names the same image, and goes before the tag. */ -}}
{{- define "nodens.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- /* What every term of the required node affinity has: virtual nodes run no DaemonSet, and a node has one channel. */ -}}
{{- define "nodens.nodes" -}}
- key: nodens-channel
  operator: {{ if .Values.canary }}In{{ else }}NotIn{{ end }}
  values: [canary]
- key: type
  operator: NotIn
  values: [virtual-kubelet]
- key: eks.amazonaws.com/compute-type
  operator: NotIn
  values: [fargate]
{{- end -}}

{{- /* The affinity of the values; each of its required terms, of which one has to fit a node, gets what is above. */ -}}
{{- define "nodens.affinity" -}}
{{- $given := .Values.affinity | default dict -}}
{{- $node := get $given "nodeAffinity" | default dict -}}
{{- $required := get $node "requiredDuringSchedulingIgnoredDuringExecution" | default dict -}}
{{- $terms := get $required "nodeSelectorTerms" -}}
nodeAffinity:
  {{- with get $node "preferredDuringSchedulingIgnoredDuringExecution" }}
  preferredDuringSchedulingIgnoredDuringExecution:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms:
      {{- if $terms }}
      {{- range $term := $terms }}
      - matchExpressions:
          {{- include "nodens.nodes" $ | nindent 10 }}
          {{- with get $term "matchExpressions" }}
          {{- range . }}
          - {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- end }}
        {{- with get $term "matchFields" }}
        matchFields:
          {{- toYaml . | nindent 10 }}
        {{- end }}
      {{- end }}
      {{- else }}
      - matchExpressions:
          {{- include "nodens.nodes" . | nindent 10 }}
      {{- end }}
{{- range $name, $value := $given }}
{{- if ne $name "nodeAffinity" }}
{{ $name }}:
  {{- toYaml $value | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}
