package main

import "fmt"

// amx prints a product of pairs of bfloat16s on AMX tiles: rows × cols tiles of 16 × 16 sums, for an a by rows and a k
// that is a multiple of 16 pairs. Tiles 0 … 5 are sums, 6 and 7 parts of a and b.
func (p x86) amx(rows, cols int) {
	p.text(fmt.Sprintf("dot%dx%dRowsAMX", 16*rows, 16*cols),
		"tiles, k int, a *float32, lda uintptr, b *float32, ldb uintptr, c *float32, ldc uintptr, add bool", 65)
	p.f("\tLEAQ ·tileConfig+0(SB), AX")
	p.tileConfig("AX")
	p.f("\tMOVQ tiles+0(FP), DI\n\tMOVQ a+16(FP), R8\n\tMOVQ lda+24(FP), R9\n\tMOVQ ldb+40(FP), R12")
	p.f("\tMOVQ c+48(FP), R13\n\tMOVQ ldc+56(FP), SI\n\tMOVQ SI, R10\n\tSHLQ $4, R10\n\tMOVQ R9, DX\n\tSHLQ $4, DX")
	acc := func(i, j int) int { return i*cols + j }
	const a, b = 6, 7
	p.f("\ntile:\n\tMOVQ k+8(FP), AX\n\tMOVQ b+32(FP), R11\n\tMOVQ R8, BX")
	if rows == 2 {
		p.f("\tLEAQ (R13)(R10*1), CX")
	}
	cs := []string{"R13", "CX"}
	p.f("\tCMPB add+64(FP), $0\n\tJEQ zero")
	for i := range rows {
		for j := range cols {
			p.tileLoad(acc(i, j), int32(64*j), cs[i], "SI")
		}
	}
	p.f("\tJMP loop\n\nzero:")
	for i := range rows * cols {
		p.tileZero(i)
	}
	p.f("\nloop:")
	p.tileLoad(a, 0, "BX", "R9")
	for j := range cols {
		p.tileLoad(b, int32(64*j), "R11", "R12")
		p.tileDot(acc(0, j), a, b)
	}
	if rows == 2 { // the last part of b is still there
		p.f("\tADDQ DX, BX")
		p.tileLoad(a, 0, "BX", "R9")
		p.f("\tSUBQ DX, BX")
		for j := cols - 1; j >= 0; j-- {
			if j < cols-1 {
				p.tileLoad(b, int32(64*j), "R11", "R12")
			}
			p.tileDot(acc(1, j), a, b)
		}
	}
	p.f("\tADDQ $64, BX\n\tLEAQ (R11)(R12*8), R11\n\tLEAQ (R11)(R12*8), R11\n\tSUBQ $16, AX\n\tJNZ loop")
	for i := range rows {
		for j := range cols {
			p.tileStore(acc(i, j), int32(64*j), cs[i], "SI")
		}
	}
	p.f("\tLEAQ (R8)(DX*%[1]d), R8\n\tLEAQ (R13)(R10*%[1]d), R13\n\tDECQ DI\n\tJNZ tile", rows)
	p.tileRelease()
	p.f("\tRET")
}

// amxPeak keeps four independent sums in flight.
func (p x86) amxPeak() {
	p.text("dotAMX", "rounds int", 8)
	p.f("\tMOVQ rounds+0(FP), AX\n\tLEAQ ·tileConfig+0(SB), BX")
	p.tileConfig("BX")
	for i := range 8 {
		p.tileZero(i)
	}
	p.f("\nloop:")
	for i := range 4 {
		p.tileDot(i, 4+i/2, 6+i%2)
	}
	p.f("\tDECQ AX\n\tJNZ loop")
	p.tileRelease()
	p.f("\tRET")
}
