//! A node of the tape has one output, and linears over one activation have several: each has a node, which lays its gradient down;
//! the one that runs last goes on with all of them. Saved are the `r` columns of each `x·Aᵀ`, what `x` is made of, and handles to the
//! weights.
use crate::ops::activation::Source;
use crate::ops::clock;
use crate::ops::linear::{Backpassed, Cast, LinearKernels, LinearsOp, Outputs, Part, Parts};
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, AutodiffBackend, Backend, tensor::FloatTensor};
use std::sync::{Arc, Mutex, PoisonError};

/// The activation is made of up to two tensors; up to three linears have two factors each.
const MADE_OF: usize = 2;
const PARENTS: usize = MADE_OF + 3 * 2;

#[derive(Debug)]
struct Saved<B: Backend> {
    source: Source<B>,
    inner: Vec<FloatTensor<B>>,
    parts: Vec<Part<B>>,
}

/// What the nodes of one call share.
#[derive(Debug)]
struct Call<B: Backend> {
    saved: Option<Saved<B>>,
    gradients: Vec<Option<FloatTensor<B>>>,
    /// Of the residual stream, if it is read at all.
    residual: Option<FloatTensor<B>>,
}

/// With gradients of some products alone it would take all others with it, in silence.
impl<B: Backend> Drop for Call<B> {
    fn drop(&mut self) {
        debug_assert!(
            std::thread::panicking() || self.gradients.iter().all(Option::is_none),
            "a product of linears over one activation was never read"
        );
    }
}

#[derive(Debug)]
struct Shared<B: Backend>(Arc<Mutex<Call<B>>>);

impl<B: Backend> Clone for Shared<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: Backend> Shared<B> {
    fn with<T>(&self, f: impl FnOnce(&mut Call<B>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lays down the gradient of product `i`; all there is, once it is complete.
    #[allow(clippy::type_complexity)]
    fn lay(&self, i: usize, dy: FloatTensor<B>) -> Option<(Saved<B>, Vec<FloatTensor<B>>, Option<FloatTensor<B>>)> {
        self.with(|call| {
            call.gradients[i] = Some(dy);
            if call.gradients.iter().any(Option::is_none) {
                return None;
            }
            let dys = std::mem::take(&mut call.gradients).into_iter().flatten().collect();
            Some((call.saved.take()?, dys, call.residual.take()))
        })
    }
}

#[derive(Debug)]
struct ProductBackward;

impl<B: LinearKernels> Backward<B, PARENTS> for ProductBackward {
    type State = (Shared<B>, usize);
    fn backward(self, ops: Ops<Self::State, PARENTS>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (shared, i) = ops.state;
        let dy = grads.consume::<B>(&ops.node);
        let Some((saved, dys, residual)) = shared.lay(i, dy) else {
            return;
        };
        let Saved { source, inner, parts } = saved;
        let adapted = parts.iter().any(|part| part.update().is_some());
        let _running = clock::op(match adapted {
            true => "linear with adapter, backward",
            false => "linear, backward",
        });
        let (made_of, factors) = ops.parents.split_at(MADE_OF);
        let to_x = made_of.iter().any(Option::is_some);
        let Backpassed { dx, db, inner } = B::linears_backward(&dys, &inner, &parts, to_x);
        drop(dys);
        let (gradients, x) = match dx {
            Some(dx) => source.backward(dx, residual, adapted),
            None => (Vec::new(), adapted.then(|| source.remake())),
        };
        let da = match x {
            Some(x) if adapted => B::linears_backward_a(x, inner, &parts),
            _ => Vec::new(),
        };
        let of_factors = da.into_iter().zip(db).flat_map(|(da, db)| [da, db]);
        let adapters = factors
            .chunks(2)
            .zip(&parts)
            .filter(|(_, part)| part.update().is_some());
        let adapters = adapters.flat_map(|(nodes, _)| nodes);
        let all = made_of.iter().zip(gradients).chain(adapters.zip(of_factors));
        for (node, gradient) in all {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

/// Of the residual stream: it is made after the products, as a child of the first, so that its gradient is there before theirs are.
#[derive(Debug)]
struct ResidualBackward;

impl<B: LinearKernels> Backward<B, 1> for ResidualBackward {
    type State = Shared<B>;
    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        ops.state.with(|call| call.residual = Some(dy));
    }
}

fn off_the_tape<B: Backend, C: CheckpointStrategy>(part: Part<Autodiff<B, C>>) -> Part<B> {
    match part {
        Part::Frozen(weight) => Part::Frozen(weight.into_primitive()),
        Part::Adapted {
            weight,
            a,
            b,
            cfg,
            cast,
        } => Part::Adapted {
            weight: weight.into_primitive(),
            a: a.into_primitive(),
            b: b.into_primitive(),
            cfg,
            cast: match cast {
                Cast::No => Cast::No,
                Cast::Yes { a, b } => Cast::Yes {
                    a: a.into_primitive(),
                    b: b.into_primitive(),
                },
            },
        },
    }
}

impl<B: LinearKernels, C: CheckpointStrategy> LinearsOp for Autodiff<B, C> {
    fn linears(x: Source<Self>, parts: Parts<Self>, residual: bool) -> Outputs<Self> {
        let parts = parts.into_vec();
        let read = x.read();
        let nobody = || Self::from_inner(read.clone().into_primitive());
        let mut parents = vec![read.clone(), x.second().unwrap_or_else(nobody)];
        for part in &parts {
            match part.update() {
                Some((a, b, _)) => parents.extend([a.clone(), b.clone()]),
                None => parents.extend([nobody(), nobody()]),
            }
        }
        parents.resize_with(PARENTS, nobody);

        let source = x.into_primitive();
        let parts: Vec<Part<B>> = parts.into_iter().map(off_the_tape).collect();
        let (products, inner) = B::linears_forward(source.clone().remake(), &parts);
        let shared = Shared(Arc::new(Mutex::new(Call {
            gradients: products.iter().map(|_| None).collect(),
            residual: None,
            saved: Some(Saved { source, inner, parts }),
        })));
        let product = |(i, y)| {
            let nodes = std::array::from_fn(|j| parents[j].node());
            match ProductBackward.prepare::<C>(nodes).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish((shared.clone(), i), y),
                OpsKind::UnTracked(prep) => prep.finish(y),
            }
        };
        let mut outputs: Vec<FloatTensor<Self>> = products.into_iter().enumerate().map(product).collect();
        if residual {
            let node = outputs[0].node();
            outputs.push(match ResidualBackward.prepare::<C>([node]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish(shared.clone(), read.into_primitive()),
                OpsKind::UnTracked(_) => read,
            });
        }
        Outputs::of(outputs)
    }
}
