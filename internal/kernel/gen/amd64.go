package main

import (
	"fmt"
	"strings"
)

// An isa is one instruction-set level of amd64.
type isa struct {
	name  string // as in kernel names
	reg   string // vector register prefix
	lanes int    // float32s in a vector
	tiles []tile
	panel int // rows in a panel of the matrix product
}

// tile gives the tiles of the matrix product of one width, in vectors, by their heights.
type tile struct {
	vecs int
	rows []int
}

// Of 32 registers, 8×3 accumulators need 11 loads for 24 multiply-adds; 12×2 need 14 and are slower from the
// first-level cache, 6×4 need 10 but keep more of b there.
// 8×1 would be just as many multiply-adds as their latency needs.
var tiles512 = []tile{{3, []int{8, 4, 2, 1}}, {2, []int{8, 4, 2, 1}}, {1, []int{12, 8, 4, 2, 1}}}

var (
	// 6×2 accumulators, 2 vectors of b and 2 broadcasts of a fill the 16 registers.
	avx2   = isa{name: "AVX2", reg: "Y", lanes: 8, tiles: []tile{{2, []int{6, 4, 2, 1}}}, panel: 6}
	avx512 = isa{name: "AVX512", reg: "Z", lanes: 16, tiles: tiles512, panel: 8}
	// The dot product of pairs has twice the latency of a multiply-add: see bench/NOTES.md.
	avx512bf16 = isa{name: "AVX512BF16", reg: "Z", lanes: 16, tiles: tiles512}
)

type x86 struct {
	*printer
	isa
}

// v names a vector register.
func (p x86) v(i int) string { return fmt.Sprint(p.reg, i) }

func (p x86) wide() bool { return p.lanes == 16 }

func (p x86) ret() { p.f("\tVZEROUPPER\n\tRET") }

func amd64() *printer {
	out := new(printer)
	cpuid(out)
	prefetch(out)
	for _, isa := range []isa{avx2, avx512} {
		p := x86{out, isa}
		for _, t := range isa.tiles {
			for _, rows := range t.rows {
				p.gemm(rows, t.vecs, byRows, false)
				p.gemm(rows, t.vecs, byCols, false)
				if p.wide() && rows == isa.panel && t.vecs == 3 {
					p.gemm(rows, t.vecs, byRowsMax, false)
				}
				if rows == isa.panel {
					p.gemm(rows, t.vecs, byPanels, false)
				}
			}
		}
		if !p.wide() {
			p.panels()
		}
		p.colMax()
		p.exp(false)
		p.mask()
		p.sel()
		p.transpose(false)
		p.transpose(true)
		p.scale("scale", "VMOVUPS")
		p.scale("scaleStream", "VMOVNTPS")
		p.scaleCols()
		p.add()
		p.finite()
		p.widen("bf16", func(from, to string) {
			p.f("\tVPMOVZXWD %s, %[2]s\n\tVPSLLD $16, %[2]s, %[2]s", from, to)
		})
		p.widen("addBF16", func(from, to string) {
			p.f("\tVPMOVZXWD %s, %[2]s\n\tVPSLLD $16, %[2]s, %[2]s", from, to)
		})
		p.widen("f16", func(from, to string) { p.f("\tVCVTPH2PS %s, %s", from, to) })
		p.split("F16")
		p.split("BF16")
		p.swiGLU()
		p.squares()
		p.scaleBoth()
		p.fma()
	}
	x86{out, avx2}.onBytes()
	x86{out, avx512vnni}.onBytes()
	p := x86{out, avx512bf16}
	for _, t := range p.tiles {
		for _, rows := range t.rows {
			p.gemm(rows, t.vecs, byRows, true)
			p.gemm(rows, t.vecs, byCols, true)
		}
	}
	p.exp(true)
	p.pair()
	p.round()
	p.dotRows()
	p.dot()
	for _, rows := range []int{2, 1} {
		for _, cols := range []int{4, 2, 1} {
			p.amx(rows, cols, false)
			p.amx(rows, cols, true)
		}
	}
	p.amxTiles()
	p.amxPeak()
	return out
}

func cpuid(p *printer) {
	p.text("cpuid", "leaf, sub uint32) (a, b, c, d uint32", 24)
	p.f("\tMOVL leaf+0(FP), AX\n\tMOVL sub+4(FP), CX\n\tCPUID")
	p.f("\tMOVL AX, a+8(FP)\n\tMOVL BX, b+12(FP)\n\tMOVL CX, c+16(FP)\n\tMOVL DX, d+20(FP)\n\tRET")
}

// prefetch asks for one line of the caches after the other.
func prefetch(p *printer) {
	p.text("prefetch", "p *float32, lines int", 16)
	p.f("\tMOVQ p+0(FP), SI\n\tMOVQ lines+8(FP), AX\n\nloop:\n\tPREFETCHT0 (SI)\n\tADDQ $64, SI\n\tDECQ AX\n\tJNZ loop\n\tRET")
}

type layout string

const (
	byRows layout = "Rows"
	byCols layout = "Cols"
	// byRowsMax is byRows with the maxima of the columns taken while sums are in registers, instead of added to c.
	byRowsMax layout = "RowsMax"
	// byPanels is byCols with columns panelStep numbers apart, and another panel for every tile.
	byPanels layout = "Panels"
)

const panelStep = 8 // kernel.panelStep

