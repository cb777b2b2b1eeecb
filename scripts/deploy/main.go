// Decodes Kubernetes manifests into the types of the Kubernetes API, where a key that the API does
// not have is an error. Usage: go run . FILE…
package main

import (
	"bytes"
	"fmt"
	"os"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	rbac "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

var kinds = map[string]func() any{
	"apps/v1 DaemonSet":                               func() any { return new(apps.DaemonSet) },
	"v1 ServiceAccount":                               func() any { return new(core.ServiceAccount) },
	"v1 ResourceQuota":                                func() any { return new(core.ResourceQuota) },
	"networking.k8s.io/v1 NetworkPolicy":              func() any { return new(networking.NetworkPolicy) },
	"rbac.authorization.k8s.io/v1 ClusterRole":        func() any { return new(rbac.ClusterRole) },
	"rbac.authorization.k8s.io/v1 ClusterRoleBinding": func() any { return new(rbac.ClusterRoleBinding) },
	"monitoring.coreos.com/v1 PodMonitor":             func() any { return new(monitoring.PodMonitor) },
	"monitoring.coreos.com/v1 PrometheusRule":         func() any { return new(monitoring.PrometheusRule) },
}

func check(document []byte) error {
	var head struct{ APIVersion, Kind string }
	if err := yaml.Unmarshal(document, &head); err != nil {
		return err
	}
	made, known := kinds[head.APIVersion+" "+head.Kind]
	if !known {
		return fmt.Errorf("%s %s is not a kind that is checked here", head.APIVersion, head.Kind)
	}
	if err := yaml.UnmarshalStrict(document, made()); err != nil {
		return fmt.Errorf("%s: %w", head.Kind, err)
	}
	return nil
}

func main() {
	failed := false
	for _, name := range os.Args[1:] {
		text, err := os.ReadFile(name)
		count := 0
		for _, document := range bytes.Split(append([]byte("\n"), text...), []byte("\n---\n")) {
			var content map[string]any
			if err == nil && yaml.Unmarshal(document, &content) == nil && len(content) == 0 {
				continue // comments only
			}
			if err == nil {
				err = check(document)
			}
			count++
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
			failed = true
			continue
		}
		fmt.Printf("ok %s, objects: %d\n", name, count)
	}
	if failed {
		os.Exit(1)
	}
}
