//! In place: one pass on the CPU and by our kernel on CUDA, a dozen ATen calls elsewhere.
use super::{cuda, host, new};
use crate::ops::adamw::{AdamWCfg, AdamWOp};
use crate::ops::flex::adamw::update;
use burn::backend::libtorch::TchTensor;
use burn::backend::{LibTorch, tensor::FloatTensor};
use tch::{Device, Tensor};

/// Memory that may be written: the tensor's own if nothing else holds it.
fn own(tensor: TchTensor) -> Tensor {
    if tensor.can_mut() && tensor.tensor.is_contiguous() {
        tensor.tensor
    } else {
        tensor.tensor.copy()
    }
}

impl AdamWOp for LibTorch {
    fn adamw(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        cfg: AdamWCfg,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (mut p, mut m, mut v) = (own(parameter), own(mean), own(variance));
        if cuda::adamw([&p, &gradient.tensor, &m, &v], &cfg).is_some() {
            return (new(p), new(m), new(v));
        }
        if p.device() == Device::Cpu {
            let gradient = gradient.tensor.contiguous();
            let (p, m, v) = (
                host::slice_mut(&mut p),
                host::slice_mut(&mut m),
                host::slice_mut(&mut v),
            );
            update(p, host::slice(&gradient), m, v, &cfg);
        } else {
            let ([beta1, beta2], [correction1, correction2]) = (cfg.betas, cfg.corrections());
            let g = gradient.tensor * cfg.scale;
            let _ = m.lerp_(&g, 1.0 - beta1);
            let _ = v.g_mul_scalar_(beta2).g_add_(&(g.square() * (1.0 - beta2)));
            let denominator = v.sqrt().g_div_scalar_(correction2.sqrt()).g_add_scalar_(cfg.eps);
            let _ = p
                .g_mul_scalar_(1.0 - cfg.rate * cfg.weight_decay)
                .addcdiv_(&(&m * (-cfg.rate / correction1)), &denominator);
        }
        (new(p), new(m), new(v))
    }
}
