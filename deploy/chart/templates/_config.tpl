{{/* The settings of one role as TOML: the chart's own under the user's, what the cluster dictates over them, and of the
     result the sections that this role reads. Takes {root, role}. */}}
{{- define "rekey.toml" -}}
{{- $root := .root -}}{{- $role := .role -}}{{- $name := include "rekey.name" $root -}}
{{- $config := dict
      "log" (dict "format" "json")
      "ops" (dict "drain_delay" (ternary "0s" "5s" (eq $role "consumer")))
      "kafka" (dict "group" (printf "rekey-%s-%s" $root.Release.Namespace $name)) -}}
{{- if $root.Values.sandbox.enabled -}}
  {{- $sandbox := printf "http://%s-sandbox:8090" $name -}}
  {{- $config = merge $config (dict
        "tls" (dict "plain_http" (list (printf "%s-sandbox" $name)))
        "plaid" (dict "base_url" $sandbox "client_id" "sandbox-client")
        "layer" (dict "base_url" $sandbox "token_url" (printf "%s/oauth2/token" $sandbox) "client_id" "sandbox-layer-client")
        "sandbox" (dict "webhook_url" (printf "http://%s-receiver:8080/webhooks/plaid" $name))) -}}
{{- end -}}
{{- if eq $role "sandbox" -}}
  {{- $config = merge $config (dict "admin" (dict "url" (printf "http://%s-console:8081" $name))) -}}
{{- end -}}
{{- $config = mergeOverwrite $config (deepCopy $root.Values.config) (dict
      "ops" (dict "listen" "0.0.0.0:9464")
      "receiver" (dict "listen" "0.0.0.0:8080")
      "console" (dict "listen" "0.0.0.0:8081")
      "sandbox" (dict "listen" "0.0.0.0:8090")) -}}
{{- if has $role (list "receiver" "all") -}}
  {{/* A container that restarts while Plaid's key endpoint is dark still verifies. */}}
  {{- $config = mergeOverwrite $config (dict "plaid" (dict "keys" (dict "file" "/var/lib/rekey/plaid-keys.json"))) -}}
{{- end -}}
{{- if eq $role "all" -}}
  {{- $config = mergeOverwrite $config (dict "database" (dict "url" "sqlite:///var/lib/rekey/rekey.sqlite")) -}}
{{- end -}}
{{- range include "rekey.secrets" $root | fromYamlArray -}}
  {{- $ref := get $root.Values.secrets .name -}}
  {{- $file := printf "/etc/rekey/secrets/%s" .file -}}
  {{- if and $ref (has $role .roles) -}}
    {{- if .property -}}
      {{- $config = mergeOverwrite $config (dict "kafka" (dict "property_files" (dict .property $file))) -}}
    {{- else -}}
      {{- $config = mergeOverwrite $config (dict .section (dict .key $file)) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- $sections := get (dict
      "receiver" (list "log" "trace" "ops" "tls" "kafka" "secrets" "plaid" "receiver")
      "consumer" (list "log" "trace" "ops" "tls" "kafka" "database" "secrets" "plaid" "layer" "token_source" "consumer")
      "console" (list "log" "trace" "ops" "database" "secrets" "layer" "console" "admin")
      "all" (list "log" "trace" "ops" "tls" "kafka" "database" "secrets" "plaid" "layer" "token_source" "receiver" "consumer" "console" "admin")
      "sandbox" (list "log" "ops" "sandbox" "admin")
      "topics" (list "log" "kafka")) $role -}}
# The settings of the {{ $role }} of release {{ $root.Release.Name }}: rekey.example.toml says what each means.
{{- range $sections -}}
{{- include "rekey.section" (dict "path" . "table" (get $config . | default dict)) -}}
{{- end }}
{{ end }}

{{/* toToml would write 12 as 12.0, which Rekey refuses: every number of the values is a float by the time it gets here.
     JSON's strings, numbers, booleans and lists happen to be TOML's. */}}
{{- define "rekey.section" -}}
{{- $inner := dict -}}{{- $lines := list -}}
{{- range $key, $value := .table -}}
  {{- if kindIs "map" $value -}}
    {{- $_ := set $inner $key $value -}}
  {{- else if not (kindIs "invalid" $value) -}}
    {{- $text := toRawJson $value -}}
    {{/* librdkafka's properties are text, even those that look like numbers. */}}
    {{- if and (eq $.path "kafka.properties") (not (kindIs "string" $value)) -}}{{- $text = quote $text -}}{{- end -}}
    {{- $lines = append $lines (printf "%s = %s" (ternary $key (quote $key) (regexMatch "^[A-Za-z0-9_-]+$" $key)) $text) -}}
  {{- end -}}
{{- end -}}
{{- if $lines }}

[{{ .path }}]
{{ join "\n" $lines }}
{{- end -}}
{{- range $key, $table := $inner -}}
{{- include "rekey.section" (dict "path" (printf "%s.%s" $.path $key) "table" $table) -}}
{{- end -}}
{{- end }}
