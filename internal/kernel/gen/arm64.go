package main

import "fmt"

// neon is arm64's one level: 32 registers of 4 float32s, which every such processor has.
type neon struct{ *printer }

const quads = columns / 4 // vectors in the columns that a kernel handles at once

func arm64() *printer {
	p := neon{new(printer)}
	for _, rows := range []int{6, 4, 2, 1} {
		p.gemm(rows, byRows)
		p.gemm(rows, byCols)
	}
	p.colMax()
	p.expSum()
	p.mask()
	p.sel()
	p.transpose()
	p.scale()
	p.scaleCols()
	p.add()
	p.finite()
	p.widen("bf16", "SHLL", "SHLL2")
	p.widen("addBF16", "SHLL", "SHLL2")
	p.widen("f16", "FCVTL", "FCVTL2")
	p.fma()
	return p.printer
}

// a64 holds the instructions that Go's assembler lacks: their words with all operands 0, and their texts, in the
// manual's order (destination first).
var a64 = map[string]struct {
	word uint32
	text string
}{
	"FADD":   {0x4e20d400, "fadd v%d.4s, v%d.4s, v%d.4s"},
	"FSUB":   {0x4ea0d400, "fsub v%d.4s, v%d.4s, v%d.4s"},
	"FMUL":   {0x6e20dc00, "fmul v%d.4s, v%d.4s, v%d.4s"},
	"FMIN":   {0x4ea0f400, "fmin v%d.4s, v%d.4s, v%d.4s"},
	"FNEG":   {0x6ea0f800, "fneg v%d.4s, v%d.4s"},
	"FRINTM": {0x4e219800, "frintm v%d.4s, v%d.4s"},
	"FCVTMS": {0x4e21b800, "fcvtms v%d.4s, v%d.4s"},
	"SHLL":   {0x2e613800, "shll v%d.4s, v%d.4h, #16"},
	"SHLL2":  {0x6e613800, "shll2 v%d.4s, v%d.8h, #16"},
	"FCVTL":  {0x0e217800, "fcvtl v%d.4s, v%d.4h"},
	"FCVTL2": {0x4e217800, "fcvtl2 v%d.4s, v%d.8h"},
	"FCMEQ":  {0x4e20e400, "fcmeq v%d.4s, v%d.4s, v%d.4s"},
	"FCMGE":  {0x6e20e400, "fcmge v%d.4s, v%d.4s, v%d.4s"},
	"FCMGT":  {0x6ea0e400, "fcmgt v%d.4s, v%d.4s, v%d.4s"},
	"CMGT":   {0x4ea03400, "cmgt v%d.4s, v%d.4s, v%d.4s"},
	"BIC":    {0x4e601c00, "bic v%d.16b, v%d.16b, v%d.16b"},
	"UMINV":  {0x6eb1a800, "uminv s%d, v%d.4s"},
	// The second source is one element, whose number follows that of its register.
	"FMLA": {0x4f801000, "fmla v%d.4s, v%d.4s, v%d.s[%d]"},
}

// op prints an instruction of a64 as a word, with its text as a comment.
func (p neon) op(name string, operands ...int) {
	in, args := a64[name], make([]any, len(operands))
	for i, x := range operands {
		args[i] = x
		if i == 3 { // the element's number lies in two bits apart
			in.word |= uint32(x&1)<<21 | uint32(x>>1)<<11
		} else {
			in.word |= uint32(x) << []int{0, 5, 16}[i]
		}
	}
	p.f("\tWORD $0x%08x // %s", in.word, fmt.Sprintf(in.text, args...))
}

// load and store move n vectors, an even number, between memory and the registers from v on.
func (p neon) load(base string, offset, v, n int) {
	for i := 0; i < n; i += 2 {
		p.f("\tFLDPQ %d(%s), (F%d, F%d)", offset+16*i, base, v+i, v+i+1)
	}
}

