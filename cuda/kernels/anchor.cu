// The kernels of the CUDA engine, for one size of heads (DIM) and one type of elements (HALF: half precision, else
// bfloat16). cuda/NOTES.md says what was measured.

#include "common.h"

// A Sequence is where the tensors of one are. Heads lie the given numbers of elements apart.
struct Sequence {
	Bytes q, k, v;
	GLOBAL float *o, *lse;   // lse: 0 if nobody wants it
	GLOBAL const u32 *pages; // the row, from k and v, at which each page of keys and values begins; 0: they are not paged
	i64 qHead, kHead, vHead, oHead, lseHead;
	i64 before;       // rows of the sequences before
	int first, none;  // position of the first row
};

// A Tile is at most 128 query rows, positions [from, to), of which each sees the keys that bits name, where there are
// bits, and those from start to its own position.
struct Tile {
	int sequence, from, to, start;
	int group; // that has the bits, among those of all sequences; −1: none
};

// A Group is the rows of a group, at positions from start on.
struct Group {
	i64 bits;        // where its bits are among those of a head, in words
	int words;       // how many
	int sequence, start;
	int from, to;    // positions of the rows that see stripes
	int init, local; // candidates are the keys [init, local)
	int none;
};

// Args are the arguments of all kernels.
struct Args {
	const Sequence *sequences;
	const Tile *tiles;
	const Group *groups;
	float *anchors;    // [heads, rows]: each row's largest logit in its window
	u16 *pool;         // [2, KV heads, groups, pooled, DIM]: mean queries, and what rounding them left
	float *means;      // [KV heads, groups, pooled]: mean anchors
	u32 *bits;         // by head and group: a bit for each key before the group
	int *counts;       // [heads, groups]: how many bits are set
	u32 *tally;        // tiles handed out beyond one for each block, by attend and by anchors; rows of the output that are not finite

	i64 rows, words;   // of all sequences; of bits of a head
	u32 qStep, kvStep;    // from one row to the next, in pieces of 16 bytes
	u32 oStep, lseStep;   // and in numbers
	int pageShift;        // pages have 1 << pageShift rows

	int heads, shared;    // query heads, and how many share a KV head
	int tileCount, section; // tiles of a head; query heads that are done together
	int groupCount, chunks; // of all sequences; of searchKeys keys before the last group of the longest
	int block, step;        // parameters
	float scale, theta;
};

static_assert(sizeof(Sequence) == 104 && sizeof(Tile) == 20 && sizeof(Group) == 40 && sizeof(Args) == 152, "as in plan.go");

constexpr int dim = DIM;
constexpr int pieces = (dim + 63) / 64;          // of 64 columns
constexpr int N = dim > 128 ? 64 : 128;          // keys in a block
constexpr int rows = 128;                        // in a tile
constexpr int keyStages = dim > 128 ? 2 : 3;     // blocks of keys in shared memory
constexpr int valueStages = 2;                   // blocks of values there
constexpr int producerRegisters = dim > 128 ? 72 : 104, consumerRegisters = dim > 128 ? 216 : 200; // of 168 for each thread
constexpr int queryBytes = pieces * rows * 128;
constexpr int blockBytes = pieces * N * 128;
constexpr int ring = 8192;                       // keys that are kept
constexpr float log2e = 1.44269504088896340736f, ln2 = 0.69314718055994530942f;

// Pages tell where keys and values are.
struct Pages {
	GLOBAL const u32 *first;
	int shift;
	// row returns the row at which a key lies.
	DEVICE u32 row(int key) const { return first ? first[key >> shift] + (key & ((1 << shift) - 1)) : key; }
};

