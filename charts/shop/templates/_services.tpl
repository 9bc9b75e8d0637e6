{{/*
What the chart knows of each service; all else is the same for all, and stands in the templates. A sixth service is an
entry here, one in values.yaml, and one in values.schema.json. `make specs` makes its user of the broker.

image     the name of its image
database  whether it has one, of its own name
currency  whether it reads or writes amounts
http      whether it serves HTTP, on port 8000; health is on 8001 in all of them
ready     the path of its readiness probe, where it is not /readyz
queue     that of its RPC requests: KEDA scales by its length. Event queues are no trigger: they grow while a handler
          pauses, and more copies would pause as well
*/}}
{{- define "shop.services" -}}
users:
  image: user-service-07
  database: true
  queue: rpc-users
billing:
  image: billing-service-07
  database: true
  currency: true
  queue: rpc-billing
orders:
  image: order-service-07
  database: true
  queue: rpc-orders
notifications:
  image: notification-service-07
  database: true
  currency: true
  queue: rpc-notifications
gateway:
  image: gateway-service-07
  currency: true
  http: true
  ready: /startedz
{{- end }}

{{/*
What the shop's keeper runs now and then, from the image of the migrations: a CronJob each.

run        its command
databases  whether it uses them, each by the role of the service that it belongs to
schedule   when it runs by itself; without one, when it is asked to
*/}}
{{- define "shop.commands" -}}
dead:
  run: [python, -m, chassis.dead, list]
redrive:
  run: [python, -m, chassis.dead, redrive]
audit:
  run: [python, -m, audit]
  databases: true
  schedule: {{ .Values.audit.schedule | quote }}
replay:
  run: [python, -m, replay, --dry-run]
  databases: true
{{- end }}

{{/* The settings of one service: serviceDefaults, and over them its own. Takes root and name. */}}
{{- define "shop.settings" -}}
{{- $defaults := deepCopy .root.Values.serviceDefaults }}
{{- $own := deepCopy (index .root.Values.services .name | default dict) }}
{{- range $probe := list "startupProbe" "livenessProbe" "readinessProbe" }}
{{- $handler := pick (index $own $probe | default dict) "httpGet" "exec" "tcpSocket" "grpc" }}
{{- if $handler }}
{{- $_ := set $defaults $probe (omit (index $defaults $probe) "httpGet" "exec" "tcpSocket" "grpc") }}
{{- end }}
{{- end }}
{{- mustMergeOverwrite $defaults $own | toJson }}
{{- end }}

{{/* How many copies of a service there may be, but for the one more of an update. Takes root and name. */}}
{{- define "shop.copies" -}}
{{- $settings := include "shop.settings" . | fromJson }}
{{- $most := $settings.replicas }}
{{- range list "autoscaling" "keda" }}
{{- $most = (index $settings .).enabled | ternary (index $settings .).maxReplicas $most }}
{{- end }}
{{- int $most }}
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

{{/* How many proxies stand before the gateway. */}}
{{- define "shop.trustedProxies" -}}
{{- if ne (toString .Values.trustedProxies) "" }}
{{- .Values.trustedProxies }}
{{- else }}
{{- or .Values.ingress.enabled .Values.httpRoute.enabled | ternary 1 0 }}
{{- end }}
{{- end }}

{{/* The environment of a service: its broker, its own database, its settings. Takes root, name, service, settings. */}}
{{- define "shop.env" -}}
{{- $root := .root -}}
{{ include "shop.rabbitmq.env" (dict "root" $root "user" .name) }}
{{- if .service.database }}
{{ include "shop.postgresql.env" (dict "root" $root "name" .name) }}
{{- include "shop.postgresql.caEnv" $root }}
{{- end }}
{{- if .service.http }}
{{ include "shop.secretVariable" (dict "variable" "TOKEN_SECRET" "secret" (include "shop.tokenSecret" $root) "key" "token-secret") }}
{{- end }}
- name: AMQP_USER_RESTRICTED
  value: {{ include "shop.rabbitmq.restrictedUsers" $root | quote }}
- name: HEALTH_HOST # all interfaces: probes come by the pod's address, of IPv4 or IPv6
  value: "::"
- name: HEALTH_PORT
  value: "8001"
{{- if .service.http }}
- name: GATEWAY_HOST
  value: "::"
- name: GATEWAY_PORT
  value: "8000"
- name: GATEWAY_IDLE_S
  value: {{ .settings.idleTimeoutSeconds | quote }}
- name: TRUSTED_PROXIES
  value: {{ include "shop.trustedProxies" $root | quote }}
{{- end }}
{{- if .service.currency }}
- name: CURRENCY
  value: {{ $root.Values.currency | quote }}
{{- end }}
- name: LOG_LEVEL
  value: {{ $root.Values.logLevel | quote }}
- name: STOP_TIMEOUT_S
  value: {{ .settings.stopTimeoutSeconds | quote }}
{{- if .service.http }}
- name: STOP_DELAY_S
  value: {{ .settings.stopDelaySeconds | quote }}
{{- end }}
{{- end }}

{{/*
What the chart sets, and behind it extraEnv. A name given twice would be a matter of luck, and the chart's probes and time
limits count on what it sets. A secret beside its file would keep the pod from starting. Takes env, extra, who.
*/}}
{{- define "shop.withExtraEnv" -}}
{{- $names := list }}
{{- range concat (.env | fromYamlArray) .extra }}
{{- if has .name $names }}
{{- fail (printf "extraEnv: %s is set twice for %s, or by the chart itself" .name $.who) }}
{{- end }}
{{- if and (hasSuffix "_FILE" .name) (has (trimSuffix "_FILE" .name) $names) }}
{{- fail (printf "extraEnv: %s is set for %s, which has %s from a Secret" .name $.who (trimSuffix "_FILE" .name)) }}
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- .env }}
{{- with .extra }}
{{ toYaml . }}
{{- end }}
{{- end }}
