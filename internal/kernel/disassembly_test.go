package kernel

import (
	"bufio"
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestDisassembly looks at the kernels of both architectures as they are linked: they use what their names claim, and
// nothing is spilled.
func TestDisassembly(t *testing.T) {
	if testing.Short() {
		t.Skip("links two binaries")
	}
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) {
			names, code := declared(t, arch), disassemble(t, arch)
			for _, name := range names {
				if code[name] == nil {
					t.Errorf("%s is declared and not linked: no level uses it", name)
					continue
				}
				for _, broken := range check(name, code[name]) {
					t.Errorf("%s: %s", name, broken)
				}
			}
			t.Logf("%d kernels", len(names))
		})
	}
}

// declared returns the names of an architecture's kernels.
func declared(t *testing.T, arch string) (names []string) {
	// Results of tests are cached by the files that they open: the assembly is among those for that reason alone.
	if _, err := os.ReadFile("kernels_" + arch + ".s"); err != nil {
		t.Fatal(err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), "kernels_"+arch+".go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, decl := range file.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && f.Name.Name != "cpuid" && f.Name.Name != "prefetch" {
			names = append(names, f.Name.Name)
		}
	}
	if len(names) == 0 {
		t.Fatalf("kernels_%s.go declares no kernels", arch)
	}
	return names
}

// disassemble returns the code of the kernels in this package's test binary. It links one: go test leaves the symbols
// out of those that it runs.
func disassemble(t *testing.T, arch string) map[string][]instruction {
	objdump := findObjdump(t, arch)
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("needs the go command on PATH")
	}
	binary := filepath.Join(t.TempDir(), "kernel.test")
	build := exec.Command("go", "test", "-c", "-o", binary, ".")
	build.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	dump := exec.Command(objdump, "-d", "-w", binary)
	out, err := dump.Output()
	if err != nil {
		t.Fatalf("%s: %v", dump, err)
	}
	code, err := parse(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// findObjdump returns a GNU objdump that reads an architecture's binaries, and skips the test where there is none.
func findObjdump(t *testing.T, arch string) string {
	gnu := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[arch] + "-linux-gnu-objdump"
	format := map[string]string{"amd64": "elf64-x86-64", "arm64": "elf64-littleaarch64"}[arch]
	for _, name := range []string{gnu, "objdump", "gobjdump"} {
		if formats, err := exec.Command(name, "-i").Output(); err == nil && strings.Contains(string(formats), "\n"+format+"\n") {
			return name
		}
	}
	t.Skipf("needs a GNU objdump (binutils) on PATH that reads %s, as %s or as objdump", format, gnu)
	return ""
}

type instruction struct {
	at     uint64
	code   string // bytes
	text   string // operation and operands, with single spaces
	target uint64 // of a branch, 0 if unknown
}

func (in instruction) op() string {
	op, _, _ := strings.Cut(in.text, " ")
	return op
}

func (in instruction) branches() bool { return branch.MatchString(in.text) }

func (in instruction) String() string { return fmt.Sprintf("%x: %s", in.at, in.text) }

var (
	symbol  = regexp.MustCompile(`^[0-9a-f]+ <(.*)>:$`)
	branch  = regexp.MustCompile(`^(j\w+|call|b(\.\w+)?|cbn?z|tbn?z|bl|blr|br)( |$)`)
	target  = regexp.MustCompile(`\b([0-9a-f]+) <`)
	comment = regexp.MustCompile(` (#|//) .*`)
)

// parse reads the kernels in what objdump -d -w prints.
func parse(r io.Reader) (map[string][]instruction, error) {
	code := map[string][]instruction{}
	name := "" // of the kernel being read
	for lines := bufio.NewScanner(r); ; {
		if !lines.Scan() {
			return code, lines.Err()
		}
		line := lines.Text()
		if m := symbol.FindStringSubmatch(line); m != nil {
			rest, ours := strings.CutPrefix(m[1], "github.com/anchorattention/anchor/internal/kernel.")
			name, ours = strings.CutSuffix(rest, ".abi0")
			if !ours || rest == m[1] {
				name = ""
			}
			continue
		}
		parts := strings.SplitN(line, "\t", 3)
		if name == "" || len(parts) < 3 {
			continue
		}
		at, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(parts[0]), ":"), 16, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %q: %w", name, line, err)
		}
		in := instruction{at: at, code: strings.TrimSpace(parts[1])}
		in.text = comment.ReplaceAllString(strings.Join(strings.Fields(parts[2]), " "), "")
		if m := target.FindStringSubmatch(in.text); m != nil && in.branches() {
			in.target, _ = strconv.ParseUint(m[1], 16, 64)
		}
		code[name] = append(code[name], in)
	}
}