func (p neon) store(base string, offset, v, n int) {
	for i := 0; i < n; i += 2 {
		p.f("\tFSTPQ (F%d, F%d), %d(%s)", v+i, v+i+1, offset+16*i, base)
	}
}

// spread loads a float32 into all lanes.
func (p neon) spread(from string, v int) {
	p.f("\tFMOVS %s, F%[2]d\n\tVDUP V%[2]d.S[0], V%[2]d.S4", from, v)
}

func (p neon) clear(v, n int) {
	for i := range n {
		p.f("\tVEOR V%[1]d.B16, V%[1]d.B16, V%[1]d.B16", v+i)
	}
}

func (p neon) copy(from, to int) { p.f("\tVMOV V%d.B16, V%d.B16", from, to) }

func (p neon) and(a, b, to int) { p.f("\tVAND V%d.B16, V%d.B16, V%d.B16", b, a, to) }

// raise replaces v by x in the lanes where x is larger, which a NaN is not. FMAXNM would do without a mask, but makes a
// NaN of a signalling one.
func (p neon) raise(v, x, mask int) {
	p.op("FCMGT", mask, x, v)
	p.f("\tVBIT V%d.B16, V%d.B16, V%d.B16", mask, x, v)
}

// gemm prints a product of tiles of rows × 4 vectors, one below the other. Multiply-adds take elements of a out of
// vectors loaded as they lie: the rows of one k, or four k's of each row. Six rows of these leave two registers for
// b, which serve twice in every k.
func (p neon) gemm(rows int, lay layout) {
	const unroll = 4
	p.text(fmt.Sprintf("gemm%dx%d%sNEON", rows, columns, lay),
		"tiles, k int, a *float32, lda uintptr, b *float32, ldb uintptr, c *float32, ldc uintptr, add bool", 65)
	p.f("\tMOVD tiles+0(FP), R0\n\tMOVD a+16(FP), R1\n\tMOVD lda+24(FP), R2\n\tMOVD ldb+40(FP), R3")
	p.f("\tMOVD c+48(FP), R4\n\tMOVD ldc+56(FP), R5\n\tMOVBU add+64(FP), R6")

	acc := func(i, j int) int { return i*quads + j }
	free := rows * quads                     // first register after the accumulators, for a
	var as int                               // registers of a
	var begin func()                         // of a tile; leaves R1 at the next one
	var load func(u, n int)                  // of a's elements for the u-th of the next n k's
	var element func(i, u int) (v, item int) // a[i][u]
	switch lay {
	case byRows: // a pointer for every row
		as = rows
		begin = func() {
			for i := range rows {
				p.f("\tMOVD R1, R%d\n\tADD R2, R1", 9+i)
			}
		}
		load = func(u, n int) {
			for i := range rows {
				if u == 0 {
					p.f("\t%s.P %d(R%d), F%d", map[int]string{1: "FMOVS", 4: "FMOVQ"}[n], 4*n, 9+i, free+i)
				}
			}
		}
		element = func(i, u int) (v, item int) { return free + i, u }
	case byCols:
		as = (rows + 3) / 4
		begin = func() { p.f("\tMOVD R1, R9\n\tADD $%d, R1", 4*rows) }
		load = func(u, n int) {
			for i := range as {
				p.f("\t%s %d(R9), F%d", map[int]string{1: "FMOVS", 2: "FMOVD", 4: "FMOVQ"}[min(rows-4*i, 4)], 16*i, free+i)
			}
			p.f("\tADD R2, R9")
		}
		element = func(i, u int) (v, item int) { return free + i/4, i % 4 }
	}
	bs := min(quads, 32-free-as) // registers of b
	// step prints the multiply-adds of the u-th of the next n k's.
	step := func(u, n int) {
		load(u, n)
		for first := 0; first < quads; first += bs {
			p.load("R8", 16*first, free+as, bs)
			for i := range rows {
				for j := range bs {
					v, item := element(i, u)
					p.op("FMLA", acc(i, first+j), free+as+j, v, item)
				}
			}
		}
		p.f("\tADD R3, R8")
	}

	p.f("\ntile:\n\tMOVD k+8(FP), R7\n\tMOVD b+32(FP), R8")
	begin()
	p.clear(0, rows*quads)
	p.f("\tSUBS $%d, R7\n\tBLT few\n\nloop:", unroll)
	for u := range unroll {
		step(u, unroll)
	}
	p.f("\tSUBS $%d, R7\n\tBGE loop\n\nfew:\n\tADDS $%d, R7\n\tBEQ done\n\none:", unroll, unroll)
	step(0, 1)
	p.f("\tSUBS $1, R7\n\tBNE one\n\ndone:\n\tCBZ R6, store")
	for _, add := range []bool{true, false} {
		if !add {
			p.f("\nstore:")
		}
		for i := range rows {
			if add {
				p.load("R4", 0, free, quads)
				for j := range quads {
					p.op("FADD", acc(i, j), acc(i, j), free+j)
				}
			}
			p.store("R4", 0, acc(i, 0), quads)
			p.f("\tADD R5, R4")
		}
		p.f("\tSUBS $1, R0\n\tBNE tile\n\tRET")
	}
}

