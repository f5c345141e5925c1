{{/* Names carry the release and a part, never the release alone: "a" and "a-receiver" can live side by side. A release
     name that leaves no room for the longest suffix is cut, and a hash of the whole keeps two such names apart. */}}
{{- define "rekey.name" -}}
{{- $name := .Release.Name -}}
{{- if gt (len $name) 40 -}}{{- $name = printf "%s-%s" (trunc 31 $name | trimSuffix "-") (sha256sum $name | trunc 8) -}}{{- end -}}
{{- $name -}}
{{- end }}

{{/* What a role's pods are known by; never changed, because selectors can't be. Takes {root, role}. */}}
{{- define "rekey.selector" -}}
app.kubernetes.io/name: rekey
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{- end }}

{{- define "rekey.labels" -}}
{{ include "rekey.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "rekey.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}

{{/* The roles that run, as a comma separated list: the three, or all of them in one pod. */}}
{{- define "rekey.roles" -}}
{{- ternary "all" "receiver,consumer,console" .Values.all.enabled -}}{{- if .Values.sandbox.enabled -}},sandbox{{- end -}}
{{- end }}

{{/* A role's disruption budget as YAML; nothing where it has none. The default is no value, because Helm would lay the user's
     minAvailable beside it, and Kubernetes takes one of the two. Takes the values of a role. */}}
{{- define "rekey.budget" -}}
{{- if not (kindIs "invalid" .disruptionBudget) -}}
{{- .disruptionBudget | default (dict "maxUnavailable" 1) | toYaml -}}
{{- end -}}
{{- end }}

{{/* Seconds, rounded up, of "500ms", "5s", "10min", "1d", and of "10m" as Prometheus writes it. */}}
{{- define "rekey.seconds" -}}
{{- $unit := regexReplaceAll "^[0-9]+" . "" -}}
{{- $number := regexFind "^[0-9]+" . | int64 -}}
{{- if eq $unit "ms" -}}{{- div (add $number 999) 1000 -}}
{{- else -}}{{- mul $number (get (dict "s" 1 "min" 60 "m" 60 "h" 3600 "d" 86400) $unit) -}}{{- end -}}
{{- end }}

{{/* One row a secret: its place in the values, the section and key that name its file, and who may see it. */}}
{{- define "rekey.secrets" -}}
- {name: databaseUrl, file: database-url, section: database, key: url_file, roles: [consumer, console]}
- {name: keys, file: keys, section: secrets, key: keys_file, roles: [consumer, console, all]}
- {name: fingerprintKey, file: fingerprint-key, section: secrets, key: fingerprint_key_file, roles: [receiver, consumer, console, all]}
- {name: plaidSecret, file: plaid-secret, section: plaid, key: secret_file, roles: [receiver, consumer, all]}
- {name: layerClientSecret, file: layer-client-secret, section: layer, key: client_secret_file, roles: [consumer, all]}
- {name: tokenSourceUrl, file: token-source-url, section: token_source, key: url_file, roles: [consumer, all]}
- {name: traceHeaders, file: trace-headers, section: trace, key: headers_file, roles: [receiver, consumer, console, all]}
- {name: adminToken, file: admin-token, section: admin, key: token_file, roles: [console, all, sandbox]}
- {name: plaidSecret, file: plaid-secret, section: sandbox, key: plaid_secret_file, roles: [sandbox]}
- {name: layerClientSecret, file: layer-client-secret, section: sandbox, key: layer_secret_file, roles: [sandbox]}
- {name: sandboxPlatformUrl, file: sandbox-platform-url, section: sandbox, key: platform_database_url_file, roles: [sandbox]}
{{- range $property, $ref := .Values.secrets.kafka }}
- {name: kafka, property: {{ $property }}, file: kafka-{{ $property }}, roles: [receiver, consumer, all, topics]}
{{- end }}
{{- end }}

{{/* The files of a role, as JSON {files: [{path, secret|configMap, key, named}]}. */}}
{{- define "rekey.files" -}}
{{- $root := .root -}}{{- $role := .role -}}{{- $files := list -}}
{{- range include "rekey.secrets" $root | fromYamlArray -}}
  {{- $ref := get $root.Values.secrets .name | default dict -}}
  {{- $named := printf "secrets.%s" .name -}}
  {{- with .property -}}{{- $ref = get $ref . -}}{{- $named = printf "%s[%s]" $named . -}}{{- end -}}
  {{- if and $ref (has $role .roles) -}}
    {{- if $ref.remoteKey -}}
      {{- $ref = dict "secret" (printf "%s-external" (include "rekey.name" $root)) "key" .file -}}
    {{- end -}}
    {{- $files = append $files (dict "path" (printf "secrets/%s" .file) "secret" $ref.secret "key" $ref.key "named" $named) -}}
  {{- end -}}
{{- end -}}
{{- range $name, $ref := $root.Values.files -}}
  {{- $file := dict "path" (printf "files/%s" $name) "key" $ref.key "named" (printf "files[%s]" $name) -}}
  {{- if $ref.secret -}}{{- $_ := set $file "secret" $ref.secret -}}
  {{- else -}}{{- $_ := set $file "configMap" $ref.configMap -}}{{- end -}}
  {{- $files = append $files $file -}}
{{- end -}}
{{- dict "files" $files | toJson -}}
{{- end }}

{{/* A hash of what the role's files hold right now, so that a changed secret rolls the pods at the next upgrade. Nothing is
     known of them where no cluster is asked (`helm template`, most GitOps tools): podAnnotations can ask Reloader there. And
     nothing yet of a Secret that an operator makes after the install: the first upgrade rolls once. */}}
{{- define "rekey.filesChecksum" -}}
{{- $root := .root -}}{{- $held := list -}}
{{/* Every namespace has this account: without it nobody was asked, or the namespace is yet to be made. */}}
{{- $asked := lookup "v1" "ServiceAccount" $root.Release.Namespace "default" -}}
{{- range (include "rekey.files" . | fromJson).files -}}
  {{- $kind := ternary "Secret" "ConfigMap" (hasKey . "secret") -}}
  {{- $name := .secret | default .configMap -}}
  {{- $found := lookup "v1" $kind $root.Release.Namespace $name -}}
  {{- $data := $found.data | default dict -}}
  {{- if and $asked $root.Values.secrets.mustExist (not $root.Values.externalSecrets.enabled) (not (hasKey $data .key)) -}}
    {{- $lacks := ternary (printf "has no key %s" .key) "does not exist" (not (empty $found)) -}}
    {{- fail (printf "%s: the %s %s in the namespace %s %s: make it first, or set secrets.mustExist to false if something else is about to" .named $kind $name $root.Release.Namespace $lacks) -}}
  {{- end -}}
  {{- $held = append $held (get $data .key) -}}
{{- end -}}
{{- $held | toJson | sha256sum -}}
{{- end }}
