//! Which kernels are switched off, and why: by the user, or because one failed or disagreed with its reference.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Kernels of an op by the op's name; those of ours on CUDA with `.cuda` behind it, or the library's name.
pub const NAMES: &[&str] = &[
    "attention",
    "attention.cudnn",
    "attention.flash",
    "dropout.cuda",
    "gelu",
    "graph",
    "int8.cuda",
    "layer_norm",
    "linear",
    "linear_cross_entropy",
    "linear_cross_entropy.cuda",
    "lora_linear",
    "nf4.cuda",
    "rms_norm",
    "rms_norm.cuda",
    "rope",
    "rope.cuda",
    "swiglu",
    "swiglu.cuda",
];

static ANY: AtomicBool = AtomicBool::new(false);
static OFF: Mutex<BTreeMap<&'static str, String>> = Mutex::new(BTreeMap::new());

fn switched_off() -> MutexGuard<'static, BTreeMap<&'static str, String>> {
    OFF.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `name` must be of [`NAMES`]. The first reason stays.
pub fn off(name: &'static str, why: impl Into<String>) {
    debug_assert!(NAMES.contains(&name), "{name}");
    switched_off().entry(name).or_insert_with(|| why.into());
    ANY.store(true, Ordering::Release);
}

/// Every op by its reference.
pub fn all_off(why: &str) {
    for name in NAMES {
        off(name, why);
    }
}

pub fn is_on(name: &str) -> bool {
    !ANY.load(Ordering::Acquire) || !switched_off().contains_key(name)
}

/// What is off, and why.
pub fn reasons() -> Vec<(&'static str, String)> {
    switched_off().iter().map(|(name, why)| (*name, why.clone())).collect()
}