// gemm prints a product of tiles of rows × vecs vectors, one below the other. Going from tile to tile here rather than
// by calls lets the processor run into the next one while the last ends: 0.97 of the multiply-adds' peak against
// 0.90. The inner loop is unrolled so that few scalar additions compete with the multiply-adds for their ports, but no
// further than processors keep loops decoded: 24 multiply-adds are enough. One layout of a each keeps every address within
// a base, an index and a constant. With pairs, elements of a and b are pairs of bfloat16s, and their dot product takes
// the place of the multiply-add.
func (p x86) gemm(rows, vecs int, lay layout, pairs bool) {
	unroll := 4
	if rows*vecs >= 24 && !pairs {
		unroll = 1
	}
	// What memory or the second-level cache bring is asked for ahead: of a by rows, what lies two tiles on, as many lines
	// as there are rows in the steps that take a line of each; of b, where rows are few, the row 16 on.
	withMax := lay == byRowsMax
	if withMax {
		lay = byRows
	}
	ahead := p.wide() && !pairs && (lay == byRows && rows >= 8 || lay == byCols && vecs > 1 && rows <= 4)
	name := "gemm"
	if pairs {
		name = "dot"
	}
	args, size := "tiles, k int, a *float32, lda uintptr, b *float32, ldb uintptr, c *float32, ldc uintptr, add bool", 65
	if lay == byPanels {
		args, size = args+", next *float32, step uintptr", 88
	}
	if withMax {
		name, args, size = "gemmMax", strings.Replace(args, "add bool", "most *float32", 1), 72
	}
	p.text(fmt.Sprintf("%s%dx%d%s%s", name, rows, vecs*p.lanes, lay, p.name), args, size)
	p.f("\tMOVQ tiles+0(FP), DI\n\tMOVQ a+16(FP), R14\n\tMOVQ lda+24(FP), R9\n\tMOVQ ldb+40(FP), R12")
	p.f("\tMOVQ c+48(FP), R13\n\tMOVQ ldc+56(FP), SI\n\tLEAQ (R12)(R12*2), R10")

	acc := func(i, j int) int { return i*vecs + j }
	free := rows * vecs // first register after the accumulators
	most := func(j int) string { return p.v(free + vecs + 2 + j) }
	if withMax {
		p.f("\tMOVQ most+64(FP), DX")
		for j := range vecs {
			p.f("\tVMOVUPS %d(DX), %s", j*p.lanes*4, most(j))
		}
	}
	nth := func(base, stride, triple string, u int) string {
		return []string{"(" + base + ")", "(" + base + ")(" + stride + "*1)", "(" + base + ")(" + stride + "*2)", "(" + base + ")(" + triple + "*1)"}[u]
	}
	var begin, next func()       // of a tile
	var at func(i, u int) string // address of a[i][u]
	var advance func(n int)
	switch lay {
	case byRows: // a base for every three rows
		bases := []string{"R8", "BX", "CX", "DX"}[:(rows+2)/3]
		begin = func() {
			p.f("\tMOVQ R14, R8")
			for i := 1; i < len(bases); i++ {
				p.f("\tLEAQ (%s)(R9*2), %s\n\tADDQ R9, %s", bases[i-1], bases[i], bases[i])
			}
		}
		next = func() {
			for _, n := range map[int][]int{1: {1}, 2: {2}, 4: {4}, 6: {4, 2}, 8: {8}, 12: {8, 4}}[rows] {
				p.f("\tLEAQ (R14)(R9*%d), R14", n)
			}
		}
		at = func(i, u int) string { return fmt.Sprint(4*u) + nth(bases[i/3], "R9", "", i%3) }
		advance = func(n int) {
			for _, base := range bases {
				p.f("\tADDQ $%d, %s", 4*n, base)
			}
		}
	case byCols:
		p.f("\tLEAQ (R9)(R9*2), BX")
		begin = func() { p.f("\tMOVQ R14, R8") }
		next = func() { p.f("\tADDQ $%d, R14", 4*rows) }
		at = func(i, u int) string { return fmt.Sprint(4*i) + nth("R8", "R9", "BX", u) }
		advance = func(n int) { p.f("\tLEAQ (R8)(R9*%d), R8", n) }
	case byPanels:
		p.f("\tMOVQ next+72(FP), DX\n\tMOVQ step+80(FP), R15")
		begin = func() { p.f("\tMOVQ R14, R8") }
		next = func() { p.f("\tADDQ R9, R14") }
		at = func(i, u int) string { return fmt.Sprintf("%d(R8)", 4*(i+u*panelStep)) }
		advance = func(n int) { p.f("\tADDQ $%d, R8", 4*panelStep*n) }
	}
	// step prints the multiply-adds of the u-th of the next k's.
	step := func(u int) {
		switch {
		case lay == byPanels && u == 0:
			p.f("\tPREFETCHT1 (DX)\n\tLEAQ (DX)(R15*%d), DX", unroll)
		case ahead && lay == byRows && unroll == 1: // each line twice, or oftener
			p.f("\tPREFETCHT0 (R15)\n\tADDQ $%d, R15", 4*rows)
		case ahead && lay == byRows:
			for i := range rows / unroll {
				if (u*(rows/unroll)+i)%unroll == 0 {
					p.f("\tPREFETCHT0 (R15)\n\tADDQ $64, R15")
				}
			}
		case ahead:
			for j := range vecs {
				p.f("\tPREFETCHT0 %d(DX)", 64*j)
			}
			p.f("\tADDQ R12, DX")
		}
		for j := range vecs {
			p.f("\tVMOVUPS %d%s, %s", j*p.lanes*4, nth("R11", "R12", "R10", u), p.v(free+j))
		}
		for i := range rows {
			x := free + vecs + i%2
			p.f("\tVBROADCASTSS %s, %s", at(i, u), p.v(x))
			for j := range vecs {
				if pairs {
					p.dpbf16ps(acc(i, j), x, free+j)
				} else {
					p.f("\tVFMADD231PS %s, %s, %s", p.v(free+j), p.v(x), p.v(acc(i, j)))
				}
			}
		}
	}

	p.f("\ntile:\n\tMOVQ k+8(FP), AX\n\tMOVQ b+32(FP), R11")
	begin()
	switch {
	case ahead && lay == byRows:
		p.f("\tMOVQ R9, R15\n\tIMULQ $%d, R15\n\tADDQ R14, R15", 2*rows)
	case ahead:
		p.f("\tMOVQ R12, DX\n\tSHLQ $4, DX\n\tADDQ R11, DX")
	}
	for r := range rows * vecs {
		p.f("\tVXORPS %[1]s, %[1]s, %[1]s", p.v(r))
	}
	if unroll > 1 {
		p.f("\tSUBQ $%d, AX\n\tJLT few", unroll)
	}
	p.f("\tPCALIGN $64\n\nloop:")
	for u := range unroll {
		step(u)
	}
	advance(unroll)
	if unroll > 1 {
		p.f("\tLEAQ (R11)(R12*%d), R11\n\tSUBQ $%d, AX\n\tJGE loop", unroll, unroll)
		p.f("\nfew:\n\tADDQ $%d, AX\n\tJZ done\n\none:", unroll)
		step(0)
		advance(1)
		p.f("\tADDQ R12, R11\n\tDECQ AX\n\tJNZ one\n\ndone:")
	} else {
		p.f("\tADDQ R12, R11\n\tDECQ AX\n\tJNZ loop")
	}

	if !withMax {
		p.f("\tCMPB add+64(FP), $0\n\tJEQ store")
		for i := range rows {
			for j := range vecs {
				p.f("\tVADDPS %d(R13), %[2]s, %[2]s\n\tVMOVUPS %[2]s, %[1]d(R13)", j*p.lanes*4, p.v(acc(i, j)))
			}
			p.f("\tADDQ SI, R13")
		}
		next()
		p.f("\tDECQ DI\n\tJNZ tile")
		p.ret()
		p.f("\nstore:")
	}
	for i := range rows {
		for j := range vecs {
			p.f("\tVMOVUPS %s, %d(R13)", p.v(acc(i, j)), j*p.lanes*4)
			if withMax { // a NaN leaves the maximum, the second source
				p.f("\tVMAXPS %[1]s, %[2]s, %[1]s", most(j), p.v(acc(i, j)))
			}
		}
		p.f("\tADDQ SI, R13")
	}
	next()
	p.f("\tDECQ DI\n\tJNZ tile")
	if withMax {
		for j := range vecs {
			p.f("\tVMOVUPS %s, %d(DX)", most(j), j*p.lanes*4)
		}
	}
	p.ret()
}

