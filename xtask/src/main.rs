//! `cargo xtask`: setup, build, check, image, run, test and bench.

fn main() {}