typedef u32 Four __attribute__((ext_vector_type(4)));

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

	DEVICE bool idle() const { return wide > chunks && chunk >= chunks; }

	// base returns where rows go in the block the given bytes behind. The compiler is not to work out ahead what follows from
	// it, which it has no registers to hold.
	DEVICE u32 base(u32 behind) const {
		u32 x = to + behind;
		asm volatile("" : "+r"(x));
		return x;
	}

	// find looks up where the rows of a group are, given the head and how far behind it each lies, in pieces of 16 bytes.
	DEVICE void find(Bytes *source, Bytes from, const u32 *offsets) const {
		from += (idle() ? 0 : chunk) * 16;
		const Four *four = (const Four *)offsets;
		UNROLL for (int i = 0; i < each; i++) source[i] = from + (u64)four[i / 4][i % 4] * 16;
	}

	// copy copies rows that were looked up to the block the given bytes behind.
	DEVICE void copy(u32 behind, const Bytes *source) const {
		const u32 to = base(behind);
		UNROLL for (int i = 0; i < each; i++) {
			if (!idle()) copy16((to ^ (i % 8 * 16)) + i * 128, source[i]);
		}
	}

	// copySlowly copies rows, of which offset tells how far behind the head the i-th of the group lies.
	template <class F> DEVICE void copySlowly(u32 behind, Bytes from, F offset) const {
		from += (idle() ? 0 : chunk) * 16;
		u32 to = base(behind);
		ROLLED for (int at = 0; at < each; at += 8, to += 8 * 128) {
			UNROLL for (int i = 0; i < 8; i++) {
				const Bytes source = from + (u64)(u32)offset(at + i) * 16;
				if (!idle()) copy16((to ^ (i * 16)) + i * 128, source);
			}
		}
	}

	// consecutive copies the rows from the given one on, to the last, which stands for those after it too.
	DEVICE void consecutive(u32 behind, Bytes from, u32 step, int at, int last, Pages pages) const {
		if (!pages.first && step == dim / 8 && at + 4 * count - 1 <= last) {
			from += (u64)(u32)(at + first) * (2 * dim) + chunk * 16;
			const u32 to = base(behind);
			UNROLL for (int i = 0; i < each; i++) {
				if (!idle()) copy16((to ^ (i % 8 * 16)) + i * 128, from + i * 2 * dim);
			}
		} else copySlowly(behind, from, [&](int i) INLINE { return pages.row(least(at + first + i, last)) * step; });
	}
};

typedef float Two __attribute__((ext_vector_type(2)));

// A Work is a tile of a head, ready to be done.
struct Work {
	int from, to, start; // as in Tile
	int set;             // keys that bits name; −1: there is nothing left to do
	int words;           // of bits
	GLOBAL const u32 *bits, *pages;
	Bytes q, k, v;           // the first row, and the heads
	GLOBAL float *o, *lse;   // of the first row
};

// A Walk finds the keys whose bits are set, in ascending order. The four warps do it together: of each 4096 keys a warp
// keeps those of its quarter where all can read them.
struct Walk {
	u32 lane, warp;
	int from;    // key of the next words' first bit
	int found;   // bits seen
	u32 next[4]; // the lane's words of each quarter
	u32 *kept;   // where keys lie, as offsets of a Copier
	int pageShift;
	u32 apart;   // from one row to the next

	DEVICE void load(const Work &t) {
		UNROLL for (int i = 0; i < 4; i++) {
			const int word = from / 32 + i * 32 + lane;
			next[i] = word < t.words ? t.bits[word] : 0;
		}
	}

	DEVICE void begin(const Work &t) {
		from = found = 0;
		load(t);
	}

	DEVICE void step(const Work &t) {
		u32 word = 0;
		int before = 0, sum = 0;
		UNROLL for (int i = 0; i < 4; i++) {
			const int n = add_all(__builtin_popcount(next[i]));
			if (i < (int)warp) before += n;
			if (i == (int)warp) word = next[i];
			sum += n;
		}
		const u32 key = from + warp * 1024 + lane * 32;
		const int n = __builtin_popcount(word);
		u32 at = found + before + scan(n, lane) - n;
		found += sum;
		from += 4096;
		load(t);
		const Pages pages = {t.pages, pageShift};
		ROLLED while (word) {
			kept[at % ring] = pages.row(key + __builtin_ctz(word)) * apart;
			word &= word - 1;
			at++;
		}
	}

