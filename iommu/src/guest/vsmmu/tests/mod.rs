//! A guest's SMMU on a slice that only writes down what it is told.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::*;
use crate::guest::Requests;
use crate::hal::GuestMemoryError;
use crate::id::VirtDeviceId;
use crate::model::memory::Memory;
use crate::object::driver::{Answer, Entry};
use crate::object::{Error, Event, Item, PageRequest, Progress};
use crate::smmuv3::{Identity, Offer};

mod commands;
mod contexts;
mod events;
mod linux;
mod places;
mod registers;
mod requests;
mod spec_table;
mod storm;
mod streams;

/// Commands a call.
const BUDGET: u32 = 64;
/// Where the guest has its memory.
const RAM: u64 = 0x4000_0000;
const BYTES: usize = 0x100_0000;
/// Where its queues and its stream table are.
const COMMANDS: u64 = RAM;
const EVENTS: u64 = RAM + 0x10_0000;
const REQUESTS: u64 = RAM + 0x18_0000;
const TABLE: u64 = RAM + 0x20_0000;
/// Contexts of its own.
const CONTEXTS: u64 = RAM + 0x40_0000;

const CR0: u64 = 0x20;
const CR0ACK: u64 = 0x24;
const GBPA: u64 = 0x44;
const IRQ_CTRL: u64 = 0x50;
const GERROR: u64 = 0x60;
const GERRORN: u64 = 0x64;
const STRTAB_BASE: u64 = 0x80;
const STRTAB_CONFIG: u64 = 0x88;
const CMDQ_BASE: u64 = 0x90;
const CMDQ_PROD: u64 = 0x98;
const CMDQ_CONS: u64 = 0x9c;
const EVENTQ_BASE: u64 = 0xa0;
const EVENTQ_PROD: u64 = 0x1_00a8;
const EVENTQ_CONS: u64 = 0x1_00ac;
const PRIQ_BASE: u64 = 0xc0;
const PRIQ_PROD: u64 = 0x1_00c8;
const PRIQ_CONS: u64 = 0x1_00cc;

/// The guest's memory, with counts of what the host did there.
struct Ram {
    bytes: RefCell<Vec<u8>>,
    reads: Cell<u64>,
    writes: RefCell<Vec<(u64, usize)>>,
}

impl Ram {
    fn new() -> Self {
        Self {
            bytes: RefCell::new(vec![0; BYTES]),
            reads: Cell::new(0),
            writes: RefCell::new(Vec::new()),
        }
    }

    fn offset(at: Gpa, len: usize) -> Result<usize, GuestMemoryError> {
        let offset = at.0.checked_sub(RAM).ok_or(GuestMemoryError(at))?;
        let end = offset
            .checked_add(len as u64)
            .filter(|end| *end <= BYTES as u64);
        end.map(|_| offset as usize).ok_or(GuestMemoryError(at))
    }

    fn store(&self, at: u64, words: &[u64]) {
        for (at, word) in (at..).step_by(8).zip(words) {
            let offset = (at - RAM) as usize;
            self.bytes.borrow_mut()[offset..offset + 8].copy_from_slice(&word.to_le_bytes());
        }
    }

    fn load<const N: usize>(&self, at: u64) -> [u64; N] {
        core::array::from_fn(|word| {
            let offset = (at - RAM) as usize + word * 8;
            let bytes = self.bytes.borrow();
            u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("8 bytes"))
        })
    }
}

impl GuestMemory for Ram {
    fn read(&self, at: Gpa, bytes: &mut [u8]) -> Result<(), GuestMemoryError> {
        // Commands one by one, however many come at once.
        let commands = if (COMMANDS..EVENTS).contains(&at.0) {
            bytes.len() as u64 / 16
        } else {
            1
        };
        self.reads.set(self.reads.get() + commands);
        let offset = Self::offset(at, bytes.len())?;
        bytes.copy_from_slice(&self.bytes.borrow()[offset..offset + bytes.len()]);
        Ok(())
    }

    fn read_words(&self, at: Gpa, words: &mut [u64]) -> Result<(), GuestMemoryError> {
        let mut bytes = vec![0; words.len() * 8];
        self.read(at, &mut bytes)?;
        let (read, _) = bytes.as_chunks::<8>();
        for (word, bytes) in words.iter_mut().zip(read) {
            *word = u64::from_le_bytes(*bytes);
        }
        Ok(())
    }

