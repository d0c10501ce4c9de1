{{/* What all objects share: names, labels, environment, pods. Each takes a dict with `root`. */}}

{{- define "raidhub.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* root, component, and `group` where a component has several Deployments. */}}
{{- define "raidhub.selector" -}}
app.kubernetes.io/name: raidhub
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- with .group }}
raidhub/group: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "raidhub.labels" -}}
{{ include "raidhub.selector" . }}
app.kubernetes.io/part-of: raidhub
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* Name of an object of this component: release, component, group. */}}
{{- define "raidhub.object" -}}
{{ include "raidhub.fullname" .root }}-{{ .component }}{{ with .group }}-{{ . }}{{ end }}
{{- end }}

{{- define "raidhub.image" -}}
{{- $image := get .root.Values.image .image -}}
{{ $image.repository }}:{{ default .root.Chart.AppVersion $image.tag }}
{{- end }}

{{/* A file of the project. The links in files/ leave the chart's folder: some tools drop them. */}}
{{- define "raidhub.file" -}}
{{- $text := .root.Files.Get .path -}}
{{- if not $text }}{{ fail (printf "%s is empty: its link into the project was lost; take the chart from a full checkout or from `helm package`" .path) }}{{ end -}}
{{ $text }}
{{- end }}

{{/* `listen` for those who put a colon and the port behind it. */}}
{{- define "raidhub.listenHost" -}}
{{ ternary (printf "[%s]" .) . (contains ":" .) }}
{{- end }}

{{- define "raidhub.ports" -}}
{zeus: 7777, atlas-metrics: 8080, hermes-metrics: 8081, zeus-metrics: 8082, relay-metrics: 8083, webserver: 3000, code: 4000, oauth2-proxy: 4180}
{{- end }}

{{/* Every topic of streaming/hermes/topics/registry.py. */}}
{{- define "raidhub.topics" -}}
[instance_store, player_crawl, activity_history_crawl, character_fill, clan_crawl, pgcr_blocked_retry, pgcr_crawl, instance_cheat_check]
{{- end }}

{{/* Secret settings that the process of a component uses, where they exist. */}}
{{- define "raidhub.secretsOf" -}}
{{- $stores := list "POSTGRES_PASSWORD" "RABBITMQ_PASSWORD" "CLICKHOUSE_PASSWORD" -}}
{{- $webhooks := list "ATLAS_WEBHOOK_URL" "HADES_WEBHOOK_URL" "CHEAT_CHECK_WEBHOOK_URL" "NEMESIS_WEBHOOK_URL" "GM_REPORT_WEBHOOK_URL" "GM_REPORT_WEBHOOK_AUTH" -}}
{{- $all := concat (list "BUNGIE_API_KEY") $stores $webhooks -}}
{{- /* Dagster's history has a login of its own where its password exists. */}}
{{- $own := "POSTGRES_DAGSTER_PASSWORD" -}}
{{- $history := list (ternary $own "POSTGRES_PASSWORD" (kindIs "map" (get .root.Values.secrets $own))) -}}
{{- dict
  "zeus" (list "BUNGIE_API_KEY" "ZEUS_API_KEYS" "ATLAS_WEBHOOK_URL")
  "atlas" (list "BUNGIE_API_KEY" "POSTGRES_PASSWORD" "RABBITMQ_PASSWORD" "ATLAS_WEBHOOK_URL")
  "hermes" $all "relay" $all "code" (append $all $own) "run" (append $all $own)
  "webserver" $history "readonly" $history "daemon" $history
  "migrate" (list "POSTGRES_PASSWORD" $own "POSTGRES_READONLY_PASSWORD" "CLICKHOUSE_PASSWORD")
  | toYaml }}
{{- end }}

{{/* The secret settings of a component as a map of name -> {name, key} (root, component). */}}
{{- define "raidhub.secrets" -}}
{{- $found := dict -}}
{{- $given := .root.Values.secrets -}}
{{- $own := dict -}}
{{- if eq .component "migrate" }}{{ $own = .root.Values.migrations.secrets }}{{ end -}}
{{- range $name := concat (get (include "raidhub.secretsOf" . | fromYaml) .component) (keys $own) | uniq | sortAlpha -}}
{{- $entry := get $own $name | default (get $given $name) -}}
{{- if or (kindIs "map" (get $own $name)) (kindIs "map" (get $given $name)) -}}
{{- $entry = default dict $entry -}}
{{- $_ := set $found $name (dict "name" (default $.root.Values.existingSecret $entry.existingSecret) "key" (default $name $entry.key)) -}}
{{- end -}}
{{- end -}}
{{ toYaml $found }}
{{- end }}

{{/* Plain settings: the chart's own win over those of the values (root, component, ipv6). */}}
{{- define "raidhub.settings" -}}
{{- $root := .root -}}
{{- $full := include "raidhub.fullname" $root -}}
{{- $own := dict "METRICS_HOST" $root.Values.listen -}}
{{- if $root.Values.zeus.enabled }}{{ $_ := set $own "ZEUS_HOST" (printf "%s-zeus" $full) }}{{ end -}}
{{- range $store, $name := dict "postgresql" "POSTGRES_HOST" "rabbitmq" "RABBITMQ_HOST" "clickhouse" "CLICKHOUSE_HOST" -}}
{{- if (get $root.Values.trial $store).enabled }}{{ $_ := set $own $name (printf "%s-%s" $full $store) }}{{ end -}}
{{- end -}}
{{- with .ipv6 }}{{ $_ := set $own "IPV6" . }}{{ end -}}
{{- if has .component (list "webserver" "readonly" "daemon" "code" "migrate") -}}
{{- $_ := set $own "DAGSTER_HOME" "/opt/dagster/home" -}}
{{- end -}}
{{- if eq .component "run" -}}
{{- $_ := set $own "MANIFEST_DIR" "/var/lib/raidhub/manifest" -}}
{{- $_ := set $own "CHEAT_MODEL_DIR" "/var/lib/raidhub/models" -}}
{{- end -}}
{{- $migrations := ternary $root.Values.migrations.settings dict (eq .component "migrate") -}}
{{ mergeOverwrite (deepCopy $root.Values.settings) $migrations $own | toYaml }}
{{- end }}

