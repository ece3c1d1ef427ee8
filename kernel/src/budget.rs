//! How often something may happen in a while.

use heapless::Deque;

/// Times that are remembered, so at most this many in a [`WINDOW_NS`].
pub const TIMES: usize = 8;
/// The while.
pub const WINDOW_NS: u64 = 60_000_000_000;

/// At most [`TIMES`] times in any [`WINDOW_NS`].
#[derive(Clone, Debug, Default)]
pub struct Budget {
    /// Oldest first.
    times: Deque<u64, TIMES>,
}

impl Budget {
    /// With nothing spent.
    pub const fn new() -> Self {
        Self {
            times: Deque::new(),
        }
    }

    /// Spends one at `now_ns`, if there is one left.
    pub fn spend(&mut self, now_ns: u64) -> bool {
        while let Some(&oldest) = self.times.front()
            && now_ns.saturating_sub(oldest) >= WINDOW_NS
        {
            self.times.pop_front();
        }
        self.times.push_back(now_ns).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, TIMES, WINDOW_NS};

    #[test]
    fn it_is_spent_and_comes_back_one_by_one() {
        let mut budget = Budget::new();
        for at in 0..TIMES as u64 {
            assert!(budget.spend(at));
        }
        assert!(!budget.spend(TIMES as u64));
        assert!(!budget.spend(WINDOW_NS - 1), "a refusal costs nothing");
        assert!(budget.spend(WINDOW_NS));
        assert!(!budget.spend(WINDOW_NS));
        assert!(budget.spend(WINDOW_NS + 1));
    }

    #[test]
    fn a_slow_row_never_ends() {
        let mut budget = Budget::new();
        assert!((0..1000).all(|n| budget.spend(n * WINDOW_NS / TIMES as u64)));
    }
}
