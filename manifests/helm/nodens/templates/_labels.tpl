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