{{/* The environment of a container: a list, in the order of the names (root, component). */}}
{{- define "raidhub.env" -}}
{{- range $name, $value := include "raidhub.settings" . | fromYaml }}
{{- if not (or (kindIs "invalid" $value) (eq (toString $value) "")) }}
- {name: {{ $name }}, value: {{ ternary $value (toJson $value) (kindIs "string" $value) | quote }}}
{{- end }}
{{- end }}
{{- range $name, $place := include "raidhub.secrets" . | fromYaml }}
- name: {{ $name }}
  valueFrom: {secretKeyRef: {name: {{ $place.name | quote }}, key: {{ $place.key | quote }}}}
{{- end }}
{{- end }}

{{- define "raidhub.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "raidhub.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Where pods go: root, component, group, values. */}}
{{- define "raidhub.scheduling" -}}
{{- with .values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "raidhub.spread" -}}
{{- if .root.Values.topologyKeys }}
topologySpreadConstraints:
  {{- range .root.Values.topologyKeys }}
  - maxSkew: 1
    topologyKey: {{ . | quote }}
    whenUnsatisfiable: {{ $.root.Values.topologyPolicy }}
    labelSelector: {matchLabels: {{ include "raidhub.selector" $ | fromYaml | toJson }}}
  {{- end }}
{{- end }}
{{- end }}

{{/* Probes of a process of the stream: /livez asks its loops, /healthz also what they wait for. */}}
{{- define "raidhub.streamProbes" -}}
startupProbe:
  httpGet: {path: /livez, port: metrics}
  periodSeconds: 2
  timeoutSeconds: 10
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: metrics}
  periodSeconds: 15
  timeoutSeconds: 10
  failureThreshold: 4
readinessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 15
  timeoutSeconds: 15
  failureThreshold: 2
{{- end }}

{{/*
One Deployment: root, component, group, image (stream or dagster), values (of the component),
container (fields of the container as a dict), and as needed replicas (absent: somebody scales it),
serviceAccount, recreate, grace, hostNetwork, checksum, volumes and mounts (lists).
*/}}
{{- define "raidhub.deployment" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "raidhub.object" . }}
  labels: {{ include "raidhub.labels" . | nindent 4 }}
spec:
  {{- if hasKey . "replicas" }}
  replicas: {{ .replicas }}
  {{- end }}
  revisionHistoryLimit: 3
  {{- if .recreate }}
  strategy: {type: Recreate}
  {{- else }}
  strategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  {{- end }}
  selector:
    matchLabels: {{ include "raidhub.selector" . | nindent 6 }}
  template:
    metadata:
      labels: {{ include "raidhub.labels" . | nindent 8 }}
      {{- with .checksum }}
      annotations:
        checksum/config: {{ sha256sum . }}
      {{- end }}
    spec: {{ include "raidhub.pod" . | nindent 6 }}
{{- end }}

{{- define "raidhub.pod" -}}
{{- if .serviceAccount }}
serviceAccountName: {{ .serviceAccount }}
automountServiceAccountToken: true
{{- else }}
automountServiceAccountToken: false
{{- end }}
# Or a Service called zeus would set ZEUS_PORT to tcp://..., and the settings refuse that.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .grace | default 30 }}
securityContext: {{ include "raidhub.podSecurity" . | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- if .hostNetwork }}
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
{{- end }}
{{- include "raidhub.scheduling" . }}
{{- include "raidhub.spread" . }}
containers:
  - name: {{ .component }}
    image: {{ include "raidhub.image" . | quote }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    {{- toYaml .container | nindent 4 }}
    env: {{ include "raidhub.env" . | nindent 6 }}
    resources: {{ toYaml .values.resources | nindent 6 }}
    securityContext: {{ include "raidhub.containerSecurity" . | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      {{- with .mounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes:
  - {name: tmp, emptyDir: {sizeLimit: 1Gi}}
  {{- with .volumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* A drain of a node may take one pod of these at a time: root, component, group. */}}
{{- define "raidhub.disruption" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "raidhub.object" . }}
  labels: {{ include "raidhub.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {{ include "raidhub.selector" . | nindent 6 }}
{{- end }}

{{/* A Service: root, component, ports (name -> number), and `headless` for one that is only scraped. */}}
{{- define "raidhub.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "raidhub.object" . }}
  labels:
    {{- include "raidhub.labels" . | nindent 4 }}
    {{- if hasKey .ports "metrics" }}
    raidhub/metrics: "true"
    {{- end }}
spec:
  {{- if .headless }}
  clusterIP: None
  # A process that waits for a store is not ready, and must be seen.
  publishNotReadyAddresses: true
  {{- end }}
  selector: {{ include "raidhub.selector" . | nindent 4 }}
  ports:
    {{- range $name, $number := .ports }}
    - {name: {{ $name }}, port: {{ $number }}, targetPort: {{ $name }}, protocol: TCP}
    {{- end }}
{{- end }}
