{{/*
Who may do what on the broker: for each user the names that it may configure, write and read, and for topic exchanges the
routing keys. The names are Nameko's: RPC goes over the exchange nameko-rpc to the queue rpc-<service>, its answers to
rpc.reply-<service>-<a UUID>, which is the routing key; the events of a service go over <service>.events to
evt-<source>-<event>--<listener>.<method>. Its dead letters go to the queue of that name with .dead behind it. Earlier versions
had retry queues, with .retry.<n> behind it: a service drains its own, the migrations may delete them.

Who consumes a queue declares it with its exchange and binds it: configure on both, write on the queue, read on the exchange.
By the routing keys of nameko-rpc nobody calls a service that it has no business with, or hears what others are asked.

Consumers of events (billing, notifications) and the migrations publish to queues by their names, to requeue, dead-letter and
redrive: write on the default exchange, amq.default. RabbitMQ checks no more there, so they could publish to any queue of the
virtual host.
*/}}
{{- define "shop.broker" -}}
{{- $uuid := "[0-9a-f-]{36}" -}}
users:
  configure: nameko-rpc|rpc-users|users\.events
  write: nameko-rpc|rpc-users|users\.events
  read: nameko-rpc|rpc-users
  topics:
    nameko-rpc: {write: "{{ $uuid }}", read: 'users\.\*'}
    users.events: {write: user_created, read: ""}
billing:
  configure: nameko-rpc|rpc-billing|rpc\.reply-billing-.+|billing\.events|users\.events|evt-.+--billing\..+
  write: nameko-rpc|rpc-billing|rpc\.reply-billing-.+|amq\.default|evt-.+--billing\..+
  read: nameko-rpc|rpc-billing|rpc\.reply-billing-.+|users\.events|evt-.+--billing\..+
  topics:
    nameko-rpc: {write: 'users\.[a-z_]+|{{ $uuid }}', read: 'billing\.\*|{{ $uuid }}'}
    users.events: {write: "", read: user_created}
orders:
  configure: nameko-rpc|rpc-orders|rpc\.reply-orders-.+|orders\.events
  write: nameko-rpc|rpc-orders|rpc\.reply-orders-.+|orders\.events
  read: nameko-rpc|rpc-orders|rpc\.reply-orders-.+
  topics:
    nameko-rpc: {write: 'billing\.[a-z_]+|{{ $uuid }}', read: 'orders\.\*|{{ $uuid }}'}
    orders.events: {write: order_paid|order_rejected, read: ""}
notifications:
  configure: nameko-rpc|rpc-notifications|rpc\.reply-notifications-.+|notifications\.events|users\.events|orders\.events|evt-.+--notifications\..+
  write: nameko-rpc|rpc-notifications|rpc\.reply-notifications-.+|amq\.default|evt-.+--notifications\..+
  read: nameko-rpc|rpc-notifications|rpc\.reply-notifications-.+|users\.events|orders\.events|evt-.+--notifications\..+
  topics:
    nameko-rpc: {write: 'users\.[a-z_]+|{{ $uuid }}', read: 'notifications\.\*|{{ $uuid }}'}
    users.events: {write: "", read: user_created}
    orders.events: {write: "", read: order_paid|order_rejected}
gateway:
  configure: nameko-rpc|rpc\.reply-gateway-.+
  write: nameko-rpc|rpc\.reply-gateway-.+
  read: nameko-rpc|rpc\.reply-gateway-.+
  topics:
    nameko-rpc: {write: '(users|billing|orders|notifications)\.[a-z_]+', read: "{{ $uuid }}"}
migrations: # declares all event queues, redrives dead letters (python -m chassis.dead), deletes old retry queues
  configure: (users|orders)\.events|evt-.+--.+
  write: amq\.default|evt-.+--.+
  read: (users|orders)\.events|evt-.+--.+
  topics: {}
{{- end }}

{{/*
definitions.json. Takes passwords, by user, vhost and queueType. RabbitMQ hashes the passwords as it reads them. The queues are
declared as stock Nameko declares them, so their type is a matter of the virtual host, and the rest of policies: quorum queues of
RabbitMQ 4 drop a message after 20 deliveries (-1 for no limit is no policy's to give). RabbitMQ 4.3.2 and later refuses topic
permissions for exchanges that do not exist, so these are there, as Nameko declares them.
*/}}
{{- define "shop.broker.definitions" -}}
{{- $users := list }}
{{- $permissions := list }}
{{- $topics := list }}
{{- $exchanges := dict }}
{{- $vhost := .vhost }}
{{- $passwords := .passwords }}
{{- range $user, $may := include "shop.broker" . | fromYaml }}
{{- $users = append $users (dict "name" $user "password" (index $passwords $user) "tags" list) }}
{{- $permission := dict "user" $user "vhost" $vhost }}
{{- range $right := list "configure" "write" "read" }}
{{- $_ := set $permission $right (printf "^(%s)$" (index $may $right)) }}
{{- end }}
{{- $permissions = append $permissions $permission }}
{{- range $exchange, $keys := $may.topics }}
{{- $_ := set $exchanges $exchange (dict "name" $exchange "vhost" $vhost "type" "topic" "durable" true "auto_delete" false "internal" false "arguments" dict) }}
{{- $topics = append $topics (dict "user" $user "vhost" $vhost "exchange" $exchange "write" (printf "^(%s)$" $keys.write) "read" (printf "^(%s)$" $keys.read)) }}
{{- end }}
{{- end }}
{{- $policies := list }}
{{- if eq .queueType "quorum" }}
{{- $many := dict "delivery-limit" 1000000000 }}
{{- $policy := dict "vhost" $vhost "name" "deliveries" "pattern" ".*" "priority" 0 "apply-to" "queues" "definition" $many }}
{{- $policies = append $policies $policy }}
{{- end }}
{{- $declared := list }}
{{- range $name := keys $exchanges | sortAlpha }}{{/* in the same order at each upgrade */}}
{{- $declared = append $declared (get $exchanges $name) }}
{{- end }}
{{- $metadata := dict "description" "" "tags" list "default_queue_type" .queueType }}
{{- dict "vhosts" (list (dict "name" $vhost "metadata" $metadata)) "users" $users "permissions" $permissions "exchanges" $declared "topic_permissions" $topics "policies" $policies | toPrettyJson }}
{{- end }}
