{{/*
What the chart knows of each service; all else is the same for all, and stands in the templates. A sixth service is an
entry here, one in values.yaml, one in values.schema.json, and one in _broker.tpl.

image     the name of its image
database  whether it has one, of its own name
http      whether it serves HTTP, on port 8000; health is on 8001 in all of them, as their images set it
queues    where its work waits: what KEDA looks at
*/}}
{{- define "shop.services" -}}
users:
  image: user-service-07
  database: true
  queues: [rpc-users]
billing:
  image: billing-service-07
  database: true
  queues: [rpc-billing]
orders:
  image: order-service-07
  database: true
  queues: [rpc-orders]
notifications:
  image: notification-service-07
  database: true
  queues:
    - evt-orders-order_paid--notifications.handle_order_paid
    - evt-orders-order_rejected--notifications.handle_order_rejected
gateway:
  image: gateway-service-07
  http: true
{{- end }}

{{/* The settings of one service: serviceDefaults, and over them its own. Takes root and name. */}}
{{- define "shop.settings" -}}
{{- mustMergeOverwrite (deepCopy .root.Values.serviceDefaults) (deepCopy (index .root.Values.services .name | default dict)) | toJson }}
{{- end }}

{{/* The names of the services that have a database: {names: [...]}. */}}
{{- define "shop.databases" -}}
{{- $names := list }}
{{- range $name, $service := include "shop.services" . | fromYaml }}
{{- if $service.database }}
{{- $names = append $names $name }}
{{- end }}
{{- end }}
{{- dict "names" $names | toJson }}
{{- end }}

{{/* The environment of a service: its broker, its own database, its settings. Takes root, name, service, settings. */}}
{{- define "shop.env" -}}
{{- $root := .root -}}
{{ include "shop.rabbitmq.env" (dict "root" $root "user" .name) }}
{{- if .service.database }}
{{- $variable := printf "%s_DB_PASSWORD" (upper .name) }}
{{- $secret := include "shop.postgresql.secret" $root }}
{{ include "shop.secretVariable" (dict "variable" $variable "secret" $secret "key" (printf "%s-password" .name)) }}
- name: {{ upper .name }}_DB_URI
  value: {{ include "shop.postgresql.uri" (dict "root" $root "role" .name "database" .name "password" $variable) | quote }}
{{- end }}
{{- if .service.http }}
{{ include "shop.secretVariable" (dict "variable" "TOKEN_SECRET" "secret" (include "shop.tokenSecret" $root) "key" "token-secret") }}
{{- end }}
- name: CURRENCY
  value: {{ $root.Values.currency | quote }}
- name: LOG_LEVEL
  value: {{ $root.Values.logLevel | quote }}
- name: STOP_TIMEOUT_S
  value: {{ .settings.stopTimeoutSeconds | quote }}
{{- if .service.http }}
- name: STOP_DELAY_S
  value: {{ .settings.stopDelaySeconds | quote }}
{{- end }}
{{- end }}

{{/* extraEnv, behind what the chart sets itself: a name given twice would be a matter of luck. Takes env (text), extra, who. */}}
{{- define "shop.withExtraEnv" -}}
{{- $names := list }}
{{- range concat (.env | fromYamlArray) .extra }}
{{- if has .name $names }}
{{- fail (printf "%s is set twice for %s: extraEnv can't set what the chart sets, or the same variable again" .name $.who) }}
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- .env }}
{{- with .extra }}
{{ toYaml . }}
{{- end }}
{{- end }}