// columnLoop prints a loop over the columns of x, 16 at a time, around body, which is given the registers: SI walks
// the rows of the columns at DI, R9 counts them, and R8 is the step. Arguments rows, x, ld (in bytes), n come first
// in every function that uses it.
func (p x86) columnLoop(body func()) {
	p.f("\tMOVQ rows+0(FP), AX\n\tMOVQ x+8(FP), DI\n\tMOVQ ld+16(FP), R8\n\tMOVQ n+24(FP), CX")
	p.f("\nnext:\n\tMOVQ DI, SI\n\tMOVQ AX, R9")
	body()
	p.f("\tADDQ $%d, DI\n\tSUBQ $%d, CX\n\tJNZ next", columns*4, columns)
}

// colMax keeps four maxima per vector, for four rows: one would wait for itself.
func (p x86) colMax() {
	p.text("colMax"+p.name, "rows int, x *float32, ld uintptr, n int, scale, slack float32, top, base *float32) (raised uint64", 64)
	vecs := columns / p.lanes
	const ways = 4
	r := func(way, j int) string { return p.v(way*vecs + j) }
	scale, slack, most := p.v(12), p.v(13), p.v(14)
	p.f("\tMOVQ top+40(FP), DX\n\tMOVQ base+48(FP), BX\n\tXORL R10, R10\n\tXORL R12, R12")
	p.f("\tVBROADCASTSS scale+32(FP), %s\n\tVBROADCASTSS slack+36(FP), %s\n\tVBROADCASTSS ·maxFloat+0(SB), %s", scale, slack, most)
	p.columnLoop(func() {
		for j := range vecs * ways {
			p.f("\tVBROADCASTSS ·negInf+0(SB), %s", p.v(j))
		}
		// The second source is what VMAXPS yields when either is a NaN: here always the maximum so far.
		step := func(way int) {
			for j := range vecs {
				x := p.v(ways*vecs + j)
				p.f("\tVMOVUPS %d(SI), %s\n\tVMAXPS %s, %s, %s", j*p.lanes*4, x, r(way, j), x, r(way, j))
			}
			p.f("\tADDQ R8, SI")
		}
		p.f("\tSUBQ $%d, R9\n\tJLT few\n\nfour:", ways)
		for way := range ways {
			step(way)
		}
		p.f("\tSUBQ $%d, R9\n\tJGE four\n\nfew:\n\tADDQ $%d, R9\n\tJZ done\n\none:", ways, ways)
		step(0)
		p.f("\tDECQ R9\n\tJNZ one\n\ndone:")
		for j := range vecs {
			for way := 1; way < ways; way++ {
				p.f("\tVMAXPS %s, %s, %s", r(way, j), r(0, j), r(0, j))
			}
			top, lim, at := r(1, j), r(2, j), j*p.lanes*4
			p.f("\tVMULPS %[1]s, %[2]s, %[2]s\n\tVMOVUPS %[3]d(DX), %[4]s\n\tVMAXPS %[4]s, %[2]s, %[4]s\n\tVMOVUPS %[4]s, %[3]d(DX)", scale, r(0, j), at, top)
			p.f("\tVADDPS %d(BX), %s, %s\n\tVMINPS %s, %s, %s", at, slack, lim, lim, most, lim)
			// Raised: the maximum is not at most the limit.
			if p.wide() {
				p.f("\tVCMPPS $6, %s, %s, K1\n\tKMOVW K1, R11", lim, top)
			} else {
				p.f("\tVCMPPS $6, %[1]s, %[2]s, %[1]s\n\tVMOVMSKPS %[1]s, R11", lim, top)
			}
			// Shifts by a register want CX, which counts columns.
			p.f("\tXCHGQ CX, R12\n\tSHLQ CX, R11\n\tORQ R11, R10\n\tADDQ $%d, CX\n\tXCHGQ CX, R12", p.lanes)
		}
		p.f("\tADDQ $%[1]d, DX\n\tADDQ $%[1]d, BX", columns*4)
	})
	p.f("\tMOVQ R10, raised+56(FP)")
	p.ret()
}