// isas gives what holds for all kernels with an instruction set in their names.
var isas = map[string]struct {
	never   *regexp.Regexp // an instruction's bytes, in brackets, and its text
	closing string         // before every return
}{
	// 62 begins every EVEX encoding, AVX-512's own.
	"AVX2":       {regexp.MustCompile(`^\[62|%[xz]mm|%k\d|%ymm(1[6-9]|[23]\d)`), "vzeroupper"},
	"AVX512":     {regexp.MustCompile(`%[xy]mm`), "vzeroupper"},
	"AVX512BF16": {regexp.MustCompile(`%[xy]mm`), "vzeroupper"},
	"AVX512VNNI": {regexp.MustCompile(`%[xy]mm`), "vzeroupper"},
	"AMX":        {regexp.MustCompile(`%[xyz]mm|%k\d`), ""},
	// Arithmetic in floating point on anything but four float32s.
	"NEON": {regexp.MustCompile(`\] f\S+ (v\d+\.([^4]|4[^s])|[hd]\d)`), ""},
}

// tileSetup gives the kernels that set tiles up, and by what: no other may, for what they set up belongs to a thread.
var tileSetup = map[string]string{"beginAMX": "ldtilecfg", "endAMX": "tilerelease"}

// claims gives what is in a kernel's innermost loops, by its name.
var claims = []struct {
	name string // a regular expression
	ops  string
	// Where the name has the size of a product: multiply-adds of numbers (of pairs where those are multiplied) in one of
	// the first of ops, and columns that a loop computes at most. Every loop has as many of these as its steps need, and
	// nothing else multiplies.
	work, cols int
}{
	{`gemm\d+x\d+(Rows|Cols|Panels)AVX2`, "vfmadd231ps", 8, 16},
	{`gemm(Max)?\d+x\d+(Rows|Cols|Panels)AVX512`, "vfmadd231ps", 16, 48},
	{`gemm\d+x\d+(Rows|Cols)NEON`, "fmla", 4, 16},
	{`dot\d+x\d+(Rows|Cols)AVX512BF16`, "vdpbf16ps", 16, 48},
	{`dot\d+x\d+RowsAMX`, "tdpbf16ps tileloadd", 16 * 16 * 16, 32},
	{`dotTwice\d+x\d+RowsAMX`, "tdpbf16ps tileloadd", 16 * 16 * 16 / 2, 32},

	{`fmaAVX(2|512)`, "vfmadd231ps", 0, 0},
	{`fmaNEON`, "fmla", 0, 0},
	{`dotAVX512BF16`, "vdpbf16ps", 0, 0},
	{`dotAMX`, "tdpbf16ps", 0, 0},

	{`colMaxAVX(2|512)`, "vmaxps", 0, 0},
	{`colMaxNEON`, "fcmgt bit", 0, 0},
	{`expSumAVX2`, "vfmadd213ps vroundps vpslld", 0, 0},
	{`expSumAVX512`, "vfmadd213ps vreduceps vscalefps", 0, 0},
	{`expSumNEON`, "fmla frintm shl", 0, 0},
	{`expPairsAVX512BF16`, "vcvtne2ps2bf16 vfmadd213ps vreduceps vscalefps", 0, 0},
	{`maskAVX2`, "vpcmpgtd vmaskmovps", 0, 0},
	{`maskAVX512`, "vpcmpltd korw vmovups", 0, 0},
	{`maskNEON`, "cmgt bit", 0, 0},
	{`selectAVX(2|512)`, "vsubps vcmpgt_oqps", 0, 0},
	{`selectNEON`, "fsub fcmgt", 0, 0},
	{`transpose(Ahead)?AVX2`, "vunpcklps vunpckhpd vperm2f128", 0, 0},
	{`transpose(Ahead)?AVX512`, "vunpcklps vunpckhpd vshuff32x4", 0, 0},
	{`transposeNEON`, "trn1 trn2 zip1 zip2", 0, 0},
	{`panelsAVX2`, "vmovups vmaskmovps", 0, 0},
	{`scaleAVX(2|512)`, "vmulps vfmadd231ps", 0, 0},
	{`scaleStreamAVX(2|512)`, "vmulps vmovntps vfmadd231ps", 0, 0},
	{`scaleNEON`, "fmul fmla", 0, 0},
	{`scaleColsAVX(2|512)`, "vmulps", 0, 0},
	{`scaleColsNEON`, "fmul", 0, 0},
	{`addAVX(2|512)`, "vaddps", 0, 0},
	{`addNEON`, "fadd", 0, 0},
	{`finiteAVX(2|512)`, "vfmadd231ps", 0, 0},
	{`finiteNEON`, "fmla", 0, 0},
	{`bf16AVX(2|512)`, "vpmovzxwd vpslld", 0, 0},
	{`bf16NEON`, "shll shll2", 0, 0},
	{`addBF16AVX(2|512)`, "vpmovzxwd vpslld vaddps", 0, 0},
	{`addBF16NEON`, "shll shll2 fadd", 0, 0},
	{`f16AVX(2|512)`, "vcvtph2ps", 0, 0},
	{`f16NEON`, "fcvtl fcvtl2", 0, 0},
	{`swiGLUAVX2`, "vfmadd213ps vroundps vdivps", 0, 0},
	{`swiGLUAVX512`, "vfmadd213ps vreduceps vdivps", 0, 0},
	{`squaresAVX(2|512)`, "vcvtps2pd vfmadd231pd", 0, 0},
	{`scaleBothAVX(2|512)`, "vmulps", 0, 0},
	{`roundAVX512BF16`, "vcvtne2ps2bf16 vpermw", 0, 0},
	{`dotBytesAVX2`, "vpmaddubsw vpmaddwd", 0, 0},
	{`dotBytesAVX512VNNI`, "vpdpbusd", 0, 0},
	{`dotBytes[14](Min|Halves)?AVX2`, "vpmaddubsw vpmaddwd vcvtdq2ps vfmadd231ps", 0, 0},
	{`dotBytes[18](Min|Halves)?AVX512VNNI`, "vpdpbusd vcvtdq2ps vfmadd231ps", 0, 0},
	{`dotRowsAVX512BF16`, "vpunpckldq prefetcht1 vdpbf16ps", 0, 0},
	{`dotQ8_0AVX2`, "vpunpckldq vcvtph2ps prefetcht1 vpmaddubsw", 0, 0},
	{`dotQ8_0AVX512VNNI`, "vpunpckldq vcvtph2ps prefetcht1 vpdpbusd", 0, 0},
	{`quantiseAVX(2|512VNNI)`, "vpmaxud vcvtps2dq", 0, 0},
	{`unpackQ[4568]_[0K]AVX(2|512VNNI)`, "vpunpckldq vcvtph2ps prefetcht1", 0, 0},
	{`splitF16AVX(2|512)`, "vcvtph2ps", 0, 0},
	{`splitBF16AVX(2|512)`, "vpslld vandps", 0, 0},
	{`pairAVX512BF16`, "vpmovzxwd vpcmpeqw", 0, 0},
}

