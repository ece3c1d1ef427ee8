//! What came of many images, beside what QEMU is known to do ([`causes`]).
//!
//! [`causes`]: crate::causes

use std::collections::BTreeMap;
use std::env;

use crate::causes::{Cause, TABLE};

/// What came of many images.
#[derive(Default)]
pub struct Tally {
    pub images: u32,
    pub equal: u32,
    pub explained: u32,
    /// Writes and reads that arrived, of both.
    pub arrived: u32,
    /// Records that both wrote alike, by number.
    pub records: BTreeMap<u8, u32>,
    /// What each cause was needed for.
    pub causes: BTreeMap<Cause, u32>,
    /// Images that nothing explains.
    pub open: Vec<String>,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.images += other.images;
        self.equal += other.equal;
        self.explained += other.explained;
        self.arrived += other.arrived;
        for (number, count) in other.records {
            *self.records.entry(number).or_default() += count;
        }
        for (cause, count) in other.causes {
            *self.causes.entry(cause).or_default() += count;
        }
        self.open.extend(other.open);
    }

    fn needed(&self, cause: Cause) -> u32 {
        self.causes.get(&cause).copied().unwrap_or(0)
    }

    /// Prints it in words, of what `kind` it is.
    pub fn report(&self, kind: &str) {
        let records = self.records.iter();
        let records: Vec<_> = records
            .map(|(number, count)| format!("{number:#04x} {count}"))
            .collect();
        let causes = TABLE.iter();
        let causes: Vec<_> = causes
            .map(|row| format!("{:?} {}", row.cause, self.needed(row.cause)))
            .collect();
        println!(
            "report: {kind}: {} images: {} equal, {} explained, {} open",
            self.images,
            self.equal,
            self.explained,
            self.open.len()
        );
        println!(
            "report: {kind}: of the equal ones, {} transactions arrived; records by number: {}",
            self.arrived,
            records.join(", ")
        );
        println!(
            "report: {kind}: causes in QEMU, by what needs them: {}",
            causes.join(", ")
        );
    }

    /// Prints the causes, and looks whether all of `count` images are explained.
    pub fn check(&self, count: u64) {
        for row in TABLE {
            println!(
                "{:6} {:?}: {}; QEMU's {}",
                self.needed(row.cause),
                row.cause,
                row.rule,
                row.qemu
            );
        }
        let told: Vec<_> = self.open.iter().take(3).cloned().collect();
        assert!(told.is_empty(), "{}", told.concat());
        assert_eq!(u64::from(self.equal + self.explained), count);
        // What no image needs any more is not listed.
        let all = TABLE.iter().map(|row| row.cause);
        let idle: Vec<_> = all.filter(|cause| self.needed(*cause) == 0).collect();
        assert!(count < 10_000 || idle.is_empty(), "{idle:?}: not seen");
    }
}

/// How many images, and from which seed on: 10,000 from 1; `SLUICE_IMAGES` is another count, `SLUICE_SEED` another start.
pub fn asked() -> (u64, u64) {
    let number = |name, default| {
        let text = env::var(name);
        text.map_or(default, |text| text.parse().expect("a number"))
    };
    let (count, seed) = (number("SLUICE_IMAGES", 10_000), number("SLUICE_SEED", 1));
    println!("report: seeds from {seed}");
    (count, seed)
}