// exp: 2^x = 2^⌊x⌋ · p(x − ⌊x⌋), cleared unless x is not below the lowest exponent (a NaN is not). The weights
// replace their scores or, with pairs, are rounded and written to another matrix, two rows to one.
func (p x86) exp(pairs bool) {
	if pairs {
		p.text("expPairs"+p.name, "rows int, x *float32, ld uintptr, n int, scale float32, m, l *float32, dst *uint32, ldd uintptr, next *uint16, ldn uintptr", 88)
	} else {
		p.text("expSum"+p.name, "rows int, x *float32, ld uintptr, n int, scale float32, m, l *float32", 56)
	}
	vecs := columns / p.lanes
	const low, scale = 15, 14                     // the lowest exponent, the factor
	c := func(i int) string { return p.v(7 + i) } // coefficients, highest power first
	p.f("\tMOVQ m+40(FP), DX\n\tMOVQ l+48(FP), BX")
	for i := range expTerms {
		p.f("\tVBROADCASTSS ·expCoef+%d(SB), %s", 4*i, c(i))
	}
	p.f("\tVBROADCASTSS ·expLow+0(SB), %s\n\tVBROADCASTSS scale+32(FP), %s", p.v(low), p.v(scale))
	if pairs {
		p.f("\tMOVQ dst+56(FP), R10\n\tMOVQ ldd+64(FP), R11\n\tVMOVDQU32 ·interleave+0(SB), Z16\n\tMOVQ next+72(FP), R13\n\tMOVQ ldn+80(FP), R14")
	}
	m := func(j int) string { return p.v(j) }
	l := func(j int) string { return p.v(2 + j) }
	// one turns the scores at an address into weights, in register e.
	one := func(at string, j int, e string) {
		x, f := p.v(4), p.v(5)
		p.f("\tVMOVUPS %s, %s\n\tVFMSUB213PS %s, %s, %s", at, x, m(j), p.v(scale), x)
		p.power(x, f, e, p.v(low), c)
	}
	p.columnLoop(func() {
		for j := range vecs {
			p.f("\tVMOVUPS %[1]d(DX), %[2]s\n\tVXORPS %[3]s, %[3]s, %[3]s", j*p.lanes*4, m(j), l(j))
		}
		if !pairs {
			p.f("\nrow:")
			for j := range vecs {
				at, e := fmt.Sprintf("%d(SI)", j*p.lanes*4), p.v(6)
				one(at, j, e)
				p.f("\tVMOVUPS %s, %s\n\tVADDPS %s, %s, %s", e, at, e, l(j), l(j))
			}
			p.f("\tADDQ R8, SI\n\tDECQ R9\n\tJNZ row")
		} else {
			p.f("\tVXORPS Z3, Z3, Z3\n\tMOVQ R10, R12\n\tMOVQ R13, R15\n\tSUBQ $2, R9\n\tJLT last\n\nrow:")
			store := func() {
				p.cvtne2ps2bf16(6, 17, 6)
				p.f("\tVPERMW Z6, Z16, Z6\n\tVMOVDQU32 Z6, (R12)\n\tADDQ R11, R12")
			}
			p.f("\tPREFETCHT0 (R15)\n\tPREFETCHT0 (R15)(R14*1)\n\tLEAQ (R15)(R14*2), R15")
			one("(SI)", 0, p.v(6))
			one("(SI)(R8*1)", 0, p.v(17))
			p.f("\tVADDPS Z6, Z2, Z2\n\tVADDPS Z17, Z3, Z3")
			store()
			p.f("\tLEAQ (SI)(R8*2), SI\n\tSUBQ $2, R9\n\tJGE row\n\nlast:\n\tCMPQ R9, $-2\n\tJEQ whole")
			one("(SI)", 0, p.v(6))
			p.f("\tVADDPS Z6, Z2, Z2\n\tVXORPS Z17, Z17, Z17")
			store()
			p.f("\nwhole:\n\tVADDPS Z3, Z2, Z2\n\tADDQ $%[1]d, R10\n\tADDQ $64, R13", columns*4)
		}
		for j := range vecs {
			p.f("\tVADDPS %[2]d(BX), %[1]s, %[1]s\n\tVMOVUPS %[1]s, %[2]d(BX)", l(j), j*p.lanes*4)
		}
		p.f("\tADDQ $%d, DX\n\tADDQ $%d, BX", columns*4, columns*4)
	})
	p.ret()
}

// power prints e = 2^x for an x up to 127, 0 below low, with the coefficients c. It spoils x and f.
func (p x86) power(x, f, e, low string, c func(int) string) {
	if p.wide() {
		p.f("\tVREDUCEPS $9, %s, %s", x, f) // x − ⌊x⌋
		p.f("\tVMOVAPS %s, %s", c(0), e)
		for i := 1; i < expTerms; i++ {
			p.f("\tVFMADD213PS %s, %s, %s", c(i), f, e)
		}
		p.f("\tVCMPPS $5, %s, %s, K1\n\tVSCALEFPS.Z %s, %s, K1, %s", low, x, x, e, e)
		return
	}
	// ⌊x⌋ goes to the exponent. Registers are short: it is found again for that.
	p.f("\tVROUNDPS $9, %[1]s, %[2]s\n\tVSUBPS %[2]s, %[1]s, %[2]s\n\tVMOVAPS %[3]s, %[4]s", x, f, c(0), e)
	for i := 1; i < expTerms; i++ {
		p.f("\tVFMADD213PS %s, %s, %s", c(i), f, e)
	}
	p.f("\tVSUBPS %[2]s, %[1]s, %[2]s\n\tVCVTPS2DQ %[2]s, %[2]s\n\tVPSLLD $23, %[2]s, %[2]s\n\tVPADDD %[2]s, %[3]s, %[3]s", x, f, e)
	p.f("\tVCMPPS $5, %[1]s, %[2]s, %[2]s\n\tVANDPS %[2]s, %[3]s, %[3]s", low, x, e)
}

// swiGLU prints gate = gate/(1 + 2^(−gate·log2 e))·up. A power of 126 is as good as infinity.
func (p x86) swiGLU() {
	p.text("swiGLU"+p.name, "n int, gate, up *float32", 24)
	p.f("\tMOVQ n+0(FP), AX\n\tMOVQ gate+8(FP), DI\n\tMOVQ up+16(FP), SI")
	c := func(i int) string { return p.v(4 + i) }
	for i := range expTerms {
		p.f("\tVBROADCASTSS ·expCoef+%d(SB), %s", 4*i, c(i))
	}
	g, x, f, e := p.v(0), p.v(1), p.v(2), p.v(3)
	low, one, log, most := p.v(10), p.v(11), p.v(12), p.v(13)
	for i, z := range []string{log, most, one} {
		p.f("\tVBROADCASTSS ·swiGLUCoef+%d(SB), %s", 4*i, z)
	}
	p.f("\tVBROADCASTSS ·expLow+0(SB), %s\n\nloop:", low)
	for j := range columns / p.lanes {
		at := j * p.lanes * 4
		p.f("\tVMOVUPS %d(DI), %s\n\tVMULPS %s, %s, %s\n\tVMINPS %s, %s, %s", at, g, g, log, x, x, most, x) // a NaN, in the first operand, stays
		p.power(x, f, e, low, c)
		p.f("\tVADDPS %[1]s, %[2]s, %[2]s\n\tVDIVPS %[2]s, %[3]s, %[3]s\n\tVMULPS %[4]d(SI), %[3]s, %[3]s\n\tVMOVUPS %[3]s, %[4]d(DI)", one, e, g, at)
	}
	p.f("\tADDQ $%[1]d, SI\n\tADDQ $%[1]d, DI\n\tSUBQ $%[2]d, AX\n\tJNZ loop", columns*4, columns)
	p.ret()
}