// columnLoop prints a loop over the columns of x, 16 at a time, around body, which is given the registers: R4 walks
// the rows of the columns at R1, R5 counts them, and R2 is the step. Arguments rows, x, ld (in bytes), n come first
// in every function that uses it.
func (p neon) columnLoop(body func()) {
	p.f("\tMOVD rows+0(FP), R0\n\tMOVD x+8(FP), R1\n\tMOVD ld+16(FP), R2\n\tMOVD n+24(FP), R3")
	p.f("\nnext:\n\tMOVD R1, R4\n\tMOVD R0, R5")
	body()
	p.f("\tADD $%d, R1\n\tSUBS $%d, R3\n\tBNE next", columns*4, columns)
}

// colMax keeps two maxima per column, for two rows: each waits for itself.
func (p neon) colMax() {
	p.text("colMaxNEON", "rows int, x *float32, ld uintptr, n int, scale, slack float32, top, base *float32) (raised uint64", 64)
	const x, mask, top, lim, bits, inf, scale, slack, most = 8, 16, 8, 12, 24, 26, 27, 28, 29
	p.f("\tMOVD top+40(FP), R6\n\tMOVD base+48(FP), R7\n\tMOVD $·laneBits+0(SB), R8\n\tMOVD $0, R10\n\tMOVD $0, R12")
	p.load("R8", 0, bits, 2)
	p.spread("·negInf+0(SB)", inf)
	p.spread("scale+32(FP)", scale)
	p.spread("slack+36(FP)", slack)
	p.spread("·maxFloat+0(SB)", most)
	p.columnLoop(func() {
		for j := range 2 * quads {
			p.copy(inf, j)
		}
		step := func(way int) {
			p.load("R4", 0, x+way*quads, quads)
			for j := way * quads; j < (way+1)*quads; j++ {
				p.raise(j, x+j, mask+j)
			}
			p.f("\tADD R2, R4")
		}
		p.f("\tSUBS $2, R5\n\tBLT last\n\ntwo:")
		step(0)
		step(1)
		p.f("\tSUBS $2, R5\n\tBGE two\n\nlast:\n\tCMP $-2, R5\n\tBEQ done")
		step(0)
		p.f("\ndone:")
		p.load("R6", 0, top, quads)
		p.load("R7", 0, lim, quads)
		for j := range quads {
			p.raise(j, quads+j, mask+j)
			p.op("FMUL", j, j, scale)
			p.raise(top+j, j, mask+j)
			p.op("FADD", lim+j, lim+j, slack)
			p.op("FMIN", lim+j, lim+j, most) // a NaN if one is
			p.op("FCMGE", mask+j, lim+j, top+j)
		}
		p.store("R6", 0, top, quads)
		// Each half of a mask is its column's bit, or 0: their sum has those that were not raised.
		for i := range 2 {
			p.f("\tVUZP1 V%d.H8, V%d.H8, V%d.H8", mask+2*i+1, mask+2*i, i)
			p.and(i, bits+i, i)
		}
		p.f("\tVADD V1.H8, V0.H8, V0.H8\n\tVADDV V0.H8, V0\n\tVMOV V0.H[0], R11")
		p.f("\tEOR $0xffff, R11\n\tLSL R12, R11\n\tORR R11, R10\n\tADD $%d, R12", columns)
		p.f("\tADD $%[1]d, R6\n\tADD $%[1]d, R7", columns*4)
	})
	p.f("\tMOVD R10, raised+56(FP)\n\tRET")
}

