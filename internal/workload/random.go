package workload

import "math"

// What a stream of random numbers is for.
const (
	streamDirection = iota
	streamTopic
	streamTopics
	streamRun
	streamKey
	streamValue
	streamQuery
	streamTurned
	streamBurst
	streamSpike
	streamSlash
)

// A stream is a splitmix64 generator.
type stream uint64

// stream returns the numbers that belong to one row alone, which makes data independent of the order in which it
// is made.
func (g *generator) stream(use, head, row int) *stream {
	s := stream(g.seed)
	for _, x := range []int{use, head, row} {
		s = stream(s.next() ^ uint64(x)*0xd1342543de82ef95)
	}
	return &s
}

func (s *stream) next() uint64 {
	*s += 0x9e3779b97f4a7c15
	x := uint64(*s)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// uniform returns a number in [0, 1).
func (s *stream) uniform() float64 { return float64(s.next()>>11) / (1 << 53) }

// noise fills dst with numbers of mean 0 and the given standard deviation, nearly normal: each is the sum of the
// four 16-bit parts of a random word.
func noise(dst []float32, deviation float64, s *stream) {
	const mean = 4 * 65535 / 2
	scale := float32(deviation / (65536 * math.Sqrt(4.0/12)))
	for i := range dst {
		x := s.next()
		sum := int32(x&0xffff) + int32(x>>16&0xffff) + int32(x>>32&0xffff) + int32(x>>48)
		dst[i] = float32(sum-mean) * scale
	}
}
