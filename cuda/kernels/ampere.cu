// The kernels for compute capability 8.0 and up, of which 9.0 has its own. cuda/NOTES.md says what was measured.

#include "pool.h"
#include "rows.h"

// load reads four matrices of 8 rows of 16 bytes, of which lane i gives the address of row i%8 of matrix i/8, and loadT their
// transposes.
DEVICE void load(u32 *x, u32 at) {
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
		: "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(at));
}
DEVICE void loadT(u32 *x, u32 at) {
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
		: "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(at));
}

// Rows lie in shared memory in pieces of 64 columns, whose rows of 128 bytes follow one another, swizzled: 16 bytes at column c
// of row r lie at c ^ (r mod 8).

// A Copier copies rows of a head there. Lanes in groups copy a row together.
template <int threads, int rows> struct Copier {
	static constexpr int chunks = dim / 8;                                // of 16 bytes in a row
	static constexpr int wide = chunks <= 8 ? 8 : chunks <= 16 ? 16 : 32; // lanes in a group
	static constexpr int apart = threads / wide;                          // from one row of a group to the next, a power of two
	static constexpr int each = rows / apart;                             // rows of a group
	u32 to;
	int chunk, first;

	DEVICE void begin(u32 base) {
		chunk = thread() % wide, first = thread() / wide;
		to = base + chunk / 8 * (rows * 128) + first * 128 + (chunk ^ first) % 8 * 16;
	}

	// copy starts to copy rows to the place the given bytes behind. offset tells how far behind the head the i-th of the group,
	// which is row r, lies, in pieces of 16 bytes.
	template <class F> DEVICE void copy(u32 behind, Bytes from, F offset) const {
		if (wide > chunks && chunk >= chunks) return;
		from += chunk * 16;
		UNROLL for (int i = 0; i < each; i++) {
			copy16((to + behind ^ i * apart % 8 * 16) + i * apart * 128, from + (u64)(u32)offset(i, first + i * apart) * 16);
		}
	}
};

// leftAt returns the lane's address for load of the operand of 16 rows and the first 16 columns of those at base, as the left one of
// products, or with loadT as two right ones that are summed over the rows. rightAt returns that of two right ones, of 8 rows each.
DEVICE u32 leftAt(u32 base, int lane) { return base + lane % 16 * 128 + (lane / 16 ^ lane % 8) * 16; }
DEVICE u32 rightAt(u32 base, int lane) { return base + (lane / 16 * 8 + lane % 8) * 128 + (lane / 8 % 2 ^ lane % 8) * 16; }

// column returns the address of the operand 16·i columns on, where pieces have so many rows.
template <int rows> DEVICE u32 column(u32 at, int i) { return (at ^ i % 4 * 32) + i / 4 * (rows * 128); }

// scores adds the products of M times 16 rows and N keys over 16 columns.
template <int M, int N> DEVICE void scores(float *const *s, const u32 *const *rows, u32 keys) {
	UNROLL for (int n = 0; n < N / 16; n++) {
		u32 k[4];
		load(k, keys + n * 16 * 128);
		UNROLL for (int m = 0; m < M; m++) {
			product(s[m] + 8 * n, rows[m], k);
			product(s[m] + 8 * n + 4, rows[m], k + 2);
		}
	}
}

// Two blocks of threads fit in the 100 KB that a multiprocessor of 8.6 or 8.9 has for them, up to dim 128.
constexpr int N = dim > 64 ? 32 : 64; // keys in a block
constexpr int M = dim > 128 ? 1 : 2;  // times 16 rows of a warp: an operand of keys or values is loaded for all of them
constexpr int warps = tileRows / 16 / M;
constexpr int ring = 4 * N;           // keys that are kept

// A Walk finds the keys whose bits are set, in ascending order, as all warps ask for them. A thread has a byte of bits
// at a time, so that several share what there is to do where most are set.
struct Walk {
	static constexpr int wide = 8 * 32; // keys of a warp
	u32 lane, warp;
	int from;        // key of the next bytes' first bit
	int found;       // bits that are set in the bytes so far
	u32 byte;        // what is left of the thread's
	int at;          // how many bits come before
	u32 next[warps]; // the lane's byte of each warp's
	u32 *kept;       // where keys lie, in pieces of 16 bytes behind the head
	int pageShift;
	u32 apart;       // from one row to the next

	DEVICE void load(const Work &t) {
		UNROLL for (int i = 0; i < warps; i++) {
			const int at = from / 8 + i * 32 + lane;
			next[i] = at < 4 * t.words ? ((GLOBAL const u8 *)t.bits)[at] : 0;
		}
	}

	DEVICE void begin(const Work &t) {
		from = found = byte = 0;
		load(t);
	}

