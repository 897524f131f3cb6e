package cuda_test

import (
	"fmt"
	"log"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/cuda"
)

// Two prompts of different lengths whose queries, keys and values lie one after the other, [tokens, heads, dim], as a model makes
// them: one call, started without waiting.
func ExampleDevice_Prepare() {
	device, err := cuda.Open(0)
	if err != nil {
		log.Fatal(err)
	}
	defer device.Close()
	const heads, kvHeads, dim = 32, 8, 128
	lengths := []int{5000, 300}

	var at [4]*cuda.Memory // q, k, v, o
	for i, size := range []int{2 * heads, 2 * kvHeads, 2 * kvHeads, 4 * heads} {
		if at[i], err = device.Alloc(size * (lengths[0] + lengths[1]) * dim); err != nil {
			log.Fatal(err)
		}
		defer at[i].Free()
	}
	// cuda.Write fills q, k and v, or other calls do.

	var sequences []cuda.Sequence
	from := 0
	for _, n := range lengths {
		tensor := func(m *cuda.Memory, dtype anchor.DType, heads int) cuda.Tensor {
			t := m.Tensor(dtype, heads, n, dim)
			t.Offset, t.HeadStep, t.RowStep = from*heads*dim, dim, heads*dim
			return t
		}
		sequences = append(sequences, cuda.Sequence{
			Q: tensor(at[0], anchor.BFloat16, heads), K: tensor(at[1], anchor.BFloat16, kvHeads), V: tensor(at[2], anchor.BFloat16, kvHeads),
			O: tensor(at[3], anchor.Float32, heads),
		})
		from += n
	}
	call, err := device.Prepare(anchor.Options{Planner: anchor.AnchorAttention(anchor.DefaultParams())}, sequences...)
	if err != nil {
		log.Fatal(err)
	}
	defer call.Close()
	if err := call.Start(); err != nil {
		log.Fatal(err)
	}
	res, err := call.Result() // waits
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(res.Density())
}
