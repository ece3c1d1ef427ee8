//! ITS register map and commands: definitions only, from IHI 0069, 12.18 and 12.19 (registers) and 5.3 (commands).

use tock_registers::fields::FieldValue;
use tock_registers::register_bitfields;

/// GITS_CTLR.
pub const GITS_CTLR: usize = 0x0000;
/// GITS_TYPER, 64 bits.
pub const GITS_TYPER: usize = 0x0008;
/// GITS_CBASER, 64 bits.
pub const GITS_CBASER: usize = 0x0080;
/// GITS_CWRITER, 64 bits.
pub const GITS_CWRITER: usize = 0x0088;
/// GITS_CREADR, 64 bits.
pub const GITS_CREADR: usize = 0x0090;
/// GITS_BASER0, 64 bits each.
pub const GITS_BASER: usize = 0x0100;
/// How many `GITS_BASER<n>` there are.
pub const GITS_BASER_COUNT: usize = 8;
/// From the ITS's base to the page that devices write to; GITS_TRANSLATER is at 0x40 in it.
pub const TRANSLATION_PAGE: u64 = 0x1_0000;
/// Bytes of both register frames.
pub const GITS_LEN: u64 = 0x2_0000;

register_bitfields![u32,
    /// GITS_CTLR.
    pub Control [
        /// Commands and translations are processed.
        Enabled OFFSET(0) NUMBITS(1) [],
        /// It is off and nothing is under way.
        Quiescent OFFSET(31) NUMBITS(1) []
    ]
];

register_bitfields![u64,
    /// GITS_TYPER.
    pub Type [
        /// Physical LPIs.
        Physical OFFSET(0) NUMBITS(1) [],
        /// Bytes of an ITT entry, less one.
        IttEntrySize OFFSET(4) NUMBITS(4) [],
        /// Bits of an EventID, less one.
        IdBits OFFSET(8) NUMBITS(5) [],
        /// Bits of a DeviceID, less one.
        Devbits OFFSET(13) NUMBITS(5) [],
        /// An SError tells of errors.
        Seis OFFSET(18) NUMBITS(1) [],
        /// Targets are physical addresses, else processor numbers.
        Pta OFFSET(19) NUMBITS(1) [],
        /// Collections that need no memory.
        Hcc OFFSET(24) NUMBITS(8) [],
        /// With Cil: bits of a collection's number, less one.
        Cidbits OFFSET(32) NUMBITS(4) [],
        /// Fewer than 16 bits of a collection's number.
        Cil OFFSET(36) NUMBITS(1) []
    ],
    /// GITS_CBASER.
    pub Cbaser [
        /// 4 KiB pages, less one.
        Size OFFSET(0) NUMBITS(8) [],
        /// 0 Non-shareable, 1 Inner Shareable.
        Shareability OFFSET(10) NUMBITS(2) [],
        /// Bits [51:12]; [15:12] must be 0.
        Address OFFSET(12) NUMBITS(40) [],
        /// As in GICR_PROPBASER.
        InnerCache OFFSET(59) NUMBITS(3) [],
        /// The queue is there.
        Valid OFFSET(63) NUMBITS(1) []
    ],
    /// GITS_CWRITER.
    pub Cwriter [
        /// Go on after a stall.
        Retry OFFSET(0) NUMBITS(1) [],
        /// Bits [19:5]: the command after the last one.
        Offset OFFSET(5) NUMBITS(15) []
    ],
    /// GITS_CREADR.
    pub Creadr [
        /// An error in the command at Offset.
        Stalled OFFSET(0) NUMBITS(1) [],
        /// Bits [19:5]: the command that is next.
        Offset OFFSET(5) NUMBITS(15) []
    ],
    /// GITS_BASER<n>.
    pub Baser [
        /// Pages, less one.
        Size OFFSET(0) NUMBITS(8) [],
        /// 0 is 4 KiB, 1 is 16 KiB, 2 is 64 KiB.
        PageSize OFFSET(8) NUMBITS(2) [],
        /// 0 Non-shareable, 1 Inner Shareable.
        Shareability OFFSET(10) NUMBITS(2) [],
        /// Bits [47:12]; with 64 KiB pages, [15:12] are bits [51:48].
        Address OFFSET(12) NUMBITS(36) [],
        /// Bytes of an entry, less one.
        EntrySize OFFSET(48) NUMBITS(5) [],
        /// What the table holds.
        Type OFFSET(56) NUMBITS(3) [
            /// Not implemented.
            None = 0,
            /// Devices.
            Devices = 1,
            /// Virtual processors.
            Vpes = 2,
            /// Collections.
            Collections = 4
        ],
        /// As in GICR_PROPBASER.
        InnerCache OFFSET(59) NUMBITS(3) [],
        /// Two levels: a page of pointers to pages.
        Indirect OFFSET(62) NUMBITS(1) [],
        /// The table is there.
        Valid OFFSET(63) NUMBITS(1) []
    ],
    /// The first doubleword of every command.
    pub Command0 [
        /// Which command.
        Opcode OFFSET(0) NUMBITS(8) [],
        /// The device, of those that have one.
        DeviceId OFFSET(32) NUMBITS(32) []
    ],
    /// The second doubleword.
    pub Command1 [
        /// MAPD: bits of an EventID, less one.
        Size OFFSET(0) NUMBITS(5) [],
        /// The event, of the others.
        EventId OFFSET(0) NUMBITS(32) [],
        /// MAPTI: the LPI.
        PhysicalId OFFSET(32) NUMBITS(32) []
    ],
    /// The third doubleword.
    pub Command2 [
        /// The collection.
        CollectionId OFFSET(0) NUMBITS(16) [],
        /// MAPD: bits [51:8] of the translation table.
        IttAddress OFFSET(8) NUMBITS(44) [],
        /// MAPC, SYNC: the Redistributor, see [`Target`](super::Target).
        RdBase OFFSET(16) NUMBITS(36) [],
        /// MAPC, MAPD: mapped, else removed.
        Valid OFFSET(63) NUMBITS(1) []
    ]
];

