package kernel

import (
	"math"
	"runtime"
	"unsafe"
)

var generic = Set{
	name:   "generic",
	tiles:  []tiles{{Lanes, []tile{gemmGeneric(4), gemmGeneric(1)}}},
	colMax: colMaxGeneric,
	expSum: expSumGeneric,
	sel:    selectGeneric,
	pack:   packGeneric,
	scale:  scaleGeneric,
	add:    addGeneric,
	fma:    fmaGeneric,
	flops:  2 * 8 * 16,
}

func gemmGeneric(m int) tile {
	return tile{
		rows: m,
		byRows: func(k int, a *float32, lda uintptr, b *float32, ldb uintptr, c *float32, ldc uintptr, add bool) {
			gemmTile(m, k, a, lda, size, b, ldb, c, ldc, add)
		},
		byCols: func(k int, a *float32, lda uintptr, b *float32, ldb uintptr, c *float32, ldc uintptr, add bool) {
			gemmTile(m, k, a, size, lda, b, ldb, c, ldc, add)
		},
	}
}

func gemmTile(m, k int, a *float32, ars, acs uintptr, b *float32, ldb uintptr, c *float32, ldc uintptr, add bool) {
	var buf [4 * Lanes]float32
	acc := buf[:m*Lanes]
	for p := range uintptr(k) {
		row := unsafe.Slice((*float32)(unsafe.Add(unsafe.Pointer(b), p*ldb)), Lanes)
		for i := range m {
			x := *(*float32)(unsafe.Add(unsafe.Pointer(a), uintptr(i)*ars+p*acs))
			sum := acc[i*Lanes : (i+1)*Lanes : (i+1)*Lanes]
			for j, y := range row {
				sum[j] += x * y
			}
		}
	}
	for i := range m {
		out := unsafe.Slice((*float32)(unsafe.Add(unsafe.Pointer(c), uintptr(i)*ldc)), Lanes)
		if add {
			for j, x := range acc[i*Lanes : (i+1)*Lanes] {
				out[j] += x
			}
		} else {
			copy(out, acc[i*Lanes:(i+1)*Lanes])
		}
	}
}

func colMaxGeneric(rows int, x *float32, step uintptr, n int, mx *float32) {
	ld := int(step / size)
	all, top := unsafe.Slice(x, (rows-1)*ld+n), unsafe.Slice(mx, n)
	for i := range rows {
		for j, v := range all[i*ld : i*ld+n] {
			if v > top[j] {
				top[j] = v
			}
		}
	}
}

// expCoef holds the minimax polynomial of 2^f on [0, 1), highest power first; its relative
// error is 2e-9, so rounding is what remains.
var expCoef = [7]float32{
	2.16129159e-4, 1.24678462e-3, 9.67545159e-3, 5.54852806e-2, 2.40229306e-1, 6.93147044e-1, 1,
}

// expLow is the lowest exponent that ExpSum does not take for nothing. Far smaller numbers would do no harm but to
// speed: their products are subnormal, which costs some processors a hundred cycles each.
var expLow float32 = -64

// exp2 is 2^x within 2 ulp, 0 below expLow.
func exp2(x float32) float32 {
	if x < expLow {
		return 0
	}
	if !(x <= 127) { // overflow and NaN
		return float32(math.Exp2(float64(x)))
	}
	n := float32(math.Floor(float64(x)))
	f := x - n
	p := expCoef[0]
	for _, c := range expCoef[1:] {
		p = p*f + c
	}
	return p * math.Float32frombits(uint32(int32(n)+127)<<23)
}

func expSumGeneric(rows int, x *float32, step uintptr, n int, m, l *float32) {
	ld := int(step / size)
	all, top, sum := unsafe.Slice(x, (rows-1)*ld+n), unsafe.Slice(m, n), unsafe.Slice(l, n)
	for i := range rows {
		row := all[i*ld : i*ld+n]
		for j, v := range row {
			e := exp2(v - top[j])
			row[j] = e
			sum[j] += e
		}
	}
}

func selectGeneric(rows int, x *float32, step uintptr, n int, top *float32, theta float32, base int32, dst *int32) int {
	ld := int(step / size)
	all, best, out := unsafe.Slice(x, (rows-1)*ld+n), unsafe.Slice(top, n), unsafe.Slice(dst, rows)
	kept := 0
	for i := range rows {
		for j, v := range all[i*ld : i*ld+n] {
			if !(best[j]-v > theta) {
				out[kept] = base + int32(i)
				kept++
				break
			}
		}
	}
	return kept
}

func packGeneric(cols int, src *float32, lds uintptr, dst *float32, ldd uintptr, f float32) {
	for i := range uintptr(Lanes) {
		row := unsafe.Slice((*float32)(unsafe.Add(unsafe.Pointer(src), i*lds)), cols)
		for j, x := range row {
			*(*float32)(unsafe.Add(unsafe.Pointer(dst), uintptr(j)*ldd+i*size)) = x * f
		}
	}
}

func scaleGeneric(n int, dst, src *float32, f float32) (bad uint32) {
	to := unsafe.Slice(dst, n)
	var sum float32
	for i, x := range unsafe.Slice(src, n) {
		x *= f
		to[i] = x
		sum += x * 0
	}
	if sum != 0 {
		return 1
	}
	return 0
}

func addGeneric(n int, dst, src *float32) {
	to := unsafe.Slice(dst, n)
	for i, x := range unsafe.Slice(src, n) {
		to[i] += x
	}
}

func fmaGeneric(rounds int) {
	acc := [8]float32{1, 1, 1, 1, 1, 1, 1, 1}
	for range rounds {
		for range 16 {
			for j := range acc {
				acc[j] = acc[j]*0.5 + 0.25
			}
		}
	}
	runtime.KeepAlive(acc)
}
