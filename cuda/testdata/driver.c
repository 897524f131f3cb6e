// A driver library that computes nothing, for tests of what package cuda asks of it: it keeps account of what was given
// out and not given back, refuses wrong handles, and fails when told to.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { contexts, streams, events, modules, memories, graphs, executables, kinds };

static int live[kinds];   // given out and not given back
static int calls, failAt; // calls so far, and the one that fails, counted from 1
static int failCode;
static int current;       // contexts pushed
static int pushFailed;    // once
static int wrong;         // handles that were not given out
static int launches;
static int capturing, captured; // kernels that a graph starts, and the last graph did
static int compute = 90;
static unsigned sharedBytes; // that a block may have
static uint64_t freeBytes = 1 << 30;

typedef struct Block {
	struct Block *next;
	size_t size;
	void *data;
} Block;
static Block *blocks;

int fake_live(int kind) { return live[kind]; }
int fake_calls(void) { return calls; }
int fake_wrong(void) { return wrong; }
int fake_launches(void) { return launches; }
int fake_pushed(void) { return current; }
void fake_fail(int at, int code) { calls = pushFailed = 0, failAt = at, failCode = code; }
void fake_compute(int capability) { compute = capability; }
void fake_shared(int bytes) { sharedBytes = bytes; }

#define CALL \
	if (++calls == failAt) return failCode
#define IN_CONTEXT \
	if (current < 1) return 201
// What may not be captured.
#define WAITS \
	if (capturing) return 900

static Block *find(uint64_t p, size_t n) {
	for (Block *b = blocks; b; b = b->next)
		if (p >= (uint64_t)b->data && p + n <= (uint64_t)b->data + b->size) return b;
	wrong++;
	return 0;
}

