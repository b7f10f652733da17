// Kernels LibTorch lacks. Compiled for the card by NVRTC when the program runs, and as C++ by host.cpp, where tests judge them.
//
// bf16 is handled by its bits, so that no header is needed. A thread works on up to 8 neighbouring elements, by 16-byte accesses
// where they are whole and aligned: any size and any alignment is served. Sums are in f32.

#ifdef __CUDACC_RTC__
#define KERNEL extern "C" __global__ void __launch_bounds__(1024)
#define DEVICE static __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__
#define SHARED __shared__
#define TABLE static __device__ const
#define UNROLL _Pragma("unroll")
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;
DEVICE u32 bits_of(float x) { return __float_as_uint(x); }
DEVICE float of_bits(u32 x) { return __uint_as_float(x); }
// Products and sums that must not become one fused operation.
DEVICE float rounded_product(float a, float b) { return __fmul_rn(a, b); }
DEVICE float rounded_sum(float a, float b) { return __fadd_rn(a, b); }
#endif

#define WARP 32
#define EACH 8
#define MINUS_INFINITY of_bits(0xff800000u)

struct bf16 {
  u16 bits;
};
struct alignas(16) Quad {
  u32 w[4];
};

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(bf16 x) { return of_bits((u32)x.bits << 16); }
DEVICE void round_to(float x, float *y) { *y = x; }
// To nearest, ties to even.
DEVICE void round_to(float x, bf16 *y) {
  u32 u = bits_of(x);
  bool nan = (u & 0x7fffffffu) > 0x7f800000u;
  y->bits = nan ? (u16)((u >> 16) | 0x40u) : (u16)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

DEVICE bool aligned(const void *p) { return ((u64)p & 15u) == 0; }

// The first n of 8 elements; the rest becomes 0.
template <typename T> DEVICE void load(const T *p, int n, float *v) {
  if (n == EACH && aligned(p)) {
    Quad quads[EACH * sizeof(T) / sizeof(Quad)];
    UNROLL
    for (int i = 0; i < (int)(EACH * sizeof(T) / sizeof(Quad)); i++) quads[i] = ((const Quad *)p)[i];
    const T *t = (const T *)quads;
    UNROLL
    for (int i = 0; i < EACH; i++) v[i] = to_float(t[i]);
  } else {
    UNROLL
    for (int i = 0; i < EACH; i++) v[i] = i < n ? to_float(p[i]) : 0.0f;
  }
}

template <typename T> DEVICE void store(T *p, int n, const float *v) {
  if (n == EACH && aligned(p)) {
    Quad quads[EACH * sizeof(T) / sizeof(Quad)];
    T *t = (T *)quads;
    UNROLL
    for (int i = 0; i < EACH; i++) round_to(v[i], &t[i]);
    UNROLL
    for (int i = 0; i < (int)(EACH * sizeof(T) / sizeof(Quad)); i++) ((Quad *)p)[i] = quads[i];
  } else {
    UNROLL
    for (int i = 0; i < EACH; i++)
      if (i < n) round_to(v[i], &p[i]);
  }
}

// How many of the 8 elements from `start` on are there.
DEVICE int here(i64 start, i64 end) { return end - start < EACH ? (int)(end - start) : EACH; }

struct Add {
  DEVICE_MEMBER float operator()(float a, float b) const { return a + b; }
};
struct Max {
  DEVICE_MEMBER float operator()(float a, float b) const { return a > b ? a : b; }
};

// Over all threads of a block of whole warps, to each of them; all must call it. `scratch` has one place a warp.
template <typename F> DEVICE float block_reduce(float x, F f, float *scratch) {
  for (int step = WARP / 2; step > 0; step /= 2) x = f(x, __shfl_xor_sync(0xffffffffu, x, step));
  __syncthreads();
  if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = x;
  __syncthreads();
  x = scratch[0];
  for (int warp = 1; warp < (int)(blockDim.x / WARP); warp++) x = f(x, scratch[warp]);
  return x;
}

// x / sqrt(mean(x²) + eps) · weight. A block a row.
template <typename T, typename W> DEVICE void rms_norm(const T *x, const W *weight, T *y, i64 cols, float eps) {
  SHARED float scratch[WARP];
  x += blockIdx.x * cols;
  y += blockIdx.x * cols;
  float v[EACH], w[EACH], squares = 0.0f;
  for (i64 c = (i64)threadIdx.x * EACH; c < cols; c += (i64)blockDim.x * EACH) {
    load(x + c, here(c, cols), v);
    for (int i = 0; i < EACH; i++) squares += v[i] * v[i];
  }
  float inverse = 1.0f / sqrtf(block_reduce(squares, Add(), scratch) / (float)cols + eps);
  for (i64 c = (i64)threadIdx.x * EACH; c < cols; c += (i64)blockDim.x * EACH) {
    int n = here(c, cols);
    load(x + c, n, v);
    load(weight + c, n, w);
    for (int i = 0; i < EACH; i++) v[i] *= inverse * w[i];
    store(y + c, n, v);
  }
}

// With n = x / rms and g = dy · weight: dx = (g − n · mean(g · n)) / rms. A block a row; both sums come from one pass over the
// row, so a saved 1 / rms would spare nothing.
//
// With `residual`, the gradient of the stream that x is: dx has that added, and y is the norm again.
template <typename T, typename W>
DEVICE void rms_norm_backward(const T *x, const W *weight, const T *dy, const T *residual, T *dx, T *y, i64 cols, float eps) {
  SHARED float scratch[WARP];
  i64 start = blockIdx.x * cols;
  x += start;
  dy += start;
  dx += start;
  float v[EACH], w[EACH], d[EACH], squares = 0.0f, products = 0.0f;
  for (i64 c = (i64)threadIdx.x * EACH; c < cols; c += (i64)blockDim.x * EACH) {
    int n = here(c, cols);
    load(x + c, n, v);
    load(weight + c, n, w);
    load(dy + c, n, d);
    for (int i = 0; i < EACH; i++) {
      squares += v[i] * v[i];
      products += v[i] * w[i] * d[i];
    }
  }
  float inverse = 1.0f / sqrtf(block_reduce(squares, Add(), scratch) / (float)cols + eps);
  float shared = block_reduce(products, Add(), scratch) * inverse * inverse / (float)cols;
  for (i64 c = (i64)threadIdx.x * EACH; c < cols; c += (i64)blockDim.x * EACH) {
    int n = here(c, cols);
    load(x + c, n, v);
    load(weight + c, n, w);
    load(dy + c, n, d);
    for (int i = 0; i < EACH; i++) d[i] = (w[i] * d[i] - v[i] * shared) * inverse;
    if (residual) {
      for (int i = 0; i < EACH; i++) w[i] = v[i] * (inverse * w[i]);
      store(y + start + c, n, w);
      load(residual + start + c, n, v);
      for (int i = 0; i < EACH; i++) d[i] += v[i];
    }
    store(dx + c, n, d);
  }
}

// Pairs (i, i + half) of each head, rotated by the row's angles; sign −1 rotates back. y may be x. A thread 8 pairs, or 8
// elements past the rotated ones.
template <typename T>
DEVICE void rope(const T *x, const float *cosines, const float *sines, T *y, i64 rows, i64 heads, i64 dim, i64 half, float sign) {
  i64 of_pairs = (half + EACH - 1) / EACH, of_rest = (dim - 2 * half + EACH - 1) / EACH;
  i64 item = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  i64 part = item % (of_pairs + of_rest), head = item / (of_pairs + of_rest);
  if (head >= rows * heads) return;
  i64 row = head / heads;
  x += head * dim;
  y += head * dim;
  float a[EACH], b[EACH], c[EACH], s[EACH], first[EACH], second[EACH];
  if (part < of_pairs) {
    i64 i = part * EACH;
    int n = here(i, half);
    load(x + i, n, a);
    load(x + half + i, n, b);
    load(cosines + row * half + i, n, c);
    load(sines + row * half + i, n, s);
    for (int j = 0; j < EACH; j++) {
      first[j] = a[j] * c[j] - sign * b[j] * s[j];
      second[j] = b[j] * c[j] + sign * a[j] * s[j];
    }
    store(y + i, n, first);
    store(y + half + i, n, second);
  } else {
    i64 i = 2 * half + (part - of_pairs) * EACH;
    int n = here(i, dim);
    load(x + i, n, a);
    store(y + i, n, a);
  }
}

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// silu(gate) · up, of rows that stand `gate_stride` and `up_stride` elements apart. A thread 8 elements of a row.
template <typename T>
DEVICE void swiglu(const T *gate, const T *up, T *y, i64 rows, i64 cols, i64 gate_stride, i64 up_stride) {
  i64 parts = (cols + EACH - 1) / EACH, item = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  i64 row = item / parts, c = item % parts * EACH;
  if (row >= rows) return;
  int n = here(c, cols);
  float g[EACH], u[EACH];
  load(gate + row * gate_stride + c, n, g);
  load(up + row * up_stride + c, n, u);
  for (int i = 0; i < EACH; i++) g[i] *= sigmoid(g[i]) * u[i];
  store(y + row * cols + c, n, g);
}

// Both gradients of it; dy, dgate and dup are dense. With `y`, which may be dy, itself again.
template <typename T>
DEVICE void swiglu_backward(const T *gate, const T *up, const T *dy, T *dgate, T *dup, T *y, i64 rows, i64 cols,
                            i64 gate_stride, i64 up_stride) {
  i64 parts = (cols + EACH - 1) / EACH, item = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  i64 row = item / parts, c = item % parts * EACH;
  if (row >= rows) return;
  int n = here(c, cols);
  float g[EACH], u[EACH], d[EACH], dg[EACH], du[EACH];
  load(gate + row * gate_stride + c, n, g);
  load(up + row * up_stride + c, n, u);
  load(dy + row * cols + c, n, d);
  for (int i = 0; i < EACH; i++) {
    float s = sigmoid(g[i]);
    dg[i] = d[i] * u[i] * s * (1.0f + g[i] * (1.0f - s));
    du[i] = d[i] * g[i] * s;
    u[i] = g[i] * (s * u[i]);
  }
  store(dgate + row * cols + c, n, dg);
  store(dup + row * cols + c, n, du);
  if (y) store(y + row * cols + c, n, u);
}

// −log softmax(logits)[target]. A block a row; the logits become softmax − one-hot if `gradient`.
template <typename T> DEVICE void cross_entropy(T *logits, const i64 *targets, float *losses, i64 cols, int gradient) {
  SHARED float scratch[WARP];
  logits += blockIdx.x * cols;
  i64 target = targets[blockIdx.x];
  float own = to_float(logits[target]), v[EACH], most = MINUS_INFINITY, sum = 0.0f;
  for (i64 c = (i64)threadIdx.x * EACH; c < cols; c += (i64)blockDim.x * EACH) {
    int n = here(c, cols);
    load(logits + c, n, v);
    float before = most;
    for (int i = 0; i < EACH; i++) most = i < n && v[i] > most ? v[i] : most;
    sum = before == MINUS_INFINITY ? 0.0f : sum * expf(before - most);
    for (int i = 0; i < EACH; i++) sum += i < n ? expf(v[i] - most) : 0.0f;
  }
  float row_most = block_reduce(most, Max(), scratch);
  sum = block_reduce(sum == 0.0f ? 0.0f : sum * expf(most - row_most), Add(), scratch);
  if (threadIdx.x == 0) losses[blockIdx.x] = logf(sum) + row_most - own;
  if (!gradient) return;
  for (i64 c = (i64)threadIdx.x * EACH; c < cols; c += (i64)blockDim.x * EACH) {
    int n = here(c, cols);
    load(logits + c, n, v);
    for (int i = 0; i < EACH; i++) v[i] = expf(v[i] - row_most) / sum - (c + i == target ? 1.0f : 0.0f);
    store(logits + c, n, v);
  }
}

// noise.rs: SplitMix64's finalizer over seed and counter.
DEVICE u64 random_bits(u64 seed, u64 index) {
  u64 z = seed ^ ((index + 1) * 0x9E3779B97F4A7C15ull);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

// x · factor where the upper 53 random bits of the element's index reach `threshold`, 0 elsewhere.
template <typename T> DEVICE void dropout(const T *x, T *y, i64 count, u64 seed, u64 threshold, float factor) {
  i64 start = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * EACH;
  if (start >= count) return;
  int n = here(start, count);
  float v[EACH];
  load(x + start, n, v);
  for (int i = 0; i < EACH; i++) v[i] = (random_bits(seed, start + i) >> 11) < threshold ? 0.0f : v[i] * factor;
  store(y + start, n, v);
}

// QLoRA's 16 values.
TABLE float NF4[16] = {-1.0f,         -0.6961928f,  -0.52507305f, -0.3949175f,  -0.28444138f, -0.18477343f,
                       -0.091050036f, 0.0f,         0.0795803f,   0.1609302f,   0.2461123f,   0.33791524f,
                       0.44070983f,   0.562617f,    0.72295684f,  1.0f};

// Two codes a byte, the first in the upper half, in blocks of 64 with a maximum each. Where `codes_of_max` is given the maxima are
// coded in turn, by a map of 256 in blocks of 256, plus an offset.
template <typename T>
DEVICE void nf4(const u8 *codes, const float *max, const u8 *codes_of_max, const float *map, float offset, T *y, i64 count) {
  i64 start = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * EACH;
  if (start >= count) return;
  int n = here(start, count);
  i64 block = start / 64;
  float scale = codes_of_max ? rounded_sum(rounded_product(map[codes_of_max[block]], max[block / 256]), offset) : max[block];
  float v[EACH];
  for (int i = 0; i < EACH; i++) {
    u8 pair = i < n ? codes[(start + i) / 2] : 0;
    v[i] = rounded_product(NF4[i % 2 == 0 ? pair >> 4 : pair & 15], scale);
  }
  store(y + start, n, v);
}

// codes · scale of their row · step.
template <typename T> DEVICE void int8(const signed char *codes, const float *scales, float step, T *y, i64 rows, i64 cols) {
  i64 parts = (cols + EACH - 1) / EACH, item = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  i64 row = item / parts, c = item % parts * EACH;
  if (row >= rows) return;
  int n = here(c, cols);
  float v[EACH];
  for (int i = 0; i < EACH; i++) {
    float code = i < n ? (float)codes[row * cols + c + i] : 0.0f;
    v[i] = rounded_product(rounded_product(code, scales[row]), step);
  }
  store(y + row * cols + c, n, v);
}

// What AdamW reads from memory, so that a captured step sees new values.
struct Rates {
  float scale, mean_share, beta2, variance_share, eps, decay, step, correction;
};

// With x = g · scale: m ← m + mean_share · (x − m), v ← beta2 · v + variance_share · x²,
// p ← p · decay − step · m / (sqrt(v) / correction + eps).
KERNEL adamw_f32(float *p, const float *g, float *m, float *v, const Rates *rates, i64 count) {
  i64 start = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * EACH;
  if (start >= count) return;
  int n = here(start, count);
  Rates r = *rates;
  float parameter[EACH], gradient[EACH], mean[EACH], variance[EACH];
  load(p + start, n, parameter);
  load(g + start, n, gradient);
  load(m + start, n, mean);
  load(v + start, n, variance);
  for (int i = 0; i < EACH; i++) {
    float x = gradient[i] * r.scale;
    mean[i] += r.mean_share * (x - mean[i]);
    variance[i] = r.beta2 * variance[i] + r.variance_share * x * x;
    parameter[i] = parameter[i] * r.decay - r.step * mean[i] / (sqrtf(variance[i]) / r.correction + r.eps);
  }
  store(p + start, n, parameter);
  store(m + start, n, mean);
  store(v + start, n, variance);
}

#define FOR(T, NAME)                                                                                                           \
  KERNEL rms_norm_##NAME(const T *x, const T *weight, T *y, i64 cols, float eps) { rms_norm(x, weight, y, cols, eps); }        \
  KERNEL rms_norm_backward_##NAME(const T *x, const T *weight, const T *dy, T *dx, i64 cols, float eps) {                      \
    rms_norm_backward(x, weight, dy, (const T *)0, dx, (T *)0, cols, eps);                                                     \
  }                                                                                                                            \
  KERNEL rms_norm_backward_residual_##NAME(const T *x, const T *weight, const T *dy, const T *residual, T *dx, T *y, i64 cols, float eps) {   \
    rms_norm_backward(x, weight, dy, residual, dx, y, cols, eps);                                                                \
  }                                                                                                                            \
  KERNEL rope_##NAME(const T *x, const float *cosines, const float *sines, T *y, i64 rows, i64 heads, i64 dim, i64 half,       \
                     float sign) {                                                                                             \
    rope(x, cosines, sines, y, rows, heads, dim, half, sign);                                                                  \
  }                                                                                                                            \
  KERNEL swiglu_##NAME(const T *gate, const T *up, T *y, i64 rows, i64 cols, i64 gate_stride, i64 up_stride) {                 \
    swiglu(gate, up, y, rows, cols, gate_stride, up_stride);                                                                   \
  }                                                                                                                            \
  KERNEL swiglu_backward_##NAME(const T *gate, const T *up, const T *dy, T *dgate, T *dup, i64 rows, i64 cols,                 \
                                i64 gate_stride, i64 up_stride) {                                                              \
    swiglu_backward(gate, up, dy, dgate, dup, (T *)0, rows, cols, gate_stride, up_stride);                                     \
  }                                                                                                                            \
  KERNEL swiglu_backward_recompute_##NAME(const T *gate, const T *up, T *dy, T *dgate, T *dup, i64 rows, i64 cols, i64 gate_stride,          \
                            i64 up_stride) {                                                                                   \
    swiglu_backward(gate, up, dy, dgate, dup, dy, rows, cols, gate_stride, up_stride);                                         \
  }                                                                                                                            \
  KERNEL cross_entropy_##NAME(T *logits, const i64 *targets, float *losses, i64 cols, int gradient) {                          \
    cross_entropy(logits, targets, losses, cols, gradient);                                                                    \
  }                                                                                                                            \
  KERNEL dropout_##NAME(const T *x, T *y, i64 count, u64 seed, u64 threshold, float factor) {                                  \
    dropout(x, y, count, seed, threshold, factor);                                                                             \
  }                                                                                                                            \
  KERNEL nf4_##NAME(const u8 *codes, const float *max, const u8 *codes_of_max, const float *map, float offset, T *y,           \
                    i64 count) {                                                                                               \
    nf4(codes, max, codes_of_max, map, offset, y, count);                                                                      \
  }                                                                                                                            \
  KERNEL int8_##NAME(const signed char *codes, const float *scales, float step, T *y, i64 rows, i64 cols) {                    \
    int8(codes, scales, step, y, rows, cols);                                                                                  \
  }

FOR(float, f32)
FOR(bf16, bf16)

// Beside a weight in f32.
KERNEL rms_norm_exact_bf16(const bf16 *x, const float *weight, bf16 *y, i64 cols, float eps) {
  rms_norm(x, weight, y, cols, eps);
}
KERNEL rms_norm_exact_backward_bf16(const bf16 *x, const float *weight, const bf16 *dy, bf16 *dx, i64 cols, float eps) {
  rms_norm_backward(x, weight, dy, (const bf16 *)0, dx, (bf16 *)0, cols, eps);
}
KERNEL rms_norm_exact_backward_residual_bf16(const bf16 *x, const float *weight, const bf16 *dy, const bf16 *residual, bf16 *dx, bf16 *y,
                                i64 cols, float eps) {
  rms_norm_backward(x, weight, dy, residual, dx, y, cols, eps);
}
