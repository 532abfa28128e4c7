{{/* `lens.labels` and the others take a list: the root context, the component's name. */}}
{{- define "lens.selector" -}}
app.kubernetes.io/name: lens
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "lens.labels" -}}
{{ include "lens.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ (index . 0).Chart.Name }}-{{ (index . 0).Chart.Version }}
{{- end -}}

{{- define "lens.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* What is the same in every pod, besides its containers. Takes the root context. */}}
{{- define "lens.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What is the same in every container. Takes the root context. */}}
{{- define "lens.container" -}}
image: {{ include "lens.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
envFrom:
  - secretRef: {name: {{ .Values.envSecret }}}
env:
  - {name: LENS_HOME, value: /var/lib/lens}
  - {name: LENS_BIND, value: 0.0.0.0}
  - {name: LENS_CODE_HOST, value: {{ .Release.Name }}-code}
  - {name: LENS_CODE_PORT, value: "4000"}
  - {name: LENS_CODE_BIND, value: 0.0.0.0}
  - {name: LENS_GRACE_SECONDS, value: {{ .Values.graceSeconds | quote }}}
volumeMounts:
  - {name: home, mountPath: /var/lib/lens}
  - {name: tmp, mountPath: /tmp}
{{- end -}}

{{/* Takes a list: how much scratch. */}}
{{- define "lens.volumes" -}}
volumes:
  - name: home
    emptyDir: {sizeLimit: {{ index . 0 }}}
  - name: tmp
    emptyDir: {sizeLimit: 1Gi}
{{- end -}}
