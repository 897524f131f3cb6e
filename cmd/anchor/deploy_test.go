package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"sigs.k8s.io/yaml"
)

// The fields of Kubernetes' kinds that deploy/ uses; any other is an error.
type (
	kubeMeta struct {
		Name   string            `json:"name"`
		Labels map[string]string `json:"labels,omitempty"`
	}
	kubeHead struct {
		APIVersion string   `json:"apiVersion"`
		Kind       string   `json:"kind"`
		Metadata   kubeMeta `json:"metadata"`
	}
	kubeConfigMap struct {
		kubeHead
		Data map[string]string `json:"data"`
	}
	kubeSecret struct {
		kubeHead
		Type       string            `json:"type"`
		StringData map[string]string `json:"stringData"`
	}
	kubeResources struct {
		Requests map[string]string `json:"requests"`
		Limits   map[string]string `json:"limits,omitempty"`
	}
	kubeClaim struct {
		kubeHead
		Spec struct {
			AccessModes []string      `json:"accessModes"`
			Resources   kubeResources `json:"resources"`
		} `json:"spec"`
	}
	kubeName struct {
		Name string `json:"name"`
	}
	kubeContainer struct {
		Name    string   `json:"name"`
		Image   string   `json:"image"`
		Args    []string `json:"args"`
		EnvFrom []struct {
			ConfigMapRef kubeName `json:"configMapRef"`
		} `json:"envFrom"`
		Env []struct {
			Name  string `json:"name"`
			Value string `json:"value"`
		} `json:"env"`
		SecurityContext struct {
			AllowPrivilegeEscalation *bool `json:"allowPrivilegeEscalation"`
			ReadOnlyRootFilesystem   *bool `json:"readOnlyRootFilesystem"`
		} `json:"securityContext"`
		Resources    kubeResources `json:"resources"`
		VolumeMounts []struct {
			Name      string `json:"name"`
			MountPath string `json:"mountPath"`
			ReadOnly  bool   `json:"readOnly"`
		} `json:"volumeMounts"`
	}
	kubeVolume struct {
		Name   string `json:"name"`
		Secret *struct {
			SecretName string `json:"secretName"`
		} `json:"secret,omitempty"`
		PersistentVolumeClaim *struct {
			ClaimName string `json:"claimName"`
			ReadOnly  bool   `json:"readOnly"`
		} `json:"persistentVolumeClaim,omitempty"`
	}
	kubeJob struct {
		kubeHead
		Spec struct {
			Parallelism      int `json:"parallelism"`
			BackoffLimit     int `json:"backoffLimit"`
			PodFailurePolicy *struct {
				Rules []struct {
					Action          string `json:"action"`
					OnPodConditions []struct {
						Type   string `json:"type"`
						Status string `json:"status"`
					} `json:"onPodConditions"`
				} `json:"rules"`
			} `json:"podFailurePolicy"`
			Template struct {
				Metadata struct {
					Labels map[string]string `json:"labels"`
				} `json:"metadata"`
				Spec struct {
					RestartPolicy   string `json:"restartPolicy"`
					SecurityContext struct {
						RunAsNonRoot bool  `json:"runAsNonRoot"`
						RunAsUser    int64 `json:"runAsUser"`
						RunAsGroup   int64 `json:"runAsGroup"`
						FSGroup      int64 `json:"fsGroup"`
					} `json:"securityContext"`
					Containers []kubeContainer `json:"containers"`
					Volumes    []kubeVolume    `json:"volumes"`
				} `json:"spec"`
			} `json:"template"`
		} `json:"spec"`
	}
	// natsValues are those of the NATS chart, 1.x.
	natsValues struct {
		Config struct {
			Cluster struct {
				Enabled  bool `json:"enabled"`
				Replicas int  `json:"replicas"`
			} `json:"cluster"`
			JetStream struct {
				Enabled   bool `json:"enabled"`
				FileStore struct {
					PVC struct {
						Size string `json:"size"`
					} `json:"pvc"`
				} `json:"fileStore"`
			} `json:"jetstream"`
			NATS struct {
				TLS struct {
					Enabled    bool   `json:"enabled"`
					SecretName string `json:"secretName"`
				} `json:"tls"`
			} `json:"nats"`
			Merge map[string]any `json:"merge"` // goes into the server's configuration as it is
		} `json:"config"`
		PodTemplate struct {
			TopologySpreadConstraints map[string]struct {
				MaxSkew           int    `json:"maxSkew"`
				WhenUnsatisfiable string `json:"whenUnsatisfiable"`
			} `json:"topologySpreadConstraints"`
		} `json:"podTemplate"`
		NATSBox struct {
			Enabled bool `json:"enabled"`
		} `json:"natsBox"`
	}
)

