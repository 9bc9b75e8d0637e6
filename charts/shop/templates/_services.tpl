{{/*
The differences between the services. The templates are the same for all. A sixth service needs an
entry here, one in values.yaml, and one in values.schema.json. `make specs` writes the permissions of
its user of the broker.

image     the name of its image
database  whether it has a database of its own name
currency  whether it reads or writes amounts
http      whether it serves HTTP, on port 8000. Health is on port 8001 in all services
ready     the path of its readiness probe, if it is not /readyz
queue     the queue of its RPC requests. KEDA scales by its length. Event queues are not used: they
          grow while a handler pauses, and more replicas would pause as well
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
The commands of an operator, which run in the image of the migrations. Each is a CronJob.

run        the command
databases  whether it uses the databases, each with the role of its service
schedule   when it runs automatically. Without a schedule, it runs only on request
*/}}
{{- define "shop.commands" -}}
dead:
  run: [python, -m, chassis.dead_letters, list]
redrive:
  run: [python, -m, chassis.dead_letters, redrive]
audit:
  run: [python, -m, audit]
  databases: true
  schedule: {{ .Values.audit.schedule | quote }}
replay:
  run: [python, -m, replay, --dry-run]
  databases: true
{{- end }}

{{/* The settings of a service: serviceDefaults, overridden by its own. Arguments: root and name. */}}
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

{{/*
The maximum of replicas of a service, without the additional one of an update. Arguments: root and
name.
*/}}
{{- define "shop.maxReplicas" -}}
{{- $settings := include "shop.settings" . | fromJson }}
{{- $replicas := $settings.replicas }}
{{- range list "autoscaling" "keda" }}
{{- $replicas = (index $settings .).enabled | ternary (index $settings .).maxReplicas $replicas }}
{{- end }}
{{- int $replicas }}
{{- end }}

{{/* The names of the services with a database, as {names: [...]}. */}}
{{- define "shop.databases" -}}
{{- $names := list }}
{{- range $name, $service := include "shop.services" . | fromYaml }}
{{- if $service.database }}
{{- $names = append $names $name }}
{{- end }}
{{- end }}
{{- dict "names" $names | toJson }}
{{- end }}

{{/* The number of proxies in front of the gateway. */}}
{{- define "shop.trustedProxies" -}}
{{- if ne (toString .Values.trustedProxies) "" }}
{{- .Values.trustedProxies }}
{{- else }}
{{- or .Values.ingress.enabled .Values.httpRoute.enabled | ternary 1 0 }}
{{- end }}
{{- end }}

{{/*
The environment of a service: its broker, its database and its settings. Arguments: root, name,
service, settings.
*/}}
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
- name: HEALTH_HOST # all interfaces: probes use the pod's address, of IPv4 or IPv6
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
The chart's variables, followed by extraEnv. A duplicate name is refused, because the chart's probes
and timeouts depend on its values. A secret with a file is refused, because the pod would not start.
Arguments: env, extra, component.
*/}}
{{- define "shop.withExtraEnv" -}}
{{- $names := list }}
{{- range concat (.env | fromYamlArray) .extra }}
{{- if has .name $names }}
{{- fail (printf "extraEnv: %s is set twice for %s, or by the chart itself" .name $.component) }}
{{- end }}
{{- if and (hasSuffix "_FILE" .name) (has (trimSuffix "_FILE" .name) $names) }}
{{- fail (printf "extraEnv: %s is set for %s, which has %s from a Secret" .name $.component (trimSuffix "_FILE" .name)) }}
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- .env }}
{{- with .extra }}
{{ toYaml . }}
{{- end }}
{{- end }}