var (
	isa        = regexp.MustCompile(`(AVX2|AVX512|AVX512BF16|AVX512VNNI|AMX|NEON)$`)
	dimensions = regexp.MustCompile(`(\d+)x(\d+)`)
	multiplies = regexp.MustCompile(`^(vfn?m|vmul|vdp|tdp|fn?m(ul|la|ls|add|sub)|bf(dot|m))`)
	counts     = regexp.MustCompile(`^(dec|subs?) .*?(?:[$#]0x([0-9a-f]+)|$)`) // down, by how many

	vector = regexp.MustCompile(`%[xyzt]mm|\b[bhsdqv]\d+\b`)
	spread = regexp.MustCompile(`^(vp?broadcast|ld1r)`)
	// The stack, whose frame is empty, is where arguments and results are: a kernel addresses these and does nothing else
	// with its pointers.
	stack  = regexp.MustCompile(`\(%r[sb]p|\[sp`)
	frame  = regexp.MustCompile(`^(push|pop|enter|leave)|^lea.*\(%r[sb]p|(^|[^(])%r[sb]p\b|(^|[^[])\bsp\b|\[sp[^]]*\][!,]`)
	stores = regexp.MustCompile(`^st|\)(\{%k\d\})?$`)
	reads  = regexp.MustCompile(`^(cmp|test)`) // though memory is where others have their destination
)

