// What the kernels of all architectures read, and how they find their work: for one size of heads (DIM) and one type of elements
// (HALF: half precision, else bfloat16).

#pragma once

#include "common.h"

// A Sequence is where the tensors of one are. Heads lie the given numbers of elements apart.
struct Sequence {
	Bytes q, k, v;
	GLOBAL u8 *o;            // numbers in single precision, or elements
	GLOBAL float *lse;       // 0 if nobody wants it
	GLOBAL const u32 *pages; // the row, from k and v, at which each page of keys and values begins; 0: they are not paged
	i64 qHead, kHead, vHead, oHead, lseHead;
	i64 before;       // rows of the sequences before
	int first, none;  // position of the first row
};

// A Tile is some query rows, positions [from, to), of which each sees the keys that bits name, where there are
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
	int most;        // of them that may be kept before it is better to see all, where that is looked into
	int survey;      // blocks by which it is looked into
	int none;
};

// Args are the arguments of all kernels.
struct Args {
	const Sequence *sequences;
	const Tile *tiles;
	const Group *groups;
	float *anchors;    // [heads, rows]: each row's largest logit in its window
	u16 *pool;         // [2, KV heads, groups, pooled, DIM]: mean queries, and what rounding them left
	u32 *bits;         // by head and group: a bit for each key before the group
	int *counts;       // [heads, groups]: how many bits are set; −1: the rows see all keys, and there are none
	u32 *tally;        // pieces of work handed out, see the numbers below
	u32 *saved;        // [sequences]: what stripes will save, where that was looked into
	u32 *odd;          // [heads]: rows of the output that are not finite
	u32 *handed;       // tiles handed out beyond one for each block

	i64 rows, words;   // of all sequences; of bits of a head
	u32 qStep, kvStep;    // from one row to the next, in pieces of 16 bytes
	u32 oStep, lseStep;   // and in numbers
	int pageShift;        // pages have 1 << pageShift rows

	int heads, shared;    // query heads, and how many share a KV head
	int tileCount, section; // tiles of a head; query heads that are done together
	int groupCount;         // of all sequences
	int chunks, chunk;      // that keys are searched in: how many before the last group of the longest sequence; their keys
	int block, step;        // parameters
	float scale, theta;
	int blocks;   // of each group that the kernel pool may have to do
	int surveyed; // whether some blocks of each group have told if its rows had better see all keys: counts say so
	int alone;    // there is but one sequence
	int worth;    // what a sequence's stripes must save before any are looked for, where that is so
	int narrow;   // outputs are elements
};

// Who hands out work: attend, anchors, and anchors of the blocks that are surveyed. Saved is counted in so many pairs of a row and a key.
enum { tallyAttend = 0, tallyAnchors = 1, tallySurvey = 2, tallies = 3, savedPairs = 4096 };

static_assert(sizeof(Sequence) == 104 && sizeof(Tile) == 20 && sizeof(Group) == 48 && sizeof(Args) == 192, "as in args.go");

constexpr int dim = DIM;
constexpr int pieces = (dim + 63) / 64; // of 64 columns
constexpr float log2e = 1.44269504088896340736f, ln2 = 0.69314718055994530942f, infinity = __builtin_inff();

// Rows of a tile at most, and of one of the kernel anchors; candidates that are surveyed, where there are more.
enum { tileRows = 128, windowRows = 256, surveyKeys = 1024 };

// Pages tell where keys and values are.
struct Pages {
	GLOBAL const u32 *first;
	int shift;
	// row returns the row at which a key lies.
	DEVICE u32 row(int key) const { return first ? first[key >> shift] + (key & ((1 << shift) - 1)) : key; }
};

typedef u32 Four __attribute__((ext_vector_type(4)));
typedef float Two __attribute__((ext_vector_type(2)));

// A Work is a tile of a head, ready to be done.
struct Work {
	int from, to, start; // as in Tile
	int set;             // keys that bits name; −1: there is nothing left to do
	int words;           // of bits
	int head;
	GLOBAL const u32 *bits, *pages;
	Bytes q, k, v;           // the first row, and the heads
	GLOBAL u8 *o;            // of the first row
	GLOBAL float *lse;
};

// A Window is a tile of a head, ready for its anchors.
struct Window {
	int from, to;    // as in Tile, but for the number
	int init, local; // the keys are [0, init) and those from local on
	int keys;        // how many; 0: there is nothing left to do
	Bytes q, k;      // the first row, and the head
	GLOBAL const u32 *pages;
	GLOBAL float *anchors; // of the first row
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

// idle reports whether a sequence's stripes would save too little: then all its rows see all keys.
DEVICE bool idle(const Args &a, int sequence) { return a.surveyed && a.saved[sequence] < (u32)a.worth; }

// ready looks up what there is to know of a piece of work. Anchors are not wanted where rows see all keys.
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
	w.from = t.from, w.to = t.to, w.start = t.start, w.set = 0, w.head = head, w.pages = s.pages;
	w.q = s.q + 2 * head * s.qHead + row * a.qStep * 16;
	w.k = s.k + 2 * kvHead * s.kHead;
	w.v = s.v + 2 * kvHead * s.vHead;
	w.o = s.o + (head * s.oHead + row * a.oStep) * (a.narrow ? 2 : 4);
	w.lse = s.lse ? s.lse + head * s.lseHead + row * a.lseStep : 0;
	if (t.group < 0) return;
	const Group &g = a.groups[t.group];
	w.set = a.counts[head * a.groupCount + t.group];
	if (w.set < 0 || idle(a, t.sequence)) {
		w.set = w.start = 0;
		return;
	}
	w.words = g.words;
	w.bits = (GLOBAL const u32 *)a.bits + head * a.words + g.bits;
}

DEVICE void ready(const Args &a, u32 work, Window &w) {
	Tile t;
	int head;
	w.keys = 0;
	if (a.alone && idle(a, 0)) return;
	for (;;) {
		if (!visit(a, work, t, head)) return;
		if (a.counts[head * a.groupCount + t.group] >= 0 && !idle(a, t.sequence)) break;
		work = count_up(a.handed) + grid();
	}
	const Sequence &s = a.sequences[t.sequence];
	const Group &g = a.groups[t.group];
	const i64 row = t.from - s.first;
	w.from = t.from, w.to = t.to, w.init = g.init, w.local = g.local;
	w.keys = g.init + t.to - g.local;
	w.q = s.q + 2 * head * s.qHead + row * a.qStep * 16;
	w.k = s.k + 2 * (head / a.shared) * s.kHead;
	w.pages = s.pages;
	w.anchors = (GLOBAL float *)a.anchors + head * a.rows + s.before + row;
}

// visited returns the i-th block of a group to be looked at: those that have rows come first.
DEVICE int visited(const Args &a, const Group &g, int i) { return ((g.from - g.start) / a.block + i) % a.step; }

// blockRows finds the rows [from, to) of a group's block b that take part in the search.
DEVICE void blockRows(const Args &a, const Group &g, int b, int &from, int &to) {
	const int first = g.start + b * a.block;
	from = most(first, g.from), to = least(first + a.block, g.to);
}
