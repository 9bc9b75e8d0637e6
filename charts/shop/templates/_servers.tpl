{{/* The addresses of the broker and the databases, and the Secrets with the passwords. */}}

{{/* A host as part of a URI. */}}
{{- define "shop.uriHost" -}}
{{- contains ":" . | ternary (printf "[%s]" .) . }}
{{- end }}

{{/*
The host name of a component. It contains the namespace, because KEDA uses the broker's URI in
another one. Arguments: root and component.
*/}}
{{- define "shop.host" -}}
{{- printf "%s-%s.%s.svc" (include "shop.fullname" .root) .component .root.Release.Namespace }}
{{- end }}

{{- define "shop.postgresql.host" -}}
{{- .Values.postgresql.enabled | ternary (include "shop.host" (dict "root" . "component" "postgresql")) .Values.externalPostgresql.host }}
{{- end }}

{{- define "shop.postgresql.port" -}}
{{- .Values.postgresql.enabled | ternary 5432 .Values.externalPostgresql.port | int }}
{{- end }}

{{- define "shop.postgresql.existingSecretName" -}}
{{- .Values.postgresql.enabled | ternary .Values.postgresql.existingSecret .Values.externalPostgresql.existingSecret }}
{{- end }}

{{/* The Secret with the passwords of all roles: `<role>-password`. */}}
{{- define "shop.postgresql.secret" -}}
{{- include "shop.postgresql.existingSecretName" . | default (printf "%s-postgresql" (include "shop.fullname" .)) }}
{{- end }}

{{/* Whether the chart creates roles and databases. It does if it has the password of an admin. */}}
{{- define "shop.postgresql.isCreated" -}}
{{- or .Values.postgresql.enabled (not (empty .Values.externalPostgresql.admin.existingSecret)) | ternary "true" "" }}
{{- end }}

{{/*
Host and port of the databases, for a URI. Arguments: root, and direct (whether to bypass a pooler).
*/}}
{{- define "shop.postgresql.address" -}}
{{- $host := include "shop.postgresql.host" .root }}
{{- $port := include "shop.postgresql.port" .root }}
{{- with .root.Values.externalPostgresql.direct }}
{{- if and $.direct .host }}
{{- $host = .host }}
{{- $port = int .port }}
{{- end }}
{{- end }}
{{- printf "%s:%v" (include "shop.uriHost" $host) $port }}
{{- end }}

{{/*
The URI of a database. Arguments: root, role, database, direct, and password (the variable with the
password, if one is needed).
*/}}
{{- define "shop.postgresql.uri" -}}
{{- $password := "" }}
{{- with .password }}
{{- $password = printf ":$(%s)" . }}
{{- end }}
{{- $parameters := .root.Values.postgresql.enabled | ternary "" .root.Values.externalPostgresql.parameters }}
{{- printf "postgresql+psycopg2://%s%s@%s/%s" .role $password (include "shop.postgresql.address" .) .database }}{{ with $parameters }}?{{ . }}{{ end }}
{{- end }}

{{/* The variables of a service for its database. Arguments: root and name. */}}
{{- define "shop.postgresql.env" -}}
{{- $variable := printf "%s_DB_PASSWORD" (upper .name) }}
{{- $secret := include "shop.postgresql.secret" .root -}}
{{ include "shop.secretVariable" (dict "variable" $variable "secret" $secret "key" (printf "%s-password" .name)) }}
- name: {{ upper .name }}_DB_URI
  value: {{ include "shop.postgresql.uri" (dict "root" .root "role" .name "database" .name "password" $variable) | quote }}
{{- end }}

{{/* The connections of one replica of a service: twice DB_POOL_SIZE. Arguments: root and name. */}}
{{- define "shop.postgresql.perReplica" -}}
{{- $size := 12 }}
{{- range concat .root.Values.extraEnv (include "shop.settings" . | fromJson).extraEnv }}
{{- if eq .name "DB_POOL_SIZE" }}
{{- $size = .value | default $size | int }}
{{- end }}
{{- end }}
{{- mul 2 $size }}
{{- end }}

{{/*
The maximum of connections for the role of a service. During an update there can be twice as many
replicas. Ten more are for audit and replay. Arguments: root and name.
*/}}
{{- define "shop.postgresql.connections" -}}
{{- add (mul 2 (include "shop.maxReplicas" .) (include "shop.postgresql.perReplica" .)) 10 }}
{{- end }}

