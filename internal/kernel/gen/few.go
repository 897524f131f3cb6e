package main

import "fmt"

// What few rows of queries meet: see kernel.few. Rows of keys are as many lanes as a vector has; queries are broadcast.

// An element is the type of keys and values.
type element string

const (
	singles element = "F32"
	words   element = "BF16" // in pairs
	octets  element = "I8"   // with a factor for each row
)

// few prints the kernels on keys and values of some types, for up to four rows of queries and for up to eight.
func (p x86) few(types ...element) {
	for _, rows := range []int{4, 8} {
		for _, e := range types {
			p.score(rows, e)
			p.weigh(rows, e)
		}
		p.addSums(rows, types[0] == words)
	}
}

// score prints products of groups of 16 keys with rows of queries. Of the keys 32 bytes at a time are turned in registers,
// so that each number, or pair, of all keys is a vector; what is read later is asked for meanwhile. Sums go over numbers in order.
func (p x86) score(rows int, e element) {
	p.text(fmt.Sprintf("score%d%s%s", rows, e, p.name), "groups, blocks int, src *byte, step, ahead uintptr, q *float32, ld uintptr, out, scales *float32", 72)
	acc := func(r int) int { return 9 + r }
	const x, y, scale = 17, 18, 19
	p.f("\tMOVQ groups+0(FP), R14\n\tMOVQ src+16(FP), R15\n\tMOVQ step+24(FP), R8\n\tMOVQ ahead+32(FP), R13\n\tMOVQ ld+48(FP), BX\n\tMOVQ out+56(FP), DX\n\tMOVQ scales+64(FP), CX")
	p.f("\tLEAQ (R8)(R8*2), R9\n\tADDQ R15, R13")
	p.quarters()
	p.f("\ngroup:\n\tMOVQ blocks+8(FP), AX\n\tMOVQ q+40(FP), DI\n\tMOVQ R15, SI\n\tLEAQ (SI)(R8*4), R10\n\tLEAQ (SI)(R8*8), R11\n\tLEAQ (R10)(R8*8), R12")
	for r := range rows {
		p.xor(acc(r), acc(r), acc(r))
	}
	if e == octets {
		p.f("\tVMOVUPS (CX), Z%d\n\tADDQ $64, CX", scale)
	}
	p.f("\nblock:")
	later := &request{p: p.printer, base: "R13", lines: 8}
	part := rowPart{p, 0, later}
	for _, z := range part.quads32(0) {
		switch e {
		case singles:
			for r := range rows {
				p.f("\tVFMADD231PS.BCST %d(DI), Z%d, Z%d", 4*r, z, acc(r))
			}
			p.f("\tADDQ BX, DI")
		case words:
			for r := range rows {
				t := x + r%2
				p.f("\tVPBROADCASTD %d(DI), Z%d", 4*r, t)
				p.dpbf16ps(acc(r), z, t)
			}
			p.f("\tADDQ BX, DI")
		case octets:
			for i := range 4 {
				t, from := x+i%2, z
				if i < 3 {
					p.f("\tVPSLLD $%d, Z%d, Z%d", 24-8*i, z, t)
					from = t
				}
				p.f("\tVPSRAD $24, Z%d, Z%d\n\tVCVTDQ2PS Z%d, Z%d\n\tVMULPS Z%d, Z%d, Z%d", from, t, t, t, scale, t, t)
				for r := range rows {
					p.f("\tVFMADD231PS.BCST %d(DI), Z%d, Z%d", 4*r, t, acc(r))
				}
				p.f("\tADDQ BX, DI")
			}
		}
	}
	later.rest()
	p.f("\tADDQ $512, R13\n\tADDQ $32, SI\n\tADDQ $32, R10\n\tADDQ $32, R11\n\tADDQ $32, R12\n\tDECQ AX\n\tJNZ block")
	sums := make([]int, rows)
	for r := range sums {
		sums[r] = acc(r)
	}
	turned, free := p.turnBack(sums, 0)
	for key := range columns {
		p.column(turned, key%4, key/4, free)
		p.f("\tVMOVUPS Z%d, (DX)\n\tADDQ BX, DX", free)
	}
	p.f("\tLEAQ (R15)(R8*8), R15\n\tLEAQ (R15)(R8*8), R15\n\tDECQ R14\n\tJNZ group")
	p.ret()
}

// quarters sets K1 and K2 to the first and the second four lanes.
func (p x86) quarters() {
	p.f("\tMOVL $0x0f, AX\n\tKMOVW AX, K1\n\tMOVL $0xf0, AX\n\tKMOVW AX, K2")
}

// turnBack turns the vectors of four rows, or of eight, in squares of 4×4: it returns the four vectors of each four
// rows, and the register that is free now. The q-th quarter of the c-th has the four rows' lane 4q + c.
func (p x86) turnBack(rows []int, free int) (turned [][]int, _ int) {
	for i := 0; i < len(rows); i += 4 {
		var z []int
		z, free = rowPart{p, 0, nil}.turn(rows[i:i+4:i+4], free)
		turned = append(turned, z)
	}
	return turned, free
}

// column puts one lane of all rows side by side, zeros after them.
func (p x86) column(turned [][]int, c, q, to int) {
	z := turned[0][c]
	p.f("\tVSHUFF32X4.Z $%d, Z%d, Z%d, K1, Z%d", q, z, z, to)
	if len(turned) > 1 {
		z = turned[1][c]
		p.f("\tVSHUFF32X4 $%d, Z%d, Z%d, K2, Z%d", q<<2, z, z, to)
	}
}

