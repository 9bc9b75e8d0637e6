{{/* Where the broker and the databases are, and whose passwords are where. */}}

{{/* A host as it stands in a URI. */}}
{{- define "shop.inUri" -}}
{{- contains ":" . | ternary (printf "[%s]" .) . }}
{{- end }}

{{/* With the namespace: KEDA reads the broker's URI in another one. Takes root and component. */}}
{{- define "shop.host" -}}
{{- printf "%s-%s.%s.svc" (include "shop.fullname" .root) .component .root.Release.Namespace }}
{{- end }}

{{- define "shop.postgresql.host" -}}
{{- .Values.postgresql.enabled | ternary (include "shop.host" (dict "root" . "component" "postgresql")) .Values.externalPostgresql.host }}
{{- end }}

{{- define "shop.postgresql.port" -}}
{{- .Values.postgresql.enabled | ternary 5432 .Values.externalPostgresql.port | int }}
{{- end }}

{{- define "shop.postgresql.givenSecret" -}}
{{- .Values.postgresql.enabled | ternary .Values.postgresql.existingSecret .Values.externalPostgresql.existingSecret }}
{{- end }}

{{/* The Secret with the passwords of all roles: `<role>-password`. */}}
{{- define "shop.postgresql.secret" -}}
{{- include "shop.postgresql.givenSecret" . | default (printf "%s-postgresql" (include "shop.fullname" .)) }}
{{- end }}

{{/* Whether the chart makes roles and databases: it does where it knows a role that may. */}}
{{- define "shop.postgresql.isMade" -}}
{{- or .Values.postgresql.enabled (not (empty .Values.externalPostgresql.admin.existingSecret)) | ternary "true" "" }}
{{- end }}

{{/* Host and port of the databases, as in a URI. Takes root, and direct: whether to pass a pooler by. */}}
{{- define "shop.postgresql.address" -}}
{{- $host := include "shop.postgresql.host" .root }}
{{- $port := include "shop.postgresql.port" .root }}
{{- with .root.Values.externalPostgresql.direct }}
{{- if and $.direct .host }}
{{- $host = .host }}
{{- $port = int .port }}
{{- end }}
{{- end }}
{{- printf "%s:%v" (include "shop.inUri" $host) $port }}
{{- end }}

{{/* The URI of a database. Takes root, role, database, direct, and the variable with the password, if one is needed. */}}
{{- define "shop.postgresql.uri" -}}
{{- $password := "" }}
{{- with .password }}
{{- $password = printf ":$(%s)" . }}
{{- end }}
{{- $parameters := .root.Values.postgresql.enabled | ternary "" .root.Values.externalPostgresql.parameters }}
{{- printf "postgresql+psycopg2://%s%s@%s/%s" .role $password (include "shop.postgresql.address" .) .database }}{{ with $parameters }}?{{ . }}{{ end }}
{{- end }}

{{/* The database of a service as that service sees it. Takes root and name. */}}
{{- define "shop.postgresql.env" -}}
{{- $variable := printf "%s_DB_PASSWORD" (upper .name) }}
{{- $secret := include "shop.postgresql.secret" .root -}}
{{ include "shop.secretVariable" (dict "variable" $variable "secret" $secret "key" (printf "%s-password" .name)) }}
- name: {{ upper .name }}_DB_URI
  value: {{ include "shop.postgresql.uri" (dict "root" .root "role" .name "database" .name "password" $variable) | quote }}
{{- end }}

{{/* How many connections a copy of a service may take: twice DB_POOL_SIZE. Takes root and name. */}}
{{- define "shop.postgresql.ofOneCopy" -}}
{{- $size := 12 }}
{{- range concat .root.Values.extraEnv (include "shop.settings" . | fromJson).extraEnv }}
{{- if eq .name "DB_POOL_SIZE" }}
{{- $size = .value | default $size | int }}
{{- end }}
{{- end }}
{{- mul 2 $size }}
{{- end }}

