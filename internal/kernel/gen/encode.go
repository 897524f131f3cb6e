package main

import "fmt"

// Go's assembler lacks some instructions: these encode them. Operands are register numbers in the order of the
// manufacturers' manuals (destination first).

// evex encodes a 512-bit instruction of opcode map 0F 38 on registers only, with prefix pp: 2 is F3 and 3 is F2.
func evex(pp, opcode, dst, src1, src2 int) []byte {
	not := func(x, bit int) byte { return byte(^x>>bit) & 1 }
	return []byte{
		0x62,
		not(dst, 3)<<7 | not(src2, 4)<<6 | not(src2, 3)<<5 | not(dst, 4)<<4 | 2,
		byte(^src1&15)<<3 | 1<<2 | byte(pp),
		2<<5 | not(src1, 4)<<3,
		byte(opcode),
		0xc0 | byte(dst&7)<<3 | byte(src2&7),
	}
}

// vex encodes a 128-bit instruction of opcode map 0F 38 whose ModRM byte is modrm, followed by what it calls for;
// index and base extend the numbers of a memory operand's registers, vvvv is the register of the prefix.
func vex(pp, opcode, vvvv int, index, base bool, modrm byte, tail ...byte) []byte {
	second := byte(0xe2) // no extension, map 0F 38
	if index {
		second &^= 0x40
	}
	if base {
		second &^= 0x20
	}
	return append([]byte{0xc4, second, byte(^vvvv&15)<<3 | byte(pp), byte(opcode), modrm}, tail...)
}

// bytes prints an encoded instruction, with its text as a comment.
func (p *printer) bytes(code []byte, text string, args ...any) {
	line := "\t"
	for i, b := range code {
		if i > 0 {
			line += "; "
		}
		line += fmt.Sprintf("BYTE $0x%02x", b)
	}
	p.f("%s // %s", line, fmt.Sprintf(text, args...))
}

// dpbf16ps adds to every float32 of dst the products of two pairs of bfloat16s.
func (p *printer) dpbf16ps(dst, a, b int) {
	p.bytes(evex(2, 0x52, dst, a, b), "VDPBF16PS Z%d, Z%d, Z%d", b, a, dst)
}

// cvtne2ps2bf16 rounds low and high to the bfloat16s of dst, low first.
func (p *printer) cvtne2ps2bf16(dst, high, low int) {
	p.bytes(evex(3, 0x72, dst, high, low), "VCVTNE2PS2BF16 Z%d, Z%d, Z%d", low, high, dst)
}

// gpr numbers the registers that a tile's memory operand may use.
var gpr = map[string]int{"AX": 0, "CX": 1, "DX": 2, "BX": 3, "SI": 6, "DI": 7, "R8": 8, "R9": 9, "R10": 10, "R11": 11, "R12": 12, "R13": 13, "R14": 14}

// tileMem is a load (pp 3) or store (pp 2) of a tile: 16 rows at disp(base), stride apart.
func (p *printer) tileMem(pp, tmm int, disp int32, base, stride string) {
	name := map[int]string{2: "TILESTORED", 3: "TILELOADD"}[pp]
	b, s := gpr[base], gpr[stride]
	p.bytes(vex(pp, 0x4b, 0, s > 7, b > 7, 0x84|byte(tmm)<<3, byte(s&7)<<3|byte(b&7),
		byte(disp), byte(disp>>8), byte(disp>>16), byte(disp>>24)), "%s tmm%d, %d(%s)(%s*1)", name, tmm, disp, base, stride)
}

func (p *printer) tileLoad(tmm int, disp int32, base, stride string) {
	p.tileMem(3, tmm, disp, base, stride)
}
func (p *printer) tileStore(tmm int, disp int32, base, stride string) {
	p.tileMem(2, tmm, disp, base, stride)
}

func (p *printer) tileZero(tmm int) {
	p.bytes(vex(3, 0x49, 0, false, false, 0xc0|byte(tmm)<<3), "TILEZERO tmm%d", tmm)
}

// tileDot adds to tile c the product of a, 16 rows of 16 pairs of bfloat16s, and b, 16 pairs of rows.
func (p *printer) tileDot(c, a, b int) {
	p.bytes(vex(2, 0x5c, b, false, false, 0xc0|byte(c)<<3|byte(a)), "TDPBF16PS tmm%d, tmm%d, tmm%d", c, a, b)
}

// tileConfig loads the configuration at (base).
func (p *printer) tileConfig(base string) {
	b := gpr[base]
	if b&7 == 4 || b&7 == 5 {
		panic("gen: tileConfig with base " + base)
	}
	p.bytes(vex(0, 0x49, 0, false, b > 7, byte(b&7)), "LDTILECFG (%s)", base)
}

func (p *printer) tileRelease() {
	p.bytes(vex(0, 0x49, 0, false, false, 0xc0), "TILERELEASE")
}
