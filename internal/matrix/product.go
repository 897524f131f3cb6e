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
	panelRows    = 48        // rows side by side where single tokens are multiplied
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
	data, out := m.data[from*m.rowBytes():to*m.rowBytes()], singlesOf(dst[:(to-from)*m.cols])
	switch m.typ {
	case F16:
		k.FromFloat16(out, halvesOf(data))
	case BF16:
		k.FromBFloat16(out, halvesOf(data))
	default:
		Unpack(m.typ, data, out)
	}
	return out
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
			in.kernels.Gemm(rows, in.width, m.cols, w, m.cols, 1, in.floats(t), in.width, c[(t*m.rows+from)*in.width:], in.width, add)
		}
	}
}

// multiplyPairs multiplies rows as they lie, except that those which fill no tile are copied.
func (m *Matrix) multiplyPairs(in *Inputs, from, to, first, last int, c []float32, add bool, s *Scratch) {
	k := in.kernels
	k.BeginPairs()
	defer k.EndPairs()
	pairs := m.cols / 2
	height := max(1, scratchBytes/2/m.cols/panelRows) * panelRows
	for ; from < to; from += height {
		end := min(from+height, to)
		whole := (end - from) / k.PairRows() * k.PairRows()
		w := halvesOf(m.data)[from*m.cols : end*m.cols]
		for t := first; t < last; t++ {
			b := in.words[t*in.step():]
			out := c[(t*m.rows+from)*in.width:]
			k.GemmPairs(whole, in.width, pairs, w, m.cols, b, in.width, out, in.width, add)
			if left := end - from - whole; left > 0 {
				rows := unsafe.Slice((*uint16)(unsafe.Pointer(&s.get(k.PairRows() * pairs)[0])), k.PairRows()*m.cols)
				clear(rows[copy(rows, w[whole*m.cols:]):])
				for j := 0; j < in.width; j += kernel.Lanes {
					k.GemmPairs(k.PairRows(), kernel.Lanes, pairs, rows, m.cols, b[j:], in.width, s.turn[:], kernel.Lanes, false)
					for i := range left {
						row, src := out[(whole+i)*in.width+j:][:kernel.Lanes], s.turn[i*kernel.Lanes:][:kernel.Lanes]
						if add {
							k.Add(row, src)
						} else {
							copy(row, src)
						}
					}
				}
			}
		}
	}
}

// multiplyFew turns panelRows rows at a time so that they lie side by side: with few tokens it is these that would leave
// vectors empty.
func (m *Matrix) multiplyFew(in *Inputs, from, to, tile, tokens int, c []float32, add bool, s *Scratch) {
	k := in.kernels
	deep := m.cols // numbers or pairs in a row
	if in.form == inPairs {
		deep /= 2
	}
	words := s.get((panelRows + kernel.Lanes) * m.cols)
	panel, unpacked := words[:panelRows*deep], words[panelRows*deep:]
	for ; from < to; from += panelRows {
		rows := min(panelRows, to-from)
		n := (rows + kernel.Lanes - 1) / kernel.Lanes * kernel.Lanes
		for i := 0; i < rows; i += kernel.Lanes {
			have := min(kernel.Lanes, rows-i)
			var w []uint32
			if in.form == inPairs {
				data := m.data[(from+i)*m.rowBytes() : (from+i+have)*m.rowBytes()]
				w = unsafe.Slice((*uint32)(unsafe.Pointer(&data[0])), have*deep)
			} else {
				x := m.singles(k, from+i, from+i+have, unpacked)
				w = unsafe.Slice((*uint32)(unsafe.Pointer(&x[0])), len(x))
			}
			if have < kernel.Lanes {
				copy(unpacked, w)
				w = unpacked[:kernel.Lanes*deep]
				clear(w[have*deep:])
			}
			kernel.Transpose(k, kernel.Lanes, deep, w, deep, panel[i:], n)
		}
		out := s.out[:tokens*panelRows]
		if in.form == inPairs {
			k.GemmPairsByCols(tokens, n, deep, in.words[tile*in.step():], in.width, panel, n, out, panelRows)
		} else {
			k.Gemm(tokens, n, deep, in.floats(tile), 1, in.width, singlesOf(panel), n, out, panelRows, false)
		}
		dst := c[(tile*m.rows+from)*in.width:]
		for t := range tokens {
			scatter(dst[t:], out[t*panelRows:][:rows], in.width, add)
		}
	}
}

// scatter writes or adds numbers to a column.
func scatter(dst, src []float32, step int, add bool) {
	for i, x := range src {
		if add {
			x += dst[i*step]
		}
		dst[i*step] = x
	}
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
		// Four sums at once keep the processor busy.
		var sum [4]float32
		rows := min(4, to-from)
		w := m.singles(in.kernels, from, from+rows, words)
		if rows == 4 {
			w0, w1, w2, w3 := w[:len(x)], w[m.cols:][:len(x)], w[2*m.cols:][:len(x)], w[3*m.cols:][:len(x)]
			for p, v := range x {
				sum[0] += w0[p] * v
				sum[1] += w1[p] * v
				sum[2] += w2[p] * v
				sum[3] += w3[p] * v
			}
		} else {
			for r := range rows {
				for p, w := range w[r*m.cols:][:len(x)] {
					sum[r] += w * x[p]
				}
			}
		}
		scatter(c[(tile*m.rows+from)*in.width:], sum[:rows], in.width, add)
	}
}
