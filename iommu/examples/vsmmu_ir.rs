//! Instructions of the SMMU that a guest sees, and of all that is below it down to the register writes, on hardware that
//! costs nothing: commands are consumed as soon as the doorbell is rung.
//!
//! Each of the functions below is never inlined, for `valgrind --tool=callgrind --toggle-collect='*::NAME'`: `trap_one`
//! one invalidation and a CMD_SYNC in one doorbell, `trap_many` 30 and a CMD_SYNC, each [`ROUNDS`] times; `trap_full` the
//! first call for a queue of 2^12 invalidations; `trap_streams` that for a CMD_CFGI_ALL with 8 streams, each with a new
//! stage 1. Prints what each call did, one line each, `NAME_commands` and `NAME_streams`.

#[path = "../tests/light/mod.rs"]
mod light;

use std::hint::black_box;

use iommu::object::Context;
use light::{GUEST, Guest, LOG2, STREAMS, TABLE, guest};

const ROUNDS: u64 = 100;

#[inline(never)]
fn trap_one(guest: &mut Guest) {
    black_box(0);
    black_box(guest.ring());
}

#[inline(never)]
fn trap_hint(guest: &mut Guest) {
    black_box(4);
    black_box(guest.ring());
}

#[inline(never)]
fn trap_hints(guest: &mut Guest) {
    black_box(5);
    black_box(guest.ring());
}

#[inline(never)]
fn trap_many(guest: &mut Guest) {
    black_box(1);
    black_box(guest.ring());
}

#[inline(never)]
fn trap_full(guest: &mut Guest) {
    black_box(2);
    black_box(guest.ring());
}

#[inline(never)]
fn trap_streams(guest: &mut Guest) {
    black_box(3);
    black_box(guest.ring());
}

fn main() {
    let context = Context::new(256, 8).expect("memory");
    let mut guest = guest(&context);

    let invalidation = |page: u64| [0x12 | 1 << 48, page << 12 | 1];
    const SYNC: [u64; 2] = [0x46, 0];
    // CMD_PREFETCH_CONFIG: nothing comes of it.
    const HINT: [u64; 2] = [0x01, 0];
    println!("rounds {ROUNDS}");
    let said = |name: &str, before: (u64, u64), guest: &Guest| {
        let after = guest.smmu.counters();
        println!("{name}_commands {}", after.commands - before.0);
        println!("{name}_streams {}", after.streams - before.1);
    };
    let count = |guest: &Guest| {
        let counters = guest.smmu.counters();
        (counters.commands, counters.streams)
    };
    for _ in 0..ROUNDS {
        guest.post([invalidation(1), SYNC].into_iter());
        trap_one(&mut guest);
    }
    for _ in 0..ROUNDS {
        guest.post([HINT].into_iter());
        trap_hint(&mut guest);
    }
    for _ in 0..ROUNDS {
        guest.post([HINT; 31].into_iter());
        trap_hints(&mut guest);
    }
    for _ in 0..ROUNDS {
        guest.post((0..30).map(invalidation).chain([SYNC]));
        trap_many(&mut guest);
    }
    let before = count(&guest);
    guest.post((0..1 << LOG2).map(invalidation));
    trap_full(&mut guest);
    said("trap_full", before, &guest);
    guest.settle();
    for stream in 0..u64::from(STREAMS) {
        let contexts = GUEST + 0x8_0000 + stream * 64;
        guest
            .memory
            .store(TABLE + stream * 64, &[0b1011 | contexts, 0xd4]);
    }
    let before = count(&guest);
    guest.post([[0x04, 31], SYNC].into_iter());
    trap_streams(&mut guest);
    said("trap_streams", before, &guest);
    guest.settle();
}
