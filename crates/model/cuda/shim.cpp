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
#include <c10/core/Event.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAStream.h>

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
    *lse = owned(std::get<1>(r).reshape({batch, q->size(1), -1}).transpose(0, 1).flatten(1));
  });
}

char *tune_cudnn_backward(Tensor *dout, Tensor *q, Tensor *k, Tensor *v, Tensor *out, Tensor *lse, int64_t batch, double scale,
                          Tensor **dq, Tensor **dk, Tensor **dv) {
  return guarded([&] {
    int64_t length = q->size(0) / batch;
    Tensor cudnn_lse = lse->unflatten(1, {batch, length}).transpose(0, 1).contiguous();
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
char *tune_graph_begin(at::cuda::CUDAGraph **graph, at::cuda::CUDAGraph *beside) {
  return guarded([&] {
    auto made = std::make_unique<at::cuda::CUDAGraph>();
    beside ? made->capture_begin(beside->pool()) : made->capture_begin();
    *graph = made.release();
  });
}
char *tune_graph_end(at::cuda::CUDAGraph *graph) {
  return guarded([&] { graph->capture_end(); });
}
char *tune_graph_replay(at::cuda::CUDAGraph *graph) {
  return guarded([&] { graph->replay(); });
}
char *tune_graph_free(at::cuda::CUDAGraph *graph) {
  return guarded([&] { delete graph; });
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

// A moment in the work of the current stream.
char *tune_event_record(int device, c10::Event **event) {
  return guarded([&] {
    auto made = std::make_unique<c10::Event>(at::kCUDA, c10::EventFlag::BACKEND_DEFAULT);
    made->record(c10::cuda::getCurrentCUDAStream(device).unwrap());
    *event = made.release();
  });
}
// Waits for `end`.
char *tune_event_elapsed(c10::Event *start, c10::Event *end, double *milliseconds) {
  return guarded([&] {
    end->synchronize();
    *milliseconds = start->elapsedTime(*end);
  });
}
char *tune_event_free(c10::Event *event) {
  return guarded([&] { delete event; });
}
}
