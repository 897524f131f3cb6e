package main

/*
#cgo LDFLAGS: -lopenblas
#include <cblas.h>
*/
import "C"

import (
	"context"
	"fmt"
)

// openBLAS says which OpenBLAS runs: its version and how it was built, and the core type whose kernels it chose.
func openBLAS() (config, core string) {
	return C.GoString(C.openblas_get_config()), C.GoString(C.openblas_get_corename())
}

// setBLASThreads makes OpenBLAS run on that many threads.
func setBLASThreads(threads int) error {
	C.openblas_set_num_threads(C.int(threads))
	if got := int(C.openblas_get_num_threads()); got != threads {
		return fmt.Errorf("-threads is %d; this OpenBLAS takes at most %d", threads, got)
	}
	return nil
}

// product is OpenBLAS's product of two square matrices of the given size, the yardstick of what a tuned library makes of
// the multiply-add units when nothing but a product is asked for.
func product(size int) contestant {
	a, b, c := make([]float32, size*size), make([]float32, size*size), make([]float32, size*size)
	for i := range a { // any numbers that are neither zero nor grow
		a[i], b[i] = float32(i%7)-3, float32(i%5)-2
	}
	n := C.blasint(size)
	return contestant{
		name: fmt.Sprintf("openblas/sgemm-%d", size), dtype: "F32",
		flops: 2 * float64(size) * float64(size) * float64(size),
		run: func(context.Context) error {
			C.cblas_sgemm(C.CblasRowMajor, C.CblasNoTrans, C.CblasNoTrans, n, n, n,
				1, (*C.float)(&a[0]), n, (*C.float)(&b[0]), n, 0, (*C.float)(&c[0]), n)
			return nil
		},
	}
}
