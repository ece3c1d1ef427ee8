//! What a PVH loader says: `hvm_start_info` (Xen's xen/include/public/arch-x86/hvm/start_info.h), version 1.

use super::{Handover, LoaderError, MAPPED, MOST, bytes, u32_at, u64_at};

const MAGIC: u32 = 0x336e_c578;
/// Bytes of version 1.
const LEN: usize = 56;
/// Bytes of an entry of the memory map.
const ENTRY: usize = 24;

/// Reads what is at `at`.
///
/// # Safety
/// As for [`Handover::read`].
pub unsafe fn read(at: u64) -> Result<Handover, LoaderError> {
    // SAFETY: the caller's promise.
    let header = unsafe { bytes(at, LEN) }.ok_or(LoaderError::Magic)?;
    let (rsdp, map, entries) = parse(header)?;
    // SAFETY: as above.
    let map = unsafe { bytes(map, entries * ENTRY) }.ok_or(LoaderError::Map)?;
    Ok(Handover {
        rsdp,
        map,
        entry: ENTRY,
    })
}

/// The root pointer, where the memory map is, and how many entries it has.
fn parse(header: &[u8]) -> Result<(u64, u64, usize), LoaderError> {
    if u32_at(header, 0) != MAGIC {
        return Err(LoaderError::Magic);
    }
    let version = u32_at(header, 4);
    if version < 1 {
        return Err(LoaderError::Version(version));
    }
    let rsdp = u64_at(header, 32);
    if rsdp == 0 || rsdp >= MAPPED {
        return Err(LoaderError::RootPointer);
    }
    match u32_at(header, 48) as usize {
        entries @ 1..=MOST => Ok((rsdp, u64_at(header, 40), entries)),
        _ => Err(LoaderError::Map),
    }
}

#[cfg(test)]
mod tests {
    use super::{LoaderError, parse};

    /// As QEMU hands it over.
    fn words() -> [u64; 7] {
        [0x1_336e_c578, 0x1_0000_0000, 0x9000, 0, 0xf_5240, 0x8000, 9]
    }

    fn bytes(words: [u64; 7]) -> Vec<u8> {
        words.map(u64::to_le_bytes).concat()
    }

    #[test]
    fn a_header_says_where_tables_and_map_are() {
        assert_eq!(parse(&bytes(words())), Ok((0xf_5240, 0x8000, 9)));
        let broken = |index: usize, value: u64| {
            let mut words = words();
            words[index] = value;
            parse(&bytes(words)).unwrap_err()
        };
        assert_eq!(broken(0, 0x1_336e_c579), LoaderError::Magic);
        assert_eq!(broken(0, 0x336e_c578), LoaderError::Version(0));
        assert_eq!(broken(4, 0), LoaderError::RootPointer);
        assert_eq!(broken(4, 1 << 32), LoaderError::RootPointer);
        assert_eq!(broken(6, 0), LoaderError::Map);
        assert_eq!(broken(6, 513), LoaderError::Map);
        assert_eq!(parse(&[]), Err(LoaderError::Magic));
    }
}
