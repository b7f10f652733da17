//! How a step is made to fit into the memory there is: what is kept, recomputed, offloaded, and how long a row may be.
use std::ops::RangeInclusive;
use tune_model::causal_lm::Sizes;
use tune_model::memory::{Footprint, Micro, footprint, recorded};
use tune_model::{DeviceKind, Keep};

/// A base with its adapters on a kind of device, and the bytes that all of it may take there.
#[derive(Debug, Clone, Copy)]
pub struct Room<'a> {
    pub sizes: &'a Sizes,
    pub kind: DeviceKind,
    pub bytes: u64,
}

impl Room<'_> {
    pub fn footprint(&self, micro: Micro, keep: Keep) -> Footprint {
        footprint(self.sizes, micro, keep, self.kind)
    }

    fn fits(&self, micro: Micro, keep: Keep) -> bool {
        self.footprint(micro, keep).total() <= self.bytes
    }

    /// The cheapest way that fits, `None` if none does: as many of `blocks` kept as can be; where that is not even the fewest, as
    /// few inputs offloaded as it takes. Nothing is gained by offloading where the device's memory is the host's.
    pub fn keep(&self, micro: Micro, blocks: RangeInclusive<usize>) -> Option<Keep> {
        let fewest = *blocks.start();
        let kept = blocks.rev().map(|blocks| Keep { blocks, offloaded: 0 });
        let offloaded = (1..=self.offloadable(fewest)).map(|offloaded| Keep {
            blocks: fewest,
            offloaded,
        });
        kept.chain(offloaded).find(|keep| self.fits(micro, *keep))
    }

    /// What steps hold beside their footprint because they are recorded; `None` where they are not, for want of room or of use.
    pub fn recorded(&self, micro: Micro, keep: Keep) -> Option<u64> {
        let held = recorded(self.sizes, micro, keep, self.kind)?;
        (self.footprint(micro, keep).total() + held <= self.bytes).then_some(held)
    }

    /// What takes the least memory of all.
    pub fn least(&self) -> Keep {
        Keep {
            blocks: 0,
            offloaded: self.offloadable(0),
        }
    }

    fn offloadable(&self, kept: usize) -> usize {
        match self.kind {
            DeviceKind::Flex | DeviceKind::LibTorch => 0,
            DeviceKind::Cuda => self.sizes.shape.layers.saturating_sub(kept),
        }
    }

    /// The most tokens a row may have where a micro-batch has `rows` of them, all learned: 0 if none fits.
    pub fn longest(&self, rows: usize, like: Micro) -> usize {
        let fits = |length: usize| {
            let tokens = rows * length;
            let micro = Micro {
                tokens,
                learned: tokens,
                longest: length,
                ..like
            };
            self.fits(micro, self.least())
        };
        // The peak grows with the length, so bisection finds the last length that fits.
        let (mut fitting, mut failing) = (0, 1);
        while failing < LONGEST && fits(failing) {
            (fitting, failing) = (failing, 2 * failing);
        }
        while failing - fitting > 1 {
            let middle = fitting + (failing - fitting) / 2;
            if fits(middle) {
                fitting = middle;
            } else {
                failing = middle;
            }
        }
        fitting
    }
}

