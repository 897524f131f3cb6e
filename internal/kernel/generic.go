package kernel

import (
	"math"
	"runtime"
	"unsafe"
)

var generic = Set{
	name:      "generic",
	tiles:     []tiles{{Lanes, []tile{gemmGeneric(4), gemmGeneric(1)}}},
	panel:     4,
	panels:    panelsGeneric,
	colMax:    colMaxGeneric,
	expSum:    expSumGeneric,
	mask:      maskGeneric,
	sel:       selectGeneric,
	transpose: transposeGeneric,
	scale:     scaleGeneric,
	scaleCols: scaleColsGeneric,
	add:       addGeneric,
	finite:    finiteGeneric,
	swiGLU:    swiGLUGeneric,
	squares:   squaresGeneric,
	scaleBoth: scaleBothGeneric,
	bf16:      bf16Generic,
	f16:       f16Generic,
	addBF16:   addBF16Generic,
	fma:       fmaGeneric,
	flops:     2 * 8 * 16,
}

func gemmGeneric(m int) tile {
	return tile{
		rows: m,
		byRows: func(tiles, k int, a *float32, lda uintptr, b *float32, ldb uintptr, c *float32, ldc uintptr, add bool) {
			for i := range uintptr(tiles * m) {
				if i%uintptr(m) == 0 {
					gemmTile(m, k, at(a, i*lda), lda, size, b, ldb, at(c, i*ldc), ldc, add)
				}
			}
		},
		byCols: func(tiles, k int, a *float32, lda uintptr, b *float32, ldb uintptr, c *float32, ldc uintptr, add bool) {
			for i := range uintptr(tiles * m) {
				if i%uintptr(m) == 0 {
					gemmTile(m, k, at(a, i*size), size, lda, b, ldb, at(c, i*ldc), ldc, add)
				}
			}
		},
		byPanels: func(tiles, k int, a *float32, lda uintptr, b *float32, ldb uintptr, c *float32, ldc uintptr, add bool, _ *float32, _ uintptr) {
			for t := range uintptr(tiles) {
				gemmTile(m, k, at(a, t*lda), size, panelStep*size, b, ldb, at(c, t*uintptr(m)*ldc), ldc, add)
			}
		},
	}
}

