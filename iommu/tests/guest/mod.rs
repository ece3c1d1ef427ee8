//! One guest with one device behind the SMMU that it sees, and its driver; in memory of a `Vm`.
#![allow(dead_code, reason = "each test binary uses a part")]

#[path = "../vm/mod.rs"]
pub mod vm;

use std::sync::Arc;

use iommu::addr::Gpa;
use iommu::guest::vsmmu::{Behind, Effect, ObjectSlice, Setup, VirtSmmu};
use iommu::hal::{GuestMemory, GuestMemoryError, Platform};
use iommu::id::{DeviceId, VirtDeviceId};
use iommu::model::memory::{Buffer, Memory};
use iommu::model::smmu::Denied;
use iommu::object::driver::DeviceInfo;
use iommu::object::{Context, Delivery, Device, HwptPaging};
use iommu::smmuv3::{Identity, Offer};
use vm::{BYTES, GUEST, PAGE, RAM, Space, Vm};

pub const STREAM: u32 = 0x108;
/// What the guest calls it.
pub const NAME: u32 = 0x20;
pub const VA: u64 = 0x1000;
/// Where the guest has what it needs.
pub const COMMANDS: u64 = GUEST + 0x10_0000;
pub const EVENTS: u64 = GUEST + 0x20_0000;
pub const TABLE: u64 = GUEST + 0x30_0000;
pub const LOG2: u32 = 6;

pub const SYNC: [u64; 2] = [0x46, 0];

/// Guest memory: `BYTES` of the machine's from `at` on.
pub struct Ram {
    pub memory: Memory,
    pub at: u64,
}

impl Ram {
    pub fn check(at: Gpa, len: usize) -> Result<u64, GuestMemoryError> {
        let offset = at.0.checked_sub(GUEST).ok_or(GuestMemoryError(at))?;
        let end = offset.checked_add(len as u64).filter(|end| *end <= BYTES);
        end.map(|_| offset).ok_or(GuestMemoryError(at))
    }
}

impl GuestMemory for Ram {
    fn read(&self, at: Gpa, bytes: &mut [u8]) -> Result<(), GuestMemoryError> {
        let offset = Self::check(at, bytes.len())?;
        for (at, byte) in (self.at + offset..).zip(bytes) {
            *byte = (self.memory.load(at & !7) >> (at % 8 * 8)) as u8;
        }
        Ok(())
    }

    fn write(&self, at: Gpa, bytes: &[u8]) -> Result<(), GuestMemoryError> {
        let offset = Self::check(at, bytes.len())?;
        for (at, byte) in (self.at + offset..).zip(bytes) {
            let shift = at % 8 * 8;
            let old = self.memory.load(at & !7) & !(0xff << shift);
            self.memory.store(at & !7, old | u64::from(*byte) << shift);
            self.memory.write_barrier();
        }
        Ok(())
    }
}

/// One guest with one device, and its driver.
pub struct Guest {
    pub ram: Ram,
    pub smmu: VirtSmmu<Memory, ObjectSlice>,
    pub device: Arc<Device>,
    pub prod: u32,
}

pub fn identity(vm: &Vm) -> Identity {
    let device = vm.device(0, 0x7ff);
    let (info, _) = device.hw_info(0).expect("known");
    let [_, a, b, c, d] = info.words;
    let halves = |word: u64| [word as u32, (word >> 32) as u32];
    let [[i0, i1], [i2, i3], [i4, i5], [iidr, aidr]] = [a, b, c, d].map(halves);
    Identity {
        idr: [i0, i1, i2, i3, i4, i5],
        iidr,
        aidr,
    }
}

pub fn setup(vm: &Vm) -> Setup<Buffer> {
    Setup {
        hardware: identity(vm),
        offer: Offer {
            stalls: true,
            address_bits: 40,
            ..Offer::default()
        },
        messages: false,
        wake: false,
        stream_bits: 8,
        command_queue_log2: 10,
        event_queue_log2: 10,
        request_queue_log2: 0,
        budget: 64,
        waiting: 4,
        patience_ns: 1_000_000_000,
        contexts: None,
    }
}

/// What a guest is in: objects of its own, and its memory.
pub struct Place<'a> {
    pub vm: &'a Vm,
    pub context: &'a Context,
    pub parent: &'a HwptPaging,
    pub at: u64,
}

impl<'a> Place<'a> {
    pub fn of(vm: &'a Vm) -> Self {
        Self {
            vm,
            context: &vm.context,
            parent: &vm.parent,
            at: RAM,
        }
    }
}

impl Guest {
    pub fn new(place: &Place<'_>, stream: u32, setup: Setup<Buffer>) -> Self {
        Self::trusted(place, stream, setup, false)
    }

