//! Where a backward pass begins that is given the gradient of its output.
#[cfg(feature = "tch")]
use burn::backend::LibTorch;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor};

#[backend_extension(Autodiff, Flex, LibTorch: cfg(feature = "tch"))]
pub trait RootOp: Backend {
    /// Off the tape nothing is to be given.
    fn root(y: FloatTensor<Self>, _dy: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_zeros(Shape::new([1, 1]), &y.device(), y.dtype().into())
    }
}

impl RootOp for Flex {}
#[cfg(feature = "tch")]
impl RootOp for LibTorch {}

/// What to call `backward` on, so that `y` gets the gradient `dy`: a vector-Jacobian product. Burn begins with ones at its root, and
/// `(y * dy).backward()` would be the same in seven passes over memory.
///
/// # Shapes
/// - `y`, `dy`: `[tokens, d]`, `dy` plain (not autodiff); result: `[1, 1]`, its value means nothing
pub fn root(y: Tensor<2>, dy: Tensor<2>) -> Tensor<2> {
    let dy = dy.autodiff();
    Tensor::from_dispatch(<Dispatch as RootOp>::root(y.into_dispatch(), dy.into_dispatch()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::*;

    #[test]
    fn its_backward_pass_begins_with_the_gradient_given() {
        for place in Place::all() {
            let x = place.put(&random::<2>(1, [5, 7])).autodiff().require_grad();
            let dy = place.put(&random::<2>(2, [5, 7]));
            let mut gradients = root(x.clone() * 3.0, dy.clone()).backward();
            let found = x.grad_remove(&mut gradients).unwrap();
            place.assert_close("gradients", &found, &(dy * 3.0), 1e-6);
        }
    }
}
