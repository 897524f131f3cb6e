// The kernels of the CUDA engine, for one size of heads (DIM) and one type of elements (HALF: half precision, else
// bfloat16). cuda/NOTES.md says what was measured.

#include "common.h"

// A Tile is at most 128 query rows, positions [from, to), of which each sees the keys that bits name, where there are
// bits, and those from start to its own position.
struct Tile {
	int from, to, start;
	int group; // that has the bits, counted from the call's first; −1: none
};

// Args are the arguments of all kernels. Strides are in elements.
struct Args {
	const u8 *q, *k, *v;
	float *o, *lse;
	i64 qHead, qRow, kHead, kRow, vHead, vRow, oHead, oRow, lseHead, lseRow;

	const Tile *tiles;
	float *anchors;    // [heads, queries]: each row's largest logit in its window
	u16 *pool;         // [2, KV heads, groups, pooled, DIM]: mean queries, and what rounding them left
	float *means;      // [KV heads, groups, pooled]: mean anchors
	u32 *bits;         // by head and group: a bit for each key before the group
	const i64 *words;  // [groups + 1]: where a group's bits are in its head's
	int *counts;       // [heads, groups]: how many bits are set
	u32 *next;         // counts what has been handed out beyond a tile for each block

	int heads, shared; // query heads, and how many share a KV head
	int queries, keys, first; // rows, keys, and the position of the first row
	int tileCount, section;   // tiles of a head; query heads that are done together
	int block, step, init, local, denseFrom; // parameters
	int groups, firstGroup;   // groups that hold a row, and the first of these
	float scale, theta;
};

constexpr int dim = DIM;
constexpr int pieces = (dim + 63) / 64;          // of 64 columns
constexpr int N = dim > 128 ? 64 : 128;          // keys in a block
constexpr int rows = 128;                        // in a tile
constexpr int keyStages = dim > 128 ? 2 : 3;     // blocks of keys in shared memory
constexpr int valueStages = 2;                   // blocks of values there
constexpr int producerRegisters = 88, consumerRegisters = 208; // of a thread, of 168 for each
constexpr int queryBytes = pieces * rows * 128;
constexpr int blockBytes = pieces * N * 128;
constexpr int ring = 8192;                       // keys that are kept
constexpr float log2e = 1.44269504088896340736f, ln2 = 0.69314718055994530942f;

// A Copier copies rows of a head into a block in shared memory, swizzled: count rows by each warp. Lanes in groups copy
// rows together; a group has each of its rows in turn.
template <int count, int perPiece> struct Copier { // bytes from one piece of 64 columns to the next
	static constexpr int chunks = dim / 8;                                // of 16 bytes in a row
	static constexpr int wide = chunks <= 8 ? 8 : chunks <= 16 ? 16 : 32; // lanes in a group
	static constexpr int each = count * wide / 32;                        // rows of a group, a multiple of 8
	u32 to;
	int chunk;
	int first; // row of the group

	// begin sets where rows go: to a block at base.
	DEVICE void begin(u32 base, int warp, int lane) {
		chunk = lane % wide;
		first = warp * count + lane / wide * each;
		to = base + chunk / 8 * perPiece + first * 128 + chunk % 8 * 16;
	}

	// copy copies to the block the given bytes behind. from is the head; stride, between rows, is in bytes; index tells which
	// row comes to be the i-th of the group.
	template <class F> DEVICE void copy(u32 behind, const u8 *from, u32 stride, F index) const {
		const bool idle = wide > chunks && chunk >= chunks;
		from += (idle ? 0 : chunk) * 16;
		const u32 base = to + behind;
		UNROLL for (int i = 0; i < each; i++) {
			const u8 *source = from + (u64)(u32)index(i) * stride;
			if (!idle) copy16((base ^ (i % 8 * 16)) + i * 128, source);
		}
	}
};

struct alignas(16) Four {
	u32 x[4];
};

// A Walk finds the keys whose bits are set, in ascending order. The four warps do it together: of each 4096 keys a warp
// keeps those of its quarter where all can read them.
struct Walk {
	const u32 *bits;
	u32 lane, warp;
	int from;    // key of the next words' first bit
	int limit;   // keys that there are bits for
	int found;   // bits seen
	int seen;    // the key of one of them
	u32 next[4]; // the lane's words of each quarter
	u32 *kept;

