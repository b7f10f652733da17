//! A small seeded random source (SplitMix64) whose numbers never change between versions.

/// Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014.
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// A stream of its own for each (seed, name).
    pub fn new(seed: u64, name: &str) -> Self {
        let mut source = Self(seed);
        let mixed = source.next();
        let name = blake3::hash(name.as_bytes());
        let stream = name
            .as_bytes()
            .iter()
            .take(8)
            .fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        Self(mixed ^ stream)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Even in `0..bound` but for a bias below `bound / 2^64`; `bound` is at least 1.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// Uniform in `[0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_numbers() {
        let mut source = SplitMix64(1234567);
        assert_eq!(
            [source.next(), source.next()],
            [6457827717110365317, 3203168211198807973]
        );
    }
}