// squares sums the squares of 16 columns in double precision, in which they are exact.
func (p x86) squares() {
	p.text("squares"+p.name, "rows int, x *float32, ld uintptr, sum *float64", 32)
	p.f("\tMOVQ rows+0(FP), AX\n\tMOVQ x+8(FP), SI\n\tMOVQ ld+16(FP), R8\n\tMOVQ sum+24(FP), DI")
	vecs, half := 2*columns/p.lanes, p.lanes/2
	for j := range vecs {
		p.f("\tVXORPS %[1]s, %[1]s, %[1]s", p.v(j))
	}
	p.f("\nloop:")
	for j := range vecs {
		p.f("\tVCVTPS2PD %d(SI), %[2]s\n\tVFMADD231PD %[2]s, %[2]s, %[3]s", 4*j*half, p.v(vecs+j), p.v(j))
	}
	p.f("\tADDQ R8, SI\n\tDECQ AX\n\tJNZ loop")
	for j := range vecs {
		p.f("\tVMOVUPS %s, %d(DI)", p.v(j), 8*j*half)
	}
	p.ret()
}

// scaleBoth multiplies 16 columns by one factor for each column, and then one for each row.
func (p x86) scaleBoth() {
	p.text("scaleBoth"+p.name, "rows int, dst, src *float32, ld uintptr, f, row *float32", 48)
	p.f("\tMOVQ rows+0(FP), AX\n\tMOVQ dst+8(FP), DI\n\tMOVQ src+16(FP), SI\n\tMOVQ ld+24(FP), R8\n\tMOVQ f+32(FP), DX\n\tMOVQ row+40(FP), BX")
	vecs := columns / p.lanes
	for j := range vecs {
		p.f("\tVMOVUPS %d(DX), %s", j*p.lanes*4, p.v(j))
	}
	p.f("\nloop:\n\tVBROADCASTSS (BX), %s", p.v(8))
	for j := range vecs {
		p.f("\tVMULPS %[1]d(SI), %[2]s, %[3]s\n\tVMULPS %[4]s, %[3]s, %[3]s\n\tVMOVUPS %[3]s, %[1]d(DI)", j*p.lanes*4, p.v(j), p.v(4+j), p.v(8))
	}
	p.f("\tADDQ $4, BX\n\tADDQ R8, SI\n\tADDQ R8, DI\n\tDECQ AX\n\tJNZ loop")
	p.ret()
}

// mask counts keys in a vector and compares it with the borders of what each column sees.
func (p x86) mask() {
	p.text("mask"+p.name, "rows int, x *float32, ld uintptr, n int, pos *int32, first, far, near int32", 52)
	vecs := columns / p.lanes
	one, key, inf, tmp := p.v(0), p.v(1), p.v(2), p.v(3)
	lo := func(j int) string { return p.v(4 + j) }
	hi := func(j int) string { return p.v(6 + j) }
	p.f("\tMOVQ pos+32(FP), DX\n\tVPBROADCASTD ·iota16+4(SB), %s\n\tVBROADCASTSS ·negInf+0(SB), %s", one, inf)
	p.columnLoop(func() {
		p.f("\tVBROADCASTSS far+44(FP), %s\n\tVBROADCASTSS near+48(FP), %s\n\tVBROADCASTSS first+40(FP), %s", p.v(8), p.v(9), key)
		move := "VMOVDQU"
		if p.wide() {
			move = "VMOVDQU32"
		}
		for j := range vecs {
			p.f("\t%s %d(DX), %s\n\tVPSUBD %s, %s, %s\n\tVPSUBD %s, %s, %s", move, j*p.lanes*4, tmp, p.v(8), tmp, lo(j), p.v(9), tmp, hi(j))
		}
		p.f("\nrow:")
		for j := range vecs {
			at := fmt.Sprintf("%d(SI)", j*p.lanes*4)
			if p.wide() {
				p.f("\tVPCMPD $1, %s, %s, K1\n\tVPCMPD $1, %s, %s, K2\n\tKORW K1, K2, K1\n\tVMOVUPS %s, K1, %s", lo(j), key, key, hi(j), inf, at)
			} else {
				p.f("\tVPCMPGTD %s, %s, %s\n\tVPCMPGTD %s, %s, %s\n\tVPOR %s, %s, %s\n\tVMASKMOVPS %s, %s, %s",
					key, lo(j), tmp, hi(j), key, p.v(10), tmp, p.v(10), tmp, inf, tmp, at)
			}
		}
		p.f("\tVPADDD %[1]s, %[2]s, %[2]s\n\tADDQ R8, SI\n\tDECQ R9\n\tJNZ row\n\tADDQ $%[3]d, DX", one, key, columns*4)
	})
	p.ret()
}

// sel writes every row's number and moves on only when the row is kept.
func (p x86) sel() {
	p.text("select"+p.name, "rows int, x *float32, ld uintptr, n int, top *float32, theta float32, base int32, dst *int32) (kept int", 64)
	vecs := columns / p.lanes
	p.f("\tMOVQ rows+0(FP), AX\n\tMOVQ x+8(FP), DI\n\tMOVQ ld+16(FP), R8\n\tMOVQ n+24(FP), CX\n\tMOVQ top+32(FP), DX")
	p.f("\tVBROADCASTSS theta+40(FP), %s\n\tMOVL base+44(FP), R9\n\tMOVQ dst+48(FP), R10", p.v(0))
	p.f("\nrow:\n\tMOVQ DI, SI\n\tMOVQ DX, BX\n\tMOVQ CX, R11\n\tMOVL $-1, R12\n\ncolumns:")
	for j := range vecs {
		d := p.v(1 + j)
		p.f("\tVMOVUPS %d(BX), %s\n\tVSUBPS %d(SI), %s, %s", j*p.lanes*4, d, j*p.lanes*4, d, d)
		if p.wide() {
			p.f("\tVCMPPS $0x1e, %s, %s, K1\n\tKMOVW K1, R13\n\tORL $0xffff0000, R13", p.v(0), d)
		} else {
			p.f("\tVCMPPS $0x1e, %s, %s, %s\n\tVMOVMSKPS %s, R13\n\tORL $0xffffff00, R13", p.v(0), d, d, d)
		}
		p.f("\tANDL R13, R12")
	}
	p.f("\tADDQ $%d, SI\n\tADDQ $%d, BX\n\tSUBQ $%d, R11\n\tJNZ columns", columns*4, columns*4, columns)
	p.f("\tMOVL R9, (R10)\n\tXORL R13, R13\n\tCMPL R12, $-1\n\tSETNE R13\n\tLEAQ (R10)(R13*4), R10")
	p.f("\tINCL R9\n\tADDQ R8, DI\n\tDECQ AX\n\tJNZ row")
	p.f("\tSUBQ dst+48(FP), R10\n\tSHRQ $2, R10\n\tMOVQ R10, kept+56(FP)")
	p.ret()
}

