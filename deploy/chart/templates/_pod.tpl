{{/* The pod of every role, or with `args` one that runs another command once, with the role's files. Takes {root, role, args}. */}}
{{- define "rekey.pod" -}}
{{- $root := .root -}}{{- $role := .role -}}{{- $name := include "rekey.name" $root -}}{{- $pod := $root.Values.pod -}}
{{- $values := ternary $root.Values.topics.job (get $root.Values $role) (eq $role "topics") -}}
{{- $args := ternary (list "topics" "apply") .args (eq $role "topics") -}}
metadata:
  labels:
    {{- include "rekey.selector" . | nindent 4 }}
    app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
    {{- with merge (dict) ($values.podLabels | default dict) $pod.labels $root.Values.commonLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    # A pod reads its files once, at its start: what changes in them rolls the pods of the roles that use it.
    checksum/config: {{ include "rekey.toml" . | sha256sum }}
    checksum/files: {{ include "rekey.filesChecksum" . }}
    {{- with merge (dict) ($values.podAnnotations | default dict) $pod.annotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ $values.serviceAccountName | default (printf "%s-%s" $name $role) }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $pod.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with $pod.hostAliases }}
  hostAliases: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $pod.dnsPolicy }}
  dnsPolicy: {{ . }}
  {{- end }}
  {{- with $pod.dnsConfig }}
  dnsConfig: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $pod.securityContext }}
  securityContext: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if $args }}
  restartPolicy: Never
  {{- else }}
  {{- $ops := $root.Values.config.ops | default dict }}
  {{- $delay := include "rekey.seconds" ($ops.drain_delay | default "5s") | int64 }}
  {{- $drain := include "rekey.seconds" ($ops.drain | default "10s") | int64 }}
  # ops.drain_delay and ops.drain, and 20 s to flush the producer, give leases back and close the database. There is no
  # preStop: on SIGTERM Rekey is not ready but serves on for drain_delay, while the endpoints forget it.
  terminationGracePeriodSeconds: {{ add $delay $drain 20 }}
  {{- end }}
  {{- with $pod.initContainers }}
  initContainers: {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    {{- with $pod.containers }}{{ toYaml . | nindent 4 }}{{ end }}
    - name: rekey
      image: {{ include "rekey.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: {{ $args | default (list $role) | toJson }}
      env:
        - {name: REKEY_CONFIG, value: /etc/rekey/rekey.toml}
        {{- with $pod.env }}{{ toYaml . | nindent 8 }}{{ end }}
      {{- with $pod.envFrom }}
      envFrom: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if not $args }}
      ports:
        - {name: ops, containerPort: 9464}
        {{- if has $role (list "receiver" "all") }}
        - {name: webhooks, containerPort: 8080}
        {{- end }}
        {{- if has $role (list "console" "all") }}
        - {name: console, containerPort: 8081}
        {{- end }}
        {{- if eq $role "sandbox" }}
        - {name: sandbox, containerPort: 8090}
        {{- end }}
      # Started: the configuration was taken and the ports are bound. A wrong one ends the process at once instead.
      startupProbe:
        httpGet: {path: /startz, port: ops}
        periodSeconds: 1
        failureThreshold: 30
      # Ready: what it depends on has been reached, and it is not draining.
      readinessProbe:
        httpGet: {path: /readyz, port: ops}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 2
      # Alive: the process still runs its tasks. It asks nothing that a restart would not mend.
      livenessProbe:
        httpGet: {path: /livez, port: ops}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      {{- end }}
      # The last line of a process that could not start says what to do: `kubectl describe pod` shows it.
      terminationMessagePolicy: FallbackToLogsOnError
      resources: {{- toYaml $values.resources | nindent 8 }}
      {{- with $pod.containerSecurityContext }}
      securityContext: {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - {name: settings, mountPath: /etc/rekey, readOnly: true}
        {{- if has $role (list "receiver" "all") }}
        - {name: data, mountPath: /var/lib/rekey}
        {{- end }}
        {{- if eq $role "all" }}
        - {name: tmp, mountPath: /tmp}
        {{- end }}
        {{- with $pod.volumeMounts }}{{ toYaml . | nindent 8 }}{{ end }}
  volumes:
    - name: settings
      projected:
        defaultMode: 0440
        sources:
          - configMap:
              name: {{ $name }}-{{ $role }}
              items: [{key: rekey.toml, path: rekey.toml}]
          {{- range (include "rekey.files" . | fromJson).files }}
          - {{ ternary "secret" "configMap" (hasKey . "secret") }}:
              name: {{ .secret | default .configMap }}
              items: [{key: {{ .key | quote }}, path: {{ .path | quote }}}]
          {{- end }}
    {{- if eq $role "receiver" }}
    # Plaid's public keys, for a container that restarts.
    - {name: data, emptyDir: {sizeLimit: 16Mi}}
    {{- end }}
    {{- if eq $role "all" }}
    {{- with $root.Values.all.storage }}
    {{- if or .ephemeral $args }}
    - {name: data, emptyDir: {sizeLimit: {{ .size }}}}
    {{- else if .existingClaim }}
    - {name: data, persistentVolumeClaim: {claimName: {{ .existingClaim }}}}
    {{- end }}
    {{- end }}
    # SQLite's own, for large sorts.
    - {name: tmp, emptyDir: {sizeLimit: 256Mi}}
    {{- end }}
    {{- with $pod.volumes }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with ternary list $values.topologySpread (not (empty $args)) }}
  topologySpreadConstraints:
    {{- range . }}
    - topologyKey: {{ .topologyKey }}
      whenUnsatisfiable: {{ .whenUnsatisfiable }}
      maxSkew: {{ .maxSkew }}
      labelSelector:
        matchLabels: {{- include "rekey.selector" $ | nindent 10 }}
      # The old pods of a roll do not count: they are about to go.
      matchLabelKeys: [pod-template-hash]
    {{- end }}
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
