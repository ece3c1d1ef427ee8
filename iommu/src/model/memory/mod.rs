//! Sparse physical memory as CPUs and devices see it, which is not the same.
//!
//! A store of a CPU waits in the store buffer until [`write_barrier`](crate::hal::Platform::write_barrier); a device does not see it before. In
//! [`Memory::non_coherent`] it then waits in the cache until it was cleaned and a barrier followed; a device that does not
//! snoop does not see it before, and memory that is handed out holds something dangerous below its dirty zeroes. In the
//! other direction a CPU keeps what it read until [`discard`](crate::hal::DmaBuffer::discard).
//!
//! That is the latest that hardware may do each of these. With [`Order::Random`] it does them any time before that, in any
//! order that keeps the stores to one address in theirs.
//!
//! Memory is never handed out twice, so that a device that reaches what was freed is always found out.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use spin::Mutex;

mod buffer;

pub use buffer::Buffer;

const PAGE: u64 = 4096;
const LINE: u64 = 64;

/// What fresh memory holds below the cache: as an STE it lets everything through (V = 1, Config = bypass, §5.2), as a
/// block descriptor it maps address 0, readable and writable (DDI 0487, D8.3.1).
pub const POISON: u64 = 0x4c9;

/// When stores become visible to devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// As late as the barriers and cleans allow.
    Late,
    /// Any time before that; the seed.
    Random(u64),
}

/// Why a device was refused by memory itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BusError {
    /// There is nothing at this address.
    Absent(u64),
    /// The memory at this address was freed.
    Freed(u64),
}

/// Sees stores before a barrier lets them out.
pub(super) trait Observer: Send + Sync {
    /// `stores` are addresses and values, oldest first.
    fn before_barrier(&self, stores: &[(u64, u64)]);
}

#[derive(Clone, Copy)]
enum Pending {
    Store(u64, u64),
    Clean(u64),
}

impl Pending {
    fn line(self) -> u64 {
        match self {
            Self::Store(at, _) | Self::Clean(at) => at & !(LINE - 1),
        }
    }
}

#[derive(Clone, Copy)]
struct Line {
    words: [u64; 8],
    dirty: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A test's own.
    Ram,
    /// Handed out.
    Live,
    Freed,
}

struct State {
    /// Below the cache.
    pages: BTreeMap<u64, Box<[u64; 512]>>,
    lines: BTreeMap<u64, Line>,
    pending: Vec<Pending>,
    regions: BTreeMap<u64, (u64, Kind)>,
    observers: Vec<Weak<dyn Observer>>,
    next: u64,
    cached: bool,
    strict: bool,
    random: Option<u64>,
    now: u64,
    /// Allocations until one fails, and whether all after it fail too.
    fail: Option<(u64, bool)>,
    allocations: u64,
    cleaned: u64,
}

impl State {
    fn kind(&self, at: u64) -> Option<Kind> {
        let (base, (len, kind)) = self.regions.range(..=at).next_back()?;
        (at - base < *len).then_some(*kind)
    }

    fn check(&self, at: u64) -> Result<(), BusError> {
        match self.kind(at) {
            Some(Kind::Ram | Kind::Live) => Ok(()),
            Some(Kind::Freed) => {
                assert!(!self.strict, "a device reached freed memory at {at:#x}");
                Err(BusError::Freed(at))
            }
            None => Err(BusError::Absent(at)),
        }
    }

    fn below(&self, at: u64) -> u64 {
        let page = self.pages.get(&(at / PAGE));
        page.map_or(0, |page| page[(at % PAGE / 8) as usize])
    }

    fn set_below(&mut self, at: u64, value: u64) {
        let page = self.pages.entry(at / PAGE);
        page.or_insert_with(|| Box::new([0; 512]))[(at % PAGE / 8) as usize] = value;
    }

    fn line(&mut self, at: u64) -> &mut Line {
        let base = at & !(LINE - 1);
        if !self.lines.contains_key(&base) {
            let words = core::array::from_fn(|word| self.below(base + word as u64 * 8));
            self.lines.insert(base, Line { words, dirty: 0 });
        }
        let Some(line) = self.lines.get_mut(&base) else {
            unreachable!("inserted above");
        };
        line
    }

