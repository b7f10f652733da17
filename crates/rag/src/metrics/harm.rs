//! How often passages make a right answer wrong (Yoran et al. 2023), and a wrong one right.
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Harm {
    /// Right without context.
    pub right_without: usize,
    /// Of those, wrong with it.
    pub harmed: usize,
    /// Wrong without, right with it.
    pub helped: usize,
    /// `harmed / right_without`; `None` where nothing was right without.
    pub rate: Option<f64>,
}

/// From (right without, right with) of each question.
pub fn harm(pairs: impl IntoIterator<Item = (bool, bool)>) -> Harm {
    let mut sum = Harm::default();
    for (without, with) in pairs {
        sum.right_without += usize::from(without);
        sum.harmed += usize::from(without && !with);
        sum.helped += usize::from(!without && with);
    }
    sum.rate = (sum.right_without > 0).then(|| sum.harmed as f64 / sum.right_without as f64);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harm_is_of_what_was_right_before() {
        let found = harm([(true, false), (true, true), (false, true), (false, false)]);
        assert_eq!((found.rate, found.helped), (Some(0.5), 1));
        assert_eq!(harm([(false, true)]).rate, None);
    }
}
