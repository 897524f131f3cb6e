package main

import "fmt"

// What a group of 32 numbers takes in bytes, of 16 rows of weights and of 16 columns of numbers to multiply these by:
// see kernel.Bytes.
const (
	quadBytes  = 64               // four numbers of each row or column
	dataBytes  = 8 * quadBytes    // the numbers of a group
	inputBytes = dataBytes + 5*64 // of columns: with scales, corrections and sums
	panelBytes = dataBytes + 64   // of rows: with scales
	panelTwice = dataBytes + 2*64 // of rows with two kinds of scales
)

// A group kind says what scales a group of weights has.
type groupKind string

const (
	oneScale  groupKind = ""       // one
	minimum   groupKind = "Min"    // one, and a number to subtract
	twoScales groupKind = "Halves" // one for each 16 numbers
)

var avx512vnni = isa{name: "AVX512VNNI", reg: "Z", lanes: 16}

// onBytes prints the kernels on bytes.
func (p x86) onBytes() {
	p.quantise()
	for _, kind := range []groupKind{oneScale, minimum, twoScales} {
		for _, columns := range []int{8, 1} {
			p.dotBytes(kind, columns)
		}
	}
	p.unpackQ8()
	p.unpackQ4()
	p.unpackK("Q4_K", 144)
	p.unpackK("Q5_K", 176)
	p.unpackQ6()
	p.peak("dotBytes", func(x, acc int) { p.f("\tVPDPBUSD Z%d, Z%d, Z%d", x, x, acc) })
}

// quantise turns 32 rows of 16 columns to bytes, and four of these to lanes. The largest magnitude is found among bit
// patterns, where NaN is the largest of all and spoils the scale.
func (p x86) quantise() {
	p.text("quantise"+p.name, "groups int, src *float32, lds uintptr, dst *uint32", 32)
	p.f("\tMOVQ groups+0(FP), AX\n\tMOVQ src+8(FP), SI\n\tMOVQ lds+16(FP), R8\n\tMOVQ dst+24(FP), DI\n\tLEAQ (R8)(R8*2), R9")
	const abs, most, tiny, low, ones, by = 31, 30, 29, 28, 27, 26
	p.f("\tVPBROADCASTD ·absBits+0(SB), Z%d\n\tVBROADCASTSS ·byteMost+0(SB), Z%d\n\tVBROADCASTSS ·byteTiny+0(SB), Z%d", abs, most, tiny)
	p.f("\tVPBROADCASTD ·lowByte+0(SB), Z%d\n\tVPBROADCASTD ·signBits+0(SB), Z%d\n\tVBROADCASTSS ·byteUnit+0(SB), Z%d", low, ones, by)
	at := func(i int) string { return []string{"(BX)", "(BX)(R8*1)", "(BX)(R8*2)", "(BX)(R9*1)"}[i%4] }
	p.f("\ngroup:\n\tMOVQ SI, BX")
	for i := range 4 {
		p.f("\tVPXORD Z%[1]d, Z%[1]d, Z%[1]d", i)
	}
	for i := range 32 {
		p.f("\tVPANDD %s, Z%d, Z%d\n\tVPMAXUD Z%d, Z%d, Z%d", at(i), abs, 4+i%4, 4+i%4, i%4, i%4)
		if i%4 == 3 {
			p.f("\tLEAQ (BX)(R8*4), BX")
		}
	}
	p.f("\tVPMAXUD Z1, Z0, Z0\n\tVPMAXUD Z3, Z2, Z2\n\tVPMAXUD Z2, Z0, Z0")
	p.f("\tVDIVPS Z%d, Z0, Z1", most)                                        // the scale
	p.f("\tVCMPPS $13, Z%d, Z0, K1\n\tVDIVPS.Z Z0, Z%d, K1, Z2", tiny, most) // what numbers are multiplied by
	p.f("\tVPXORD Z3, Z3, Z3\n\tVPXORD Z4, Z4, Z4")                          // 128 times the sums of the halves
	for quad := range 8 {
		x := func(i int) int { return 8 + quad%2*4 + i }
		for i := range 4 {
			p.f("\tVMULPS %s, Z2, Z%d\n\tVCVTPS2DQ Z%d, Z%d", []string{"(SI)", "(SI)(R8*1)", "(SI)(R8*2)", "(SI)(R9*1)"}[i], x(i), x(i), x(i))
		}
		p.f("\tLEAQ (SI)(R8*4), SI")
		for i := 2; i >= 0; i-- { // the last on top
			p.f("\tVPSLLD $8, Z%d, Z%d\n\tVPTERNLOGD $0xf8, Z%d, Z%d, Z%d", x(3), x(3), low, x(i), x(3))
		}
		p.f("\tVMOVDQU32 Z%d, %d(DI)\n\tVPDPBUSD Z%d, Z%d, Z%d", x(3), quad*quadBytes, x(3), ones, 3+quad/4)
	}
	p.f("\tVPADDD Z3, Z4, Z5\n\tVPXORD Z6, Z6, Z6\n\tVPSUBD Z3, Z6, Z3\n\tVPSUBD Z4, Z6, Z4\n\tVPSUBD Z5, Z6, Z6")
	p.f("\tVCVTDQ2PS Z5, Z5\n\tVMULPS Z%d, Z5, Z5\n\tVMULPS Z1, Z5, Z5", by)
	for i, z := range []int{1, 6, 3, 4, 5} {
		p.f("\tVMOVDQU32 Z%d, %d(DI)", z, dataBytes+64*i)
	}
	p.f("\tADDQ $%d, DI\n\tDECQ AX\n\tJNZ group", inputBytes)
	p.ret()
}

