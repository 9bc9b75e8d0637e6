{{- define "shop.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/*
At most 40 characters: with its suffixes, a label of a StatefulSet's pod must have fewer than 64.
*/}}
{{- define "shop.fullname" -}}
{{- $name := include "shop.name" . }}
{{- $joined := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- .Values.fullnameOverride | default $joined | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Arguments: root and component. */}}
{{- define "shop.selector" -}}
app.kubernetes.io/name: {{ include "shop.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels of pods. They contain no versions, so that a new chart alone restarts nothing. */}}
{{- define "shop.podLabels" -}}
{{- $own := include "shop.selector" . | fromYaml }}
{{- merge $own (deepCopy .root.Values.commonLabels) | toYaml }}
{{- end }}

{{- define "shop.labels" -}}
{{- $own := include "shop.selector" . | fromYaml }}
{{- $_ := set $own "app.kubernetes.io/version" (.root.Chart.AppVersion | trunc 63) }}
{{- $_ := set $own "app.kubernetes.io/managed-by" .root.Release.Service }}
{{- $_ := set $own "app.kubernetes.io/part-of" (include "shop.name" .root) }}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63) }}
{{- merge $own (deepCopy .root.Values.commonLabels) | toYaml }}
{{- end }}

{{- define "shop.metadata" -}}
name: {{ include "shop.fullname" .root }}-{{ .name | default .component }}
namespace: {{ .root.Release.Namespace | quote }}
labels:
  {{- include "shop.labels" . | nindent 2 }}
{{- end }}

{{/*
The reference of an image. Arguments: root, image (registry, repository, tag, digest), and the
defaults registry, repository and tag.
*/}}
{{- define "shop.image" -}}
{{- $image := .image | default dict }}
{{- $registry := .root.Values.global.imageRegistry | default $image.registry | default .registry }}
{{- $repository := required "an image needs a repository" ($image.repository | default .repository) }}
{{- $tag := $image.tag | default .tag }}
{{- if eq (toString $tag) "latest" }}
{{- fail (printf "the image %s has the tag `latest`, which names no version: set a version" $repository) }}
{{- end }}
{{- with $registry }}{{ trimSuffix "/" . }}/{{ end }}{{ $repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $tag }}{{ end }}
{{- end }}

{{/* The reference of one of the suite's own images. Arguments: root, name and image. */}}
{{- define "shop.ownImage" -}}
{{- $all := .root.Values.image }}
{{- $repository := printf "%s/%s" (trimAll "/" $all.namespace) .name | trimPrefix "/" }}
{{- $tag := $all.tag | default .root.Chart.AppVersion }}
{{- include "shop.image" (dict "root" .root "image" .image "registry" $all.registry "repository" $repository "tag" $tag) }}
{{- end }}

{{/*
The settings that all pods share. Arguments: root, component, user (its id, unless the platform
assigns one), and own (the component's settings, with nodeSelector, tolerations and affinity).
*/}}
{{- define "shop.pod" -}}
{{- $values := .root.Values }}
{{- $own := .own | default dict -}}
serviceAccountName: {{ include "shop.fullname" .root }}-{{ .component }}
automountServiceAccountToken: false
enableServiceLinks: false # the variables of a Service named `gateway` would be read as settings
{{- $pullSecrets := list }}
{{- range concat ($values.global.imagePullSecrets | default list) $values.imagePullSecrets }}
{{- $pullSecrets = append $pullSecrets (kindIs "map" . | ternary (get (kindIs "map" . | ternary . dict) "name") .) }}
{{- end }}
{{- with uniq $pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  {{- if $values.fixedUserIds }}
  runAsUser: {{ .user }}
  runAsGroup: {{ .user }}
  fsGroup: {{ .user }}
  {{- end }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with $values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $own.nodeSelector | default $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations | default $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.affinity | default $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The address families of a Service. The API server chooses an empty one. */}}
{{- define "shop.ipFamilies" -}}
{{- with .Values.ipFamilyPolicy -}}
ipFamilyPolicy: {{ . }}
{{ end }}
{{- with .Values.ipFamilies -}}
ipFamilies: {{ toJson . }}
{{- end }}
{{- end }}

{{/* Pod Security "restricted" for containers, and a read-only root file system. */}}
{{- define "shop.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{- define "shop.podAnnotations" -}}
{{- $given := mustMergeOverwrite (deepCopy .root.Values.podAnnotations) (deepCopy (.own | default dict)) }}
{{- with mustMergeOverwrite $given (.more | default dict) -}}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* A probe with one handler: the given one, or by default an HTTP path on the health port. */}}
{{- define "shop.probe" -}}
{{- $handlers := list }}
{{- range list "httpGet" "exec" "tcpSocket" "grpc" }}
{{- if hasKey $.probe . }}
{{- $handlers = append $handlers . }}
{{- end }}
{{- end }}
{{- if gt (len $handlers) 1 }}
{{- fail (printf "%s of %s has %s: a probe has one handler" .kind .name (join " and " $handlers)) }}
{{- end }}
{{- $default := dict "httpGet" (dict "path" .path "port" "health") }}
{{- merge (deepCopy .probe) ($handlers | empty | ternary $default dict) | toYaml }}
{{- end }}

{{/* The volume of a server. It outlives the release. Argument: persistence. */}}
{{- define "shop.claims" -}}
volumeClaimTemplates:
  - metadata:
      name: data
    spec:
      accessModes: [ReadWriteOnce]
      {{- with .storageClass }}
      storageClassName: {{ . | quote }}
      {{- end }}
      resources:
        requests:
          storage: {{ .size }}
{{- end }}