/// Beyond this no length is looked for.
const LONGEST: usize = 1 << 24;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tune_model::Precision;
    use tune_model::causal_lm::sizes_of_shape;
    use tune_model::lora::LoraSpec;
    use tune_model::precision::{Dtype, Quantize};

    const GIB: u64 = 1 << 30;

    fn sizes(config: serde_json::Value, precision: Precision) -> Sizes {
        let lora = LoraSpec::all_linears(16);
        sizes_of_shape(config, Some(&lora), precision).unwrap()
    }

    fn llama_8b() -> Sizes {
        llama_8b_in(Quantize::None)
    }

    fn llama_8b_in(quantize: Quantize) -> Sizes {
        let config = json!({
            "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
            "max_position_embeddings": 131072, "rope_theta": 500000.0
        });
        sizes(
            config,
            Precision::resolve_for(Dtype::Bf16, quantize, DeviceKind::Cuda).unwrap(),
        )
    }

    fn llama_1b() -> Sizes {
        let config = json!({
            "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
            "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
            "max_position_embeddings": 131072, "rope_theta": 500000.0, "tie_word_embeddings": true
        });
        sizes(
            config,
            Precision::resolve_for(Dtype::Bf16, Quantize::None, DeviceKind::Cuda).unwrap(),
        )
    }

    fn micro(tokens: usize) -> Micro {
        Micro {
            tokens,
            learned: tokens,
            longest: tokens,
            accumulates: false,
            dropout: false,
        }
    }

    fn room(sizes: &Sizes, bytes: u64) -> Room<'_> {
        Room {
            sizes,
            kind: DeviceKind::Cuda,
            bytes,
        }
    }

    #[test]
    fn the_shapes_we_are_judged_by_fit() {
        let (big, small) = (llama_8b(), llama_1b());
        assert_eq!(big.total_params, 8_030_261_248);
        assert_eq!(big.lora_params(), 41_943_040);
        let nothing_recomputed = Keep {
            blocks: 32,
            offloaded: 0,
        };
        let bytes = room(&big, 0).footprint(micro(2 * 4096), nothing_recomputed).total();
        assert!(bytes <= 42 * GIB, "{}", bytes as f64 / GIB as f64);
        let bytes = room(&small, 0).footprint(micro(4 * 2048), nothing_recomputed).total();
        assert!(bytes <= 11 * GIB, "{}", bytes as f64 / GIB as f64);
    }

    #[test]
    fn quantized_to_4_bits_it_fits_small_cards() {
        let sizes = llama_8b_in(Quantize::Nf4);
        assert!(room(&sizes, 10 * GIB).keep(micro(2048), 0..=32).is_some());
        let longest = room(&sizes, 24 * GIB).longest(1, micro(1));
        assert!(longest >= 78_000, "{longest}");
    }

    #[test]
    fn less_memory_keeps_less_then_offloads_then_refuses() {
        let sizes = llama_8b();
        let mut before = Keep {
            blocks: 32,
            offloaded: 0,
        };
        for gib in (17..42).rev() {
            let room = room(&sizes, gib * GIB);
            let Some(keep) = room.keep(micro(8192), 0..=32) else {
                assert!(gib < 19, "{gib} GiB");
                continue;
            };
            assert!(room.fits(micro(8192), keep));
            assert!(keep.blocks <= before.blocks && keep.offloaded >= before.offloaded);
            assert!(keep.blocks == 0 || keep.offloaded == 0, "{keep:?}");
            before = keep;
        }
        assert!(before.offloaded > 0, "{before:?}");
        assert_eq!(room(&sizes, 10 * GIB).keep(micro(8192), 0..=32), None);
    }

    #[test]
    fn steps_bound_by_launches_are_recorded_where_there_is_room() {
        let config = json!({
            "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
            "max_position_embeddings": 8192, "tie_word_embeddings": true
        });
        let bf16 = Precision::resolve_for(Dtype::Bf16, Quantize::None, DeviceKind::Cuda).unwrap();
        let (small, big) = (sizes(config.clone(), bf16), llama_8b());
        let keep = |blocks| Keep { blocks, offloaded: 0 };
        let micro = micro(8 * 512);
        let needed = room(&small, 0).footprint(micro, keep(30)).total();
        let held = room(&small, u64::MAX).recorded(micro, keep(30)).unwrap();
        assert!(held > needed / 2 && held < 2 * needed, "{held} beside {needed}");
        assert_eq!(room(&small, needed + held - 1).recorded(micro, keep(30)), None);
        assert_eq!(room(&big, u64::MAX).recorded(micro, keep(32)), None);
        let dropout = Micro { dropout: true, ..micro };
        assert_eq!(room(&small, u64::MAX).recorded(dropout, keep(30)), None);
        let offloaded = Keep {
            blocks: 0,
            offloaded: 3,
        };
        assert_eq!(room(&small, u64::MAX).recorded(micro, offloaded), None);
        assert_eq!(
            room(&sizes(config, Precision::F32), u64::MAX).recorded(micro, keep(30)),
            None
        );
    }

    #[test]
    fn the_longest_row_is_the_last_that_fits() {
        let sizes = llama_8b();
        let room = room(&sizes, 24 * GIB);
        let longest = room.longest(1, micro(1));
        assert!(longest > 2048, "{longest}");
        assert!(room.keep(micro(longest), 0..=32).is_some());
        assert!(room.keep(micro(longest + 1), 0..=32).is_none());
    }
}
