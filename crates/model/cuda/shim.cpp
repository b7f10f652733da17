// What LibTorch can do on CUDA and tch has no call for. Written against LibTorch 2.9 and 2.11.
//
// Every function returns null, or a message to be freed by tune_free: no exception leaves this file. A `Tensor *` given in is
// borrowed; one given back belongs to the caller.
#include <ATen/Context.h>
#include <ATen/cuda/CUDAGraph.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention_backward.h>
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAStream.h>

#include <atomic>
#include <cstring>

using at::Tensor;
using std::optional;

namespace {
template <typename F> char *guarded(F f) {
  try {
    f();
    return nullptr;
  } catch (const c10::Error &e) {
    return strdup(e.what_without_backtrace());
  } catch (const std::exception &e) {
    return strdup(e.what());
  } catch (...) {
    return strdup("an exception that is no std::exception");
  }
}

Tensor *owned(const Tensor &t) { return new Tensor(t); }

// Keys a query sees to its left, besides itself; `window` < 0 is all of them.
optional<int64_t> left(int64_t window) { return window < 0 ? optional<int64_t>() : window - 1; }
optional<int64_t> right(int64_t window) { return window < 0 ? optional<int64_t>() : 0; }

// [tokens, heads, dim] of equally long sequences as [batch, heads, length, dim], a view.
Tensor batched(const Tensor &t, int64_t batch) { return t.unflatten(0, {batch, t.size(0) / batch}).transpose(1, 2); }
Tensor flat(const Tensor &t) { return t.transpose(1, 2).flatten(0, 1); }

// Seeds of a dropout that is 0.
Tensor unused(const Tensor &like) { return at::empty({0}, like.options().dtype(at::kLong)); }

c10::Device on_card(int device) { return c10::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device)); }

// Dimensions of the log-sum-exp that cuDNN's forward pass gives, and its backward pass wants: [batch, heads, length] or, since
// 2025, one more. The result of each is the caller's, flat.
std::atomic<int64_t> lse_dims{4};

// A graph on its card, with the memory it may share.
struct Recording {
  c10::DeviceIndex device;
  c10::MempoolId_t pool;
  at::cuda::CUDAGraph graph;
  Recording(c10::DeviceIndex device, c10::MempoolId_t pool) : device(device), pool(pool) {}
  // Until LibTorch 2.12 a recording that fails leaves the allocator in it: its pool is never given back, nor is the cache.
  void abandon() {
    try {
      c10::cuda::CUDACachingAllocator::endAllocateToPool(device, pool);
      c10::cuda::CUDACachingAllocator::releasePool(device, pool);
    } catch (...) {
      // It had come out of it, and the graph gives the pool back.
    }
  }
};
}  // namespace