/// Bit 63 of a first-level table entry: the page is there (5.2).
pub const LEVEL1_VALID: u64 = 1 << 63;

/// MOVI (5.3).
pub const MOVI: u64 = 0x01;
/// INT.
pub const INT: u64 = 0x03;
/// CLEAR.
pub const CLEAR: u64 = 0x04;
/// SYNC.
pub const SYNC: u64 = 0x05;
/// MAPD.
pub const MAPD: u64 = 0x08;
/// MAPC.
pub const MAPC: u64 = 0x09;
/// MAPTI.
pub const MAPTI: u64 = 0x0A;
/// INV.
pub const INV: u64 = 0x0C;
/// INVALL.
pub const INVALL: u64 = 0x0D;
/// DISCARD.
pub const DISCARD: u64 = 0x0F;

/// One command, four doublewords in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command(
    /// The words.
    pub [u64; 4],
);

impl Command {
    /// Bytes of a command.
    pub const LEN: usize = 32;

    /// `device` has events of `event_bits` bits, translated by the zeroed table at `itt` (256-byte aligned).
    pub fn mapd(device: u32, event_bits: u8, itt: u64) -> Self {
        let table = Command2::IttAddress.val(itt >> 8) + Command2::Valid::SET;
        Self([
            of_device(MAPD, device),
            Command1::Size.val(u64::from(event_bits) - 1).value,
            table.value,
            0,
        ])
    }

    /// `device` is not translated any more.
    pub fn mapd_remove(device: u32) -> Self {
        Self([of_device(MAPD, device), 0, 0, 0])
    }

    /// Collection `collection` is the Redistributor `rd_base`.
    pub fn mapc(collection: u16, rd_base: u64) -> Self {
        let target =
            in_collection(collection) + Command2::RdBase.val(rd_base) + Command2::Valid::SET;
        Self([MAPC, 0, target.value, 0])
    }

    /// `event` of `device` is the LPI `lpi`, in `collection`.
    pub fn mapti(device: u32, event: u32, lpi: u32, collection: u16) -> Self {
        let ids =
            Command1::EventId.val(u64::from(event)) + Command1::PhysicalId.val(u64::from(lpi));
        Self([
            of_device(MAPTI, device),
            ids.value,
            in_collection(collection).value,
            0,
        ])
    }

    /// `event` of `device` goes to `collection` from now on, pending or not.
    pub fn movi(device: u32, event: u32, collection: u16) -> Self {
        Self([
            of_device(MOVI, device),
            event.into(),
            in_collection(collection).value,
            0,
        ])
    }

    /// `event` of `device` is not translated any more, nor pending.
    pub fn discard(device: u32, event: u32) -> Self {
        Self([of_device(DISCARD, device), event.into(), 0, 0])
    }

    /// The configuration of the LPI of this event is read again.
    pub fn inv(device: u32, event: u32) -> Self {
        Self([of_device(INV, device), event.into(), 0, 0])
    }

    /// As [`inv`](Self::inv), of all LPIs of a collection.
    pub fn invall(collection: u16) -> Self {
        Self([INVALL, 0, in_collection(collection).value, 0])
    }

    /// As if `device` had written `event`.
    pub fn int(device: u32, event: u32) -> Self {
        Self([of_device(INT, device), event.into(), 0, 0])
    }

    /// The LPI of this event is not pending any more.
    pub fn clear(device: u32, event: u32) -> Self {
        Self([of_device(CLEAR, device), event.into(), 0, 0])
    }

    /// What came before for the Redistributor `rd_base` is done when this is.
    pub fn sync(rd_base: u64) -> Self {
        Self([SYNC, 0, Command2::RdBase.val(rd_base).value, 0])
    }
}

fn of_device(opcode: u64, device: u32) -> u64 {
    (Command0::Opcode.val(opcode) + Command0::DeviceId.val(device.into())).value
}

fn in_collection(collection: u16) -> FieldValue<u64, Command2::Register> {
    Command2::CollectionId.val(collection.into())
}