// cluster is what deploy/ would put into one.
type kubeCluster struct {
	configs map[string]kubeConfigMap
	secrets map[string]kubeSecret
	claims  map[string]kubeClaim
	jobs    map[string]kubeJob
}

func strict[T any](t *testing.T, name string, data []byte) (x T) {
	t.Helper()
	if err := yaml.UnmarshalStrict(data, &x); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return x
}

func readDeploy(t *testing.T, dir string) *kubeCluster {
	t.Helper()
	k := &kubeCluster{map[string]kubeConfigMap{}, map[string]kubeSecret{}, map[string]kubeClaim{}, map[string]kubeJob{}}
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(files) < 5 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, name := range files {
		if filepath.Base(name) == "nats-values.yaml" {
			continue
		}
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for part := range strings.SplitSeq(string(data), "\n---\n") {
			var head kubeHead
			if err := yaml.Unmarshal([]byte(part), &head); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			at := head.Metadata.Name
			if !regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`).MatchString(at) {
				t.Errorf("%s: a name is %q", name, at)
			}
			switch head.APIVersion + " " + head.Kind {
			case "v1 ConfigMap":
				k.configs[at] = strict[kubeConfigMap](t, name, []byte(part))
			case "v1 Secret":
				k.secrets[at] = strict[kubeSecret](t, name, []byte(part))
			case "v1 PersistentVolumeClaim":
				k.claims[at] = strict[kubeClaim](t, name, []byte(part))
			case "batch/v1 Job":
				k.jobs[at] = strict[kubeJob](t, name, []byte(part))
			default:
				t.Errorf("%s: %s %s is no kind that the test knows", name, head.APIVersion, head.Kind)
			}
		}
	}
	return k
}

// The files of the example have the fields that their kinds have, what they refer to is there, and the command lines in them are
// ones that the command takes.
func TestDeploy(t *testing.T) {
	dir := filepath.Join("..", "..", "deploy")
	k := readDeploy(t, dir)
	quantity := regexp.MustCompile(`^[0-9]+(m|[KMGT]i)?$`)
	quantities := func(name string, r kubeResources) {
		for _, all := range []map[string]string{r.Requests, r.Limits} {
			for what, q := range all {
				if !quantity.MatchString(q) {
					t.Errorf("%s: %s is %q", name, what, q)
				}
			}
		}
	}
	for name, c := range k.claims {
		quantities(name, c.Spec.Resources)
		for _, m := range c.Spec.AccessModes {
			if m != "ReadWriteOnce" && m != "ReadWriteMany" {
				t.Errorf("%s: access mode %q", name, m)
			}
		}
	}

	images := make(map[string]bool)
	lines := make(map[string]map[string]string) // flags of each job
	for name, j := range k.jobs {
		pod := j.Spec.Template.Spec
		if pod.RestartPolicy != "Never" && (pod.RestartPolicy != "OnFailure" || j.Spec.PodFailurePolicy != nil) {
			t.Errorf("%s: restartPolicy is %q", name, pod.RestartPolicy) // a policy for failures wants Never
		}
		if !pod.SecurityContext.RunAsNonRoot || pod.SecurityContext.FSGroup != pod.SecurityContext.RunAsUser {
			t.Errorf("%s: %+v", name, pod.SecurityContext)
		}
		volumes := make(map[string]map[string]string) // of secrets, their keys
		readOnly := make(map[string]bool)
		for _, v := range pod.Volumes {
			volumes[v.Name] = nil
			switch {
			case v.Secret != nil:
				s, ok := k.secrets[v.Secret.SecretName]
				if !ok {
					t.Errorf("%s: there is no secret %q", name, v.Secret.SecretName)
				}
				volumes[v.Name] = s.StringData
			case v.PersistentVolumeClaim != nil:
				readOnly[v.Name] = v.PersistentVolumeClaim.ReadOnly
				if _, ok := k.claims[v.PersistentVolumeClaim.ClaimName]; !ok {
					t.Errorf("%s: there is no claim %q", name, v.PersistentVolumeClaim.ClaimName)
				}
			default:
				t.Errorf("%s: volume %s has no source", name, v.Name)
			}
		}
		if len(pod.Containers) != 1 {
			t.Fatalf("%s has %d containers", name, len(pod.Containers))
		}
		c := pod.Containers[0]
		images[c.Image] = true
		quantities(name, c.Resources)
		env := make(map[string]string)
		for _, from := range c.EnvFrom {
			config, ok := k.configs[from.ConfigMapRef.Name]
			if !ok {
				t.Errorf("%s: there is no ConfigMap %q", name, from.ConfigMapRef.Name)
			}
			for key, value := range config.Data {
				env[key] = value
			}
		}
		for _, e := range c.Env {
			env[e.Name] = e.Value
		}
		mounts := []string{}
		for _, m := range c.VolumeMounts {
			if _, ok := volumes[m.Name]; !ok || readOnly[m.Name] && !m.ReadOnly {
				t.Errorf("%s: mount %+v", name, m)
			}
			mounts = append(mounts, m.MountPath)
			for key := range volumes[m.Name] {
				mounts = append(mounts, m.MountPath+"/"+key)
			}
		}
		if !slices.Contains(mounts, env["HF_HUB_CACHE"]) {
			t.Errorf("%s: HF_HUB_CACHE is %q, which is on no volume", name, env["HF_HUB_CACHE"])
		}
		var args []string
		for _, a := range c.Args {
			args = append(args, regexp.MustCompile(`\$\(\w+\)`).ReplaceAllStringFunc(a, func(v string) string {
				value, ok := env[v[2:len(v)-1]]
				if !ok {
					t.Errorf("%s: %s is not set", name, v)
				}
				return value
			}))
		}
		sub, rest, err := newRoot().Find(args)
		if err != nil || !sub.Runnable() {
			t.Fatalf("%s: %q: %v", name, args, err)
		}
		if err := sub.ParseFlags(rest); err != nil {
			t.Errorf("%s: %q: %v", name, args, err)
		}
		if err := sub.ValidateArgs(sub.Flags().Args()); err != nil {
			t.Errorf("%s: %q: %v", name, args, err)
		}
		lines[name] = make(map[string]string)
		for _, flag := range []string{"nats", "nats-ca", "nats-nkey", "model", "chat", "output"} {
			if f := sub.Flags().Lookup(flag); f != nil {
				lines[name][flag] = f.Value.String()
			}
		}
		for _, flag := range []string{"nats-ca", "nats-nkey"} {
			if path := lines[name][flag]; path != "" && !slices.Contains(mounts, path) {
				t.Errorf("%s: --%s is %s, which no secret holds", name, flag, path)
			}
		}
		if out := lines[name]["output"]; out != "" && !slices.Contains(mounts, filepath.Dir(out)) {
			t.Errorf("%s: --output is %s, which is on no volume", name, out)
		}
	}
	if len(images) != 1 {
		t.Errorf("images are %v; want one", images)
	}
	for flag, value := range lines["workers"] {
		if value == "" || value != lines["eval"][flag] {
			t.Errorf("--%s is %q for workers and %q for the evaluation", flag, value, lines["eval"][flag])
		}
	}

	// What goes to the servers is what a server takes.
	data, err := os.ReadFile(filepath.Join(dir, "nats-values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	values := strict[natsValues](t, "nats-values.yaml", data)
	if s := k.secrets[values.Config.NATS.TLS.SecretName]; s.Type != "kubernetes.io/tls" || s.StringData["tls.crt"] == "" || s.StringData["tls.key"] == "" {
		t.Errorf("the servers' secret is %+v", s)
	}
	if !values.Config.Cluster.Enabled || values.Config.Cluster.Replicas != 3 || !values.Config.JetStream.Enabled {
		t.Errorf("%+v", values.Config)
	}
	merged, err := json.Marshal(values.Config.Merge)
	if err != nil {
		t.Fatal(err)
	}
	var o server.Options
	if err := o.ProcessConfigString(string(merged)); err != nil {
		t.Fatal(err)
	}
	if len(o.Nkeys) != 1 || !nkeys.IsValidPublicUserKey(o.Nkeys[0].Nkey) {
		t.Errorf("users are %+v; want one with an NKey", o.Nkeys)
	}

	// README knows the files, and they are those that it knows.
	readme, err := os.ReadFile(filepath.Join(dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "README.md" && !strings.Contains(string(readme), "| `"+e.Name()+"` |") {
			t.Errorf("README.md does not say what %s is", e.Name())
		}
	}
	for _, m := range regexp.MustCompile(`deploy/[\w.-]+`).FindAllString(string(readme), -1) {
		if _, err := os.Stat(filepath.Join("..", "..", m)); err != nil {
			t.Error(err)
		}
	}
}
