//go:build ignore

// This program prints wgmma.h, the warpgroup matrix products that the kernels use, whose assembly names every
// accumulator register, and compiles the kernels to PTX if it finds clang-19. It runs in the folder above.
package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

func main() {
	var out bytes.Buffer
	out.WriteString("// Printed by generate.go; do not edit.\n\n")
	for _, n := range []int{64, 128} {
		product(&out, n, false, false)
	}
	product(&out, 128, true, false)
	for _, n := range []int{64, 96, 128} {
		product(&out, n, true, true)
	}
	check(os.WriteFile("kernels/wgmma.h", out.Bytes(), 0o666))

	clang, err := exec.LookPath("clang-19")
	if err != nil {
		fmt.Println("cuda: clang-19 is absent: PTX is left as it is")
		return
	}
	for half, name := range []string{"bf16", "f16"} {
		for _, dim := range []int{64, 96, 128, 256} {
			c := exec.Command(clang, "-x", "cuda", "--cuda-gpu-arch=sm_90a", "-nocudainc", "-nocudalib", "--cuda-device-only",
				"--cuda-feature=+ptx83", "-std=c++20", "-O3", "-Wall", "-Wno-cuda-compat", "-Wno-unused-function",
				fmt.Sprintf("-DDIM=%d", dim), fmt.Sprintf("-DHALF=%d", half), "-S", "kernels/anchor.cu",
				"-o", fmt.Sprintf("ptx/%s_%d.sm_90a.ptx", name, dim))
			c.Stdout, c.Stderr = os.Stdout, os.Stderr
			check(c.Run())
		}
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// list returns format applied to the numbers [from, from+n), with commas between.
func list(format string, from, n int) string {
	var s []string
	for i := range n {
		s = append(s, fmt.Sprintf(format, from+i))
	}
	return strings.Join(s, ", ")
}

// product prints the product of 64 rows and n columns over 16 numbers, for both types of elements. Its left operand lies
// in registers or in shared memory, its right one in shared memory, by rows of the numbers summed over if transposed.
func product(w *bytes.Buffer, n int, registers, transposed bool) {
	d := n / 2
	name, operands, a, arguments := fmt.Sprintf("shared%d", n), fmt.Sprintf("%%%d, ", d), `"l"(a), `, "u64 a"
	next, last := d+1, ", 0"
	if registers {
		name, operands = fmt.Sprintf("registers%d", n), "{"+list("%%%d", d, 4)+"}, "
		a, arguments = `"r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), `, "const u32 *a"
		next, last = d+4, ""
	}
	trans := 0
	if transposed {
		name, trans = name+"T", 1
	}
	fmt.Fprintf(w, "// d = a·b, or d += a·b if add; d is %d registers.\n", d)
	fmt.Fprintf(w, "DEVICE void %s(float *d, %s, u64 b, int add) {\n", name, arguments)
	fmt.Fprintf(w, "\tasm volatile(\"{\\n.reg .pred p;\\nsetp.ne.b32 p, %%%d, 0;\\n\"\n", next+1)
	fmt.Fprintf(w, "\t\t\"wgmma.mma_async.sync.aligned.m64n%dk16.f32.\" ELEMENT \".\" ELEMENT \" \"\n", n)
	fmt.Fprintf(w, "\t\t\"{%s}, \"\n", list("%%%d", 0, d))
	fmt.Fprintf(w, "\t\t\"%s%%%d, p, 1, 1%s, %d;\\n}\"\n", operands, next, last, trans)
	fmt.Fprintf(w, "\t\t: %s\n", list(`"+f"(d[%d])`, 0, d))
	fmt.Fprintf(w, "\t\t: %s\"l\"(b), \"r\"(add) : \"memory\");\n}\n\n", a)
}
