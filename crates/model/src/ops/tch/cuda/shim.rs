//! The calls of `cuda/shim.cpp`, safe. Without it (`cfg(tune_cuda)`) each says why it is absent.
use tch::Tensor;

/// Why CUDA's part was left out when this program was built.
pub fn absent() -> Option<&'static str> {
    option_env!("TUNE_NO_CUDA")
}

/// Cumulative lengths of packed sequences, i32 `[sequences + 1]` on the device, and the longest.
pub struct Lengths {
    pub starts: Tensor,
    pub longest: i64,
}

/// Bytes in tensors on a card.
#[derive(Debug, Clone, Copy)]
pub struct Allocated {
    pub now: i64,
    pub peak: i64,
}

#[cfg(tune_cuda)]
pub use with::*;
#[cfg(not(tune_cuda))]
pub use without::*;

#[cfg(tune_cuda)]
mod with {
    use super::{Allocated, Lengths};
    use std::ffi::{CStr, c_char, c_int, c_void};
    use std::ptr::null_mut;
    use tch::Tensor;

    type Message = *mut c_char;
    type At = *const torch_sys::C_tensor;
    type New = *mut torch_sys::C_tensor;
    type Handle = *mut c_void;

    unsafe extern "C" {
        fn tune_free(message: Message);
        fn tune_current_stream(device: c_int, stream: *mut Handle) -> Message;
        fn tune_flash_forward(
            q: At,
            k: At,
            v: At,
            cu_q: At,
            cu_k: At,
            max_q: i64,
            max_k: i64,
            scale: f64,
            window: i64,
            out: *mut New,
            lse: *mut New,
        ) -> Message;
        fn tune_flash_backward(
            dout: At,
            q: At,
            k: At,
            v: At,
            out: At,
            lse: At,
            cu_q: At,
            cu_k: At,
            max_q: i64,
            max_k: i64,
            scale: f64,
            window: i64,
            dq: *mut New,
            dk: *mut New,
            dv: *mut New,
        ) -> Message;
        fn tune_cudnn_forward(q: At, k: At, v: At, batch: i64, scale: f64, out: *mut New, lse: *mut New) -> Message;
        fn tune_cudnn_backward(
            dout: At,
            q: At,
            k: At,
            v: At,
            out: At,
            lse: At,
            batch: i64,
            scale: f64,
            dq: *mut New,
            dk: *mut New,
            dv: *mut New,
        ) -> Message;
        fn tune_leave_default_stream(device: c_int) -> Message;
        fn tune_graph_begin(device: c_int, graph: *mut Handle, beside: Handle) -> Message;
        fn tune_graph_end(graph: Handle) -> Message;
        fn tune_graph_replay(graph: Handle) -> Message;
        fn tune_graph_free(graph: Handle) -> Message;
        fn tune_allocated(device: c_int, now: *mut i64, peak: *mut i64) -> Message;
        fn tune_reset_peak(device: c_int) -> Message;
        fn tune_empty_cache() -> Message;
        fn tune_no_cudnn_in_aten() -> Message;
    }

    fn check(message: Message) -> Result<(), String> {
        if message.is_null() {
            return Ok(());
        }
        // SAFETY: a string of the shim's, freed once.
        unsafe {
            let text = CStr::from_ptr(message).to_string_lossy().into_owned();
            tune_free(message);
            Err(text)
        }
    }

    /// Hands tensors back to Rust once the call that made them succeeded.
    fn tensors<const N: usize>(call: impl FnOnce([*mut New; N]) -> Message) -> Result<[Tensor; N], String> {
        let mut made = [null_mut(); N];
        check(call(made.each_mut().map(|t| t as *mut New)))?;
        // SAFETY: the shim gives them away.
        Ok(made.map(|t| unsafe { Tensor::from_ptr(t) }))
    }

    /// The stream LibTorch puts this thread's work on.
    pub fn current_stream(device: i32) -> Result<*mut c_void, String> {
        let mut stream = null_mut();
        // SAFETY: as declared in shim.cpp, here and below.
        check(unsafe { tune_current_stream(device, &mut stream) })?;
        Ok(stream)
    }

    /// `[out, lse]`. `window` < 0: none.
    pub fn flash_forward(
        [q, k, v]: [&Tensor; 3],
        queries: &Lengths,
        keys: &Lengths,
        scale: f64,
        window: i64,
    ) -> Result<[Tensor; 2], String> {
        tensors(|[out, lse]| unsafe {
            tune_flash_forward(
                q.as_ptr(),
                k.as_ptr(),
                v.as_ptr(),
                queries.starts.as_ptr(),
                keys.starts.as_ptr(),
                queries.longest,
                keys.longest,
                scale,
                window,
                out,
                lse,
            )
        })
    }

