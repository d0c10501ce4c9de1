{{/* What Dagster's processes share: its instance, where they find it, and who they are. */}}

{{/*
dagster.yaml: the project's own, the cluster's launcher, then what `dagster.instance` lays over it.
Runs keep their logs in their pods, and nothing is written beside the file.
*/}}
{{- define "raidhub.instance" -}}
{{- $root := .root -}}
{{- $project := include "raidhub.file" (dict "root" $root "path" "files/dagster.yaml") | fromYaml -}}
{{- mergeOverwrite $project (include "raidhub.instance.cluster" . | fromYaml) (deepCopy $root.Values.dagster.instance) | toYaml }}
{{- end }}

{{- define "raidhub.instance.cluster" -}}
{{- $root := .root -}}
{{- $run := dict "root" $root "component" "run" -}}
{{- $runs := $root.Values.dagster.runs -}}
run_launcher:
  module: dagster_k8s
  class: K8sRunLauncher
  config:
    job_namespace: {{ $root.Release.Namespace | quote }}
    job_image: {{ include "raidhub.image" (dict "root" $root "image" "dagster") | quote }}
    image_pull_policy: {{ $root.Values.image.pullPolicy }}
    {{- with $root.Values.image.pullSecrets }}
    image_pull_secrets: {{ toYaml . | nindent 6 }}
    {{- end }}
    service_account_name: {{ include "raidhub.object" $run }}
    instance_config_map: {{ include "raidhub.fullname" $root }}-instance
    dagster_home: /opt/dagster/home
    load_incluster_config: true
    # Or the pod of a failed run counts as a success.
    fail_pod_on_run_failure: true
    labels: {{ include "raidhub.selector" $run | nindent 6 }}
    resources: {{ toYaml $runs.resources | nindent 6 }}
    security_context: {{ include "raidhub.containerSecurity" . | nindent 6 }}
    volumes:
      - {name: tmp, emptyDir: {sizeLimit: 5Gi}}
      - {name: shared, persistentVolumeClaim: {claimName: {{ include "raidhub.sharedClaim" . | quote }}}}
    volume_mounts:
      - {name: tmp, mountPath: /tmp}
      - {name: shared, mountPath: /var/lib/raidhub}
    # By the tags of a job, or of a run that a person starts, nothing but its size can be changed.
    only_allow_user_defined_k8s_config_fields: {container_config: {resources: true}}
    only_allow_user_defined_env_vars: []
    run_k8s_config:
      container_config:
        env: {{ include "raidhub.env" $run | nindent 10 }}
      pod_template_spec_metadata:
        annotations:
          # Moving a run to another node would begin it again.
          karpenter.sh/do-not-disrupt: "true"
          cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
      pod_spec_config:
        enableServiceLinks: false
        # A step ends by itself in a minute or is repeated: longer than its transaction.
        terminationGracePeriodSeconds: 60
        securityContext: {{ include "raidhub.podSecurity" . | nindent 10 }}
        {{- include "raidhub.scheduling" (dict "values" $runs) | nindent 8 }}
      job_spec_config:
        ttlSecondsAfterFinished: {{ $runs.ttlSecondsAfterFinished }}
compute_logs:
  module: dagster._core.storage.noop_compute_log_manager
  class: NoOpComputeLogManager
local_artifact_storage:
  module: dagster._core.storage.root
  class: LocalArtifactStorage
  config: {base_dir: /tmp/dagster}
{{- end }}

{{- define "raidhub.workspace" -}}
load_from:
  - grpc_server:
      host: {{ include "raidhub.object" (dict "root" .root "component" "code") }}
      port: {{ (include "raidhub.ports" . | fromYaml).code }}
      location_name: raidhub
{{- end }}

{{- define "raidhub.sharedClaim" -}}
{{ default (printf "%s-shared" (include "raidhub.fullname" .root)) .root.Values.dagster.shared.existingClaim }}
{{- end }}

{{/* Volumes and mounts of a process beside the code server: instance and workspace (root, configMap). */}}
{{- define "raidhub.dagsterFiles" -}}
volumes:
  - {name: instance, configMap: {name: {{ include "raidhub.fullname" .root }}-instance}}
mounts:
  - {name: instance, mountPath: /opt/dagster/home, readOnly: true}
{{- end }}