// check returns what is wrong with a kernel: the rule, and the line that breaks it where there is one.
func check(name string, code []instruction) (broken []string) {
	no := func(rule string, line any) { broken = append(broken, fmt.Sprintf("%s: %v", rule, line)) }
	index, isTarget := map[uint64]int{}, map[uint64]bool{}
	for i, in := range code {
		index[in.at] = i
		isTarget[in.target] = true
	}
	type loop struct{ first, last int }
	var loops, inner []loop
	for i, in := range code {
		if !in.branches() {
			continue
		}
		if to, inside := index[in.target]; !inside || in.op() == "call" || in.op() == "bl" {
			no("leaves the kernel", in)
		} else if to <= i {
			loops = append(loops, loop{to, i})
		}
	}
	for _, l := range loops {
		if !slices.ContainsFunc(loops, func(m loop) bool { return m != l && m.first >= l.first && m.last <= l.last }) {
			inner = append(inner, l)
		}
	}
	within := func(loops []loop, i int) bool {
		return slices.ContainsFunc(loops, func(l loop) bool { return l.first <= i && i <= l.last })
	}

	for i, line := range code {
		if frame.MatchString(line.text) {
			no("has a frame", line)
		}
		if !stack.MatchString(line.text) {
			continue
		}
		moves, store := vector.MatchString(line.text), stores.MatchString(line.text) && !reads.MatchString(line.text)
		switch {
		case within(inner, i):
			no("uses the stack in an innermost loop", line)
		case store && (moves || within(loops, i)), moves && within(loops, i) && !spread.MatchString(line.text):
			no("spills", line)
		}
	}

	set, known := isas[isa.FindString(name)]
	if !known {
		no("names no instruction set", name)
		return broken
	}
	for i, line := range code {
		text := line.text
		if strings.HasPrefix(name, "unpack") || strings.HasPrefix(name, "splitF16") || strings.HasPrefix(name, "dotQ8") || strings.HasPrefix(name, "dotRows") { // in parts of vectors
			text = strings.ReplaceAll(text, "%xmm", "%ymm")
			if !strings.HasSuffix(name, "AVX2") {
				text = strings.ReplaceAll(text, "%ymm", "%zmm")
			}
		}
		if set.never.MatchString("[" + line.code + "] " + text) {
			no("goes beyond "+isa.FindString(name), line)
		}
		if line.op() == "ret" && set.closing != "" && (i == 0 || code[i-1].op() != set.closing || isTarget[line.at]) {
			no("returns without "+set.closing, line)
		}
	}

	for _, line := range code {
		if op := line.op(); (op == "ldtilecfg" || op == "tilerelease") && op != tileSetup[name] {
			no("sets tiles up", line)
		}
	}
	if op, ok := tileSetup[name]; ok {
		if count(code, op) != 1 {
			no("lacks", op)
		}
		return broken
	}
	claimed := false
	for _, claim := range claims {
		if !regexp.MustCompile("^" + claim.name + "$").MatchString(name) {
			continue
		}
		claimed = true
		ops := strings.Fields(claim.ops)
		for _, op := range ops {
			if !slices.ContainsFunc(inner, func(l loop) bool { return count(code[l.first:l.last], op) > 0 }) {
				no("lacks in its innermost loops", op)
			}
		}
		if claim.work == 0 {
			continue
		}
		for _, line := range code {
			if multiplies.MatchString(line.text) && line.op() != ops[0] {
				no("multiplies otherwise than by "+ops[0], line)
			}
		}
		size := dimensions.FindStringSubmatch(name)
		rows, _ := strconv.Atoi(size[1])
		cols, _ := strconv.Atoi(size[2])
		for _, l := range inner {
			n, steps := count(code[l.first:l.last], ops[0]), steps(code[l.first:l.last])
			if n*claim.work != rows*min(cols, claim.cols)*steps {
				no(fmt.Sprintf("has %d %s, of %d each, in %d steps of a loop", n, ops[0], claim.work, steps), code[l.last])
			}
		}
	}
	if !claimed {
		no("has nothing in claims, which says what kernels use", name)
	}
	return broken
}