// dotBytes adds products of a panel of 16 rows and some columns. Sums of whole numbers begin at the columns' correction, for
// weights are 128 too large, and end with the group; then they are scaled and added up in single precision.
func (p x86) dotBytes(kind groupKind, columns int) {
	p.text(fmt.Sprintf("dotBytes%d%s%s", columns, kind, p.name), "groups int, w, x *uint32, out *float32", 32)
	p.f("\tMOVQ groups+0(FP), AX\n\tMOVQ w+8(FP), SI\n\tMOVQ x+16(FP), DI\n\tMOVQ out+24(FP), DX\n\tADDQ $%d, DI", dataBytes)
	sum := func(t int) int { return t }
	whole := func(t int) int { return 8 + t }
	for t := range columns {
		p.f("\tVMOVUPS %d(DX), Z%d", 64*t, sum(t))
	}
	p.f("\tPCALIGN $64\n\ngroup:")
	some := func(first, quads, correction, scale int) {
		for t := range columns {
			p.f("\tVPBROADCASTD %d(DI), Z%d", 64*correction+4*t, whole(t))
		}
		for q := first; q < first+quads; q++ {
			w := 16 + q%4
			p.f("\tVMOVDQU32 %d(SI), Z%d", quadBytes*q, w)
			for t := range columns {
				p.f("\tVPDPBUSD.BCST %d(DI), Z%d, Z%d", quadBytes*q+4*t-dataBytes, w, whole(t))
			}
		}
		p.f("\tVMOVUPS %d(SI), Z20", dataBytes+64*scale)
		for t := range columns {
			x := 24 + t
			p.f("\tVCVTDQ2PS Z%[1]d, Z%[1]d\n\tVMULPS.BCST %[2]d(DI), Z20, Z%[3]d\n\tVFMADD231PS Z%[3]d, Z%[1]d, Z%[4]d", whole(t), 4*t, x, sum(t))
		}
	}
	size := panelTwice
	switch kind {
	case oneScale:
		some(0, 8, 1, 0)
		size = panelBytes
	case minimum:
		some(0, 8, 1, 0)
		p.f("\tVMOVUPS %d(SI), Z21", dataBytes+64)
		for t := range columns {
			p.f("\tVFNMADD231PS.BCST %d(DI), Z21, Z%d", 4*64+4*t, sum(t))
		}
	case twoScales:
		some(0, 4, 2, 0)
		some(4, 4, 3, 1)
	}
	p.f("\tADDQ $%d, SI\n\tADDQ $%d, DI\n\tDECQ AX\n\tJNZ group", size, inputBytes)
	for t := range columns {
		p.f("\tVMOVUPS Z%d, %d(DX)", sum(t), 64*t)
	}
	p.ret()
}

