package main

import (
	"fmt"
	"strings"
)

// What a group of 32 numbers takes in bytes, of 16 rows of weights and of 16 columns of numbers to multiply these by:
// see kernel.byteSet.
const (
	quadBytes  = 64               // four numbers of each row or column
	dataBytes  = 8 * quadBytes    // the numbers of a group
	inputBytes = dataBytes + 5*64 // of columns: with scales, corrections and sums
	panelBytes = dataBytes + 64   // of rows: with scales
	panelTwice = dataBytes + 2*64 // of rows with two kinds of scales
)

// A groupKind says what scales a group of weights has.
type groupKind string

const (
	oneScale  groupKind = ""       // one
	minimum   groupKind = "Min"    // one, and a number to subtract
	twoScales groupKind = "Halves" // one for each 16 numbers
)

var avx512vnni = isa{name: "AVX512VNNI", reg: "Z", lanes: 16}

// onBytes prints the kernels on bytes. The instruction of AVX-512 VNNI wants one factor without a sign: there weights are
// made 128 larger. AVX2 kernels give the signs of weights to the other factor.
func (p x86) onBytes() {
	p.quantise()
	for _, kind := range []groupKind{oneScale, minimum, twoScales} {
		for _, columns := range p.byteColumns() {
			p.dotBytes(kind, columns)
		}
	}
	p.unpackQ8()
	p.unpackQ4()
	p.unpackK("Q4_K", 144)
	p.unpackK("Q5_K", 176)
	p.unpackQ6()
	p.dotQ8()
	p.peak("dotBytes", func(x, acc int) { p.dot4(x, x, acc, 13, 14, 15) })
}

// byteColumns are the numbers of columns that products of bytes are printed for: as many as registers allow, and one.
func (p x86) byteColumns() []int {
	if p.wide() {
		return []int{8, 1}
	}
	return []int{4, 1}
}

// d prints an instruction whose name ends with its kind of element at AVX-512 alone.
func (p x86) d(op, suffix string, operands ...any) {
	if p.wide() {
		op += suffix
	}
	s := make([]string, len(operands))
	for i, o := range operands {
		if r, ok := o.(int); ok {
			o = p.v(r)
		}
		s[i] = fmt.Sprint(o)
	}
	p.f("\t%s %s", op, strings.Join(s, ", "))
}

func (p x86) and(a any, b, to int)      { p.d("VPAND", "D", a, b, to) }
func (p x86) or(a any, b, to int)       { p.d("VPOR", "D", a, b, to) }
func (p x86) xor(a any, b, to int)      { p.d("VPXOR", "D", a, b, to) }
func (p x86) load(at string, to int)    { p.d("VMOVDQU", "32", at, to) }
func (p x86) store(from int, at string) { p.d("VMOVDQU", "32", from, at) }

func (p x86) spread(constant string, to int) { p.d("VPBROADCASTD", "", "·"+constant+"+0(SB)", to) }

// parts is how many vectors 16 rows or columns are.
func (p x86) parts() int { return columns / p.lanes }

// dot4 adds to every lane of acc the products of four bytes of w and of x. Without AVX-512 VNNI it uses three registers more,
// the first of them with ones in its 16-bit lanes.
func (p x86) dot4(w, x, acc, ones, a, b int) {
	if p.wide() {
		p.f("\tVPDPBUSD Z%d, Z%d, Z%d", x, w, acc)
		return
	}
	p.f("\tVPABSB Y%d, Y%d\n\tVPSIGNB Y%d, Y%d, Y%d\n\tVPMADDUBSW Y%d, Y%d, Y%d", w, a, w, x, b, b, a, a)
	p.f("\tVPMADDWD Y%d, Y%d, Y%d\n\tVPADDD Y%d, Y%d, Y%d", ones, a, a, a, acc, acc)
}

