//! Registers and commands of an ITS (IHI 0069, §5.3 and §12.18). Definitions only.

/// `CTLR`: commands and translations are on.
pub const CTLR_ENABLED: u32 = 1 << 0;
/// `CTLR`: off, and nothing is under way.
pub const CTLR_QUIESCENT: u32 = 1 << 31;

/// Offsets from the control frame (§12.18).
pub mod offset {
    /// Control.
    pub const CTLR: u64 = 0x0000;
    /// Implementer.
    pub const IIDR: u64 = 0x0004;
    /// Type, 64 bits.
    pub const TYPER: u64 = 0x0008;
    /// MPAM, `MPIDR`: not there.
    pub const MPAM: u64 = 0x0010;
    /// Error report.
    pub const STATUSR: u64 = 0x0040;
    /// Unmapped MSIs: not there.
    pub const UMSIR: u64 = 0x0048;
    /// Command queue, 64 bits.
    pub const CBASER: u64 = 0x0080;
    /// Where software writes, 64 bits.
    pub const CWRITER: u64 = 0x0088;
    /// Where we read, 64 bits.
    pub const CREADR: u64 = 0x0090;
    /// Eight table registers, 64 bits each.
    pub const BASER: u64 = 0x0100;
    /// Identification registers, up to the end of the frame.
    pub const ID: u64 = 0xffd0;
    /// Architecture revision.
    pub const PIDR2: u64 = 0xffe8;
}

/// EventIDs and DeviceIDs are 16 bits wide.
pub const ID_BITS: u32 = 16;
/// Collections are 6 bits wide: no more than there can be vCPUs.
pub const COLLECTION_BITS: u32 = 6;
/// How many collections there are.
pub const COLLECTIONS: usize = 1 << COLLECTION_BITS;
/// Bytes a table entry would have: ITT, device and collection table. We keep all of it ourselves.
pub const ENTRY_BYTES: u64 = 8;

/// `TYPER`: physical LPIs, `PTA` = 0 (CPUs by number), commands that fail are ignored, collection ID width given.
pub const TYPER: u64 = 1
    | (ENTRY_BYTES - 1) << 4
    | (ID_BITS as u64 - 1) << 8
    | (ID_BITS as u64 - 1) << 13
    | (COLLECTION_BITS as u64 - 1) << 32
    | 1 << 36;

/// `CBASER` and `BASER<n>`: the rest of it counts.
pub const VALID: u64 = 1 << 63;
/// `CBASER`: everything that is stored.
pub const CBASER_MASK: u64 = 0xb8ef_ffff_ffff_fcff;
/// `CBASER`: where the queue is.
pub const CBASER_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// `CWRITER`, `CREADR`: the offset, a multiple of a command.
pub const QUEUE_OFFSET: u64 = 0xf_ffe0;
/// `CWRITER`: go on after a stall. `CREADR`: stalled.
pub const QUEUE_STALL: u64 = 1;

/// `BASER<n>`: everything that is stored; type and entry size are ours.
pub const BASER_MASK: u64 = 0xf8e0_ffff_ffff_ffff;
/// `BASER<n>`: the first level points to pages of entries.
pub const BASER_INDIRECT: u64 = 1 << 62;
/// `BASER0`: devices, entries of 8 bytes.
pub const BASER_DEVICES: u64 = 1 << 56 | (ENTRY_BYTES - 1) << 48;
/// `BASER1`: collections, entries of 8 bytes.
pub const BASER_COLLECTIONS: u64 = 4 << 56 | (ENTRY_BYTES - 1) << 48;

/// Identities that the table behind a `BASER<n>` has room for.
pub const fn table_entries(baser: u64) -> u64 {
    if baser & VALID == 0 {
        return 0;
    }
    let page = match baser >> 8 & 3 {
        0 => 0x1000,
        1 => 0x4000,
        _ => 0x1_0000,
    };
    let first_level = ((baser & 0xff) + 1) * page / ENTRY_BYTES;
    if baser & BASER_INDIRECT != 0 {
        first_level * (page / ENTRY_BYTES)
    } else {
        first_level
    }
}

/// Size of one command.
pub const COMMAND_BYTES: u64 = 32;

/// One command (§5.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// `MOVI`: the event goes to another collection.
    Move {
        /// DeviceID.
        device: u32,
        /// EventID.
        event: u32,
        /// ICID.
        collection: u16,
    },
    /// `INT`: as if the device had signalled.
    Trigger {
        /// DeviceID.
        device: u32,
        /// EventID.
        event: u32,
    },
    /// `CLEAR`: no longer pending.
    Clear {
        /// DeviceID.
        device: u32,
        /// EventID.
        event: u32,
    },
    /// `DISCARD`: unmaps the event.
    Discard {
        /// DeviceID.
        device: u32,
        /// EventID.
        event: u32,
    },
    /// `INV`: reads the property again.
    Invalidate {
        /// DeviceID.
        device: u32,
        /// EventID.
        event: u32,
    },
    /// `INVALL`: reads all properties of a collection again.
    InvalidateAll {
        /// ICID.
        collection: u16,
    },
    /// `SYNC`: what went before is complete; it always is.
    Sync,
    /// `MAPD`: maps or unmaps a device.
    MapDevice {
        /// DeviceID.
        device: u32,
        /// Width of its EventIDs, 1 to 32.
        event_bits: u32,
        /// Maps.
        valid: bool,
    },
    /// `MAPC`: maps a collection to a CPU, or unmaps it.
    MapCollection {
        /// ICID.
        collection: u16,
        /// Number of the CPU.
        cpu: u64,
        /// Maps.
        valid: bool,
    },
    /// `MAPTI` and `MAPI`: maps an event to an LPI.
    MapEvent {
        /// DeviceID.
        device: u32,
        /// EventID.
        event: u32,
        /// INTID.
        lpi: u32,
        /// ICID.
        collection: u16,
    },
    /// `MOVALL`: all that is pending goes to another CPU.
    MoveAll {
        /// Number of the CPU.
        from: u64,
        /// Number of the CPU.
        to: u64,
    },
}

impl Command {
    /// What the four words say, or the opcode that means nothing to us.
    pub const fn decode(words: [u64; 4]) -> Result<Self, u8> {
        let device = (words[0] >> 32) as u32;
        let event = words[1] as u32;
        let collection = words[2] as u16;
        let valid = words[2] >> 63 != 0;
        Ok(match words[0] as u8 {
            0x01 => Self::Move {
                device,
                event,
                collection,
            },
            0x03 => Self::Trigger { device, event },
            0x04 => Self::Clear { device, event },
            0x05 => Self::Sync,
            0x08 => Self::MapDevice {
                device,
                event_bits: (words[1] & 0x1f) as u32 + 1,
                valid,
            },
            0x09 => Self::MapCollection {
                collection,
                cpu: cpu(words[2]),
                valid,
            },
            0x0a => Self::MapEvent {
                device,
                event,
                lpi: (words[1] >> 32) as u32,
                collection,
            },
            0x0b => Self::MapEvent {
                device,
                event,
                lpi: event,
                collection,
            },
            0x0c => Self::Invalidate { device, event },
            0x0d => Self::InvalidateAll { collection },
            0x0e => Self::MoveAll {
                from: cpu(words[2]),
                to: cpu(words[3]),
            },
            0x0f => Self::Discard { device, event },
            opcode => return Err(opcode),
        })
    }
}

/// `RDbase` with `PTA` = 0: bits \[50:16\] are the CPU's number.
const fn cpu(word: u64) -> u64 {
    word >> 16 & 0x7_ffff_ffff
}
