"""Times PyTorch's attention on the GPU: causal prefill, 32 query heads over 8 KV heads, dim 128, bfloat16, what
`go test -bench . ./cuda` measures. Medians by CUDA events, in ms and TFLOP/s."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as attend

heads, kv_heads, dim = 32, 8, 128
print(torch.__version__, torch.cuda.get_device_name())
for n in 8192, 16384, 32768, 65536, 131072:
    q = torch.randn(1, heads, n, dim, device="cuda", dtype=torch.bfloat16)
    k = torch.randn(1, kv_heads, n, dim, device="cuda", dtype=torch.bfloat16)
    v = torch.randn(1, kv_heads, n, dim, device="cuda", dtype=torch.bfloat16)
    for backend in SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION:
        times = []
        with sdpa_kernel(backend):
            for _ in range(7):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                attend(q, k, v, is_causal=True, enable_gqa=True)
                end.record()
                torch.cuda.synchronize()
                times.append(start.elapsed_time(end))
        ms = sorted(times)[3]
        print(f"{n:7} {backend.name:16} {ms:9.3f} ms {2 * heads * dim * n * (n + 1) / ms / 1e9:6.0f} TFLOP/s", flush=True)
