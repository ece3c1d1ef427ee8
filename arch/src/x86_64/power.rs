//! The machine's power, by ACPI's fixed registers (ACPI 6.5, 4.8.3.2, 4.8.3.6 and 4.8.3.7).

use super::{cpu, port};
use spin::once::Once;

/// How firmware says that the machine is switched off and reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Registers {
    /// `PM1a_CNT_BLK` and `PM1b_CNT_BLK`, 0 where there is none.
    pub control: [u16; 2],
    /// `SLP_TYPx` of S5, for each of them.
    pub sleep_type: [u8; 2],
    /// `RESET_REG`, where it is a port, and what is written to it.
    pub reset: Option<(u16, u8)>,
}

/// `SLP_EN`.
const SLEEP: u16 = 1 << 13;

static REGISTERS: Once<Registers> = Once::new();

/// Uses `registers` from here on.
///
/// # Safety
/// They are what firmware's tables say.
pub unsafe fn init(registers: Registers) {
    REGISTERS.call_once(|| registers);
}

/// Switches the machine off.
pub fn off() -> ! {
    if let Some(registers) = REGISTERS.get() {
        for (port, sleep) in registers.control.into_iter().zip(registers.sleep_type) {
            if port == 0 {
                continue;
            }
            // Bits 10:12 and 13 are ours; the others keep what they are.
            let value = port::read16(port) & !(7 << 10) | u16::from(sleep & 7) << 10;
            // SAFETY: `init`'s caller: it is the power management register, and nothing goes on.
            unsafe { port::write16(port, value | SLEEP) };
        }
    }
    // Either it has no such register, or it takes its time.
    cpu::halt()
}

/// Resets the machine.
pub fn reset() -> ! {
    let (port, value) = REGISTERS
        .get()
        .and_then(|registers| registers.reset)
        // The reset control register of every PC's chipset.
        .unwrap_or((0xcf9, 0x6));
    // SAFETY: resets the machine; nothing goes on.
    unsafe { port::write8(port, value) };
    cpu::halt()
}
