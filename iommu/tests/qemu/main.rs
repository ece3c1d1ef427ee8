//! QEMU's SMMU beside the crate's own: driven over QEMU's test protocol, without guest code. `cargo xtask test qtest` runs
//! these tests with the QEMU that it set up; by themselves they are ignored.

mod answer;
#[macro_use]
#[path = "../bench/mod.rs"]
mod bench;
mod causes;
mod devices;
mod differential;
mod driven;
mod image;
mod machine;
mod predict;
mod qtest;
mod tally;

use std::sync::Arc;
use std::thread;

use bench::Bench;
use devices::{READING, WRITING};
use driven::Machine;
use image::Format;

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
        Self(machine::start())
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
        machine::slots(&self.0, Self::READER, 1)[0]
    }
}

scenarios!(Qemu, [ignore = "needs QEMU: cargo xtask test qtest"]);

/// Half of them with a table of each format.
#[test]
#[ignore = "needs QEMU: cargo xtask test qtest"]
fn random_images_translate_alike() {
    let (count, seed) = tally::asked();
    let other = thread::spawn(move || differential::compare(Format::TwoLevel, seed, count / 2));
    let linear = differential::compare(Format::Linear, seed, count - count / 2);
    let mut tally = other.join().expect("no panic");
    linear.report("linear");
    tally.report("two-level");
    tally.add(linear);
    tally.check(count);
}
