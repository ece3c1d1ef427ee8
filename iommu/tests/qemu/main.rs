//! QEMU's SMMU beside the crate's own: driven over QEMU's test protocol, without guest code. `cargo xtask test qtest` runs
//! these tests with the QEMU that it set up; by themselves they are ignored.

mod answer;
#[macro_use]
#[path = "../bench/mod.rs"]
mod bench;
mod causes;
mod devices;
mod differential;
mod image;
mod machine;
mod predict;
mod qtest;

use std::sync::Arc;
use std::{env, thread};

use bench::Bench;
use devices::{READING, WRITING};
use image::Format;
use machine::Machine;

/// A machine of one scenario. Tables that a walker was shown are never freed ([`iommu::table`]), and hold it: it is ended
/// here.
struct Qemu(Machine);

impl Drop for Qemu {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Bench for Qemu {
    type Platform = Machine;
    type Registers = Machine;

    const RAM: u64 = machine::RAM + 0x2000_0000;
    // Both behind root ports.
    const WRITER: u32 = WRITING[2];
    const READER: u32 = READING[2];

    fn new() -> Self {
        Self(Machine::start())
    }

    fn platform(&self) -> Arc<Machine> {
        Arc::new(self.0.clone())
    }

    fn registers(&self) -> Machine {
        self.0.clone()
    }

    fn load(&self, at: u64) -> u64 {
        self.0.load(at)
    }

    fn store(&self, at: u64, value: u64) {
        self.0.store(at, value);
    }

    fn write(&self, iova: u64) -> bool {
        let (written, _) = self.0.dma_write(Self::WRITER, iova, machine::RAM, &[]);
        written != devices::Written::Refused
    }

    fn read(&self, iova: u64) -> u32 {
        self.0.dma_read(Self::READER, iova, 0, &[]);
        self.0.slots(Self::READER, 1)[0]
    }
}

scenarios!(Qemu, [ignore = "needs QEMU: cargo xtask test qtest"]);

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// 10,000 of them; `SLUICE_IMAGES` is another count, `SLUICE_SEED` another start.
#[test]
#[ignore = "needs QEMU: cargo xtask test qtest"]
fn random_images_translate_alike() {
    let count = number("SLUICE_IMAGES", 10_000);
    let seed = number("SLUICE_SEED", 1);
    let other = thread::spawn(move || differential::compare(Format::TwoLevel, seed, count / 2));
    let mut tally = differential::compare(Format::Linear, seed, count - count / 2);
    tally.add(other.join().expect("no panic"));
    println!("report: seeds from {seed}");
    for line in tally.report() {
        println!("report: {line}");
    }
    for row in causes::TABLE {
        let count = tally.causes.get(&row.cause).copied().unwrap_or(0);
        println!(
            "{count:6} {:?}: {}; QEMU's {}",
            row.cause, row.rule, row.qemu
        );
    }
    let told: Vec<_> = tally.open.iter().take(3).collect();
    assert!(
        told.is_empty(),
        "{}",
        told.into_iter().cloned().collect::<String>()
    );
    assert_eq!(u64::from(tally.equal + tally.explained), count);
    // What no image needs any more is not listed.
    let needed = |row: &&causes::Row| !tally.causes.contains_key(&row.cause);
    let idle: Vec<_> = causes::TABLE
        .iter()
        .filter(needed)
        .map(|row| row.cause)
        .collect();
    assert!(count < 10_000 || idle.is_empty(), "{idle:?}: not seen");
}
