package matrix

import (
	"fmt"
	"math"
	"unsafe"

	"github.com/anchorattention/anchor/internal/kernel"
)

// A form is how numbers that a matrix is multiplied by lie in memory, and to what precision they are rounded. That precision
// goes with the matrix's type, whatever a machine can do:
//
//   - F32 and F16 take single precision,
//   - BF16 takes bfloat16,
//   - quantised types take 8 bits, with a scale for each 32 numbers of a token: see [kernel.Set.Quantise].
type form uint8

const (
	singles  form = iota // float32s, [cols, width] as they come
	rounded              // float32s that are bfloat16s
	leveled              // float32s that are 8-bit numbers times scales
	inPairs              // pairs of bfloat16s, [cols/2, width]
	inGroups             // bytes: kernel.InputSize words for each Lanes tokens
)

var formats = map[Type]kernel.Format{Q8_0: kernel.Q8_0, Q4_0: kernel.Q4_0, Q4_K: kernel.Q4_K, Q5_K: kernel.Q5_K, Q6_K: kernel.Q6_K}

func (m *Matrix) form(k *kernel.Set) form {
	switch m.typ {
	case F32, F16:
		return singles
	case BF16:
		if k.Pairs() && m.cols%(2*k.PairDepth()) == 0 {
			return inPairs
		}
		return rounded
	}
	if k.Bytes() {
		return inGroups
	}
	return leveled
}

// Inputs are what matrices are multiplied by: tiles of Width tokens, [cols, Width] each. The zero value holds none; its
// memory is used again by every Reset.
type Inputs struct {
	kernels     *kernel.Set
	form        form
	cols, width int
	src         []float32
	words       []uint32
}

// Reset sets the inputs of m and of other matrices that accept them: src holds tiles of width tokens, a multiple of
// kernel.Lanes, [Cols, width] each. Pack must be called for each tile that is multiplied, and src stay as it is.
func (in *Inputs) Reset(k *kernel.Set, m *Matrix, width int, src []float32) {
	size := m.cols * width
	if width < kernel.Lanes || width%kernel.Lanes != 0 || len(src) == 0 || len(src)%size != 0 {
		panic(fmt.Sprintf("matrix: inputs of %d numbers, in tiles of %d × %d", len(src), m.cols, width))
	}
	in.kernels, in.form, in.cols, in.width, in.src = k, m.form(k), m.cols, width, src
	if n := len(src) / size * in.step(); n > cap(in.words) {
		in.words = make([]uint32, n)
	} else {
		in.words = in.words[:n]
	}
}

// Accept reports whether m can be multiplied by the inputs without another Reset for it.
func (in *Inputs) Accept(m *Matrix, src []float32) bool {
	return in.kernels != nil && m.form(in.kernels) == in.form && m.cols == in.cols && len(src) == len(in.src) && &src[0] == &in.src[0]
}

// step is how many words a tile is.
func (in *Inputs) step() int {
	switch in.form {
	case singles:
		return 0
	case inPairs:
		return in.cols / 2 * in.width
	case inGroups:
		return in.width / kernel.Lanes * kernel.InputSize(in.cols)
	}
	return in.cols * in.width
}

// Packing reports whether Pack does anything.
func (in *Inputs) Packing() bool { return in.form != singles }

// Pack converts a tile. Different tiles may be packed at the same time.
func (in *Inputs) Pack(tile int) {
	src, dst := in.src[tile*in.cols*in.width:][:in.cols*in.width], in.words[tile*in.step():][:in.step()]
	switch in.form {
	case rounded:
		for i, x := range src {
			dst[i] = uint32(kernel.RoundToBFloat16(x)) << 16
		}
	case inPairs:
		in.kernels.PackPairs(in.cols, in.width, src, dst)
	case inGroups:
		size := kernel.InputSize(in.cols)
		for t := 0; t < in.width; t += kernel.Lanes {
			in.kernels.Quantise(in.cols, src[t:], in.width, dst[t/kernel.Lanes*size:])
		}
	case leveled:
		level(src, singlesOf(dst), in.width)
	}
}

// level rounds the numbers of each token as kernel.Quantise does.
func level(src, dst []float32, width int) {
	const group, most, tiny = 32, 127, 0x1p-100
	for from := 0; from < len(src); from += group * width {
		for t := range width {
			var largest uint32 // the bits of magnitudes, among which NaN is the largest
			for i := from + t; i < from+group*width; i += width {
				largest = max(largest, math.Float32bits(src[i])&(1<<31-1))
			}
			scale, by := math.Float32frombits(largest)/most, float32(0)
			if l := math.Float32frombits(largest); l >= tiny {
				by = most / l
			}
			for i := from + t; i < from+group*width; i += width {
				const round = 3 << 22 // to whole numbers, once added and subtracted
				q := float32(src[i]*by) + round
				dst[i] = (q - round) * scale
			}
		}
	}
}