    fn write_back(&mut self, base: u64) {
        let Some(line) = self.lines.get_mut(&base) else {
            return;
        };
        let Line { words, dirty } = *line;
        line.dirty = 0;
        for (word, value) in words.into_iter().enumerate() {
            if dirty >> word & 1 != 0 {
                self.set_below(base + word as u64 * 8, value);
            }
        }
    }

    fn settle(&mut self, item: Pending) {
        match item {
            Pending::Store(at, value) if self.cached => {
                let word = (at % LINE / 8) as usize;
                let line = self.line(at);
                line.words[word] = value;
                line.dirty |= 1 << word;
            }
            Pending::Store(at, value) => self.set_below(at, value),
            Pending::Clean(at) => self.write_back(at),
        }
    }

    fn dice(&mut self) -> Option<u64> {
        let state = self.random.as_mut()?;
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        Some(*state >> 11)
    }

    /// What may happen on its own before a device looks at `at`.
    fn stir(&mut self, at: u64) {
        let Some(dice) = self.dice() else {
            return;
        };
        let line = at & !(LINE - 1);
        let mut early = if dice & 1 == 0 { 0 } else { dice >> 1 & 7 };
        let mut index = 0;
        while early > 0 && index < self.pending.len() {
            if self.pending[index].line() == line {
                let item = self.pending.remove(index);
                self.settle(item);
                early -= 1;
            } else {
                index += 1;
            }
        }
        if dice >> 4 & 3 == 0 {
            self.write_back(line);
        }
    }

    /// As a CPU reads it.
    fn load(&mut self, at: u64) -> u64 {
        let newest = self.pending.iter().rev().find_map(|item| match item {
            Pending::Store(to, value) if *to == at => Some(*value),
            _ => None,
        });
        match newest {
            Some(value) => value,
            None if self.cached => self.line(at).words[(at % LINE / 8) as usize],
            None => self.below(at),
        }
    }

    fn device_read(&mut self, at: u64, snoop: bool) -> Result<u64, BusError> {
        self.check(at)?;
        self.stir(at);
        let line = self.lines.get(&(at & !(LINE - 1))).filter(|_| snoop);
        Ok(line.map_or_else(
            || self.below(at),
            |line| line.words[(at % LINE / 8) as usize],
        ))
    }

    fn device_write(&mut self, at: u64, value: u64, snoop: bool) -> Result<(), BusError> {
        self.check(at)?;
        self.set_below(at, value);
        if snoop && let Some(line) = self.lines.get_mut(&(at & !(LINE - 1))) {
            let word = (at % LINE / 8) as usize;
            line.words[word] = value;
            line.dirty &= !(1 << word);
        }
        Ok(())
    }
}

/// The memory of one machine, and its clock. Clones are the same memory.
#[derive(Clone)]
pub struct Memory(Arc<Mutex<State>>);

/// Where memory is handed out from.
const POOL: u64 = 0x4000_0000;

impl Memory {
    /// Memory whose users all snoop.
    pub fn coherent() -> Self {
        Self::new(false)
    }

    /// Memory behind a cache that some devices do not snoop.
    pub fn non_coherent() -> Self {
        Self::new(true)
    }

    fn new(cached: bool) -> Self {
        Self(Arc::new(Mutex::new(State {
            pages: BTreeMap::new(),
            lines: BTreeMap::new(),
            pending: Vec::new(),
            regions: BTreeMap::new(),
            observers: Vec::new(),
            next: POOL,
            cached,
            strict: true,
            random: None,
            now: 0,
            fail: None,
            allocations: 0,
            cleaned: 0,
        })))
    }

    /// Whether a device that reaches freed memory is a panic (as it is at first) or an error of the bus.
    pub fn set_strict(&self, strict: bool) {
        self.0.lock().strict = strict;
    }

