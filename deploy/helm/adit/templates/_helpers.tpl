{{- define "adit.name" -}}
{{ .Values.resourceName | default "ztunnel" }}
{{- end }}

{{- define "adit.image" -}}
{{- $image := required "image is missing: set it to the image of adit in a registry that all nodes reach, such as --set image=registry.example/adit:0.1.0 (deploy/runbooks/replace-ztunnel.md says how to make one)" .Values.image -}}
{{- if eq $image "ztunnel" -}}
{{- fail "image is ztunnel, which is Istio's node proxy: set it to the image of adit, such as --set image=registry.example/adit:0.1.0" -}}
{{- end -}}
{{- if contains "/" $image -}}
{{ .Values.image }}
{{- else -}}
{{- with .Values.hub | default .Values.global.hub }}{{ . }}/{{ end -}}
{{ .Values.image }}:{{ .Values.tag | default .Values.global.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* Where istiod listens. */}}
{{- define "adit.istiod" -}}
istiod{{ with .Values.revision }}-{{ . }}{{ end }}.{{ .Values.istioNamespace }}.svc:15012
{{- end }}

{{- define "adit.platform" -}}
{{ .Values.platform | default .Values.global.platform }}
{{- end }}

{{/* The labels of every object; Kiali reads name and version from the pods'. */}}
{{- define "adit.labels" -}}
app.kubernetes.io/name: ztunnel
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: istio
app.kubernetes.io/version: {{ .Values.istioVersion | default .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "adit.metadata" -}}
name: {{ include "adit.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "adit.labels" . | nindent 2 }}
{{- with .Values.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The environment, as Istio's chart sets it. */}}
{{- define "adit.env" -}}
- { name: CA_ADDRESS, value: {{ .Values.caAddress | default (include "adit.istiod" .) | quote }} }
- { name: XDS_ADDRESS, value: {{ .Values.xdsAddress | default (include "adit.istiod" .) | quote }} }
{{- if or .Values.logAsJson .Values.global.logAsJson }}
- { name: LOG_FORMAT, value: json }
{{- end }}
{{- with .Values.network }}
- { name: NETWORK, value: {{ . | quote }} }
{{- end }}
- { name: RUST_LOG, value: {{ .Values.logLevel | quote }} }
- { name: RUST_BACKTRACE, value: "1" }
- { name: ISTIO_META_CLUSTER_ID, value: {{ .Values.multiCluster.clusterName | default "Kubernetes" | quote }} }
{{- with .Values.istioVersion }}
- { name: ISTIO_META_ISTIO_VERSION, value: {{ . | quote }} }
{{- end }}
- { name: INPOD_ENABLED, value: "true" }
- { name: TERMINATION_GRACE_PERIOD_SECONDS, value: {{ .Values.terminationGracePeriodSeconds | quote }} }
- name: POD_NAME
  valueFrom: { fieldRef: { fieldPath: metadata.name } }
- name: POD_NAMESPACE
  valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
- name: NODE_NAME
  valueFrom: { fieldRef: { fieldPath: spec.nodeName } }
- name: INSTANCE_IP
  valueFrom: { fieldRef: { fieldPath: status.podIP } }
- name: SERVICE_ACCOUNT
  valueFrom: { fieldRef: { fieldPath: spec.serviceAccountName } }
# The CPU limit; without one, the node's cores.
- name: ZTUNNEL_CPU_LIMIT
  valueFrom: { resourceFieldRef: { resource: limits.cpu, divisor: "1" } }
{{- if (.Values.resources.limits).cpu }}
- name: ZTUNNEL_RESOURCE_CPU_LIMIT
  valueFrom: { resourceFieldRef: { resource: limits.cpu, divisor: "1" } }
{{- end }}
{{- if (.Values.resources.requests).cpu }}
- name: ZTUNNEL_RESOURCE_CPU_REQUEST
  valueFrom: { resourceFieldRef: { resource: requests.cpu, divisor: "1" } }
{{- end }}
{{- range $name, $value := .Values.meshConfig.defaultConfig.proxyMetadata }}
- { name: {{ $name }}, value: {{ $value | quote }} }
{{- end }}
{{- range $name, $value := .Values.env }}
- { name: {{ $name }}, value: {{ $value | quote }} }
{{- end }}
{{- if .Values.peerCaCrl.enabled }}
- { name: CRL_PATH, value: /var/run/secrets/istio/crl/ca-crl.pem }
{{- end }}
{{- end }}
