//! The timer beside one that counts, cycle after cycle.

use super::{Vlapics, store, x2apic, xapic};
use proptest::prelude::*;

const INITIAL: u64 = 0x380;
const CURRENT: u64 = 0x390;
const DIVIDE: u64 = 0x3e0;
const LVT: u64 = 0x320;

/// A counter behind a prescaler, as the manual draws it.
#[derive(Default)]
struct Counter {
    mode: u32,
    masked: bool,
    divisor: u64,
    prescaler: u64,
    initial: u32,
    count: u32,
    deadline: u64,
    now: u64,
    fired: u64,
}

impl Counter {
    fn cycle(&mut self) {
        self.now += 1;
        if self.mode == 2 {
            if self.deadline != 0 && self.now >= self.deadline {
                self.fire();
                self.deadline = 0;
            }
            return;
        }
        if self.count == 0 {
            return;
        }
        self.prescaler += 1;
        if self.prescaler < self.divisor {
            return;
        }
        self.prescaler = 0;
        self.count -= 1;
        if self.count == 0 {
            self.fire();
            if self.mode == 1 {
                self.count = self.initial;
            }
        }
    }

    fn fire(&mut self) {
        if !self.masked {
            self.fired += 1;
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Lvt(u32),
    Initial(u32),
    Divide(u32),
    Deadline(u64),
    Run(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..3u32, any::<bool>()).prop_map(|(mode, masked)| Step::Lvt(mode << 17 | u32::from(masked) << 16 | 0x55)),
        3 => (0..40u32).prop_map(Step::Initial),
        1 => prop::sample::select(&[0u32, 1, 0xb][..]).prop_map(Step::Divide),
        2 => (0..60u64).prop_map(Step::Deadline),
        8 => (0..50u64).prop_map(Step::Run),
    ]
}

proptest! {
    #[test]
    fn it_fires_when_a_counter_would(steps in prop::collection::vec(step(), 1..80)) {
        let mut apics = x2apic(1);
        let mut counter = Counter { masked: true, divisor: 2, ..Counter::default() };
        let mut fired = 0;
        let at = |apics: &mut Vlapics, msr, value, now| apics.write_msr(0, msr, value, now).unwrap();
        for step in steps {
            match step {
                Step::Lvt(entry) => {
                    at(&mut apics, 0x832, entry.into(), counter.now);
                    let mode = entry >> 17 & 3;
                    if (mode == 2) != (counter.mode == 2) {
                        counter.count = 0;
                        counter.deadline = 0;
                    }
                    counter.mode = mode;
                    counter.masked = entry & 1 << 16 != 0;
                }
                Step::Initial(initial) => {
                    at(&mut apics, 0x838, initial.into(), counter.now);
                    if counter.mode != 2 {
                        counter.initial = initial;
                        counter.count = initial;
                        counter.prescaler = 0;
                    }
                }
                Step::Divide(divide) => {
                    at(&mut apics, 0x83e, divide.into(), counter.now);
                    // The manual does not say what becomes of the prescaler: it begins anew.
                    counter.prescaler = 0;
                    counter.divisor = match divide { 0 => 2, 1 => 4, _ => 1 };
                }
                Step::Deadline(after) => {
                    let deadline = if after == 0 { 0 } else { counter.now + after - 1 };
                    apics.set_deadline(0, deadline, counter.now);
                    if counter.mode == 2 {
                        counter.deadline = deadline;
                        if deadline != 0 && deadline <= counter.now {
                            counter.fire();
                            counter.deadline = 0;
                        }
                    }
                }
                Step::Run(cycles) => {
                    for _ in 0..cycles {
                        let expected = counter.fired;
                        counter.cycle();
                        if let Some(next) = apics.next_tick(0) {
                            prop_assert!(next >= counter.now, "it would have come before");
                        }
                        let fires = apics.tick(0, counter.now);
                        prop_assert_eq!(fires, counter.fired > expected);
                    }
                }
            }
            prop_assert_eq!(apics.deadline(0, counter.now), counter.deadline);
            prop_assert_eq!(apics.read_msr(0, 0x839, counter.now), Ok(counter.count.into()));
            // What has fired is one request until it is taken.
            if counter.fired > fired {
                prop_assert_eq!(apics.acknowledge(0), Some(0x55));
                apics.write_msr(0, 0x80b, 0, counter.now).unwrap();
                fired = counter.fired;
            }
            prop_assert_eq!(apics.pending(0), None);
        }
    }
}

#[test]
fn all_divisors_are_those_of_the_manual() {
    let divisors = [
        (0, 2),
        (1, 4),
        (2, 8),
        (3, 16),
        (8, 32),
        (9, 64),
        (10, 128),
        (11, 1),
    ];
    for (setting, divisor) in divisors {
        let mut apics = xapic(1);
        store(&mut apics, 0, DIVIDE, setting);
        store(&mut apics, 0, LVT, 0x40);
        store(&mut apics, 0, INITIAL, 100);
        assert_eq!(apics.next_tick(0), Some(100 * divisor));
        assert_eq!(apics.read(0, CURRENT, 4, divisor - 1), 100, "{setting}");
        assert_eq!(apics.read(0, CURRENT, 4, divisor), 99, "{setting}");
    }
    let mut slow = Vlapics::new(1, 1).unwrap();
    store(&mut slow, 0, 0xf0, 0x1ff);
    store(&mut slow, 0, LVT, 0x40);
    store(&mut slow, 0, INITIAL, u32::MAX.into());
    assert_eq!(slow.next_tick(0), Some(4 * u64::from(u32::MAX)));
}

#[test]
fn periods_that_passed_unseen_are_one_and_the_beat_is_kept() {
    let mut apics = xapic(1);
    store(&mut apics, 0, DIVIDE, 0xb);
    store(&mut apics, 0, LVT, 0x2_0040);
    store(&mut apics, 0, INITIAL, 10);
    assert!(apics.tick(0, 1_000_000_000_003));
    assert!(!apics.tick(0, 1_000_000_000_003));
    assert_eq!(apics.next_tick(0), Some(1_000_000_000_010));
}

#[test]
fn an_event_while_masked_is_lost_and_needs_no_exit() {
    let mut apics = xapic(1);
    store(&mut apics, 0, DIVIDE, 0xb);
    store(&mut apics, 0, LVT, 0x1_0040);
    store(&mut apics, 0, INITIAL, 10);
    assert_eq!(apics.next_tick(0), None);
    assert!(apics.write(0, LVT, 4, 0x40, 20).kick.contains(0));
    assert_eq!((apics.pending(0), apics.next_tick(0)), (None, None));
}

#[test]
fn a_deadline_that_has_passed_fires_at_once() {
    let mut apics = xapic(1);
    store(&mut apics, 0, LVT, 0x4_0040);
    assert!(apics.set_deadline(0, 5, 5).kick.contains(0));
    assert_eq!((apics.pending(0), apics.deadline(0, 5)), (Some(0x40), 0));
    // Nor does the end of time harm.
    apics.set_deadline(0, u64::MAX, 6);
    assert_eq!(apics.next_tick(0), Some(u64::MAX));
    apics.write(0, LVT, 4, 0x2_0040, 7);
    apics.write(0, INITIAL, 4, 1, u64::MAX - 1);
    assert!(apics.tick(0, u64::MAX));
    assert_eq!(apics.next_tick(0), Some(u64::MAX));
}