extern "C" {

void tune_free(char *message) { free(message); }

char *tune_current_stream(int device, void **stream) {
  return guarded([&] { *stream = c10::cuda::getCurrentCUDAStream(device).stream(); });
}

// Flash attention (Dao 2023, arXiv:2307.08691), causal to the lower right corner. q, k, v: [tokens, heads, dim], k and v may
// have fewer heads; cu_q, cu_k: i32 [sequences + 1], where each begins, and the end. lse: [heads, tokens].
char *tune_flash_forward(Tensor *q, Tensor *k, Tensor *v, Tensor *cu_q, Tensor *cu_k, int64_t max_q, int64_t max_k, double scale,
                         int64_t window, Tensor **out, Tensor **lse) {
  return guarded([&] {
    auto r = at::_flash_attention_forward(*q, *k, *v, *cu_q, *cu_k, max_q, max_k, 0.0, true, false, optional<double>(scale),
                                          left(window), right(window));
    *out = owned(std::get<0>(r));
    *lse = owned(std::get<1>(r));
  });
}

char *tune_flash_backward(Tensor *dout, Tensor *q, Tensor *k, Tensor *v, Tensor *out, Tensor *lse, Tensor *cu_q, Tensor *cu_k,
                          int64_t max_q, int64_t max_k, double scale, int64_t window, Tensor **dq, Tensor **dk, Tensor **dv) {
  return guarded([&] {
    auto r = at::_flash_attention_backward(*dout, *q, *k, *v, *out, *lse, *cu_q, *cu_k, max_q, max_k, 0.0, true, unused(*q),
                                           unused(*q), optional<double>(scale), left(window), right(window));
    *dq = owned(std::get<0>(r));
    *dk = owned(std::get<1>(r));
    *dv = owned(std::get<2>(r));
  });
}

// cuDNN's attention, causal, over `batch` sequences of one length. Shapes as above.
char *tune_cudnn_forward(Tensor *q, Tensor *k, Tensor *v, int64_t batch, double scale, Tensor **out, Tensor **lse) {
  return guarded([&] {
    auto r = at::_scaled_dot_product_cudnn_attention(batched(*q, batch), batched(*k, batch), batched(*v, batch), {}, true, 0.0,
                                                     true, false, optional<double>(scale));
    *out = owned(flat(std::get<0>(r)));
    lse_dims = std::get<1>(r).dim();
    *lse = owned(std::get<1>(r).reshape({batch, q->size(1), -1}).transpose(0, 1).flatten(1));
  });
}

char *tune_cudnn_backward(Tensor *dout, Tensor *q, Tensor *k, Tensor *v, Tensor *out, Tensor *lse, int64_t batch, double scale,
                          Tensor **dq, Tensor **dk, Tensor **dv) {
  return guarded([&] {
    int64_t length = q->size(0) / batch;
    Tensor cudnn_lse = lse->unflatten(1, {batch, length}).transpose(0, 1);
    if (lse_dims == 4) cudnn_lse = cudnn_lse.unsqueeze(-1);
    // A copy even where it lies as it should: of one sequence the strides would be others than the forward pass gave.
    cudnn_lse = cudnn_lse.clone(at::MemoryFormat::Contiguous);
    auto r = at::_scaled_dot_product_cudnn_attention_backward(
        batched(*dout, batch), batched(*q, batch), batched(*k, batch), batched(*v, batch), batched(*out, batch), cudnn_lse,
        unused(*q), unused(*q), Tensor(), Tensor(), Tensor(), length, length, 0.0, true, optional<double>(scale));
    *dq = owned(flat(std::get<0>(r)));
    *dk = owned(flat(std::get<1>(r)));
    *dv = owned(flat(std::get<2>(r)));
  });
}

// This thread computes on a stream of its own from here on: the default one cannot be recorded. What is under way there is
// waited for.
char *tune_leave_default_stream(int device) {
  return guarded([&] {
    auto old = c10::cuda::getDefaultCUDAStream(device);
    if (c10::cuda::getCurrentCUDAStream(device) != old) return;
    old.synchronize();
    c10::cuda::setCurrentCUDAStream(c10::cuda::getStreamFromPool(false, device));
  });
}

// `beside`: null, or a graph recorded on the same stream, whose memory this one uses too.
char *tune_graph_begin(int device, Recording **graph, Recording *beside) {
  return guarded([&] {
    c10::DeviceGuard on(on_card(device));
    auto pool = beside ? beside->pool : at::cuda::graph_pool_handle();
    auto made = std::make_unique<Recording>(static_cast<c10::DeviceIndex>(device), pool);
    try {
      made->graph.capture_begin(pool);
    } catch (...) {
      made->abandon();
      throw;
    }
    *graph = made.release();
  });
}
char *tune_graph_end(Recording *recording) {
  return guarded([&] {
    c10::DeviceGuard on(on_card(recording->device));
    try {
      recording->graph.capture_end();
    } catch (...) {
      recording->abandon();
      throw;
    }
  });
}
char *tune_graph_replay(Recording *recording) {
  return guarded([&] { recording->graph.replay(); });
}
char *tune_graph_free(Recording *recording) {
  return guarded([&] { delete recording; });
}

// Bytes in tensors, and their peak.
char *tune_allocated(int device, int64_t *now, int64_t *peak) {
  return guarded([&] {
    at::globalContext().lazyInitDevice(at::kCUDA);
    auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(device);
    *now = stats.allocated_bytes[0].current;
    *peak = stats.allocated_bytes[0].peak;
  });
}
char *tune_reset_peak(int device) {
  return guarded([&] {
    at::globalContext().lazyInitDevice(at::kCUDA);
    c10::cuda::CUDACachingAllocator::resetPeakStats(device);
  });
}
char *tune_empty_cache() {
  return guarded([&] { c10::cuda::CUDACachingAllocator::emptyCache(); });
}

// ATen's own attention leaves cuDNN alone: it would plan anew for each length of a cache, that is for every token. The calls
// above do not ask this.
char *tune_no_cudnn_in_aten() {
  return guarded([&] { at::globalContext().setSDPUseCuDNN(false); });
}
}
