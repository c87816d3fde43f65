package proxy

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	accessv1 "github.com/prismgw/prism/api/prism/access/v1"
	"github.com/prismgw/prism/pattern"
)

// unaryTimeout is the deadline of a unary call whose client set none. Streams
// live as long as their client wants.
const unaryTimeout = 2 * time.Second

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
}

func (m *method) write() bool { return m.class != accessv1.Class_CLASS_READ }

// kinds are the patterns that this proxy serves, with their methods.
type kinds struct {
	all     []pattern.Kind
	byName  map[string]int
	methods []map[string]*method // per kind, by name
	count   int                  // of methods
}

// newKinds reads the access class of every method from the wire contract; a
// method without one is refused.
func newKinds(all []pattern.Kind) (*kinds, error) {
	k := &kinds{all: all, byName: make(map[string]int, len(all))}
	for i := range all {
		k.byName[all[i].Name] = i
		methods, err := k.read(i, all[i].Service)
		if err != nil {
			return nil, err
		}
		k.methods = append(k.methods, methods)
	}
	return k, nil
}

func (k *kinds) read(kind int, service *grpc.ServiceDesc) (map[string]*method, error) {
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
		m.bulk = m.batch || md.IsStreamingServer()
		if !md.IsStreamingServer() && !md.IsStreamingClient() {
			m.timeout = unaryTimeout
		}
		methods[m.name] = m
		k.count++
	}
	return methods, nil
}