// transpose turns squares of lanes × lanes in registers, and takes columns that fill none one element of each row at
// a time. With ahead it asks for as many bytes as it reads so far ahead of src, one after the other.
func (p x86) transpose(ahead bool) {
	name, args, size := "transpose", "cols int, src *float32, lds uintptr, dst *float32, ldd uintptr", 40
	if ahead {
		name, args, size = "transposeAhead", args+", ahead uintptr", 48
	}
	p.text(name+p.name, args, size)
	if ahead {
		p.f("\tMOVQ ahead+40(FP), R10\n\tADDQ src+8(FP), R10")
	}
	n := p.lanes
	var later *request
	asked := 0
	ask := func() { // at every second of the steps, of which there are two for a line
		if asked++; asked%2 == 0 {
			later.one()
		}
	}
	p.f("\tMOVQ cols+0(FP), AX\n\tMOVQ src+8(FP), SI\n\tMOVQ lds+16(FP), R8\n\tMOVQ dst+24(FP), DI\n\tMOVQ ldd+32(FP), R9")
	p.f("\tSUBQ $%d, AX\n\tJLT few\n\nsquare:", n)
	if ahead {
		later = &request{p: p.printer, base: "R10", lines: n}
	}
	for part := range columns / n { // rows [part·n, (part+1)·n)
		p.f("\tMOVQ SI, BX")
		if part > 0 {
			p.f("\tLEAQ (SI)(R8*%d), BX", n)
		}
		at := make([]int, n) // register of each row
		for i := range n {
			at[i] = i
			p.f("\tVMOVUPS (BX), %s", p.v(i))
			if i < n-1 {
				p.f("\tADDQ R8, BX")
			}
		}
		free := n // a register of no row
		// swap replaces rows i and j by what two instructions make of them.
		swap := func(i, j int, first, second string) {
			p.f("\t%s, %s, %s, %s", first, p.v(at[j]), p.v(at[i]), p.v(free))
			p.f("\t%s, %s, %s, %s", second, p.v(at[j]), p.v(at[i]), p.v(at[j]))
			at[i], free = free, at[i]
			ask()
		}
		for i := 0; i < n; i += 2 {
			p.f("\tVUNPCKLPS %s, %s, %s", p.v(at[i+1]), p.v(at[i]), p.v(free))
			p.f("\tVUNPCKHPS %s, %s, %s", p.v(at[i+1]), p.v(at[i]), p.v(at[i+1]))
			ask()
			at[i], free = free, at[i]
		}
		for i := 0; i < n; i += 4 {
			for _, k := range []int{0, 1} {
				a, b := i+k, i+k+2
				p.f("\tVUNPCKLPD %s, %s, %s", p.v(at[b]), p.v(at[a]), p.v(free))
				p.f("\tVUNPCKHPD %s, %s, %s", p.v(at[b]), p.v(at[a]), p.v(at[b]))
				ask()
				at[a], free = free, at[a]
			}
		}
		// Row i+c of each four now holds, in every 128 bits q, column 4q + order[c] of its four rows.
		order := []int{0, 2, 1, 3}
		col := make([]int, n) // register of each column
		if p.wide() {
			for c := range 4 {
				r := []int{c, 4 + c, 8 + c, 12 + c}
				swap(r[0], r[1], "VSHUFF32X4 $0x88", "VSHUFF32X4 $0xdd")
				swap(r[2], r[3], "VSHUFF32X4 $0x88", "VSHUFF32X4 $0xdd")
				// r0: quarters 0, 2 of rows 0–7; r1: 1, 3; r2, r3 the same of rows 8–15.
				swap(r[0], r[2], "VSHUFF32X4 $0x88", "VSHUFF32X4 $0xdd")
				swap(r[1], r[3], "VSHUFF32X4 $0x88", "VSHUFF32X4 $0xdd")
				for q, i := range []int{r[0], r[1], r[2], r[3]} {
					col[4*q+order[c]] = at[i]
				}
			}
		} else {
			for c := range 4 {
				swap(c, 4+c, "VPERM2F128 $0x20", "VPERM2F128 $0x31")
				col[order[c]], col[4+order[c]] = at[c], at[4+c]
			}
		}
		p.f("\tMOVQ DI, BX")
		for j := range n {
			p.f("\tVMOVUPS %s, %d(BX)", p.v(col[j]), part*n*4)
			if j < n-1 {
				p.f("\tADDQ R9, BX")
			}
		}
	}
	if ahead {
		later.rest()
		p.f("\tADDQ $%d, R10", 64*n)
	}
	p.f("\tADDQ $%d, SI\n\tLEAQ (DI)(R9*8), DI", n*4)
	if n == 16 {
		p.f("\tLEAQ (DI)(R9*8), DI")
	}
	p.f("\tSUBQ $%d, AX\n\tJGE square\n\nfew:\n\tADDQ $%d, AX\n\tJZ done", n, n)
	p.f("\none:\n\tMOVQ SI, BX\n\tXORL CX, CX\n\nelement:\n\tMOVL (BX), DX\n\tMOVL DX, (DI)(CX*4)\n\tADDQ R8, BX\n\tINCQ CX\n\tCMPQ CX, $%d\n\tJLT element", columns)
	p.f("\tADDQ $4, SI\n\tADDQ R9, DI\n\tDECQ AX\n\tJNZ one\n\ndone:")
	p.ret()
}

