// The kernels for compute capability 9.0. cuda/NOTES.md says what was measured.

#include "pool.h"
#include "rows.h"
#include "wgmma.h"

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

constexpr int N = dim > 128 ? 64 : 128;          // keys in a block
constexpr int keyStages = dim > 128 ? 2 : 3;     // blocks of keys in shared memory
constexpr int valueStages = 2;                   // blocks of values there
constexpr int producerRegisters = dim > 128 ? 72 : 104, consumerRegisters = dim > 128 ? 216 : 200; // of 168 for each thread
constexpr int queryBytes = pieces * tileRows * 128;
constexpr int blockBytes = pieces * N * 128;
constexpr int ring = 8192;                       // keys that are kept

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
struct AnchorShared {
	u8 q[pieces * windowRows * 128];
	u8 k[anchorStages][blockBytes];
	u64 queriesFull, queriesEmpty, keysFull[anchorStages], keysEmpty[anchorStages];
	Feed<Window> feed;
};
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
SHARED(attend, sizeof(Shared))

KERNEL(384, 1) attend(const Args a) {
	begin();
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
		Copier<tileRows / 4, tileRows * 128> queryRows;
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
				if (b == least(2, blocks) && thread() == 0) next = count_up(a.handed) + grid();
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
		float s[N / 2], o[dim / 2];
		Softmax softmax;
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
			hide<N>(s, from, lane);
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
		scores<tileRows>(s, queryRows, keyRows + keys.stage * (blockBytes >> 4));
		arrive_named(3 - half, 256);
		products_wait<0>();
		pin<N / 2>(s);
		if (lane == 0) barrier_arrive(keysEmpty + 8 * keys.stage);
		keys.advance();
		mask(0);
		softmax.weigh<N>(s, scale);
		weights();
		UNROLL for (int i = 0; i < dim / 2; i++) o[i] = 0;

		if (blocks > 1) barrier_wait(keysFull + 8 * keys.stage, keys.phase);
		ROLLED for (int b = 1; b < blocks; b++) {
			fence_async();
			sync_named(2 + half, 256);
			pin<N / 2>(s), pin<dim / 2>(o), pin<N / 4>(p);
			products_begin();
			scores<tileRows>(s, queryRows, keyRows + keys.stage * (blockBytes >> 4));
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
			softmax.weigh<N>(s, scale);
			pin<N / 2>(s);
			// The assembler would move the wait for the sums before all that, were it not for the loop in this one.
			if (b + 1 < blocks) barrier_wait(keysFull + 8 * keys.stage, keys.phase);
			products_wait<0>();
			pin<dim / 2>(o), pin<N / 4>(p);
			if (lane == 0) barrier_arrive(valuesEmpty + 8 * values.stage);
			values.advance();
			UNROLL for (int i = 0; i < dim / 2; i++) o[i] *= softmax.by[i / 2 % 2];
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

		softmax.store(a, works.item(), o, row, lane, scale);
		works.done();
	}
}
SHARED(anchors, sizeof(AnchorShared))

