// Package api_test keeps the promise that every call has an access class.
package api_test

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	accessv1 "github.com/prismgw/prism/api/prism/access/v1"
	_ "github.com/prismgw/prism/api/prism/consumer/v1"
	_ "github.com/prismgw/prism/api/prism/envelope/v1"
	_ "github.com/prismgw/prism/api/prism/keyvalue/v1"
	_ "github.com/prismgw/prism/api/prism/namespace/v1"
	_ "github.com/prismgw/prism/api/prism/producer/v1"
	_ "github.com/prismgw/prism/api/prism/pubsub/v1"
	_ "github.com/prismgw/prism/api/prism/queue/v1"
)

func TestEveryCallHasAClass(t *testing.T) {
	t.Parallel()
	methods := 0
	for _, file := range files(t) {
		for _, mistake := range mistakes(file) {
			t.Error(mistake)
		}
		for i := range file.Services().Len() {
			methods += file.Services().Get(i).Methods().Len()
		}
	}
	if methods == 0 {
		t.Error("no method was looked at")
	}
}

// A file that this test does not import would go unchecked, so the files of the
// folder are the list.
func files(t *testing.T) []protoreflect.FileDescriptor {
	t.Helper()
	var found []protoreflect.FileDescriptor
	err := fs.WalkDir(os.DirFS("."), "prism", func(name string, _ fs.DirEntry, err error) error {
		if err != nil || path.Ext(name) != ".proto" {
			return err
		}
		file, err := protoregistry.GlobalFiles.FindFileByPath(name)
		if err != nil {
			t.Errorf("%s is not imported by this test: %v", name, err)
			return nil
		}
		found = append(found, file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// mistakes returns one line for each method, and for each operation of a stream
// of operations, whose class is missing or cannot be.
func mistakes(file protoreflect.FileDescriptor) []string {
	var found []string
	for i := range file.Services().Len() {
		methods := file.Services().Get(i).Methods()
		for j := range methods.Len() {
			found = append(found, methodMistakes(methods.Get(j), methods)...)
		}
	}
	return found
}

func methodMistakes(m protoreflect.MethodDescriptor, all protoreflect.MethodDescriptors) []string {
	class := proto.GetExtension(m.Options(), accessv1.E_Class).(accessv1.Class)
	switch class {
	case accessv1.Class_CLASS_READ, accessv1.Class_CLASS_CONSUME, accessv1.Class_CLASS_WRITE, accessv1.Class_CLASS_ADMIN:
		return nil
	case accessv1.Class_CLASS_PER_OPERATION:
		return operationMistakes(m, all)
	case accessv1.Class_CLASS_UNSPECIFIED:
	}
	return []string{fmt.Sprintf("%s has no class (%s)", m.FullName(), class)}
}

// operationMistakes looks at the kinds of operations that a stream carries: the
// fields of the oneofs of the messages in its request. An operation that exists
// as a method too has the method's class.
func operationMistakes(m protoreflect.MethodDescriptor, all protoreflect.MethodDescriptors) []string {
	var found []string
	kinds := 0
	fields := m.Input().Fields()
	for i := range fields.Len() {
		for _, kind := range oneofFields(fields.Get(i).Message()) {
			kinds++
			class := proto.GetExtension(kind.Options(), accessv1.E_OperationClass).(accessv1.Class)
			if class == accessv1.Class_CLASS_UNSPECIFIED || class == accessv1.Class_CLASS_PER_OPERATION {
				found = append(found, fmt.Sprintf("%s has no class (%s)", kind.FullName(), class))
			}
			if twin := methodTaking(kind.Message(), all); twin != nil {
				if want := proto.GetExtension(twin.Options(), accessv1.E_Class); class != want {
					found = append(found, fmt.Sprintf("%s is %s, but %s is %s", kind.FullName(), class, twin.FullName(), want))
				}
			}
		}
	}
	if kinds == 0 {
		found = append(found, fmt.Sprintf("%s is of class PER_OPERATION and carries no operations", m.FullName()))
	}
	return found
}

func oneofFields(m protoreflect.MessageDescriptor) []protoreflect.FieldDescriptor {
	if m == nil {
		return nil
	}
	var found []protoreflect.FieldDescriptor
	for i := range m.Fields().Len() {
		if f := m.Fields().Get(i); f.ContainingOneof() != nil && !f.ContainingOneof().IsSynthetic() {
			found = append(found, f)
		}
	}
	return found
}

func methodTaking(input protoreflect.MessageDescriptor, methods protoreflect.MethodDescriptors) protoreflect.MethodDescriptor {
	for i := range methods.Len() {
		if input != nil && methods.Get(i).Input().FullName() == input.FullName() {
			return methods.Get(i)
		}
	}
	return nil
}

// The same checks on a contract that has every mistake: they must all be found.
func TestMistakesAreFound(t *testing.T) {
	t.Parallel()
	want := []string{
		"bad.Bad.Forgotten has no class (CLASS_UNSPECIFIED)",
		"bad.Op.forgotten has no class (CLASS_UNSPECIFIED)",
		"bad.Op.nested has no class (CLASS_PER_OPERATION)",
		"bad.Op.read is CLASS_WRITE, but bad.Bad.Read is CLASS_READ",
		"bad.Bad.Empty is of class PER_OPERATION and carries no operations",
	}
	got := mistakes(badFile(t))
	if !slices.Equal(got, want) {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func badFile(t *testing.T) protoreflect.FileDescriptor {
	t.Helper()
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("bad.proto"), Package: proto.String("bad"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{
			{Name: proto.String("In")},
			{Name: proto.String("ReadIn")},
			{Name: proto.String("Out")},
			{
				Name:      proto.String("Op"),
				OneofDecl: []*descriptorpb.OneofDescriptorProto{{Name: proto.String("op")}},
				Field: []*descriptorpb.FieldDescriptorProto{
					operation("forgotten", 1, ".bad.In", accessv1.Class_CLASS_UNSPECIFIED),
					operation("nested", 2, ".bad.In", accessv1.Class_CLASS_PER_OPERATION),
					operation("read", 3, ".bad.ReadIn", accessv1.Class_CLASS_WRITE),
				},
			},
			{Name: proto.String("StreamIn"), Field: []*descriptorpb.FieldDescriptorProto{{
				Name: proto.String("ops"), Number: proto.Int32(1), TypeName: proto.String(".bad.Op"),
				Type:  descriptorpb.FieldDescriptorProto_TYPE_MESSAGE.Enum(),
				Label: descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum(),
			}}},
		},
		Service: []*descriptorpb.ServiceDescriptorProto{{
			Name: proto.String("Bad"),
			Method: []*descriptorpb.MethodDescriptorProto{
				method("Read", ".bad.ReadIn", accessv1.Class_CLASS_READ),
				method("Forgotten", ".bad.Out", accessv1.Class_CLASS_UNSPECIFIED),
				method("Stream", ".bad.StreamIn", accessv1.Class_CLASS_PER_OPERATION),
				method("Empty", ".bad.Out", accessv1.Class_CLASS_PER_OPERATION),
			},
		}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func method(name, input string, class accessv1.Class) *descriptorpb.MethodDescriptorProto {
	m := &descriptorpb.MethodDescriptorProto{Name: &name, InputType: &input, OutputType: proto.String(".bad.Out")}
	if class != accessv1.Class_CLASS_UNSPECIFIED {
		m.Options = &descriptorpb.MethodOptions{}
		proto.SetExtension(m.Options, accessv1.E_Class, class)
	}
	return m
}

func operation(name string, number int32, message string, class accessv1.Class) *descriptorpb.FieldDescriptorProto {
	f := &descriptorpb.FieldDescriptorProto{
		Name: &name, Number: &number, TypeName: &message, OneofIndex: proto.Int32(0),
		Type:  descriptorpb.FieldDescriptorProto_TYPE_MESSAGE.Enum(),
		Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
	}
	if class != accessv1.Class_CLASS_UNSPECIFIED {
		f.Options = &descriptorpb.FieldOptions{}
		proto.SetExtension(f.Options, accessv1.E_OperationClass, class)
	}
	return f
}
