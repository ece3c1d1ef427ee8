//! The clock of a PC that knows the date: registers of an MC146818A (Motorola's data sheet) behind ports 0x70 and 0x71. It is
//! read once, and taken for UTC.

#[cfg(target_os = "none")]
use super::{clock, port};

/// Registers.
mod register {
    pub const SECONDS: usize = 0;
    pub const MINUTES: usize = 2;
    pub const HOURS: usize = 4;
    pub const DAY: usize = 7;
    pub const MONTH: usize = 8;
    pub const YEAR: usize = 9;
    pub const A: usize = 10;
    pub const B: usize = 11;
}

/// Of register A: the others change, or will in less than 244 us.
const UPDATE: u8 = 1 << 7;
/// Of register B: 24 hours, not 12; binary, not decimal digits.
const HOURS_24: u8 = 1 << 1;
const BINARY: u8 = 1 << 2;
/// Of the hours, where there are 12.
const AFTERNOON: u8 = 1 << 7;

/// Longer than any update.
#[cfg(target_os = "none")]
const PATIENCE_NS: u64 = 20_000_000;

/// Seconds since 1970 now; `None` where no such clock runs.
#[cfg(target_os = "none")]
pub fn read() -> Option<u64> {
    const INDEX: u16 = 0x70;
    const DATA: u16 = 0x71;
    let all = || {
        let mut registers = [0; 12];
        for (number, value) in registers.iter_mut().enumerate() {
            // SAFETY: selects what the next read gets; bit 7 is clear, so NMIs stay as they are after reset.
            unsafe { port::write8(INDEX, number as u8) };
            *value = port::read8(DATA);
        }
        registers
    };
    let until = clock::now_ns() + PATIENCE_NS;
    while clock::now_ns() < until {
        let registers = all();
        if let Some(date) = date(&registers)
            && registers == all()
        {
            return Some(date);
        }
    }
    None
}

/// The seconds since 1970 that the registers mean, of a year from 2000 to 2099; `None` if that is no date, or
/// changes just now.
fn date(registers: &[u8; 12]) -> Option<u64> {
    if registers[register::A] & UPDATE != 0 {
        return None;
    }
    let mode = registers[register::B];
    let number = |value: u8| match value {
        _ if mode & BINARY != 0 => Some(value),
        _ if value & 0xf < 10 => Some((value >> 4) * 10 + (value & 0xf)),
        _ => None,
    };
    let within = |at: usize, least: u8, most: u8| {
        let value = number(registers[at]).filter(|value| (least..=most).contains(value))?;
        Some(u64::from(value))
    };
    let hours = match mode & HOURS_24 {
        0 => {
            let value = registers[register::HOURS];
            let hour = number(value & !AFTERNOON).filter(|hour| (1..=12).contains(hour))?;
            u64::from(hour % 12) + if value & AFTERNOON != 0 { 12 } else { 0 }
        }
        _ => within(register::HOURS, 0, 23)?,
    };
    let month = within(register::MONTH, 1, 12)?;
    let year = within(register::YEAR, 0, 99)?;
    // 2000 is a leap year, as is every fourth up to 2099.
    let leap = u64::from(year % 4 == 0);
    let before: u64 = (1..month)
        .map(|month| match month {
            2 => 28 + leap,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        })
        .sum();
    let days = DAYS_TO_2000 + year * 365 + year.div_ceil(4) + before;
    let days = days + within(register::DAY, 1, 31)? - 1;
    let minutes = (days * 24 + hours) * 60 + within(register::MINUTES, 0, 59)?;
    Some(minutes * 60 + within(register::SECONDS, 0, 59)?)
}

/// From 1970 to 2000.
const DAYS_TO_2000: u64 = 10_957;

#[cfg(test)]
mod tests {
    use super::date;

    /// Second, minute, hour, day, month, year, register B.
    fn registers(of: [u8; 7]) -> [u8; 12] {
        let [second, minute, hour, day, month, year, mode] = of;
        [
            second, 0, minute, 0, hour, 0, 6, day, month, year, 0x26, mode,
        ]
    }

    /// By `date -u -d ... +%s`.
    #[test]
    fn dates_are_what_the_host_says() {
        for (of, expected) in [
            ([0, 0, 0, 1, 1, 0, 6], 946_684_800),
            ([59, 59, 23, 29, 2, 24, 6], 1_709_251_199),
            ([0, 0, 0, 1, 3, 25, 6], 1_740_787_200),
            ([59, 59, 23, 31, 12, 99, 6], 4_102_444_799),
        ] {
            assert_eq!(date(&registers(of)), Some(expected), "{of:?}");
        }
    }

    #[test]
    fn digits_and_halves_of_days_are_understood() {
        let digits = [0x53, 0x28, 0x11, 0x29, 0x11, 0x26, 2];
        assert_eq!(date(&registers(digits)), Some(1_795_951_733));
        let hour = |hour: u8| {
            let at = date(&registers([0, 0, hour, 1, 1, 0x10, 0]))?;
            Some((at - 1_262_304_000) / 3600)
        };
        assert_eq!(
            [0x12, 0x01, 0x11, 0x92, 0x81, 0x91].map(hour),
            [0, 1, 11, 12, 13, 23].map(Some)
        );
        assert_eq!([0x00, 0x13, 0x80, 0x93].map(hour), [None; 4]);
    }

    #[test]
    fn what_is_no_date_is_none() {
        for of in [
            [60, 0, 0, 1, 1, 0, 6],
            [0, 60, 0, 1, 1, 0, 6],
            [0, 0, 24, 1, 1, 0, 6],
            [0, 0, 0, 0, 1, 0, 6],
            [0, 0, 0, 32, 1, 0, 6],
            [0, 0, 0, 1, 0, 0, 6],
            [0, 0, 0, 1, 13, 0, 6],
            [0, 0, 0, 1, 1, 100, 6],
            [0x0a, 0, 0, 1, 1, 0, 2],
        ] {
            assert_eq!(date(&registers(of)), None, "{of:?}");
        }
        let mut changing = registers([0, 0, 0, 1, 1, 0, 6]);
        changing[10] |= 0x80;
        assert_eq!(date(&changing), None, "an update");
        assert_eq!(date(&[0xff; 12]), None, "no clock is there");
    }
}