    fn write(&self, at: Gpa, bytes: &[u8]) -> Result<(), GuestMemoryError> {
        let offset = Self::offset(at, bytes.len())?;
        self.writes.borrow_mut().push((at.0, bytes.len()));
        self.bytes.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// What a slice was told, and what it has for the guest.
#[derive(Default)]
struct Told {
    attached: Vec<(usize, StageOne)>,
    entries: Vec<Entry>,
    batches: Vec<usize>,
    answers: Vec<(u32, Answer)>,
    events: VecDeque<Item<Event>>,
    /// The sequence number after that of the last event taken.
    sequence: u32,
    requests: VecDeque<Vec<PageRequest>>,
    /// The invalidation after so many fails like this.
    fails: Option<(usize, Error)>,
    /// The next attachment but one to Abort fails like this.
    attach_fails: Option<Error>,
    /// The next attachment to Abort does.
    abort_fails: Option<Error>,
}

fn after(item: &Item<Event>) -> u32 {
    match *item {
        Item::Record { sequence, .. } | Item::Lost { sequence } => sequence + 1,
    }
}

#[derive(Clone, Default)]
struct Recorder(Rc<RefCell<Told>>);

impl Slice for Recorder {
    fn attach(&mut self, device: usize, stage_one: StageOne) -> Result<(), Error> {
        let mut told = self.0.borrow_mut();
        if stage_one == StageOne::Abort
            && let Some(error) = told.abort_fails.take()
        {
            return Err(error);
        }
        if stage_one != StageOne::Abort
            && let Some(error) = told.attach_fails.take()
        {
            told.attached.push((device, StageOne::Abort));
            return Err(error);
        }
        told.attached.push((device, stage_one));
        Ok(())
    }

    fn invalidate(&mut self, entries: &[Entry]) -> Progress {
        let mut told = self.0.borrow_mut();
        told.batches.push(entries.len());
        let mut complete = entries.len();
        let mut result = Ok(());
        if let Some((after, error)) = told.fails {
            complete = complete.min(after);
            told.fails = Some((after - complete, error));
            if complete < entries.len() {
                told.fails = None;
                result = Err(error);
            }
        }
        told.entries.extend_from_slice(&entries[..complete]);
        Progress { complete, result }
    }

    fn event(&mut self) -> Option<Item<Event>> {
        let mut told = self.0.borrow_mut();
        let item = told.events.pop_front()?;
        told.sequence = after(&item);
        Some(item)
    }

    fn sequence(&self) -> u32 {
        let told = self.0.borrow();
        told.events.back().map_or(told.sequence, after)
    }
}

impl Requests for Recorder {
    fn requests(&mut self, out: &mut [PageRequest]) -> Result<usize, Error> {
        let Some(group) = self.0.borrow_mut().requests.pop_front() else {
            return Ok(0);
        };
        out[..group.len()].copy_from_slice(&group);
        Ok(group.len())
    }

    fn device_of(&self, request: &PageRequest) -> Option<usize> {
        request.device.checked_sub(100).map(|it| it as usize)
    }

    fn respond(&mut self, cookie: u32, answer: Answer) {
        self.0.borrow_mut().answers.push((cookie, answer));
    }
}

/// Hardware with everything: IDR0 to IDR5 as the document has them. Stage 1 and 2, AArch64, COHACC, HTTU, HYP, ATS,
/// ASID16, MSI, SEV, PRI, VMID16, CD2L, LE, stalls by choice, two-level tables; 32-bit StreamIDs, 20-bit substreams; HAD,
/// XNX, FWB, RIL, BBML 2; 48 bits, all granules.
const RICH: Identity = Identity {
    idr: [
        0x084d_769b,
        19 << 21 | 19 << 16 | 8 << 11 | 20 << 6 | 32,
        0,
        0x1514,
        0,
        0x0010_0075,
    ],
    iidr: 0x4872_043b,
    aidr: 2,
};

/// The emulator's (a stage 1 on a stage 2, and little else).
const PLAIN: Identity = Identity {
    idr: [0x0d44_101b, 0x0273_0010, 0, 0x1414, 0, 0x74],
    iidr: 0,
    aidr: 1,
};

fn plain_setup() -> Setup<crate::model::memory::Buffer> {
    Setup {
        hardware: PLAIN,
        offer: Offer {
            address_bits: 40,
            ..Offer::default()
        },
        messages: false,
        wake: true,
        stream_bits: 16,
        command_queue_log2: 19,
        event_queue_log2: 10,
        request_queue_log2: 0,
        budget: BUDGET,
        waiting: 0,
        patience_ns: 0,
        contexts: None,
    }
}

fn rich_setup() -> Setup<crate::model::memory::Buffer> {
    Setup {
        hardware: RICH,
        offer: Offer {
            ats: true,
            pri: true,
            stalls: true,
            address_bits: 48,
        },
        messages: true,
        request_queue_log2: 8,
        waiting: 4,
        patience_ns: 1_000_000,
        ..plain_setup()
    }
}

struct Guest {
    platform: Arc<Memory>,
    ram: Ram,
    told: Rc<RefCell<Told>>,
    smmu: VirtSmmu<Memory, Recorder>,
    prod: u32,
    log2: u32,
}

fn behind(stream: u32) -> Behind {
    Behind {
        stream: VirtDeviceId(stream),
        ats: false,
    }
}

impl Guest {
    /// With devices 8, 0x10, 0x18.
    fn new(setup: Setup<crate::model::memory::Buffer>) -> Self {
        Self::with(setup, &[behind(0x10), behind(8), behind(0x18)])
    }

    fn with(setup: Setup<crate::model::memory::Buffer>, devices: &[Behind]) -> Self {
        let platform = Arc::new(Memory::coherent());
        let slice = Recorder::default();
        let told = Rc::clone(&slice.0);
        let smmu = VirtSmmu::new(Arc::clone(&platform), setup, slice, devices).expect("it fits");
        let mut guest = Self {
            platform,
            ram: Ram::new(),
            told,
            smmu,
            prod: 0,
            log2: 0,
        };
        guest.smmu.start(&guest.ram);
        guest
    }

    fn plain() -> Self {
        Self::new(plain_setup())
    }

    fn rich() -> Self {
        Self::new(rich_setup())
    }

    fn write(&mut self, offset: u64, value: u64) -> Effect {
        let size = match offset {
            0x80 | 0x90 | 0xa0 | 0xc0 | 0x68 | 0xb0 | 0xd0 => 8,
            _ => 4,
        };
        self.smmu.write(&self.ram, offset, size, value)
    }

    fn read(&mut self, offset: u64) -> u32 {
        self.smmu.read(offset, 4) as u32
    }

    /// Queues of 2^`commands` and 2^`events` entries, a linear table of 2^8 streams; everything on, interrupts too.
    fn up(&mut self, commands: u32, events: u32) {
        self.log2 = commands;
        self.prod = 0;
        self.write(CMDQ_BASE, COMMANDS | u64::from(commands));
        self.write(EVENTQ_BASE, EVENTS | u64::from(events));
        self.write(STRTAB_BASE, TABLE);
        self.write(STRTAB_CONFIG, 8);
        self.write(IRQ_CTRL, 7);
        self.write(CR0, 0b1101);
        while self.smmu.has_work() {
            self.run();
        }
        assert_eq!(self.read(CR0ACK) & 0b1101, 0b1101);
        *self.told.borrow_mut() = Told::default();
    }

    fn run(&mut self) -> Effect {
        self.smmu.run(&self.ram)
    }

    /// Puts commands behind those that are there, without ringing.
    fn post(&mut self, commands: &[[u64; 2]]) {
        let mask = (2 << self.log2) - 1;
        for command in commands {
            let index = u64::from(self.prod & (mask >> 1));
            self.ram.store(COMMANDS + index * 16, command);
            self.prod = (self.prod + 1) & mask;
        }
    }

    fn ring(&mut self) -> Effect {
        self.write(CMDQ_PROD, self.prod.into())
    }

    fn say(&mut self, commands: &[[u64; 2]]) -> Effect {
        self.post(commands);
        self.ring()
    }

    /// Until there is nothing left to do.
    fn settle(&mut self) {
        while self.smmu.has_work() {
            self.run();
        }
    }

    fn consumed(&mut self) -> u32 {
        self.read(CMDQ_CONS) & 0xf_ffff
    }

    fn entry(&mut self, stream: u32, words: [u64; 2]) {
        self.ram.store(TABLE + u64::from(stream) * 64, &words);
    }

    fn attached(&self) -> Vec<(usize, StageOne)> {
        core::mem::take(&mut self.told.borrow_mut().attached)
    }

    fn entries(&self) -> Vec<Entry> {
        core::mem::take(&mut self.told.borrow_mut().entries)
    }

    fn batches(&self) -> Vec<usize> {
        core::mem::take(&mut self.told.borrow_mut().batches)
    }

    fn error(&mut self) -> u32 {
        self.read(GERROR) ^ self.read(GERRORN)
    }

    /// Why the command queue stopped, if it did.
    fn command_error(&mut self) -> Option<u32> {
        let stopped = self.error() & 1 != 0;
        let code = self.read(CMDQ_CONS) >> 24 & 0x7f;
        stopped.then_some(code)
    }
}

const SYNC: [u64; 2] = [0x46, 0];
const NH_ALL: [u64; 2] = [0x10, 0];
const CFGI_ALL: [u64; 2] = [0x04, 31];

const fn cfgi_ste(stream: u32) -> [u64; 2] {
    [0x03 | (stream as u64) << 32, 1]
}

/// V, Config = stage 1, one context at `contexts`, write-back shareable fetches.
const fn stage_one(contexts: u64) -> [u64; 2] {
    [0b1011 | contexts, 0b1101_0100]
}

/// What that is.
fn translate(contexts: u64) -> StageOne {
    StageOne::Translate(crate::physical::StageOneConfig {
        contexts,
        inner: 1,
        outer: 1,
        shareability: 3,
        ..Default::default()
    })
}
