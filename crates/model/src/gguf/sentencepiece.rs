//! `tokenizer.model` of SentencePiece: pieces with their scores and types. A protobuf message (`sentencepiece_model.proto`) of
//! which field 1, the pieces, is read and the rest passed over.

/// One token. Types are numbered as ggml numbers them.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: i64,
}

/// In the order of their ids.
pub fn pieces(file: &[u8]) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut message = Message(file);
    while let Some(field) = message.next()? {
        if let (1, Field::Bytes(bytes)) = field {
            pieces.push(piece(bytes)?);
        }
    }
    match pieces.is_empty() {
        true => Err("its tokenizer.model has no pieces".into()),
        false => Ok(pieces),
    }
}

fn piece(bytes: &[u8]) -> Result<Piece, String> {
    let mut piece = Piece {
        text: String::new(),
        score: 0.0,
        kind: 1,
    };
    let mut message = Message(bytes);
    while let Some(field) = message.next()? {
        match field {
            (1, Field::Bytes(text)) => piece.text = String::from_utf8_lossy(text).into_owned(),
            (2, Field::Four(bits)) => piece.score = f32::from_le_bytes(bits),
            (3, Field::Varint(kind)) => piece.kind = kind as i64,
            _ => {}
        }
    }
    Ok(piece)
}

/// What is left of a message.
struct Message<'a>(&'a [u8]);

enum Field<'a> {
    Varint(u64),
    Four([u8; 4]),
    Bytes(&'a [u8]),
    Other,
}

impl<'a> Message<'a> {
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, String> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Other
            }
            2 => {
                let length = self.varint()?;
                Field::Bytes(self.take(usize::try_from(length).unwrap_or(usize::MAX))?)
            }
            5 => {
                let mut bits = [0; 4];
                bits.copy_from_slice(self.take(4)?);
                Field::Four(bits)
            }
            other => return Err(format!("its tokenizer.model has a field of wire type {other}")),
        };
        Ok(Some((tag >> 3, field)))
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], String> {
        let taken = self
            .0
            .get(..bytes)
            .ok_or("its tokenizer.model ends in the middle of a field")?;
        self.0 = &self.0[bytes..];
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("its tokenizer.model has a number of more than 64 bits".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    fn golden() -> Vec<u8> {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/gguf");
        fs_err::read(goldens.join("gemma2/tokenizer.model")).unwrap()
    }

    /// `SentencePieceProcessor.id_to_piece` and `get_score` of sentencepiece 0.2.3.
    #[test]
    fn pieces_are_those_of_sentencepiece() {
        let pieces = pieces(&golden()).unwrap();
        assert_eq!(pieces.len(), 330);
        let of = |id: usize| (pieces[id].text.as_str(), pieces[id].score, pieces[id].kind);
        assert_eq!(of(0), ("<pad>", 0.0, 3));
        assert_eq!(of(3), ("<unk>", 0.0, 2));
        assert_eq!(of(5), ("<start_of_turn>", 0.0, 4));
        assert_eq!(of(7), ("<0x00>", 0.0, 6));
        assert_eq!(of(264), ("the", -1.0, 1));
        assert_eq!(of(329), ("é", -66.0, 1));
    }

    proptest! {
        #[test]
        fn damage_is_survived(at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
            let mut file = golden();
            let at = at.index(file.len());
            file[at] = byte;
            file.truncate(cut.index(file.len()));
            _ = pieces(&file);
        }
    }
}