    /// `[dq, dk, dv]` of `[dout, q, k, v, out, lse]`.
    pub fn flash_backward(
        saved: [&Tensor; 6],
        queries: &Lengths,
        keys: &Lengths,
        scale: f64,
        window: i64,
    ) -> Result<[Tensor; 3], String> {
        let [dout, q, k, v, out, lse] = saved.map(Tensor::as_ptr);
        tensors(|[dq, dk, dv]| unsafe {
            tune_flash_backward(
                dout,
                q,
                k,
                v,
                out,
                lse,
                queries.starts.as_ptr(),
                keys.starts.as_ptr(),
                queries.longest,
                keys.longest,
                scale,
                window,
                dq,
                dk,
                dv,
            )
        })
    }

    pub fn cudnn_forward([q, k, v]: [&Tensor; 3], batch: i64, scale: f64) -> Result<[Tensor; 2], String> {
        let [q, k, v] = [q, k, v].map(Tensor::as_ptr);
        tensors(|[out, lse]| unsafe { tune_cudnn_forward(q, k, v, batch, scale, out, lse) })
    }

    pub fn cudnn_backward(saved: [&Tensor; 6], batch: i64, scale: f64) -> Result<[Tensor; 3], String> {
        let [dout, q, k, v, out, lse] = saved.map(Tensor::as_ptr);
        tensors(|[dq, dk, dv]| unsafe { tune_cudnn_backward(dout, q, k, v, out, lse, batch, scale, dq, dk, dv) })
    }

    /// This thread computes on a stream of its own from here on.
    pub fn leave_default_stream(device: i32) -> Result<(), String> {
        check(unsafe { tune_leave_default_stream(device) })
    }

    pub fn allocated(device: i32) -> Result<Allocated, String> {
        let (mut now, mut peak) = (0, 0);
        check(unsafe { tune_allocated(device, &mut now, &mut peak) })?;
        Ok(Allocated { now, peak })
    }

    pub fn reset_peak(device: i32) -> Result<(), String> {
        check(unsafe { tune_reset_peak(device) })
    }

    pub fn empty_cache() -> Result<(), String> {
        check(unsafe { tune_empty_cache() })
    }

    /// ATen's own attention, as while decoding, leaves cuDNN alone from here on.
    pub fn no_cudnn_in_aten() -> Result<(), String> {
        check(unsafe { tune_no_cudnn_in_aten() })
    }

    /// What was launched between its beginning and its end, to be launched again at once.
    pub struct Graph(Handle);

    // SAFETY: a graph belongs to no thread.
    unsafe impl Send for Graph {}

    impl Graph {
        /// Work of this thread's stream on a card is recorded instead of run, until [`Self::end`]; with the memory of another one, `beside`.
        pub fn begin(device: i32, beside: Option<&Self>) -> Result<Self, String> {
            let mut graph = null_mut();
            let beside = beside.map_or(null_mut(), |graph| graph.0);
            check(unsafe { tune_graph_begin(device, &mut graph, beside) })?;
            Ok(Self(graph))
        }
        pub fn end(&mut self) -> Result<(), String> {
            check(unsafe { tune_graph_end(self.0) })
        }
        pub fn replay(&mut self) -> Result<(), String> {
            check(unsafe { tune_graph_replay(self.0) })
        }
    }
    impl Drop for Graph {
        fn drop(&mut self) {
            // Nobody is left to tell of a failure.
            let _ = check(unsafe { tune_graph_free(self.0) });
        }
    }
}

/// Compiled for tests too, so that neither form of this file rots.
#[cfg(any(test, not(tune_cuda)))]
#[cfg_attr(tune_cuda, allow(dead_code))]
mod without {
    use super::{Allocated, Lengths};
    use std::ffi::c_void;
    use tch::Tensor;

    fn none<T>() -> Result<T, String> {
        Err(super::absent().unwrap_or_default().into())
    }

    pub fn current_stream(_: i32) -> Result<*mut c_void, String> {
        none()
    }
    pub fn flash_forward(_: [&Tensor; 3], _: &Lengths, _: &Lengths, _: f64, _: i64) -> Result<[Tensor; 2], String> {
        none()
    }
    pub fn flash_backward(_: [&Tensor; 6], _: &Lengths, _: &Lengths, _: f64, _: i64) -> Result<[Tensor; 3], String> {
        none()
    }
    pub fn cudnn_forward(_: [&Tensor; 3], _: i64, _: f64) -> Result<[Tensor; 2], String> {
        none()
    }
    pub fn cudnn_backward(_: [&Tensor; 6], _: i64, _: f64) -> Result<[Tensor; 3], String> {
        none()
    }
    pub fn leave_default_stream(_: i32) -> Result<(), String> {
        none()
    }
    pub fn allocated(_: i32) -> Result<Allocated, String> {
        none()
    }
    pub fn reset_peak(_: i32) -> Result<(), String> {
        none()
    }
    pub fn empty_cache() -> Result<(), String> {
        none()
    }
    pub fn no_cudnn_in_aten() -> Result<(), String> {
        none()
    }

    /// Never made.
    pub enum Graph {}
    impl Graph {
        pub fn begin(_: i32, _: Option<&Self>) -> Result<Self, String> {
            none()
        }
        pub fn end(&mut self) -> Result<(), String> {
            match *self {}
        }
        pub fn replay(&mut self) -> Result<(), String> {
            match *self {}
        }
    }
}
