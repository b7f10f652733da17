//! One pass over parameter, gradient and moments, all of them read and written once.
use super::{Rows, simd, tensor};
use crate::ops::adamw::{AdamWCfg, AdamWOp};
use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, tensor::FloatTensor};
use rayon::prelude::*;

/// Elements a task takes at once.
const STEP: usize = 16_384;

/// Updates `parameter`, `mean` and `variance` in place.
pub(in crate::ops) fn update(
    parameter: &mut [f32],
    gradient: &[f32],
    mean: &mut [f32],
    variance: &mut [f32],
    cfg: &AdamWCfg,
) {
    let [correction1, correction2] = cfg.corrections();
    let [toward1, toward2] = cfg.betas.map(|beta| (1.0 - beta) as f32);
    let (kept2, scale, eps) = (cfg.betas[1] as f32, cfg.scale as f32, cfg.eps as f32);
    let decay = (1.0 - cfg.rate * cfg.weight_decay) as f32;
    let (size, deviation) = ((cfg.rate / correction1) as f32, correction2.sqrt() as f32);
    let moments = mean.par_chunks_mut(STEP).zip(variance.par_chunks_mut(STEP));
    let values = parameter.par_chunks_mut(STEP).zip(gradient.par_chunks(STEP));
    values.zip(moments).for_each(|((p, g), (m, v))| {
        simd::vectorized(
            #[inline(always)]
            || {
                for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                    let g = g * scale;
                    *m += (g - *m) * toward1;
                    *v = *v * kept2 + g * g * toward2;
                    *p = *p * decay - *m / (v.sqrt() / deviation + eps) * size;
                }
            },
        )
    });
}

/// The tensor with its own elements alone behind it, so that they can be written.
fn own(whole: FlexTensor) -> FlexTensor {
    let elements = whole.layout().shape().num_elements();
    if whole.is_contiguous() && whole.storage::<f32>().len() == elements {
        whole
    } else {
        tensor(Rows::new(whole).as_slice().to_vec(), [elements])
    }
}

impl AdamWOp for Flex {
    fn adamw(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        cfg: AdamWCfg,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (mut parameter, mut mean, mut variance) = (own(parameter), own(mean), own(variance));
        update(
            parameter.storage_mut(),
            Rows::new(gradient).as_slice(),
            mean.storage_mut(),
            variance.storage_mut(),
            &cfg,
        );
        (parameter, mean, variance)
    }
}
