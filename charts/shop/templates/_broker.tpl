{{/*
Who may do what on the broker, by user: files/bus.yaml, which is made from the services' code (dev/bus.py). With permitPrevious
copies of the previous version may also do what they need (files/bus-previous.yaml).
*/}}
{{- define "shop.broker" -}}
{{- $users := (.Files.Get "files/bus.yaml" | fromYaml).users }}
{{- if (.Values.rabbitmq.enabled | ternary .Values.rabbitmq .Values.externalRabbitmq).permitPrevious }}
{{- range $user, $may := (.Files.Get "files/bus-previous.yaml" | fromYaml).users }}
{{- $own := index $users $user }}
{{- range $right := list "configure" "write" "read" }}
{{- $_ := set $own $right (printf "%s|%s" (index $own $right) (index $may $right)) }}
{{- end }}
{{- range $exchange, $keys := $may.topics }}
{{- $mine := get $own.topics $exchange }}
{{- range $right := list "write" "read" }}
{{- $_ := set $mine $right (list (index $mine $right) (index $keys $right) | compact | join "|") }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- $users | toYaml }}
{{- end }}

{{/*
How many connections each user may have, so that one account cannot take all of the broker's memory: 20 for each copy of a
service, which needs about five, and at least 500. A user may have four times as many channels.
*/}}
{{- define "shop.broker.maxConnections" -}}
{{- $most := 25 }}
{{- range $name, $_ := include "shop.services" . | fromYaml }}
{{- $most = max $most (include "shop.copies" (dict "root" $ "name" $name)) }}
{{- end }}
{{- mul 20 $most }}
{{- end }}

{{/*
definitions.json. Takes root, and passwords by user. RabbitMQ hashes the passwords as it reads them. The queues are declared as
stock Nameko declares them, so their type is a matter of the virtual host, and the rest of policies: quorum queues of RabbitMQ 4
drop a message after 20 deliveries (-1 for no limit is no policy's to give). Only migrations and the operator may declare an
exchange, so all exchanges stand here.
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
{{- range $user, $may := include "shop.broker" .root | fromYaml }}
{{- $users = append $users (dict "name" $user "password" (index $passwords $user) "tags" list "limits" $limits) }}
{{- $permission := dict "user" $user "vhost" $vhost }}
{{- range $right := list "configure" "write" "read" }}
{{- $_ := set $permission $right (printf "^(%s)$" (index $may $right)) }}
{{- end }}
{{- $permissions = append $permissions $permission }}
{{- range $exchange, $keys := $may.topics }}
{{- $topics = append $topics (dict "user" $user "vhost" $vhost "exchange" $exchange "write" (printf "^(%s)$" $keys.write) "read" (printf "^(%s)$" $keys.read)) }}
{{- end }}
{{- end }}
{{- range $name, $type := (.root.Files.Get "files/bus.yaml" | fromYaml).exchanges }}
{{- $exchanges = append $exchanges (dict "name" $name "vhost" $vhost "type" $type "durable" true "auto_delete" false "internal" false "arguments" dict) }}
{{- end }}
{{- $policies := list }}
{{- if eq $queueType "quorum" }}
{{- $many := dict "delivery-limit" 1000000000 }}
{{- $policy := dict "vhost" $vhost "name" "deliveries" "pattern" ".*" "priority" 0 "apply-to" "queues" "definition" $many }}
{{- $policies = append $policies $policy }}
{{- end }}
{{- $metadata := dict "description" "" "tags" list "default_queue_type" $queueType }}
{{- dict "vhosts" (list (dict "name" $vhost "metadata" $metadata)) "users" $users "permissions" $permissions "exchanges" $exchanges "topic_permissions" $topics "policies" $policies | toPrettyJson }}
{{- end }}
