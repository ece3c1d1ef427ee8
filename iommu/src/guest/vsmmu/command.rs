//! From two words of a guest's queue to what they ask for, or CERROR_ILL (IHI 0070, chapter 4).
//!
//! What goes on to the slice is built anew from the fields that there are: reserved bits do not count (§1.3), and none of
//! them gets as far as the hardware's queue. VMIDs do not count either: a guest without stage 2 has none.

use tock_registers::LocalRegisterCopy;

use crate::object::driver::{Answer, Entry};
use crate::smmuv3::Identity;
use crate::smmuv3::spec::command::{ATC_SIZE_ALL, CFGI_ALL_RANGE, CMD0, CMD1};
use crate::smmuv3::spec::registers::{IDR0_FIELDS, IDR1_FIELDS, IDR3_FIELDS};

/// How a CMD_SYNC says that it is complete (§4.7.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Signal {
    None,
    /// By a message, or by the wire where the address is 0.
    Interrupt {
        address: u64,
        data: u32,
    },
    /// By an event to waiting CPUs.
    Event,
}

/// One command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Command {
    /// A hint.
    Prefetch,
    /// The entries of these streams changed: first and last.
    Streams(u32, u32),
    /// A context of a stream changed, or all of them: for the slice.
    Contexts(u32, Entry),
    /// What translations are cached of: for the slice. Of one stream, or of all.
    Forget(Option<u32>, Entry),
    /// Answer to a group of page requests.
    PageResponse {
        stream: u32,
        group: u16,
        answer: Answer,
    },
    /// Answer to a stall.
    Resume {
        stream: u32,
        tag: u16,
        answer: Answer,
    },
    /// Every stall of a stream ends.
    EndStalls(u32),
    Sync(Signal),
}

/// CERROR_ILL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Illegal;

/// Which commands there are, by the guest's own ID registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Decoder {
    ats: bool,
    pri: bool,
    stalls: bool,
    messages: bool,
    wake: bool,
    ranges: bool,
    asid_bits: u32,
    substream_bits: u32,
    /// Fields of the TLBIs of stage 1 that there are: those of CMD_TLBI_NH_ALL, _ASID, _VA, _VAA.
    stage_one: [[u64; 2]; 4],
}

/// A command that nothing has to be looked at for but itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Plain {
    /// What translations of all streams are cached of: for the slice.
    Forget([u64; 2]),
    /// A CMD_SYNC that signals nothing.
    Sync,
}

/// SSec, in the commands that name a stream: not for this queue (§4.1.6).
const SECURE: u64 = 1 << 10;

/// NUM and SCALE.
const RANGE: u64 = mask0(CMD0::NUM) | mask0(CMD0::SCALE);
/// TTL and TG.
const RANGE_TAIL: u64 = mask(CMD1::TTL) | mask(CMD1::TG);

const fn mask0(field: tock_registers::fields::Field<u64, CMD0::Register>) -> u64 {
    field.mask << field.shift
}

const fn mask(field: tock_registers::fields::Field<u64, CMD1::Register>) -> u64 {
    field.mask << field.shift
}

fn field(value: u64, field: tock_registers::fields::Field<u64, CMD0::Register>) -> u64 {
    value & field.mask << field.shift
}

fn second_field(value: u64, field: tock_registers::fields::Field<u64, CMD1::Register>) -> u64 {
    value & field.mask << field.shift
}