// expSum: 2^x = 2^⌊x⌋ · p(x − ⌊x⌋), cleared where x is below the lowest exponent (a NaN is not). Every step is taken for
// the four vectors of a row in turn, so that none waits for the last. A multiply-add overwrites what it adds to, here
// coefficients: two registers take turns.
func (p neon) expSum() {
	p.text("expSumNEON", "rows int, x *float32, ld uintptr, n int, scale float32, m, l *float32", 56)
	const x, f, e, t, m, l, low, factors = 0, 4, 8, 12, 16, 20, 30, 31
	c := func(i int) int { return 23 + i } // coefficients after the first, highest power first
	p.f("\tMOVD m+40(FP), R6\n\tMOVD l+48(FP), R7")
	for i := 1; i < expTerms; i++ {
		p.spread(fmt.Sprintf("·expCoef+%d(SB)", 4*i), c(i))
	}
	p.spread("·expLow+0(SB)", low)
	// The scale and the first coefficient only multiply: they share a register.
	p.f("\tFMOVS scale+32(FP), F%d\n\tFMOVS ·expCoef+0(SB), F0\n\tVMOV V0.S[0], V%d.S[1]", factors, factors)
	each := func(step func(j int)) {
		for j := range quads {
			step(j)
		}
	}
	p.columnLoop(func() {
		p.load("R6", 0, m, quads)
		each(func(j int) { p.op("FNEG", m+j, m+j) })
		p.clear(l, quads)
		p.f("\nrow:")
		p.load("R4", 0, t, quads)
		each(func(j int) { p.copy(m+j, x+j) })
		each(func(j int) { p.op("FMLA", x+j, t+j, factors, 0) })
		each(func(j int) { p.op("FRINTM", f+j, x+j) })
		each(func(j int) { p.op("FSUB", f+j, x+j, f+j) })
		each(func(j int) { p.copy(c(1), e+j) })
		each(func(j int) { p.op("FMLA", e+j, f+j, factors, 1) })
		from, to := e, t
		for i := 2; i < expTerms; i++ {
			each(func(j int) { p.copy(c(i), to+j) })
			each(func(j int) { p.f("\tVFMLA V%d.S4, V%d.S4, V%d.S4", f+j, from+j, to+j) })
			from, to = to, from
		}
		// ⌊x⌋ goes to the exponent.
		each(func(j int) { p.op("FCVTMS", f+j, x+j) })
		each(func(j int) { p.f("\tVSHL $23, V%[1]d.S4, V%[1]d.S4", f+j) })
		each(func(j int) { p.op("FCMGT", x+j, low, x+j) })
		each(func(j int) { p.f("\tVADD V%d.S4, V%[2]d.S4, V%[2]d.S4", f+j, from+j) })
		each(func(j int) { p.op("BIC", from+j, from+j, x+j) })
		p.store("R4", 0, from, quads)
		each(func(j int) { p.op("FADD", l+j, l+j, from+j) })
		p.f("\tADD R2, R4\n\tSUBS $1, R5\n\tBNE row")
		p.load("R7", 0, x, quads)
		each(func(j int) { p.op("FADD", l+j, l+j, x+j) })
		p.store("R7", 0, l, quads)
		p.f("\tADD $%[1]d, R6\n\tADD $%[1]d, R7", columns*4)
	})
	p.f("\tRET")
}