// panels copies eight columns to a panel, though the next one may begin with some of them, and eight rows to each panel
// before the next, so that whole lines are written. The last columns are read through a mask, for nothing need follow them.
func (p x86) panels() {
	p.text("panels"+p.name, "rows, cols, step int, src *float32, lds uintptr, dst *float32, ldd uintptr", 56)
	p.f("\tMOVQ rows+0(FP), AX\n\tMOVQ step+16(FP), R10\n\tMOVQ src+24(FP), DI\n\tMOVQ lds+32(FP), R8\n\tMOVQ dst+40(FP), R12\n\tMOVQ ldd+48(FP), R9")
	p.f("\tLEAQ ·firstLanes+0(SB), R11")
	p.f("\nrows8:\n\tMOVQ $8, R15\n\tCMPQ AX, R15\n\tCMOVQLT AX, R15\n\tMOVQ cols+8(FP), CX\n\tMOVQ DI, SI\n\tMOVQ R12, R13")
	p.f("\npanel:\n\tMOVQ SI, BX\n\tMOVQ R13, DX\n\tMOVQ R15, R14\n\tCMPQ CX, $8\n\tJLT few")
	p.f("\nwhole:\n\tVMOVUPS (BX), Y0\n\tVMOVUPS Y0, (DX)\n\tADDQ R8, BX\n\tADDQ $%d, DX\n\tDECQ R14\n\tJNZ whole", 4*panelStep)
	p.f("\nnext:\n\tLEAQ (SI)(R10*4), SI\n\tADDQ R9, R13\n\tSUBQ R10, CX\n\tJGT panel")
	p.f("\tMOVQ R8, BX\n\tSHLQ $3, BX\n\tADDQ BX, DI\n\tADDQ $%d, R12\n\tSUBQ $8, AX\n\tJGT rows8", 8*4*panelStep)
	p.ret()
	p.f("\nfew:\n\tMOVQ R11, SI\n\tSHLQ $2, CX\n\tSUBQ CX, SI\n\tSHRQ $2, CX\n\tVMOVUPS 32(SI), Y1\n\tMOVQ BX, SI")
	p.f("\npart:\n\tVMASKMOVPS (BX), Y1, Y0\n\tVMOVUPS Y0, (DX)\n\tADDQ R8, BX\n\tADDQ $%d, DX\n\tDECQ R14\n\tJNZ part\n\tJMP next", 4*panelStep)
}

// unordered prints BX = the lanes of x that are NaN, which spoils x.
func (p x86) unordered(x string) {
	if p.wide() {
		p.f("\tVCMPPS $3, %[1]s, %[1]s, K1\n\tKMOVW K1, BX", x)
	} else {
		p.f("\tVCMPPS $3, %[1]s, %[1]s, %[1]s\n\tVMOVMSKPS %[1]s, BX", x)
	}
}

// scale adds up products with zero beside: what is left is NaN when one of them was not finite.
func (p x86) scale(name, store string) {
	p.text(name+p.name, "n int, dst, src *float32, f float32) (bad uint32", 36)
	p.f("\tMOVQ n+0(FP), AX\n\tMOVQ dst+8(FP), DI\n\tMOVQ src+16(FP), SI\n\tVBROADCASTSS f+24(FP), %s", p.v(0))
	vecs := columns / p.lanes
	for j := range 1 + vecs {
		p.f("\tVXORPS %[1]s, %[1]s, %[1]s", p.v(1+j))
	}
	p.f("\nloop:")
	for j := range vecs {
		x := p.v(4 + j)
		p.f("\tVMULPS %d(SI), %s, %s\n\t%s %s, %d(DI)\n\tVFMADD231PS %s, %s, %s", j*p.lanes*4, p.v(0), x, store, x, j*p.lanes*4, x, p.v(1), p.v(2+j))
	}
	p.f("\tADDQ $%[1]d, SI\n\tADDQ $%[1]d, DI\n\tSUBQ $%[2]d, AX\n\tJNZ loop\n\tXORL AX, AX", columns*4, columns)
	for j := range vecs {
		p.unordered(p.v(2 + j))
		p.f("\tORL BX, AX")
	}
	p.f("\tMOVL AX, bad+32(FP)")
	p.ret()
}

// finite is scale without the result.
func (p x86) finite() {
	p.text("finite"+p.name, "n int, x *float32) (bad uint32", 20)
	p.f("\tMOVQ n+0(FP), AX\n\tMOVQ x+8(FP), SI")
	vecs := columns / p.lanes
	for j := range 1 + vecs {
		p.f("\tVXORPS %[1]s, %[1]s, %[1]s", p.v(1+j))
	}
	p.f("\nloop:")
	for j := range vecs {
		p.f("\tVFMADD231PS %d(SI), %s, %s", j*p.lanes*4, p.v(1), p.v(2+j))
	}
	p.f("\tADDQ $%d, SI\n\tSUBQ $%d, AX\n\tJNZ loop\n\tXORL AX, AX", columns*4, columns)
	for j := range vecs {
		p.unordered(p.v(2 + j))
		p.f("\tORL BX, AX")
	}
	p.f("\tMOVL AX, bad+16(FP)")
	p.ret()
}

func (p x86) scaleCols() {
	p.text("scaleCols"+p.name, "rows int, x *float32, ld uintptr, n int, f *float32", 40)
	p.f("\tMOVQ f+32(FP), DX")
	p.columnLoop(func() {
		vecs := columns / p.lanes
		for j := range vecs {
			p.f("\tVMOVUPS %d(DX), %s", j*p.lanes*4, p.v(j))
		}
		p.f("\nrow:")
		for j := range vecs {
			p.f("\tVMULPS %[1]d(SI), %[2]s, %[3]s\n\tVMOVUPS %[3]s, %[1]d(SI)", j*p.lanes*4, p.v(j), p.v(2+j))
		}
		p.f("\tADDQ R8, SI\n\tDECQ R9\n\tJNZ row\n\tADDQ $%d, DX", columns*4)
	})
	p.ret()
}

func (p x86) add() {
	p.text("add"+p.name, "n int, dst, src *float32", 24)
	p.f("\tMOVQ n+0(FP), AX\n\tMOVQ dst+8(FP), DI\n\tMOVQ src+16(FP), SI\n\nloop:")
	for j := range columns / p.lanes {
		p.f("\tVMOVUPS %[1]d(SI), %[2]s\n\tVADDPS %[1]d(DI), %[2]s, %[2]s\n\tVMOVUPS %[2]s, %[1]d(DI)", j*p.lanes*4, p.v(j))
	}
	p.f("\tADDQ $%[1]d, SI\n\tADDQ $%[1]d, DI\n\tSUBQ $%[2]d, AX\n\tJNZ loop", columns*4, columns)
	p.ret()
}