{{/* The CA that libpq trusts, if the URI contains sslmode=verify-full. */}}
{{- define "shop.postgresql.caEnv" -}}
{{- if and (include "shop.ca" .) (not .Values.postgresql.enabled) }}
- name: PGSSLROOTCERT
  value: {{ include "shop.caFile" . }}
{{- end }}
{{- end }}

{{- define "shop.rabbitmq.port" -}}
{{- .Values.rabbitmq.enabled | ternary 5672 .Values.externalRabbitmq.port | int }}
{{- end }}

{{- define "shop.rabbitmq.existingSecretName" -}}
{{- .Values.rabbitmq.enabled | ternary .Values.rabbitmq.existingSecret .Values.externalRabbitmq.existingSecret }}
{{- end }}

{{/* The Secret with the passwords of all users, `<user>-password`, and with definitions.json. */}}
{{- define "shop.rabbitmq.secret" -}}
{{- include "shop.rabbitmq.existingSecretName" . | default (printf "%s-rabbitmq" (include "shop.fullname" .)) }}
{{- end }}

{{- define "shop.rabbitmq.vhost" -}}
{{- .Values.rabbitmq.enabled | ternary "/" (.Values.externalRabbitmq.vhost | default "/") }}
{{- end }}

{{/* The URI of the broker for a user, with the variable AMQP_PASSWORD. Arguments: root and user. */}}
{{- define "shop.rabbitmq.uri" -}}
{{- $external := .root.Values.externalRabbitmq }}
{{- $scheme := "amqp" }}
{{- $host := include "shop.host" (dict "root" .root "component" "rabbitmq") }}
{{- if not .root.Values.rabbitmq.enabled }}
{{- $scheme = $external.tls | ternary "amqps" "amqp" }}
{{- $host = include "shop.uriHost" $external.host }}
{{- end }}
{{- $vhost := include "shop.rabbitmq.vhost" .root | trimPrefix "/" }}
{{- printf "%s://%s:$(AMQP_PASSWORD)@%s:%s/%s" $scheme .user $host (include "shop.rabbitmq.port" .root) $vhost }}
{{- end }}

{{- define "shop.tokenSecret" -}}
{{- .Values.tokenSecret.existingSecret | default (printf "%s-gateway" (include "shop.fullname" .)) }}
{{- end }}

{{/* An environment variable from a Secret. Arguments: variable, secret and key. */}}
{{- define "shop.secretVariable" -}}
- name: {{ .variable }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret | quote }}
      key: {{ .key | quote }}
{{- end }}

{{/* The variables of one user for the broker. Arguments: root and user. */}}
{{- define "shop.rabbitmq.env" -}}
{{- $secret := include "shop.rabbitmq.secret" .root -}}
{{ include "shop.secretVariable" (dict "variable" "AMQP_PASSWORD" "secret" $secret "key" (printf "%s-password" .user)) }}
- name: AMQP_URI
  value: {{ include "shop.rabbitmq.uri" . | quote }}
{{- if and (include "shop.ca" .root) (not .root.Values.rabbitmq.enabled) .root.Values.externalRabbitmq.tls }}
- name: SSL_CERT_FILE # instead of the image's own file, for amqps
  value: {{ include "shop.caFile" .root }}
{{- end }}
{{- end }}

{{/* Whether services and migrations require a restricted user of the broker. */}}
{{- define "shop.rabbitmq.restrictedUsers" -}}
{{- (.Values.rabbitmq.enabled | ternary .Values.rabbitmq .Values.externalRabbitmq).restrictedUsers }}
{{- end }}

{{/* The volume with the CA of external servers, as JSON, if there is one. */}}
{{- define "shop.ca" -}}
{{- with .Values.trustedCA }}
{{- $items := list (dict "key" .key "path" "ca.crt") }}
{{- if .existingSecret }}
{{- dict "name" "ca" "secret" (dict "secretName" .existingSecret "items" $items) | toJson }}
{{- else if .existingConfigMap }}
{{- dict "name" "ca" "configMap" (dict "name" .existingConfigMap "items" $items) | toJson }}
{{- end }}
{{- end }}
{{- end }}

{{- define "shop.caFile" -}}
/etc/shop/ca/ca.crt
{{- end }}

{{/* Entries for lists of volumes and of mounts. */}}
{{- define "shop.caVolume" -}}
{{- with include "shop.ca" . -}}
- {{ fromJson . | toYaml | nindent 2 | trim }}
{{- end }}
{{- end }}

{{- define "shop.caMount" -}}
{{- if include "shop.ca" . -}}
- name: ca
  mountPath: {{ include "shop.caFile" . | dir }}
  readOnly: true
{{- end }}
{{- end }}