// anchors writes each row's largest logit in its window: the first init keys, and those from local before its group to
// its own position. NaN where a logit is.
KERNEL(384, 1) anchors(const Args a) {
	begin();
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
		Copier<windowRows / 4, windowRows * 128> queryRows;
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
			const int blocks = (t.keys + N - 1) / N;
			if (!blocks) break;
			const Pages pages = {t.pages, a.pageShift};
			barrier_wait(queriesEmpty, queries.phase ^ 1);
			queryRows.consecutive(0, t.q, a.qStep, 0, t.to - 1 - t.from, Pages{});
			barrier_arrive_copied(queriesFull);
			queries.advance();
			ROLLED for (int b = 0; b < blocks; b++) {
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
				if (b == 0 && thread() == 0) next = count_up(a.handed) + grid();
				if (b == least(2, blocks - 1)) {
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
		const int blocks = (t.keys + N - 1) / N;
		if (!blocks) break;
		float s[2][N / 2], top[4];
		UNROLL for (int i = 0; i < 4; i++) top[i] = -infinity;
		// look takes account of the scores of a part with block b.
		auto look = [&](float *s, int part, int b) INLINE {
			const int before = 1 - t.local + t.init - b * N; // columns less positions
			if (least(t.from + half + part * 64, t.to - 1) + before < N) {
				int from[2];
				UNROLL for (int r = 0; r < 2; r++) from[r] = least(t.from + row + part * 64 + 8 * r, t.to - 1) + before;
				hide<N>(s, from, lane);
			}
			UNROLL for (int i = 0; i < N / 2; i++) {
				float &x = top[2 * part + i / 2 % 2];
				x = max(x, s[i]);
			}
		};
		barrier_wait(queriesFull, queries.phase);
		queries.advance();
		ROLLED for (int b = 0; b < blocks; b++) {
			barrier_wait(keysFull + 8 * keys.stage, keys.phase);
			const bool seen = least(t.from + half + 127, t.to - 1) - t.local + t.init >= b * N;
			if (seen) {
				fence_async();
				pin<N / 2>(s[0]), pin<N / 2>(s[1]);
				products_begin();
				scores<windowRows>(s[0], queryRows, keyRows + keys.stage * (blockBytes >> 4));
				scores<windowRows>(s[1], queryRows + (64 * 128 >> 4), keyRows + keys.stage * (blockBytes >> 4));
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
// search scores keys against pooled queries and sets the bits of those that are kept, and of the window's keys before
// the group. A block does 64 pooled queries of the heads that share a KV head, and a chunk of keys.
constexpr int searchDepth = 3, searchN = 128;
constexpr int searchTile = pieces * searchN * 128; // bytes

SHARED(search, searchDepth * searchTile)

KERNEL(128, 1) search(const Args a) {
	begin();
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
	const int from = chunk * a.chunk, to = least(from + a.chunk, g.start);
	if (from >= to || g.from >= g.to || (a.surveyed && (idle(a, g.sequence) || !sparse(a, group, kvHead, part * 64, 64)))) return;

	const int warp = thread() / 32, lane = thread() % 32;
	const Sequence &s = a.sequences[g.sequence];
	const Bytes k = s.k + 2 * kvHead * s.kHead;
	const Pages pages = {s.pages, a.pageShift};
	Copier<32, searchN * 128> keyRows;
	keyRows.begin(address(shared_memory), warp, lane);
	const u64 blocks = descriptor(address(shared_memory), 16);
	auto copy = [&](int i) INLINE {
		if (from + i * searchN < to) keyRows.consecutive(i % searchDepth * searchTile, k, a.kvStep, from + i * searchN, to - 1, pages);
		copies_commit();
	};
	UNROLL for (int i = 0; i < searchDepth - 1; i++) copy(i);

	// The warp's 16 pooled queries, as left operands.
	Pooled pool;
	pool.begin(a, g, group, kvHead, part * 64 + warp * 16, lane);
	u32 q[2][dim / 4];
	pool.load(q, lane);

	float x[searchN / 2];
	for (int i = 0; from + i * searchN < to; i++) {
		copies_wait<searchDepth - 2>();
		fence_async();
		sync();
		copy(i + searchDepth - 1);
		pin<searchN / 2>(x);
		products_begin();
		UNROLL for (int j = 0; j < dim / 16; j++) {
			const u64 b = blocks + ((i % searchDepth * searchTile + j / 4 * (searchN * 128) + j % 4 * 32) >> 4);
			registers128(x, q[0] + 4 * j, b, j > 0);
			registers128(x, q[1] + 4 * j, b, 1);
		}
		products_commit();
		products_wait<0>();
		pin<searchN / 2>(x);
		u32 keep[2];
		pool.near<searchN>(a, x, keep);
		mark<searchN>(a, g, group, kvHead, pool, from + i * searchN, keep, lane);
	}
	copies_wait<0>();
}
