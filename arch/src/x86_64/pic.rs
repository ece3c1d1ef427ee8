//! The two 8259A interrupt controllers of a PC: masked for good, as the I/O APIC has all that they have.

use super::port;

/// Their mask registers (OCW1).
const MASKS: [u16; 2] = [0x21, 0xa1];

/// Masks all of both.
pub fn mask() {
    for register in MASKS {
        // SAFETY: no interrupt comes from there any more; nothing is told of memory.
        unsafe { port::write8(register, 0xff) };
    }
}
