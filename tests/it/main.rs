//! Every cross-crate test in one binary: linking costs more than running.
mod cli;
mod export;
mod golden;
mod parity;
mod training;
