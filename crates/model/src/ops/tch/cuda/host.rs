//! Kernels on the CPU, for tests, by `cuda/host.cpp`.
use super::launch::{Grid, Launcher};
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::{Arc, Mutex};

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

/// `descending` is the order of a block's threads, and of the blocks.
#[derive(Default)]
pub struct Host {
    pub descending: bool,
    /// What was run.
    kernels: Mutex<Vec<String>>,
}

thread_local! {
    static IN_USE: RefCell<Option<Arc<Host>>> = const { RefCell::new(None) };
}

/// What LibTorch tensors on the CPU are given to on this thread.
pub fn in_use() -> Option<Arc<Host>> {
    IN_USE.with_borrow(Clone::clone)
}

/// Runs `f` with tensors on the CPU served by the kernels, in both orders; gives the names of those that ran.
pub fn with(f: impl Fn()) -> Vec<String> {
    let mut ran = Vec::new();
    for descending in [false, true] {
        let host = Arc::new(Host {
            descending,
            ..Host::default()
        });
        IN_USE.set(Some(host.clone()));
        f();
        IN_USE.set(None);
        ran.append(&mut host.kernels.lock().unwrap());
    }
    ran.sort();
    ran.dedup();
    ran
}

impl Launcher for Host {
    unsafe fn start(&self, kernel: &str, grid: Grid, addresses: &mut [*mut c_void]) -> Result<(), String> {
        let name = CString::new(kernel).map_err(|e| e.to_string())?;
        let args = addresses.as_mut_ptr();
        // SAFETY: the caller's promise; the message is a literal.
        let message = unsafe { tune_host_launch(name.as_ptr(), grid.blocks, grid.threads, args, self.descending) };
        if !message.is_null() {
            // SAFETY: as above.
            return Err(unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned());
        }
        self.kernels.lock().unwrap().push(kernel.into());
        Ok(())
    }
}