// quantise turns 32 rows of 16 columns to bytes, and four of these to lanes. The largest magnitude is found among bit
// patterns, where NaN is the largest of all and spoils the scale.
func (p x86) quantise() {
	p.text("quantise"+p.name, "groups int, src *float32, lds uintptr, dst *uint32", 32)
	p.f("\tMOVQ groups+0(FP), AX\n\tMOVQ src+8(FP), DX\n\tMOVQ lds+16(FP), R8\n\tMOVQ dst+24(FP), DI\n\tLEAQ (R8)(R8*2), R9")
	const abs, most, tiny, low = 15, 14, 13, 12
	p.spread("absBits", abs)
	p.spread("byteMost", most)
	p.spread("byteTiny", tiny)
	p.spread("lowByte", low)
	at := func(base string, i int) string { return base + []string{"", "(R8*1)", "(R8*2)", "(R9*1)"}[i%4] }
	p.f("\ngroup:")
	for part := range p.parts() {
		shift := part * p.lanes * 4
		p.f("\tLEAQ %d(DX), BX\n\tMOVQ BX, SI", shift)
		for i := range 4 {
			p.xor(i, i, i)
		}
		for i := range 32 {
			p.and(at("(BX)", i), abs, 4+i%4)
			p.d("VPMAXUD", "", 4+i%4, i%4, i%4)
			if i%4 == 3 {
				p.f("\tLEAQ (BX)(R8*4), BX")
			}
		}
		p.d("VPMAXUD", "", 1, 0, 0)
		p.d("VPMAXUD", "", 3, 2, 2)
		p.d("VPMAXUD", "", 2, 0, 0)
		const scale, by = 1, 2 // and what numbers are multiplied by
		p.d("VDIVPS", "", most, 0, scale)
		if p.wide() {
			p.f("\tVCMPPS $13, Z%d, Z0, K1\n\tVDIVPS.Z Z0, Z%d, K1, Z%d", tiny, most, by)
		} else {
			p.f("\tVCMPPS $13, Y%d, Y0, Y3\n\tVDIVPS Y0, Y%d, Y%d\n\tVANDPS Y3, Y%d, Y%d", tiny, most, by, by, by)
		}
		const sum = 3 // of the first half, then of the second
		p.xor(sum, sum, sum)
		p.xor(sum+1, sum+1, sum+1)
		for quad := range 8 {
			x := func(i int) int { return 5 + i }
			for i := range 4 {
				p.d("VMULPS", "", at("(SI)", i), by, x(i))
				p.d("VCVTPS2DQ", "", x(i), x(i))
				p.d("VPADDD", "", x(i), sum+quad/4, sum+quad/4)
			}
			p.f("\tLEAQ (SI)(R8*4), SI")
			for i := 2; i >= 0; i-- { // the last on top
				p.d("VPSLLD", "", "$8", x(3), x(3))
				p.and(low, x(i), x(i))
				p.or(x(i), x(3), x(3))
			}
			p.store(x(3), fmt.Sprintf("%d(DI)", quad*quadBytes+shift))
		}
		const whole, zero, scaled = 5, 6, 7
		p.d("VPADDD", "", sum, sum+1, whole)
		p.d("VCVTDQ2PS", "", whole, scaled)
		p.d("VMULPS", "", scale, scaled, scaled)
		p.xor(zero, zero, zero)
		for i, z := range []int{scale, whole, sum, sum + 1, scaled} {
			if 0 < i && i < 4 {
				p.d("VPSLLD", "", "$7", z, z)
				p.d("VPSUBD", "", z, zero, z)
			}
			p.store(z, fmt.Sprintf("%d(DI)", dataBytes+64*i+shift))
		}
	}
	p.f("\tMOVQ R8, CX\n\tSHLQ $5, CX\n\tADDQ CX, DX\n\tADDQ $%d, DI\n\tDECQ AX\n\tJNZ group", inputBytes)
	p.ret()
}

