//! What can be wrong with virtual functions.

use super::super::Function;
use super::super::bar::BarFault;
use core::fmt;

/// Why a function has none of the VFs that it should have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SriovFault {
    /// It has no such capability, or is no endpoint with one.
    Absent,
    /// It has only so many.
    TooFew(u16),
    /// InitialVFs and TotalVFs differ, which only migration between roots allows.
    Counts(u16, u16),
    /// It cannot keep VFs apart by pages of 4 KiB, which every function must be able to; what it says it can.
    PageSize(u32),
    /// A number that was written to it reads back as another one.
    Stuck(u16),
    /// First VF Offset is zero: the first VF would be the PF.
    NoOffset,
    /// VF Stride is zero: all VFs would be one.
    NoStride,
    /// A routing ID past 16 bits.
    PastEnd,
    /// A VF on this bus, which is another's or not behind the same port.
    Bus(u8),
    /// A VF where another function is.
    Taken(Function),
    /// A malformed BAR, by register index.
    Bar(u8, BarFault),
    /// A BAR that is not memory, or smaller than a page.
    NotPages(u8),
    /// This VF did not come.
    NotReady(Function),
    /// After a reset its VFs would be elsewhere.
    Moved,
}

impl fmt::Display for SriovFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("it has no SR-IOV capability"),
            Self::TooFew(total) => write!(f, "it can have {total} VFs"),
            Self::Counts(initial, total) => write!(f, "InitialVFs {initial}, TotalVFs {total}"),
            Self::PageSize(sizes) => write!(f, "page sizes {sizes:#x}, without 4 KiB"),
            Self::Stuck(number) => write!(f, "NumVFs reads {number}"),
            Self::NoOffset => f.write_str("First VF Offset is 0"),
            Self::NoStride => f.write_str("VF Stride is 0"),
            Self::PastEnd => f.write_str("a routing ID past 16 bits"),
            Self::Bus(bus) => write!(f, "a VF would be on bus {bus:02x}"),
            Self::Taken(at) => write!(f, "a VF would be {at}, which is there"),
            Self::Bar(index, fault) => write!(f, "VF BAR {index}: {fault}"),
            Self::NotPages(index) => write!(f, "VF BAR {index} is not memory of whole pages"),
            Self::NotReady(at) => write!(f, "{at} does not come"),
            Self::Moved => f.write_str("First VF Offset or VF Stride has changed"),
        }
    }
}
