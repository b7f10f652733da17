//! SmolLM3: `SmolLM3Model` of the converter, Llama under another name. llama.cpp knows every fourth layer, and no other, as
//! one that does not rotate.
use super::{Architecture, LLAMA, plain};
use crate::family::smollm3::rotating;

const STEP: usize = 4;

pub const SMOLLM3: Architecture = Architecture {
    name: "smollm3",
    model_types: &["smollm3"],
    special: |base, shape| {
        let rotates = rotating(base, shape.layers).map_err(|error| error.to_string())?;
        match (1..)
            .zip(&rotates)
            .find(|(number, rotates)| **rotates != (number % STEP != 0))
        {
            Some((number, true)) => Err(format!("positions in layer {number}, which llama.cpp leaves out there")),
            Some((number, false)) => Err(format!(
                "no positions in layer {number}, which llama.cpp leaves out in every fourth layer alone"
            )),
            None => plain(base, shape),
        }
    },
    ..LLAMA
};
