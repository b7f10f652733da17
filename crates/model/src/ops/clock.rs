//! Where the time of a step goes, op by op: an account that is off unless asked for.
//!
//! While it is on, the device is waited for before and after each op, which makes the whole slower and each part true.
use burn::tensor::Device;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What one op took in all.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Spent {
    pub name: &'static str,
    pub calls: usize,
    /// Without the ops it is made of.
    pub seconds: f64,
}

struct Account {
    device: Device,
    spent: BTreeMap<&'static str, (usize, Duration)>,
    /// Of each op that is running, the time spent in ops it is made of.
    within: Vec<Duration>,
}

thread_local! {
    static ACCOUNT: RefCell<Option<Account>> = const { RefCell::new(None) };
}

/// Runs `work` with the account on; what was spent, the most first.
pub fn account<T>(device: &Device, work: impl FnOnce() -> T) -> (T, Vec<Spent>) {
    let account = Account {
        device: device.clone(),
        spent: BTreeMap::new(),
        within: Vec::new(),
    };
    ACCOUNT.replace(Some(account));
    let done = work();
    let spent = ACCOUNT.take().map(|account| account.spent).unwrap_or_default();
    let mut spent: Vec<_> = spent
        .into_iter()
        .map(|(name, (calls, time))| Spent {
            name,
            calls,
            seconds: time.as_secs_f64(),
        })
        .collect();
    spent.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    (done, spent)
}

pub fn is_on() -> bool {
    ACCOUNT.with_borrow(Option::is_some)
}

/// Counts until it is dropped.
pub struct Running {
    begun: Option<(&'static str, Instant)>,
}

/// Enters an op in the account, where there is one.
pub fn op(name: &'static str) -> Running {
    let begin = |account: &mut Account| {
        let _ = account.device.sync();
        account.within.push(Duration::ZERO);
        (name, Instant::now())
    };
    Running {
        begun: ACCOUNT.with_borrow_mut(|account| account.as_mut().map(begin)),
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some((name, begun)) = self.begun else { return };
        ACCOUNT.with_borrow_mut(|account| {
            let Some(account) = account else { return };
            let _ = account.device.sync();
            let took = begun.elapsed();
            let within = account.within.pop().unwrap_or_default();
            if let Some(outer) = account.within.last_mut() {
                *outer += took;
            }
            let (calls, spent) = account.spent.entry(name).or_default();
            *calls += 1;
            *spent += took.saturating_sub(within);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;

    #[test]
    fn an_op_within_an_op_is_counted_once() {
        let millis = Duration::from_millis;
        let ((), spent) = account(&Device::flex(), || {
            let _outer = op("outer");
            sleep(millis(5));
            for _ in 0..2 {
                let _inner = op("inner");
                sleep(millis(20));
            }
        });
        let (inner, outer) = (&spent[0], &spent[1]);
        assert_eq!(
            (inner.name, inner.calls, outer.name, outer.calls),
            ("inner", 2, "outer", 1)
        );
        assert!(inner.seconds >= 0.04 && outer.seconds < 0.02, "{spent:?}");
        drop(op("afterwards"));
        assert!(account(&Device::flex(), || ()).1.is_empty());
    }
}
