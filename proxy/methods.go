package proxy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	accessv1 "github.com/prismgw/prism/api/prism/access/v1"
	"github.com/prismgw/prism/pattern"
)

// unaryTimeout is the deadline of a unary call whose client set none. Streams
// live as long as their client wants.
const unaryTimeout = 2 * time.Second

// waitingTimeout is that of one over HTTP whose request says how long to wait.
const waitingTimeout = 10 * time.Second

// method is what serve knows of one method of the wire contract.
type method struct {
	kind    int    // index into kinds
	index   int    // among all methods of all kinds
	name    string // "Retrieve"
	full    string // "prism.keyvalue.v1.KeyValue/Retrieve"
	class   accessv1.Class
	timeout time.Duration
	bulk    bool // does the work of many calls: shed first
	batch   bool // its pattern charges the items to the rate
	lasting bool // see pattern.Kind.Lasting
	waiting bool // see pattern.Kind.Waiting
}

func (m *method) write() bool { return m.class != accessv1.Class_CLASS_READ }

// kinds are the patterns that this proxy serves, with their methods.
type kinds struct {
	all     []pattern.Kind
	byName  map[string]int
	methods []map[string]*method // per kind, by name
	count   int                  // of methods
	events  []event
}

// event is one pattern.Count; the first of each kind's is at firstEvent.
type event struct {
	kind int
	desc *prometheus.Desc
}

func (k *kinds) addEvents(kind int) {
	for _, c := range k.all[kind].Counts {
		name := "prism_" + k.all[kind].Name + "_" + c.Name + "_total"
		k.events = append(k.events, event{kind, prometheus.NewDesc(name, c.Help, []string{"namespace", "pattern"}, nil)})
	}
}

// firstEvent returns the index of a kind's first event.
func (k *kinds) firstEvent(kind int) int {
	return slices.IndexFunc(k.events, func(e event) bool { return e.kind == kind })
}

// newKinds reads the access class of every method from the wire contract; a
// method without one is refused.
func newKinds(all []pattern.Kind) (*kinds, error) {
	k := &kinds{all: all, byName: make(map[string]int, len(all))}
	for i := range all {
		k.byName[all[i].Name] = i
		methods, err := k.read(i)
		if err != nil {
			return nil, err
		}
		k.methods = append(k.methods, methods)
		k.addEvents(i)
	}
	return k, nil
}

func (k *kinds) read(kind int) (map[string]*method, error) {
	service := k.all[kind].Service
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service.ServiceName))
	if err != nil {
		return nil, fmt.Errorf("service %s: %w", service.ServiceName, err)
	}
	desc, ok := d.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil, fmt.Errorf("%s is no service", service.ServiceName)
	}
	methods := make(map[string]*method)
	for i := range desc.Methods().Len() {
		md := desc.Methods().Get(i)
		class, ok := proto.GetExtension(md.Options(), accessv1.E_Class).(accessv1.Class)
		if !ok || class == accessv1.Class_CLASS_UNSPECIFIED {
			return nil, fmt.Errorf("method %s has no access class", md.FullName())
		}
		m := &method{kind: kind, index: k.count, name: string(md.Name()), full: service.ServiceName + "/" + string(md.Name()), class: class}
		m.batch = strings.HasSuffix(m.name, "Batch")
		m.waiting = slices.Contains(k.all[kind].Waiting, m.name)
		m.lasting = slices.Contains(k.all[kind].Lasting, m.name)
		m.bulk = m.batch || md.IsStreamingServer() && !m.lasting
		if !md.IsStreamingServer() && !md.IsStreamingClient() {
			m.timeout = unaryTimeout
		}
		methods[m.name] = m
		k.count++
	}
	return methods, nil
}
