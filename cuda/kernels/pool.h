// Kernels that are the same on all architectures, of which none takes long.

#pragma once

#include "call.h"

constexpr int poolThreads = 256;
constexpr int lanes = dim / 8;              // threads that read a row, 16 bytes each
constexpr int slices = poolThreads / lanes; // rows that are read at a time

// pooledAt returns the number of a block's mean query.
DEVICE i64 pooledAt(const Args &a, int head, int group, int b) {
	return ((i64)(head / a.shared) * a.groupCount + group) * a.shared * a.step + head % a.shared * a.step + b;
}

SHARED(pool, 4 * slices * dim)

// pool computes a block's mean query, as the sum of two elements: of the blocks that are surveyed, and after that, of the others.
KERNEL(256, 3) pool(const Args a) {
	begin();
	constexpr int ahead = 8;                 // rows that are asked for before the first is there
	float *partial = (float *)shared_memory; // [slices, dim]
	const int n = a.blocks;
	const int group = block() / n % a.groupCount, head = block() / n / a.groupCount;
	const Group &g = a.groups[group];
	if (a.surveyed && (a.counts[head * a.groupCount + group] < 0 || idle(a, g.sequence))) return;
	const int i = block() % n + (a.surveyed ? g.survey : 0);
	if (i >= (a.surveyed ? a.step : g.survey)) return;
	const int b = visited(a, g, i);
	int from, to;
	blockRows(a, g, b, from, to);
	if (from >= to) return;
	const Sequence &s = a.sequences[g.sequence];
	const int slice = thread() / lanes, chunk = thread() % lanes;
	const Bytes q = s.q + 2 * head * s.qHead + 16 * chunk;
	float x[8] = {};
	if (slice < slices) {
		ROLLED for (int i = from + slice; i < to; i += ahead * slices) {
			Four w[ahead];
			UNROLL for (int j = 0; j < ahead; j++) {
				const int at = i + j * slices;
				w[j] = at < to ? *(GLOBAL const Four *)(q + (i64)(at - s.first) * a.qStep * 16) : Four{};
			}
			UNROLL for (int j = 0; j < ahead; j++) {
				UNROLL for (int c = 0; c < 4; c++) x[2 * c] += low(w[j][c]), x[2 * c + 1] += high(w[j][c]);
			}
		}
		UNROLL for (int c = 0; c < 8; c++) partial[slice * dim + chunk * 8 + c] = x[c];
	}
	sync();
	const i64 at = pooledAt(a, head, group, b) * dim;
	const i64 rest = (i64)a.heads * a.groupCount * a.step * dim;
	if (thread() < dim) {
		float sum = 0;
		for (int i = 0; i < slices; i++) sum += partial[i * dim + thread()];
		sum /= to - from;
		const u32 first = pack(sum, 0);
		const float left = sum - low(first);
		a.pool[at + thread()] = first;
		a.pool[at + rest + thread()] = pack(left == left ? left : 0, 0);
	}
}

// operand reads the lane's part of an operand of products, 16 bytes of every 64 of a row: products are sums over the
// numbers of a row in any order, so left and right ones may take them as they come.
DEVICE void operand(Four *x, Bytes row, int lane) {
	UNROLL for (int i = 0; i < dim / 32; i++) x[i] = *(GLOBAL const Four *)(row + 64 * i + lane % 4 * 16);
}

// left puts the parts of rows lane/4 and lane/4 + 8 together as left operands.
DEVICE void left(u32 *x, const Four *row, const Four *row8) {
	UNROLL for (int i = 0; i < dim / 32; i++) {
		UNROLL for (int j = 0; j < 4; j++) x[8 * i + 2 * j] = row[i][j], x[8 * i + 2 * j + 1] = row8[i][j];
	}
}

// scores16 adds the products of 16 rows and 8 keys to s.
DEVICE void scores16(float *s, const u32 *rows, const Four *keys) {
	UNROLL for (int i = 0; i < dim / 16; i++) {
		const u32 k[2] = {keys[i / 2][i % 2 * 2], keys[i / 2][i % 2 * 2 + 1]};
		product(s, rows + 4 * i, k);
	}
}

struct Sample {
	float anchors[16]; // mean anchors of the blocks
	int kept[2];       // candidates that the first block would keep, and that any would
};

SHARED(sample, sizeof(Sample))

