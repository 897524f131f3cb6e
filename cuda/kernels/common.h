// What CUDA's headers would give, and the instructions of all architectures that C++ has no words for. No toolkit is needed:
// clang compiles this to PTX by itself.

#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned u32;
typedef unsigned long long u64;
typedef long long i64;

#define KERNEL(threads, blocks) extern "C" __attribute__((global, launch_bounds(threads, blocks))) void
#define SHARED(kernel, bytes) extern "C" __attribute__((device, used)) const u32 kernel##_shared = bytes; // that a block needs
#define DEVICE __attribute__((device, always_inline)) inline
#define INLINE __attribute__((device, always_inline)) // of a lambda
#define GLOBAL __attribute__((address_space(1))) // of what a pointer that was itself in memory points to
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("nounroll")

#if HALF
#define ELEMENT "f16"
#else
#define ELEMENT "bf16"
#endif

extern __attribute__((shared, aligned(1024))) u8 shared_memory[];

constexpr u32 all = 0xffffffff;

DEVICE u32 thread() { return __nvvm_read_ptx_sreg_tid_x(); }
DEVICE u32 block() { return __nvvm_read_ptx_sreg_ctaid_x(); }
DEVICE u32 grid() { return __nvvm_read_ptx_sreg_nctaid_x(); }
DEVICE constexpr int least(int a, int b) { return a < b ? a : b; }
DEVICE constexpr int most(int a, int b) { return a > b ? a : b; }

// address returns the shared address of p.
DEVICE u32 address(void *p) { return (u32)(u64)(__attribute__((address_space(3))) u8 *)p; }

// begin begins a kernel: the next one may be made ready, and what came before is waited for. Kernels of architectures that cannot
// are started when all before is done.
DEVICE void begin() {
#if __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.launch_dependents;\ngriddepcontrol.wait;" ::: "memory");
#endif
}

DEVICE void sync() { asm volatile("bar.sync 0;" ::: "memory"); }
DEVICE void sync_warp() { asm volatile("bar.warp.sync 0xffffffff;" ::: "memory"); }
DEVICE void sync_named(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
DEVICE void arrive_named(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

DEVICE float shuffle_xor(float x, int mask) { return __nvvm_shfl_sync_bfly_f32(all, x, mask, 31); }
DEVICE u32 shuffle_xor(u32 x, int mask) { return __nvvm_shfl_sync_bfly_i32(all, x, mask, 31); }

DEVICE int add_all(int x) {
	int y;
	asm volatile("redux.sync.add.s32 %0, %1, 0xffffffff;" : "=r"(y) : "r"(x));
	return y;
}

DEVICE float add_all(float x) {
	UNROLL for (int d = 1; d < 32; d *= 2) x += shuffle_xor(x, d);
	return x;
}

// count_up returns the number at x and adds one to it.
DEVICE u32 count_up(u32 *x) {
	u32 y;
	asm volatile("atom.global.add.u32 %0, [%1], 1;" : "=r"(y) : "l"(x) : "memory");
	return y;
}

DEVICE void add(int *x, int n) { asm volatile("red.global.add.s32 [%0], %1;" ::"l"(x), "r"(n) : "memory"); }

DEVICE void add_shared(int *x, int n) { asm volatile("red.shared.add.s32 [%0], %1;" ::"r"(address(x)), "r"(n) : "memory"); }

// or_all sets bits of the word at x and returns what it was.
DEVICE u32 or_all(u32 *x, u32 bits) {
	u32 y;
	asm volatile("atom.global.or.b32 %0, [%1], %2;" : "=r"(y) : "l"(x), "r"(bits) : "memory");
	return y;
}

// scan returns the sum of x over this lane and those below.
DEVICE int scan(int x, int lane) {
	UNROLL for (int d = 1; d < 32; d *= 2) {
		int y = __nvvm_shfl_sync_up_i32(all, x, d, 0);
		if (lane >= d) x += y;
	}
	return x;
}

// max is NaN if one of the two is.
DEVICE float max(float x, float y) {
	float z;
	asm("max.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
	return z;
}
DEVICE float exp2(float x) {
	float y;
	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}
DEVICE float log2(float x) {
	float y;
	asm("lg2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}

// pack rounds two numbers to elements, the first in the lower half.
DEVICE u32 pack(float low, float high) {
	u32 x;
	asm("cvt.rn." ELEMENT "x2.f32 %0, %1, %2;" : "=r"(x) : "f"(high), "f"(low));
	return x;
}
// low and high return the two elements in x.
DEVICE float low(u32 x) {
#if HALF
	float y;
	asm("{.reg .b16 a, b;\nmov.b32 {a, b}, %1;\ncvt.f32.f16 %0, a;}" : "=f"(y) : "r"(x));
	return y;
#else
	return __builtin_bit_cast(float, x << 16);
#endif
}
DEVICE float high(u32 x) {
#if HALF
	return low(x >> 16);
#else
	return __builtin_bit_cast(float, x & 0xffff0000);
#endif
}

// product adds that of 16 rows and 8 columns over 16 numbers to d: see the instruction for which of them a lane holds.
DEVICE void product(float *d, const u32 *a, const u32 *b) {
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." ELEMENT "." ELEMENT ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
		: "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

typedef GLOBAL const u8 *Bytes;

// copy16 starts to copy 16 bytes to shared memory.
DEVICE void copy16(u32 to, Bytes from) {
	asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
DEVICE void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int n> DEVICE void copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory"); }
