//! ggml's block formats back to f32, bit for bit as gguf-py's `dequantize` (ggml's quants.c) gives them; and f32 to Q8_0 as
//! its `quantize` does.
use crate::checkpoint::StoredType;
use crate::safetensors_file::{decode_bf16, decode_f16, decode_le_f32};
use half::f16;
use rayon::prelude::*;

/// A storage format: `bytes` hold `elements` numbers.
#[derive(Debug)]
pub struct Kind {
    /// ggml's number for it.
    pub id: u32,
    pub name: &'static str,
    pub elements: usize,
    pub bytes: usize,
    /// Whole blocks in, exactly their numbers out.
    pub dequantize: fn(&[u8], &mut [f32]),
}

const fn kind(id: u32, name: &'static str, elements: usize, bytes: usize, dequantize: fn(&[u8], &mut [f32])) -> Kind {
    Kind {
        id,
        name,
        elements,
        bytes,
        dequantize,
    }
}

static KINDS: [Kind; 13] = [
    kind(0, "F32", 1, 4, decode_le_f32),
    kind(1, "F16", 1, 2, decode_f16),
    kind(30, "BF16", 1, 2, decode_bf16),
    kind(2, "Q4_0", 32, 18, |bytes, out| blocks(bytes, out, q4_0)),
    kind(3, "Q4_1", 32, 20, |bytes, out| blocks(bytes, out, q4_1)),
    kind(6, "Q5_0", 32, 22, |bytes, out| blocks(bytes, out, q5_0)),
    kind(7, "Q5_1", 32, 24, |bytes, out| blocks(bytes, out, q5_1)),
    kind(8, "Q8_0", 32, 34, |bytes, out| blocks(bytes, out, q8_0)),
    kind(10, "Q2_K", 256, 84, |bytes, out| blocks(bytes, out, q2_k)),
    kind(11, "Q3_K", 256, 110, |bytes, out| blocks(bytes, out, q3_k)),
    kind(12, "Q4_K", 256, 144, |bytes, out| blocks(bytes, out, q4_k)),
    kind(13, "Q5_K", 256, 176, |bytes, out| blocks(bytes, out, q5_k)),
    kind(14, "Q6_K", 256, 210, |bytes, out| blocks(bytes, out, q6_k)),
];

pub fn by_id(id: u32) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.id == id)
}

/// The format of a type that we write: F32, F16, BF16, or Q8_0 for any quantized one.
pub fn of(dtype: StoredType) -> &'static Kind {
    let name = match dtype {
        StoredType::F16 | StoredType::BF16 => dtype.name(),
        StoredType::Ggml(_) => "Q8_0",
        _ => "F32",
    };
    KINDS.iter().find(|kind| kind.name == name).unwrap_or(&KINDS[0])
}

/// Whole blocks of 32 as Q8_0: `d = max|x| / 127` in f16, each number as the nearest multiple of the unrounded `d`, halves away
/// from zero (ggml's `quantize_row_q8_0_ref`).
pub fn quantize_q8_0(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() / 32 * 34];
    let blocks = bytes.as_chunks_mut::<34>().0.par_iter_mut();
    blocks.zip(values.as_chunks::<32>().0).for_each(|(block, values)| {
        let d = values.iter().fold(0f32, |most, x| most.max(x.abs())) / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
        for (q, x) in block[2..].iter_mut().zip(values) {
            *q = (x * inverse).round() as i8 as u8;
        }
    });
    bytes
}

/// What storing as Q8_0 gives back.
pub fn round_q8_0(values: &mut [f32]) {
    blocks(&quantize_q8_0(values), values, q8_0);
}

/// All supported names, for messages.
pub fn names() -> String {
    KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ")
}

fn blocks<const B: usize, const N: usize>(bytes: &[u8], out: &mut [f32], block: impl Fn(&[u8; B], &mut [f32; N])) {
    for (bytes, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        block(bytes, out);
    }
}

fn half(low: u8, high: u8) -> f32 {
    f16::from_le_bytes([low, high]).to_f32()
}

/// Splits 16 bytes into 32 nibbles: the low ones first, then the high ones.
fn nibbles(packed: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    for (i, byte) in packed.iter().enumerate().take(16) {
        out[i] = byte & 15;
        out[i + 16] = byte >> 4;
    }
    out
}

/// Nibbles with a fifth bit each, out of `high`.
fn five_bits(high: &[u8], packed: &[u8]) -> [u8; 32] {
    let high = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    let mut out = nibbles(packed);
    for (i, q) in out.iter_mut().enumerate() {
        *q |= ((high >> i & 1) as u8) << 4;
    }
    out
}

fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block[0], block[1]);
    for (x, q) in out.iter_mut().zip(nibbles(&block[2..])) {
        *x = d * f32::from(q as i8 - 8);
    }
}

fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half(block[0], block[1]), half(block[2], block[3]));
    for (x, q) in out.iter_mut().zip(nibbles(&block[4..])) {
        *x = d * f32::from(q) + m;
    }
}

fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half(block[0], block[1]);
    for (x, q) in out.iter_mut().zip(five_bits(&block[2..6], &block[6..])) {
        *x = d * f32::from(q as i8 - 16);
    }
}

fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half(block[0], block[1]), half(block[2], block[3]));
    for (x, q) in out.iter_mut().zip(five_bits(&block[4..8], &block[8..])) {
        *x = d * f32::from(q) + m;
    }
}

fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half(block[0], block[1]);
    for (x, q) in out.iter_mut().zip(&block[2..]) {
        *x = f32::from(*q as i8) * d;
    }
}

/// Two bits of each number of a 256-block: 32 bytes hold four runs of 32 numbers.
fn two_bits(packed: &[u8], i: usize) -> u8 {
    packed[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
}

/// Four bits of each number of a 256-block: 32 bytes hold two runs of 32 numbers.
fn four_bits(packed: &[u8], i: usize) -> u8 {
    packed[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15
}

fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, qs) = (&block[..16], &block[16..80]);
    let (d, dmin) = (half(block[80], block[81]), half(block[82], block[83]));
    for (g, (out, scale)) in out.chunks_exact_mut(16).zip(scales).enumerate() {
        let (scale, min) = (d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
        for (l, x) in out.iter_mut().enumerate() {
            *x = scale * f32::from(two_bits(qs, 16 * g + l)) - min;
        }
    }
}

fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let (high, qs, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half(block[108], block[109]);
    for (g, out) in out.chunks_exact_mut(16).enumerate() {
        let low = scales[g % 8] >> (g / 8 * 4) & 15;
        let top = scales[8 + g % 4] >> (g / 4 * 2) & 3;
        let scale = d * f32::from((low | top << 4) as i8 - 32);
        for (l, x) in out.iter_mut().enumerate() {
            let i = 16 * g + l;
            // The third bit is stored inverted: where it is missing, 4 is taken off.
            let missing = !(high[i % 32] >> (i / 32)) & 1;
            *x = scale * f32::from(two_bits(qs, i) as i8 - (missing << 2) as i8);
        }
    }
}

/// The 6-bit scale and minimum of run `g` of 8, packed into 12 bytes.
fn scale_and_min(packed: &[u8], g: usize) -> (f32, f32) {
    let (scale, min) = if g < 4 {
        (packed[g] & 63, packed[g + 4] & 63)
    } else {
        let both = packed[g + 4];
        (both & 15 | packed[g - 4] >> 2 & 0x30, both >> 4 | packed[g] >> 2 & 0x30)
    };
    (f32::from(scale), f32::from(min))
}

fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (half(block[0], block[1]), half(block[2], block[3]));
    let (scales, qs) = (&block[4..16], &block[16..]);
    for (g, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(scales, g);
        let (scale, min) = (d * scale, dmin * min);
        for (l, x) in out.iter_mut().enumerate() {
            *x = scale * f32::from(four_bits(qs, 32 * g + l)) - min;
        }
    }
}

fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (half(block[0], block[1]), half(block[2], block[3]));
    let (scales, high, qs) = (&block[4..16], &block[16..48], &block[48..]);
    for (g, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(scales, g);
        let (scale, min) = (d * scale, dmin * min);
        for (l, x) in out.iter_mut().enumerate() {
            let q = four_bits(qs, 32 * g + l) | (high[l] >> g & 1) << 4;
            *x = scale * f32::from(q) - min;
        }
    }
}

fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half(block[208], block[209]);
    for (g, (out, scale)) in out.chunks_exact_mut(16).zip(scales).enumerate() {
        let scale = d * f32::from(*scale as i8);
        for (l, x) in out.iter_mut().enumerate() {
            let i = 16 * g + l;
            let nibble = low[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
            *x = scale * f32::from((nibble | two_bits(high, i) << 4) as i8 - 32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::safetensors_file::SafetensorsFile;
    use std::path::Path;

    /// Random blocks of each type, and gguf-py's numbers for them (scripts/make_gguf_goldens.py).
    #[test]
    fn numbers_are_those_of_gguf_py_to_the_bit() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/gguf/blocks.safetensors");
        let goldens = SafetensorsFile::open(&path).unwrap();
        for kind in &KINDS {
            let blocks = goldens.bytes(&format!("{}.blocks", kind.name)).unwrap();
            let wanted = goldens.read_f32(&format!("{}.values", kind.name)).unwrap();
            assert_eq!(wanted.len() / kind.elements, blocks.len() / kind.bytes, "{}", kind.name);
            let mut found = vec![0.0; wanted.len()];
            (kind.dequantize)(blocks, &mut found);
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&found), bits(&wanted), "{}", kind.name);
        }
    }

    /// Numbers with exact halves, a block of zeros and one of tiny numbers among them, as gguf-py quantizes them.
    #[test]
    fn q8_0_is_gguf_pys_to_the_bit() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/gguf/quantized.safetensors");
        let goldens = SafetensorsFile::open(&path).unwrap();
        let values = goldens.read_f32("values").unwrap();
        assert_eq!(quantize_q8_0(&values), goldens.bytes("Q8_0").unwrap());
        let mut rounded = values;
        round_q8_0(&mut rounded);
        assert_eq!(rounded, goldens.read_f32("rounded").unwrap());
    }
}