// unpack begins a kernel that unpacks blocks of 16 rows: AX counts blocks, the rows 0, 4, 8 and 12 are at SI, R10, R11
// and R12, step and three times step in R8 and R9, what is read later at R13, and DI is where they go.
func (p x86) unpack(name string) {
	p.text("unpack"+name+p.name, "blocks int, src *byte, step, ahead uintptr, dst *uint32", 40)
	p.f("\tMOVQ blocks+0(FP), AX\n\tMOVQ src+8(FP), SI\n\tMOVQ step+16(FP), R8\n\tMOVQ ahead+24(FP), R13\n\tMOVQ dst+32(FP), DI")
	p.f("\tLEAQ (R8)(R8*2), R9\n\tLEAQ (SI)(R8*4), R10\n\tLEAQ (SI)(R8*8), R11\n\tLEAQ (R10)(R8*8), R12\n\tADDQ SI, R13")
}

// end closes the loop over blocks of so many bytes, which become size bytes.
func (p x86) end(block, size int) {
	for line := 0; line < 16*block; line += 64 {
		p.f("\tPREFETCHT1 %d(R13)", line)
	}
	p.f("\tADDQ $%d, R13", 16*block)
	for _, base := range []string{"SI", "R10", "R11", "R12"} {
		p.f("\tADDQ $%d, %s", block, base)
	}
	p.f("\tADDQ $%d, DI\n\tDECQ AX\n\tJNZ block", size)
	p.ret()
}

// row is the address of what lies disp bytes into a row's block.
func row(i, disp int) string {
	base := []string{"SI", "R10", "R11", "R12"}[i/4]
	return fmt.Sprint(disp, "(", base, ")", []string{"", "(R8*1)", "(R8*2)", "(R9*1)"}[i%4])
}

// turn exchanges rows and columns in squares of 4×4 within the 128-bit parts of registers: those of z become columns of four
// rows each. It returns them in order, and the register that is free now.
func (p x86) turn(z []int, free int) ([]int, int) {
	unpack := func(kind string, a, b int) {
		p.f("\tVPUNPCKL%s Z%d, Z%d, Z%d", kind, z[b], z[a], free)
		p.f("\tVPUNPCKH%s Z%d, Z%d, Z%d", kind, z[b], z[a], z[b])
		z[a], free = free, z[a]
	}
	unpack("DQ", 0, 1)
	unpack("DQ", 2, 3)
	unpack("QDQ", 0, 2)
	unpack("QDQ", 1, 3)
	return []int{z[0], z[2], z[1], z[3]}, free
}

// quads16 loads 16 bytes of each row, and returns four registers: each has four bytes of every row. It uses first … first + 4.
func (p x86) quads16(disp, first int) []int {
	z := make([]int, 4)
	for i := range z {
		z[i] = first + i
		p.f("\tVMOVDQU32 %s, X%d", row(i, disp), z[i])
		for part := 1; part < 4; part++ {
			p.f("\tVINSERTI32X4 $%d, %s, Z%d, Z%d", part, row(4*part+i, disp), z[i], z[i])
		}
	}
	z, _ = p.turn(z, first+4)
	return z
}

// quads32 loads 32 bytes of each row, and returns eight registers like those of quads16. It uses first … first + 8.
func (p x86) quads32(disp, first int) []int {
	free := first + 8
	var half [2][]int // of the rows below 8 and of the others
	for h := range half {
		z := make([]int, 4)
		for i := range z {
			z[i] = first + 4*h + i
			p.f("\tVMOVDQU32 %s, Y%d\n\tVINSERTI64X4 $1, %s, Z%d, Z%d", row(8*h+i, disp), z[i], row(8*h+4+i, disp), z[i], z[i])
		}
		half[h], free = p.turn(z, free)
	}
	quads := make([]int, 8)
	for k := range 4 {
		a, b := half[0][k], half[1][k]
		p.f("\tVSHUFI32X4 $0x88, Z%d, Z%d, Z%d\n\tVSHUFI32X4 $0xdd, Z%d, Z%d, Z%d", b, a, free, b, a, b)
		quads[k], quads[k+4], free = free, b, a
	}
	return quads
}