	DEVICE void step(const Work &t) {
		int before = 0, sum = 0;
		UNROLL for (int i = 0; i < warps; i++) {
			const int n = add_all(__builtin_popcount(next[i]));
			if (i < (int)warp) before += n;
			if (i == (int)warp) byte = next[i];
			sum += n;
		}
		const int n = __builtin_popcount(byte);
		at = found + before + scan(n, lane) - n;
		found += sum;
		from += warps * wide;
		load(t);
	}

	// reach sees to it that the keys up to the given number are kept. Those a ring before are wanted no more.
	DEVICE void reach(const Work &t, int to) {
		const Pages pages = {t.pages, pageShift};
		ROLLED for (;;) {
			const int key = from - (warps - warp) * wide + lane * 8;
			ROLLED while (byte && at < to) {
				kept[at % ring] = pages.row(key + __builtin_ctz(byte)) * apart;
				byte &= byte - 1;
				at++;
			}
			if (found >= to) return;
			step(t);
		}
	}
};

struct Shared {
	u8 q[pieces * tileRows * 128];
	u8 k[pieces * N * 128];
	u8 v[pieces * N * 128];
	u32 kept[ring];
	Work works[2]; // the one being done and the next
};

SHARED(attend, sizeof(Shared))

KERNEL(warps * 32, dim > 128 ? 1 : 2) attend(const Args a) {
	begin();
	Shared &mem = *(Shared *)shared_memory;
	const int warp = thread() / 32, lane = thread() % 32;
	Copier<warps * 32, tileRows> queryRows;
	queryRows.begin(address(mem.q));
	typedef Copier<warps * 32, N> Rows;
	Rows rows;
	rows.begin(address(mem.k));
	u32 offsets[Rows::each]; // of a block's rows, for its keys and then for its values
	Walk walk;
	walk.lane = lane, walk.warp = warp, walk.kept = mem.kept, walk.pageShift = a.pageShift, walk.apart = a.kvStep;

	const int row = warp * M * 16 + lane / 4;
	const u32 queries = leftAt(address(mem.q) + warp * M * 16 * 128, lane);
	const u32 keys = rightAt(address(mem.k), lane), values = leftAt(address(mem.v), lane);
	const float scale = a.scale * log2e;
	u32 next;
	if (thread() == 0) ready(a, block(), mem.works[0]);
	sync();

	ROLLED for (int turn = 0;; turn ^= 1) {
		const Work &t = mem.works[turn];
		const int set = t.set, setBlocks = (set + N - 1) / N;
		const int blocks = setBlocks + (t.to - t.start + N - 1) / N;
		if (set < 0) break;
		float o[M][dim / 2];
		UNROLL for (int m = 0; m < M; m++) {
			UNROLL for (int i = 0; i < dim / 2; i++) o[m][i] = 0;
		}
		Softmax softmax[M];

		// Rows that are not there are copies of the last.
		queryRows.copy(0, t.q, [&](int, int i) INLINE { return least(i, t.to - 1 - t.from) * a.qStep; });
		auto copyKeys = [&](int b) INLINE {
			if (b < setBlocks) {
				const int from = b * N + rows.first;
				UNROLL for (int i = 0; i < Rows::each; i++) offsets[i] = mem.kept[least(from + i * Rows::apart, set - 1) % ring];
			} else {
				const Pages pages = {t.pages, a.pageShift};
				const int from = t.start + (b - setBlocks) * N + rows.first;
				UNROLL for (int i = 0; i < Rows::each; i++) offsets[i] = pages.row(least(from + i * Rows::apart, t.to - 1)) * a.kvStep;
			}
			rows.copy(0, t.k, [&](int i, int) INLINE { return offsets[i]; });
			copies_commit();
		};
		if (set) {
			walk.begin(t);
			walk.reach(t, least(ring, set));
			sync();
		}
		copyKeys(0);

		// The warp's first row and its last, and the blocks from which on keys lie beyond the first's position, and the last's.
		const int first = least(t.from + warp * M * 16, t.to - 1), last = least(t.from + (warp + 1) * M * 16, t.to) - 1;
		const int reaching = setBlocks + (first + 1 - t.start) / N, unseen = setBlocks + (last - t.start) / N + 1;
		ROLLED for (int b = 0; b < blocks; b++) {
			copies_wait<0>();
			sync(); // the keys are there, and the values before are wanted no more
			rows.copy(sizeof(mem.k), t.v, [&](int i, int) INLINE { return offsets[i]; });
			copies_commit();
			if (b + 1 < setBlocks && (b + 1) * N % ring == 0) walk.reach(t, least((b + 1) * N + ring, set));
			// What comes next is looked up while there is something to do.
			if (thread() == 0) {
				if (b == 0) next = count_up(a.handed) + grid();
				if (b == least(2, blocks - 1)) ready(a, next, mem.works[turn ^ 1]);
			}
			u32 p[M][N / 4];
			if (b < unseen) {
				float s[M][N / 2];
				float *to[M];
				UNROLL for (int m = 0; m < M; m++) {
					UNROLL for (int i = 0; i < N / 2; i++) s[m][i] = 0;
					to[m] = s[m];
				}
				UNROLL for (int i = 0; i < dim / 16; i++) {
					u32 q[M][4];
					const u32 *left[M];
					UNROLL for (int m = 0; m < M; m++) {
						load(q[m], column<tileRows>(queries, i) + m * 16 * 128);
						left[m] = q[m];
					}
					scores<M, N>(to, left, column<N>(keys, i));
				}
				if (b == setBlocks - 1 || b >= reaching) {
					UNROLL for (int m = 0; m < M; m++) {
						int from[2];
						if (b < setBlocks) from[0] = from[1] = set - b * N;
						else {
							const int before = 1 - t.start - (b - setBlocks) * N;
							UNROLL for (int r = 0; r < 2; r++) from[r] = least(t.from + row + 16 * m + 8 * r, t.to - 1) + before;
						}
						hide<N>(s[m], from, lane);
					}
				}
				UNROLL for (int m = 0; m < M; m++) {
					softmax[m].weigh<N>(s[m], scale);
					UNROLL for (int i = 0; i < N / 4; i++) p[m][i] = pack(s[m][2 * i], s[m][2 * i + 1]);
					// After some blocks tops rarely change.
					if (!__nvvm_vote_any_sync(all, softmax[m].by[0] != 1 || softmax[m].by[1] != 1)) continue;
					UNROLL for (int i = 0; i < dim / 2; i++) o[m][i] *= softmax[m].by[i / 2 % 2];
				}
			}
			copies_wait<0>();
			sync(); // the values are there, and the keys are wanted no more
			if (b + 1 < blocks) copyKeys(b + 1);
			if (b < unseen) {
				UNROLL for (int n = 0; n < N / 16; n++) {
					UNROLL for (int i = 0; i < dim / 16; i++) {
						u32 v[4];
						loadT(v, column<N>(values, i) + n * 16 * 128);
						UNROLL for (int m = 0; m < M; m++) {
							product(o[m] + 8 * i, p[m] + 4 * n, v);
							product(o[m] + 8 * i + 4, p[m] + 4 * n, v + 2);
						}
					}
				}
			}
		}
		UNROLL for (int m = 0; m < M; m++) softmax[m].store(a, t, o[m], row + 16 * m, lane, scale);
		sync(); // all are done with this tile and see the next
	}
}

