{{- define "nodens.labels" -}}
app.kubernetes.io/name: nodens
k8s-app: nodens
{{- end -}}
