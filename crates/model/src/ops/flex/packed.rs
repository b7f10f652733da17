//! A frozen matrix in bf16, packed once for products in both directions on all cores; activations and sums are f32.
//!
//! ```text
//! [out, in]  ->  tiles of 32 x 32, row of tiles by row of tiles
//! tile       ->  for each pair of inputs, 32 outputs: (w[o, 2q], w[o, 2q + 1])
//! ```
//! `x · Wᵀ` reads it as it lies. `dy · W` transposes each tile on its way into the cache, once for all rows. Products are blocked
//! by the contracted dimension alone, so that a row's result does not depend on the rows beside it.
mod tile;

use rayon::prelude::*;
use std::ops::Range;
use tile::{Line, ROWS, SIDE, TILE, Target};

pub use tile::has_dpbf16;

/// `[out, in]`, rounded to bf16, padded with zeros to multiples of 32.
#[derive(Debug)]
pub struct PackedBf16 {
    outputs: usize,
    inputs: usize,
    lines: Vec<Line>,
}

/// Tiles contracted before results go back to memory: 512 elements, whose 32 columns fill 32 KiB.
const DEPTH: usize = 16;
/// Rounded rows held at once.
const ROUNDED_BYTES: usize = 4 << 20;
/// Rows that pass a block of columns while it is in the cache.
const PASSING: usize = 512;
/// Tiles a task has at least: 128 KiB.
const TILES_PER_TASK: usize = 64;

impl PackedBf16 {
    /// Rounds to nearest even. `weight` is `[outputs, inputs]`, row-major.
    pub fn new(weight: &[f32], [outputs, inputs]: [usize; 2]) -> Self {
        assert_eq!(weight.len(), outputs * inputs);
        let across = inputs.div_ceil(SIDE);
        let mut lines = vec![Line::ZERO; outputs.div_ceil(SIDE) * across * TILE];
        let rows_of_tiles = lines.par_chunks_mut((across * TILE).max(1));
        rows_of_tiles
            .zip(weight.par_chunks((SIDE * inputs).max(1)))
            .for_each(|(tiles, rows)| {
                for (o, row) in rows.chunks_exact(inputs).enumerate() {
                    for (tile, values) in tiles.chunks_exact_mut(TILE).zip(row.chunks(SIDE)) {
                        let pairs = tile::round(values).0;
                        for (q, pair) in pairs.into_iter().enumerate() {
                            tile[2 * q + o / 16].0[o % 16] = pair;
                        }
                    }
                }
            });
        Self { outputs, inputs, lines }
    }

    /// `[outputs, inputs]`
    pub fn dims(&self) -> [usize; 2] {
        [self.outputs, self.inputs]
    }

    pub fn bytes(&self) -> usize {
        std::mem::size_of_val(&self.lines[..])
    }

    /// Row `o`, `inputs` long.
    pub fn row(&self, o: usize) -> Vec<f32> {
        assert!(o < self.outputs);
        let tiles = self.tiles(o / SIDE, 0..self.inputs.div_ceil(SIDE));
        let pairs = tiles.iter().skip(o % SIDE / 16).step_by(2).map(|line| line.0[o % 16]);
        let mut row: Vec<f32> = pairs.flat_map(tile::halves).collect();
        row.truncate(self.inputs);
        row
    }

    /// All rows, `[outputs, inputs]`.
    pub fn dense(&self) -> Vec<f32> {
        (0..self.outputs).flat_map(|o| self.row(o)).collect()
    }

    /// Tiles `across` of a row of tiles.
    fn tiles(&self, down: usize, across: Range<usize>) -> &[Line] {
        let start = down * self.inputs.div_ceil(SIDE);
        &self.lines[(start + across.start) * TILE..(start + across.end) * TILE]
    }

    /// `y = x · Wᵀ`; `x` `[rows, inputs]`, `y` `[rows, outputs]`.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) {
        let columns = |panel, depth, _: &mut [Line]| Columns::Stored(self.tiles(panel, depth));
        product(x, self.inputs, y, self.outputs, false, columns);
    }

    /// `dx = dy · W`, added to what `dx` holds or not; `dy` `[rows, outputs]`, `dx` `[rows, inputs]`.
    pub fn backward(&self, dy: &[f32], dx: &mut [f32], add: bool) {
        let columns = |panel, depth: Range<usize>, scratch: &mut [Line]| {
            for (down, scratch) in depth.zip(scratch.chunks_exact_mut(TILE)) {
                tile::transpose(self.tiles(down, panel..panel + 1), scratch);
            }
            Columns::Transposed
        };
        product(dy, self.outputs, dx, self.inputs, add, columns);
    }
}