func panelsGeneric(rows, cols, step int, src *float32, lds uintptr, dst *float32, ldd uintptr) {
	for j := 0; j < cols; j += step {
		n := min(step, cols-j)
		for i := range uintptr(rows) {
			from, to := at(src, i*lds+uintptr(j)*size), at(dst, uintptr(j/step)*ldd+i*panelStep*size)
			copy(unsafe.Slice(to, n), unsafe.Slice(from, n))
		}
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

func colMaxGeneric(rows int, x *float32, step uintptr, n int, scale, slack float32, top, base *float32) (raised uint64) {
	ld := int(step / size)
	all, tops, bases := unsafe.Slice(x, (rows-1)*ld+n), unsafe.Slice(top, n), unsafe.Slice(base, n)
	for j := range n {
		most := negInf
		for i := range rows {
			if v := all[i*ld+j]; v > most {
				most = v
			}
		}
		if most *= scale; most > tops[j] {
			tops[j] = most
		}
		if !(tops[j] <= min(bases[j]+slack, maxFloat)) {
			raised |= 1 << j
		}
	}
	return raised
}

// expCoef holds a polynomial for 2^f on [0, 1), highest power first. With a power less than rounding would hide, all of the
// 2 ulp are used: errors of the polynomial are smaller where more is rounded, as f grows, and where AVX-512 rounds f down,
// before 1. The worst over all numbers is 1.94.
var expCoef = [6]float32{0.0019153615, 0.00889687147, 0.0559042841, 0.240127906, 0.693155587, 0.99999994}

// expLow is the lowest exponent that ExpSum does not take for nothing. Far smaller numbers would do no harm but to
// speed: their products are subnormal, which costs some processors a hundred cycles each.
var expLow float32 = -64

// swiGLUCoef is what SwiGLU multiplies exponents by, their largest, and one.
var swiGLUCoef = [3]float32{-math.Log2E, 126, 1}

func swiGLUGeneric(n int, gate, up *float32) {
	g, u := unsafe.Slice(gate, n), unsafe.Slice(up, n)
	for i, x := range g {
		g[i] = x / (1 + exp2(min(x*swiGLUCoef[0], swiGLUCoef[1]))) * u[i]
	}
}

func squaresGeneric(rows int, x *float32, ld uintptr, sum *float64) {
	sums := unsafe.Slice(sum, Lanes)
	clear(sums)
	for i := range uintptr(rows) {
		for j, v := range unsafe.Slice(at(x, i*ld), Lanes) {
			sums[j] += float64(v) * float64(v)
		}
	}
}

func scaleBothGeneric(rows int, dst, src *float32, ld uintptr, f, row *float32) {
	factors := unsafe.Slice(f, Lanes)
	for i, w := range unsafe.Slice(row, rows) {
		from, to := unsafe.Slice(at(src, uintptr(i)*ld), Lanes), unsafe.Slice(at(dst, uintptr(i)*ld), Lanes)
		for j, v := range from {
			to[j] = v * factors[j] * w
		}
	}
}

// exp2 is 2^x within 2 ulp, 0 below expLow.
func exp2(x float32) float32 {
	if x < expLow {
		return 0
	}
	if !(x <= 127) { // overflow and NaN
		return float32(math.Exp2(float64(x)))
	}
	n := math.Floor(float64(x))
	f := float64(x) - n
	p := float64(expCoef[0])
	for _, c := range expCoef[1:] {
		p = p*f + float64(c)
	}
	return float32(p) * math.Float32frombits(uint32(int32(n)+127)<<23)
}

func expSumGeneric(rows int, x *float32, step uintptr, n int, scale float32, m, l *float32) {
	ld := int(step / size)
	all, top, sum := unsafe.Slice(x, (rows-1)*ld+n), unsafe.Slice(m, n), unsafe.Slice(l, n)
	for j := range n {
		var part float32 // a sum over few rows first, so that long sums lose no digits
		for i := range rows {
			e := exp2(scale*all[i*ld+j] - top[j])
			all[i*ld+j] = e
			part += e
		}
		sum[j] += part
	}
}

func maskGeneric(rows int, x *float32, step uintptr, n int, pos *int32, first, far, near int32) {
	ld := int(step / size)
	all := unsafe.Slice(x, (rows-1)*ld+n)
	for j, p := range unsafe.Slice(pos, n) {
		for i := range rows {
			if key := first + int32(i); key < p-far || key > p-near {
				all[i*ld+j] = negInf
			}
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

func transposeGeneric(cols int, src *float32, lds uintptr, dst *float32, ldd uintptr) {
	for i := range uintptr(Lanes) {
		for j, x := range unsafe.Slice((*uint32)(unsafe.Add(unsafe.Pointer(src), i*lds)), cols) {
			*(*uint32)(unsafe.Add(unsafe.Pointer(dst), uintptr(j)*ldd+i*size)) = x
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

func finiteGeneric(n int, x *float32) (bad uint32) {
	var sum float32
	for _, x := range unsafe.Slice(x, n) {
		sum += x * 0
	}
	if sum != 0 {
		return 1
	}
	return 0
}

func scaleColsGeneric(rows int, x *float32, step uintptr, n int, f *float32) {
	ld := int(step / size)
	all, factors := unsafe.Slice(x, (rows-1)*ld+n), unsafe.Slice(f, n)
	for i := range rows {
		for j, f := range factors {
			all[i*ld+j] *= f
		}
	}
}

func bf16Generic(n int, dst *float32, src *uint16) {
	to := unsafe.Slice(dst, n)
	for i, x := range unsafe.Slice(src, n) {
		to[i] = math.Float32frombits(uint32(x) << 16)
	}
}

func addBF16Generic(n int, dst *float32, src *uint16) {
	to := unsafe.Slice(dst, n)
	for i, x := range unsafe.Slice(src, n) {
		to[i] += math.Float32frombits(uint32(x) << 16)
	}
}

func f16Generic(n int, dst *float32, src *uint16) {
	to := unsafe.Slice(dst, n)
	for i, x := range unsafe.Slice(src, n) {
		to[i] = HalfToSingle(x)
	}
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