	// reach sees to it that the keys of a block are kept. Beyond the end the last stands again and again.
	DEVICE void reach(const Work &t, int block, int count) {
		const int end = (block + 1) * N, to = least(end, count);
		if (found < to) {
			ROLLED do step(t);
			while (found < to);
			sync_named(1, 128);
		}
		if (to < end) {
			const int at = block * N + warp * 32 + lane;
			const u32 last = kept[(count - 1) % ring];
			if (at >= count && at < end) kept[at % ring] = last;
			sync_named(1, 128);
		}
	}
};

// A Turn is the next of some stages, and the parity of the phase that its barriers are in.
template <int stages> struct Turn {
	int stage = 0, phase = 0;
	DEVICE void advance() {
		stage++;
		if (stage == stages) stage = 0, phase ^= 1;
	}
};

// A Feed is pieces of work that thread 0 hands out, a few ahead, to the 384 threads of a block.
template <class T> struct Feed {
	static constexpr int stages = 3;
	u64 full[stages], empty[stages];
	T work[stages];

	DEVICE void init() {
		for (int i = 0; i < stages; i++) {
			barrier_init(address(full + i), 1);
			barrier_init(address(empty + i), 384);
		}
	}
};

// A Reader takes a thread's work from a feed.
template <class T> struct Reader {
	Feed<T> &feed;
	Turn<Feed<T>::stages> turn;

	// take waits for a piece, which item is until it is done.
	DEVICE const T &take() {
		barrier_wait(address(feed.full + turn.stage), turn.phase);
		return item();
	}
	DEVICE const T &item() { return feed.work[turn.stage]; }
	DEVICE void done() {
		barrier_arrive(address(feed.empty + turn.stage));
		turn.advance();
	}
	// room waits until there is room for the piece so many after the next to be taken, and give hands that out.
	DEVICE T &room(int after) {
		Turn<Feed<T>::stages> t = turn;
		if (after) t.advance();
		barrier_wait(address(feed.empty + t.stage), t.phase ^ 1);
		return feed.work[t.stage];
	}
	DEVICE void give(int after) {
		Turn<Feed<T>::stages> t = turn;
		if (after) t.advance();
		barrier_arrive(address(feed.full + t.stage));
	}
};

struct Shared {
	u8 q[queryBytes];
	u8 k[keyStages][blockBytes];
	u8 v[valueStages][blockBytes];
	alignas(16) u32 kept[ring];
	u64 queriesFull, queriesEmpty, keysFull[keyStages], keysEmpty[keyStages], valuesFull[valueStages], valuesEmpty[valueStages];
	Feed<Work> feed;
};

constexpr int anchorStages = 3;
constexpr int anchorRows = 256; // in a tile: without values, half as many reads of keys are worth the room

// A Window is a tile of a head, ready for its anchors.
struct Window {
	int from, to;    // as in Tile, but for the number
	int init, local; // the keys are [0, init) and those from local on
	int blocks;      // of keys; 0: there is nothing left to do
	Bytes q, k;      // the first row, and the head
	GLOBAL const u32 *pages;
	GLOBAL float *anchors; // of the first row
};

struct AnchorShared {
	u8 q[pieces * anchorRows * 128];
	u8 k[anchorStages][blockBytes];
	u64 queriesFull, queriesEmpty, keysFull[anchorStages], keysEmpty[anchorStages];
	Feed<Window> feed;
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
		w.set = -1;
		return;
	}
	const Sequence &s = a.sequences[t.sequence];
	const int kvHead = head / a.shared;
	const i64 row = t.from - s.first;
	w.from = t.from, w.to = t.to, w.start = t.start, w.set = 0, w.pages = s.pages;
	w.q = s.q + 2 * head * s.qHead + row * a.qStep * 16;
	w.k = s.k + 2 * kvHead * s.kHead;
	w.v = s.v + 2 * kvHead * s.vHead;
	w.o = s.o + head * s.oHead + row * a.oStep;
	w.lse = s.lse ? s.lse + head * s.lseHead + row * a.lseStep : 0;
	if (t.group < 0) return;
	const Group &g = a.groups[t.group];
	w.set = a.counts[head * a.groupCount + t.group];
	w.words = g.words;
	w.bits = (GLOBAL const u32 *)a.bits + head * a.words + g.bits;
}

