{{- /* Written by `mcp-ops schemas`; do not edit. */ -}}

{{- define "mcp-ops.rules.read" -}}
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
- apiGroups: [""]
  resources: [pods, events]
  verbs: [list]
- apiGroups: [apps]
  resources: [deployments, statefulsets, daemonsets]
  verbs: [get, list]
- apiGroups: [apps]
  resources: [replicasets, controllerrevisions]
  verbs: [list]
- apiGroups: [batch]
  resources: [jobs, cronjobs]
  verbs: [list]
- apiGroups: [metrics.k8s.io]
  resources: [pods]
  verbs: [list]
{{- end -}}

{{- define "mcp-ops.rules.write" -}}
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
- apiGroups: [""]
  resources: [pods]
  verbs: [get]
- apiGroups: [apps]
  resources: [deployments, statefulsets, daemonsets]
  verbs: [patch]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [create, get]
- apiGroups: [batch]
  resources: [cronjobs]
  verbs: [get, patch]
{{- end -}}

{{- define "mcp-ops.rules.destroy" -}}
- apiGroups: [batch]
  resources: [jobs]
  verbs: [delete]
{{- end -}}

{{- define "mcp-ops.rules.references" -}}
- apiGroups: [""]
  resources: [configmaps, secrets]
  verbs: [get]
{{- end -}}