// mask counts keys in a vector and compares it with the borders of what each column sees.
func (p neon) mask() {
	p.text("maskNEON", "rows int, x *float32, ld uintptr, n int, pos *int32, first, far, near int32", 52)
	const x, lo, hi, before, after, far, near, one, key, inf = 0, 4, 8, 12, 16, 20, 21, 22, 23, 24
	spread := func(from string, v int) { p.f("\tMOVW %s, R7\n\tVDUP R7, V%d.S4", from, v) }
	p.f("\tMOVD pos+32(FP), R6")
	spread("far+44(FP)", far)
	spread("near+48(FP)", near)
	spread("$1", one)
	p.spread("·negInf+0(SB)", inf)
	p.columnLoop(func() {
		spread("first+40(FP)", key)
		p.load("R6", 0, x, quads)
		for j := range quads {
			p.f("\tVSUB V%d.S4, V%d.S4, V%d.S4", far, x+j, lo+j)
			p.f("\tVSUB V%d.S4, V%d.S4, V%d.S4", near, x+j, hi+j)
		}
		p.f("\nrow:")
		p.load("R4", 0, x, quads)
		for j := range quads {
			p.op("CMGT", before+j, lo+j, key)
			p.op("CMGT", after+j, key, hi+j)
			p.f("\tVBIT V%d.B16, V%d.B16, V%d.B16", before+j, inf, x+j)
			p.f("\tVBIT V%d.B16, V%d.B16, V%d.B16", after+j, inf, x+j)
		}
		p.store("R4", 0, x, quads)
		p.f("\tVADD V%d.S4, V%[2]d.S4, V%[2]d.S4\n\tADD R2, R4\n\tSUBS $1, R5\n\tBNE row\n\tADD $%[3]d, R6", one, key, columns*4)
	})
	p.f("\tRET")
}

// sel writes every row's number and moves on only when the row is kept.
func (p neon) sel() {
	p.text("selectNEON", "rows int, x *float32, ld uintptr, n int, top *float32, theta float32, base int32, dst *int32) (kept int", 64)
	const d, x, theta, all = 0, 4, 8, 9
	p.f("\tMOVD rows+0(FP), R0\n\tMOVD x+8(FP), R1\n\tMOVD ld+16(FP), R2\n\tMOVD n+24(FP), R3\n\tMOVD top+32(FP), R4")
	p.spread("theta+40(FP)", theta)
	p.f("\tMOVW base+44(FP), R5\n\tMOVD dst+48(FP), R6")
	p.f("\nrow:\n\tMOVD R1, R7\n\tMOVD R4, R8\n\tMOVD R3, R9\n\tVMOVI $255, V%d.B16\n\ncolumns:", all)
	p.load("R8", 0, d, quads)
	p.load("R7", 0, x, quads)
	for j := range quads {
		p.op("FSUB", d+j, d+j, x+j)
		p.op("FCMGT", d+j, d+j, theta)
	}
	p.and(d, d+1, d)
	p.and(d+2, d+3, d+2)
	p.and(d, d+2, d)
	p.and(all, d, all)
	p.f("\tADD $%[1]d, R7\n\tADD $%[1]d, R8\n\tSUBS $%[2]d, R9\n\tBNE columns", columns*4, columns)
	p.allOf(all)
	p.f("\tMOVW R5, (R6)\n\tCMPW $0, R10\n\tCSET EQ, R10\n\tADD R10<<2, R6")
	p.f("\tADD $1, R5\n\tADD R2, R1\n\tSUBS $1, R0\n\tBNE row")
	p.f("\tMOVD dst+48(FP), R7\n\tSUB R7, R6\n\tLSR $2, R6\n\tMOVD R6, kept+56(FP)\n\tRET")
}

