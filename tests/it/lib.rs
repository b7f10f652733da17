//! Cross-crate tests: see `main.rs`.