// halves loads a half-precision number of each row, to single precision in register z below 16, and uses the next one.
func (p x86) halves(disp, z int) {
	p.f("\tVPXOR X%[1]d, X%[1]d, X%[1]d\n\tVPXOR X%[2]d, X%[2]d, X%[2]d", z, z+1)
	for i := range 8 {
		p.f("\tVPINSRW $%d, %s, X%d, X%d\n\tVPINSRW $%d, %s, X%d, X%d", i, row(i, disp), z, z, i, row(8+i, disp), z+1, z+1)
	}
	p.f("\tVINSERTI128 $1, X%d, Y%d, Y%d\n\tVCVTPH2PS Y%d, Z%d", z+1, z, z, z, z)
}

func (p x86) unpackQ8() {
	p.unpack("Q8_0")
	p.f("\tVPBROADCASTD ·signBits+0(SB), Z31\n\nblock:")
	p.halves(0, 10)
	p.f("\tVMOVUPS Z10, %d(DI)", dataBytes)
	for k, z := range p.quads32(2, 0) {
		p.f("\tVPXORD Z31, Z%d, Z%d\n\tVMOVDQU32 Z%d, %d(DI)", z, z, z, quadBytes*k)
	}
	p.end(34, panelBytes)
}

func (p x86) unpackQ4() {
	p.unpack("Q4_0")
	p.f("\tVPBROADCASTD ·lowNibbles+0(SB), Z31\n\tVPBROADCASTD ·byteLess8+0(SB), Z30\n\nblock:")
	p.halves(0, 10)
	p.f("\tVMOVUPS Z10, %d(DI)", dataBytes)
	for k, z := range p.quads16(2, 0) {
		p.f("\tVPSRLW $4, Z%d, Z12\n\tVPANDD Z31, Z%d, Z%d\n\tVPANDD Z31, Z12, Z12", z, z, z)
		p.f("\tVPADDB Z30, Z%d, Z%d\n\tVPADDB Z30, Z12, Z12", z, z)
		p.f("\tVMOVDQU32 Z%d, %d(DI)\n\tVMOVDQU32 Z12, %d(DI)", z, quadBytes*k, quadBytes*(k+4))
	}
	p.end(18, panelBytes)
}

