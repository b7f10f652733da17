//! Training or validation: by a stable hash of what a record says.

/// Which records are held back for validation, given their content hashes.
///
/// A record's side depends on its content alone: adding rows moves no other, duplicates stay together. Two records
/// are the exception, so that neither side is empty: the lowest hash is always held back, the highest never.
pub fn held_back(hashes: &[u64], share: f64) -> Vec<bool> {
    let limit = (share * u64::MAX as f64) as u64;
    let mut side: Vec<bool> = hashes.iter().map(|hash| *hash < limit).collect();
    let (lowest, highest) = (hashes.iter().min(), hashes.iter().max());
    let (Some(&lowest), Some(&highest)) = (lowest, highest) else {
        return side;
    };
    if share > 0.0 {
        for (held, hash) in side.iter_mut().zip(hashes) {
            *held = (*held || *hash == lowest) && *hash != highest;
        }
    }
    side
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_sides_get_a_record() {
        assert_eq!(held_back(&[7, 9, 9], 1e-9), [true, false, false]);
        assert_eq!(held_back(&[7, 9], 0.999), [true, false]);
        assert_eq!(held_back(&[7, 7], 0.5), [false, false]);
        assert_eq!(held_back(&[7, 9], 0.0), [false, false]);
    }

    proptest! {
        #[test]
        fn adding_rows_moves_no_other(mut hashes in prop::collection::vec(any::<u64>(), 100..200), more: Vec<u64>) {
            let before = held_back(&hashes, 0.3);
            let kept = hashes.len();
            let (low, high) = (*hashes.iter().min().unwrap(), *hashes.iter().max().unwrap());
            hashes.extend(more.into_iter().filter(|h| (low..high).contains(h)));
            prop_assert_eq!(&before[..], &held_back(&hashes, 0.3)[..kept]);
        }
    }
}