// dotBytes adds products of a panel of 16 rows and some columns. Sums of whole numbers end with the group; then they are
// scaled and added up in single precision. Where weights are 128 too large, sums begin at the columns' correction.
func (p x86) dotBytes(kind groupKind, columns int) {
	p.text(fmt.Sprintf("dotBytes%d%s%s", columns, kind, p.name), "groups int, w, x *uint32, out *float32", 32)
	size := panelTwice
	if kind == oneScale {
		size = panelBytes
	}
	// Of 32 registers, or of 16.
	sum := func(t int) int { return t }
	whole := func(t int) int { return columns + t }
	w, scale, ones, a, b := 12, 12, 13, 14, 15
	if !p.wide() {
		p.d("VPBROADCASTD", "", "·wordOnes+0(SB)", ones)
	} else if columns == 8 {
		w, scale, a, b = 16, 20, 24, 25
	}
	for part := range p.parts() {
		shift := part * p.lanes * 4
		p.f("\tMOVQ groups+0(FP), AX\n\tMOVQ w+8(FP), SI\n\tMOVQ x+16(FP), DI\n\tMOVQ out+24(FP), DX\n\tADDQ $%d, DI", dataBytes)
		for t := range columns {
			p.load(fmt.Sprintf("%d(DX)", 64*t+shift), sum(t))
		}
		p.f("\tPCALIGN $64\n\ngroup%d:", part)
		some := func(first, quads, correction, scales int) {
			for t := range columns {
				if p.wide() {
					p.f("\tVPBROADCASTD %d(DI), Z%d", 64*correction+4*t, whole(t))
				} else {
					p.xor(whole(t), whole(t), whole(t))
				}
			}
			for q := first; q < first+quads; q++ {
				p.load(fmt.Sprintf("%d(SI)", quadBytes*q+shift), w)
				for t := range columns {
					at := fmt.Sprintf("%d(DI)", quadBytes*q+4*t-dataBytes)
					if p.wide() {
						p.f("\tVPDPBUSD.BCST %s, Z%d, Z%d", at, w, whole(t))
					} else {
						p.f("\tVPBROADCASTD %s, Y%d", at, b)
						p.dot4(w, b, whole(t), ones, a, b)
					}
				}
			}
			p.load(fmt.Sprintf("%d(SI)", dataBytes+64*scales+shift), scale)
			for t := range columns {
				p.d("VCVTDQ2PS", "", whole(t), whole(t))
				if p.wide() {
					p.f("\tVMULPS.BCST %d(DI), Z%d, Z%d", 4*t, scale, a+t%4)
				} else {
					p.f("\tVBROADCASTSS %d(DI), Y%d\n\tVMULPS Y%d, Y%d, Y%d", 4*t, b, scale, b, a)
				}
				p.d("VFMADD231PS", "", p.factor(a, t), whole(t), sum(t))
			}
		}
		switch kind {
		case oneScale:
			some(0, 8, 1, 0)
		case minimum:
			some(0, 8, 1, 0)
			p.load(fmt.Sprintf("%d(SI)", dataBytes+64+shift), scale)
			for t := range columns {
				if p.wide() {
					p.f("\tVFNMADD231PS.BCST %d(DI), Z%d, Z%d", 4*64+4*t, scale, sum(t))
				} else {
					p.f("\tVBROADCASTSS %d(DI), Y%d\n\tVFNMADD231PS Y%d, Y%d, Y%d", 4*64+4*t, b, b, scale, sum(t))
				}
			}
		case twoScales:
			some(0, 4, 2, 0)
			some(4, 4, 3, 1)
		}
		p.f("\tADDQ $%d, SI\n\tADDQ $%d, DI\n\tDECQ AX\n\tJNZ group%d", size, inputBytes, part)
		for t := range columns {
			p.store(sum(t), fmt.Sprintf("%d(DX)", 64*t+shift))
		}
	}
	p.ret()
}

func (p x86) factor(a, t int) int {
	if p.wide() {
		return a + t%4
	}
	return a
}

// unpack begins a kernel that unpacks blocks of 16 rows: AX counts blocks, the rows 0, 4, 8 and 12 are at SI, R10, R11
// and R12, step and three times step in R8 and R9, what is read later at R13, and DI is where they go.
func (p x86) unpack(name string) {
	p.text("unpack"+name+p.name, "blocks int, src *byte, step, ahead uintptr, dst *uint32", 40)
	p.rows("dst")
}

func (p x86) rows(to string) {
	p.f("\tMOVQ blocks+0(FP), AX\n\tMOVQ src+8(FP), SI\n\tMOVQ step+16(FP), R8\n\tMOVQ ahead+24(FP), R13\n\tMOVQ %s+32(FP), DI", to)
	p.f("\tLEAQ (R8)(R8*2), R9\n\tLEAQ (SI)(R8*4), R10\n\tLEAQ (SI)(R8*8), R11\n\tLEAQ (R10)(R8*8), R12\n\tADDQ SI, R13")
}

// blocks prints the loop over blocks of so many bytes, which become size bytes, around what is done to some of the 16 rows.
func (p x86) blocks(block, size int, body func(rows rowPart), end ...func()) {
	p.f("\nblock:")
	ahead := &request{p: p.printer, base: "R13", lines: (16*block + 63) / 64}
	for part := range p.parts() {
		body(rowPart{p, part, ahead})
	}
	ahead.rest()
	p.f("\tADDQ $%d, R13", 16*block)
	for _, base := range []string{"SI", "R10", "R11", "R12"} {
		p.f("\tADDQ $%d, %s", block, base)
	}
	p.f("\tADDQ $%d, DI\n\tDECQ AX\n\tJNZ block", size)
	for _, f := range end {
		f()
	}
	p.ret()
}