// scores starts the products of 64 of the given number of rows with a block of keys, by the descriptors of both.
template <int rows> DEVICE void scores(float *s, u64 q, u64 k) {
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
	// Columns less the thread's first are numbers that take no register.
	const int first = lane % 4 * 2, rest[2] = {from[0] - first, from[1] - first};
	UNROLL for (int i = 0; i < N / 2; i++) {
		if (i / 4 * 8 + i % 2 >= rest[i / 2 % 2]) s[i] = -infinity;
	}
}

KERNEL(384, 1) attend(const Args a) {
	Shared &mem = *(Shared *)shared_memory;
	const int warp = thread() / 32, lane = thread() % 32;
	const u32 queriesFull = address(&mem.queriesFull), queriesEmpty = address(&mem.queriesEmpty);
	const u32 keysFull = address(mem.keysFull), keysEmpty = address(mem.keysEmpty);
	const u32 valuesFull = address(mem.valuesFull), valuesEmpty = address(mem.valuesEmpty);
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
		mem.feed.init();
		barriers_ready();
	}
	sync();
	Reader<Work> works = {mem.feed};

	if (warp < 4) { // the producers: copy queries, keys and values
		registers_give<producerRegisters>();
		Copier<rows / 4, rows * 128> queryRows;
		queryRows.begin(address(mem.q), warp, lane);
		Copier<N / 4, N * 128> keyRows, valueRows;
		keyRows.begin(address(mem.k[0]), warp, lane);
		valueRows.begin(address(mem.v[0]), warp, lane);
		Walk walk;
		walk.lane = lane, walk.warp = warp, walk.kept = mem.kept, walk.pageShift = a.pageShift, walk.apart = a.kvStep;
		Turn<keyStages> keys;
		Turn<valueStages> values;
		int queries = 1;
		u32 next;
		if (thread() == 0) {
			ready(a, block(), works.room(0));
			works.give(0);
		}
		ROLLED for (;;) {
			const Work &t = works.take();
			const int set = t.set, setBlocks = (set + N - 1) / N;
			const int blocks = setBlocks + (t.to - t.start + N - 1) / N;
			if (set < 0) break;
			if (set) {
				walk.begin(t);
				sync_named(1, 128); // the tile before needs what is kept no more
			}
			barrier_wait(queriesEmpty, queries);
			queries ^= 1;
			queryRows.consecutive(0, t.q, a.qStep, 0, t.to - 1 - t.from, Pages{});
			barrier_arrive_copied(queriesFull);
			// Copies a block as soon as there is room. What can be looked up before is.
			auto copy = [&](const Copier<N / 4, N * 128> &c, int block, u32 behind, Bytes from, u32 empty, int phase) INLINE {
				if (block < setBlocks) {
					Bytes source[Copier<N / 4, N * 128>::each];
					c.find(source, from, mem.kept + (block * N + c.first) % ring);
					barrier_wait(empty, phase ^ 1);
					c.copy(behind, source);
				} else {
					barrier_wait(empty, phase ^ 1);
					c.consecutive(behind, from, a.kvStep, t.start + (block - setBlocks) * N, t.to - 1, Pages{t.pages, a.pageShift});
				}
			};
			// Consumers want a block's keys before the values of the block before.
			ROLLED for (int b = 0; b <= blocks; b++) {
				if (b < setBlocks) walk.reach(t, b, set);
				if (b < blocks) {
					copy(keyRows, b, keys.stage * blockBytes, t.k, keysEmpty + 8 * keys.stage, keys.phase);
					barrier_arrive_copied(keysFull + 8 * keys.stage);
					keys.advance();
				}
				// What comes next is looked up while the first blocks are on their way. works are those after this piece.
				if (b == least(2, blocks) && thread() == 0) next = count_up(a.tally) + grid();
				if (b == least(4, blocks)) {
					if (thread() == 0) {
						ready(a, next, works.room(1));
						works.give(1);
					}
					sync_warp();
				}
				if (b > 0) {
					copy(valueRows, b - 1, values.stage * blockBytes, t.v, valuesEmpty + 8 * values.stage, values.phase);
					barrier_arrive_copied(valuesFull + 8 * values.stage);
					values.advance();
				}
			}
			works.done();
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

	ROLLED for (;;) {
		const int set = works.take().set;
		if (set < 0) break;
		const int setBlocks = (set + N - 1) / N;
		const int blocks = setBlocks + (works.item().to - works.item().start + N - 1) / N;
		float s[N / 2], o[dim / 2], top[2] = {-infinity, -infinity}, sum[2] = {0, 0}, by[2];
		u32 p[N / 4];

		// Masks what rows do not see of block b: in the last one of those that bits name, if it is filled up, and in those that
		// reach beyond the first row's own position.
		const int filled = set % N ? setBlocks - 1 : -1;
		const int reaching = setBlocks + (least(works.item().from + half * 64, works.item().to - 1) + 1 - works.item().start) / N;
		auto mask = [&](int b) INLINE {
			if (b != filled && b < reaching) return;
			const Work &t = works.item();
			int from[2];
			if (b < reaching) from[0] = from[1] = t.set - b * N;
			else {
				const int before = 1 - t.start - (b - (t.set + N - 1) / N) * N;
				UNROLL for (int r = 0; r < 2; r++) from[r] = least(t.from + row + 8 * r, t.to - 1) + before;
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
		scores<rows>(s, queryRows, keyRows + keys.stage * (blockBytes >> 4));
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
			scores<rows>(s, queryRows, keyRows + keys.stage * (blockBytes >> 4));
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
			const float by = 1 / sum[r];
			float odd = 0; // NaN if a number of the row is not finite
			UNROLL for (int i = 0; i < dim / 8; i++) {
				UNROLL for (int j = 0; j < 2; j++) odd += 0 * (o[4 * i + 2 * r + j] *= by);
			}
			odd += shuffle_xor(odd, 1);
			odd += shuffle_xor(odd, 2);
			const Work &work = works.item();
			const int at = row + 8 * r;
			if (work.from + at >= work.to) continue;
			GLOBAL float *to = work.o + (i64)at * a.oStep + lane % 4 * 2;
			UNROLL for (int i = 0; i < dim / 8; i++) *(GLOBAL Two *)(to + 8 * i) = Two{o[4 * i + 2 * r], o[4 * i + 2 * r + 1]};
			if (lane % 4 != 0) continue;
			if (odd != 0) count_up(a.tally + 2);
			if (work.lse) work.lse[(i64)at * a.lseStep] = (top[r] * scale + log2(sum[r])) * ln2;
		}
		works.done();
	}
}

DEVICE void ready(const Args &a, u32 work, Window &w) {
	Tile t;
	int head;
	if (!visit(a, work, t, head)) {
		w.blocks = 0;
		return;
	}
	const Sequence &s = a.sequences[t.sequence];
	const Group &g = a.groups[t.group];
	const i64 row = t.from - s.first;
	w.from = t.from, w.to = t.to, w.init = g.init, w.local = g.local;
	w.blocks = (g.init + t.to - g.local + N - 1) / N;
	w.q = s.q + 2 * head * s.qHead + row * a.qStep * 16;
	w.k = s.k + 2 * (head / a.shared) * s.kHead;
	w.pages = s.pages;
	w.anchors = (GLOBAL float *)a.anchors + head * a.rows + s.before + row;
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
		mem.feed.init();
		barriers_ready();
	}
	sync();
	Turn<anchorStages> keys;
	Turn<1> queries;
	Reader<Window> windows = {mem.feed};

	if (warp < 4) {
		Copier<anchorRows / 4, anchorRows * 128> queryRows;
		queryRows.begin(address(mem.q), warp, lane);
		Copier<N / 4, N * 128> keyRows;
		keyRows.begin(address(mem.k[0]), warp, lane);
		u32 next;
		if (thread() == 0) {
			ready(a, block(), windows.room(0));
			windows.give(0);
		}
		ROLLED for (;;) {
			const Window t = windows.take();
			windows.done();
			if (!t.blocks) break;
			const Pages pages = {t.pages, a.pageShift};
			barrier_wait(queriesEmpty, queries.phase ^ 1);
			queryRows.consecutive(0, t.q, a.qStep, 0, t.to - 1 - t.from, Pages{});
			barrier_arrive_copied(queriesFull);
			queries.advance();
			ROLLED for (int b = 0; b < t.blocks; b++) {
				barrier_wait(keysEmpty + 8 * keys.stage, keys.phase ^ 1);
				const int at = b * N;
				if (at + N <= t.init || at >= t.init) {
					keyRows.consecutive(keys.stage * blockBytes, t.k, a.kvStep, at < t.init ? at : at - t.init + t.local, t.to - 1, pages);
				} else {
					keyRows.copySlowly(keys.stage * blockBytes, t.k, [&](int i) INLINE {
						const int j = at + keyRows.first + i;
						return pages.row(least(j < t.init ? j : j - t.init + t.local, t.to - 1)) * a.kvStep;
					});
				}
				barrier_arrive_copied(keysFull + 8 * keys.stage);
				keys.advance();
				if (b == 0 && thread() == 0) next = count_up(a.tally + 1) + grid();
				if (b == least(2, t.blocks - 1)) {
					if (thread() == 0) {
						ready(a, next, windows.room(0));
						windows.give(0);
					}
					sync_warp();
				}
			}
		}
		copies_commit();
		copies_wait<0>();
		return;
	}

	// Each warpgroup has 128 rows in two parts, the scores of one part being made while those of the other are looked at.
	const int half = (warp / 4 - 1) * 128;
	const int row = half + warp % 4 * 16 + lane / 4;
	const u64 queryRows = descriptor(address(mem.q) + half * 128, 16), keyRows = descriptor(address(mem.k[0]), 16);
	ROLLED for (;;) {
		const Window t = windows.take();
		if (!t.blocks) break;
		float s[2][N / 2], top[4];
		UNROLL for (int i = 0; i < 4; i++) top[i] = -infinity;
		// look takes account of the scores of a part with block b.
		auto look = [&](float *s, int part, int b) INLINE {
			const int before = 1 - t.local + t.init - b * N; // columns less positions
			if (least(t.from + half + part * 64, t.to - 1) + before < N) {
				int from[2];
				UNROLL for (int r = 0; r < 2; r++) from[r] = least(t.from + row + part * 64 + 8 * r, t.to - 1) + before;
				hide(s, from, lane);
			}
			UNROLL for (int i = 0; i < N / 2; i++) {
				float &x = top[2 * part + i / 2 % 2];
				x = max(x, s[i]);
			}
		};
		barrier_wait(queriesFull, queries.phase);
		queries.advance();
		ROLLED for (int b = 0; b < t.blocks; b++) {
			barrier_wait(keysFull + 8 * keys.stage, keys.phase);
			const bool seen = least(t.from + half + 127, t.to - 1) - t.local + t.init >= b * N;
			if (seen) {
				fence_async();
				pin<N / 2>(s[0]), pin<N / 2>(s[1]);
				products_begin();
				scores<anchorRows>(s[0], queryRows, keyRows + keys.stage * (blockBytes >> 4));
				scores<anchorRows>(s[1], queryRows + (64 * 128 >> 4), keyRows + keys.stage * (blockBytes >> 4));
				products_wait<1>();
				pin<N / 2>(s[0]);
				look(s[0], 0, b);
				products_wait<0>();
				pin<N / 2>(s[1]);
			}
			if (lane == 0) barrier_arrive(keysEmpty + 8 * keys.stage);
			keys.advance();
			if (seen) look(s[1], 1, b);
		}
		if (lane == 0) barrier_arrive(queriesEmpty);
		UNROLL for (int i = 0; i < 4; i++) {
			UNROLL for (int d = 1; d < 4; d *= 2) top[i] = max(top[i], shuffle_xor(top[i], d));
			const int at = row + i / 2 * 64 + i % 2 * 8;
			if (lane % 4 == 0 && t.from + at < t.to) t.anchors[at] = top[i] * a.scale;
		}
		windows.done();
	}
}

// blockRows finds the rows [from, to) of a group's block b that take part in the search.
DEVICE void blockRows(const Args &a, const Group &g, int b, int &from, int &to) {
	const int first = g.start + b * a.block;
	from = most(first, g.from), to = least(first + a.block, g.to);
}

// pool computes a block's mean query, as the sum of two elements, and its mean anchor.
KERNEL(256, 1) pool(const Args a) {
	constexpr int lanes = dim / 8; // threads that read a row, 16 bytes each
	constexpr int slices = 256 / lanes;
	float *partial = (float *)shared_memory; // [slices, dim + 1]
	const int b = block() % a.step, group = block() / a.step % a.groupCount, head = block() / a.step / a.groupCount;
	const Group &g = a.groups[group];
	int from, to;
	blockRows(a, g, b, from, to);
	if (from >= to) return;
	const Sequence &s = a.sequences[g.sequence];
	const Bytes queries = s.q + 2 * head * s.qHead;
	const float *anchors = a.anchors + head * a.rows + s.before;
	const int slice = thread() / lanes, chunk = thread() % lanes;
	float x[8] = {}, anchor = 0;
	if (slice < slices) {
		for (int i = from + slice; i < to; i += slices) {
			const Four w = *(GLOBAL const Four *)(queries + (i64)(i - s.first) * a.qStep * 16 + 16 * chunk);
			UNROLL for (int c = 0; c < 4; c++) x[2 * c] += low(w[c]), x[2 * c + 1] += high(w[c]);
			if (chunk == 0) anchor += anchors[i - s.first];
		}
		UNROLL for (int c = 0; c < 8; c++) partial[slice * (dim + 1) + chunk * 8 + c] = x[c];
		if (chunk == 0) partial[slice * (dim + 1) + dim] = anchor;
	}
	sync();
	const int pooled = a.shared * a.step;
	const i64 at = ((i64)(head / a.shared) * a.groupCount + group) * pooled + head % a.shared * a.step + b;
	for (int d = thread(); d <= dim; d += 256) {
		float sum = 0;
		for (int i = 0; i < slices; i++) sum += partial[i * (dim + 1) + d];
		sum /= to - from;
		if (d == dim) a.means[at] = sum;
		else {
			const u32 first = pack(sum, 0);
			const float left = sum - low(first);
			a.pool[at * dim + d] = first;
			a.pool[((i64)(a.heads / a.shared) * a.groupCount * pooled + at) * dim + d] = pack(left == left ? left : 0, 0);
		}
	}
}

// search scores keys against pooled queries and sets the bits of those that are kept, and of the window's keys before
// the group. A block does 64 pooled queries of the heads that share a KV head, and searchKeys keys.
constexpr int searchKeys = 2048, searchDepth = 3;
constexpr int searchN = 128;

DEVICE u32 spread(u32 x) { return (x & 3) | (x & 12) << 6 | (x & 48) << 12 | (x & 192) << 18; }

KERNEL(128, 1) search(const Args a) {
	const int pooled = a.shared * a.step;
	const int parts = (pooled + 63) / 64;
	// The KV head varies slowest and the group fastest, so that blocks running at a time read the same keys.
	int unit = block();
	const int part = unit % parts;
	unit /= parts;
	const int group = unit % a.groupCount;
	unit /= a.groupCount;
	const int chunk = unit % a.chunks, kvHead = unit / a.chunks;
	const Group g = a.groups[group];
	const int start = g.start, init = g.init, local = g.local;
	const int from = chunk * searchKeys, to = least(from + searchKeys, start);
	if (from >= to || g.from >= g.to) return;

	const int warp = thread() / 32, lane = thread() % 32;
	const Sequence &s = a.sequences[g.sequence];
	const Bytes k = s.k + 2 * kvHead * s.kHead;
	const Pages pages = {s.pages, a.pageShift};
	constexpr int tile = pieces * searchN * 128;
	Copier<32, searchN * 128> keyRows;
	keyRows.begin(address(shared_memory), warp, lane);
	const u64 blocks = descriptor(address(shared_memory), 16);
	auto copy = [&](int i) INLINE {
		if (from + i * searchN < to) keyRows.consecutive(i % searchDepth * tile, k, a.kvStep, from + i * searchN, to - 1, pages);
		copies_commit();
	};
	UNROLL for (int i = 0; i < searchDepth - 1; i++) copy(i);

	// The warp's 16 pooled queries, as left operands.
	const i64 base = ((i64)kvHead * a.groupCount + group) * pooled;
	const i64 rest = (i64)(a.heads / a.shared) * a.groupCount * pooled * dim;
	u32 q[2][dim / 4];
	float mean[2];
	int head[2];
	UNROLL for (int r = 0; r < 2; r++) {
		const int row = part * 64 + warp * 16 + lane / 4 + 8 * r;
		int rowFrom = 0, rowTo = 0;
		if (row < pooled) blockRows(a, g, row % a.step, rowFrom, rowTo);
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

	float x[searchN / 2];
	for (int i = 0; from + i * searchN < to; i++) {
		copies_wait<searchDepth - 2>();
		fence_async();
		sync();
		copy(i + searchDepth - 1);
		pin<searchN / 2>(x);
		products_begin();
		UNROLL for (int j = 0; j < dim / 16; j++) {
			const u64 b = blocks + ((i % searchDepth * tile + j / 4 * (searchN * 128) + j % 4 * 32) >> 4);
			registers128(x, q[0] + 4 * j, b, j > 0);
			registers128(x, q[1] + 4 * j, b, 1);
		}
		products_commit();
		products_wait<0>();
		pin<searchN / 2>(x);
		u32 keep[2] = {0, 0};
		UNROLL for (int j = 0; j < searchN / 2; j++) {
			const int r = j / 2 % 2;
			if (!(mean[r] - x[j] * a.scale > a.theta)) keep[r] |= 1u << (j / 4 * 2 + j % 2);
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
				const i64 at = (kvHead * a.shared + h) * a.words + g.bits + key / 32;
				if (word) asm volatile("red.global.or.b32 [%0], %1;" ::"l"(a.bits + at), "r"(word) : "memory");
			}
		}
	}
	copies_wait<0>();
}

// count counts the bits of each head and group.
KERNEL(128, 1) count(const Args a) {
	const int list = block() * 4 + thread() / 32, lane = thread() % 32;
	if (list >= a.heads * a.groupCount) return;
	const int head = list / a.groupCount;
	const Group &g = a.groups[list % a.groupCount];
	const u32 *bits = a.bits + head * a.words + g.bits;
	int n = 0;
	for (int i = lane; i < g.words; i += 32) n += __builtin_popcount(bits[i]);
	UNROLL for (int d = 1; d < 32; d *= 2) n += shuffle_xor((u32)n, d);
	if (lane == 0) a.counts[list] = n;
}
