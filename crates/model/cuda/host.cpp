// kernels.cu on the CPU, for tests. Each thread is a fiber; blocks run one after the other, and so do a block's warps between two
// barriers. All in ascending or in descending order: a missing barrier makes the two differ.
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#define KERNEL extern "C" void
#define DEVICE static inline
#define DEVICE_MEMBER inline
#define SHARED static
#define TABLE static const
#define UNROLL
typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64;
typedef long long i64;

static u32 bits_of(float x) {
  u32 u;
  memcpy(&u, &x, sizeof u);
  return u;
}
static float of_bits(u32 u) {
  float x;
  memcpy(&x, &u, sizeof x);
  return x;
}
static float rounded_product(float a, float b) { return a * b; }
static float rounded_sum(float a, float b) { return a + b; }

namespace {
struct Index {
  u32 x;
} threadIdx, blockIdx, blockDim;

const u32 WARP_SIZE = 32;

enum Where { RUNNING, AT_BARRIER, AT_SHUFFLE, SHUFFLED, FINISHED };

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  Where where;
  float slot;
};
std::vector<Fiber> fibers;
ucontext_t scheduler;
const std::function<void()> *body;

void wait_at(Where where) {
  Fiber &self = fibers[threadIdx.x];
  self.where = where;
  swapcontext(&self.context, &scheduler);
}

void run_fiber() {
  (*body)();
  wait_at(FINISHED);
}

// Runs the threads of a warp, shuffle by shuffle, to where all wait for the other warps or are done. Whether they got there
// together.
bool run_warp(u32 first, bool descending) {
  Where where;
  do {
    for (u32 i = 0; i < WARP_SIZE; i++) {
      threadIdx.x = first + (descending ? WARP_SIZE - 1 - i : i);
      swapcontext(&scheduler, &fibers[threadIdx.x].context);
    }
    where = fibers[first].where;
    for (u32 i = 0; i < WARP_SIZE; i++)
      if (fibers[first + i].where != where) return false;
  } while (where == AT_SHUFFLE || where == SHUFFLED);
  return true;
}

// Whether all threads came to the same barriers. A warp runs from one to the next before another starts.
bool run_block(bool descending) {
  for (Fiber &fiber : fibers) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    fiber.where = RUNNING;
    makecontext(&fiber.context, run_fiber, 0);
  }
  const u32 warps = fibers.size() / WARP_SIZE;
  do {
    for (u32 i = 0; i < warps; i++)
      if (!run_warp((descending ? warps - 1 - i : i) * WARP_SIZE, descending)) return false;
    for (const Fiber &fiber : fibers)
      if (fiber.where != fibers[0].where) return false;
  } while (fibers[0].where != FINISHED);
  return true;
}
}  // namespace

static void __syncthreads() { wait_at(AT_BARRIER); }

static float __shfl_xor_sync(u32, float x, int step) {
  fibers[threadIdx.x].slot = x;
  wait_at(AT_SHUFFLE);
  x = fibers[threadIdx.x ^ step].slot;
  wait_at(SHUFFLED);
  return x;
}

#include "kernels.cu"

template <typename... A, size_t... I> static void unpack(void (*kernel)(A...), void **args, std::index_sequence<I...>) {
  kernel(*(A *)args[I]...);
}
template <typename... A> static void call(void (*kernel)(A...), void **args) {
  unpack(kernel, args, std::index_sequence_for<A...>());
}

#define ENTRY(K) {#K "_f32", [](void **args) { call(K##_f32, args); }}, {#K "_bf16", [](void **args) { call(K##_bf16, args); }}
static const std::map<std::string, void (*)(void **)> KERNELS = {
    ENTRY(rms_norm), ENTRY(rms_norm_backward), ENTRY(rms_norm_backward_residual), ENTRY(rope), ENTRY(swiglu), ENTRY(swiglu_backward),
    ENTRY(swiglu_backward_recompute),
    ENTRY(cross_entropy), ENTRY(dropout), ENTRY(nf4), ENTRY(int8),
    {"adamw_f32", [](void **args) { call(adamw_f32, args); }},
    {"rms_norm_exact_bf16", [](void **args) { call(rms_norm_exact_bf16, args); }},
    {"rms_norm_exact_backward_bf16", [](void **args) { call(rms_norm_exact_backward_bf16, args); }},
    {"rms_norm_exact_backward_residual_bf16", [](void **args) { call(rms_norm_exact_backward_residual_bf16, args); }},
};

// What went wrong, or null. `args` as cuLaunchKernel has them.
extern "C" const char *tune_host_launch(const char *name, u32 grid, u32 block, void **args, bool descending) {
  static std::mutex one_at_a_time;
  std::lock_guard<std::mutex> guard(one_at_a_time);
  auto kernel = KERNELS.find(name);
  if (kernel == KERNELS.end()) return "no such kernel";
  if (block == 0 || block > 1024 || block % WARP != 0) return "not a block of whole warps";
  std::function<void()> run = [&] { kernel->second(args); };
  body = &run;
  blockDim.x = block;
  fibers.resize(block);
  for (Fiber &fiber : fibers) fiber.stack.resize(64 << 10);
  for (u32 i = 0; i < grid; i++) {
    blockIdx.x = descending ? grid - 1 - i : i;
    if (!run_block(descending)) return "threads of a block wait at different barriers";
  }
  return nullptr;
}