// A rowPart is those of 16 rows that fit the lanes of a vector.
type rowPart struct {
	x86
	part  int
	ahead *request
}

// A request asks for lines of what is read later, one now and then: processors drop requests that come all at once.
type request struct {
	p           *printer
	base        string
	next, lines int
}

func (r *request) one() {
	if r != nil && r.next < r.lines {
		r.p.f("\tPREFETCHT1 %d(%s)", 64*r.next, r.base)
		r.next++
	}
}

func (r *request) rest() {
	for r.next < r.lines {
		r.one()
	}
}

// row is the address of what lies disp bytes into a row's block.
func (p rowPart) row(i, disp int) string {
	i += p.part * p.lanes
	base := []string{"SI", "R10", "R11", "R12"}[i/4]
	return fmt.Sprint(disp, "(", base, ")", []string{"", "(R8*1)", "(R8*2)", "(R9*1)"}[i%4])
}

// to is the address of the rows' lanes of a panel.
func (p rowPart) to(disp int) string { return fmt.Sprintf("%d(DI)", disp+p.part*p.lanes*4) }

// turn exchanges rows and columns in squares of 4×4 within the 128-bit parts of registers: those of z become columns of four
// rows each. It returns them in order, and the register that is free now.
func (p rowPart) turn(z []int, free int) ([]int, int) {
	unpack := func(kind string, a, b int) {
		p.d("VPUNPCKL"+kind, "", z[b], z[a], free)
		p.d("VPUNPCKH"+kind, "", z[b], z[a], z[b])
		p.ahead.one()
		z[a], free = free, z[a]
	}
	unpack("DQ", 0, 1)
	unpack("DQ", 2, 3)
	unpack("QDQ", 0, 2)
	unpack("QDQ", 1, 3)
	return []int{z[0], z[2], z[1], z[3]}, free
}

// quads16 loads 16 bytes of each row to the first four registers and turns them: it returns four of five, each with
// four bytes of every row.
func (p rowPart) quads16(disp int) []int {
	z := []int{0, 1, 2, 3}
	for i := range z {
		p.f("\tVMOVDQU %s, X%d", p.row(i, disp), i)
		for q := 1; q < p.lanes/4; q++ {
			if p.wide() {
				p.f("\tVINSERTI32X4 $%d, %s, Z%d, Z%d", q, p.row(4*q+i, disp), i, i)
			} else {
				p.f("\tVINSERTI128 $1, %s, Y%d, Y%d", p.row(4+i, disp), i, i)
			}
		}
	}
	z, _ = p.turn(z, 4)
	return z
}

// quads32 loads 32 bytes of each row to the first eight registers, and returns eight of nine like those of quads16.
func (p rowPart) quads32(disp int) []int {
	free := 8
	var half [2][]int // of the rows
	for h := range half {
		z := make([]int, 4)
		for i := range z {
			z[i] = 4*h + i
			if p.wide() {
				p.f("\tVMOVDQU %s, Y%d\n\tVINSERTI64X4 $1, %s, Z%d, Z%d", p.row(8*h+i, disp), z[i], p.row(8*h+4+i, disp), z[i], z[i])
			} else {
				p.f("\tVMOVDQU %s, Y%d", p.row(4*h+i, disp), z[i])
			}
		}
		half[h], free = p.turn(z, free)
	}
	quads := make([]int, 8)
	shuffle, first, second := "VPERM2I128", "$0x20", "$0x31"
	if p.wide() {
		shuffle, first, second = "VSHUFI32X4", "$0x88", "$0xdd"
	}
	for k := range 4 {
		a, b := half[0][k], half[1][k]
		p.d(shuffle, "", first, b, a, free)
		p.d(shuffle, "", second, b, a, b)
		p.ahead.one()
		quads[k], quads[k+4], free = free, b, a
	}
	return quads
}

// halves loads a half-precision number of each row to single precision in register z, and uses the next one.
func (p rowPart) halves(disp, z int) {
	for i := range p.lanes {
		x := z + i/8
		if i%8 == 0 {
			p.f("\tVPXOR X%[1]d, X%[1]d, X%[1]d", x)
		}
		p.f("\tVPINSRW $%d, %s, X%d, X%d", i%8, p.row(i, disp), x, x)
	}
	if p.wide() {
		p.f("\tVINSERTI128 $1, X%d, Y%d, Y%d\n\tVCVTPH2PS Y%d, Z%d", z+1, z, z, z, z)
	} else {
		p.f("\tVCVTPH2PS X%d, Y%d", z, z)
	}
}