func singlesOf(words []uint32) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(words))), len(words))
}

// floats returns a tile of single precision.
func (in *Inputs) floats(tile int) []float32 {
	size := in.cols * in.width
	if in.form == singles {
		return in.src[tile*size : (tile+1)*size]
	}
	return singlesOf(in.words[tile*size : (tile+1)*size])
}

// Scratch is memory that Multiply needs, for one goroutine. The zero value is ready.
type Scratch struct {
	words          []uint32
	out            [panelRows * kernel.Lanes]float32
	products, turn [kernel.Lanes * kernel.Lanes]float32
}

func (s *Scratch) get(n int) []uint32 {
	if n > cap(s.words) {
		s.words = make([]uint32, n)
	}
	return s.words[:n]
}

const (
	panelRows    = 32        // rows side by side where single tokens are multiplied
	scratchBytes = 256 << 10 // of a matrix, unpacked to stay in the second-level cache while tiles of tokens pass by
)

// RowsAtOnce is what the rows at which calls of Multiply begin are multiples of.
const RowsAtOnce = panelRows

// Multiply multiplies the rows [from, to) of the matrix by the first tokens of each of the tiles [first, last), and writes
// the products, or adds them, to c: tiles [Rows, Width]. from is a multiple of RowsAtOnce. What it does to columns without a
// token is theirs: they become products too, or stay.
//
// A product does not depend on the other tokens and rows, nor on how these are cut into calls and tiles: sums run in the
// same order, bit by bit.
func (m *Matrix) Multiply(in *Inputs, from, to, first, last, tokens int, c []float32, add bool, s *Scratch) {
	if from%RowsAtOnce != 0 || from < 0 || to > m.rows || tokens < 1 || tokens > in.width {
		panic(fmt.Sprintf("matrix: products of rows %d … %d of %d, %d tokens of %d", from, to, m.rows, tokens, in.width))
	}
	few := last-first == 1 && tokens <= fewTokens
	switch {
	case from >= to || first >= last:
	case in.form == inGroups:
		m.multiplyBytes(in, from, to, first, last, tokens, c, add, s)
	case in.form == inPairs && (!few || in.kernels.PairRows() > 1):
		m.multiplyPairs(in, from, to, first, last, c, add, s)
	case few && in.form != inPairs && tokens == 1 && in.kernels.Name() == "generic":
		m.multiplyColumn(in, from, to, first, c, add, s)
	case few:
		m.multiplyFew(in, from, to, first, tokens, c, add, s)
	default:
		m.multiplySingles(in, from, to, first, last, c, add, s)
	}
}

// sliceCols is how many numbers of a row are multiplied at a time, a part that stays in the first-level cache with what it
// meets, where sums are in single precision from the start. Sums of slices are added up in order.
const sliceCols = 256

// fewTokens is up to how many tokens rows lie side by side in vectors instead of tokens.
const fewTokens = 4

// rowBytes is how many bytes a row is.
func (m *Matrix) rowBytes() int {
	elements, bytes := m.typ.Block()
	return m.cols / elements * bytes
}

// singles unpacks rows to single precision, in dst if they are not already.
func (m *Matrix) singles(k *kernel.Set, from, to int, dst []uint32) []float32 {
	if m.typ == F32 {
		return m.Float32s()[from*m.cols : to*m.cols]
	}
	out := singlesOf(dst[:(to-from)*m.cols])
	m.unpack(k, m.data[from*m.rowBytes():to*m.rowBytes()], out)
	return out
}

// unpack is Unpack with the kernels there are.
func (m *Matrix) unpack(k *kernel.Set, data []byte, dst []float32) {
	switch m.typ {
	case F32:
		copy(dst, floatsOf(data))
	case F16:
		k.FromFloat16(dst, halvesOf(data))
	case BF16:
		k.FromBFloat16(dst, halvesOf(data))
	default:
		Unpack(m.typ, data, dst)
	}
}

func floatsOf(data []byte) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(data))), len(data)/4)
}

func halvesOf(data []byte) []uint16 {
	return unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(data))), len(data)/2)
}