// allOf prints R10 = all ones if every lane of the mask v is, and 0 else.
func (p neon) allOf(v int) {
	p.op("UMINV", v, v)
	p.f("\tFMOVS F%d, R10", v)
}

// transpose turns 16 rows × 4 columns in registers, to whole lines of dst, and takes columns left over one element of
// each row at a time.
func (p neon) transpose() {
	p.text("transposeNEON", "cols int, src *float32, lds uintptr, dst *float32, ldd uintptr", 40)
	const t = columns
	p.f("\tMOVD cols+0(FP), R0\n\tMOVD src+8(FP), R1\n\tMOVD lds+16(FP), R2\n\tMOVD dst+24(FP), R3\n\tMOVD ldd+32(FP), R4")
	p.f("\tSUBS $4, R0\n\tBLT few\n\nsquares:\n\tMOVD R1, R5")
	at := func(c, i int) int { return c*quads + i } // register of rows [4i, 4i+4) of column c, and of row 4i+c before
	for i := range columns {
		p.f("\tFMOVQ (R5), F%d\n\tADD R2, R5", at(i%4, i/4))
	}
	for i := range quads {
		for c := range 2 { // columns c and c+2 of rows 0 and 1, and of rows 2 and 3
			p.f("\tVTRN%d V%d.S4, V%d.S4, V%d.S4", 1+c, at(1, i), at(0, i), t+c)
			p.f("\tVTRN%d V%d.S4, V%d.S4, V%d.S4", 1+c, at(3, i), at(2, i), t+2+c)
		}
		for c := range 4 {
			p.f("\tVZIP%d V%d.D2, V%d.D2, V%d.D2", 1+c/2, t+2+c%2, t+c%2, at(c, i))
		}
	}
	for c := range 4 {
		p.store("R3", 0, at(c, 0), quads)
		p.f("\tADD R4, R3")
	}
	p.f("\tADD $16, R1\n\tSUBS $4, R0\n\tBGE squares\n\nfew:\n\tADDS $4, R0\n\tBEQ done")
	p.f("\none:\n\tMOVD R1, R5\n\tMOVD R3, R6\n\tMOVD $%d, R7", columns)
	p.f("\nelement:\n\tMOVWU (R5), R8\n\tMOVW.P R8, 4(R6)\n\tADD R2, R5\n\tSUBS $1, R7\n\tBNE element")
	p.f("\tADD $4, R1\n\tADD R4, R3\n\tSUBS $1, R0\n\tBNE one\n\ndone:\n\tRET")
}

// vectors prints a loop over n numbers of src and dst, 16 at a time, around body: R2 walks src, whose numbers take size
// bytes, and R1 walks dst.
func (p neon) vectors(size int, body func()) {
	p.f("\tMOVD n+0(FP), R0\n\tMOVD dst+8(FP), R1\n\tMOVD src+16(FP), R2\n\nloop:")
	body()
	p.f("\tADD $%d, R2\n\tADD $%d, R1\n\tSUBS $%d, R0\n\tBNE loop", columns*size, columns*4, columns)
}

// scale adds up products with zero beside: what is left is NaN when one of them was not finite.
func (p neon) scale() {
	p.text("scaleNEON", "n int, dst, src *float32, f float32) (bad uint32", 36)
	const x, sum, f, zero = 0, 4, 8, 9
	p.spread("f+24(FP)", f)
	p.clear(sum, quads)
	p.clear(zero, 1)
	p.vectors(4, func() {
		p.load("R2", 0, x, quads)
		for j := range quads {
			p.op("FMUL", x+j, x+j, f)
			p.f("\tVFMLA V%d.S4, V%d.S4, V%d.S4", zero, x+j, sum+j)
		}
		p.store("R1", 0, x, quads)
	})
	p.unordered(sum)
	p.f("\tMOVW R10, bad+32(FP)\n\tRET")
}

