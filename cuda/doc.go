// Package cuda computes attention on NVIDIA GPUs. It has an [anchor.Engine] for anchor.Options, with tensors in the
// program's memory, which are copied to the device and back:
//
//	device, err := cuda.Open(0)
//	if err != nil {
//		return err
//	}
//	defer device.Close()
//	res, err := anchor.Attend(ctx, anchor.Options{Planner: anchor.AnchorAttention(p), Engine: device}, sequences...)
//
// and calls on tensors that lie on the device, contiguous, strided or in pages, of which any number can be started without
// waiting, by themselves or as one [Graph]:
//
//	q, err := device.Alloc(2 * heads * rows * dim)
//	...
//	call, err := device.Prepare(anchor.Options{Planner: anchor.AnchorAttention(p)}, cuda.Sequence{
//		Q: q.Tensor(anchor.BFloat16, heads, rows, dim), K: ..., V: ..., O: ...,
//	})
//	...
//	err = call.Start()        // after what was started before
//	err = cuda.Read(o, 0, out) // waits
//
// Sequences of different lengths are done together, in one launch of each kernel.
//
// It needs a GPU of compute capability 8.0 or more and its driver, loaded when [Open] is called, and neither cgo nor NVIDIA's
// toolkit. Compute capability 9.0 (H100, H200, GH200) has kernels of its own, which take a driver for CUDA 12.3 or later; those
// for all others take 11.8, or what the device takes. Queries, keys and values are bfloat16 or half precision, alike, of up to
// 256 numbers; 64, 96, 128 and 256 are native and others, of tensors in the program's memory, are filled up with zeroes to
// the next of these. Outputs are in single precision, or in 16 bits as the inputs if they stay on the device. The planners are
// anchor.Dense, anchor.AnchorAttention and anchor.Auto, which looks at the first rows of each group before it looks for stripes.
//
// Weights are rounded to the type of the inputs, sums are in single precision: outputs lie within 1 % of double
// precision by norm, and the same call gives the same bits on the same kind of device. Where a value of V is NaN or
// infinite, it spoils up to 127 rows beside those that see it, because what a row does not see is multiplied with a weight of zero.
package cuda
