//! Only a binary can choose its linker script: aarch64-rt's, with our memory region.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=memory.ld");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let folder = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
        println!("cargo:rustc-link-arg=-Timage.ld");
        println!("cargo:rustc-link-arg=-T{folder}/memory.ld");
        // Flat code at a fixed address: nothing is left to relocate at run time.
        println!("cargo:rustc-link-arg=--no-pie");
        // It looks at the counter before aarch64-rt does anything.
        println!("cargo:rustc-link-arg-bin=exit_cost=--entry=stamp");
    }
}
