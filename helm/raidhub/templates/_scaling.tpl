{{/* How a group of topics gets more replicas: root, component, group, topics, scaling. */}}

{{/* The ordinary rate of HPA, up at once and down slowly; KEDA makes an HPA, too. */}}
{{- define "raidhub.scaling.behavior" -}}
scaleUp: {stabilizationWindowSeconds: 0, policies: [{type: Pods, value: 2, periodSeconds: 60}]}
scaleDown: {stabilizationWindowSeconds: {{ .root.Values.autoscaling.scaleDownSeconds }}, policies: [{type: Pods, value: 1, periodSeconds: 60}]}
{{- end }}

{{- define "raidhub.scaling.keda" -}}
{{- $settings := include "raidhub.settings" . | fromYaml -}}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {{ include "raidhub.object" . }}
  labels: {{ include "raidhub.labels" . | nindent 4 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ include "raidhub.object" . }}}
  pollingInterval: {{ .root.Values.autoscaling.pollingIntervalSeconds }}
  minReplicaCount: {{ .scaling.minReplicas }}
  maxReplicaCount: {{ .scaling.maxReplicas }}
  # A broker that cannot be asked is no reason to do less.
  fallback: {failureThreshold: 5, replicas: {{ .scaling.minReplicas }}, behavior: currentReplicas}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior: {{ include "raidhub.scaling.behavior" . | nindent 8 }}
  triggers:
    {{- range .topics }}
    - type: rabbitmq
      authenticationRef: {name: {{ include "raidhub.fullname" $.root }}-rabbitmq}
      metadata:
        protocol: amqp
        host: {{ printf "amqp://%s:%v" $settings.RABBITMQ_HOST ($settings.RABBITMQ_PORT | default 5672) | quote }}
        queueName: {{ . }}
        mode: QueueLength
        value: {{ $.scaling.depth | toJson | quote }}
    {{- end }}
{{- end }}

{{- define "raidhub.scaling.hpa" -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ include "raidhub.object" . }}
  labels: {{ include "raidhub.labels" . | nindent 4 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ include "raidhub.object" . }}}
  minReplicas: {{ .scaling.minReplicas }}
  maxReplicas: {{ .scaling.maxReplicas }}
  behavior: {{ include "raidhub.scaling.behavior" . | nindent 4 }}
  metrics:
    - type: Resource
      resource: {name: cpu, target: {type: Utilization, averageUtilization: {{ .root.Values.autoscaling.cpuPercent }}}}
    {{- range .topics }}
    - type: External
      external:
        metric: {name: queue_depth, selector: {matchLabels: {queue_name: {{ . }}}}}
        target: {type: AverageValue, averageValue: {{ $.scaling.depth | toJson | quote }}}
    {{- end }}
{{- end }}