// sample finds out how many of some candidates a head and group would keep, as far as the surveyed blocks of rows tell, 16 at
// most, and whether its rows had better see all keys.
KERNEL(512, 1) sample(const Args a) {
	begin();
	constexpr int tiles = 16, tileKeys = surveyKeys / tiles; // each warp has a tile
	constexpr int together = dim > 128 ? 1 : 2;
	Sample &mem = *(Sample *)shared_memory;
	const int head = block() / a.groupCount, group = block() % a.groupCount;
	const int warp = thread() / 32, lane = thread() % 32;
	const Group &g = a.groups[group];
	if (g.from >= g.to) return;
	const Sequence &s = a.sequences[g.sequence];

	const float *anchors = a.anchors + head * a.rows + s.before - s.first;
	int from, to;
	if (thread() < 2) mem.kept[thread()] = 0;
	if (warp < g.survey) {
		blockRows(a, g, visited(a, g, warp), from, to);
		float sum = 0;
		for (int i = from + lane; i < to; i += 32) sum += anchors[i];
		sum = add_all(sum);
		if (lane == 0) mem.anchors[warp] = sum / (to - from);
	}

	const int candidates = g.local - g.init;
	const bool some = candidates > tiles * tileKeys;
	const int first = g.init + (some ? (int)((i64)warp * (candidates - tileKeys) / (tiles - 1)) : warp * tileKeys);
	float y[tileKeys / 8][4] = {};
	bool is[2];
	UNROLL for (int r = 0; r < 2; r++) {
		from = to = 0;
		if (lane / 4 + 8 * r < g.survey) blockRows(a, g, visited(a, g, lane / 4 + 8 * r), from, to);
		is[r] = from < to;
	}
	if (first < g.local) {
		const Bytes k = s.k + 2 * (head / a.shared) * s.kHead;
		const Pages pages = {s.pages, a.pageShift};
		Four x[2][dim / 32];
		u32 rows[dim / 4];
		UNROLL for (int r = 0; r < 2; r++) {
			operand(x[r], (Bytes)(a.pool + pooledAt(a, head, group, visited(a, g, is[r] ? lane / 4 + 8 * r : 0)) * dim), lane);
		}
		left(rows, x[0], x[1]);
		UNROLL for (int c = 0; c < tileKeys / 8; c += together) {
			Four keys[together][dim / 32];
			UNROLL for (int t = 0; t < together; t++) {
				const int key = least(first + (c + t) * 8 + lane / 4, g.local - 1);
				operand(keys[t], k + (u64)(pages.row(key) * a.kvStep) * 16, lane);
			}
			UNROLL for (int t = 0; t < together; t++) scores16(y[c + t], rows, keys[t]);
		}
	}
	sync();
	// For each 8 keys two of the lane's: those near to a row of its, and near to the first.
	u32 near[2] = {};
	UNROLL for (int r = 0; r < 2; r++) {
		const float mean = mem.anchors[lane / 4 + 8 * r];
		UNROLL for (int c = 0; c < tileKeys / 8; c++) {
			UNROLL for (int i = 0; i < 2; i++) {
				const u32 bit = (u32)(is[r] && !(mean - y[c][2 * r + i] * a.scale > a.theta)) << (2 * c + i);
				near[1] |= bit;
				if (r == 0 && lane < 4) near[0] |= bit;
			}
		}
	}
	UNROLL for (int j = 0; j < 2; j++) {
		UNROLL for (int d = 4; d < 32; d *= 2) near[j] |= shuffle_xor(near[j], d);
		int n = 0;
		if (lane < 4) {
			UNROLL for (int i = 0; i < tileKeys / 4; i++) n += near[j] >> i & 1 && first + i / 2 * 8 + lane * 2 + i % 2 < g.local;
		}
		n = add_all(n);
		if (lane == 0 && n) add_shared(mem.kept + j, n);
	}
	sync();
	if (thread() != 0) return;
	// With the number of blocks, the logarithm of the share that is dropped grows as a power of it: as the number itself
	// if each keeps keys of its own, and not at all if all keep the same.
	const float of = some ? tiles * tileKeys : candidates;
	const float one = -log2(1 - mem.kept[0] / of), all = -log2(1 - mem.kept[1] / of);
	const float blocks = (g.to - 1 - g.start) / a.block - (g.from - g.start) / a.block + 1;
	const float seen = __builtin_fminf(g.survey, blocks);
	float dropped = 1 - mem.kept[1] / of;
	if (seen > 1 && seen < blocks && one > 0 && all < infinity) {
		const float power = log2(all / one) / log2(seen);
		dropped = exp2(-all * exp2(power * log2(blocks / seen)));
	}
	const float saved = g.most - (1 - dropped) * candidates;
	a.counts[head * a.groupCount + group] = saved < 0 ? -1 : 0;
	if (saved >= 0) add((int *)a.saved + g.sequence, least(saved * (g.to - g.from) / (float)savedPairs, a.worth));
}
