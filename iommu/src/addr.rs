//! Addresses, one type for each space, so that they cannot be mixed up.

use core::fmt;

/// The smallest page of every format here, in bytes.
pub const PAGE_SIZE: u64 = 4096;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// This address plus `bytes`, or `None` past the end of the space.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// Whether the address is a multiple of `align`, a power of two.
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & (align - 1) == 0
            }

            /// The address rounded down to a multiple of `align`, a power of two.
            pub const fn align_down(self, align: u64) -> Self {
                Self(self.0 & !(align - 1))
            }
        }

        impl core::ops::Add<u64> for $name {
            type Output = Self;
            fn add(self, bytes: u64) -> Self {
                Self(self.0 + bytes)
            }
        }

        impl core::ops::Sub for $name {
            type Output = u64;
            fn sub(self, other: Self) -> u64 {
                self.0 - other.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address!(
    /// Host physical address.
    Hpa
);
address!(
    /// Guest physical address (intermediate physical address).
    Gpa
);
address!(
    /// The address a device puts on the bus.
    Iova
);

/// A half-open range `[base, base + len)` in one space; never wraps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span<A> {
    /// First address.
    pub base: A,
    /// Length in bytes.
    pub len: u64,
}

/// A space that a stage 2 table translates from: one table can serve the CPU (input [`Gpa`]) and devices ([`Iova`]).
pub trait Input: Copy {
    /// The bare address.
    fn raw(self) -> u64;
    /// The range of `len` bytes from `base` on, which does not wrap.
    fn span(base: u64, len: u64) -> Span<Self>;
}

macro_rules! input {
    ($name:ident) => {
        impl Input for $name {
            fn raw(self) -> u64 {
                self.0
            }
            fn span(base: u64, len: u64) -> Span<Self> {
                Span {
                    base: Self(base),
                    len,
                }
            }
        }
    };
}

input!(Gpa);
input!(Iova);

macro_rules! span {
    ($name:ident) => {
        impl Span<$name> {
            /// A range, or `None` if its end is past 2^64 - 1.
            pub const fn new(base: $name, len: u64) -> Option<Self> {
                match base.0.checked_add(len) {
                    Some(_) => Some(Self { base, len }),
                    None => None,
                }
            }

            /// One past the last address.
            pub const fn end(&self) -> $name {
                $name(self.base.0 + self.len)
            }

            /// Whether `address` lies inside.
            pub const fn contains(&self, address: $name) -> bool {
                self.base.0 <= address.0 && address.0 < self.base.0 + self.len
            }

            /// Whether all of `other` lies inside.
            pub const fn covers(&self, other: &Self) -> bool {
                self.base.0 <= other.base.0 && other.base.0 + other.len <= self.base.0 + self.len
            }

            /// Whether the two ranges share an address.
            pub const fn overlaps(&self, other: &Self) -> bool {
                self.base.0 < other.base.0 + other.len && other.base.0 < self.base.0 + self.len
            }
        }
    };
}

span!(Hpa);
span!(Gpa);
span!(Iova);