	DEVICE void load() {
		UNROLL for (int i = 0; i < 4; i++) {
			const int word = from / 32 + i * 32 + lane;
			next[i] = word * 32 < limit ? bits[word] : 0;
		}
	}

	DEVICE void begin() {
		from = found = seen = 0;
		load();
	}

	DEVICE void step() {
		u32 word = 0;
		int before = 0, sum = 0;
		UNROLL for (int i = 0; i < 4; i++) {
			const int n = add_all(__builtin_popcount(next[i]));
			if (i < (int)warp) before += n;
			if (i == (int)warp) word = next[i];
			sum += n;
			const u32 some = ballot(next[i] != 0);
			if (some) {
				const u32 top = 31 - __builtin_clz(some);
				seen = from + i * 1024 + top * 32 + __builtin_ctz(shuffle(next[i], top));
			}
		}
		const u32 key = from + warp * 1024 + lane * 32;
		const int n = __builtin_popcount(word);
		u32 at = found + before + scan(n, lane) - n;
		found += sum;
		from += 4096;
		load();
		ROLLED while (word) {
			kept[at % ring] = key + __builtin_ctz(word);
			word &= word - 1;
			at++;
		}
	}

	// reach sees to it that the keys of a block are kept. Beyond the end one of them stands again and again.
	DEVICE void reach(int block, int count) {
		const int end = (block + 1) * N, to = least(end, count);
		const bool some = found < to || to < end;
		ROLLED while (found < to) step();
		if (to < end) {
			const int at = block * N + warp * 32 + lane;
			if (at >= count && at < end) kept[at % ring] = seen;
		}
		if (some) sync_named(1, 128);
	}
};

// A Work is a tile of a head, ready to be done.
struct Work {
	int from, to, start; // as in Tile
	int head;            // −1: there is nothing left to do
	int set;             // keys that bits name
	int words;           // of bits
	i64 bits;            // where they are
};

struct Shared {
	u8 q[queryBytes];
	u8 k[keyStages][blockBytes];
	u8 v[valueStages][blockBytes];
	alignas(16) u32 kept[ring];
	u64 queriesFull, queriesEmpty, keysFull[keyStages], keysEmpty[keyStages], valuesFull[valueStages], valuesEmpty[valueStages];
	u64 workFull[2], workEmpty[2];
	Work work[2];
};

constexpr int anchorStages = 3;

struct AnchorShared {
	u8 q[queryBytes];
	u8 k[anchorStages][blockBytes];
	u64 queriesFull, queriesEmpty, keysFull[anchorStages], keysEmpty[anchorStages];
};

// visit tells which tile and head a piece of work is: heads in sections, in each the tiles of all heads in turn, so that
// blocks running at a time share keys and values. It returns false when there is no more.
DEVICE bool visit(const Args &a, u32 work, Tile &t, int &head) {
	if (work >= (u32)a.tileCount * a.heads) return false;
	const u32 all = a.tileCount * a.section;
	const u32 section = work / all, in = work % all;
	const u32 wide = least(a.section, a.heads - section * a.section);
	t = a.tiles[in / wide];
	head = section * a.section + in % wide;
	return true;
}

// ready looks up what there is to know of a piece of work.
DEVICE void ready(const Args &a, u32 work, Work &w) {
	Tile t;
	int head;
	if (!visit(a, work, t, head)) {
		w.head = -1;
		return;
	}
	w.from = t.from, w.to = t.to, w.start = t.start, w.head = head, w.set = 0;
	if (t.group < 0) return;
	const i64 from = a.words[t.group];
	w.set = a.counts[head * a.groups + t.group];
	w.words = a.words[t.group + 1] - from;
	w.bits = head * a.words[a.groups] + from;
}

// A Turn is the next of some stages, and the parity of the phase that its barriers are in.
template <int stages> struct Turn {
	int stage = 0, phase = 0;
	DEVICE void advance() {
		stage++;
		if (stage == stages) stage = 0, phase ^= 1;
	}
};

// scores starts the products of a warpgroup's 64 rows with a block of keys, by the descriptors of both.
DEVICE void scores(float *s, u64 q, u64 k) {
	UNROLL for (int i = 0; i < dim / 16; i++) {
		const u64 a = q + ((i / 4 * (rows * 128) + i % 4 * 32) >> 4);
		const u64 b = k + ((i / 4 * (N * 128) + i % 4 * 32) >> 4);
		if (N == 64) shared64(s, a, b, i > 0);
		else shared128(s, a, b, i > 0);
	}
	products_commit();
}