// multiplySingles lets blocks of rows meet one tile after the other.
func (m *Matrix) multiplySingles(in *Inputs, from, to, first, last int, c []float32, add bool, s *Scratch) {
	height := max(1, scratchBytes/4/m.cols/panelRows) * panelRows
	for ; from < to; from += height {
		rows := min(height, to-from)
		w := m.singles(in.kernels, from, from+rows, s.get(rows*m.cols))
		for t := first; t < last; t++ {
			b, out := in.floats(t), c[(t*m.rows+from)*in.width:]
			for p := 0; p < m.cols; p += sliceCols {
				in.kernels.Gemm(rows, in.width, min(sliceCols, m.cols-p), w[p:], m.cols, 1, b[p*in.width:], in.width, out, in.width, add || p > 0)
			}
		}
	}
}

// multiplyPairs multiplies rows as they lie, except that those which fill no tile are copied.
func (m *Matrix) multiplyPairs(in *Inputs, from, to, first, last int, c []float32, add bool, s *Scratch) {
	k := in.kernels
	k.BeginPairs()
	defer k.EndPairs()
	slice := sliceCols
	if k.PairRows() > 1 { // where multiplyFew is not used, and loading and storing sums is dear
		slice = m.cols
	}
	height := max(1, scratchBytes/2/m.cols/panelRows) * panelRows
	for ; from < to; from += height {
		end := min(from+height, to)
		whole := (end - from) / k.PairRows() * k.PairRows()
		w := halvesOf(m.data)[from*m.cols : end*m.cols]
		for t := first; t < last; t++ {
			b := in.words[t*in.step():]
			out := c[(t*m.rows+from)*in.width:]
			for p := 0; p < m.cols && whole > 0; p += slice {
				k.GemmPairs(whole, in.width, min(slice, m.cols-p)/2, w[p:], m.cols, b[p/2*in.width:], in.width, out, in.width, add || p > 0)
			}
			if whole < end-from {
				m.multiplyRest(in, w[whole*m.cols:], b, out[whole*in.width:], add, s)
			}
		}
	}
}

// multiplyRest multiplies fewer rows of pairs than PairRows.
func (m *Matrix) multiplyRest(in *Inputs, w []uint16, b []uint32, c []float32, add bool, s *Scratch) {
	k := in.kernels
	rows := unsafe.Slice((*uint16)(unsafe.Pointer(&s.get(k.PairRows() * m.cols / 2)[0])), k.PairRows()*m.cols)
	clear(rows[copy(rows, w):])
	for j := 0; j < in.width; j += kernel.Lanes {
		k.GemmPairs(k.PairRows(), kernel.Lanes, m.cols/2, rows, m.cols, b[j:], in.width, s.turn[:], kernel.Lanes, false)
		for i := range len(w) / m.cols {
			row, src := c[i*in.width+j:][:kernel.Lanes], s.turn[i*kernel.Lanes:][:kernel.Lanes]
			if add {
				k.Add(row, src)
			} else {
				copy(row, src)
			}
		}
	}
}

// multiplyFew turns slices of panelRows rows so that these lie side by side: with few tokens it is these that would leave
// vectors empty.
func (m *Matrix) multiplyFew(in *Inputs, from, to, tile, tokens int, c []float32, add bool, s *Scratch) {
	k := in.kernels
	words := s.get((panelRows + kernel.Lanes + panelRows/2) * sliceCols)
	panel, part := words[:panelRows*sliceCols], words[panelRows*sliceCols:][:kernel.Lanes*sliceCols]
	pairs := panel // where pairs are turned
	split := (m.typ == F16 || m.typ == BF16) && in.form != inPairs && k.Splits() && m.cols%2 == 0
	if split {
		pairs = words[(panelRows+kernel.Lanes)*sliceCols:]
	}
	for ; from < to; from += panelRows {
		rows := min(panelRows, to-from)
		n := (rows + kernel.Lanes - 1) / kernel.Lanes * kernel.Lanes
		dst, out := c[(tile*m.rows+from)*in.width:], s.out[:tokens*panelRows]
		for t := range tokens {
			for i := range rows {
				out[t*panelRows+i] = dst[i*in.width+t] // for add
			}
		}
		for p := 0; p < m.cols; p += sliceCols {
			cols := min(sliceCols, m.cols-p)
			if in.form == inPairs && tokens == 1 && rows == panelRows && in.width == kernel.Lanes && m.multiplyRowPairs(in, from, tile, p, cols, out, add) {
				continue
			}
			if in.form == inPairs || split {
				for i := 0; i < rows; i += kernel.Lanes {
					w, step := m.slicePairs(from+i, min(from+i+kernel.Lanes, to), p, cols, part)
					kernel.TransposeAhead(k, cols/2, w, step, panelRows*m.cols/2+(kernel.Lanes-1)*p/2, pairs[i:], n)
				}
			}
			switch {
			case in.form == inPairs:
				k.GemmPairsByCols(tokens, n, cols/2, in.words[tile*in.step()+p/2*in.width:], in.width, panel, n, out, panelRows, add || p > 0)
				continue
			case !split:
				for i := 0; i < rows; i += kernel.Lanes {
					w, step := m.slice(k, from+i, min(from+i+kernel.Lanes, to), p, cols, singlesOf(part))
					kernel.TransposeAhead(k, cols, w, step, panelRows*m.cols+(kernel.Lanes-1)*p, singlesOf(panel)[i:], n)
				}
			case m.typ == F16:
				k.SplitFloat16(cols/2, n, pairs, singlesOf(panel))
			default:
				k.SplitBFloat16(cols/2, n, pairs, singlesOf(panel))
			}
			k.Gemm(tokens, n, cols, in.floats(tile)[p*in.width:], 1, in.width, singlesOf(panel), n, out, panelRows, add || p > 0)
		}
		for t := range tokens {
			for i := range rows {
				dst[i*in.width+t] = out[t*panelRows+i]
			}
		}
	}
}