// finite is scale without the result.
func (p neon) finite() {
	p.text("finiteNEON", "n int, x *float32) (bad uint32", 20)
	const x, sum, zero = 0, 4, 9
	p.f("\tMOVD n+0(FP), R0\n\tMOVD x+8(FP), R2")
	p.clear(sum, quads)
	p.clear(zero, 1)
	p.f("\nloop:")
	p.load("R2", 0, x, quads)
	for j := range quads {
		p.f("\tVFMLA V%d.S4, V%d.S4, V%d.S4", zero, x+j, sum+j)
	}
	p.f("\tADD $%d, R2\n\tSUBS $%d, R0\n\tBNE loop", columns*4, columns)
	p.unordered(sum)
	p.f("\tMOVW R10, bad+16(FP)\n\tRET")
}

// unordered prints R10 = 0 unless one of the four vectors from v on, which it spoils, has a NaN.
func (p neon) unordered(v int) {
	p.op("FADD", v, v, v+1)
	p.op("FADD", v+2, v+2, v+3)
	p.op("FADD", v, v, v+2)
	p.op("FCMEQ", v, v, v)
	p.allOf(v)
	p.f("\tMVNW R10, R10")
}

func (p neon) scaleCols() {
	p.text("scaleColsNEON", "rows int, x *float32, ld uintptr, n int, f *float32", 40)
	const x, f = 0, 4
	p.f("\tMOVD f+32(FP), R6")
	p.columnLoop(func() {
		p.load("R6", 0, f, quads)
		p.f("\nrow:")
		p.load("R4", 0, x, quads)
		for j := range quads {
			p.op("FMUL", x+j, x+j, f+j)
		}
		p.store("R4", 0, x, quads)
		p.f("\tADD R2, R4\n\tSUBS $1, R5\n\tBNE row\n\tADD $%d, R6", columns*4)
	})
	p.f("\tRET")
}

func (p neon) add() {
	p.text("addNEON", "n int, dst, src *float32", 24)
	const x, y = 0, 4
	p.vectors(4, func() {
		p.load("R1", 0, x, quads)
		p.load("R2", 0, y, quads)
		for j := range quads {
			p.op("FADD", x+j, x+j, y+j)
		}
		p.store("R1", 0, x, quads)
	})
	p.f("\tRET")
}

// widen prints the conversion of 16-bit numbers to float32s, which are written or added to others, by an instruction for
// each half of a vector.
func (p neon) widen(name string, halves ...string) {
	p.text(name+"NEON", "n int, dst *float32, src *uint16", 24)
	const x, y, sum = 0, 4, 8
	p.vectors(2, func() {
		p.load("R2", 0, x, quads/2)
		for j := range quads {
			p.op(halves[j%2], y+j, x+j/2)
		}
		if name == "addBF16" {
			p.load("R1", 0, sum, quads)
			for j := range quads {
				p.op("FADD", y+j, y+j, sum+j)
			}
		}
		p.store("R1", 0, y, quads)
	})
	p.f("\tRET")
}

// fma keeps more multiply-adds in flight than their latency times their rate.
func (p neon) fma() {
	p.text("fmaNEON", "rounds int", 8)
	const regs = 24
	p.f("\tMOVD rounds+0(FP), R0")
	p.spread("·expCoef+0(SB)", regs)
	for i := range regs {
		p.copy(regs, i)
	}
	p.f("\nloop:")
	for range 2 {
		for i := range regs {
			p.f("\tVFMLA V%[1]d.S4, V%[1]d.S4, V%[2]d.S4", regs, i)
		}
	}
	p.f("\tSUBS $1, R0\n\tBNE loop\n\tRET")
}
