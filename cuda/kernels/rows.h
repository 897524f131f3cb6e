// What becomes of scores. A warp has 16 rows of them: its lanes hold, of the rows lane/4 + 8·r, the columns
// lane%4·2 + 8·i + {0, 1} at s[4·i + 2·r + {0, 1}].

#pragma once

#include "call.h"

// hide makes scores −∞ in columns from the given one of each row on.
template <int N> DEVICE void hide(float *s, const int *from, int lane) {
	// Columns less the thread's first are numbers that take no register.
	const int first = lane % 4 * 2, rest[2] = {from[0] - first, from[1] - first};
	UNROLL for (int i = 0; i < N / 2; i++) {
		if (i / 4 * 8 + i % 2 >= rest[i / 2 % 2]) s[i] = -infinity;
	}
}

// A Softmax keeps account of the largest score of each row and the sum of weights.
struct Softmax {
	float top[2] = {-infinity, -infinity}, sum[2] = {0, 0};
	float by[2]; // what sums before the last scores are worth after them

	// weigh turns scores of N columns, in powers of two once scaled, into weights.
	template <int N> DEVICE void weigh(float *s, float scale) {
		UNROLL for (int r = 0; r < 2; r++) {
			float x = top[r];
			UNROLL for (int i = 0; i < N / 8; i++) x = __builtin_fmaxf(x, __builtin_fmaxf(s[4 * i + 2 * r], s[4 * i + 2 * r + 1]));
			x = __builtin_fmaxf(x, shuffle_xor(x, 1));
			x = __builtin_fmaxf(x, shuffle_xor(x, 2));
			const bool none = x == -infinity; // so far: a row's first keys may all have no weight
			by[r] = none ? 1 : exp2((top[r] - x) * scale);
			top[r] = x;
			const float least = none ? 0 : x * scale;
			float add = 0;
			UNROLL for (int i = 0; i < N / 8; i++) {
				UNROLL for (int j = 0; j < 2; j++) {
					float &w = s[4 * i + 2 * r + j];
					w = exp2(w * scale - least);
					add += w;
				}
			}
			sum[r] = sum[r] * by[r] + add;
		}
	}

	// store writes the outputs of the lane's rows, of which the first is the tile's row-th, from sums of weighted values.
	DEVICE void store(const Args &a, const Work &work, float *o, int row, int lane, float scale) {
		UNROLL for (int r = 0; r < 2; r++) {
			sum[r] += shuffle_xor(sum[r], 1);
			sum[r] += shuffle_xor(sum[r], 2);
			const float by = 1 / sum[r];
			float odd = 0; // NaN if a number of the row is not finite
			UNROLL for (int i = 0; i < dim / 8; i++) {
				UNROLL for (int j = 0; j < 2; j++) odd += 0 * (o[4 * i + 2 * r + j] *= by);
			}
			odd += shuffle_xor(odd, 1);
			odd += shuffle_xor(odd, 2);
			const int at = row + 8 * r;
			if (work.from + at >= work.to) continue;
			const i64 to = (i64)at * a.oStep + lane % 4 * 2;
			if (a.narrow) {
				GLOBAL u8 *x = work.o + 2 * to;
				UNROLL for (int i = 0; i < dim / 8; i++) *(GLOBAL u32 *)(x + 16 * i) = pack(o[4 * i + 2 * r], o[4 * i + 2 * r + 1]);
			} else {
				GLOBAL u8 *x = work.o + 4 * to;
				UNROLL for (int i = 0; i < dim / 8; i++) *(GLOBAL Two *)(x + 32 * i) = Two{o[4 * i + 2 * r], o[4 * i + 2 * r + 1]};
			}
			if (lane % 4 != 0) continue;
			if (odd != 0) count_up(a.odd + work.head);
			if (work.lse) work.lse[(i64)at * a.lseStep] = (top[r] * scale + log2(sum[r])) * ln2;
		}
	}
};

// Searching is for keys that some pooled query of a head is near to: 16 of them are a warp's rows, those of one head or more.
struct Pooled {
	float mean[2]; // mean anchors of the lane's rows
	int head[2];   // of those that share a KV head; −1: there is no such row, or it has no bits
	int first, last; // heads of the warp
	u32 sparse;      // which of them have bits
	const u16 *at[2]; // the rows' mean queries
	i64 rest;         // and what rounding left, so many elements behind