// unpackK prints Q4_K and Q5_K, which differ in a fifth bit.
func (p x86) unpackK(name string, block int) {
	p.unpack(name)
	const nibble, sign, bit, d, dmin = 31, 30, 29, 28, 27
	p.f("\tVPBROADCASTD ·lowNibbles+0(SB), Z%d\n\tVPBROADCASTD ·signBits+0(SB), Z%d\n\tVPBROADCASTD ·bit4+0(SB), Z%d", nibble, sign, bit)
	p.f("\tVPBROADCASTD ·low6+0(SB), Z26\n\tVPBROADCASTD ·bits45+0(SB), Z25\n\tVPBROADCASTD ·lowByte+0(SB), Z24")
	p.f("\nblock:")
	// The scales of all, and those of 6 bits: four bytes in each lane of S, for groups 0–3 and 4–7, and of M.
	w := p.quads16(0, 0)
	p.f("\tVPMOVDW Z%[1]d, Y5\n\tVCVTPH2PS Y5, Z%[2]d\n\tVPSRLD $16, Z%[1]d, Z5\n\tVPMOVDW Z5, Y5\n\tVCVTPH2PS Y5, Z%[3]d", w[0], d, dmin)
	packed := [2][2]int{{5, 6}, {7, 8}} // scales and minima, each of the first and the last groups
	p.f("\tVPANDD Z26, Z%d, Z%d\n\tVPANDD Z26, Z%d, Z%d", w[1], packed[0][0], w[2], packed[1][0])
	p.f("\tVPANDD Z%d, Z%d, Z%d\n\tVPSRLD $2, Z%d, Z9\n\tVPTERNLOGD $0xf8, Z25, Z9, Z%d", nibble, w[3], packed[0][1], w[1], packed[0][1])
	p.f("\tVPSRLD $4, Z%d, Z%d\n\tVPANDD Z%d, Z%d, Z%d\n\tVPSRLD $2, Z%d, Z9\n\tVPTERNLOGD $0xf8, Z25, Z9, Z%d", w[3], packed[1][1], nibble, packed[1][1], packed[1][1], w[2], packed[1][1])
	for kind, factor := range []int{d, dmin} {
		for g := range 8 {
			from := packed[kind][g/4]
			p.f("\tVPSRLD $%d, Z%d, Z9\n\tVPANDD Z24, Z9, Z9\n\tVCVTDQ2PS Z9, Z9\n\tVMULPS Z%d, Z9, Z9\n\tVMOVUPS Z9, %d(DI)",
				g%4*8, from, factor, panelTwice*g+dataBytes+64*kind)
		}
	}
	low, high := 16, []int(nil)
	if name == "Q5_K" {
		low, high = 48, p.quads32(16, 10) // 10 … 18
	}
	for pair := range 4 {
		for k, z := range p.quads32(low+32*pair, 0) {
			p.f("\tVPSRLW $4, Z%d, Z9", z)
			for h, x := range []int{z, 9} {
				g := 2*pair + h
				p.f("\tVPTERNLOGD $0xea, Z%d, Z%d, Z%d", sign, nibble, x)
				if high != nil {
					y := high[k]
					if g != 4 {
						shift, by := "VPSLLW", 4-g
						if g > 4 {
							shift, by = "VPSRLW", g-4
						}
						y = 19
						p.f("\t%s $%d, Z%d, Z%d", shift, by, high[k], y)
					}
					p.f("\tVPTERNLOGD $0xf8, Z%d, Z%d, Z%d", bit, y, x)
				}
				p.f("\tVMOVDQU32 Z%d, %d(DI)", x, panelTwice*g+quadBytes*k)
			}
		}
	}
	p.end(block, 8*panelTwice)
}

func (p x86) unpackQ6() {
	p.unpack("Q6_K")
	const nibble, bits, less, d = 31, 30, 29, 28
	p.f("\tVPBROADCASTD ·lowNibbles+0(SB), Z%d\n\tVPBROADCASTD ·bits45+0(SB), Z%d\n\tVPBROADCASTD ·byteLess32+0(SB), Z%d", nibble, bits, less)
	p.f("\nblock:")
	p.halves(208, 10)
	p.f("\tVMOVAPS Z10, Z%d", d)
	for k, z := range p.quads16(192, 0) {
		for b := range 4 {
			i := 4*k + b
			p.f("\tVPSLLD $%d, Z%d, Z9\n\tVPSRAD $24, Z9, Z9\n\tVCVTDQ2PS Z9, Z9\n\tVMULPS Z%d, Z9, Z9\n\tVMOVUPS Z9, %d(DI)",
				24-8*b, z, d, panelTwice*(i/2)+dataBytes+64*(i%2))
		}
	}
	for half := range 2 {
		high := p.quads32(128+32*half, 10) // 10 … 18
		for part := range 2 {
			for k, z := range p.quads32(64*half+32*part, 0) {
				p.f("\tVPSRLW $4, Z%d, Z9", z)
				for h, x := range []int{z, 9} {
					quarter := part + 2*h
					y := high[k]
					if quarter != 2 {
						y = 19
						p.f("\t%s, Z%d, Z%d", []string{"VPSLLW $4", "VPSLLW $2", "", "VPSRLW $2"}[quarter], high[k], y)
					}
					p.f("\tVPANDD Z%d, Z%d, Z%d\n\tVPTERNLOGD $0xf8, Z%d, Z%d, Z%d\n\tVPADDB Z%d, Z%d, Z%d", nibble, x, x, bits, y, x, less, x, x)
					p.f("\tVMOVDQU32 Z%d, %d(DI)", x, panelTwice*(4*half+quarter)+quadBytes*k)
				}
			}
		}
	}
	p.end(210, 8*panelTwice)
}
