//! Ticks of a counter and nanoseconds, in 64 bits: seconds and the rest apart.

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// Nanoseconds in so many ticks, rounded down, at most what 64 bits hold; `hertz` is not 0, and less than 18 GHz.
pub fn ns(ticks: u64, hertz: impl Into<u64>) -> u64 {
    let hertz = hertz.into();
    let rest = ticks % hertz * SECOND / hertz;
    (ticks / hertz).saturating_mul(SECOND).saturating_add(rest)
}

/// Ticks in so many nanoseconds, rounded up, at most what 64 bits hold.
pub fn ticks(ns: u64, hertz: impl Into<u64>) -> u64 {
    let hertz = hertz.into();
    let rest = (ns % SECOND * hertz).div_ceil(SECOND);
    (ns / SECOND).saturating_mul(hertz).saturating_add(rest)
}

#[cfg(test)]
mod tests {
    use super::{SECOND, ns, ticks};

    #[test]
    fn both_ways_are_what_128_bits_give() {
        let numbers = [
            0,
            1,
            999,
            SECOND - 1,
            SECOND,
            1 << 40,
            u64::MAX / 3,
            u64::MAX,
        ];
        let rates: [u64; 6] = [
            1,
            32_768,
            24_000_000,
            1_000_000_000,
            6_000_000_000,
            18_000_000_000,
        ];
        for hertz in rates {
            for number in numbers {
                let (wide, rate) = (u128::from(number), u128::from(hertz));
                let second = u128::from(SECOND);
                let least = |wide| u64::try_from(wide).unwrap_or(u64::MAX);
                assert_eq!(ns(number, hertz), least(wide * second / rate));
                assert_eq!(ticks(number, hertz), least((wide * rate).div_ceil(second)));
            }
        }
    }
}
