//! PiSSA (Meng et al. 2024, arXiv:2404.02948): an adapter starts as the principal part of its weight, and the rest is frozen.
use crate::noise;
use crate::peft::{AdapterConfig, LoraPair};
use crate::precision::ADAPTER;
use burn::tensor::{Device, Tensor, TensorData};

/// Vectors beyond the wanted ones, and rounds: both let the wanted ones come out sharp where singular values are close.
const MORE: usize = 16;
const ROUNDS: usize = 32;

/// `(A, B)` with `B·A` the best approximation of `weight` of rank `r`: `√S·Vᵀ` `[r, in]` and `U·√S` `[out, r]`.
///
/// Randomized subspace iteration (Halko, Martinsson & Tropp 2011, algorithm 4.4) with a Rayleigh-Ritz step.
pub fn principal(weight: Tensor<2>, r: usize, seed: u64) -> (Tensor<2>, Tensor<2>) {
    let [outputs, inputs] = weight.dims();
    if outputs > inputs {
        let (a, b) = principal(weight.transpose(), r, seed);
        return (b.transpose(), a.transpose());
    }
    let (device, k) = (weight.device(), (r + MORE).min(outputs));
    let start = (0..k * outputs)
        .map(|i| (noise::uniform(seed, i as u64) - 0.5) as f32)
        .collect();
    // Vectors are rows, so that each lies in one piece.
    let mut left = orthonormal(tensor(start, [k, outputs], &device));
    for _ in 0..ROUNDS {
        left = orthonormal(left.matmul(weight.clone()).matmul(weight.clone().transpose()));
    }
    let projected = left.clone().matmul(weight);
    let squares = projected.clone().matmul(projected.clone().transpose());
    let (values, vectors) = eigen(host(&squares).into_iter().map(f64::from).collect(), k);
    // √S, and rows of the rotation that brings the singular vectors of the projection out.
    let roots: Vec<f64> = values[..r].iter().map(|square| square.max(0.0).powf(0.25)).collect();
    let rows = |of: &dyn Fn(f64) -> f64| {
        let scaled = vectors
            .chunks(k)
            .zip(&roots)
            .flat_map(|(row, root)| row.iter().map(|x| (x * of(*root)) as f32));
        tensor(scaled.collect(), [r, k], &device)
    };
    let inverse = |root: f64| if root > 0.0 { 1.0 / root } else { 0.0 };
    (
        rows(&inverse).matmul(projected),
        rows(&|root| root).matmul(left).transpose(),
    )
}

/// Rows made orthonormal, in their order (modified Gram-Schmidt, in f64). What is left of a dependent one is zero.
fn orthonormal(rows: Tensor<2>) -> Tensor<2> {
    let ([k, n], device) = (rows.dims(), rows.device());
    let mut values: Vec<f64> = host(&rows).into_iter().map(f64::from).collect();
    for i in 0..k {
        let (done, rest) = values.split_at_mut(i * n);
        let row = &mut rest[..n];
        let length = dot(row, row).sqrt();
        for earlier in done.chunks(n) {
            let along = dot(earlier, row);
            row.iter_mut().zip(earlier).for_each(|(x, e)| *x -= along * e);
        }
        let left = dot(row, row).sqrt();
        let factor = if left > 1e-10 * length { 1.0 / left } else { 0.0 };
        row.iter_mut().for_each(|x| *x *= factor);
    }
    tensor(values.into_iter().map(|v| v as f32).collect(), [k, n], &device)
}

