//! Kernels of `cuda/kernels.cu` by name: how many threads, and the arguments as they expect them.
use tch::{Kind, Tensor};

/// Elements a thread works on at a time: `EACH` in `kernels.cu`.
const EACH: i64 = 8;
const WARP: i64 = 32;
/// Threads of a block at most, and those of a block that only divides the work.
const MOST: i64 = 1024;
const BLOCK: i64 = 256;

/// Blocks, and threads in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    pub blocks: u32,
    pub threads: u32,
}

impl Grid {
    /// A block for each row of `cols` elements.
    pub fn of_rows(rows: i64, cols: i64) -> Result<Self, String> {
        let threads = ceil(ceil(cols, EACH), WARP) * WARP;
        Self::new(rows, threads.clamp(WARP, MOST))
    }

    /// A thread for each of `items`.
    pub fn of_items(items: i64) -> Result<Self, String> {
        Self::new(ceil(items, BLOCK), BLOCK)
    }

    /// A thread for each 8 elements of a row.
    pub fn of_elements(rows: i64, cols: i64) -> Result<Self, String> {
        Self::of_items(rows * parts(cols))
    }

    fn new(blocks: i64, threads: i64) -> Result<Self, String> {
        match i32::try_from(blocks) {
            Ok(_) => Ok(Self {
                blocks: blocks as u32,
                threads: threads as u32,
            }),
            Err(_) => Err(format!("{blocks} blocks; CUDA has 2³¹ − 1 at most")),
        }
    }
}

/// Threads that share `elements` of a row.
pub fn parts(elements: i64) -> i64 {
    ceil(elements, EACH)
}

fn ceil(n: i64, of: i64) -> i64 {
    (n + of - 1) / of
}

/// One argument, in the 8 bytes that kernels are given the address of.
#[derive(Debug, Clone, Copy)]
pub struct Arg(pub [u8; 8]);

impl From<&Tensor> for Arg {
    fn from(tensor: &Tensor) -> Self {
        Self((tensor.data_ptr() as u64).to_ne_bytes())
    }
}
impl From<i64> for Arg {
    fn from(value: i64) -> Self {
        Self(value.to_ne_bytes())
    }
}
impl From<u64> for Arg {
    fn from(value: u64) -> Self {
        Self(value.to_ne_bytes())
    }
}
impl From<i32> for Arg {
    fn from(value: i32) -> Self {
        Self::low(value.to_ne_bytes())
    }
}
impl From<f32> for Arg {
    fn from(value: f32) -> Self {
        Self::low(value.to_ne_bytes())
    }
}
impl Arg {
    fn low(bytes: [u8; 4]) -> Self {
        let mut all = [0; 8];
        all[..4].copy_from_slice(&bytes);
        Self(all)
    }
}

/// What runs kernels: a card, or the CPU in tests.
pub trait Launcher {
    /// `addresses[i]` is where argument `i` stands.
    ///
    /// # Safety
    /// `kernel` takes arguments of those types, and pointers among them reach as far as it goes.
    unsafe fn start(&self, kernel: &str, grid: Grid, addresses: &mut [*mut std::ffi::c_void]) -> Result<(), String>;
}

/// Runs `kernel` in its form for `kind`, f32 or bf16.
///
/// # Safety
/// As [`Launcher::start`].
pub unsafe fn launch(
    on: &dyn Launcher,
    kernel: &str,
    kind: Kind,
    grid: Grid,
    args: impl IntoIterator<Item = Arg>,
) -> Result<(), String> {
    if grid.blocks == 0 {
        return Ok(());
    }
    let form = match kind {
        Kind::Float => "f32",
        Kind::BFloat16 => "bf16",
        other => return Err(format!("no {kernel} in {other:?}")),
    };
    let mut args: Vec<Arg> = args.into_iter().collect();
    let mut addresses: Vec<_> = args.iter_mut().map(|arg| arg.0.as_mut_ptr().cast()).collect();
    // SAFETY: the caller's promise.
    unsafe { on.start(&format!("{kernel}_{form}"), grid, &mut addresses) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_cover_the_work_in_whole_warps() {
        let grid = |blocks, threads| Ok(Grid { blocks, threads });
        assert_eq!(Grid::of_rows(7, 1), grid(7, 32));
        assert_eq!(Grid::of_rows(7, 576), grid(7, 96));
        assert_eq!(Grid::of_rows(7, 4096), grid(7, 512));
        assert_eq!(Grid::of_rows(7, 128_256), grid(7, 1024));
        assert_eq!(Grid::of_elements(3, 17), grid(1, 256));
        assert_eq!(Grid::of_elements(300, 64), grid(10, 256)); // 2,400 threads
        assert_eq!(Grid::of_items(0), grid(0, 256));
        assert!(Grid::of_rows(1 << 31, 8).is_err());
    }
}
