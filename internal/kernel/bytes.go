package kernel

import "fmt"

// A Format is how weights are quantised in blocks: GGUF's formats, of which a file's bytes are unpacked as they lie.
type Format uint8

const (
	Q8_0 Format = iota
	Q4_0
	Q4_K
	Q5_K
	Q6_K
)

// Of each format: numbers and bytes in a block, and words that a group of 32 numbers of Lanes rows takes in a panel.
var formats = [...]struct{ numbers, bytes, words int }{
	Q8_0: {32, 34, 144}, Q4_0: {32, 18, 144}, Q4_K: {256, 144, 160}, Q5_K: {256, 176, 160}, Q6_K: {256, 210, 160},
}

// A byteSet is the kernels on bytes.
//
// A panel is Lanes rows of weights. A group of 32 numbers of it is eight vectors, four numbers of each row in a lane, with 128
// added to each where one factor of the instruction has no sign; then the rows' scales; then their minima (Q4_K,
// Q5_K), or the scales of the second half (Q6_K, whose scales are those of 16 numbers).
//
// Inputs are Lanes columns of numbers to multiply them by. A group of them is eight vectors too; then the columns' scales,
// −128 times the sum of their numbers, the same for the two halves of the group, and scale times sum.
type byteSet struct {
	quantise func(groups int, src *float32, lds uintptr, dst *uint32)
	columns  int // that products take at once
	formats  [Q6_K + 1]byteFormat
	// rowsQ8_0 adds products of Lanes rows and a column, without a panel.
	rowsQ8_0 func(blocks int, src *byte, step, ahead uintptr, x *uint32, out *float32)
	dot      func(rounds int)
	ops      int // operations in one round of dot
}

type byteFormat struct {
	unpack    func(blocks int, src *byte, step, ahead uintptr, dst *uint32) // of Lanes rows; ahead of src is read later
	many, one func(groups int, w, x *uint32, out *float32)                  // adds products with columns, or one
}

const (
	groupSize  = 32
	inputWords = 208
)

// Bytes reports whether the level has the kernels on bytes: Quantise, UnpackPanel and MultiplyPanel.
func (s *Set) Bytes() bool { return s.bytes != nil }

// InputSize returns how many words hold Lanes columns of k numbers, a multiple of 32, as bytes.
func InputSize(k int) int { return k / groupSize * inputWords }

// PanelSize returns how many words hold a panel of Lanes rows of k numbers, whole blocks.
func (f Format) PanelSize(k int) int { return k / groupSize * formats[f].words }

// Quantise makes Lanes columns of k numbers, src[p*lds+j], bytes. Each 32 of a column share a scale, the largest magnitude
// over 127; numbers are rounded to the nearest, the even one of two. It is what llama.cpp does. A column with a number
// that is not finite has only products that are not.
func (s *Set) Quantise(k int, src []float32, lds int, dst []uint32) {
	if k == 0 || k%groupSize != 0 {
		panic(fmt.Sprintf("kernel: Quantise with k = %d", k))
	}
	_, _ = src[(k-1)*lds+Lanes-1], dst[InputSize(k)-1]
	s.bytes.quantise(k/groupSize, &src[0], uintptr(lds)*size, &dst[0])
}

// UnpackPanel unpacks the numbers [from, to), whole blocks, of Lanes rows to a panel. The rows, of k numbers, follow one
// another in src. It asks for a part of the bytes after them, which are thought to be unpacked next.
func (s *Set) UnpackPanel(f Format, k, from, to int, src []byte, dst []uint32) {
	numbers, bytes := formats[f].numbers, formats[f].bytes
	if from < 0 || from >= to || to > k || k%numbers != 0 || from%numbers != 0 || to%numbers != 0 {
		panic(fmt.Sprintf("kernel: UnpackPanel of numbers %d … %d of %d", from, to, k))
	}
	step, first := k/numbers*bytes, from/numbers*bytes
	_, _ = src[Lanes*step-1], dst[f.PanelSize(to-from)-1]
	s.bytes.formats[f].unpack((to-from)/numbers, &src[first], uintptr(step), uintptr(Lanes*step+(Lanes-1)*first), &dst[0])
}

// MultiplyPanel adds, to out[j*Lanes+i], the product of row i of a panel and column j of inputs that Quantise has made, for
// the columns [from, to) and perhaps others beside them. The panel has k numbers of a row; inputs begin with those
// to multiply them by. A product does not depend on what is computed with it, nor on where its sum is cut into calls: sums of
// 32 numbers are exact, and added up in order.
func (s *Set) MultiplyPanel(f Format, k int, panel, inputs []uint32, from, to int, out *[Lanes * Lanes]float32) {
	if k == 0 || k%groupSize != 0 || from < 0 || to > Lanes {
		panic(fmt.Sprintf("kernel: MultiplyPanel with k = %d, columns %d … %d", k, from, to))
	}
	_, _ = panel[f.PanelSize(k)-1], inputs[InputSize(k)-1]
	kernels, many := &s.bytes.formats[f], s.bytes.columns
	for from < to {
		// More than a few columns take less time with all beside them than one after the other.
		if n := min(many-from%many, to-from); 2*n >= many {
			at := from - from%many
			kernels.many(k/groupSize, &panel[0], &inputs[at], &out[at*Lanes])
			from += n
			continue
		}
		kernels.one(k/groupSize, &panel[0], &inputs[from], &out[from*Lanes])
		from++
	}
}

// MultiplyRows is UnpackPanel of whole rows and MultiplyPanel of one column, for formats that need no panel for that.
func (s *Set) MultiplyRows(f Format, k int, src []byte, inputs []uint32, column int, out *[Lanes * Lanes]float32) (done bool) {
	if f != Q8_0 {
		return false
	}
	blocks, bytes := k/groupSize, formats[f].bytes
	if k == 0 || k%groupSize != 0 || column < 0 || column >= Lanes {
		panic(fmt.Sprintf("kernel: MultiplyRows with k = %d, column %d", k, column))
	}
	_, _ = src[Lanes*blocks*bytes-1], inputs[InputSize(k)-1]
	s.bytes.rowsQ8_0(blocks, &src[0], uintptr(blocks*bytes), uintptr(Lanes*blocks*bytes), &inputs[column], &out[column*Lanes])
	return true
}

// DotBytes is FMA for the product of bytes.
func (s *Set) DotBytes(rounds int) (ops float64) {
	s.bytes.dot(rounds)
	return float64(rounds) * float64(s.bytes.ops)
}
