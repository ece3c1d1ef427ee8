//! A program that is loaded where it is linked, for the bare machine only.

use std::env::var;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=guest.ld");
    if var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let root = var("CARGO_MANIFEST_DIR").expect("cargo sets it");
        println!("cargo:rustc-link-arg-bins=--script={root}/guest.ld");
        println!("cargo:rustc-link-arg-bins=-no-pie");
    }
}