func count(code []instruction, op string) (n int) {
	for _, in := range code {
		if in.op() == op {
			n++
		}
	}
	return n
}

// steps is how far a loop counts down just before it ends, or 0.
func steps(code []instruction) int {
	if len(code) == 0 {
		return 0
	}
	m := counts.FindStringSubmatch(code[len(code)-1].text)
	if m == nil {
		return 0
	}
	if m[1] == "dec" {
		return 1
	}
	n, _ := strconv.ParseInt(m[2], 16, 0)
	return int(n)
}

// listings are kernels without faults. Of the bytes only the first counts.
var listings = map[string]string{
	"gemm1x16RowsAVX2": `
 100:	48 8b 7c 24 08       	mov    0x8(%rsp),%rdi
 105:	48 8b 44 24 10       	mov    0x10(%rsp),%rax
 10a:	c4 e2 7d 18 64 24 20 	vbroadcastss 0x20(%rsp),%ymm4
 111:	c4 c1 7c 10 13       	vmovups (%r11),%ymm2
 116:	c4 c2 7d 18 18       	vbroadcastss (%r8),%ymm3
 11b:	c4 e2 65 b8 c2       	vfmadd231ps %ymm2,%ymm3,%ymm0
 120:	c4 c2 65 b8 4b 20    	vfmadd231ps 0x20(%r11),%ymm3,%ymm1
 126:	48 ff c8             	dec    %rax
 129:	75 e6                	jne    111 <gemm1x16RowsAVX2.abi0+0x11>
 12b:	80 7c 24 48 00       	cmpb   $0x0,0x48(%rsp)
 130:	c4 c1 7c 11 45 00    	vmovups %ymm0,0x0(%r13)
 136:	48 ff cf             	dec    %rdi
 139:	75 ca                	jne    105 <gemm1x16RowsAVX2.abi0+0x5>
 13b:	89 44 24 38          	mov    %eax,0x38(%rsp)
 13f:	c5 f8 77             	vzeroupper
 142:	c3                   	ret`,
	"dot1x16ColsAVX512BF16": `
 200:	62 f1 7c 48 10 0d 00 	vmovups 0x1a606c(%rip),%zmm1        # 6f45e0 <iota16>
 207:	62 f2 7d 48 18 10    	vbroadcastss (%rax),%zmm2
 20d:	62 f2 6e 48 52 c1    	vdpbf16ps %zmm1,%zmm2,%zmm0
 213:	62 f2 6e 48 52 c1    	vdpbf16ps %zmm1,%zmm2,%zmm0
 219:	48 83 e8 02          	sub    $0x2,%rax
 21d:	7d e8                	jge    207 <dot1x16ColsAVX512BF16.abi0+0x7>
 21f:	c5 f8 77             	vzeroupper
 222:	c3                   	ret`,
	"dot16x16RowsAMX": `
 300:	c4 e2 7b 4b 34 0b    	tileloadd (%rbx,%r9,1),%tmm6
 306:	c4 e2 42 5c c6       	tdpbf16ps %tmm7,%tmm6,%tmm0
 30b:	48 83 e8 10          	sub    $0x10,%rax
 30f:	75 ef                	jne    300 <dot16x16RowsAMX.abi0>
 311:	c3                   	ret`,
	"endAMX": `
 600:	c4 e2 78 49 c0       	tilerelease
 605:	c3                   	ret`,
	"gemm1x16ColsNEON": `
 400:	f94007e0 	ldr	x0, [sp, #8]
 404:	f9400be7 	ldr	x7, [sp, #16]
 408:	ad401905 	ldp	q5, q6, [x8]
 40c:	4f8410a0 	fmla	v0.4s, v5.4s, v4.s[0]
 410:	4f8410c1 	fmla	v1.4s, v6.4s, v4.s[0]
 414:	4f8410e2 	fmla	v2.4s, v5.4s, v4.s[0]
 418:	4f841103 	fmla	v3.4s, v6.4s, v4.s[0]
 41c:	f10004e7 	subs	x7, x7, #0x1
 420:	54ffff41 	b.ne	408 <gemm1x16ColsNEON.abi0+0x8>  // b.any
 424:	ad000480 	stp	q0, q1, [x4]
 428:	f1000400 	subs	x0, x0, #0x1
 42c:	54fffec1 	b.ne	404 <gemm1x16ColsNEON.abi0+0x4>  // b.any
 430:	b9001bea 	str	w10, [sp, #24]
 434:	d65f03c0 	ret`,
}