// rowsOf reads the lane's part of 16 rows as left operands, given its two of them.
DEVICE void rowsOf(u32 *x, const Bytes *at, int lane) {
	UNROLL for (int r = 0; r < 2; r++) {
		UNROLL for (int i = 0; i < dim / 8; i++) x[2 * i + r] = *(GLOBAL const u32 *)(at[r] + 16 * i + lane % 4 * 4);
	}
}

constexpr int anchorN = dim > 128 ? 32 : 64; // keys in a block
constexpr int anchorStages = 3;              // blocks in shared memory
constexpr int anchorBytes = pieces * anchorN * 128;
struct AnchorShared {
	u8 k[anchorStages][anchorBytes];
	Window windows[2]; // the one being done and the next
};

SHARED(anchors, sizeof(AnchorShared))

// anchors writes each row's largest logit in its window: the first init keys, and those from local before its group to
// its own position. NaN where a logit is.
KERNEL(256, 1) anchors(const Args a) {
	begin();
	constexpr int N = anchorN, M = 2;
	AnchorShared &mem = *(AnchorShared *)shared_memory;
	const int warp = thread() / 32, lane = thread() % 32;
	const int row = warp * M * 16 + lane / 4;
	Copier<256, N> rows;
	rows.begin(address(mem.k[0]));
	const u32 keys = rightAt(address(mem.k[0]), lane);
	u32 next;
	if (thread() == 0) ready(a, block(), mem.windows[0]);
	sync();

	ROLLED for (int turn = 0;; turn ^= 1) {
		const Window &t = mem.windows[turn];
		const int blocks = (t.keys + N - 1) / N;
		if (!blocks) break;
		auto copy = [&](int b) INLINE {
			if (b < blocks) {
				const Pages pages = {t.pages, a.pageShift};
				rows.copy(b % anchorStages * anchorBytes, t.k, [&](int, int i) INLINE {
					const int j = b * N + i;
					return pages.row(least(j < t.init ? j : j - t.init + t.local, t.to - 1)) * a.kvStep;
				});
			}
			copies_commit();
		};
		UNROLL for (int b = 0; b < anchorStages - 1; b++) copy(b);
		u32 q[M][dim / 4];
		float top[M][2];
		UNROLL for (int m = 0; m < M; m++) {
			Bytes at[2];
			UNROLL for (int r = 0; r < 2; r++) {
				at[r] = t.q + (i64)least(row + 16 * m + 8 * r, t.to - 1 - t.from) * a.qStep * 16;
				top[m][r] = -infinity;
			}
			rowsOf(q[m], at, lane);
		}
		const int before = 1 - t.local + t.init; // columns less positions
		const int first = least(t.from + warp * M * 16, t.to - 1), last = least(t.from + (warp + 1) * M * 16, t.to) - 1;
		ROLLED for (int b = 0; b < blocks; b++) {
			copies_wait<anchorStages - 2>();
			sync(); // the keys are there, and those before are wanted no more
			copy(b + anchorStages - 1);
			if (thread() == 0) {
				if (b == 0) next = count_up(a.handed) + grid();
				if (b == least(2, blocks - 1)) ready(a, next, mem.windows[turn ^ 1]);
			}
			if (last + before <= b * N) continue;
			float s[M][N / 2];
			float *to[M];
			UNROLL for (int m = 0; m < M; m++) {
				UNROLL for (int i = 0; i < N / 2; i++) s[m][i] = 0;
				to[m] = s[m];
			}
			UNROLL for (int i = 0; i < dim / 16; i++) {
				const u32 *left[M];
				UNROLL for (int m = 0; m < M; m++) left[m] = q[m] + 4 * i;
				scores<M, N>(to, left, column<N>(keys + b % anchorStages * anchorBytes, i));
			}
			UNROLL for (int m = 0; m < M; m++) {
				if (first + before < (b + 1) * N) {
					int from[2];
					UNROLL for (int r = 0; r < 2; r++) from[r] = least(t.from + row + 16 * m + 8 * r, t.to - 1) + before - b * N;
					hide<N>(s[m], from, lane);
				}
				UNROLL for (int i = 0; i < N / 2; i++) {
					float &x = top[m][i / 2 % 2];
					x = max(x, s[m][i]);
				}
			}
		}
		UNROLL for (int m = 0; m < M; m++) {
			UNROLL for (int r = 0; r < 2; r++) {
				float x = top[m][r];
				UNROLL for (int d = 1; d < 4; d *= 2) x = max(x, shuffle_xor(x, d));
				const int at = row + 16 * m + 8 * r;
				if (lane % 4 == 0 && t.from + at < t.to) t.anchors[at] = x * a.scale;
			}
		}
		sync(); // all are done with this tile and see the next
	}
	copies_wait<0>();
}

