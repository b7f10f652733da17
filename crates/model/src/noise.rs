//! Random numbers as a pure function of (seed, index): a mask drawn again is the same mask, on every backend.

/// SplitMix64's finalizer (Steele, Lea & Flood 2014) over seed and counter.
pub fn bits(seed: u64, index: u64) -> u64 {
    let mut z = seed ^ index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Uniform in `[0, 1)`.
pub fn uniform(seed: u64, index: u64) -> f64 {
    (bits(seed, index) >> 11) as f64 / (1u64 << 53) as f64
}

/// The dropout factor of element `index`: 0 with probability `dropout`, else `1 / (1 - dropout)`.
pub fn keep(seed: u64, index: u64, dropout: f64) -> f32 {
    if uniform(seed, index) < dropout {
        0.0
    } else {
        (1.0 / (1.0 - dropout)) as f32
    }
}

/// A seed for a named part of a run: same parent and name, same seed.
pub fn derive(seed: u64, name: &str) -> u64 {
    name.bytes().fold(bits(seed, 0), |state, byte| bits(state, byte as u64))
}