// widen prints the conversion of 16-bit numbers to float32s, which are written or added to others.
func (p x86) widen(name string, convert func(from, to string)) {
	p.text(name+p.name, "n int, dst *float32, src *uint16", 24)
	p.f("\tMOVQ n+0(FP), AX\n\tMOVQ dst+8(FP), DI\n\tMOVQ src+16(FP), SI\n\nloop:")
	for j := range columns / p.lanes {
		convert(fmt.Sprintf("%d(SI)", j*p.lanes*2), p.v(j))
		if name == "addBF16" {
			p.f("\tVADDPS %d(DI), %[2]s, %[2]s", j*p.lanes*4, p.v(j))
		}
		p.f("\tVMOVUPS %s, %d(DI)", p.v(j), j*p.lanes*4)
	}
	p.f("\tADDQ $%d, SI\n\tADDQ $%d, DI\n\tSUBQ $%d, AX\n\tJNZ loop", columns*2, columns*4, columns)
	p.ret()
}

// split makes two rows of float32s of a row of pairs of 16-bit numbers.
func (p x86) split(kind string) {
	p.text("split"+kind+p.name, "rows, n int, src *uint32, dst *float32", 32)
	p.f("\tMOVQ rows+0(FP), AX\n\tMOVQ n+8(FP), R8\n\tMOVQ src+16(FP), SI\n\tMOVQ dst+24(FP), DI\n\tSHLQ $2, R8")
	words, odd, even, upper := p.v(0), p.v(1), p.v(2), p.v(3)
	switch {
	case kind == "BF16":
		p.f("\tVPBROADCASTD ·upperWord+0(SB), %s", upper)
	case p.wide():
		p.f("\tVMOVDQU32 ·evenWords+0(SB), %s", upper)
	default:
		p.f("\tVBROADCASTI128 ·evenBytes+0(SB), %s", upper)
	}
	p.f("\nrow:\n\tMOVQ R8, CX\n\nloop:")
	for j := range columns / p.lanes {
		at := j * p.lanes * 4
		switch {
		case kind == "BF16":
			p.f("\tVMOVUPS %d(SI), %s\n\tVPSLLD $16, %s, %s\n\tVANDPS %s, %s, %s", at, words, words, even, upper, words, odd)
		case p.wide():
			p.f("\tVMOVDQU32 (SI), Z0\n\tVPERMW Z0, Z3, Z0\n\tVEXTRACTI64X4 $1, Z0, Y1\n\tVCVTPH2PS Y0, Z2\n\tVCVTPH2PS Y1, Z1")
		default:
			p.f("\tVMOVDQU %d(SI), Y0\n\tVPSHUFB Y3, Y0, Y0\n\tVPERMQ $0xd8, Y0, Y0\n\tVEXTRACTI128 $1, Y0, X1\n\tVCVTPH2PS X0, Y2\n\tVCVTPH2PS X1, Y1", at)
		}
		p.f("\tVMOVUPS %s, %d(DI)\n\tVMOVUPS %s, %d(DI)(R8*1)", even, at, odd, at)
	}
	p.f("\tADDQ $%[1]d, SI\n\tADDQ $%[1]d, DI\n\tSUBQ $%[1]d, CX\n\tJNZ loop\n\tADDQ R8, DI\n\tDECQ AX\n\tJNZ row", columns*4)
	p.ret()
}

// pair puts the numbers of two rows side by side, and looks for exponents of all ones beside.
func (p x86) pair() {
	p.text("pair"+p.name, "n int, dst *uint32, even, odd *uint16) (bad uint32", 36)
	p.f("\tMOVQ n+0(FP), AX\n\tMOVQ dst+8(FP), DI\n\tMOVQ even+16(FP), SI\n\tMOVQ odd+24(FP), DX")
	p.f("\tVPBROADCASTD ·bf16Inf+0(SB), Z3\n\tKXORD K0, K0, K0\n\nloop:")
	p.f("\tVPMOVZXWD (SI), Z0\n\tVPMOVZXWD (DX), Z1\n\tVPSLLD $16, Z1, Z1\n\tVPORD Z0, Z1, Z0\n\tVMOVDQU32 Z0, (DI)")
	p.f("\tVPANDD Z3, Z0, Z0\n\tVPCMPEQW Z3, Z0, K1\n\tKORD K1, K0, K0")
	p.f("\tADDQ $%[1]d, SI\n\tADDQ $%[1]d, DX\n\tADDQ $%[2]d, DI\n\tSUBQ $%[3]d, AX\n\tJNZ loop", columns*2, columns*4, columns)
	p.f("\tKMOVD K0, AX\n\tMOVL AX, bad+32(FP)")
	p.ret()
}

// round makes pairs of two rows of numbers.
func (p x86) round() {
	p.text("round"+p.name, "k, n int, src *float32, dst *uint32", 32)
	p.f("\tMOVQ k+0(FP), AX\n\tMOVQ n+8(FP), R8\n\tMOVQ src+16(FP), SI\n\tMOVQ dst+24(FP), DI\n\tSHLQ $2, R8\n\tVMOVDQU32 ·interleave+0(SB), Z2")
	p.f("\nrow:\n\tMOVQ R8, CX\n\nloop:\n\tVMOVUPS (SI), Z0\n\tVMOVUPS (SI)(R8*1), Z1")
	p.cvtne2ps2bf16(0, 1, 0)
	p.f("\tVPERMW Z0, Z2, Z0\n\tVMOVDQU32 Z0, (DI)\n\tADDQ $64, SI\n\tADDQ $64, DI\n\tSUBQ $64, CX\n\tJNZ loop")
	p.f("\tADDQ R8, SI\n\tDECQ AX\n\tJNZ row")
	p.ret()
}

// fma keeps more multiply-adds in flight than their latency times their rate.
func (p x86) fma() {
	p.peak("fma", func(x, acc int) { p.f("\tVFMADD231PS %[1]s, %[1]s, %[2]s", p.v(x), p.v(acc)) })
}
func (p x86) dot() { p.peak("dot", func(x, acc int) { p.dpbf16ps(acc, x, x) }) }

func (p x86) peak(name string, op func(x, acc int)) {
	p.text(name+p.name, "rounds int", 8)
	const regs = 12
	p.f("\tMOVQ rounds+0(FP), AX\n\tVBROADCASTSS ·expCoef+0(SB), %s", p.v(regs))
	for i := range regs {
		p.f("\tVMOVAPS %s, %s", p.v(regs), p.v(i))
	}
	p.f("\nloop:")
	for range 4 {
		for i := range regs {
			op(regs, i)
		}
	}
	p.f("\tDECQ AX\n\tJNZ loop")
	p.ret()
}
