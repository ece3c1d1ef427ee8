//! Reset and power off, and the ACPI timer: the ports that a partition's FADT names (ACPI 6.5, §4.8.3).
//!
//! | Port | Size | What |
//! |---|---|---|
//! | [`SLEEP_CONTROL`] | 1 | SLP_EN with [`SLEEP_TYPE_OFF`] ends the partition |
//! | [`SLEEP_STATUS`] | 1 | nothing ever wakes: zero |
//! | [`TIMER`] | 4 | 3.579545 MHz, 32 bits, never stops |
//! | [`RESET`] | 1 | bit 2 resets the partition, as in every PC's chipset |

/// Sleep control register.
pub const SLEEP_CONTROL: u16 = 0x600;
/// Sleep status register.
pub const SLEEP_STATUS: u16 = 0x601;
/// Power management timer, by which a guest calibrates its TSC that takes the rate neither from CPUID nor from
/// [`vclock`](super::vclock).
pub const TIMER: u16 = 0x608;
/// Reset control register.
pub const RESET: u16 = 0xcf9;
/// What the FADT says is to be written to [`RESET`]: a full reset.
pub const RESET_VALUE: u8 = 0x06;
/// `\_S5`: the sleep type that means off.
pub const SLEEP_TYPE_OFF: u8 = 5;

const SLEEP_ENABLE: u8 = 1 << 5;
const RESET_CPU: u8 = 1 << 2;
/// Rate of the timer in Hz.
const TIMER_HZ: u64 = 3_579_545;
const SECOND: u64 = 1_000_000_000;

/// What a write asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing.
    None,
    /// The partition starts again.
    Reset,
    /// The partition ends.
    Off,
}

/// IN of `size` bytes at `port`, `now_ns` after the partition's start; `None` if the port is none of these.
pub fn read(port: u16, size: u8, now_ns: u64) -> Option<u32> {
    match (port, size) {
        (SLEEP_CONTROL | SLEEP_STATUS | RESET, 1) => Some(0),
        (TIMER, 4) => {
            let (seconds, rest) = (now_ns / SECOND, now_ns % SECOND);
            let ticks = seconds.wrapping_mul(TIMER_HZ) + rest * TIMER_HZ / SECOND;
            Some(ticks as u32)
        }
        _ => None,
    }
}

/// OUT of `size` bytes at `port`; `None` if the port is none of these.
pub fn write(port: u16, size: u8, value: u32) -> Option<Effect> {
    let value = value as u8;
    match (port, size) {
        (SLEEP_CONTROL, 1) => {
            let off = value & SLEEP_ENABLE != 0 && value >> 2 & 7 == SLEEP_TYPE_OFF;
            Some(if off { Effect::Off } else { Effect::None })
        }
        (RESET, 1) if value & RESET_CPU != 0 => Some(Effect::Reset),
        (RESET | SLEEP_STATUS, 1) | (TIMER, 4) => Some(Effect::None),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Effect, RESET, RESET_VALUE, read, write};

    #[test]
    fn off_and_reset_are_exactly_what_the_tables_say() {
        assert_eq!(write(RESET, 1, RESET_VALUE.into()), Some(Effect::Reset));
        // As Linux does without the FADT: the kind first, then the reset.
        assert_eq!(write(0xcf9, 1, 2), Some(Effect::None));
        assert_eq!(write(0xcf9, 1, 0xe), Some(Effect::Reset));
        let offs: Vec<u32> = (0..256)
            .filter(|&value| write(0x600, 1, value) == Some(Effect::Off))
            .collect();
        assert!(offs.iter().all(|value| value & 0x3c == 0x34));
        assert_eq!(offs.len(), 16);
    }

    #[test]
    fn other_ports_and_sizes_are_others() {
        let mut there = Vec::new();
        for port in 0..=u16::MAX {
            for size in [1, 2, 4] {
                assert_eq!(
                    read(port, size, 0).is_some(),
                    write(port, size, 0).is_some()
                );
                if read(port, size, 0).is_some() {
                    there.push((port, size));
                }
            }
        }
        assert_eq!(there, [(0x600, 1), (0x601, 1), (0x608, 4), (0xcf9, 1)]);
    }

    #[test]
    fn the_timer_counts_at_its_rate_and_wraps() {
        let at = |ns| read(0x608, 4, ns).unwrap();
        assert_eq!(at(1_000_000_000), 3_579_545);
        assert_eq!(at(279), 0);
        assert_eq!(at(280), 1);
        let hour = 3600 * 1_000_000_000u64;
        assert_eq!(at(hour), (3600u64 * 3_579_545 % (1 << 32)) as u32);
        // Some centuries later, too.
        at(u64::MAX);
    }
}
