//! Names of functions: bus, device and function number, with and without the segment.

use core::fmt;
use core::str::FromStr;

/// Bus, device and function number; the same 16 bits are the requester ID (PCIe §2.2.6.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bdf(u16);

impl Bdf {
    /// `None` if `device` is past 31 or `function` past 7.
    pub const fn new(bus: u8, device: u8, function: u8) -> Option<Self> {
        if device < 32 && function < 8 {
            Some(Self(
                (bus as u16) << 8 | (device as u16) << 3 | function as u16,
            ))
        } else {
            None
        }
    }

    /// The function that has this requester ID.
    pub const fn from_requester_id(id: u16) -> Self {
        Self(id)
    }

    /// The 16-bit requester ID.
    pub const fn requester_id(self) -> u16 {
        self.0
    }

    /// Bus number.
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Device number, 0..32.
    pub const fn device(self) -> u8 {
        (self.0 >> 3) as u8 & 0x1f
    }

    /// Function number, 0..8.
    pub const fn function(self) -> u8 {
        self.0 as u8 & 7
    }

    /// Offset of the function's 4 KiB in an ECAM window whose first bus is `first_bus` (PCIe §7.2.2), if it lies
    /// at or after that bus.
    pub const fn ecam_offset(self, first_bus: u8) -> Option<u32> {
        match self.bus().checked_sub(first_bus) {
            Some(bus) => Some((bus as u32) << 20 | (self.0 as u32 & 0xff) << 12),
            None => None,
        }
    }
}

/// A function of the machine: segment (host bridge domain) and [`Bdf`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Function {
    /// PCI segment.
    pub segment: u16,
    /// Bus, device, function.
    pub bdf: Bdf,
}

/// Text that is not `bb:dd.f` or `ssss:bb:dd.f` in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAnAddress;

impl FromStr for Bdf {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let (bus, rest) = text.split_once(':').ok_or(NotAnAddress)?;
        let (device, function) = rest.split_once('.').ok_or(NotAnAddress)?;
        Self::new(
            hex(bus, 2)? as u8,
            hex(device, 2)? as u8,
            hex(function, 1)? as u8,
        )
        .ok_or(NotAnAddress)
    }
}

impl FromStr for Function {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let (segment, bdf) = match text.split_once(':') {
            Some((segment, rest)) if rest.contains(':') => (hex(segment, 4)?, rest),
            _ => (0, text),
        };
        Ok(Self {
            segment,
            bdf: bdf.parse()?,
        })
    }
}

fn hex(text: &str, digits: usize) -> Result<u16, NotAnAddress> {
    // `from_str_radix` alone would take a sign.
    if text.len() != digits || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(NotAnAddress);
    }
    u16::from_str_radix(text, 16).map_err(|_| NotAnAddress)
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:02x}:{:02x}.{}",
            self.bus(),
            self.device(),
            self.function()
        )
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{}", self.segment, self.bdf)
    }
}

impl fmt::Debug for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for NotAnAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a PCI address: expected `bb:dd.f` or `ssss:bb:dd.f` in hexadecimal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn both_forms_are_read_and_printed() {
        let short: Function = "00:02.0".parse().unwrap();
        assert_eq!(short.to_string(), "0000:00:02.0");
        let long: Function = "0001:81:1f.7".parse().unwrap();
        assert_eq!((long.segment, long.bdf.requester_id()), (1, 0x81ff));
        assert_eq!(long.bdf.to_string(), "81:1f.7");
        assert_eq!(long.bdf.ecam_offset(0x80), Some(0x1f_f000));
        assert_eq!(long.bdf.ecam_offset(0x82), None);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            ":",
            "0:2.0",
            "00:20.0",
            "00:02.8",
            "00:02",
            "+0:02.0",
            "00:02.0 ",
            "00000:00:02.0",
            "0000:00:02.0.0",
            "00:é.0",
            "a:b:c.d",
        ] {
            assert_eq!(text.parse::<Function>(), Err(NotAnAddress), "{text}");
        }
    }
}
