//! What linears read, by how it is made: it is never on the tape, and a backward pass that needs it makes it again from tensors that
//! stay anyway.
use super::{
    Gelu, clock, geglu, geglu::GegluOp, gelu, gelu::GeluOp, has_kernels, layer_norm, layer_norm::LayerNormOp, rms_norm,
    rms_norm::RmsNormOp, swiglu, swiglu::SwigluOp,
};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, ExtensionType, autodiff::checkpoint::strategy::CheckpointStrategy};
use burn::tensor::Tensor;

/// `[tokens, d]`, still to be made.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // Handles, moved a few times a block: a box would save nothing.
pub enum Activation {
    Kept(Tensor<2>),
    RmsNorm {
        x: Tensor<2>,
        weight: Tensor<1>,
        eps: f64,
    },
    LayerNorm {
        x: Tensor<2>,
        weight: Tensor<1>,
        bias: Tensor<1>,
        eps: f64,
    },
    Swiglu {
        gate: Tensor<2>,
        up: Tensor<2>,
    },
    Geglu {
        gate: Tensor<2>,
        up: Tensor<2>,
    },
    Gelu {
        x: Tensor<2>,
        form: Gelu,
    },
}

/// [`Activation`] on a backend.
#[derive(Debug, Clone, ExtensionType)]
pub enum Source<B: Backend> {
    Kept {
        x: FloatTensor<B>,
    },
    RmsNorm {
        x: FloatTensor<B>,
        weight: FloatTensor<B>,
        eps: f64,
    },
    LayerNorm {
        x: FloatTensor<B>,
        weight: FloatTensor<B>,
        bias: FloatTensor<B>,
        eps: f64,
    },
    Swiglu {
        gate: FloatTensor<B>,
        up: FloatTensor<B>,
    },
    Geglu {
        gate: FloatTensor<B>,
        up: FloatTensor<B>,
    },
    Gelu {
        x: FloatTensor<B>,
        form: Gelu,
    },
}

impl From<Tensor<2>> for Activation {
    fn from(value: Tensor<2>) -> Self {
        Self::Kept(value)
    }
}

/// Where an op has no kernels its reference makes the value at once, and that is what stays.
impl Activation {
    pub fn rms_norm(x: Tensor<2>, weight: &Tensor<1>, eps: f64) -> Self {
        if !has_kernels("rms_norm", &x) {
            return Self::Kept(rms_norm::rms_norm(x, weight, eps));
        }
        let weight = weight.clone();
        Self::RmsNorm { x, weight, eps }
    }

    pub fn layer_norm(x: Tensor<2>, weight: &Tensor<1>, bias: &Tensor<1>, eps: f64) -> Self {
        if !has_kernels("layer_norm", &x) {
            return Self::Kept(layer_norm::layer_norm(x, weight, bias, eps));
        }
        let (weight, bias) = (weight.clone(), bias.clone());
        Self::LayerNorm { x, weight, bias, eps }
    }

    pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Self {
        if !has_kernels("swiglu", &gate) {
            return Self::Kept(swiglu::swiglu(gate, up));
        }
        Self::Swiglu { gate, up }
    }

    pub fn geglu(gate: Tensor<2>, up: Tensor<2>) -> Self {
        if !has_kernels("geglu", &gate) {
            return Self::Kept(geglu::geglu(gate, up));
        }
        Self::Geglu { gate, up }
    }

    pub fn gelu(x: Tensor<2>, form: Gelu) -> Self {
        if !has_kernels("gelu", &x) {
            return Self::Kept(gelu::gelu(x, form));
        }
        Self::Gelu { x, form }
    }

    /// Itself, made on the tape.
    pub fn value(&self) -> Tensor<2> {
        match self.clone() {
            Self::Kept(x) => x,
            Self::RmsNorm { x, weight, eps } => rms_norm::rms_norm(x, &weight, eps),
            Self::LayerNorm { x, weight, bias, eps } => layer_norm::layer_norm(x, &weight, &bias, eps),
            Self::Swiglu { gate, up } => swiglu::swiglu(gate, up),
            Self::Geglu { gate, up } => geglu::geglu(gate, up),
            Self::Gelu { x, form } => gelu::gelu(x, form),
        }
    }

    /// The first tensor it is made of: what a norm reads, in a block the residual stream.
    pub(crate) fn read(&self) -> &Tensor<2> {
        match self {
            Self::Kept(x) | Self::RmsNorm { x, .. } | Self::LayerNorm { x, .. } | Self::Gelu { x, .. } => x,
            Self::Swiglu { gate, .. } | Self::Geglu { gate, .. } => gate,
        }
    }

    pub(crate) fn into_source(self) -> Source<Dispatch> {
        match self {
            Self::Kept(x) => Source::Kept { x: x.into_dispatch() },
            Self::RmsNorm { x, weight, eps } => Source::RmsNorm {
                x: x.into_dispatch(),
                weight: weight.into_dispatch(),
                eps,
            },
            Self::LayerNorm { x, weight, bias, eps } => Source::LayerNorm {
                x: x.into_dispatch(),
                weight: weight.into_dispatch(),
                bias: bias.into_dispatch(),
                eps,
            },
            Self::Swiglu { gate, up } => Source::Swiglu {
                gate: gate.into_dispatch(),
                up: up.into_dispatch(),
            },
            Self::Geglu { gate, up } => Source::Geglu {
                gate: gate.into_dispatch(),
                up: up.into_dispatch(),
            },
            Self::Gelu { x, form } => Source::Gelu {
                x: x.into_dispatch(),
                form,
            },
        }
    }
}