/// Where the tiles of 32 columns lie: in the packed matrix, or in the scratch they were transposed into.
enum Columns<'a> {
    Stored(&'a [Line]),
    Transposed,
}

/// `out = x · B` on all cores. `columns(panel, depth, scratch)` gives the tiles of 32 columns of `B`.
fn product<'a>(
    x: &[f32],
    k: usize,
    out: &mut [f32],
    n: usize,
    add: bool,
    columns: impl Fn(usize, Range<usize>, &mut [Line]) -> Columns<'a> + Sync,
) {
    let rows = x.len() / k.max(1);
    assert!(x.len() == rows * k && out.len() == rows * n);
    if out.is_empty() {
        return;
    }
    let (deep, panels) = (k.div_ceil(SIDE), n.div_ceil(SIDE));
    let held = (ROUNDED_BYTES / (rows * 2 * SIDE) / DEPTH).max(1) * DEPTH;
    let tasks = Tasks::new(rows, panels, deep);
    let out = Shared(out.as_mut_ptr());
    let mut rounded = Vec::new();
    for start in (0..deep).step_by(held) {
        let held = start..deep.min(start + held);
        let a = Rounded::new(x, k, rows, held.clone(), &mut rounded);
        (0..tasks.count()).into_par_iter().for_each(|task| {
            let (blocks, panels) = tasks.at(task);
            let mut scratch = [Line::ZERO; DEPTH * TILE];
            for depth in held.clone().step_by(DEPTH).map(|s| s..held.end.min(s + DEPTH)) {
                for panel in panels.clone() {
                    let scratch = &mut scratch[..depth.len() * TILE];
                    let b = match columns(panel, depth.clone(), scratch) {
                        Columns::Stored(tiles) => tiles,
                        Columns::Transposed => scratch,
                    };
                    for block in blocks.clone() {
                        let block = block_rows(rows, block);
                        let target = Target {
                            at: out.at(block.start * n + panel * SIDE),
                            stride: n,
                            columns: SIDE.min(n - panel * SIDE),
                            add: add || depth.start > 0,
                        };
                        // SAFETY: `out` is `[rows, n]`, and no two tasks share both a row and a column.
                        unsafe { tile::multiply(block.len(), a.lines(&block, &depth), b, target) };
                    }
                }
            }
        });
    }
}

/// The results, of which each task writes its own part.
#[derive(Clone, Copy)]
struct Shared(*mut f32);
// SAFETY: tasks write disjoint elements.
unsafe impl Sync for Shared {}
impl Shared {
    fn at(&self, i: usize) -> *mut f32 {
        self.0.wrapping_add(i)
    }
}

/// Rows of a block: as many blocks as needed, as even as possible.
fn block_rows(rows: usize, block: usize) -> Range<usize> {
    let blocks = rows.div_ceil(ROWS);
    rows * block / blocks..rows * (block + 1) / blocks
}

/// The results cut into blocks of rows by panels of 32 columns.
struct Tasks {
    blocks: usize,
    panels: usize,
    down: usize,
    across: usize,
}

impl Tasks {
    fn new(rows: usize, panels: usize, deep: usize) -> Self {
        let wanted = 4 * rayon::current_num_threads();
        let blocks = rows.div_ceil(ROWS);
        let across = wanted
            .min((panels * deep * blocks).div_ceil(TILES_PER_TASK))
            .clamp(1, panels);
        let down = rows.div_ceil(PASSING).max((wanted / across).min(blocks / 8)).max(1);
        Self {
            blocks,
            panels,
            down,
            across,
        }
    }
    fn count(&self) -> usize {
        self.down * self.across
    }
    fn at(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let part = |i: usize, of: usize, n: usize| n * i / of..n * (i + 1) / of;
        (
            part(task / self.across, self.down, self.blocks),
            part(task % self.across, self.across, self.panels),
        )
    }
}

/// Rows rounded to bf16: block of rows by block of rows, each for every 32 of the contracted dimension a line a row.
struct Rounded<'a> {
    lines: &'a [Line],
    held: Range<usize>,
}