// weigh adds the products of weights and rows of values to sums: of n rows, or pairs of rows, 16 at a time, and of these 32 numbers at
// a time, for which sums are in registers. What is read later is asked for meanwhile. Sums go over rows in order.
func (p x86) weigh(rows int, e element) {
	p.text(fmt.Sprintf("weigh%d%s%s", rows, e, p.name), "n, slices int, v *byte, step, ahead uintptr, w *float32, ld uintptr, sums, scales *float32", 72)
	acc := func(r, half int) int { return 2*r + half }
	const v, x = 16, 20 // numbers, and weights
	size := map[element]int{singles: 4, words: 2, octets: 1}[e]
	p.f("\tMOVQ n+0(FP), R14\n\tMOVQ v+16(FP), SI\n\tMOVQ step+24(FP), R8\n\tMOVQ ahead+32(FP), R13\n\tMOVQ w+40(FP), DX\n\tMOVQ ld+48(FP), R9\n\tMOVQ scales+64(FP), BX\n\tADDQ SI, R13")
	p.f("\nchunk:\n\tMOVQ $16, R15\n\tCMPQ R14, R15\n\tCMOVQLT R14, R15\n\tMOVQ slices+8(FP), CX\n\tMOVQ sums+56(FP), DI\n\tMOVQ SI, R12\n\nslice:")
	for r := range rows {
		for half := range 2 {
			p.f("\tVMOVUPS %d(DI), Z%d", 128*r+64*half, acc(r, half))
		}
	}
	p.f("\tMOVQ R12, R10\n\tMOVQ DX, R11\n\tXORL AX, AX\n\nrow:")
	switch e {
	case singles:
		p.f("\tVMOVUPS (R10), Z%d\n\tVMOVUPS 64(R10), Z%d\n\tADDQ R8, R10", v, v+1)
		p.f("\tPREFETCHT1 (R13)\n\tPREFETCHT1 64(R13)\n\tADDQ $128, R13")
	case words:
		p.f("\tVMOVDQU32 (R10), Z%d\n\tVMOVDQU32 (R10)(R8*1), Z%d\n\tLEAQ (R10)(R8*2), R10", v+2, v+3)
		p.f("\tPREFETCHT1 (R13)\n\tPREFETCHT1 64(R13)\n\tADDQ $128, R13")
		p.f("\tVPUNPCKLWD Z%d, Z%d, Z%d\n\tVPUNPCKHWD Z%d, Z%d, Z%d", v+3, v+2, v, v+3, v+2, v+1)
	case octets:
		p.f("\tVBROADCASTSS (BX)(AX*4), Z%d", v+2)
		for half := range 2 {
			p.f("\tVPMOVSXBD %d(R10), Z%d\n\tVCVTDQ2PS Z%d, Z%d\n\tVMULPS Z%d, Z%d, Z%d", 16*half, v+half, v+half, v+half, v+2, v+half, v+half)
		}
		p.f("\tADDQ R8, R10\n\tPREFETCHT1 (R13)\n\tADDQ $32, R13")
	}
	for r := range rows {
		t := x + r%4
		p.f("\tVBROADCASTSS %d(R11), Z%d", 4*r, t)
		for half := range 2 {
			if e == words {
				p.dpbf16ps(acc(r, half), v+half, t)
			} else {
				p.f("\tVFMADD231PS Z%d, Z%d, Z%d", v+half, t, acc(r, half))
			}
		}
	}
	p.f("\tADDQ R9, R11\n\tINCQ AX\n\tCMPQ AX, R15\n\tJLT row")
	for r := range rows {
		for half := range 2 {
			p.f("\tVMOVUPS Z%d, %d(DI)", acc(r, half), 128*r+64*half)
		}
	}
	p.f("\tADDQ $%d, DI\n\tADDQ $%d, R12\n\tDECQ CX\n\tJNZ slice", 128*rows, 32*size)
	p.f("\tMOVQ R15, AX\n\tIMULQ R8, AX\n\tADDQ AX, SI")
	if e == words {
		p.f("\tADDQ AX, SI")
	}
	p.f("\tMOVQ R15, AX\n\tIMULQ R9, AX\n\tADDQ AX, DX\n\tLEAQ (BX)(R15*4), BX\n\tSUBQ R15, R14\n\tJNZ chunk")
	p.ret()
}

// addSums adds what weigh has summed up to dims × rows. Sums of pairs stand in the order that unpacking words leaves.
func (p x86) addSums(rows int, pairs bool) {
	name := "addSums"
	if pairs {
		name = "addSumsPairs"
	}
	p.text(fmt.Sprintf("%s%d%s", name, rows, p.name), "slices int, sums, dst *float32, ld uintptr", 32)
	p.f("\tMOVQ slices+0(FP), CX\n\tMOVQ sums+8(FP), SI\n\tMOVQ dst+16(FP), DI\n\tMOVQ ld+24(FP), R8")
	p.quarters()
	p.f("\nslice:")
	var halves [2][][]int
	free := 2 * rows
	for half := range halves {
		z := make([]int, rows)
		for r := range z {
			z[r] = half*rows + r
			p.f("\tVMOVUPS %d(SI), Z%d", 128*r+64*half, z[r])
		}
		// The register that is free goes round.
		halves[half], free = p.turnBack(z, free)
	}
	for d := range 32 {
		half, q := d/16, d%16/4
		if pairs {
			half, q = d/4%2, d/8
		}
		p.column(halves[half], d%4, q, free)
		p.f("\tVADDPS (DI), Z%d, Z%d\n\tVMOVUPS Z%d, (DI)\n\tADDQ R8, DI", free, free, free)
	}
	p.f("\tADDQ $%d, SI\n\tDECQ CX\n\tJNZ slice", 128*rows)
	p.ret()
}
