//! Work recorded once and launched again as a whole, by CUDA graphs: a small model's step is bound by its launches.
use crate::libtorch;
use crate::ops::switch;
use crate::ops::tch::cuda::shim;
use crate::selfcheck::Check;
use burn::tensor::{DType, Device};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;
use tch::{Kind, Tensor};

/// Runs before the recorded one: libraries choose their algorithms, kernels are compiled, the allocator finds its sizes.
const WARM_UP: usize = 3;

/// Something that is run again and again on tensors that stay where they are.
///
/// `run` reads those tensors, whose contents are replaced between runs, and makes new ones; it changes nothing else, reads nothing
/// back to the host, brings nothing from there, and always does the same operations on the same shapes. That is not
/// checked: run it once without a graph and compare.
pub struct Captured<F, T> {
    run: F,
    made: T,
    /// Without one, `run` runs.
    graph: Option<shim::Graph>,
}

impl<F: FnMut() -> T, T> Captured<F, T> {
    /// Records `run` where `device` can; elsewhere, or where that fails, it is run each time.
    pub fn new(device: &Device, mut run: F) -> Self {
        let index = libtorch::gpu_index(device).filter(|_| cfg!(tune_cuda) && switch::is_on("graph"));
        let recorded = index.map(|index| record(index, &mut run));
        match recorded {
            Some(Ok((made, graph))) => Self {
                run,
                made,
                graph: Some(graph),
            },
            failed => {
                if let Some(Err(why)) = failed {
                    switch::off("graph", why);
                }
                let made = run();
                Self { run, made, graph: None }
            }
        }
    }

    pub fn is_recorded(&self) -> bool {
        self.graph.is_some()
    }

    /// What `run` makes of the tensors as they are now. Recorded, it lies where it lay the last time.
    ///
    /// # Errors
    /// LibTorch's words where the graph cannot be launched; the next call runs without one.
    pub fn replay(&mut self) -> Result<&T, String> {
        match &mut self.graph {
            Some(graph) => {
                if let Err(why) = graph.replay() {
                    self.graph = None;
                    return Err(why);
                }
            }
            None => self.made = (self.run)(),
        }
        Ok(&self.made)
    }
}

fn record<T>(index: usize, run: &mut impl FnMut() -> T) -> Result<(T, shim::Graph), String> {
    let device = i32::try_from(index).map_err(|e| e.to_string())?;
    shim::leave_default_stream(device)?;
    for _ in 0..WARM_UP {
        run();
    }
    tch::Cuda::synchronize(index as i64);
    // The graph keeps a pool of its own: what the warm-up left would lie there twice.
    shim::empty_cache()?;
    let mut graph = shim::Graph::begin()?;
    // LibTorch's errors come as panics; the recording must be ended whatever happens.
    let made = catch_unwind(AssertUnwindSafe(run));
    let ended = graph.end();
    match made {
        Ok(made) => ended.map(|()| (made, graph)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied());
            Err(text
                .unwrap_or("an operation cannot be recorded")
                .lines()
                .next()
                .unwrap_or_default()
                .into())
        }
    }
}

/// A recorded product, replayed with other inputs, against the same run at once. Off CUDA `run` itself is what is replayed.
pub(crate) fn check(device: &Device) -> Vec<Check> {
    if !switch::is_on("graph") {
        return Vec::new();
    }
    let on = libtorch::gpu_index(device).map_or(tch::Device::Cpu, tch::Device::Cuda);
    let input = |step: i64| {
        let values = Tensor::arange_start(step, step + 7 * 33, (Kind::Float, on));
        (values.view([7, 33]) / 50.0).sin()
    };
    let weight = input(5).tr().contiguous();
    let product = |x: &Tensor| x.mm(&weight).silu().sum_dim_intlist([1].as_slice(), false, Kind::Float);
    let mut x = input(0);
    let reader = x.shallow_clone();
    let mut captured = Captured::new(device, || product(&reader));
    x.copy_(&input(100));
    let wanted = product(&x);
    let begin = Instant::now();
    let error = match captured.replay() {
        Ok(found) => {
            let largest = wanted.abs().max().double_value(&[]);
            ((found - &wanted).abs().max().double_value(&[]) / largest) as f32
        }
        Err(_) => f32::INFINITY,
    };
    let check = Check {
        name: "graph",
        dtype: DType::F32,
        error,
        tolerance: 1e-5,
        micros: begin.elapsed().as_secs_f64() * 1e6,
    };
    if !check.ok() {
        switch::off("graph", "a replay differs from the run it was recorded from");
    }
    vec![check]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_reads_the_tensors_as_they_are() {
        let mut x = Tensor::from_slice(&[1.0f32, 2.0]);
        let reader = x.shallow_clone();
        let mut captured = Captured::new(&libtorch::cpu(), || &reader * 3.0);
        assert!(!captured.is_recorded());
        x.copy_(&Tensor::from_slice(&[5.0f32, 7.0]));
        let found: Vec<f32> = Vec::try_from(captured.replay().unwrap()).unwrap();
        assert_eq!(found, [15.0, 21.0]);
    }
}
