// What CUDA's headers would give, and the instructions that C++ has no words for. No toolkit is needed: clang compiles
// this to PTX by itself.

#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned u32;
typedef unsigned long long u64;
typedef long long i64;

#define KERNEL(threads, blocks) extern "C" __attribute__((global, launch_bounds(threads, blocks))) void
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

#include "wgmma.h"

extern __attribute__((shared, aligned(1024))) u8 shared_memory[];

constexpr u32 all = 0xffffffff;

DEVICE u32 thread() { return __nvvm_read_ptx_sreg_tid_x(); }
DEVICE u32 block() { return __nvvm_read_ptx_sreg_ctaid_x(); }
DEVICE u32 grid() { return __nvvm_read_ptx_sreg_nctaid_x(); }
DEVICE int least(int a, int b) { return a < b ? a : b; }
DEVICE int most(int a, int b) { return a > b ? a : b; }

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

// count_up returns the number at x and adds one to it.
DEVICE u32 count_up(u32 *x) {
	u32 y;
	asm volatile("atom.global.add.u32 %0, [%1], 1;" : "=r"(y) : "l"(x) : "memory");
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

// address returns the shared address of p.
DEVICE u32 address(void *p) { return (u32)(u64)(__attribute__((address_space(3))) u8 *)p; }

typedef GLOBAL const u8 *Bytes;

// copy16 starts to copy 16 bytes to shared memory.
DEVICE void copy16(u32 to, Bytes from) {
	asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
DEVICE void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int n> DEVICE void copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory"); }

// Barriers in shared memory: threads arrive, others wait for the end of a phase, whose parity they know.
DEVICE void barrier_init(u32 barrier, int arrivals) {
	asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
DEVICE void barriers_ready() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void barrier_arrive(u32 barrier) {
	asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// barrier_arrive_copied arrives when all copies that this thread has started are done.
DEVICE void barrier_arrive_copied(u32 barrier) {
	asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
DEVICE void barrier_wait(u32 barrier, int parity) {
	u32 done;
	do {
		asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
			: "=r"(done) : "r"(barrier), "r"(parity) : "memory");
	} while (!done);
}

// Tensor cores read shared memory by a way of their own: what ordinary stores and copies put there they see after this.
DEVICE void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

DEVICE void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int n> DEVICE void products_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory"); }

// pin keeps the compiler from moving uses of registers over this point: it does not know that products end later than
// where they are written.
template <int n> DEVICE void pin(float *x) {
	UNROLL for (int i = 0; i < n; i++) asm volatile("" : "+f"(x[i])::"memory");
}
template <int n> DEVICE void pin(u32 *x) {
	UNROLL for (int i = 0; i < n; i++) asm volatile("" : "+r"(x[i])::"memory");
}

// descriptor describes a matrix in shared memory, cut into pieces of 64 columns whose rows of 128 bytes follow one
// another, swizzled: 16 bytes at column c of row r lie at c ^ (r mod 8). Pieces lie the given bytes apart.
DEVICE u64 descriptor(u32 address, u32 pieces) {
	return (u64)((address & 0x3ffff) >> 4) | (u64)((pieces & 0x3ffff) >> 4) << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}

template <int a> DEVICE void registers_set() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(a)); }
template <int a> DEVICE void registers_give() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(a)); }