// Every fault put into a kernel that had none is found.
func TestDisassemblyFaults(t *testing.T) {
	faults := func(as, listing string) string {
		const path = "github.com/anchorattention/anchor/internal/kernel."
		code, err := parse(strings.NewReader("0000000000000100 <" + path + as + ".abi0>:" + listing + "\n\n0000000000000500 <runtime.x.abi0>:\n 500:\t50\tpush   %rax\n"))
		if err != nil || len(code) != 1 {
			t.Fatalf("parsing %s: %d kernels, %v", as, len(code), err)
		}
		return strings.Join(check(as, code[as]), "\n")
	}
	for name, listing := range listings {
		if got := faults(name, listing); got != "" {
			t.Errorf("%s without faults: %s", name, got)
		}
	}
	const avx2, bf16, amx, neon = "gemm1x16RowsAVX2", "dot1x16ColsAVX512BF16", "dot16x16RowsAMX", "gemm1x16ColsNEON"
	for _, c := range []struct{ name, old, new, want string }{
		{avx2, "vmovups (%r11),%ymm2", "vmovups %ymm2,0x20(%rsp)", "uses the stack in an innermost loop: 111: vmovups %ymm2,0x20(%rsp)"},
		{avx2, "vmovups (%r11),%ymm2", "vmovups -0x20(%rbp),%ymm2", "uses the stack in an innermost loop: 111"},
		{avx2, "vmovups (%r11),%ymm2", "mov 0x28(%rsp),%r11", "uses the stack in an innermost loop: 111"},
		{avx2, "vmovups %ymm0,0x0(%r13)", "vmovups %ymm0,-0x20(%rsp)", "spills: 130"},
		{avx2, "vmovups %ymm0,0x0(%r13)", "vmovups 0x20(%rsp),%ymm0", "spills: 130"},
		{avx2, "vmovups %ymm0,0x0(%r13)", "mov %rax,0x20(%rsp)", "spills: 130"},
		{avx2, "mov    %eax,0x38(%rsp)", "vmovups %ymm0,0x38(%rsp)", "spills: 13b"},
		{avx2, "mov    0x8(%rsp),%rdi", "sub    $0x40,%rsp", "has a frame: 100: sub $0x40,%rsp"},
		{avx2, "mov    0x8(%rsp),%rdi", "push   %rbp", "has a frame: 100"},
		{avx2, "mov    0x8(%rsp),%rdi", "lea    0x8(%rsp),%rdi", "has a frame: 100"},
		{avx2, "mov    0x8(%rsp),%rdi", "call   500 <runtime.x.abi0>", "leaves the kernel: 100"},
		{avx2, "mov    0x8(%rsp),%rdi", "jmp    *%rax", "leaves the kernel: 100"},
		{avx2, "vfmadd231ps %ymm2", "vmulps %ymm2", "multiplies otherwise than by vfmadd231ps: 11b"},
		{avx2, "vfmadd231ps %ymm2", "vaddps %ymm2", "has 1 vfmadd231ps, of 8 each, in 1 steps of a loop: 129"},
		{avx2, "dec    %rax", "sub    $0x4,%rax", "has 2 vfmadd231ps, of 8 each, in 4 steps of a loop: 129"},
		{avx2, "jne    111", "jne    120", "has 1 vfmadd231ps, of 8 each, in 1 steps of a loop: 129"},
		{avx2, "jne    111", "jne    129", "lacks in its innermost loops: vfmadd231ps"},
		{avx2, "vmovups (%r11),%ymm2", "vmovups (%r11),%zmm2", "goes beyond AVX2: 111: vmovups (%r11),%zmm2"},
		{avx2, "vmovups (%r11),%ymm2", "vmovups (%r11),%xmm2", "goes beyond AVX2: 111"},
		{avx2, "vmovups (%r11),%ymm2", "vmovups (%r11),%ymm31", "goes beyond AVX2: 111"},
		{avx2, "vmovups (%r11),%ymm2", "kmovw  %k1,%eax", "goes beyond AVX2: 111"},
		{avx2, "c4 c1 7c 10 13", "62 f1 7c 28 10", "goes beyond AVX2: 111"},
		{avx2, "vzeroupper", "nop", "returns without vzeroupper: 142: ret"},
		{avx2, "jne    105", "jne    142", "returns without vzeroupper: 142"},
		{bf16, "vdpbf16ps", "vfmadd231ps", "lacks in its innermost loops: vdpbf16ps"},
		{bf16, "vdpbf16ps", "vfmadd231ps", "multiplies otherwise than by vdpbf16ps: 20d: vfmadd231ps %zmm1,%zmm2,%zmm0"},
		{bf16, "%zmm1,%zmm2,%zmm0", "%ymm1,%ymm2,%ymm0", "goes beyond AVX512BF16: 20d"},
		{bf16, "vzeroupper", "nop", "returns without vzeroupper: 222"},
		{amx, "sub    $0x10,%rax", "tilerelease", "sets tiles up: 30b"},
		{"endAMX", "tilerelease", "nop", "lacks: tilerelease"},
		{amx, "tileloadd (%rbx,%r9,1),%tmm6", "tileloadd (%rsp,%r9,1),%tmm6", "uses the stack in an innermost loop: 300"},
		{amx, "tileloadd (%rbx,%r9,1),%tmm6", "vmovups (%rbx),%zmm0", "goes beyond AMX: 300"},
		{amx, "tileloadd (%rbx,%r9,1),%tmm6", "tilezero %tmm6", "lacks in its innermost loops: tileloadd"},
		{amx, "tdpbf16ps", "tdpbssd", "multiplies otherwise than by tdpbf16ps: 306"},
		{neon, "ldp	q5, q6, [x8]", "stp	q5, q6, [sp, #32]", "uses the stack in an innermost loop: 408: stp q5, q6, [sp, #32]"},
		{neon, "ldp	q5, q6, [x8]", "ldr	x9, [sp, #32]", "uses the stack in an innermost loop: 408"},
		{neon, "stp	q0, q1, [x4]", "str	q0, [sp, #32]", "spills: 424"},
		{neon, "stp	q0, q1, [x4]", "ldr	s0, [sp, #32]", "spills: 424"},
		{neon, "ldr	x0, [sp, #8]", "str	x30, [sp, #-32]!", "has a frame: 400"},
		{neon, "ldr	x0, [sp, #8]", "sub	sp, sp, #0x20", "has a frame: 400"},
		{neon, "ldr	x0, [sp, #8]", "bl	500 <runtime.x.abi0>", "leaves the kernel: 400"},
		{neon, "v0.4s, v5.4s, v4.s[0]", "v0.2s, v5.2s, v4.s[0]", "goes beyond NEON: 40c"},
		{neon, "fmla	v0.4s", "fmls	v0.4s", "multiplies otherwise than by fmla: 40c"},
		{neon, "fmla	v0.4s", "fadd	v0.4s", "has 3 fmla, of 4 each, in 1 steps of a loop: 420"},
	} {
		if !strings.Contains(listings[c.name], c.old) {
			t.Errorf("%s has no %q", c.name, c.old)
		}
		if got := faults(c.name, strings.ReplaceAll(listings[c.name], c.old, c.new)); !strings.Contains(got, c.want) {
			t.Errorf("%s with %q for %q: %q; want %q", c.name, c.new, c.old, got, c.want)
		}
	}
	for as, want := range map[string]string{
		"gemm1x16Rows":       "names no instruction set",
		"multiply1x16AVX2":   "has nothing in claims",
		"gemm2x16RowsAVX2":   "has 2 vfmadd231ps, of 8 each, in 1 steps of a loop",
		"gemm1x16RowsAVX512": "goes beyond AVX512",
		"expSumAVX2":         "lacks in its innermost loops: vroundps",
	} {
		if got := faults(as, listings[avx2]); !strings.Contains(got, want) {
			t.Errorf("%s as %s: %q; want %q", avx2, as, got, want)
		}
	}
}