    /// `ats`: with its device's translations.
    pub fn trusted(place: &Place<'_>, stream: u32, setup: Setup<Buffer>, ats: bool) -> Self {
        let iommu = &place.vm.iommus[0];
        let driver = iommu.driver();
        let slice = ObjectSlice::new(place.context, place.parent, &driver, 64, 8);
        let mut slice = slice.expect("a slice");
        let streams = [DeviceId(stream)];
        let info = DeviceInfo {
            ats,
            ..iommu.info(&streams)
        };
        let device = place.context.bind(&info).expect("bound");
        let device = Arc::new(device);
        slice.add(Arc::clone(&device), NAME).expect("named");
        let behind = Behind {
            stream: VirtDeviceId(NAME),
            ats,
        };
        let memory = place.vm.memory.clone();
        let smmu = VirtSmmu::new(Arc::new(memory.clone()), setup, slice, &[behind]);
        let mut guest = Self {
            ram: Ram {
                memory,
                at: place.at,
            },
            smmu: smmu.expect("it fits"),
            device,
            prod: 0,
        };
        let started = guest.smmu.start(&guest.ram);
        assert_eq!(started, Effect::default());
        guest
    }

    pub fn of(vm: &Vm) -> Self {
        Self::new(&Place::of(vm), STREAM, setup(vm))
    }

    pub fn store(&self, at: u64, words: &[u64]) {
        for (at, word) in (at..).step_by(8).zip(words) {
            self.ram
                .write(Gpa(at), &word.to_le_bytes())
                .expect("its own");
        }
    }

    pub fn load<const N: usize>(&self, at: u64) -> [u64; N] {
        core::array::from_fn(|word| {
            let mut bytes = [0; 8];
            let at = Gpa(at + word as u64 * 8);
            self.ram.read(at, &mut bytes).expect("its own");
            u64::from_le_bytes(bytes)
        })
    }

    pub fn write(&mut self, offset: u64, value: u64) -> Effect {
        let size = if matches!(offset, 0x80 | 0x90 | 0xa0) {
            8
        } else {
            4
        };
        self.smmu.write(&self.ram, offset, size, value)
    }

    pub fn read(&mut self, offset: u64) -> u32 {
        self.smmu.read(offset, 4) as u32
    }

    /// All on, as a driver does it: its table is empty.
    pub fn up(&mut self) {
        self.write(0x90, COMMANDS | u64::from(LOG2));
        self.write(0xa0, EVENTS | 6);
        self.write(0x80, TABLE);
        self.write(0x88, 8);
        self.write(0x2c, 2);
        self.write(0x50, 5);
        self.write(0x20, 0b1101);
        self.settle();
        assert_eq!(self.read(0x24), 0b1101);
    }

    pub fn settle(&mut self) {
        while self.smmu.has_work() {
            let effect = self.smmu.run(&self.ram);
            assert_eq!(effect.failed, None);
        }
    }

    /// Commands and a CMD_SYNC, which completes.
    pub fn say(&mut self, commands: &[[u64; 2]]) {
        let mask = (2u32 << LOG2) - 1;
        for command in commands.iter().chain([&SYNC]) {
            let index = u64::from(self.prod & (mask >> 1));
            self.store(COMMANDS + index * 16, command);
            self.prod = (self.prod + 1) & mask;
        }
        let effect = self.write(0x98, self.prod.into());
        assert_eq!(effect.failed, None);
        self.settle();
        assert_eq!(self.read(0x9c), self.prod, "no error");
    }

    pub fn entry(&mut self, words: [u64; 2]) {
        let at = TABLE + u64::from(NAME) * 64;
        self.store(at + 8, &words[1..]);
        self.store(at, &words[..1]);
        self.say(&[[0x03 | u64::from(NAME) << 32, 1]]);
    }

    /// Takes faults of the hardware where they belong.
    pub fn serve(&mut self, vm: &Vm) -> Effect {
        for (_, delivery) in vm.serve(0) {
            let own = !matches!(delivery, Delivery::Record | Delivery::NotMine);
            assert_eq!(self.smmu.slice().holds(delivery), own, "{delivery:?}");
        }
        self.smmu.deliver(&self.ram)
    }
}

/// A stage 1 with `VA` at page `page`, and its context.
pub fn space(vm: &Vm, page: u64) -> (Space, u64) {
    let space = Space::plain(vm, 1);
    space.map(vm, VA, Some(GUEST + page * PAGE));
    let contexts = vm.take(64);
    space.place(vm, contexts);
    (space, contexts)
}

pub fn refused(number: u8) -> Result<u64, Denied> {
    Err(Denied::Fault {
        number,
        stage_two: false,
    })
}
