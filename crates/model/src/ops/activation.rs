//! An activation and how it was made: a backward pass that needs it may make it again, from tensors that stay anyway.
use super::{
    Gelu, geglu, geglu::GegluOp, gelu, gelu::GeluOp, layer_norm::LayerNormOp, rms_norm::RmsNormOp, swiglu,
    swiglu::SwigluOp,
};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, ExtensionType, autodiff::checkpoint::strategy::CheckpointStrategy};
use burn::tensor::Tensor;

/// `[tokens, d]`.
#[derive(Debug, Clone)]
pub struct Activation {
    pub value: Tensor<2>,
    /// Off the tape.
    pub(crate) source: Source<Dispatch>,
}

/// What an activation was made of. The op that made it saves the same tensors for its own gradient, so that keeping a source
/// costs nothing.
#[derive(Debug, Clone, ExtensionType)]
pub enum Source<B: Backend> {
    /// The activation itself has to stay.
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
        Self {
            source: Source::Kept { x: plain(&value) },
            value,
        }
    }
}

impl Activation {
    pub fn rms_norm(x: Tensor<2>, weight: &Tensor<1>, eps: f64) -> Self {
        let source = Source::RmsNorm {
            x: plain(&x),
            weight: weight.clone().into_dispatch(),
            eps,
        };
        Self {
            value: super::rms_norm(x, weight, eps),
            source,
        }
    }

    pub fn layer_norm(x: Tensor<2>, weight: &Tensor<1>, bias: &Tensor<1>, eps: f64) -> Self {
        let source = Source::LayerNorm {
            x: plain(&x),
            weight: weight.clone().into_dispatch(),
            bias: bias.clone().into_dispatch(),
            eps,
        };
        Self {
            value: super::layer_norm(x, weight, bias, eps),
            source,
        }
    }

    pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Self {
        let source = Source::Swiglu {
            gate: plain(&gate),
            up: plain(&up),
        };
        Self {
            value: swiglu::swiglu(gate, up),
            source,
        }
    }

    pub fn geglu(gate: Tensor<2>, up: Tensor<2>) -> Self {
        let source = Source::Geglu {
            gate: plain(&gate),
            up: plain(&up),
        };
        Self {
            value: geglu::geglu(gate, up),
            source,
        }
    }

    pub fn gelu(x: Tensor<2>, form: Gelu) -> Self {
        Self {
            source: Source::Gelu { x: plain(&x), form },
            value: gelu::gelu(x, form),
        }
    }
}

fn plain(x: &Tensor<2>) -> FloatTensor<Dispatch> {
    x.clone().inner().into_dispatch()
}

/// The ops an activation can come from.
pub trait Remake: RmsNormOp + LayerNormOp + SwigluOp + GegluOp + GeluOp {}
impl<B: RmsNormOp + LayerNormOp + SwigluOp + GegluOp + GeluOp> Remake for B {}

impl<B: Remake> Source<B> {
    /// The activation, to the bit as it was.
    pub(crate) fn remake(self) -> FloatTensor<B> {
        match self {
            Self::Kept { x } => x,
            Self::RmsNorm { x, weight, eps } => B::rms_norm(x, weight, eps),
            Self::LayerNorm { x, weight, bias, eps } => B::frozen_layer_norm(x, weight, bias, eps),
            Self::Swiglu { gate, up } => B::swiglu(gate, up),
            Self::Geglu { gate, up } => B::geglu(gate, up),
            Self::Gelu { x, form } => B::gelu_of(x, form),
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
