//! Picks the linker script, for the bare machine only: on the host this crate is an ordinary program with tests.

use std::env::var;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let arch = var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it");
    let root = var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let script = format!("{root}/../linker/{arch}.ld");
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rustc-link-arg-bins=--script={script}");
    for arg in [
        "--build-id=none",
        "-znorelro",
        "-znognustack",
        "-pie",
        "--no-dynamic-linker",
        // A prebuilt `core` has addresses in its constants. They are relocated before anything is read-only.
        "-znotext",
        // A bit instead of 24 bytes for each.
        "--pack-dyn-relocs=relr",
    ] {
        println!("cargo:rustc-link-arg-bins={arg}");
    }
}
