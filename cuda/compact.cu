// Times what compacting stripes would cost: the copies of the keys and values of each head and group's stripes into contiguous
// memory, for 131072 tokens, 32 query heads over 8 KV heads, dim 128, 16-bit elements, and 10 % of the candidates at random.
// NOTES.md says what for.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <vector>

constexpr int tokens = 131072, heads = 32, kvHeads = 8, size = 2048, groups = tokens / size, window = 128;
constexpr int row = 256 / sizeof(uint4);

__global__ void compact(uint4 *to, const uint4 *k, const uint4 *v, const int *stripes, const int64_t *offsets) {
	const int list = blockIdx.y;
	const int64_t head = int64_t(list / groups / (heads / kvHeads)) * tokens;
	for (int64_t i = offsets[list] + blockIdx.x * 16 + threadIdx.x / row; i < offsets[list + 1]; i += gridDim.x * 16) {
		const int64_t from = (head + stripes[i]) * row + threadIdx.x % row;
		uint4 *at = to + i * 2 * row + threadIdx.x % row;
		at[0] = k[from];
		at[row] = v[from];
	}
}

template <class T> T *device(const std::vector<T> &x) {
	T *p;
	cudaMalloc(&p, x.size() * sizeof(T));
	cudaMemcpy(p, x.data(), x.size() * sizeof(T), cudaMemcpyHostToDevice);
	return p;
}

int main() {
	std::vector<int> stripes;
	std::vector<int64_t> offsets{0};
	uint64_t random = 88172645463325252;
	for (int list = 0; list < heads * groups; list++) {
		for (int j = window; j < list % groups * size - window; j++) {
			random ^= random << 13, random ^= random >> 7, random ^= random << 17;
			if (random % 10 == 0) stripes.push_back(j);
		}
		offsets.push_back(stripes.size());
	}
	const size_t bytes = size_t(kvHeads) * tokens * row * sizeof(uint4), written = stripes.size() * 2 * row * sizeof(uint4);
	uint4 *k, *v, *to;
	cudaMalloc(&k, bytes), cudaMalloc(&v, bytes), cudaMalloc(&to, written);
	cudaMemset(k, 1, bytes), cudaMemset(v, 2, bytes);
	const int *devStripes = device(stripes);
	const int64_t *devOffsets = device(offsets);
	cudaEvent_t begin, end;
	cudaEventCreate(&begin), cudaEventCreate(&end);
	for (int wide : {1, 4, 8, 16}) {
		std::vector<float> times(9);
		for (float &t : times) {
			cudaEventRecord(begin);
			compact<<<dim3(wide, heads * groups), 256>>>(to, k, v, devStripes, devOffsets);
			cudaEventRecord(end);
			cudaEventSynchronize(end);
			cudaEventElapsedTime(&t, begin, end);
		}
		std::sort(times.begin(), times.end());
		printf("blocks for each list: %d; %.3f ms, %.2f GB written; %s\n", wide, times[4], written / 1e9, cudaGetErrorString(cudaGetLastError()));
	}
}
