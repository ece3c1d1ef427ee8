//! What a guest's unmap waits for while other guests flood the SMMU that they share, in commands of the SMMU's: `longest`,
//! and the `bound` that it has, with so many `others`.

#[path = "../tests/flood/mod.rs"]
mod flood;
#[path = "../tests/light/mod.rs"]
mod light;

/// Guests beside the one.
const OTHERS: usize = 3;

fn main() {
    println!("others {OTHERS}");
    println!("longest {}", flood::longest(OTHERS));
    println!("bound {}", flood::bound(OTHERS));
}
