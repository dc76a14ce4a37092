{{- define "mcp-ops.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "mcp-ops.account" -}}
{{- .Values.serviceAccount.name | default (include "mcp-ops.name" .) -}}
{{- end -}}

{{- define "mcp-ops.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "mcp-ops.labels" -}}
{{ include "mcp-ops.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "mcp-ops.image" -}}
{{- $repository := required "image.repository: where the image is" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "mcp-ops.check" -}}
{{- if and (gt (int .Values.replicas) 1) (not .Values.stores.secret) -}}
{{- fail "replicas: more than one needs stores.secret, since replicas without shared stores are separate guards" -}}
{{- end -}}
{{- if lt (int .Values.terminationGracePeriodSeconds) (add 30 (int .Values.preStopSeconds)) -}}
{{- fail "terminationGracePeriodSeconds: at least 30 more than preStopSeconds, since the server drains for 25 seconds" -}}
{{- end -}}
{{- if and .Values.ingress.enabled .Values.gateway.enabled -}}
{{- fail "ingress and gateway: one of the two" -}}
{{- end -}}
{{- if and (or .Values.ingress.enabled .Values.gateway.enabled) (not .Values.publicNames) -}}
{{- fail "publicNames: the names under which clients call, since others get status 421" -}}
{{- end -}}
{{- range $namespace, $rights := .Values.targets -}}
{{- if not (has $rights (list "read" "write" "destroy")) -}}
{{- fail (printf "targets.%s: \"read\", \"write\" or \"destroy\"" $namespace) -}}
{{- end -}}
{{- end -}}
{{- end -}}
