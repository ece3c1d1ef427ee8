//! Values that people write as text: sizes, PCI addresses, device tree paths.

use alloc::string::String;
use core::fmt;
use core::str::FromStr;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

/// A number of bytes, or an address. Written as an integer, or as text with a suffix: `"512M"` (K, M, G, T: powers of
/// 1024), `"0x8000_0000"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Bytes(pub u64);

/// A PCI function: `BB:DD.F` or `SSSS:BB:DD.F`, hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PciAddress {
    /// PCI segment (domain).
    pub segment: u16,
    /// Bus number.
    pub bus: u8,
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

/// A device as the machine knows it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DeviceAddress {
    /// A PCI function.
    Pci(PciAddress),
    /// A node of the device tree, by its full path.
    Path(String),
}

/// Why a text is no such value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TextError {
    /// No number where one is needed.
    NotANumber,
    /// A suffix other than K, M, G, T.
    Suffix(char),
    /// Past 2^64 - 1.
    TooLarge,
    /// Not of the form `BB:DD.F` or `SSSS:BB:DD.F`.
    NotAnAddress,
    /// A device number above 0x1f.
    Device(u16),
    /// A function number above 7.
    Function(u16),
}

impl Bytes {
    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for Bytes {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let (digits, radix) = match text.strip_prefix("0x") {
            Some(digits) => (digits, 16),
            None => (text, 10),
        };
        let (digits, shift) = match digits.chars().last() {
            Some(last) if radix == 10 && !last.is_ascii_digit() => {
                let shift = match last {
                    'K' => 10,
                    'M' => 20,
                    'G' => 30,
                    'T' => 40,
                    other => return Err(TextError::Suffix(other)),
                };
                (&digits[..digits.len() - 1], shift)
            }
            _ => (digits, 0),
        };
        let mut number: u64 = 0;
        let mut any = false;
        for digit in digits.chars().filter(|&c| c != '_') {
            let digit = digit.to_digit(radix).ok_or(TextError::NotANumber)?;
            number = number
                .checked_mul(radix.into())
                .and_then(|n| n.checked_add(digit.into()))
                .ok_or(TextError::TooLarge)?;
            any = true;
        }
        if !any {
            return Err(TextError::NotANumber);
        }
        number
            .checked_mul(1 << shift)
            .map(Self)
            .ok_or(TextError::TooLarge)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{} {unit}", self.0 >> shift);
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

impl PciAddress {
    /// A function of segment 0; `device` and `function` are cut to their 5 and 3 bits.
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        Self {
            segment: 0,
            bus,
            device: device & 0x1f,
            function: function & 7,
        }
    }

    /// Requester ID: bus, device and function in 16 bits (PCIe 2.2.4.2).
    pub const fn requester_id(self) -> u16 {
        (self.bus as u16) << 8 | (self.device as u16 & 0x1f) << 3 | self.function as u16 & 7
    }

    /// The function with this requester ID.
    pub const fn from_requester_id(segment: u16, id: u16) -> Self {
        Self {
            segment,
            bus: (id >> 8) as u8,
            device: (id >> 3) as u8 & 0x1f,
            function: id as u8 & 7,
        }
    }
}

impl FromStr for PciAddress {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let (bus, rest) = text.rsplit_once(':').ok_or(TextError::NotAnAddress)?;
        let (segment, bus) = bus.split_once(':').unwrap_or(("0", bus));
        let (device, function) = rest.split_once('.').ok_or(TextError::NotAnAddress)?;
        let device = hex(device, 2)?;
        let function = hex(function, 2)?;
        let segment = hex(segment, 4)?;
        let bus = hex(bus, 2)?;
        if device > 0x1f {
            return Err(TextError::Device(device));
        }
        if function > 7 {
            return Err(TextError::Function(function));
        }
        Ok(Self {
            segment,
            ..Self::new(bus as u8, device as u8, function as u8)
        })
    }
}

/// A hexadecimal number of one to `digits` digits, at most four.
fn hex(text: &str, digits: usize) -> Result<u16, TextError> {
    if text.is_empty() || text.len() > digits || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(TextError::NotAnAddress);
    }
    u16::from_str_radix(text, 16).map_err(|_| TextError::NotAnAddress)
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.segment != 0 {
            write!(f, "{:04x}:", self.segment)?;
        }
        write!(
            f,
            "{:02x}:{:02x}.{:x}",
            self.bus, self.device, self.function
        )
    }
}

impl FromStr for DeviceAddress {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        if text.starts_with('/') {
            Ok(Self::Path(text.into()))
        } else {
            text.parse().map(Self::Pci)
        }
    }
}

impl fmt::Display for DeviceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(address) => address.fmt(f),
            Self::Path(path) => path.fmt(f),
        }
    }
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotANumber => f.write_str("not a number of bytes"),
            Self::Suffix(c) => write!(f, "unknown suffix `{c}`, expected K, M, G or T"),
            Self::TooLarge => f.write_str("number does not fit 64 bits"),
            Self::NotAnAddress => {
                f.write_str("not a PCI address of the form BB:DD.F or SSSS:BB:DD.F")
            }
            Self::Device(n) => write!(f, "PCI device number {n:#x} is above 0x1f"),
            Self::Function(n) => write!(f, "PCI function number {n} is above 7"),
        }
    }
}

struct BytesVisitor;

impl Visitor<'_> for BytesVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of bytes, such as 4096 or \"512M\"")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Bytes, E> {
        Ok(Bytes(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Bytes, E> {
        u64::try_from(value)
            .map(Bytes)
            .map_err(|_| E::custom("a number of bytes cannot be negative"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Bytes, E> {
        value.parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BytesVisitor)
    }
}

/// Text that is parsed as a `T`.
struct TextVisitor<T>(core::marker::PhantomData<T>, &'static str);

impl<T: FromStr<Err = TextError>> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<T, E> {
        value.parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for PciAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a PCI address, such as \"00:02.0\"";
        deserializer.deserialize_str(TextVisitor(core::marker::PhantomData, expected))
    }
}

impl<'de> Deserialize<'de> for DeviceAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a PCI address, such as \"00:02.0\", or a device tree path";
        deserializer.deserialize_str(TextVisitor(core::marker::PhantomData, expected))
    }
}
