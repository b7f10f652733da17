//! Settings to a finished run: plan, loop, checkpoints, metrics, export.
//!
//! [`train::train`] is the main path, in chapters; [`export::export`] is the other door. What a run leaves on disk is
//! in `run_dir`, `checkpoint`, `metrics`, `tensorboard`, `svg`, `receipt`, `adapter_out`: one file each.
mod adapter_out;
pub mod bench;
mod card;
pub mod checkpoint;
mod continued;
pub mod error;
mod evaluate;
pub mod export;
mod files;
pub mod fit;
mod identity;
pub mod memory;
pub mod metrics;
pub mod optim;
pub mod out_of_memory;
pub mod outputs;
pub mod plan;
mod prepare;
mod receipt;
mod resume;
pub mod run_dir;
pub mod schedule;
pub mod serving;
pub mod settings;
pub mod step;
mod svg;
mod tensorboard;
pub mod tensors;
pub mod train;
pub mod verify;
pub mod watch;
pub use error::TrainError;
pub type Result<T> = std::result::Result<T, TrainError>;
