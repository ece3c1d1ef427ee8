//! Reading little-endian fields out of a table, by offset, and never past its end.

use super::AcpiError;
use super::Table;

/// The bytes of one table or of a structure in it.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    table: Table,
    /// Offset of `bytes` in the table, for messages.
    at: usize,
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    /// A whole table.
    pub fn new(table: Table, bytes: &'a [u8]) -> Self {
        Self {
            table,
            at: 0,
            bytes,
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Offset in the table.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// The error for something at `offset` of this structure.
    pub fn bad(&self, offset: usize) -> AcpiError {
        AcpiError::Malformed(self.table, self.at.saturating_add(offset))
    }

    /// The number in `len` bytes.
    #[inline(never)]
    fn number(&self, offset: usize, len: usize) -> Result<u64, AcpiError> {
        let bytes = self.bytes.get(offset..).and_then(|rest| rest.get(..len));
        let bytes = bytes.ok_or(self.bad(offset))?;
        let add = |number, byte: &u8| number << 8 | u64::from(*byte);
        Ok(bytes.iter().rev().fold(0, add))
    }

    /// A byte.
    pub fn u8(&self, offset: usize) -> Result<u8, AcpiError> {
        self.number(offset, 1).map(|number| number as u8)
    }

    /// A 16-bit field.
    pub fn u16(&self, offset: usize) -> Result<u16, AcpiError> {
        self.number(offset, 2).map(|number| number as u16)
    }

    /// A 32-bit field.
    pub fn u32(&self, offset: usize) -> Result<u32, AcpiError> {
        self.number(offset, 4).map(|number| number as u32)
    }

    /// A 64-bit field.
    pub fn u64(&self, offset: usize) -> Result<u64, AcpiError> {
        self.number(offset, 8)
    }

    /// Text, without the blanks and zeros that fill it up.
    pub fn text(&self, offset: usize, len: usize) -> &'a str {
        let bytes = self.bytes.get(offset..offset + len).unwrap_or_default();
        let text = core::str::from_utf8(bytes).unwrap_or_default();
        text.trim_end_matches(['\0', ' '])
    }

    /// The structure of `len` bytes at `offset`.
    pub fn part(&self, offset: usize, len: usize) -> Result<Self, AcpiError> {
        let end = offset.checked_add(len).ok_or(self.bad(offset))?;
        Ok(Self {
            table: self.table,
            at: self.at + offset,
            bytes: self.bytes.get(offset..end).ok_or(self.bad(offset))?,
        })
    }
}