// sums starts to add the products of weights with a block of values.
DEVICE void sums(float *o, const u32 *p, u64 v) {
	UNROLL for (int i = 0; i < N / 16; i++) {
		const u64 b = v + (i * 2048 >> 4);
		if (dim == 64) registers64T(o, p + 4 * i, b, 1);
		else if (dim == 96) registers96T(o, p + 4 * i, b, 1);
		else {
			registers128T(o, p + 4 * i, b, 1);
			if (dim == 256) registers128T(o + 64, p + 4 * i, b + (2 * N * 128 >> 4), 1);
		}
	}
	products_commit();
}

constexpr float infinity = __builtin_inff();

// A warpgroup's part of a tile of scores: thread t holds, of row t/32·16 + t%32/4 + 8·r, columns t%4·2 + 8·i + {0, 1} at
// s[4·i + 2·r + {0, 1}].

// hide makes scores −∞ in columns from the given one of each row on.
DEVICE void hide(float *s, const int *from, int lane) {
	UNROLL for (int i = 0; i < N / 2; i++) {
		const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
		if (column >= from[i / 2 % 2]) s[i] = -infinity;
	}
}

KERNEL(384, 1) attend(const Args a) {
	Shared &mem = *(Shared *)shared_memory;
	const int warp = thread() / 32, lane = thread() % 32;
	const u32 queriesFull = address(&mem.queriesFull), queriesEmpty = address(&mem.queriesEmpty);
	const u32 keysFull = address(mem.keysFull), keysEmpty = address(mem.keysEmpty);
	const u32 valuesFull = address(mem.valuesFull), valuesEmpty = address(mem.valuesEmpty);
	const u32 workFull = address(mem.workFull), workEmpty = address(mem.workEmpty);
	if (thread() == 0) {
		barrier_init(queriesFull, 128);
		barrier_init(queriesEmpty, 8);
		for (int i = 0; i < keyStages; i++) {
			barrier_init(keysFull + 8 * i, 128);
			barrier_init(keysEmpty + 8 * i, 8);
		}
		for (int i = 0; i < valueStages; i++) {
			barrier_init(valuesFull + 8 * i, 128);
			barrier_init(valuesEmpty + 8 * i, 8);
		}
		for (int i = 0; i < 2; i++) {
			barrier_init(workFull + 8 * i, 1);
			barrier_init(workEmpty + 8 * i, 12);
		}
		barriers_ready();
	}
	sync();
	Turn<2> works;
	Work t;
	// Takes the next piece of work, which thread 0 hands out. Returns false if there is none.
	auto take = [&]() INLINE {
		barrier_wait(workFull + 8 * works.stage, works.phase);
		t = mem.work[works.stage];
		sync_warp();
		if (lane == 0) barrier_arrive(workEmpty + 8 * works.stage);
		works.advance();
		return t.head >= 0;
	};

	if (warp < 4) { // the producers: copy queries, keys and values
		registers_give<producerRegisters>();
		Copier<rows / 4, rows * 128> queryRows;
		queryRows.begin(address(mem.q), warp, lane);
		Copier<N / 4, N * 128> keyRows, valueRows;
		keyRows.begin(address(mem.k[0]), warp, lane);
		valueRows.begin(address(mem.v[0]), warp, lane);
		Walk walk;
		walk.lane = lane, walk.warp = warp, walk.kept = mem.kept;
		Turn<keyStages> keys;
		Turn<valueStages> values;
		int queries = 1;
		if (thread() == 0) {
			ready(a, block(), mem.work[0]);
			barrier_arrive(workFull);
		}
		while (take()) {
			const int head = t.head, kvHead = head / a.shared, set = t.set;
			const int setBlocks = (set + N - 1) / N;
			const int blocks = setBlocks + (t.to - t.start + N - 1) / N;
			barrier_wait(queriesEmpty, queries);
			queries ^= 1;
			const int firstRow = t.from - a.first, lastRow = t.to - 1 - a.first;
			queryRows.copy(0, a.q + 2 * head * a.qHead, 2 * a.qRow, [&](int i) INLINE { return least(firstRow + queryRows.first + i, lastRow); });
			barrier_arrive_copied(queriesFull);
			const u8 *k = a.k + 2 * kvHead * a.kHead, *v = a.v + 2 * kvHead * a.vHead;
			if (set) {
				walk.bits = a.bits + t.bits;
				walk.limit = t.words * 32;
				walk.begin();
				sync_named(1, 128); // the tile before needs what is kept no more
			}
			auto copy = [&](const Copier<N / 4, N * 128> &c, int block, u32 behind, const u8 *from, u32 stride) INLINE {
				if (block < setBlocks) {
					const Four *kept = (const Four *)(mem.kept + (block * N + c.first) % ring);
					constexpr int each = Copier<N / 4, N * 128>::each;
					Four four[each / 4];
					UNROLL for (int i = 0; i < each / 4; i++) four[i] = kept[i];
					c.copy(behind, from, stride, [&](int i) INLINE { return four[i / 4].x[i % 4]; });
				} else {
					const int first = t.start + (block - setBlocks) * N + c.first;
					c.copy(behind, from, stride, [&](int i) INLINE { return least(first + i, t.to - 1); });
				}
			};
			// Consumers want a block's keys before the values of the block before.
			ROLLED for (int b = 0; b <= blocks; b++) {
				if (b < setBlocks) walk.reach(b, set);
				if (b < blocks) {
					barrier_wait(keysEmpty + 8 * keys.stage, keys.phase ^ 1);
					copy(keyRows, b, keys.stage * blockBytes, k, 2 * a.kRow);
					barrier_arrive_copied(keysFull + 8 * keys.stage);
					keys.advance();
				}
				// What comes next is looked up while the first blocks are on their way. works are those after this piece.
				if (b == least(2, blocks)) {
					if (thread() == 0) {
						barrier_wait(workEmpty + 8 * works.stage, works.phase ^ 1);
						ready(a, count_up(a.next) + grid(), mem.work[works.stage]);
						barrier_arrive(workFull + 8 * works.stage);
					}
					sync_warp();
				}
				if (b > 0) {
					barrier_wait(valuesEmpty + 8 * values.stage, values.phase ^ 1);
					copy(valueRows, b - 1, values.stage * blockBytes, v, 2 * a.vRow);
					barrier_arrive_copied(valuesFull + 8 * values.stage);
					values.advance();
				}
			}
		}
		copies_commit();
		copies_wait<0>(); // none may be under way when the block ends
		return;
	}

	// The consumers: two warpgroups of 64 rows each.
	registers_set<consumerRegisters>();
	const int half = warp / 4 - 1;
	const int row = half * 64 + warp % 4 * 16 + lane / 4;
	const u64 queryRows = descriptor(address(mem.q) + half * 64 * 128, 16);
	const u64 keyRows = descriptor(address(mem.k[0]), 16), valueRows = descriptor(address(mem.v[0]), N * 128);
	const float scale = a.scale * log2e;
	Turn<keyStages> keys;
	Turn<valueStages> values;
	int queries = 0;
	// The warpgroups take turns at starting products, so that one does its exponentials while the other's products run.
	if (half == 1) arrive_named(2, 256);

	while (take()) {
		const int head = t.head, set = t.set;
		const int setBlocks = (set + N - 1) / N;
		const int blocks = setBlocks + (t.to - t.start + N - 1) / N;
		const int least_position = least(t.from + half * 64, t.to - 1);
		const int position = t.from + row, last = t.to - 1;
		float s[N / 2], o[dim / 2], top[2] = {-infinity, -infinity}, sum[2] = {0, 0}, by[2];
		u32 p[N / 4];

		// Masks what rows do not see of block b.
		auto mask = [&](int b) INLINE {
			int from[2];
			if (b < setBlocks) {
				if ((b + 1) * N <= set) return;
				from[0] = from[1] = set - b * N;
			} else {
				const int key = t.start + (b - setBlocks) * N;
				if (key + N - 1 <= least_position) return;
				from[0] = least(position, last) + 1 - key, from[1] = least(position + 8, last) + 1 - key;
			}
			hide(s, from, lane);
		};
		// Turns scores into weights, and keeps account of the largest and the sum; by is what sums so far are worth.
		auto softmax = [&]() INLINE {
			UNROLL for (int r = 0; r < 2; r++) {
				float x = top[r];
				UNROLL for (int i = 0; i < N / 8; i++) x = __builtin_fmaxf(x, __builtin_fmaxf(s[4 * i + 2 * r], s[4 * i + 2 * r + 1]));
				x = __builtin_fmaxf(x, shuffle_xor(x, 1));
				x = __builtin_fmaxf(x, shuffle_xor(x, 2));
				by[r] = exp2((top[r] - x) * scale);
				top[r] = x;
				const float least = x * scale;
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
		};
		auto weights = [&]() INLINE {
			UNROLL for (int i = 0; i < N / 4; i++) p[i] = pack(s[2 * i], s[2 * i + 1]);
		};

		barrier_wait(queriesFull, queries);
		queries ^= 1;
		barrier_wait(keysFull + 8 * keys.stage, keys.phase);
		fence_async();
		sync_named(2 + half, 256);
		pin<N / 2>(s);
		products_begin();
		scores(s, queryRows, keyRows + keys.stage * (blockBytes >> 4));
		arrive_named(3 - half, 256);
		products_wait<0>();
		pin<N / 2>(s);
		if (lane == 0) barrier_arrive(keysEmpty + 8 * keys.stage);
		keys.advance();
		mask(0);
		softmax();
		weights();
		UNROLL for (int i = 0; i < dim / 2; i++) o[i] = 0;

		if (blocks > 1) barrier_wait(keysFull + 8 * keys.stage, keys.phase);
		ROLLED for (int b = 1; b < blocks; b++) {
			fence_async();
			sync_named(2 + half, 256);
			pin<N / 2>(s), pin<dim / 2>(o), pin<N / 4>(p);
			products_begin();
			scores(s, queryRows, keyRows + keys.stage * (blockBytes >> 4));
			barrier_wait(valuesFull + 8 * values.stage, values.phase);
			fence_async();
			products_begin();
			sums(o, p, valueRows + values.stage * (blockBytes >> 4));
			arrive_named(3 - half, 256);
			products_wait<1>();
			pin<N / 2>(s);
			if (lane == 0) barrier_arrive(keysEmpty + 8 * keys.stage);
			keys.advance();
			mask(b);
			softmax();
			pin<N / 2>(s);
			// The assembler would move the wait for the sums before all that, were it not for the loop in this one.
			if (b + 1 < blocks) barrier_wait(keysFull + 8 * keys.stage, keys.phase);
			products_wait<0>();
			pin<dim / 2>(o), pin<N / 4>(p);
			if (lane == 0) barrier_arrive(valuesEmpty + 8 * values.stage);
			values.advance();
			UNROLL for (int i = 0; i < dim / 2; i++) o[i] *= by[i / 2 % 2];
			weights();
		}
		if (lane == 0) barrier_arrive(queriesEmpty);
		barrier_wait(valuesFull + 8 * values.stage, values.phase);
		fence_async();
		pin<dim / 2>(o), pin<N / 4>(p);
		products_begin();
		sums(o, p, valueRows + values.stage * (blockBytes >> 4));
		products_wait<0>();
		pin<dim / 2>(o), pin<N / 4>(p);
		if (lane == 0) barrier_arrive(valuesEmpty + 8 * values.stage);
		values.advance();

		UNROLL for (int r = 0; r < 2; r++) {
			sum[r] += shuffle_xor(sum[r], 1);
			sum[r] += shuffle_xor(sum[r], 2);
			if (position + 8 * r > last) continue;
			const i64 at = position + 8 * r - a.first;
			float *to = a.o + head * a.oHead + at * a.oRow + lane % 4 * 2;
			const float by = 1 / sum[r];
			UNROLL for (int i = 0; i < dim / 8; i++) {
				to[8 * i] = o[4 * i + 2 * r] * by;
				to[8 * i + 1] = o[4 * i + 2 * r + 1] * by;
			}
			if (lane % 4 == 0) a.lse[head * a.lseHead + at * a.lseRow] = (top[r] * scale + log2(sum[r])) * ln2;
		}
	}
}

// anchors writes each row's largest logit in its window: the first init keys, and those from local before its group to
// its own position. NaN where a logit is.
KERNEL(384, 1) anchors(const Args a) {
	AnchorShared &mem = *(AnchorShared *)shared_memory;
	const int warp = thread() / 32, lane = thread() % 32;
	const u32 queriesFull = address(&mem.queriesFull), queriesEmpty = address(&mem.queriesEmpty);
	const u32 keysFull = address(mem.keysFull), keysEmpty = address(mem.keysEmpty);
	if (thread() == 0) {
		barrier_init(queriesFull, 128);
		barrier_init(queriesEmpty, 8);
		for (int i = 0; i < anchorStages; i++) {
			barrier_init(keysFull + 8 * i, 128);
			barrier_init(keysEmpty + 8 * i, 8);
		}
		barriers_ready();
	}
	sync();
	Turn<anchorStages> keys;
	Turn<1> queries;
	Tile t;
	int head;
	// The window is the keys [0, init) and those from local on.
	int init, local, blocks;
	// The pieces of work of this block are every grid()-th.
	u32 work = block();
	auto take = [&]() INLINE {
		if (!visit(a, work, t, head)) return false;
		work += grid();
		local = most(t.start - a.local, 0), init = least(a.init, local);
		blocks = (init + t.to - local + N - 1) / N;
		return true;
	};

	if (warp < 4) {
		Copier<rows / 4, rows * 128> queryRows;
		queryRows.begin(address(mem.q), warp, lane);
		Copier<N / 4, N * 128> keyRows;
		keyRows.begin(address(mem.k[0]), warp, lane);
		while (take()) {
			barrier_wait(queriesEmpty, queries.phase ^ 1);
			const int firstRow = t.from - a.first, lastRow = t.to - 1 - a.first;
			queryRows.copy(0, a.q + 2 * head * a.qHead, 2 * a.qRow, [&](int i) INLINE { return least(firstRow + queryRows.first + i, lastRow); });
			barrier_arrive_copied(queriesFull);
			queries.advance();
			const u8 *k = a.k + 2 * (head / a.shared) * a.kHead;
			ROLLED for (int b = 0; b < blocks; b++) {
				const int first = b * N + keyRows.first;
				barrier_wait(keysEmpty + 8 * keys.stage, keys.phase ^ 1);
				keyRows.copy(keys.stage * blockBytes, k, 2 * a.kRow, [&](int i) INLINE { return least(first + i < init ? first + i : first + i - init + local, t.to - 1); });
				barrier_arrive_copied(keysFull + 8 * keys.stage);
				keys.advance();
			}
		}
		copies_commit();
		copies_wait<0>();
		return;
	}

	const int half = warp / 4 - 1;
	const int row = half * 64 + warp % 4 * 16 + lane / 4;
	const u64 queryRows = descriptor(address(mem.q) + half * 64 * 128, 16), keyRows = descriptor(address(mem.k[0]), 16);
	while (take()) {
		int position[2];
		UNROLL for (int r = 0; r < 2; r++) position[r] = least(t.from + row + 8 * r, t.to - 1);
		const int least_position = least(t.from + half * 64, t.to - 1);
		float s[N / 2], top[2] = {-infinity, -infinity}, odd[2] = {0, 0};
		barrier_wait(queriesFull, queries.phase);
		queries.advance();
		ROLLED for (int b = 0; b < blocks; b++) {
			barrier_wait(keysFull + 8 * keys.stage, keys.phase);
			fence_async();
			pin<N / 2>(s);
			products_begin();
			scores(s, queryRows, keyRows + keys.stage * (blockBytes >> 4));
			products_wait<0>();
			pin<N / 2>(s);
			if (lane == 0) barrier_arrive(keysEmpty + 8 * keys.stage);
			keys.advance();
			const int index = (b + 1) * N - 1;
			if ((index < init ? index : index - init + local) > least_position) {
				const int from[2] = {position[0] + 1 - local + init - b * N, position[1] + 1 - local + init - b * N};
				hide(s, from, lane);
			}
			UNROLL for (int i = 0; i < N / 2; i++) {
				const int r = i / 2 % 2;
				if (!(s[i] <= infinity)) odd[r] = s[i];
				top[r] = __builtin_fmaxf(top[r], s[i]);
			}
		}
		if (lane == 0) barrier_arrive(queriesEmpty);
		UNROLL for (int r = 0; r < 2; r++) {
			UNROLL for (int d = 1; d < 4; d *= 2) {
				top[r] = __builtin_fmaxf(top[r], shuffle_xor(top[r], d));
				odd[r] += shuffle_xor(odd[r], d);
			}
			if (lane % 4 == 0 && t.from + row + 8 * r < t.to)
				a.anchors[(i64)head * a.queries + t.from + row + 8 * r - a.first] = top[r] * a.scale + odd[r];
		}
	}
}

// blockRows finds the rows [from, to) of a group's block b that take part in the search, if there are candidates.
DEVICE void blockRows(const Args &a, int group, int b, int &from, int &to) {
	const int start = (a.firstGroup + group) * a.block * a.step, first = start + b * a.block;
	from = most(first, a.first);
	to = start - a.local > a.init ? least(least(first + a.block, a.denseFrom), a.keys) : 0;
}

// pool computes a block's mean query, as the sum of two elements, and its mean anchor.
KERNEL(256, 1) pool(const Args a) {
	constexpr int lanes = dim / 8; // threads that read a row, 16 bytes each
	constexpr int slices = 256 / lanes;
	float *partial = (float *)shared_memory; // [slices, dim + 1]
	const int b = block() % a.step, group = block() / a.step % a.groups, head = block() / a.step / a.groups;
	int from, to;
	blockRows(a, group, b, from, to);
	if (from >= to) return;
	const int slice = thread() / lanes, chunk = thread() % lanes;
	float x[8] = {}, anchor = 0;
	if (slice < slices) {
		for (int i = from + slice; i < to; i += slices) {
			const u32 *q = (const u32 *)(a.q + 2 * (head * a.qHead + (i64)(i - a.first) * a.qRow) + 16 * chunk);
			const u32 w[4] = {q[0], q[1], q[2], q[3]};
			UNROLL for (int c = 0; c < 4; c++) x[2 * c] += low(w[c]), x[2 * c + 1] += high(w[c]);
			if (chunk == 0) anchor += a.anchors[(i64)head * a.queries + i - a.first];
		}
		UNROLL for (int c = 0; c < 8; c++) partial[slice * (dim + 1) + chunk * 8 + c] = x[c];
		if (chunk == 0) partial[slice * (dim + 1) + dim] = anchor;
	}
	sync();
	const int pooled = a.shared * a.step;
	const i64 at = ((i64)(head / a.shared) * a.groups + group) * pooled + head % a.shared * a.step + b;
	for (int d = thread(); d <= dim; d += 256) {
		float sum = 0;
		for (int i = 0; i < slices; i++) sum += partial[i * (dim + 1) + d];
		sum /= to - from;
		if (d == dim) a.means[at] = sum;
		else {
			const u32 first = pack(sum, 0);
			const float left = sum - low(first);
			a.pool[at * dim + d] = first;
			a.pool[((i64)(a.heads / a.shared) * a.groups * pooled + at) * dim + d] = pack(left == left ? left : 0, 0);
		}
	}
}

// search scores keys against pooled queries and sets the bits of those that are kept, and of the window's keys before
// the group. A block does 64 pooled queries of the heads that share a KV head, and searchKeys keys.
constexpr int searchKeys = 2048, searchDepth = 3;
constexpr int searchN = 128;

DEVICE u32 spread(u32 x) { return (x & 3) | (x & 12) << 6 | (x & 48) << 12 | (x & 192) << 18; }

KERNEL(128, 1) search(const Args a) {
	const int size = a.block * a.step, pooled = a.shared * a.step;
	const int parts = (pooled + 63) / 64;
	const int chunks = ((a.firstGroup + a.groups - 1) * size + searchKeys - 1) / searchKeys;
	// The KV head varies slowest and the group fastest, so that blocks running at a time read the same keys.
	int unit = block();
	const int part = unit % parts;
	unit /= parts;
	const int group = unit % a.groups;
	unit /= a.groups;
	const int chunk = unit % chunks, kvHead = unit / chunks;
	const int start = (a.firstGroup + group) * size;
	const int from = chunk * searchKeys, to = least(from + searchKeys, start);
	const int local = most(start - a.local, 0), init = least(a.init, local);
	if (from >= to || init >= local || least(least(start + size, a.denseFrom), a.keys) <= most(start, a.first)) return;

	const int warp = thread() / 32, lane = thread() % 32;
	const u8 *k = a.k + 2 * kvHead * a.kHead;
	constexpr int tile = pieces * searchN * 128;
	Copier<32, searchN * 128> keyRows;
	keyRows.begin(address(shared_memory), warp, lane);
	const u64 blocks = descriptor(address(shared_memory), 16);
	auto copy = [&](int i) INLINE {
		if (from + i * searchN < to)
			keyRows.copy(i % searchDepth * tile, k, 2 * a.kRow, [&](int j) INLINE { return least(from + i * searchN + keyRows.first + j, to - 1); });
		copies_commit();
	};
	UNROLL for (int i = 0; i < searchDepth - 1; i++) copy(i);

	// The warp's 16 pooled queries, as left operands.
	const i64 base = ((i64)kvHead * a.groups + group) * pooled;
	const i64 rest = (i64)(a.heads / a.shared) * a.groups * pooled * dim;
	u32 q[2][dim / 4];
	float mean[2];
	int head[2];
	UNROLL for (int r = 0; r < 2; r++) {
		const int row = part * 64 + warp * 16 + lane / 4 + 8 * r;
		int rowFrom = 0, rowTo = 0;
		if (row < pooled) blockRows(a, group, row % a.step, rowFrom, rowTo);
		const bool valid = rowFrom < rowTo;
		head[r] = row < pooled ? row / a.step : -1;
		mean[r] = valid ? a.means[base + row] : 0;
		UNROLL for (int i = 0; i < dim / 8; i++) {
			const u32 *x = (const u32 *)(a.pool + (base + row) * dim + 8 * i + lane % 4 * 2);
			q[0][2 * i + r] = valid ? *x : 0;
			q[1][2 * i + r] = valid ? *(const u32 *)((const u16 *)x + rest) : 0;
		}
		if (!valid) head[r] = -1;
	}
	const int firstHead = (part * 64 + warp * 16) / a.step;
	const int lastHead = least((part * 64 + warp * 16 + 15) / a.step, a.shared - 1);

	float s[searchN / 2];
	for (int i = 0; from + i * searchN < to; i++) {
		copies_wait<searchDepth - 2>();
		fence_async();
		sync();
		copy(i + searchDepth - 1);
		pin<searchN / 2>(s);
		products_begin();
		UNROLL for (int j = 0; j < dim / 16; j++) {
			const u64 b = blocks + ((i % searchDepth * tile + j / 4 * (searchN * 128) + j % 4 * 32) >> 4);
			registers128(s, q[0] + 4 * j, b, j > 0);
			registers128(s, q[1] + 4 * j, b, 1);
		}
		products_commit();
		products_wait<0>();
		pin<searchN / 2>(s);
		u32 keep[2] = {0, 0};
		UNROLL for (int j = 0; j < searchN / 2; j++) {
			const int r = j / 2 % 2;
			if (!(mean[r] - s[j] * a.scale > a.theta)) keep[r] |= 1u << (j / 4 * 2 + j % 2);
		}
		for (int h = firstHead; h <= lastHead; h++) {
			u32 kept = (head[0] == h ? keep[0] : 0) | (head[1] == h ? keep[1] : 0);
			UNROLL for (int d = 4; d < 32; d *= 2) kept |= shuffle_xor(kept, d);
			u32 mine = 0;
			UNROLL for (int w = 0; w < 4; w++) {
				u32 word = spread(kept >> 8 * w & 255) << lane % 4 * 2;
				word |= shuffle_xor(word, 1);
				word |= shuffle_xor(word, 2);
				if (lane == w) mine = word;
			}
			const int key = from + i * searchN + lane * 32;
			if (lane < 4 && key < start) {
				// Bits [x, y) of a word are those below y less those below x.
				auto below = [&](int j) INLINE { return j <= key ? 0u : j - key >= 32 ? all : (1u << (j - key)) - 1; };
				const u32 candidates = below(local) & ~below(init);
				const u32 window = below(start) & ~candidates;
				const u32 word = (mine & candidates) | window;
				const i64 at = (kvHead * a.shared + h) * a.words[a.groups] + a.words[group] + key / 32;
				if (word) asm volatile("red.global.or.b32 [%0], %1;" ::"l"(a.bits + at), "r"(word) : "memory");
			}
		}
	}
	copies_wait<0>();
}

// count counts the bits of each head and group.
KERNEL(128, 1) count(const Args a) {
	const int list = block() * 4 + thread() / 32, lane = thread() % 32;
	if (list >= a.heads * a.groups) return;
	const int head = list / a.groups, group = list % a.groups;
	const u32 *bits = a.bits + head * a.words[a.groups] + a.words[group];
	const int words = a.words[group + 1] - a.words[group];
	int n = 0;
	for (int i = lane; i < words; i += 32) n += __builtin_popcount(bits[i]);
	UNROLL for (int d = 1; d < 32; d *= 2) n += shuffle_xor((u32)n, d);
	if (lane == 0) a.counts[list] = n;
}