/// In lanes, which one sum would keep the compiler from.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
    let mut lanes = [0.0; 8];
    for (x, y) in a.zip(b) {
        for lane in 0..8 {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    lanes.iter().sum::<f64>() + tail
}

/// Eigenvalues of a symmetric matrix `[n, n]`, the largest first, and their vectors as rows (cyclic Jacobi rotations).
fn eigen(mut matrix: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut vectors: Vec<f64> = (0..n * n).map(|i| f64::from(u8::from(i % (n + 1) == 0))).collect();
    let rotate = |m: &mut [f64], (i, j): (usize, usize), (c, s): (f64, f64)| {
        let (x, y) = (m[i], m[j]);
        (m[i], m[j]) = (c * x - s * y, s * x + c * y);
    };
    for _ in 0..SWEEPS {
        for (p, q) in (0..n).flat_map(|p| (p + 1..n).map(move |q| (p, q))) {
            let off = matrix[p * n + q];
            if off == 0.0 {
                continue;
            }
            let theta = (matrix[q * n + q] - matrix[p * n + p]) / (2.0 * off);
            let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
            let c = 1.0 / t.hypot(1.0);
            let turn = (c, t * c);
            for i in 0..n {
                rotate(&mut matrix, (i * n + p, i * n + q), turn);
            }
            for i in 0..n {
                rotate(&mut matrix, (p * n + i, q * n + i), turn);
                rotate(&mut vectors, (p * n + i, q * n + i), turn);
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| matrix[b * n + b].total_cmp(&matrix[a * n + a]));
    let values = order.iter().map(|i| matrix[i * n + i]).collect();
    (
        values,
        order.iter().flat_map(|i| vectors[i * n..][..n].to_vec()).collect(),
    )
}

/// Jacobi's method ends in fewer: it converges quadratically.
const SWEEPS: usize = 12;

fn tensor(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), (device, ADAPTER))
}

fn host(tensor: &Tensor<2>) -> Vec<f32> {
    tensor.clone().into_data().iter().collect()
}

/// `[A; A₀]` and `[B, −B₀]`: the update relative to the whole weight, as PEFT converts it on saving.
pub fn joined(trained: &LoraPair, initial: &LoraPair) -> LoraPair {
    let rows = trained.b.chunks(trained.r).zip(initial.b.chunks(initial.r));
    LoraPair {
        r: trained.r + initial.r,
        a: [trained.a.as_slice(), &initial.a].concat(),
        b: rows
            .flat_map(|(b, b0)| b.iter().copied().chain(b0.iter().map(|b| -b)))
            .collect(),
        ..trained.clone()
    }
}

/// Of joined adapters: twice the rank at the same scale.
pub fn doubled(config: AdapterConfig) -> AdapterConfig {
    let alpha = if config.use_rslora {
        std::f64::consts::SQRT_2
    } else {
        2.0
    };
    let ranks = config.rank_pattern.into_iter().map(|(key, r)| (key, 2 * r));
    let alphas = config
        .alpha_pattern
        .into_iter()
        .map(|(key, value)| (key, alpha * value));
    AdapterConfig {
        r: 2 * config.r,
        lora_alpha: alpha * config.lora_alpha,
        rank_pattern: ranks.collect(),
        alpha_pattern: alphas.collect(),
        ..config
    }
}

/// Undoes [`joined`], to the bit: the trained half and the initial one.
pub fn halves(pair: &LoraPair) -> (LoraPair, LoraPair) {
    let r = pair.r / 2;
    let (trained, initial) = pair.a.split_at(r * pair.inputs);
    let half = |a: &[f32], b: Vec<f32>| LoraPair {
        r,
        a: a.to_vec(),
        b,
        ..pair.clone()
    };
    let rows = || pair.b.chunks(pair.r);
    (
        half(trained, rows().flat_map(|row| row[..r].to_vec()).collect()),
        half(initial, rows().flat_map(|row| &row[r..]).map(|b| -b).collect()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::random;

    /// A matrix of rank 5 with singular values 16, 8, 4, 2, 1, the vectors by [`orthonormal`].
    fn of_known_values(outputs: usize, inputs: usize) -> Tensor<2> {
        let vectors = |seed, n| orthonormal(random::<2>(seed, [5, n]));
        let values = tensor(vec![16.0, 8.0, 4.0, 2.0, 1.0], [1, 5], &Device::flex());
        (vectors(1, outputs).transpose() * values).matmul(vectors(2, inputs))
    }

    #[test]
    fn what_is_left_has_the_other_singular_values() {
        for (outputs, inputs) in [(40, 70), (70, 40), (7, 6)] {
            let weight = of_known_values(outputs, inputs);
            let (a, b) = principal(weight.clone(), 2, 3);
            let length = |t: &Tensor<2>| host(t).iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
            // Frobenius norms: of the rest √(4² + 2² + 1²), of A and B √(16 + 8) each.
            let rest = weight - b.clone().matmul(a.clone());
            assert!((length(&rest) - 21f64.sqrt()).abs() < 1e-4, "{}", length(&rest));
            for side in [&a, &b] {
                assert!((length(side) - 24f64.sqrt()).abs() < 1e-4, "{}", length(side));
            }
        }
    }

    #[test]
    fn a_weight_of_zeros_gives_zeros() {
        let (a, b) = principal(Tensor::zeros([8, 6], (&Device::flex(), ADAPTER)), 2, 3);
        assert!(host(&a).iter().chain(&host(&b)).all(|x| *x == 0.0));
    }

    #[test]
    fn halves_of_what_is_joined_are_what_they_were() {
        let pair = |from: f32| LoraPair {
            r: 2,
            inputs: 3,
            outputs: 2,
            scale: 2.0,
            a: (0..6).map(|i| from + i as f32).collect(),
            b: (0..4).map(|i| from * i as f32).collect(),
            m: None,
        };
        let (trained, initial) = (pair(0.1), pair(-0.7));
        let joined = joined(&trained, &initial);
        assert_eq!((joined.r, joined.b[2]), (4, -initial.b[0]));
        assert_eq!(halves(&joined), (trained, initial));
    }
}
