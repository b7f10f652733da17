//! Backward passes: each op as a node of the tape, linears as one for each product, saving what its gradient needs and no more. What
//! linears read (norms, gates) has nodes of its own only where nothing fuses it: by itself, or with kernels switched off.
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
