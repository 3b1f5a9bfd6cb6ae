package main

import (
	"encoding/binary"
	"flag"
	"io"
	"log"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/clientcmd"
)

// Answers change with every test, so nobody may keep one for long.
const dnsTTLSeconds = 1

// Largest UDP answer without EDNS (RFC 1035, 4.2.1); beyond it the client is sent to TCP.
const dnsMaxUDP = 512

// clusterDNS answers for the cluster's own names as the Kubernetes DNS specification asks: A and SRV
// of services, headless services and their pods, CNAME of ExternalName. Any other name is NXDOMAIN:
// the node has no way out, so there is no upstream to ask.
type clusterDNS struct {
	zone     string // "cluster.local."
	services corelisters.ServiceLister
	slices   discoverylisters.EndpointSliceLister
}

func serveDNS(args []string) {
	flags := flag.NewFlagSet("cluster-dns", flag.ExitOnError)
	listen := flags.String("listen", "127.0.0.1:53", "UDP and TCP address")
	kubeconfig := flags.String("kubeconfig", "", "how to reach the apiserver")
	zone := flags.String("zone", "cluster.local.", "cluster domain, with its final dot")
	_ = flags.Parse(args)

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	fatalIf(err)
	factory := informers.NewSharedInformerFactory(kubernetes.NewForConfigOrDie(config), 0)
	dns := &clusterDNS{
		zone:     *zone,
		services: factory.Core().V1().Services().Lister(),
		slices:   factory.Discovery().V1().EndpointSlices().Lister(),
	}
	factory.Start(nil)
	factory.WaitForCacheSync(nil)

	packets, err := net.ListenPacket("udp", *listen)
	fatalIf(err)
	streams, err := net.Listen("tcp", *listen)
	fatalIf(err)
	log.Printf("answering for %s on %s", *zone, *listen)
	go dns.serveTCP(streams)
	dns.serveUDP(packets)
}

func fatalIf(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func (d *clusterDNS) serveUDP(conn net.PacketConn) {
	query := make([]byte, dnsMaxUDP)
	for {
		n, peer, err := conn.ReadFrom(query)
		fatalIf(err)
		if reply := d.reply(query[:n], dnsMaxUDP); reply != nil {
			_, _ = conn.WriteTo(reply, peer)
		}
	}
}

func (d *clusterDNS) serveTCP(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		fatalIf(err)
		go func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			for {
				var size uint16
				if binary.Read(conn, binary.BigEndian, &size) != nil {
					return
				}
				query := make([]byte, size)
				if _, err := io.ReadFull(conn, query); err != nil {
					return
				}
				reply := d.reply(query, 1<<16-1)
				if reply == nil {
					return
				}
				_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
			}
		}()
	}
}

// reply returns nil for what is not a query: such packets get no answer at all.
func (d *clusterDNS) reply(query []byte, limit int) []byte {
	var parser dnsmessage.Parser
	header, err := parser.Start(query)
	if err != nil || header.Response {
		return nil
	}
	question, err := parser.Question()
	if err != nil {
		return nil
	}
	answers, known := d.answer(question)
	message := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: header.ID, Response: true, Authoritative: true,
			RecursionDesired: header.RecursionDesired, RecursionAvailable: true,
		},
		Questions: []dnsmessage.Question{question},
		Answers:   answers,
	}
	if !known {
		message.RCode = dnsmessage.RCodeNameError
	}
	packed, err := message.Pack()
	if err == nil && len(packed) > limit {
		message.Answers, message.Truncated = nil, true
		packed, err = message.Pack()
	}
	if err != nil {
		return nil
	}
	return packed
}

// answer looks the name up and follows an alias once, as a stub resolver expects.
func (d *clusterDNS) answer(q dnsmessage.Question) (answers []dnsmessage.Resource, known bool) {
	records, known := d.lookup(q)
	for _, body := range records {
		header := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: dnsTTLSeconds}
		answers = append(answers, dnsmessage.Resource{Header: header, Body: body})
		if alias, ok := body.(*dnsmessage.CNAMEResource); ok && q.Type != dnsmessage.TypeCNAME {
			target := dnsmessage.Question{Name: alias.CNAME, Type: q.Type, Class: q.Class}
			records, _ := d.lookup(target)
			header.Name = alias.CNAME
			for _, body := range records {
				answers = append(answers, dnsmessage.Resource{Header: header, Body: body})
			}
		}
	}
	return answers, known
}

