//! Encoders against sentence-transformers and transformers, on tiny random weights (`scripts/make_encoder_goldens.py`).
use crate::golden::max_difference;
use burn::tensor::Device;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use tune_model::checkpoint::{Checkpoint, OpenOptions};
use tune_model::{Encoder, EncoderInput, ModelError};

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/goldens/encoders")
        .join(case)
}

fn encoder(case: &str) -> Encoder {
    let base = Checkpoint::open(&folder(case).to_string_lossy(), &OpenOptions::default()).expect("golden checkpoint");
    Encoder::load(&base, &Device::flex()).unwrap_or_else(|e| panic!("{case}: {e}"))
}

/// The case's texts, and the numbers wanted.
fn golden(case: &str, wanted: &str) -> (Vec<EncoderInput>, Vec<f32>) {
    let bytes = std::fs::read(folder(case).join("golden.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let words = |name: &str| {
        let tensor = tensors.tensor(name).ok()?;
        Some(
            tensor
                .data()
                .chunks_exact(4)
                .map(|b| u32::from_le_bytes(b.try_into().unwrap()))
                .collect::<Vec<_>>(),
        )
    };
    let texts = (0..5).map(|i| EncoderInput {
        tokens: words(&format!("ids.{i}")).unwrap(),
        types: words(&format!("types.{i}")).unwrap_or_default(),
    });
    let wanted = words(wanted).unwrap().into_iter().map(f32::from_bits).collect();
    (texts.collect(), wanted)
}

#[test]
fn embeddings_equal_sentence_transformers_alone_and_in_a_batch() {
    for case in ["mean", "cls"] {
        let (encoder, (texts, wanted)) = (encoder(case), golden(case, "embeddings"));
        let together = encoder.embed(&texts).unwrap().concat();
        assert!(max_difference(&together, &wanted) < 1e-5, "{case}");
        let alone: Vec<f32> = texts
            .iter()
            .flat_map(|t| encoder.embed(std::slice::from_ref(t)).unwrap().concat())
            .collect();
        assert!(max_difference(&alone, &wanted) < 1e-5, "{case}");
    }
}

#[test]
fn relevance_equals_transformers() {
    let (encoder, (pairs, wanted)) = (encoder("cross"), golden("cross", "relevance"));
    assert!(max_difference(&encoder.relevance(&pairs).unwrap(), &wanted) < 1e-4);
}

#[test]
fn what_cannot_be_encoded_is_refused() {
    let encoder = encoder("mean");
    let text = |tokens: Vec<u32>| EncoderInput { tokens, types: vec![] };
    let error = |tokens| encoder.embed(&[text(tokens)]).unwrap_err().to_string();
    assert_eq!(error(vec![]), "there are no tokens to run the model on");
    assert_eq!(error(vec![1; 41]), "41 tokens do not fit the model's context of 40");
    assert_eq!(error(vec![60]), "token id 60 is outside the model's vocabulary of 60");
    assert!(matches!(encoder.relevance(&[]), Err(ModelError::NotACrossEncoder)));
    let llama = crate::golden::checkpoint("llama-gqa-tied");
    assert!(matches!(
        Encoder::load(&llama, &Device::flex()),
        Err(ModelError::NotAnEncoder { .. })
    ));
}
