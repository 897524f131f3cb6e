package main

import "fmt"

// amx prints a product of pairs of bfloat16s on AMX tiles: rows × cols tiles of 16 × 16 sums, for an a by rows and a k
// that is a multiple of 16 pairs. Tiles 0 … 3 are sums, 4 and 5 parts of a, 6 and 7 of b. A product waits some 60 cycles
// for the one before on the same sums and takes 16, so four sums are what keeps the unit busy; and tiles are not renamed,
// so a load waits for the products that still read its tile: 2 × 2 with tiles for all parts is 0.8 of the peak, 2 × 3
// with one tile for each side 0.5.
//
// With twice, b is two matrices of k rows, the second after the first, and c their sum's product with a, of which each part
// is loaded once.
func (p x86) amx(rows, cols int, twice bool) {
	name := "dot"
	if twice {
		name = "dotTwice"
	}
	p.text(fmt.Sprintf("%s%dx%dRowsAMX", name, 16*rows, 16*cols),
		"tiles, k int, a *float32, lda uintptr, b *float32, ldb uintptr, c *float32, ldc uintptr, add bool", 65)
	p.f("\tMOVQ tiles+0(FP), DI\n\tMOVQ a+16(FP), R8\n\tMOVQ lda+24(FP), R9\n\tMOVQ ldb+40(FP), R12")
	p.f("\tMOVQ c+48(FP), R13\n\tMOVQ ldc+56(FP), SI\n\tMOVQ SI, R10\n\tSHLQ $4, R10\n\tMOVQ R9, DX\n\tSHLQ $4, DX")
	const a, b = 4, 6
	as, cs := []string{"R8", "BX"}, []string{"R13", "CX"}
	p.f("\ntile:")
	if rows == 2 {
		p.f("\tLEAQ (R13)(R10*1), CX\n\tLEAQ (R8)(DX*1), BX")
	}
	// Four tiles of columns are two and two, for which a is read twice while it is near.
	for first, wide := 0, min(cols, 2); first < cols; first += wide {
		label := func(name string) string { return fmt.Sprintf("%s%d", name, first) }
		acc := func(i, j int) int { return i*wide + j }
		p.f("\tMOVQ k+8(FP), AX\n\tMOVQ b+32(FP), R11")
		if twice {
			p.f("\tMOVQ AX, R14\n\tIMULQ R12, R14\n\tADDQ R11, R14")
		}
		p.f("\tCMPB add+64(FP), $0\n\tJEQ %s", label("zero"))
		for i := range rows {
			for j := range wide {
				p.tileLoad(acc(i, j), int32(64*(first+j)), cs[i], "SI")
			}
		}
		p.f("\tJMP %s\n\n%s:", label("loop"), label("zero"))
		for i := range rows * wide {
			p.tileZero(i)
		}
		p.f("\n%s:", label("loop"))
		for i := range max(rows, wide) {
			if i < rows {
				p.tileLoad(a+i, 0, as[i], "R9")
			}
			if i < wide {
				p.tileLoad(b+i, int32(64*(first+i)), "R11", "R12")
			}
		}
		for i := range rows {
			for j := range wide {
				p.tileDot(acc(i, j), a+i, b+j)
			}
		}
		if twice {
			for j := range wide {
				p.tileLoad(b+j, int32(64*(first+j)), "R14", "R12")
			}
			for i := range rows {
				for j := range wide {
					p.tileDot(acc(i, j), a+i, b+j)
				}
			}
			p.f("\tLEAQ (R14)(R12*8), R14\n\tLEAQ (R14)(R12*8), R14")
		}
		for i := range rows {
			p.f("\tADDQ $64, %s", as[i])
		}
		p.f("\tLEAQ (R11)(R12*8), R11\n\tLEAQ (R11)(R12*8), R11\n\tSUBQ $16, AX\n\tJNZ %s", label("loop"))
		for i := range rows {
			for j := range wide {
				p.tileStore(acc(i, j), int32(64*(first+j)), cs[i], "SI")
			}
		}
		p.f("\tMOVQ k+8(FP), AX\n\tSHLQ $2, AX") // back to the beginning of a's rows
		for i := range rows {
			p.f("\tSUBQ AX, %s", as[i])
		}
	}
	p.f("\tLEAQ (R8)(DX*%[1]d), R8\n\tLEAQ (R13)(R10*%[1]d), R13\n\tDECQ DI\n\tJNZ tile", rows)
	p.f("\tRET")
}

// amxTiles prints what comes before and after products: loading the tiles' configuration takes 180 cycles.
func (p x86) amxTiles() {
	p.text("beginAMX", "", 0)
	p.f("\tLEAQ ·tileConfig+0(SB), AX")
	p.tileConfig("AX")
	p.f("\tRET")
	p.text("endAMX", "", 0)
	p.tileRelease()
	p.f("\tRET")
}

// amxPeak keeps four independent sums in flight.
func (p x86) amxPeak() {
	p.text("dotAMX", "rounds int", 8)
	p.f("\tMOVQ rounds+0(FP), AX")
	for i := range 8 {
		p.tileZero(i)
	}
	p.f("\nloop:")
	for i := range 4 {
		p.tileDot(i, 4+i/2, 6+i%2)
	}
	p.f("\tDECQ AX\n\tJNZ loop")
	p.f("\tRET")
}