// sign makes numbers from 0 on such ones from −less on, or 128 larger where products want that.
func (p x86) sign(less, constant int) (print func(z int)) {
	name := map[int]string{0: "plus128", 8: "plus120", 32: "plus96"}[less]
	if !p.wide() {
		name = map[int]string{8: "minus8", 32: "minus32"}[less]
	}
	if name == "" {
		return func(int) {}
	}
	p.spread(name, constant)
	return func(z int) { p.d("VPADDB", "", constant, z, z) }
}

func (p x86) unpackQ8() {
	p.unpack("Q8_0")
	sign := p.sign(0, 15)
	p.blocks(34, panelBytes, func(p rowPart) {
		p.halves(0, 10)
		p.store(10, p.to(dataBytes))
		for k, z := range p.quads32(2) {
			sign(z)
			p.store(z, p.to(quadBytes*k))
		}
	})
}

// dotQ8 is unpackQ8 and dotBytes of one column, without a panel between.
func (p x86) dotQ8() {
	p.text("dotQ8_0"+p.name, "blocks int, src *byte, step, ahead uintptr, x *uint32, out *float32", 48)
	p.rows("x")
	p.f("\tMOVQ out+40(FP), DX\n\tADDQ $%d, DI", dataBytes)
	const a, scale, b, whole = 9, 10, 11, 12 // halves uses b
	sum, ones := func(part int) int { return 13 + part }, 15
	sign := p.sign(0, 15)
	if !p.wide() {
		p.spread("wordOnes", ones)
	}
	for part := range p.parts() {
		p.load(fmt.Sprintf("%d(DX)", part*p.lanes*4), sum(part))
	}
	p.blocks(34, inputBytes, func(p rowPart) {
		p.halves(0, scale)
		if p.wide() {
			p.f("\tVPBROADCASTD 64(DI), Z%d", whole)
		} else {
			p.xor(whole, whole, whole)
		}
		for k, z := range p.quads32(2) {
			sign(z)
			if at := fmt.Sprintf("%d(DI)", quadBytes*k-dataBytes); p.wide() {
				p.f("\tVPDPBUSD.BCST %s, Z%d, Z%d", at, z, whole)
			} else {
				p.f("\tVPBROADCASTD %s, Y%d", at, b)
				p.dot4(z, b, whole, ones, a, b)
			}
		}
		p.d("VCVTDQ2PS", "", whole, whole)
		p.d("VBROADCASTSS", "", "(DI)", a)
		p.d("VMULPS", "", a, scale, a)
		p.d("VFMADD231PS", "", a, whole, sum(p.part))
	}, func() {
		for part := range p.parts() {
			p.store(sum(part), fmt.Sprintf("%d(DX)", part*p.lanes*4))
		}
	})
}

// dotRows multiplies 16 rows of bfloat16s, 16 numbers at a time, by a column of pairs, as dotQ8 does.
func (p x86) dotRows() {
	p.text("dotRows"+p.name, "blocks int, src *byte, step, ahead uintptr, x *uint32, out *float32, add bool", 49)
	p.rows("x")
	p.f("\tMOVQ out+40(FP), DX")
	const sum, x = 12, 13
	p.xor(sum, sum, sum)
	p.blocks(32, 8*quadBytes, func(p rowPart) {
		for k, z := range p.quads32(0) {
			p.f("\tVPBROADCASTD %d(DI), Z%d", quadBytes*k, x)
			p.dpbf16ps(sum, x, z)
		}
	}, func() {
		p.f("\tCMPB add+48(FP), $0\n\tJEQ store\n\tVADDPS (DX), Z%d, Z%d\n\nstore:\n\tVMOVUPS Z%d, (DX)", sum, sum, sum)
	})
}

func (p x86) unpackQ4() {
	p.unpack("Q4_0")
	const nibble = 14
	sign := p.sign(8, 15)
	p.spread("lowNibbles", nibble)
	p.blocks(18, panelBytes, func(p rowPart) {
		p.halves(0, 10)
		p.store(10, p.to(dataBytes))
		for k, z := range p.quads16(2) {
			p.d("VPSRLW", "", "$4", z, 9)
			for h, x := range []int{z, 9} {
				p.and(nibble, x, x)
				sign(x)
				p.store(x, p.to(quadBytes*(k+4*h)))
			}
		}
	})
}

