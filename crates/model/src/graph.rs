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

/// Work that is done again and again on tensors that stay where they are.
///
/// It reads those tensors, whose contents are replaced in between, and makes new ones; it changes nothing else, reads nothing
/// back to the host, brings nothing from there, and always does the same operations on the same shapes. That is not
/// checked: run it without a graph too, and compare.
pub enum Captured<T> {
    Recorded {
        made: T,
        graph: shim::Graph,
    },
    /// Off CUDA it is done each time; the last result.
    Run(Option<T>),
}

impl<T> Captured<T> {
    /// Records `run` where `device` can. Where it was recorded `beside` another, both use the same memory: what one makes has to be
    /// taken before the other is replayed.
    ///
    /// # Errors
    /// In words: what cannot be recorded.
    pub fn new(device: &Device, beside: Option<&Self>, run: impl FnMut() -> T) -> Result<Self, String> {
        let Some(index) = libtorch::gpu_index(device) else {
            return Ok(Self::Run(None));
        };
        let beside = match beside {
            Some(Self::Recorded { graph, .. }) => Some(graph),
            _ => None,
        };
        let (made, graph) = record(index, beside, run)?;
        Ok(Self::Recorded { made, graph })
    }

    /// What is made of the tensors as they are now. Recorded, it lies where it lay the last time; if not, `run` does it.
    ///
    /// # Errors
    /// LibTorch's words where the graph cannot be launched.
    pub fn replay(&mut self, run: impl FnOnce() -> T) -> Result<&T, String> {
        match self {
            Self::Recorded { made, graph } => graph.replay().map(|()| &*made),
            Self::Run(made) => Ok(made.insert(run())),
        }
    }
}

fn record<T>(
    index: usize,
    beside: Option<&shim::Graph>,
    mut run: impl FnMut() -> T,
) -> Result<(T, shim::Graph), String> {
    let device = i32::try_from(index).map_err(|e| e.to_string())?;
    shim::leave_default_stream(device)?;
    for _ in 0..WARM_UP {
        caught(&mut run)?;
    }
    tch::Cuda::synchronize(index as i64);
    // The graph keeps a pool of its own: what the warm-up left would lie there twice.
    shim::empty_cache()?;
    let mut graph = shim::Graph::begin(device, beside)?;
    // The recording must be ended whatever happens.
    let made = caught(run);
    let ended = graph.end();
    let made = made?;
    ended.map(|()| (made, graph))
}

/// LibTorch's errors come as panics: the first line of one.
fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied());
        let first = text.and_then(|text| text.lines().next());
        first.unwrap_or("an operation cannot be recorded").into()
    })
}

/// A recorded product, replayed with other inputs, against the same run at once. Off CUDA `run` itself is what is replayed.
pub(crate) fn check(device: &Device) -> Vec<Check> {
    if let (Some(_), Some(why)) = (libtorch::gpu_index(device), shim::absent()) {
        switch::off("graph", why);
    }
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
    let recorded = Captured::new(device, None, || product(&reader));
    x.copy_(&input(100));
    let wanted = product(&x);
    let begin = Instant::now();
    let error = recorded.and_then(|mut captured| {
        let found = captured.replay(|| product(&reader))?;
        let largest = wanted.abs().max().double_value(&[]);
        Ok(((found - &wanted).abs().max().double_value(&[]) / largest) as f32)
    });
    let (error, why) = match error {
        Ok(error) => (error, "a replay differs from the run it was recorded from".into()),
        Err(why) => (f32::INFINITY, why),
    };
    let check = Check {
        name: "graph",
        variant: "plain",
        dtype: DType::F32,
        error,
        tolerance: 1e-5,
        micros: begin.elapsed().as_secs_f64() * 1e6,
    };
    if !check.ok() {
        switch::off("graph", why);
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
        let mut captured = Captured::new(&libtorch::cpu(), None, || &reader * 3.0).unwrap();
        x.copy_(&Tensor::from_slice(&[5.0f32, 7.0]));
        let found: Vec<f32> = Vec::try_from(captured.replay(|| &reader * 3.0).unwrap()).unwrap();
        assert_eq!(found, [15.0, 21.0]);
    }
}
