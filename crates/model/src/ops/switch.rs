//! Which kernels are switched off, and why: by the user, or because one failed or disagreed with its reference.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Kernels of an op by the op's name; those on CUDA that are more than ATen's operations with a library's name, or `.cuda` for
/// ours, behind it.
pub const NAMES: &[&str] = &[
    "adamw",
    "adamw.cuda",
    "attention",
    "attention.cudnn",
    "attention.flash",
    "dropout.cuda",
    "geglu",
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
static OFF: Mutex<BTreeMap<&'static str, Off>> = Mutex::new(BTreeMap::new());

struct Off {
    why: String,
    told: bool,
}

fn switched_off() -> MutexGuard<'static, BTreeMap<&'static str, Off>> {
    OFF.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `name` is one of [`NAMES`]. The first reason stays.
pub fn off(name: &'static str, why: impl Into<String>) {
    debug_assert!(NAMES.contains(&name), "{name}");
    switched_off().entry(name).or_insert_with(|| Off {
        why: why.into(),
        told: false,
    });
    ANY.store(true, Ordering::Release);
}

/// Switches off what a user does without: `no-` and a kernel, divided by commas, or `reference` for all of them.
///
/// # Errors
/// The first of them that is none.
pub fn off_by_user(names: &str) -> Result<(), String> {
    let why = "as asked";
    for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let known = NAMES.iter().find(|known| name.strip_prefix("no-") == Some(known));
        match known {
            Some(known) => off(known, why),
            None if name == "reference" => NAMES.iter().for_each(|known| off(known, why)),
            None => return Err(name.into()),
        }
    }
    Ok(())
}

pub fn is_on(name: &str) -> bool {
    !ANY.load(Ordering::Acquire) || !switched_off().contains_key(name)
}

/// What is off, and why.
pub fn reasons() -> Vec<(&'static str, String)> {
    let off = switched_off();
    off.iter().map(|(name, off)| (*name, off.why.clone())).collect()
}

/// The same, of what went off since this was last asked.
pub fn news() -> Vec<(&'static str, String)> {
    let mut off = switched_off();
    let untold = off.iter_mut().filter(|(_, off)| !off.told);
    untold
        .map(|(name, off)| {
            off.told = true;
            (*name, off.why.clone())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_none_is_given_back() {
        assert_eq!(off_by_user("no-rms_nrom"), Err("no-rms_nrom".into()));
        assert_eq!(off_by_user("rms_norm"), Err("rms_norm".into()));
        assert!(is_on("rms_norm"));
    }

    #[test]
    fn names_are_in_order() {
        assert!(NAMES.is_sorted());
    }
}
