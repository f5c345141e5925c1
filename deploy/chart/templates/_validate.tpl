{{/* What the schema can't say, because it takes two values to be wrong. Each message names the value to change. */}}
{{- define "rekey.validate" -}}
{{- $v := .Values -}}
{{- $kafka := $v.config.kafka | default dict -}}
{{- if not $kafka.bootstrap -}}{{- fail "config.kafka.bootstrap: say where Kafka is, host:port" -}}{{- end -}}
{{- range list "sasl.password" "sasl.oauthbearer.client.secret" "ssl.key.password" "ssl.key.pem" "ssl.keystore.password" -}}
  {{- if hasKey ($kafka.properties | default dict) . -}}{{- fail (printf "config.kafka.properties[%s]: is a secret: name the Secret that holds it in secrets.kafka instead" .) -}}{{- end -}}
{{- end -}}
{{- if eq $kafka.bootstrap "embedded" -}}
  {{- if not $v.all.enabled -}}{{- fail "config.kafka.bootstrap: embedded is a broker inside one process: it needs all.enabled" -}}{{- end -}}
  {{- if ne $v.topics.manage "none" -}}{{- fail "topics.manage: must be none with config.kafka.bootstrap embedded, whose topics are made at its start" -}}{{- end -}}
{{- end -}}
{{- if not $v.sandbox.enabled -}}
  {{- range list "plaid" "layer" -}}
    {{- if not (get ($v.config) . | default dict).client_id -}}{{- fail (printf "config.%s.client_id: is not set" .) -}}{{- end -}}
  {{- end -}}
{{- end -}}
{{- $needed := list "keys" "fingerprintKey" "plaidSecret" "layerClientSecret" -}}
{{- if $v.all.enabled -}}
  {{- if $v.secrets.databaseUrl -}}{{- fail "secrets.databaseUrl: all.enabled keeps its data in SQLite on its volume: remove one of the two" -}}{{- end -}}
{{- else -}}
  {{- $needed = append $needed "databaseUrl" -}}
{{- end -}}
{{- range $needed -}}
  {{- if not (get $v.secrets .) -}}{{- fail (printf "secrets.%s: is not set: name the Secret and the key that hold it" .) -}}{{- end -}}
{{- end -}}
{{- range include "rekey.secrets" . | fromYamlArray -}}
  {{- $ref := get $v.secrets .name | default dict -}}
  {{- with .property -}}{{- $ref = get $ref . -}}{{- end -}}
  {{- $named := .name -}}
  {{- with $ref -}}
    {{- if ne (hasKey . "remoteKey") $v.externalSecrets.enabled -}}
      {{- fail (printf "secrets.%s: {remoteKey} goes with externalSecrets.enabled, {secret, key} without it" $named) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if and $v.externalSecrets.enabled (not $v.externalSecrets.store.name) -}}{{- fail "externalSecrets.store.name: is not set" -}}{{- end -}}
{{- if and (eq $v.topics.manage "strimzi") (not $v.topics.strimzi.cluster) -}}{{- fail "topics.strimzi.cluster: is not set: name the Kafka object" -}}{{- end -}}
{{- with $kafka.topics -}}
  {{- if and .replication .min_insync (gt (int .min_insync) (int .replication)) -}}{{- fail "config.kafka.topics.min_insync: must not exceed config.kafka.topics.replication: nothing could ever be written" -}}{{- end -}}
{{- end -}}
{{- range list "receiver" "consumer" -}}
  {{- $scaling := (get $v .).autoscaling -}}
  {{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}{{- fail (printf "%s.autoscaling.minReplicas: must not exceed maxReplicas" .) -}}{{- end -}}
{{- end -}}
{{- if not $v.all.enabled -}}
  {{- range $role := list "receiver" "consumer" "console" -}}
    {{- $values := get $v $role -}}
    {{- $pods := int $values.replicas -}}
    {{- if ($values.autoscaling | default dict).enabled -}}{{- $pods = int $values.autoscaling.minReplicas -}}{{- end -}}
    {{- range $bound, $value := include "rekey.budget" $values | fromYaml -}}
      {{/* Kubernetes rounds percents up, of pods that must stay as of pods that may go. */}}
      {{- $number := regexFind "^[0-9]+" (toString $value) | int -}}
      {{- $count := ternary (div (add (mul $number $pods) 99) 100) $number (hasSuffix "%" (toString $value)) | int -}}
      {{- $leaves := ternary (sub $pods $count) $count (eq $bound "minAvailable") | int -}}
      {{- if and (gt $pods 0) (lt $leaves 1) -}}
        {{- fail (printf "%s.disruptionBudget.%s: %v of %d pods lets none of them go, so that no node with one could be drained: run more pods, or ask for less (null: no budget)" $role $bound $value $pods) -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range $role := list "receiver" "console" -}}
  {{- $service := (get $v $role).service -}}
  {{- range list "loadBalancerClass" "loadBalancerSourceRanges" -}}
    {{- if and (get $service .) (ne $service.type "LoadBalancer") -}}{{- fail (printf "%s.service.%s: is of a LoadBalancer only, and type is %s" $role . $service.type) -}}{{- end -}}
  {{- end -}}
  {{- if and $service.externalTrafficPolicy (eq $service.type "ClusterIP") -}}{{- fail (printf "%s.service.externalTrafficPolicy: is of a NodePort or LoadBalancer only, and type is ClusterIP" $role) -}}{{- end -}}
{{- end -}}
{{- with $v.metrics -}}
  {{- if and .podMonitor.enabled .serviceMonitor.enabled -}}{{- fail "metrics.serviceMonitor.enabled: with metrics.podMonitor.enabled every figure would be scraped twice" -}}{{- end -}}
  {{- range $kind := list "podMonitor" "serviceMonitor" -}}
    {{- with get $v.metrics $kind -}}
      {{- $timeout := include "rekey.seconds" (.scrapeTimeout | default "0s") | int -}}
      {{- if gt $timeout (include "rekey.seconds" .interval | int) -}}{{- fail (printf "metrics.%s.scrapeTimeout: must not exceed interval: Prometheus refuses it" $kind) -}}{{- end -}}
      {{- if and .enabled $v.networkPolicy.enabled (kindIs "invalid" $v.networkPolicy.ingress.metrics) -}}{{- fail (printf "metrics.%s.enabled: networkPolicy.ingress.metrics lets nobody scrape: name your Prometheus there" $kind) -}}{{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if not $v.image.repository -}}{{- fail "image.repository: is empty: name the place that you pushed the image to" -}}{{- end -}}
{{- if and $v.ingress.enabled (not $v.ingress.hosts) -}}{{- fail "ingress.hosts: is empty: name the host that Plaid calls" -}}{{- end -}}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) -}}{{- fail "httpRoute.parentRefs: is empty: name the Gateway" -}}{{- end -}}
{{- end }}
