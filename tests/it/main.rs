//! Every cross-crate test in one binary: linking costs more than running.
#![allow(clippy::disallowed_methods)] // A test that cannot read its file may say so as it likes.
mod adapters;
mod cli;
mod encoder;
mod export;
mod golden;
mod import;
mod parity;
mod rag;
mod settings;
mod training;
