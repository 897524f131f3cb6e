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

// means computes a block's mean query, as the sum of two elements, and its mean anchor, or one of the two.
DEVICE void means(const Args &a, int head, int group, int b, bool queries, bool anchors) {
	float *partial = (float *)shared_memory; // [slices, dim + 1]
	const Group &g = a.groups[group];
	int from, to;
	blockRows(a, g, b, from, to);
	if (from >= to) return;
	const Sequence &s = a.sequences[g.sequence];
	const Bytes q = s.q + 2 * head * s.qHead;
	const float *top = a.anchors + head * a.rows + s.before;
	const int slice = thread() / lanes, chunk = thread() % lanes;
	float x[8] = {}, anchor = 0;
	if (slice < slices) {
		for (int i = from + slice; i < to; i += slices) {
			if (queries) {
				const Four w = *(GLOBAL const Four *)(q + (i64)(i - s.first) * a.qStep * 16 + 16 * chunk);
				UNROLL for (int c = 0; c < 4; c++) x[2 * c] += low(w[c]), x[2 * c + 1] += high(w[c]);
			}
			if (anchors && chunk == 0) anchor += top[i - s.first];
		}
		UNROLL for (int c = 0; c < 8; c++) partial[slice * (dim + 1) + chunk * 8 + c] = x[c];
		if (chunk == 0) partial[slice * (dim + 1) + dim] = anchor;
	}
	sync();
	const i64 at = pooledAt(a, head, group, b);
	const i64 rest = (i64)a.heads * a.groupCount * a.step * dim;
	for (int d = thread(); d <= dim; d += poolThreads) {
		float sum = 0;
		for (int i = 0; i < slices; i++) sum += partial[i * (dim + 1) + d];
		sum /= to - from;
		if (d < dim && queries) {
			const u32 first = pack(sum, 0);
			const float left = sum - low(first);
			a.pool[at * dim + d] = first;
			a.pool[rest + at * dim + d] = pack(left == left ? left : 0, 0);
		}
		if (d == dim && anchors) a.means[at] = sum;
	}
}

SHARED(pool, 4 * slices * (dim + 1))

