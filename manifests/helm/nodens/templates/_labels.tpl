{{- define "nodens.labels" -}}
app.kubernetes.io/name: nodens
k8s-app: nodens
{{- end -}}

{{- /* The same, and those by which a Prometheus operator chooses what it takes up. */ -}}
{{- define "nodens.monitoringLabels" -}}
{{ include "nodens.labels" . }}
{{- range $name, $value := .Values.monitoring.labels }}
{{ $name | quote }}: {{ $value | quote }}
{{- end }}
{{- end -}}