impl<'a> Rounded<'a> {
    fn new(x: &[f32], k: usize, rows: usize, held: Range<usize>, buffer: &'a mut Vec<Line>) -> Self {
        let blocks = rows.div_ceil(ROWS);
        buffer.clear();
        buffer.resize(rows * held.len(), Line::ZERO);
        let mut parts = Vec::with_capacity(blocks);
        let mut rest = &mut buffer[..];
        for block in (0..blocks).map(|b| block_rows(rows, b)) {
            let (part, behind) = rest.split_at_mut(block.len() * held.len());
            parts.push((block, part));
            rest = behind;
        }
        let at_least = (1 << 14) / (ROWS * held.len() * SIDE) + 1;
        parts.into_par_iter().with_min_len(at_least).for_each(|(block, part)| {
            let n = block.len();
            for (r, row) in block.enumerate() {
                let values = row * k + held.start * SIDE..row * k + k.min(held.end * SIDE);
                for (i, values) in x[values].chunks(SIDE).enumerate() {
                    part[i * n + r] = tile::round(values);
                }
            }
        });
        Self { lines: buffer, held }
    }

    fn lines(&self, block: &Range<usize>, depth: &Range<usize>) -> &[Line] {
        let before = block.start * self.held.len();
        let at = |tile: usize| before + (tile - self.held.start) * block.len();
        &self.lines[at(depth.start)..at(depth.end)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::random;
    use half::bf16;

    fn values(seed: u64, n: usize) -> Vec<f32> {
        random::<1>(seed, [n]).into_data().iter::<f32>().collect()
    }

    /// `[n, k] · [k, m]` of values rounded to bf16, summed in f64.
    fn exact(a: &[f32], k: usize, b: impl Fn(usize, usize) -> f32, m: usize) -> Vec<f32> {
        let rounded = |v: f32| bf16::from_f32(v).to_f64();
        let dot = |a: &[f32], j| (0..k).map(|i| rounded(a[i]) * rounded(b(i, j))).sum::<f64>() as f32;
        a.chunks_exact(k)
            .flat_map(|a| (0..m).map(move |j| dot(a, j)).collect::<Vec<_>>())
            .collect()
    }

    fn assert_near(a: &[f32], b: &[f32]) {
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() < 2e-5, "{a} is not {b}");
        }
    }

    #[test]
    fn both_directions_are_exact_but_for_rounding_at_any_size() {
        let sizes = [
            (1, 1, 1),
            (5, 3, 1),
            (33, 65, 7),
            (64, 96, 15),
            (101, 37, 40),
            (1100, 70, 29),
        ];
        for (outputs, inputs, rows) in sizes {
            let (w, x, dy) = (
                values(1, outputs * inputs),
                values(2, rows * inputs),
                values(3, rows * outputs),
            );
            let packed = PackedBf16::new(&w, [outputs, inputs]);
            let mut y = vec![f32::NAN; rows * outputs];
            packed.forward(&x, &mut y);
            assert_near(&y, &exact(&x, inputs, |i, o| w[o * inputs + i], outputs));

            let mut dx = vec![f32::NAN; rows * inputs];
            packed.backward(&dy, &mut dx, false);
            let wanted = exact(&dy, outputs, |o, i| w[o * inputs + i], inputs);
            assert_near(&dx, &wanted);
            packed.backward(&dy, &mut dx, true);
            let twice: Vec<f32> = wanted.iter().map(|v| 2.0 * v).collect();
            assert_near(&dx, &twice);
        }
    }

    #[test]
    fn a_row_does_not_depend_on_those_beside_it() {
        let (outputs, inputs, rows) = (101, 1100, 40);
        let packed = PackedBf16::new(&values(1, outputs * inputs), [outputs, inputs]);
        let x = values(2, rows * inputs);
        let product = |x: &[f32]| {
            let mut y = vec![0.0; x.len() / inputs * outputs];
            packed.forward(x, &mut y);
            y
        };
        let together = product(&x);
        for n in 1..rows {
            assert_eq!(product(&x[..n * inputs]), together[..n * outputs]);
        }
    }

    #[test]
    fn rows_come_back_rounded_to_nearest_even() {
        let w = values(1, 70 * 45);
        let rounded: Vec<f32> = w.iter().map(|v| bf16::from_f32(*v).to_f32()).collect();
        assert_eq!(PackedBf16::new(&w, [70, 45]).dense(), rounded);
    }
}