{{/*
How many connections the role of a service may have. While all copies are replaced there are twice as many, and some more are
for audit and replay. Takes root and name.
*/}}
{{- define "shop.postgresql.connections" -}}
{{- add (mul 2 (include "shop.copies" .) (include "shop.postgresql.ofOneCopy" .)) 10 }}
{{- end }}

{{/* What libpq trusts, where the URI says sslmode=verify-full. */}}
{{- define "shop.postgresql.caEnv" -}}
{{- if and (include "shop.ca" .) (not .Values.postgresql.enabled) }}
- name: PGSSLROOTCERT
  value: {{ include "shop.caFile" . }}
{{- end }}
{{- end }}

{{- define "shop.rabbitmq.port" -}}
{{- .Values.rabbitmq.enabled | ternary 5672 .Values.externalRabbitmq.port | int }}
{{- end }}

{{- define "shop.rabbitmq.givenSecret" -}}
{{- .Values.rabbitmq.enabled | ternary .Values.rabbitmq.existingSecret .Values.externalRabbitmq.existingSecret }}
{{- end }}

{{/* The Secret with the passwords of all users, `<user>-password`, and with definitions.json. */}}
{{- define "shop.rabbitmq.secret" -}}
{{- include "shop.rabbitmq.givenSecret" . | default (printf "%s-rabbitmq" (include "shop.fullname" .)) }}
{{- end }}

{{- define "shop.rabbitmq.vhost" -}}
{{- .Values.rabbitmq.enabled | ternary "/" (.Values.externalRabbitmq.vhost | default "/") }}
{{- end }}

{{/* The URI of the broker for a user, whose password is in AMQP_PASSWORD. Takes root and user. */}}
{{- define "shop.rabbitmq.uri" -}}
{{- $external := .root.Values.externalRabbitmq }}
{{- $scheme := "amqp" }}
{{- $host := include "shop.host" (dict "root" .root "component" "rabbitmq") }}
{{- if not .root.Values.rabbitmq.enabled }}
{{- $scheme = $external.tls | ternary "amqps" "amqp" }}
{{- $host = include "shop.inUri" $external.host }}
{{- end }}
{{- $vhost := include "shop.rabbitmq.vhost" .root | trimPrefix "/" }}
{{- printf "%s://%s:$(AMQP_PASSWORD)@%s:%s/%s" $scheme .user $host (include "shop.rabbitmq.port" .root) $vhost }}
{{- end }}

{{- define "shop.tokenSecret" -}}
{{- .Values.tokenSecret.existingSecret | default (printf "%s-gateway" (include "shop.fullname" .)) }}
{{- end }}

{{/* An environment variable from a Secret. Takes variable, secret and key. */}}
{{- define "shop.secretVariable" -}}
- name: {{ .variable }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret | quote }}
      key: {{ .key | quote }}
{{- end }}

{{/* The broker as seen by one user. Takes root and user. */}}
{{- define "shop.rabbitmq.env" -}}
{{- $secret := include "shop.rabbitmq.secret" .root -}}
{{ include "shop.secretVariable" (dict "variable" "AMQP_PASSWORD" "secret" $secret "key" (printf "%s-password" .user)) }}
- name: AMQP_URI
  value: {{ include "shop.rabbitmq.uri" . | quote }}
{{- if and (include "shop.ca" .root) (not .root.Values.rabbitmq.enabled) .root.Values.externalRabbitmq.tls }}
- name: SSL_CERT_FILE # instead of the image's own, for amqps
  value: {{ include "shop.caFile" .root }}
{{- end }}
{{- end }}

{{/* Whether services and migrations insist on a user of the broker that may do its own tasks alone. */}}
{{- define "shop.rabbitmq.restrictedUsers" -}}
{{- (.Values.rabbitmq.enabled | ternary .Values.rabbitmq .Values.externalRabbitmq).restrictedUsers }}
{{- end }}

{{/* The CA of servers that are elsewhere, if there is one: a volume, as JSON. */}}
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

{{/* For the lists of volumes, and of what a container mounts. */}}
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