// multiplyRowPairs multiplies a slice of panelRows rows by a single token, where the level can without turning them.
func (m *Matrix) multiplyRowPairs(in *Inputs, from, tile, p, cols int, out []float32, add bool) (done bool) {
	for i := 0; i < panelRows; i += kernel.Lanes {
		done = in.kernels.MultiplyRowPairs(cols, halvesOf(m.data)[(from+i)*m.cols+p:], m.cols, panelRows*m.cols+(kernel.Lanes-1)*p,
			in.words[tile*in.step()+p/2*in.width:], out[i:], add || p > 0)
	}
	return done
}

// slice returns the numbers [p, p + cols) of Lanes rows in single precision, step numbers apart: where they are, or in part
// with zeros for rows from to on.
func (m *Matrix) slice(k *kernel.Set, from, to, p, cols int, part []float32) (rows []float32, step int) {
	if m.typ == F32 && to-from == kernel.Lanes {
		return m.Float32s()[from*m.cols+p:], m.cols
	}
	elements, bytes := m.typ.Block()
	for i := range kernel.Lanes {
		row := part[i*cols:][:cols]
		if i >= to-from {
			clear(row)
			continue
		}
		m.unpack(k, m.data[(from+i)*m.rowBytes()+p/elements*bytes:][:cols/elements*bytes], row)
	}
	return part, cols
}

// slicePairs is slice for pairs.
func (m *Matrix) slicePairs(from, to, p, cols int, part []uint32) (rows []uint32, step int) {
	data := m.data[from*m.rowBytes()+2*p:]
	all := unsafe.Slice((*uint32)(unsafe.Pointer(&data[0])), len(data)/4)
	if to-from == kernel.Lanes {
		return all, m.cols / 2
	}
	clear(part)
	for i := range to - from {
		copy(part[i*cols/2:], all[i*m.cols/2:][:cols/2])
	}
	return part, cols / 2
}