// pool computes the mean query and anchor of a block of rows, or its anchor alone where mean queries are there.
KERNEL(256, 1) pool(const Args a) {
	const int b = block() % a.step, group = block() / a.step % a.groupCount, head = block() / a.step / a.groupCount;
	if (a.counts[head * a.groupCount + group] >= 0) means(a, head, group, b, !a.surveyed, true);
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

constexpr int samples = 64; // rows of a group by which it is surveyed

DEVICE int sampled(const Group &g, int i) { return g.from + (int)((i64)(2 * i + 1) * (g.to - g.from) / (2 * samples)); }

// sampleAnchors computes the anchors of some rows of a group and takes them for the mean anchors of its blocks.
DEVICE void sampleAnchors(const Args &a, int head, int group) {
	constexpr int together = dim > 128 ? 1 : 2; // of 8 keys
	float *tops = (float *)shared_memory;       // [4, samples], of each quarter of the keys
	const Group &g = a.groups[group];
	if (g.from >= g.to) return;
	const Sequence &s = a.sequences[g.sequence];
	const Bytes q = s.q + 2 * head * s.qHead, k = s.k + 2 * (head / a.shared) * s.kHead;
	const Pages pages = {s.pages, a.pageShift};
	const int warp = thread() / 32, lane = thread() % 32;
	const int half = warp / 4 * 32, quarter = warp % 4;
	u32 rows[2][dim / 4];
	int ends[4]; // of the keys that rows see, as they are counted here: the first ones, and those from local on
	UNROLL for (int m = 0; m < 2; m++) {
		Four x[2][dim / 32];
		UNROLL for (int r = 0; r < 2; r++) {
			const int at = sampled(g, half + m * 16 + lane / 4 + 8 * r);
			ends[2 * m + r] = at + 1 - g.local + g.init;
			operand(x[r], q + (i64)(at - s.first) * a.qStep * 16, lane);
		}
		left(rows[m], x[0], x[1]);
	}
	const int last = sampled(g, samples - 1) - g.local + g.init;
	float top[4] = {-infinity, -infinity, -infinity, -infinity};
	ROLLED for (int from = quarter * together * 8; from <= last; from += 4 * together * 8) {
		Four keys[together][dim / 32];
		UNROLL for (int t = 0; t < together; t++) {
			const int i = least(from + 8 * t + lane / 4, last);
			operand(keys[t], k + (u64)(pages.row(i < g.init ? i : i - g.init + g.local) * a.kvStep) * 16, lane);
		}
		UNROLL for (int t = 0; t < together; t++) {
			UNROLL for (int m = 0; m < 2; m++) {
				float x[4] = {};
				scores16(x, rows[m], keys[t]);
				UNROLL for (int i = 0; i < 4; i++) {
					if (from + 8 * t + lane % 4 * 2 + i % 2 < ends[2 * m + i / 2]) top[2 * m + i / 2] = max(top[2 * m + i / 2], x[i]);
				}
			}
		}
	}
	UNROLL for (int i = 0; i < 4; i++) {
		UNROLL for (int d = 1; d < 4; d *= 2) top[i] = max(top[i], shuffle_xor(top[i], d));
		if (lane % 4 == 0) tops[quarter * samples + half + i / 2 * 16 + i % 2 * 8 + lane / 4] = top[i];
	}
	sync();
	if (thread() < samples) {
		float x = tops[thread()];
		for (int i = 1; i < 4; i++) x = max(x, tops[i * samples + thread()]);
		tops[thread()] = x * a.scale;
	}
	sync();
	for (int b = thread(); b < a.step; b += poolThreads) {
		int from, to, n = 0;
		blockRows(a, g, b, from, to);
		float sum = 0, whole = 0; // of the block, and of all
		for (int i = 0; i < samples; i++) {
			const int at = sampled(g, i);
			whole += tops[i];
			if (at >= from && at < to) sum += tops[i], n++;
		}
		if (from < to) a.means[pooledAt(a, head, group, b)] = n ? sum / n : whole / samples;
	}
}

SHARED(survey, 4 * most(slices * (dim + 1), 4 * samples))

// survey prepares what sample looks at, mean queries and rough mean anchors: the first blocks the anchors of a head and group
// each, which takes longest, the others a mean query.
KERNEL(256, dim > 128 ? 1 : 2) survey(const Args a) {
	const int lists = a.heads * a.groupCount;
	if ((int)block() < lists) sampleAnchors(a, block() / a.groupCount, block() % a.groupCount);
	else {
		const int unit = block() - lists;
		means(a, unit / a.step / a.groupCount, unit / a.step % a.groupCount, unit % a.step, true, false);
	}
}

SHARED(sample, 4 * 4)

// sample finds out how many of some candidates a head and group would keep, and whether it had better see all keys.
KERNEL(128, 1) sample(const Args a) {
	constexpr int tiles = 8, tileKeys = 128; // candidates, where there are more
	int *kept = (int *)shared_memory;        // by warp
	const int head = block() / a.groupCount, group = block() % a.groupCount;
	const int warp = thread() / 32, lane = thread() % 32;
	const Group &g = a.groups[group];
	int *count = a.counts + head * a.groupCount + group;
	if (g.from >= g.to) return;
	const Sequence &s = a.sequences[g.sequence];
	const Bytes k = s.k + 2 * (head / a.shared) * s.kHead;
	const Pages pages = {s.pages, a.pageShift};
	const int candidates = g.local - g.init;
	const bool some = candidates > tiles * tileKeys;
	int n = 0;
	ROLLED for (int t = 0; t < tiles && (some || t * tileKeys < candidates); t++) {
		const int first = g.init + (some ? (int)((i64)t * (candidates - tileKeys) / (tiles - 1)) : t * tileKeys) + warp * 32;
		ROLLED for (int c = 0; c < 32; c += 8) {
			Four keys[dim / 32];
			operand(keys, k + (u64)(pages.row(least(first + c + lane / 4, g.local - 1)) * a.kvStep) * 16, lane);
			u32 near = 0;
			ROLLED for (int from = 0; from < a.step; from += 16) {
				Four x[2][2][dim / 32];
				float mean[2];
				bool is[2];
				UNROLL for (int r = 0; r < 2; r++) {
					const int b = from + lane / 4 + 8 * r;
					int rowFrom = 0, rowTo = 0;
					if (b < a.step) blockRows(a, g, b, rowFrom, rowTo);
					is[r] = rowFrom < rowTo;
					const i64 at = pooledAt(a, head, group, is[r] ? b : (g.from - g.start) / a.block);
					mean[r] = a.means[at];
					const Bytes row = (Bytes)(a.pool + at * dim);
					operand(x[0][r], row, lane);
					operand(x[1][r], row + 2 * (i64)a.heads * a.groupCount * a.step * dim, lane);
				}
				float y[4] = {};
				UNROLL for (int i = 0; i < 2; i++) {
					u32 rows[dim / 4];
					left(rows, x[i][0], x[i][1]);
					scores16(y, rows, keys);
				}
				UNROLL for (int i = 0; i < 4; i++) near |= (u32)(is[i / 2] && !(mean[i / 2] - y[i] * a.scale > a.theta)) << i % 2;
			}
			UNROLL for (int d = 4; d < 32; d *= 2) near |= shuffle_xor(near, d);
			UNROLL for (int i = 0; i < 2; i++) n += near >> i & 1 && first + c + lane % 4 * 2 + i < g.local;
		}
	}
	n += shuffle_xor((u32)n, 1);
	n += shuffle_xor((u32)n, 2);
	if (lane == 0) kept[warp] = n;
	sync();
	if (thread() != 0) return;
	n = kept[0] + kept[1] + kept[2] + kept[3];
	const bool all = (i64)n * candidates > (i64)g.most * (some ? tiles * tileKeys : candidates);
	*count = all ? -1 : 0;
	if (!all) add((int *)a.tally + tallySparse, 1);
}