impl Decoder {
    pub fn new(identity: &Identity) -> Self {
        let idr0 = LocalRegisterCopy::<u32, IDR0_FIELDS::Register>::new(identity.idr[0]);
        let idr1 = LocalRegisterCopy::<u32, IDR1_FIELDS::Register>::new(identity.idr[1]);
        let idr3 = LocalRegisterCopy::<u32, IDR3_FIELDS::Register>::new(identity.idr[3]);
        let ranges = idr3.is_set(IDR3_FIELDS::RIL);
        let asid_bits = if idr0.is_set(IDR0_FIELDS::ASID16) {
            16
        } else {
            8
        };
        let asid = ((1 << asid_bits) - 1) << CMD0::ASID.shift;
        let number = |opcode: CMD0::OPCODE::Value| opcode as u64;
        let entry = [
            RANGE * u64::from(ranges),
            mask(CMD1::VA) | mask(CMD1::LEAF) | (RANGE_TAIL * u64::from(ranges)),
        ];
        Self {
            stage_one: [
                [number(CMD0::OPCODE::Value::TlbiNhAll), 0],
                [number(CMD0::OPCODE::Value::TlbiNhAsid) | asid, 0],
                [
                    number(CMD0::OPCODE::Value::TlbiNhVa) | asid | entry[0],
                    entry[1],
                ],
                [number(CMD0::OPCODE::Value::TlbiNhVaa) | entry[0], entry[1]],
            ],
            ats: idr0.is_set(IDR0_FIELDS::ATS),
            pri: idr0.is_set(IDR0_FIELDS::PRI),
            stalls: !idr0.matches_all(IDR0_FIELDS::STALL_MODEL::Terminate),
            messages: idr0.is_set(IDR0_FIELDS::MSI),
            wake: idr0.is_set(IDR0_FIELDS::SEV),
            ranges,
            asid_bits,
            substream_bits: idr1.read(IDR1_FIELDS::SSIDSIZE),
        }
    }

    /// As [`decode`](Self::decode), of the commands that come in great numbers; `None` for all others, and for what may be
    /// illegal.
    #[inline(always)]
    pub fn plain(&self, [w0, w1]: [u64; 2]) -> Option<Plain> {
        const FIRST: u8 = CMD0::OPCODE::Value::TlbiNhAll as u8;
        const BY_ADDRESS: u8 = CMD0::OPCODE::Value::TlbiNhVa as u8;
        const SYNC: u8 = CMD0::OPCODE::Value::Sync as u8;
        const SEV: u64 = CMD0::CS::Sev.value;
        let opcode = w0 as u8;
        let Some(fields) = self.stage_one.get(usize::from(opcode.wrapping_sub(FIRST))) else {
            // Without SEV (IDR0.SEV) the signal by event, which Linux asks for, is none (§4.7.3).
            let signal = w0 & mask0(CMD0::CS);
            let silent = signal == 0 || signal == SEV && !self.wake;
            return (opcode == SYNC && silent).then_some(Plain::Sync);
        };
        let (head, tail) = (w0 & fields[0], w1 & fields[1]);
        if opcode < BY_ADDRESS {
            return Some(Plain::Forget([head, tail]));
        }
        let granule = tail & mask(CMD1::TG);
        if granule == 0 {
            // What says how long a range is does not count.
            return Some(Plain::Forget([head & !RANGE, tail & !RANGE_TAIL]));
        }
        let bare = head & RANGE | tail & mask(CMD1::TTL) == 0;
        let sixteen = granule == CMD1::TG::Granule16K.value;
        if bare || sixteen && tail & mask(CMD1::TTL) == 1 << CMD1::TTL.shift {
            return None;
        }
        Some(Plain::Forget([head, tail]))
    }

