//! What the VT-d unit that a guest sees costs, on the real driver and the crate's model: one line a count.
//!
//! `slice_bytes` are those of the slice's tables then, in which a source reaches the pages of two tables.
//! `exits` are stores of the guest's that trap, `reads` entries of its tables, `stores` leaves of its shadow, `descriptors`,
//! `waits` and `tails` what the hardware's own queue is told, `turns` calls that one exit takes.

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/vvtd/guest/mod.rs"]
mod guest;

use iommu::guest::vvtd::Slice;

use guest::{How, Machine, RAM, ROOT, RW, SOURCES, Stage, context_of, domain, pages};

const PAGE: u64 = 0x1000;
const DATA: u64 = RAM + 0x100_0000;
/// Pages of one table.
const TABLE: u64 = 512;

/// Invalidates, and prints what it cost.
fn count(machine: &mut Machine, name: &str, descriptor: [u64; 2]) {
    let shadow = |machine: &Machine| {
        let shadow = machine.unit.slice().shadow(0);
        shadow.map_or(0, |shadow| shadow.stores())
    };
    let (exits, stores) = (machine.exits(), shadow(machine));
    let mut turns = 0;
    let (own, hardware) = machine.spent(|it| turns = it.invalidate(&[descriptor]).len());
    let (exits, stores) = (machine.exits() - exits, shadow(machine) - stores);
    println!("{name}_exits {exits}");
    println!("{name}_turns {turns}");
    println!("{name}_reads {}", own.entries);
    println!("{name}_stores {stores}");
    println!("{name}_descriptors {}", hardware.descriptors);
    println!("{name}_waits {}", hardware.waits);
    println!("{name}_tails {}", hardware.register_writes);
}

fn main() {
    let mut machine = Machine::new(&How {
        scalable: false,
        budget: 4096,
        ..How::default()
    });
    machine.enable(ROOT);
    let mut stage = Stage::new(0, 3);
    machine.context_entry(SOURCES[0], stage.root | 1, 1 << 8 | 1);
    machine.invalidate(&[context_of(SOURCES[0]), domain(1)]);
    // The tables on the way are there before anything is counted.
    stage.set(&machine.memory, 8 * PAGE, DATA | RW);
    machine.invalidate(&[pages(1, 8 * PAGE, 0)]);

    stage.set(&machine.memory, 0, DATA | RW);
    count(&mut machine, "map_page", pages(1, 0, 0));
    for page in 0..TABLE {
        let at = 0x40_0000 + page * PAGE;
        stage.set(&machine.memory, at, (DATA + page * PAGE) | RW);
    }
    count(&mut machine, "map_table", pages(1, 0x40_0000, 9));
    println!("slice_bytes {}", machine.unit.slice().bytes());
    count(&mut machine, "nothing", pages(1, 0x40_0000, 9));
    stage.set(&machine.memory, 0, 0);
    count(&mut machine, "unmap_page", pages(1, 0, 0));
    let slot = stage.slot(&machine.memory, 0x80_0000, 1);
    machine.memory.store(slot, DATA | 1 << 7 | RW);
    count(&mut machine, "map_block", pages(1, 0x80_0000, 9));
    machine.memory.store(slot, 0);
    count(&mut machine, "unmap_block", pages(1, 0x80_0000, 9));
    let slot = stage.slot(&machine.memory, 0x40_0000, 1);
    machine.memory.store(slot, 0);
    count(&mut machine, "unmap_table", pages(1, 0x40_0000, 9));
}