// multiplyBytes unpacks panels, and as many at a time as stay in the second-level cache while tiles of tokens pass by. For
// few tokens it unpacks what stays in the first-level cache.
func (m *Matrix) multiplyBytes(in *Inputs, from, to, first, last, tokens int, c []float32, add bool, s *Scratch) {
	k, f := in.kernels, formats[m.typ]
	many, slice := max(1, scratchBytes/4/f.PanelSize(m.cols)), m.cols
	if last-first == 1 && tokens <= kernel.Lanes {
		many, slice = 1, min(m.cols, 512)
	}
	size := f.PanelSize(slice)
	panels := s.get(many * size)
	bytes := kernel.Lanes * m.rowBytes()
	for ; from < to; from += many * kernel.Lanes {
		count := min(many, (to-from+kernel.Lanes-1)/kernel.Lanes)
		data := func(panel int) []byte {
			data := m.data[(from+panel*kernel.Lanes)*m.rowBytes():]
			if len(data) < bytes { // fewer rows
				data = append(make([]byte, 0, bytes), data...)[:bytes]
			}
			return data
		}
		if many == 1 {
			data, x := data(0), in.words[first*in.step():]
			m.get(in, from, min(to, from+kernel.Lanes), first, 0, tokens, c, add, s)
			if tokens == 1 && k.MultiplyRows(f, m.cols, data, x, 0, &s.products) {
				m.put(in, from, min(to, from+kernel.Lanes), first, 0, tokens, c, s)
				continue
			}
			for p := 0; p < m.cols; p += slice {
				end := min(p+slice, m.cols)
				k.UnpackPanel(f, m.cols, p, end, data, panels)
				k.MultiplyPanel(f, end-p, panels, x[kernel.InputSize(p):], 0, min(tokens, kernel.Lanes), &s.products)
			}
			m.put(in, from, min(to, from+kernel.Lanes), first, 0, tokens, c, s)
			continue
		}
		for i := range count {
			k.UnpackPanel(f, m.cols, 0, m.cols, data(i), panels[i*size:])
		}
		for t := first; t < last; t++ {
			for j := 0; j < tokens; j += kernel.Lanes {
				x := in.words[t*in.step()+kernel.InputSize(m.cols)*(j/kernel.Lanes):]
				for i := range count {
					row := from + i*kernel.Lanes
					m.get(in, row, min(to, row+kernel.Lanes), t, j, tokens, c, add, s)
					k.MultiplyPanel(f, m.cols, panels[i*size:], x, 0, min(tokens-j, kernel.Lanes), &s.products)
					m.put(in, row, min(to, row+kernel.Lanes), t, j, tokens, c, s)
				}
			}
		}
	}
}

// get begins products of at most Lanes rows and tokens, which lie by tokens: with zeros, or with what c has if they are to be
// added.
func (m *Matrix) get(in *Inputs, from, to, tile, token, tokens int, c []float32, add bool, s *Scratch) {
	src := c[(tile*m.rows+from)*in.width+token:]
	switch cols := min(tokens-token, kernel.Lanes); {
	case !add:
		clear(s.products[:])
	case cols <= fewTokens || to-from < kernel.Lanes:
		for j := range cols {
			for i := range to - from {
				s.products[j*kernel.Lanes+i] = src[i*in.width+j]
			}
		}
	default: // columns without a token are there, and do no harm
		kernel.Transpose(in.kernels, kernel.Lanes, kernel.Lanes, src, in.width, s.products[:], kernel.Lanes)
	}
}

// put writes such products to c.
func (m *Matrix) put(in *Inputs, from, to, tile, token, tokens int, c []float32, s *Scratch) {
	dst := c[(tile*m.rows+from)*in.width+token:]
	if cols := min(tokens-token, kernel.Lanes); cols < kernel.Lanes || to-from < kernel.Lanes {
		for j := range cols {
			for i, x := range s.products[j*kernel.Lanes:][:to-from] {
				dst[i*in.width+j] = x
			}
		}
		return
	}
	kernel.Transpose(in.kernels, kernel.Lanes, kernel.Lanes, s.products[:], kernel.Lanes, dst, in.width)
}

// multiplyColumn multiplies by the first token of a tile alone. Vector levels get the columns without a token for
// nothing, plain Go does not. Sums run in the order of the kernels.
func (m *Matrix) multiplyColumn(in *Inputs, from, to, tile int, c []float32, add bool, s *Scratch) {
	words := s.get(5 * m.cols)
	x, b := singlesOf(words[4*m.cols:]), in.floats(tile)
	for p := range x {
		x[p] = b[p*in.width]
	}
	for ; from < to; from += 4 {
		rows := min(4, to-from)
		w := m.singles(in.kernels, from, from+rows, words)
		dst := c[(tile*m.rows+from)*in.width:]
		for p := 0; p < m.cols; p += sliceCols {
			x := x[p:min(p+sliceCols, m.cols)]
			var sum [4]float32 // at once, which keeps the processor busy
			if rows == 4 {
				w0, w1, w2, w3 := w[p:][:len(x)], w[m.cols+p:][:len(x)], w[2*m.cols+p:][:len(x)], w[3*m.cols+p:][:len(x)]
				for p, v := range x {
					sum[0] += w0[p] * v
					sum[1] += w1[p] * v
					sum[2] += w2[p] * v
					sum[3] += w3[p] * v
				}
			} else {
				for r := range rows {
					for p, w := range w[r*m.cols+p:][:len(x)] {
						sum[r] += w * x[p]
					}
				}
			}
			for r, x := range sum[:rows] {
				if add || p > 0 {
					x += dst[r*in.width]
				}
				dst[r*in.width] = x
			}
		}
	}
}
