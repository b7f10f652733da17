//! Kernels on the CPU, for tests: `cuda/host.cpp` runs each twice, its threads in either order, and both must agree.
use super::launch::{Grid, Launcher};
use std::ffi::{CStr, CString, c_char, c_void};

#[link(name = "tune_kernels_for_tests", kind = "static")]
unsafe extern "C" {
    fn tune_host_launch(
        name: *const c_char,
        grid: u32,
        block: u32,
        args: *mut *mut c_void,
        descending: bool,
    ) -> *const c_char;
}

/// `descending` is the order of a block's threads and of the blocks.
pub struct Host {
    pub descending: bool,
}

impl Launcher for Host {
    unsafe fn start(&self, kernel: &str, grid: Grid, addresses: &mut [*mut c_void]) -> Result<(), String> {
        let name = CString::new(kernel).map_err(|e| e.to_string())?;
        let args = addresses.as_mut_ptr();
        // SAFETY: the caller's promise; the message is a literal.
        unsafe {
            let message = tune_host_launch(name.as_ptr(), grid.blocks, grid.threads, args, self.descending);
            match message.is_null() {
                true => Ok(()),
                false => Err(format!("{kernel}: {}", CStr::from_ptr(message).to_string_lossy())),
            }
        }
    }
}