// unpackK prints Q4_K and Q5_K, which differ in a fifth bit.
func (p x86) unpackK(name string, block int) {
	p.unpack(name)
	const nibble, bit, d, dmin = 14, 13, 11, 12
	sign := p.sign(0, 15)
	p.spread("lowNibbles", nibble)
	p.blocks(block, 8*panelTwice, func(p rowPart) {
		p.halves(0, d)
		p.halves(2, dmin)
		// The scales and minima of 6 bits, four bytes in each lane, of the first and of the last groups.
		w := p.quads16(0)
		packed := [2][2]int{{5, 6}, {7, 8}}
		const six, upper, x = 10, bit, 9
		p.spread("low6", six)
		p.spread("bits45", upper)
		for kind := range packed {
			p.and(six, w[1+kind], packed[kind][0])
			to := packed[kind][1]
			if from := w[3]; kind == 0 {
				p.and(nibble, from, to)
			} else {
				p.d("VPSRLD", "", "$4", from, to)
				p.and(nibble, to, to)
			}
			p.d("VPSRLD", "", "$2", w[1+kind], x)
			p.and(upper, x, x)
			p.or(x, to, to)
		}
		for kind, factor := range []int{d, dmin} {
			for g := range 8 {
				p.d("VPSLLD", "", fmt.Sprint("$", 24-g%4*8), packed[kind][g/4], x)
				p.d("VPSRLD", "", "$24", x, x)
				p.d("VCVTDQ2PS", "", x, x)
				p.d("VMULPS", "", factor, x, x)
				p.store(x, p.to(panelTwice*g+dataBytes+64*kind))
			}
		}
		low := 16
		if name == "Q5_K" {
			low = 48
			p.spread("bit4", bit)
			for k, z := range p.quads32(16) { // the last group makes room for them
				p.store(z, p.to(panelTwice*7+quadBytes*k))
			}
		}
		for pair := range 4 {
			for k, z := range p.quads32(low + 32*pair) {
				p.d("VPSRLW", "", "$4", z, 9)
				if name == "Q5_K" {
					p.load(p.to(panelTwice*7+quadBytes*k), 10)
				}
				for h, x := range []int{z, 9} {
					g := 2*pair + h
					p.and(nibble, x, x)
					if name == "Q5_K" {
						shift, by := "VPSLLW", 4-g
						if g > 4 {
							shift, by = "VPSRLW", g-4
						}
						p.d(shift, "", fmt.Sprint("$", by), 10, 11)
						p.and(bit, 11, 11)
						p.or(11, x, x)
					}
					sign(x)
					p.store(x, p.to(panelTwice*g+quadBytes*k))
				}
			}
		}
	})
}

func (p x86) unpackQ6() {
	p.unpack("Q6_K")
	const nibble, bits, d = 14, 13, 11
	sign := p.sign(32, 15)
	p.spread("lowNibbles", nibble)
	p.spread("bits45", bits)
	p.blocks(210, 8*panelTwice, func(p rowPart) {
		p.halves(208, d)
		for k, z := range p.quads16(192) {
			for b := range 4 {
				i := 4*k + b
				p.d("VPSLLD", "", fmt.Sprint("$", 24-8*b), z, 9)
				p.d("VPSRAD", "", "$24", 9, 9)
				p.d("VCVTDQ2PS", "", 9, 9)
				p.d("VMULPS", "", d, 9, 9)
				p.store(9, p.to(panelTwice*(i/2)+dataBytes+64*(i%2)))
			}
		}
		for half := range 2 {
			to := func(quarter, k int) string { return p.to(panelTwice*(4*half+quarter) + quadBytes*k) }
			for k, z := range p.quads32(128 + 32*half) { // the last quarter makes room for them
				p.store(z, to(3, k))
			}
			for part := range 2 {
				for k, z := range p.quads32(64*half + 32*part) {
					p.d("VPSRLW", "", "$4", z, 9)
					p.load(to(3, k), 10)
					for h, x := range []int{z, 9} {
						quarter := part + 2*h
						y := 11
						switch quarter {
						case 0, 1:
							p.d("VPSLLW", "", fmt.Sprint("$", 4-2*quarter), 10, y)
						case 2:
							y = 10
						case 3:
							p.d("VPSRLW", "", "$2", 10, y)
						}
						p.and(nibble, x, x)
						p.and(bits, y, 12)
						p.or(12, x, x)
						sign(x)
						p.store(x, to(quarter, k))
					}
				}
			}
		}
	})
}
