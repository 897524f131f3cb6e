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

// mean computes a block's mean query, as the sum of two elements.
DEVICE void mean(const Args &a, int head, int group, int b) {
	constexpr int ahead = 8;                 // rows that are asked for before the first is there
	float *partial = (float *)shared_memory; // [slices, dim]
	const Group &g = a.groups[group];
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

SHARED(pool, 4 * slices * dim)

// pool computes a block's mean query.
KERNEL(256, 3) pool(const Args a) { mean(a, block() / a.step / a.groupCount, block() / a.step % a.groupCount, block() % a.step); }

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

// sampled returns the position of the i-th surveyed row of a group.
DEVICE int sampled(const Group &g, int i) { return g.from + (int)((i64)(2 * i + 1) * (g.to - g.from) / (2 * surveyRows)); }

// topsAt returns the number of the largest logits of a head's surveyed rows in a part of their windows.
DEVICE i64 topsAt(const Args &a, int part, int head, int group) {
	return (((i64)part * a.heads + head) * a.groupCount + group) * surveyRows;
}

// surveyAnchors computes the largest logits of surveyed rows: each warp those of 16 rows of a head.
DEVICE void surveyAnchors(const Args &a, int kvHead, int part, int group, int heads) {
	constexpr int together = dim > 128 ? 1 : 2; // blocks of 8 keys
	const Group &g = a.groups[group];
	const int warp = thread() / 32, lane = thread() % 32;
	const int of = heads * surveyHeads + warp / 4, row = warp % 4 * 16 + lane / 4;
	if (g.from >= g.to || of >= a.shared) return;
	const int head = kvHead * a.shared + of;
	const Sequence &s = a.sequences[g.sequence];
	const Bytes q = s.q + 2 * head * s.qHead, k = s.k + 2 * kvHead * s.kHead;
	const Pages pages = {s.pages, a.pageShift};
	u32 rows[dim / 4];
	int ends[2]; // of the keys that rows see, as they are counted here: the first ones, and those from local on
	Four x[2][dim / 32];
	UNROLL for (int r = 0; r < 2; r++) {
		const int at = sampled(g, row + 8 * r);
		ends[r] = at + 1 - g.local + g.init;
		operand(x[r], q + (i64)(at - s.first) * a.qStep * 16, lane);
	}
	left(rows, x[0], x[1]);
	const int keys = sampled(g, warp % 4 * 16 + 15) + 1 - g.local + g.init;
	const int each = (keys + 8 * surveyParts - 1) / (8 * surveyParts) * 8, end = least((part + 1) * each, keys);
	float top[2] = {-infinity, -infinity};
	ROLLED for (int from = part * each; from < end; from += 8 * together) {
		Four keys[together][dim / 32];
		UNROLL for (int t = 0; t < together; t++) {
			const int i = least(from + 8 * t + lane / 4, end - 1);
			operand(keys[t], k + (u64)(pages.row(i < g.init ? i : i - g.init + g.local) * a.kvStep) * 16, lane);
		}
		UNROLL for (int t = 0; t < together; t++) {
			float y[4] = {};
			scores16(y, rows, keys[t]);
			UNROLL for (int i = 0; i < 4; i++) {
				if (from + 8 * t + lane % 4 * 2 + i % 2 < least(ends[i / 2], end)) top[i / 2] = max(top[i / 2], y[i]);
			}
		}
	}
	UNROLL for (int r = 0; r < 2; r++) {
		UNROLL for (int d = 1; d < 4; d *= 2) top[r] = max(top[r], shuffle_xor(top[r], d));
		if (lane % 4 == 0) a.tops[topsAt(a, part, head, group) + row + 8 * r] = top[r] * a.scale;
	}
}

SHARED(survey, 4 * slices * dim)

// survey prepares what sample looks at: the first blocks the anchors of some rows, the others a mean query.
KERNEL(256, dim > 128 ? 2 : 3) survey(const Args a) {
	const int parts = (a.shared + surveyHeads - 1) / surveyHeads;
	const int first = a.heads / a.shared * parts * surveyParts * a.groupCount;
	int unit = block();
	if (unit >= first) {
		unit -= first;
		mean(a, unit / a.step / a.groupCount, unit / a.step % a.groupCount, unit % a.step);
		return;
	}
	const int group = unit % a.groupCount;
	unit /= a.groupCount;
	const int part = unit % surveyParts;
	unit /= surveyParts;
	surveyAnchors(a, unit / parts, part, group, unit % parts);
}

DEVICE float add_all(float x) {
	UNROLL for (int d = 1; d < 32; d *= 2) x += shuffle_xor(x, d);
	return x;
}

struct Sample {
	float anchors[surveyRows]; // estimates of the mean anchors of the blocks that surveyed rows are in
	int blocks[surveyRows];    // which those are
	float anchor;              // of the others
	int kept;
};

// estimate estimates mean anchors of blocks from the surveyed rows', by one warp. The mean of a few rows says little of its block's, and
// a key is kept for the sake of the block with the least: means are drawn together until they lie as far apart as those
// of whole blocks would, by what is seen inside of blocks and between them.
DEVICE void estimate(const Args &a, const Group &g, int head, int group, Sample &sample) {
	static_assert(surveyRows == 64, "two for each lane");
	constexpr float rows = surveyRows;
	const int lane = thread() % 32;
	float x[2] = {-infinity, -infinity};
	int block[2];
	UNROLL for (int i = 0; i < 2; i++) {
		UNROLL for (int part = 0; part < surveyParts; part++) x[i] = max(x[i], a.tops[topsAt(a, part, head, group) + lane + 32 * i]);
		block[i] = (sampled(g, lane + 32 * i) - g.start) / a.block;
		sample.anchors[lane + 32 * i] = x[i], sample.blocks[lane + 32 * i] = block[i];
	}
	sync_warp();
	float sum[2] = {}, n[2] = {};
	UNROLL for (int i = 0; i < surveyRows; i++) {
		UNROLL for (int j = 0; j < 2; j++) {
			if (sample.blocks[i] == block[j]) sum[j] += sample.anchors[i], n[j]++;
		}
	}
	sync_warp();
	const float own[2] = {sum[0] / n[0], sum[1] / n[1]};
	auto both = [&](auto f) INLINE { return add_all(f(0) + f(1)); };
	const float mean = both([&](int i) INLINE { return x[i]; }) / rows;
	const float blocks = both([&](int i) INLINE { return 1 / n[i]; });
	const float inside = both([&](int i) INLINE { return (x[i] - own[i]) * (x[i] - own[i]); }) / (rows - blocks);
	const float between = both([&](int i) INLINE { return (own[i] - mean) * (own[i] - mean) / n[i]; }) / (blocks - 1);
	// Variances of a block's mean: that of a few rows by chance, and that of all its rows, beside what blocks really differ by.
	const float few = inside * blocks / rows, whole = inside / a.block;
	const float wanted = whole + __builtin_fmaxf(between - few, 0);
	const float by = blocks > 1 && blocks < rows && wanted < between ? root(wanted / between) : 0;
	UNROLL for (int i = 0; i < 2; i++) sample.anchors[lane + 32 * i] = mean + by * (own[i] - mean);
	if (lane == 0) sample.anchor = mean, sample.kept = 0;
}

SHARED(sample, sizeof(Sample))

// sample finds out how many of some candidates a head and group would keep, and whether it had better see all keys.
KERNEL(512, 1) sample(const Args a) {
	constexpr int tiles = 16, tileKeys = 64; // candidates, where there are more; each warp has a tile
	constexpr int together = dim > 128 ? 1 : 2;
	Sample &mem = *(Sample *)shared_memory;
	const int head = block() / a.groupCount, group = block() % a.groupCount;
	const int warp = thread() / 32, lane = thread() % 32;
	const Group &g = a.groups[group];
	if (g.from >= g.to) return;
	const Sequence &s = a.sequences[g.sequence];
	const Bytes k = s.k + 2 * (head / a.shared) * s.kHead;
	const Pages pages = {s.pages, a.pageShift};
	const int candidates = g.local - g.init;
	const bool some = candidates > tiles * tileKeys;
	const int first = g.init + (some ? (int)((i64)warp * (candidates - tileKeys) / (tiles - 1)) : warp * tileKeys);
	if (warp == tiles - 1) estimate(a, g, head, group, mem); // it has the least to do where candidates are few
	u32 near = 0;                                           // for each 8 keys two of the lane's
	ROLLED for (int from = 0; from < a.step; from += 16) {
		float y[tileKeys / 8][4] = {};
		bool is[2];
		if (first < g.local) {
			Four x[2][dim / 32];
			u32 rows[dim / 4];
			UNROLL for (int r = 0; r < 2; r++) {
				const int b = from + lane / 4 + 8 * r;
				int rowFrom = 0, rowTo = 0;
				if (b < a.step) blockRows(a, g, b, rowFrom, rowTo);
				is[r] = rowFrom < rowTo;
				operand(x[r], (Bytes)(a.pool + pooledAt(a, head, group, is[r] ? b : (g.from - g.start) / a.block) * dim), lane);
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
		if (from == 0) sync(); // for what was estimated meanwhile
		if (first >= g.local) continue;
		UNROLL for (int r = 0; r < 2; r++) {
			float mean = mem.anchor;
			for (int i = 0; i < surveyRows; i++) {
				if (mem.blocks[i] == from + lane / 4 + 8 * r) mean = mem.anchors[i];
			}
			UNROLL for (int c = 0; c < tileKeys / 8; c++) {
				UNROLL for (int i = 0; i < 2; i++) near |= (u32)(is[r] && !(mean - y[c][2 * r + i] * a.scale > a.theta)) << (2 * c + i);
			}
		}
	}
	UNROLL for (int d = 4; d < 32; d *= 2) near |= shuffle_xor(near, d);
	int n = 0;
	if (lane < 4 && first < g.local) {
		UNROLL for (int i = 0; i < tileKeys / 4; i++) n += near >> i & 1 && first + i / 2 * 8 + lane * 2 + i % 2 < g.local;
	}
	n = add_all(n);
	if (lane == 0 && n) add_shared(&mem.kept, n);
	sync();
	if (thread() != 0) return;
	const bool all = (i64)mem.kept * candidates > (i64)g.most * (some ? tiles * tileKeys : candidates);
	a.counts[head * a.groupCount + group] = all ? -1 : 0;
	if (!all) add((int *)a.tally + tallySparse, 1);
}