constexpr int searchN = 64, searchStages = 3;
constexpr int searchBytes = pieces * searchN * 128;

SHARED(search, searchStages * searchBytes)

// search scores keys against pooled queries and sets the bits of those that are kept, and of the window's keys before
// the group. A block does 64 pooled queries of the heads that share a KV head, and a chunk of keys.
KERNEL(128, dim > 128 ? 1 : 2) search(const Args a) {
	begin();
	constexpr int N = searchN;
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
	Copier<128, N> rows;
	rows.begin(address(shared_memory));
	const u32 keys = rightAt(address(shared_memory), lane);
	auto copy = [&](int b) INLINE {
		if (from + b * N < to) {
			rows.copy(b % searchStages * searchBytes, k, [&](int, int i) INLINE {
				return pages.row(least(from + b * N + i, to - 1)) * a.kvStep;
			});
		}
		copies_commit();
	};
	UNROLL for (int b = 0; b < searchStages - 1; b++) copy(b);

	// The warp's 16 pooled queries, in two parts.
	Pooled pool;
	pool.begin(a, g, group, kvHead, part * 64 + warp * 16, lane);
	u32 q[2][dim / 4];
	pool.load(q, lane);

	ROLLED for (int b = 0; from + b * N < to; b++) {
		copies_wait<searchStages - 2>();
		sync();
		copy(b + searchStages - 1);
		float x[N / 2];
		UNROLL for (int i = 0; i < N / 2; i++) x[i] = 0;
		float *both[2] = {x, x};
		UNROLL for (int i = 0; i < dim / 16; i++) {
			const u32 *left[2] = {q[0] + 4 * i, q[1] + 4 * i};
			scores<2, N>(both, left, column<N>(keys + b % searchStages * searchBytes, i));
		}
		u32 keep[2];
		pool.near<N>(a, x, keep);
		mark<N>(a, g, group, kvHead, pool, from + b * N, keep, lane);
	}
	copies_wait<0>();
}
