//! Which mutant is on. `cargo xtask mutants` puts this file into a copy of the crate whose mutants it builds.

extern crate std;

use std::env;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex};

static ON: LazyLock<u32> = LazyLock::new(|| {
    let id = env::var("MUTANT").ok();
    id.map_or(0, |id| id.parse().expect("the number of a mutant"))
});

/// Where the mutants go whose place is reached, instead of any being on.
static TRACE: LazyLock<Option<Mutex<File>>> = LazyLock::new(|| {
    let path = env::var_os("MUTANT_TRACE")?;
    Some(Mutex::new(File::create(path).expect("a file for the trace")))
});

static REACHED: [AtomicBool; 1 << 16] = [const { AtomicBool::new(false) }; 1 << 16];

/// The mutant that is on, if it is one of this place; 0 is none.
pub fn of(place: &[u32]) -> u32 {
    let on = *ON;
    if let Some(trace) = &*TRACE {
        for id in place {
            if !REACHED[*id as usize].swap(true, Ordering::Relaxed) {
                writeln!(trace.lock().expect("no panic before"), "{id}").expect("room");
            }
        }
        return 0;
    }
    if place.contains(&on) { on } else { 0 }
}