    /// When stores become visible.
    pub fn set_order(&self, order: Order) {
        self.0.lock().random = match order {
            Order::Late => None,
            Order::Random(seed) => Some(seed | 1),
        };
    }

    /// Hands memory out from `base` on.
    pub fn set_pool(&self, base: u64) {
        self.0.lock().next = base;
    }

    /// Puts memory of the test's own at `base`, or gives memory back that [`take`](Self::take) took.
    pub fn add_ram(&self, base: u64, len: u64) {
        self.0.lock().regions.insert(base, (len, Kind::Ram));
    }

    /// From now on `base`, that was added as it is, belongs to somebody else: a device that reaches it is found out.
    pub fn take(&self, base: u64) {
        let mut state = self.0.lock();
        let Some(region) = state.regions.get_mut(&base) else {
            panic!("no region at {base:#x}");
        };
        region.1 = Kind::Freed;
    }

    /// The `nth` allocation from now (0 is the next) fails; all later ones too if `all`.
    pub fn fail_allocation(&self, nth: u64, all: bool) {
        self.0.lock().fail = Some((nth, all));
    }

    /// No allocation fails any more.
    pub fn heal(&self) {
        self.0.lock().fail = None;
    }

    /// Allocations so far.
    pub fn allocations(&self) -> u64 {
        self.0.lock().allocations
    }

    /// Allocations that were not freed, and their bytes.
    pub fn live(&self) -> (usize, u64) {
        let state = self.0.lock();
        let live = state
            .regions
            .values()
            .filter(|(_, kind)| *kind == Kind::Live);
        live.fold((0, 0), |(count, bytes), (len, _)| (count + 1, bytes + len))
    }

    /// Cache lines cleaned so far.
    pub fn cleaned(&self) -> u64 {
        self.0.lock().cleaned
    }

    /// Lets time pass.
    pub fn advance(&self, nanoseconds: u64) {
        self.0.lock().now += nanoseconds;
    }

    /// A load by a CPU.
    pub fn load(&self, at: u64) -> u64 {
        self.0.lock().load(at)
    }

    /// A store by a CPU.
    pub fn store(&self, at: u64, value: u64) {
        self.0.lock().pending.push(Pending::Store(at, value));
    }

    /// A load by a device; `snoop`s CPU caches or not. `at` is a multiple of 8.
    ///
    /// # Errors
    /// Each [`BusError`].
    pub fn device_read(&self, at: u64, snoop: bool) -> Result<u64, BusError> {
        self.0.lock().device_read(at, snoop)
    }

    /// A store by a device.
    ///
    /// # Errors
    /// Each [`BusError`].
    pub fn device_write(&self, at: u64, value: u64, snoop: bool) -> Result<(), BusError> {
        self.0.lock().device_write(at, value, snoop)
    }

    /// Bytes as a device reads them.
    ///
    /// # Errors
    /// Each [`BusError`]; some of `bytes` are written then.
    pub fn device_read_bytes(
        &self,
        at: u64,
        bytes: &mut [u8],
        snoop: bool,
    ) -> Result<(), BusError> {
        let mut state = self.0.lock();
        for (address, byte) in (at..).zip(bytes) {
            let word = state.device_read(address & !7, snoop)?;
            *byte = (word >> (address % 8 * 8)) as u8;
        }
        Ok(())
    }

    /// Bytes as a device writes them.
    ///
    /// # Errors
    /// Each [`BusError`]; some of `bytes` are in memory then.
    pub fn device_write_bytes(&self, at: u64, bytes: &[u8], snoop: bool) -> Result<(), BusError> {
        let mut state = self.0.lock();
        for (address, byte) in (at..).zip(bytes) {
            let word = state.device_read(address & !7, snoop)?;
            let shift = address % 8 * 8;
            let changed = word & !(0xff << shift) | u64::from(*byte) << shift;
            state.device_write(address & !7, changed, snoop)?;
        }
        Ok(())
    }

    pub(super) fn observe(&self, observer: Weak<dyn Observer>) {
        self.0.lock().observers.push(observer);
    }
}
