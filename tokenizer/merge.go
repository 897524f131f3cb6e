package tokenizer

// bpeScratch is the memory for merging a word.
type bpeScratch struct {
	symbols []symbol
	queue   mergeQueue
}

// A symbol is a token of a word that is being merged, in a list of them.
type symbol struct {
	wordToken        // id -1: merged into the one before
	prev, next int32 // -1: none
}

// add appends the symbol of n bytes at i.
func (s *bpeScratch) add(id int32, i, n int) {
	k := int32(len(s.symbols))
	s.symbols = append(s.symbols, symbol{wordToken{id, int32(i), int32(i + n)}, k - 1, k + 1})
}

// merge merges the symbols and appends what is left of them to dst.
func (s *bpeScratch) merge(dst []wordToken, merges map[idPair]merge) []wordToken {
	symbols := s.symbols
	if len(symbols) == 0 {
		return dst
	}
	symbols[len(symbols)-1].next = -1
	// at returns the merge of the symbols i and its next.
	at := func(i int32) (merge, bool) {
		l := &symbols[i]
		if l.id < 0 || l.next < 0 {
			return merge{}, false
		}
		m, ok := merges[idPair{l.id, symbols[l.next].id}]
		return m, ok
	}
	q := s.queue[:0]
	for i := range int32(len(symbols)) {
		if m, ok := at(i); ok {
			q = append(q, queued(m.rank, i))
		}
	}
	q.init()
	for len(q) > 0 {
		top := q.pop()
		i := top.symbol()
		// What was queued may have been merged otherwise since.
		m, ok := at(i)
		if !ok || m.rank != top.rank() {
			continue
		}
		l := &symbols[i]
		r := &symbols[l.next]
		l.id, l.end, l.next = m.id, r.end, r.next
		r.id = -1
		if l.next >= 0 {
			symbols[l.next].prev = i
			if m, ok := at(i); ok {
				q.push(queued(m.rank, i))
			}
		}
		if l.prev >= 0 {
			if m, ok := at(l.prev); ok {
				q.push(queued(m.rank, l.prev))
			}
		}
	}
	s.queue = q
	for i := int32(0); i >= 0; i = symbols[i].next {
		dst = append(dst, symbols[i].wordToken)
	}
	return dst
}

// A queuedMerge is a rank and the index of the left symbol. Their order is
// that in which merges are made: by rank, then from left to right.
type queuedMerge uint64

func queued(rank uint32, symbol int32) queuedMerge {
	return queuedMerge(rank)<<32 | queuedMerge(symbol)
}
func (m queuedMerge) rank() uint32  { return uint32(m >> 32) }
func (m queuedMerge) symbol() int32 { return int32(uint32(m)) }

// A mergeQueue is a binary heap with the least merge first. (container/heap
// would allocate for each element.)
type mergeQueue []queuedMerge

func (q mergeQueue) init() {
	for i := len(q)/2 - 1; i >= 0; i-- {
		q.down(i)
	}
}

func (q *mergeQueue) push(m queuedMerge) {
	h := append(*q, m)
	i := len(h) - 1
	for i > 0 && h[(i-1)/2] > m {
		h[i] = h[(i-1)/2]
		i = (i - 1) / 2
	}
	h[i] = m
	*q = h
}

func (q *mergeQueue) pop() queuedMerge {
	h := *q
	top := h[0]
	h[0] = h[len(h)-1]
	*q = h[:len(h)-1]
	if len(*q) > 0 {
		q.down(0)
	}
	return top
}

func (q mergeQueue) down(i int) {
	m := q[i]
	for {
		child := 2*i + 1
		if child >= len(q) {
			break
		}
		if child+1 < len(q) && q[child+1] < q[child] {
			child++
		}
		if m <= q[child] {
			break
		}
		q[i] = q[child]
		i = child
	}
	q[i] = m
}
