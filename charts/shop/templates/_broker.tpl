{{/*
The permissions of each user on the broker, from files/bus.yaml. That file is generated from the
services' code (dev/bus.py). With permitPrevious, a user also has the permissions of the previous
version (files/bus-previous.yaml).
*/}}
{{- define "shop.broker" -}}
{{- $users := (.Files.Get "files/bus.yaml" | fromYaml).users }}
{{- if (.Values.rabbitmq.enabled | ternary .Values.rabbitmq .Values.externalRabbitmq).permitPrevious }}
{{- range $user, $previous := (.Files.Get "files/bus-previous.yaml" | fromYaml).users }}
{{- $current := index $users $user }}
{{- range $right := list "configure" "write" "read" }}
{{- $_ := set $current $right (printf "%s|%s" (index $current $right) (index $previous $right)) }}
{{- end }}
{{- range $exchange, $keys := $previous.topics }}
{{- $topic := get $current.topics $exchange }}
{{- range $right := list "write" "read" }}
{{- $_ := set $topic $right (list (index $topic $right) (index $keys $right) | compact | join "|") }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- $users | toYaml }}
{{- end }}

{{/*
The maximum of connections for each user, so that no account can use all of the broker's memory. It
is 20 for each replica of a service, which needs about five, and at least 500. The maximum of
channels is four times as high.
*/}}
{{- define "shop.broker.maxConnections" -}}
{{- $replicas := 25 }}
{{- range $name, $_ := include "shop.services" . | fromYaml }}
{{- $replicas = max $replicas (include "shop.maxReplicas" (dict "root" $ "name" $name)) }}
{{- end }}
{{- mul 20 $replicas }}
{{- end }}

{{/*
The content of definitions.json. Arguments: root, and passwords by user. RabbitMQ hashes the
passwords when it reads them. Queues are declared as stock Nameko declares them, so the virtual host
sets their type, and a policy sets the rest: quorum queues of RabbitMQ 4 drop a message after 20
deliveries. A policy cannot remove the limit (-1), so it sets a very high one. Only migrations and
the operator may declare an exchange, so the definitions contain all exchanges.
*/}}
{{- define "shop.broker.definitions" -}}
{{- $users := list }}
{{- $permissions := list }}
{{- $topics := list }}
{{- $exchanges := list }}
{{- $vhost := include "shop.rabbitmq.vhost" .root }}
{{- $queueType := .root.Values.externalRabbitmq.queueType }}
{{- $passwords := .passwords }}
{{- $connections := include "shop.broker.maxConnections" .root | int }}
{{- $limits := dict "max-connections" $connections "max-channels" (mul 4 $connections) }}
{{- range $user, $rights := include "shop.broker" .root | fromYaml }}
{{- $users = append $users (dict "name" $user "password" (index $passwords $user) "tags" list "limits" $limits) }}
{{- $permission := dict "user" $user "vhost" $vhost }}
{{- range $right := list "configure" "write" "read" }}
{{- $_ := set $permission $right (printf "^(%s)$" (index $rights $right)) }}
{{- end }}
{{- $permissions = append $permissions $permission }}
{{- range $exchange, $keys := $rights.topics }}
{{- $topics = append $topics (dict "user" $user "vhost" $vhost "exchange" $exchange "write" (printf "^(%s)$" $keys.write) "read" (printf "^(%s)$" $keys.read)) }}
{{- end }}
{{- end }}
{{- range $name, $type := (.root.Files.Get "files/bus.yaml" | fromYaml).exchanges }}
{{- $exchanges = append $exchanges (dict "name" $name "vhost" $vhost "type" $type "durable" true "auto_delete" false "internal" false "arguments" dict) }}
{{- end }}
{{- $policies := list }}
{{- if eq $queueType "quorum" }}
{{- $limit := dict "delivery-limit" 1000000000 }}
{{- $policy := dict "vhost" $vhost "name" "deliveries" "pattern" ".*" "priority" 0 "apply-to" "queues" "definition" $limit }}
{{- $policies = append $policies $policy }}
{{- end }}
{{- $metadata := dict "description" "" "tags" list "default_queue_type" $queueType }}
{{- dict "vhosts" (list (dict "name" $vhost "metadata" $metadata)) "users" $users "permissions" $permissions "exchanges" $exchanges "topic_permissions" $topics "policies" $policies | toPrettyJson }}
{{- end }}
