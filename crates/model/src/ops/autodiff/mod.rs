//! Backward passes: each op as one node of the tape, saving what its gradient needs and no more.
mod attention;
mod geglu;
mod gelu;
mod layer_norm;
mod linear;
mod rms_norm;
mod root;
mod rope;
mod swiglu;

/// Gradients of gradients are never asked for.
pub(super) const SECOND_ORDER: &str = "second-order gradients are not supported";