// lookup returns the records of the asked type, and whether the name exists at all (NXDOMAIN if not).
func (d *clusterDNS) lookup(q dnsmessage.Question) (records []dnsmessage.ResourceBody, known bool) {
	inZone, ok := strings.CutSuffix(strings.ToLower(q.Name.String()), "."+d.zone)
	if !ok {
		return nil, false
	}
	labels := strings.Split(inZone, ".")
	last := len(labels) - 1
	if last == 2 && labels[2] == "pod" { // 10-244-0-9.namespace.pod
		address, err := netip.ParseAddr(strings.ReplaceAll(labels[0], "-", "."))
		return addresses(q.Type, address.AsSlice()), err == nil
	}
	if last < 2 || labels[last] != "svc" {
		return nil, false
	}
	service, err := d.services.Services(labels[last-1]).Get(labels[last-2])
	if err != nil {
		return nil, false
	}
	switch prefix := labels[:last-2]; {
	case len(prefix) == 0 && service.Spec.Type == core.ServiceTypeExternalName:
		target, err := dnsmessage.NewName(strings.TrimSuffix(service.Spec.ExternalName, ".") + ".")
		return []dnsmessage.ResourceBody{&dnsmessage.CNAMEResource{CNAME: target}}, err == nil
	case len(prefix) == 0 && service.Spec.ClusterIP != core.ClusterIPNone:
		return addresses(q.Type, net.ParseIP(service.Spec.ClusterIP)), true
	case len(prefix) == 0: // headless: its pods
		return d.endpoints(q.Type, service, "")
	case len(prefix) == 1: // hostname of a headless service's pod
		return d.endpoints(q.Type, service, prefix[0])
	case len(prefix) == 2 && strings.HasPrefix(prefix[0], "_") && strings.HasPrefix(prefix[1], "_"):
		return ports(q, service, prefix[0][1:], prefix[1][1:])
	}
	return nil, false
}

// endpoints gives the ready addresses behind a headless service, all of them or one pod's.
func (d *clusterDNS) endpoints(kind dnsmessage.Type, service *core.Service, hostname string) (records []dnsmessage.ResourceBody, known bool) {
	ofService := labels.SelectorFromSet(labels.Set{discovery.LabelServiceName: service.Name})
	slices, _ := d.slices.EndpointSlices(service.Namespace).List(ofService)
	for _, slice := range slices {
		for _, endpoint := range slice.Endpoints {
			ready := endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready || service.Spec.PublishNotReadyAddresses
			named := hostname == "" || (endpoint.Hostname != nil && *endpoint.Hostname == hostname)
			if ready && named {
				known = true
				records = append(records, addresses(kind, net.ParseIP(endpoint.Addresses[0]))...)
			}
		}
	}
	return records, known
}

func ports(q dnsmessage.Question, service *core.Service, port, protocol string) (records []dnsmessage.ResourceBody, known bool) {
	target, err := dnsmessage.NewName(strings.SplitN(q.Name.String(), ".", 3)[2])
	for _, p := range service.Spec.Ports {
		if err == nil && p.Name == port && strings.EqualFold(string(p.Protocol), protocol) {
			known = true
			if q.Type == dnsmessage.TypeSRV {
				records = append(records, &dnsmessage.SRVResource{Weight: 100, Port: uint16(p.Port), Target: target})
			}
		}
	}
	return records, known
}

// addresses is empty for AAAA: the name exists, but the cluster speaks IPv4 only.
func addresses(kind dnsmessage.Type, ip net.IP) []dnsmessage.ResourceBody {
	v4 := ip.To4()
	if kind != dnsmessage.TypeA || v4 == nil {
		return nil
	}
	return []dnsmessage.ResourceBody{&dnsmessage.AResource{A: [4]byte(v4)}}
}
