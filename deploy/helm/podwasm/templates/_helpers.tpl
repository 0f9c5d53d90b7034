{{/* The name that all objects begin with; their namespace keeps releases apart. */}}
{{- define "podwasm.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels that select the pods of a part: (list . "plugin") */}}
{{- define "podwasm.selector" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ include "podwasm.name" $ }}{{ if ne (index . 1) "plugin" }}-{{ index . 1 }}{{ end }}
app.kubernetes.io/instance: {{ $.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* All labels of a part: (list . "plugin") */}}
{{- define "podwasm.labels" -}}
{{- $ := index . 0 -}}
{{ include "podwasm.selector" . }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: podwasm
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ $.Chart.Name }}-{{ $.Chart.Version }}
{{- end -}}

{{/* An image's reference: (list . .Values.plugin.image) */}}
{{- define "podwasm.image" -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.name }}@{{ $image.digest }}
{{- else -}}
{{ $image.name }}:{{ default (index . 0).Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{/* Where the distribution keeps its files, as YAML. */}}
{{- define "podwasm.places" -}}
{{- $places := dict
  "k8s" (dict "socketFolder" "/run/containerd" "socketName" "containerd.sock" "root" "/var/lib/containerd" "kubelet" "/var/lib/kubelet")
  "k3s" (dict "socketFolder" "/run/k3s/containerd" "socketName" "containerd.sock" "root" "/var/lib/rancher/k3s/agent/containerd" "kubelet" "/var/lib/kubelet")
  "rke2" (dict "socketFolder" "/run/k3s/containerd" "socketName" "containerd.sock" "root" "/var/lib/rancher/rke2/agent/containerd" "kubelet" "/var/lib/kubelet")
  "k0s" (dict "socketFolder" "/run/k0s" "socketName" "containerd.sock" "root" "/var/lib/k0s/containerd" "kubelet" "/var/lib/k0s/kubelet")
  "microk8s" (dict "socketFolder" "/var/snap/microk8s/common/run" "socketName" "containerd.sock" "root" "/var/snap/microk8s/common/var/lib/containerd" "kubelet" "/var/snap/microk8s/common/var/lib/kubelet")
-}}
{{- $own := dict "socketFolder" .Values.containerd.socketFolder "socketName" .Values.containerd.socketName "root" .Values.containerd.root "kubelet" .Values.kubelet.root -}}
{{- $found := get $places .Values.distribution -}}
{{- range $key, $value := $own -}}
{{- if $value -}}{{- $found = set $found $key $value -}}{{- end -}}
{{- end -}}
{{- $found | toYaml -}}
{{- end -}}

{{/* Whether the daemon asks the Kubernetes API for anything: text, empty for no. */}}
{{- define "podwasm.asksAPI" -}}
{{- if or .Values.plugin.kubernetes.events .Values.plugin.kubernetes.evict }}true{{ end -}}
{{- end -}}

{{/* What the pods of both DaemonSets, and those that clean up, have in common. */}}
{{- define "podwasm.nodePod" -}}
automountServiceAccountToken: {{ .asksAPI | default false }}
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .Values.podPriorityClassNodeCritical }}
priorityClassName: system-node-critical
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What a container of root may do: (list . (list "SYS_ADMIN")) */}}
{{- define "podwasm.rootContext" -}}
{{- $ := index . 0 -}}
runAsUser: 0
runAsGroup: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  {{- with index . 1 }}
  add:
    {{- toYaml . | nindent 4 }}
  {{- end }}
seccompProfile:
  type: RuntimeDefault
{{- with $.Values.seLinuxOptions }}
seLinuxOptions:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A part's service account. */}}
{{- define "podwasm.serviceAccount" -}}
{{- $ := index . 0 -}}
{{- if $.Values.serviceAccount.create -}}
{{ include "podwasm.name" $ }}-{{ index . 1 }}
{{- else -}}
default
{{- end -}}
{{- end -}}

{{/* The flags by which `podwasm nri` knows the node. */}}
{{- define "podwasm.nriFlags" -}}
{{- $places := include "podwasm.places" . | fromYaml -}}
- --host=/host
- --config={{ .Values.containerd.config }}
- --containerd-socket={{ $places.socketFolder }}/{{ $places.socketName }}
{{- range .Values.containerd.restartCommand }}
- {{ printf "--restart=%s" . | quote }}
{{- end }}
{{- end -}}
