package main

import "encoding/binary"

// Numbers that ONNX gives to types of elements.
const (
	onnxFloat32 = 1
	onnxInt32   = 6
)

// A size is that of one sequence of queries and as many keys.
type size struct {
	length, heads, kvHeads, dim int
}

// Names of the model's inputs and outputs. The operator takes the cache of earlier tokens as inputs 4 and 5; there is
// none here, which an empty name says.
var (
	modelInputs  = []string{"query", "key", "value", "seqlens_k", "total_sequence_length"}
	modelOutputs = []string{"output", "present_key", "present_value"}
)

// shapes returns the shapes of the model's inputs and outputs. Numbers lie as [batch, rows, heads · dim], but in the
// cache that the operator returns as [batch, heads, rows, dim].
func (s size) shapes() (inputs, outputs [][]int64) {
	n, q, kv := int64(s.length), int64(s.heads*s.dim), int64(s.kvHeads*s.dim)
	cache := []int64{1, int64(s.kvHeads), n, int64(s.dim)}
	return [][]int64{{1, n, q}, {1, n, kv}, {1, n, kv}, {1}, {1}}, [][]int64{{1, n, q}, cache, cache}
}

// model returns an ONNX model of one node, ONNX Runtime's operator GroupQueryAttention in single precision: causal
// attention of one prompt with nothing before it, scaled by 1/√dim.
//
// The numbers of fields are those of onnx.proto.
func model(s size) []byte {
	var node message
	for _, name := range []string{"query", "key", "value", "", "", "seqlens_k", "total_sequence_length"} {
		node.text(1, name)
	}
	for _, name := range modelOutputs {
		node.text(2, name)
	}
	node.text(4, "GroupQueryAttention")
	for _, a := range []struct {
		name  string
		value int
	}{{"num_heads", s.heads}, {"kv_num_heads", s.kvHeads}} {
		const typeInt = 2
		var attribute message
		attribute.text(1, a.name)
		attribute.number(3, a.value)
		attribute.number(20, typeInt)
		node.bytes(5, attribute)
	}
	node.text(7, "com.microsoft")

	var graph message
	graph.bytes(1, node)
	graph.text(2, "attention")
	inputs, outputs := s.shapes()
	for i, name := range modelInputs {
		elements := onnxFloat32
		if i >= 3 {
			elements = onnxInt32
		}
		graph.bytes(11, valueInfo(name, elements, inputs[i]))
	}
	for i, name := range modelOutputs {
		graph.bytes(12, valueInfo(name, onnxFloat32, outputs[i]))
	}

	var m message
	m.number(1, 8) // version of the format
	m.bytes(7, graph)
	for _, set := range []struct {
		domain  string
		version int
	}{{"", 17}, {"com.microsoft", 1}} {
		var operators message
		operators.text(1, set.domain)
		operators.number(2, set.version)
		m.bytes(8, operators)
	}
	return m
}

// valueInfo names an input or output and gives its type.
func valueInfo(name string, elements int, shape []int64) message {
	var dims, tensor, kind, info message
	for _, n := range shape {
		var dim message
		dim.number(1, int(n))
		dims.bytes(1, dim)
	}
	tensor.number(1, elements)
	tensor.bytes(2, dims)
	kind.bytes(1, tensor)
	info.text(1, name)
	info.bytes(2, kind)
	return info
}

// A message is an encoded protocol buffer.
type message []byte

// number appends a field that holds a number ≥ 0.
func (m *message) number(field, n int) {
	*m = binary.AppendUvarint(*m, uint64(field)<<3)
	*m = binary.AppendUvarint(*m, uint64(n))
}

// bytes appends a field that holds bytes: text or a message.
func (m *message) bytes(field int, b []byte) {
	*m = binary.AppendUvarint(*m, uint64(field)<<3|2)
	*m = binary.AppendUvarint(*m, uint64(len(b)))
	*m = append(*m, b...)
}

func (m *message) text(field int, s string) { m.bytes(field, []byte(s)) }