int cuInit(unsigned flags) { CALL; return 0; }
int cuGetErrorName(int code, const char **s) { *s = code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_FAKE"; return 0; }
int cuGetErrorString(int code, const char **s) { *s = "as the test wants it"; return 0; }
int cuDeviceGetCount(int *n) { CALL; *n = 1; return 0; }
int cuDeviceGet(int *d, int ordinal) { CALL; *d = ordinal; return 0; }
int cuDeviceGetName(char *s, int n, int d) { CALL; strncpy(s, "Fake GPU", n); return 0; }
int cuDeviceGetAttribute(int *v, int attribute, int d) {
	CALL;
	*v = attribute == 16 ? 4 : attribute == 38 ? 1 << 20 : attribute == 75 ? compute / 10 : attribute == 76 ? compute % 10 : 0;
	return 0;
}
int cuDevicePrimaryCtxRetain(void **c, int d) { CALL; live[contexts]++; *c = &live[contexts]; return 0; }
int cuDevicePrimaryCtxRelease_v2(int d) {
	live[contexts]--;
	// What is in a context goes with it; that is the only way where it could not be made current.
	if (pushFailed) live[streams] = live[modules] = live[events] = live[executables] = 0;
	return 0;
}
int cuCtxPushCurrent_v2(void *c) {
	if (calls + 1 == failAt) pushFailed = 1;
	CALL;
	if (c != &live[contexts]) wrong++;
	current++;
	return 0;
}
int cuCtxPopCurrent_v2(void **c) { current--; *c = &live[contexts]; return 0; }
int cuModuleLoadDataEx(void **m, const char *text, unsigned n, int *options, void **values) {
	IN_CONTEXT;
	if (++calls == failAt) {
		for (unsigned i = 0; i < n; i++)
			if (options[i] == 5) strcpy(values[i], "ptxas says: no");
		return failCode;
	}
	if (!strstr(text, ".entry attend")) return 218;
	live[modules]++;
	*m = malloc(1);
	return 0;
}
int cuModuleUnload(void *m) { IN_CONTEXT; live[modules]--; free(m); return 0; }
int cuModuleGetFunction(void **f, void *m, const char *name) { CALL; IN_CONTEXT; *f = m; return 0; }
int cuFuncSetAttribute(void *f, int attribute, int value) { CALL; return attribute != 8 || value > sharedBytes; }
int cuLaunchKernelEx(const unsigned *config, void *f, void **args, void **extra) {
	CALL;
	IN_CONTEXT;
	// Sizes of grid and block, shared memory, and at 8 bytes each from number 4 on: stream, attributes and how many there are.
	const uint64_t *rest = (const uint64_t *)config + 4;
	unsigned count = rest[2];
	if (!config[0] || !config[1] || !config[2] || !config[3] || config[3] > 1024 || config[6] > sharedBytes || !args || !args[0]) return 1;
	if (count > 1 || (count && (*(int *)rest[1] != 6 || ((int *)rest[1])[2] != 1))) return 1;
	uint64_t *a = args[0];
	Block *sequences = find(a[0], 104);
	for (int i = 0; sequences && i < 4; i++) find(*((uint64_t *)sequences->data + i), 1); // q, k, v and o
	if (capturing) captured++;
	else launches++;
	return 0;
}
int cuMemGetInfo_v2(size_t *available, size_t *total) { CALL; WAITS; *available = freeBytes, *total = 2 * freeBytes; return 0; }
int cuMemAlloc_v2(uint64_t *p, size_t n) {
	CALL;
	IN_CONTEXT; WAITS;
	if (n > freeBytes) return 2;
	Block *b = malloc(sizeof *b);
	b->next = blocks, b->size = n, b->data = calloc(1, n);
	blocks = b;
	live[memories]++;
	*p = (uint64_t)b->data;
	return 0;
}
int cuMemFree_v2(uint64_t p) {
	IN_CONTEXT; WAITS;
	for (Block **b = &blocks; *b; b = &(*b)->next)
		if ((uint64_t)(*b)->data == p) {
			Block *gone = *b;
			*b = gone->next;
			free(gone->data), free(gone);
			live[memories]--;
			return 0;
		}
	wrong++;
	return 1;
}
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t n) {
	CALL;
	IN_CONTEXT; WAITS;
	if (!find(to, n)) return 1;
	memcpy((void *)to, from, n);
	return 0;
}
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t n) {
	CALL;
	IN_CONTEXT; WAITS;
	if (!find(from, n)) return 1;
	memcpy(to, (void *)from, n);
	return 0;
}
int cuMemsetD8Async(uint64_t p, unsigned char x, size_t n, void *stream) {
	CALL;
	IN_CONTEXT;
	if (!find(p, n)) return 1;
	memset((void *)p, x, n);
	return 0;
}
int cuStreamCreate(void **s, unsigned flags) { CALL; IN_CONTEXT; live[streams]++; *s = malloc(1); return 0; }
int cuStreamSynchronize(void *s) { CALL; IN_CONTEXT; WAITS; return 0; }
int cuStreamDestroy_v2(void *s) { IN_CONTEXT; live[streams]--; free(s); return 0; }
int cuEventCreate(void **e, unsigned flags) { CALL; IN_CONTEXT; live[events]++; *e = malloc(1); return 0; }
int cuEventRecord(void *e, void *s) { CALL; IN_CONTEXT; return 0; }
int cuEventElapsedTime(float *ms, void *a, void *b) { CALL; *ms = 1; return 0; }
int cuEventDestroy_v2(void *e) { IN_CONTEXT; live[events]--; free(e); return 0; }
int cuStreamBeginCapture_v2(void *s, int mode) {
	CALL;
	IN_CONTEXT;
	WAITS;
	capturing = mode == 1, captured = 0;
	return capturing ? 0 : 1;
}
int cuStreamEndCapture(void *s, void **g) {
	IN_CONTEXT;
	if (!capturing) return 901;
	capturing = 0;
	CALL;
	live[graphs]++;
	*g = malloc(1);
	return 0;
}
int cuGraphInstantiateWithFlags(void **e, void *g, unsigned long long flags) { CALL; IN_CONTEXT; live[executables]++; *e = malloc(1); return 0; }
int cuGraphDestroy(void *g) { IN_CONTEXT; live[graphs]--; free(g); return 0; }
int cuGraphLaunch(void *e, void *s) { CALL; IN_CONTEXT; launches += captured; return 0; }
int cuGraphExecDestroy(void *e) { IN_CONTEXT; live[executables]--; free(e); return 0; }
