//! A small seeded random source (SplitMix64) whose numbers never change between versions.

/// Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014.
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// A stream of its own for each (seed, stream).
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut source = Self(seed);
        let mixed = source.next();
        Self(mixed ^ stream.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Even in `0..bound` but for a bias below `bound / 2^64`.
    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// `0..n` in random order (Fisher-Yates).
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
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