/// The ops an activation can come from.
pub trait Remake: RmsNormOp + LayerNormOp + SwigluOp + GegluOp + GeluOp {}
impl<B: RmsNormOp + LayerNormOp + SwigluOp + GegluOp + GeluOp> Remake for B {}

impl<B: Backend> Source<B> {
    /// As [`Activation::read`].
    pub(crate) fn read(&self) -> FloatTensor<B> {
        match self {
            Self::Kept { x } | Self::RmsNorm { x, .. } | Self::LayerNorm { x, .. } | Self::Gelu { x, .. } => x.clone(),
            Self::Swiglu { gate, .. } | Self::Geglu { gate, .. } => gate.clone(),
        }
    }

    /// The second tensor it is made of, where there is one.
    pub(crate) fn second(&self) -> Option<FloatTensor<B>> {
        match self {
            Self::Swiglu { up, .. } | Self::Geglu { up, .. } => Some(up.clone()),
            _ => None,
        }
    }
}

impl<B: Remake> Source<B> {
    /// The activation.
    pub(crate) fn remake(self) -> FloatTensor<B> {
        match self {
            Self::Kept { x } => x,
            Self::RmsNorm { x, weight, eps } => {
                let _running = clock::op("RMS norm");
                B::rms_norm(x, weight, eps)
            }
            Self::LayerNorm { x, weight, bias, eps } => {
                let _running = clock::op("layer norm");
                B::frozen_layer_norm(x, weight, bias, eps)
            }
            Self::Swiglu { gate, up } => {
                let _running = clock::op("SwiGLU");
                B::swiglu(gate, up)
            }
            Self::Geglu { gate, up } => {
                let _running = clock::op("GEGLU");
                B::geglu(gate, up)
            }
            Self::Gelu { x, form } => {
                let _running = clock::op("gelu");
                B::gelu_of(x, form)
            }
        }
    }

    /// Given its gradient, those of what it is made of, the first with `residual` added; and the activation again, if it is wanted.
    pub(crate) fn backward(
        self,
        dy: FloatTensor<B>,
        residual: Option<FloatTensor<B>>,
        wanted: bool,
    ) -> (Vec<FloatTensor<B>>, Option<FloatTensor<B>>) {
        match (self, residual) {
            (Self::RmsNorm { x, weight, eps }, Some(residual)) if wanted => {
                let _running = clock::op("RMS norm, backward");
                let (dx, y) = B::rms_norm_backward_residual(x, weight, dy, residual, eps);
                (vec![dx], Some(y))
            }
            (Self::Swiglu { gate, up }, None) if wanted => {
                let _running = clock::op("SwiGLU, backward");
                let (dgate, dup, y) = B::swiglu_backward_recompute(gate, up, dy);
                (vec![dgate, dup], Some(y))
            }
            (source, residual) => {
                let again = wanted.then(|| source.clone());
                let mut gradients = source.gradients(dy);
                if let Some(residual) = residual {
                    let first = gradients.swap_remove(0);
                    gradients.insert(0, B::float_add(first, residual));
                }
                // Now that `dy` is gone.
                (gradients, again.map(Self::remake))
            }
        }
    }

    fn gradients(self, dy: FloatTensor<B>) -> Vec<FloatTensor<B>> {
        match self {
            Self::Kept { .. } => vec![dy],
            Self::RmsNorm { x, weight, eps } => {
                let _running = clock::op("RMS norm, backward");
                vec![B::rms_norm_backward(x, weight, dy, eps)]
            }
            Self::LayerNorm { x, weight, eps, .. } => {
                let _running = clock::op("layer norm, backward");
                vec![B::frozen_layer_norm_backward(x, weight, dy, eps)]
            }
            Self::Swiglu { gate, up } => {
                let _running = clock::op("SwiGLU, backward");
                let (dgate, dup) = B::swiglu_backward(gate, up, dy);
                vec![dgate, dup]
            }
            Self::Geglu { gate, up } => {
                let _running = clock::op("GEGLU, backward");
                let (dgate, dup) = B::geglu_backward(gate, up, dy);
                vec![dgate, dup]
            }
            Self::Gelu { x, form } => {
                let _running = clock::op("gelu, backward");
                vec![B::gelu_of_backward(x, dy, form)]
            }
        }
    }
}

impl<B: Backend, C: CheckpointStrategy> Source<Autodiff<B, C>> {
    pub(crate) fn into_primitive(self) -> Source<B> {
        match self {
            Self::Kept { x } => Source::Kept { x: x.into_primitive() },
            Self::RmsNorm { x, weight, eps } => Source::RmsNorm {
                x: x.into_primitive(),
                weight: weight.into_primitive(),
                eps,
            },
            Self::LayerNorm { x, weight, bias, eps } => Source::LayerNorm {
                x: x.into_primitive(),
                weight: weight.into_primitive(),
                bias: bias.into_primitive(),
                eps,
            },
            Self::Swiglu { gate, up } => Source::Swiglu {
                gate: gate.into_primitive(),
                up: up.into_primitive(),
            },
            Self::Geglu { gate, up } => Source::Geglu {
                gate: gate.into_primitive(),
                up: up.into_primitive(),
            },
            Self::Gelu { x, form } => Source::Gelu {
                x: x.into_primitive(),
                form,
            },
        }
    }
}
