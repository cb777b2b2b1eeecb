// Decodes a dump of a node proxy into the types that Kiali decodes it into: one wrong type and it
// shows nothing. Usage: go run kiali.go DUMP
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

type (
	ports   map[string]int
	gateway struct {
		Destination   string
		HboneMtlsPort int
	}
	workload struct {
		CanonicalName, CanonicalRevision, ClusterId, Name, Namespace, NetworkMode, Node, Protocol, ServiceAccount, Status string
		TrustDomain, Uid, WorkloadName, WorkloadType                                                                      string
		Services, WorkloadIps                                                                                             []string
	}
	service struct {
		Hostname, IpFamilies, Name, Namespace string
		Endpoints                             map[string]struct {
			Port                ports
			Status, WorkloadUid string
		}
		Ports                 ports
		SubjectAltNames, Vips []string
		Waypoint              gateway
	}
	certificate struct {
		Identity, State string
		CertChain       []struct{ Pem, SerialNumber, ValidFrom, ExpirationTime string }
	}
	localhost  struct{ Localhost []any }
	socket     struct{ SocketAddr string }
	root       struct{ File string }
	duration   struct{ Secs, Nanos int64 }
	dumpConfig struct {
		Proxy, DnsProxy, XdsOnDemand, FakeCa                                               bool
		WindowSize, ConnectionWindowSize, FrameSize, PoolMaxStreamsPerConn                 int
		NumWorkerThreads                                                                   int
		PoolUnusedReleaseTimeout, SecretTtl, SelfTerminationDeadline                       *duration
		Socks5Addr, AltCaHostname, AltXdsHostname                                          *string
		AdminAddr, DnsProxyAddr                                                            localhost
		StatsAddr, ReadinessAddr                                                           socket
		InboundAddr, InboundPlaintextAddr, OutboundAddr, Network, ClusterId, ClusterDomain string
		LocalNode, ProxyMode, CaAddress, XdsAddress, ProxyArgs, InpodUds                   string
		IllegalPorts                                                                       []int
		ProxyWorkloadInformation, RequireOriginalSource                                    *string
		CaRootCert, XdsRootCert                                                            root
		ProxyMetadata                                                                      map[string]string
		PacketMark                                                                         *int
	}
	dump struct {
		Workloads []workload
		Services  []service
		Policies  []struct {
			Name, Namespace, Scope, Action string
			Rules                          [][][]map[string]any
		}
		Certificates []certificate
		Config       dumpConfig
		Version      map[string]string
	}
)

func main() {
	var d dump
	text, err := os.ReadFile(os.Args[1])
	if err == nil {
		err = json.Unmarshal(text, &d)
	}
	if err == nil && (len(d.Workloads) == 0 || len(d.Services) == 0 || len(d.Certificates) == 0 || d.Config.XdsAddress == "") {
		err = fmt.Errorf("something is empty: %d workloads, %d services, %d certificates, xDS at %q",
			len(d.Workloads), len(d.Services), len(d.Certificates), d.Config.XdsAddress)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Printf("%d workloads, %d services, %d policies, %d certificates\n", len(d.Workloads), len(d.Services), len(d.Policies), len(d.Certificates))
}
