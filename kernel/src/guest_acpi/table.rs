//! A table, field after field, and what stands before each (ACPI 6.5, §5.2.6).

use alloc::vec::Vec;

/// Length of the header.
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub const HEADER: usize = 36;
const LENGTH: usize = 4;
const CHECKSUM: usize = 9;

/// Who made the tables: OEM ID and OEM table ID, whose meaning is up to them.
pub const OEM_ID: &[u8; 6] = b"SLUICE";
const OEM_TABLE_ID: &[u8; 8] = b"PARTITIO";
const CREATOR_ID: &[u8; 4] = b"SLUI";

/// Little-endian fields, one behind the other.
#[derive(Default)]
pub struct Fields(pub Vec<u8>);

impl Fields {
    // Called for each field: inlined, they are most of the code of all tables.
    /// Bytes as they stand.
    #[inline(never)]
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Zeros.
    #[inline(never)]
    pub fn zeros(&mut self, count: usize) -> &mut Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    #[inline(never)]
    fn low(&mut self, value: u64, bytes: usize) -> &mut Self {
        self.bytes(&value.to_le_bytes()[..bytes])
    }

    /// 8 bits.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.low(value.into(), 1)
    }

    /// 16 bits.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.low(value.into(), 2)
    }

    /// 32 bits.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.low(value.into(), 4)
    }

    /// 64 bits.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.low(value, 8)
    }

    /// A table of this `revision`, up to the end of its header.
    pub fn table(signature: &[u8; 4], revision: u8) -> Self {
        let mut table = Self::default();
        table
            .bytes(signature)
            .u32(0)
            .u8(revision)
            .u8(0)
            .bytes(OEM_ID)
            .bytes(OEM_TABLE_ID)
            .u32(1)
            .bytes(CREATOR_ID)
            .u32(1);
        table
    }

    /// The table, with its length and its checksum.
    pub fn finish(mut self) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[LENGTH..LENGTH + 4].copy_from_slice(&len.to_le_bytes());
        self.0[CHECKSUM] = checksum(&self.0);
        self.0
    }
}

/// What makes the sum of all `bytes` zero, where it is zero itself yet.
pub fn checksum(bytes: &[u8]) -> u8 {
    let sum = bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    sum.wrapping_neg()
}