	// begin looks up the 16 rows from the given one on, and computes their mean anchors.
	DEVICE void begin(const Args &a, const Group &g, int group, int kvHead, int from, int lane) {
		const int pooled = a.shared * a.step;
		const i64 base = ((i64)kvHead * a.groupCount + group) * pooled;
		rest = (i64)(a.heads / a.shared) * a.groupCount * pooled * dim;
		UNROLL for (int r = 0; r < 2; r++) {
			const int row = from + lane / 4 + 8 * r;
			int rowFrom = 0, rowTo = 0;
			if (row < pooled && a.counts[(kvHead * a.shared + row / a.step) * a.groupCount + group] >= 0) blockRows(a, g, row % a.step, rowFrom, rowTo);
			head[r] = rowFrom < rowTo ? row / a.step : -1;
			at[r] = a.pool + (base + row) * dim;
			// Each of a row's four lanes adds up a part of its anchors.
			const Sequence &s = a.sequences[g.sequence];
			const float *anchors = a.anchors + (kvHead * a.shared + row / a.step) * a.rows + s.before - s.first;
			float sum = 0;
			_Pragma("unroll 16") for (int i = rowFrom + lane % 4; i < rowTo; i += 4) sum += anchors[i];
			sum += shuffle_xor(sum, 1);
			sum += shuffle_xor(sum, 2);
			mean[r] = head[r] >= 0 ? sum / (rowTo - rowFrom) : 0;
		}
		first = from / a.step;
		last = least((from + 15) / a.step, a.shared - 1);
		sparse = 0;
		for (int h = first; h <= last; h++) sparse |= (u32)(a.counts[(kvHead * a.shared + h) * a.groupCount + group] >= 0) << (h - first);
	}

	// load reads the rows' mean queries, and what rounding left, as left operands.
	DEVICE void load(u32 (*q)[dim / 4], int lane) const {
		UNROLL for (int r = 0; r < 2; r++) {
			UNROLL for (int i = 0; i < dim / 8; i++) {
				const u16 *x = at[r] + 8 * i + lane % 4 * 2;
				q[0][2 * i + r] = head[r] >= 0 ? *(const u32 *)x : 0;
				q[1][2 * i + r] = head[r] >= 0 ? *(const u32 *)(x + rest) : 0;
			}
		}
	}

	// near tells which columns a row is near to: bit i/4·2 + i%2 for s[i].
	template <int N> DEVICE void near(const Args &a, const float *s, u32 *keep) const {
		keep[0] = keep[1] = 0;
		UNROLL for (int i = 0; i < N / 2; i++) {
			const int r = i / 2 % 2;
			if (!(mean[r] - s[i] * a.scale > a.theta)) keep[r] |= 1u << (i / 4 * 2 + i % 2);
		}
	}
};

// sparse reports whether any of the heads of count pooled queries from the given one on has bits.
DEVICE bool sparse(const Args &a, int group, int kvHead, int from, int count) {
	for (int h = from / a.step; h < a.shared && h * a.step < from + count; h++) {
		if (a.counts[(kvHead * a.shared + h) * a.groupCount + group] >= 0) return true;
	}
	return false;
}

DEVICE u32 spread(u32 x) { return (x & 3) | (x & 12) << 6 | (x & 48) << 12 | (x & 192) << 18; }

// mark sets the bits of those of N keys from first on that are kept, and of the window's keys before the group.
template <int N> DEVICE void mark(const Args &a, const Group &g, int group, int kvHead, const Pooled &p, int first, const u32 *keep, int lane) {
	// A head whose rows are all in one warp has its words to itself.
	const bool alone = 16 % a.step == 0;
	for (int h = p.first; h <= p.last; h++) {
		if (!(p.sparse >> (h - p.first) & 1)) continue;
		u32 kept = (p.head[0] == h ? keep[0] : 0) | (p.head[1] == h ? keep[1] : 0);
		UNROLL for (int d = 4; d < 32; d *= 2) kept |= shuffle_xor(kept, d);
		u32 mine = 0;
		UNROLL for (int w = 0; w < N / 32; w++) {
			u32 word = spread(kept >> 8 * w & 255) << lane % 4 * 2;
			word |= shuffle_xor(word, 1);
			word |= shuffle_xor(word, 2);
			if (lane == w) mine = word;
		}
		const int head = kvHead * a.shared + h, key = first + lane * 32;
		int n = 0;
		if (lane < N / 32 && key < g.start) {
			// Bits [x, y) of a word are those below y less those below x.
			auto below = [&](int j) INLINE { return j <= key ? 0u : j - key >= 32 ? all : (1u << (j - key)) - 1; };
			const u32 candidates = below(g.local) & ~below(g.init);
			const u32 window = below(g.start) & ~candidates;
			const u32 word = (mine & candidates) | window;
			u32 *at = a.bits + head * a.words + g.bits + key / 32;
			if (alone) {
				*at = word;
				n = __builtin_popcount(word);
			} else if (word) n = __builtin_popcount(word & ~or_all(at, word));
		}
		UNROLL for (int d = 1; d < N / 32; d *= 2) n += shuffle_xor((u32)n, d);
		if (lane == 0 && n) add(a.counts + head * a.groupCount + group, n);
	}
}