    /// Decodes one.
    ///
    /// # Errors
    /// [`Illegal`]: an opcode that this SMMU does not have, or a field with a value that is none.
    pub fn decode(&self, words: [u64; 2]) -> Result<Command, Illegal> {
        use CMD0::OPCODE::Value as Op;
        let [w0, w1] = words;
        let first = LocalRegisterCopy::<u64, CMD0::Register>::new(w0);
        let second = LocalRegisterCopy::<u64, CMD1::Register>::new(w1);
        let opcode = first.read_as_enum(CMD0::OPCODE).ok_or(Illegal)?;
        let number = first.read(CMD0::OPCODE);
        let stream = first.read(CMD0::STREAM_ID) as u32;
        let of_stream = matches!(
            opcode,
            Op::PrefetchConfig
                | Op::PrefetchAddr
                | Op::CfgiSte
                | Op::CfgiSteRange
                | Op::CfgiCd
                | Op::CfgiCdAll
                | Op::AtcInv
                | Op::PriResp
                | Op::Resume
                | Op::StallTerm
        );
        if of_stream && w0 & SECURE != 0 {
            return Err(Illegal);
        }
        let named = number | field(w0, CMD0::STREAM_ID);
        let asid_mask = ((1 << self.asid_bits) - 1) << CMD0::ASID.shift;
        Ok(match opcode {
            Op::PrefetchConfig | Op::PrefetchAddr => Command::Prefetch,
            Op::CfgiSte => Command::Streams(stream, stream),
            Op::CfgiSteRange => {
                // 31 is CMD_CFGI_ALL, whatever the stream (§4.3.6).
                let range = second.read(CMD1::RANGE);
                let rest = if range == CFGI_ALL_RANGE {
                    u32::MAX
                } else {
                    (2 << range) - 1
                };
                Command::Streams(stream & !rest, stream | rest)
            }
            Op::CfgiCd => {
                let substream = field(w0, CMD0::SSID) & self.substream_mask();
                let leaf = second_field(w1, CMD1::LEAF);
                Command::Contexts(stream, [named | substream, leaf, 0, 0])
            }
            Op::CfgiCdAll => Command::Contexts(stream, [named, 0, 0, 0]),
            Op::TlbiNhAll | Op::TlbiNsnhAll => Command::Forget(None, [number, 0, 0, 0]),
            Op::TlbiNhAsid => Command::Forget(None, [number | w0 & asid_mask, 0, 0, 0]),
            Op::TlbiNhVa => self.by_address(number | w0 & asid_mask, w0, second)?,
            Op::TlbiNhVaa => self.by_address(number, w0, second)?,
            Op::AtcInv if self.ats => {
                let mut head = named;
                if self.substream_bits != 0 && first.is_set(CMD0::SSV) {
                    head |= field(w0, CMD0::SSV)
                        | field(w0, CMD0::GLOBAL)
                        | field(w0, CMD0::SSID) & self.substream_mask();
                }
                // More than all is all.
                let size = second.read(CMD1::SIZE).min(ATC_SIZE_ALL);
                let tail = second_field(w1, CMD1::VA) | size;
                Command::Forget(Some(stream), [head, tail, 0, 0])
            }
            Op::PriResp if self.pri => Command::PageResponse {
                stream,
                group: second.read(CMD1::PRGI) as u16,
                answer: match second.read_as_enum(CMD1::RESP).ok_or(Illegal)? {
                    CMD1::RESP::Value::Success => Answer::Success,
                    CMD1::RESP::Value::Failure | CMD1::RESP::Value::Invalid => Answer::Invalid,
                },
            },
            Op::Resume if self.stalls => Command::Resume {
                stream,
                tag: second.read(CMD1::STAG) as u16,
                answer: match (first.is_set(CMD0::AC), first.is_set(CMD0::AB)) {
                    (true, false) => Answer::Success,
                    (false, _) => Answer::Invalid,
                    (true, true) => return Err(Illegal),
                },
            },
            Op::StallTerm if self.stalls => Command::EndStalls(stream),
            Op::Sync => Command::Sync(match first.read_as_enum(CMD0::CS).ok_or(Illegal)? {
                CMD0::CS::Value::None => Signal::None,
                CMD0::CS::Value::Irq => Signal::Interrupt {
                    address: if self.messages {
                        second_field(w1, CMD1::MSI_ADDRESS)
                    } else {
                        0
                    },
                    data: first.read(CMD0::MSI_DATA) as u32,
                },
                CMD0::CS::Value::Sev if self.wake => Signal::Event,
                CMD0::CS::Value::Sev => Signal::None,
            }),
            _ => return Err(Illegal),
        })
    }

    fn substream_mask(&self) -> u64 {
        ((1 << self.substream_bits) - 1) << CMD0::SSID.shift
    }

    /// One entry, or a range (§4.4.1.1).
    fn by_address(
        &self,
        head: u64,
        w0: u64,
        second: LocalRegisterCopy<u64, CMD1::Register>,
    ) -> Result<Command, Illegal> {
        let w1 = second.get();
        let tail = second_field(w1, CMD1::VA) | second_field(w1, CMD1::LEAF);
        let range = field(w0, CMD0::NUM) | field(w0, CMD0::SCALE);
        let level = second.read(CMD1::TTL);
        if !self.ranges || second.read(CMD1::TG) == 0 {
            return Ok(Command::Forget(None, [head, tail, 0, 0]));
        }
        // Reserved: nothing beside the granule, and level 1 of 16 KiB granules.
        let sixteen = second.matches_all(CMD1::TG::Granule16K);
        if range == 0 && level == 0 || sixteen && level == 1 {
            return Err(Illegal);
        }
        let tail = tail | second_field(w1, CMD1::TG) | second_field(w1, CMD1::TTL);
        Ok(Command::Forget(None, [head | range, tail, 0, 0]))
    }
}
