//! What the driver does, whatever VT-d unit it drives: each scenario runs on the crate's model and on QEMU's intel-iommu.

use std::sync::Arc;

use iommu::addr::{Hpa, Iova, Span};
use iommu::fault::{Fault, FaultReason, Stage};
use iommu::hal::{Mmio, Platform};
use iommu::id::{CacheTag, DeviceId, IommuIndex};
use iommu::physical::{Drained, Invalidated, Invalidation, PhysicalIommu, StageTwo, StreamConfig};
use iommu::table::{PageTable, SecondStage, SecondStageAttributes, Shape};
use iommu::vtd::errata::Errata;
use iommu::vtd::{Setup, Vtd, event};

pub const PAGE: u64 = 4096;

/// What the device that writes writes.
pub const WORD: u32 = 0x1234_5678;

/// A unit out of reset with two devices behind it, one that writes and one that reads, and 16 MiB of memory of the test's own.
pub trait Bench {
    type Platform: Platform + 'static;
    type Registers: Mmio + 'static;

    /// Where the memory is.
    const RAM: u64;
    /// The source that writes.
    const WRITER: u32;
    /// The source that reads.
    const READER: u32;
    /// Scalable mode.
    const SCALABLE: bool;

    fn new() -> Self;
    fn platform(&self) -> Arc<Self::Platform>;
    fn registers(&self) -> Self::Registers;
    fn load(&self, at: u64) -> u64;
    /// Visible to devices on return.
    fn store(&self, at: u64, value: u64);
    /// The first device writes [`WORD`].
    fn write(&self, iova: u64);
    /// The other device reads; 0 if it could not.
    fn read(&self, iova: u64) -> u32;
}

type Driver<B> = Vtd<<B as Bench>::Platform, <B as Bench>::Registers>;
type Table<B> = PageTable<<B as Bench>::Platform, SecondStage>;

/// What is said of every unit here.
pub fn setup<B: Bench>() -> Setup {
    Setup {
        address_bits: 39,
        interrupts: None,
        scalable: Some(B::SCALABLE),
        errata: Errata::default(),
    }
}

/// A bench and a driver on it, which goes first.
struct Set<B: Bench> {
    driver: Driver<B>,
    bench: B,
}

const READ_ONLY: SecondStageAttributes = SecondStageAttributes {
    write: false,
    ..SecondStageAttributes::DMA
};

impl<B: Bench> Set<B> {
    fn new() -> Self {
        let bench = B::new();
        let driver = start(&bench);
        Self { driver, bench }
    }

    fn table(&self, bits: u8) -> Table<B> {
        let features = self.driver.features();
        let shape = Shape {
            coherent: features.coherent,
            output_bits: features.output_bits,
            largest: features.largest,
            ..Shape::new(bits)
        };
        PageTable::with_shape(self.bench.platform(), shape).expect("memory is there")
    }

    /// Maps `len` bytes of the test's memory, from `offset` on, at `at`.
    fn map(&self, table: &mut Table<B>, at: u64, offset: u64, len: u64) {
        self.map_as(table, at, offset, len, SecondStageAttributes::DMA);
    }

    fn map_as(
        &self,
        table: &mut Table<B>,
        at: u64,
        offset: u64,
        len: u64,
        attributes: SecondStageAttributes,
    ) {
        table
            .map(span(at, len), Hpa(B::RAM + offset), attributes)
            .expect("mapped");
    }

    fn attach(&mut self, source: u32, config: StreamConfig) {
        self.driver
            .attach(DeviceId(source), config)
            .expect("attached");
    }

    fn unmap(&mut self, table: &mut Table<B>, at: u64, len: u64, tag: u16) {
        let cut = table.unmap(span(at, len));
        let stale = cut.invalidation(CacheTag(tag));
        self.driver.invalidate(&[stale]).expect("complete");
        table.release(cut, Invalidated::complete());
    }

    /// All records, and whether some were lost.
    fn drain(&mut self) -> (Vec<Fault>, bool) {
        let (mut all, mut any_lost) = (Vec::new(), false);
        loop {
            let mut faults = [event::decode(IommuIndex(0), [0; 2]); 3];
            let Drained { count, lost, more } = self.driver.drain_faults(&mut faults);
            all.extend_from_slice(&faults[..count]);
            any_lost |= lost;
            if !more {
                return (all, any_lost);
            }
        }
    }

    /// The write does not arrive anywhere in the test's memory that is looked at, and its one record says why.
    fn refused(&mut self, iova: u64, reason: FaultReason, stage: Stage) {
        self.bench.write(iova);
        let (faults, lost) = self.drain();
        assert!(!lost);
        assert_eq!(faults.len(), 1, "{iova:#x}: {faults:?}");
        let fault = faults[0];
        assert_eq!(
            (fault.device, fault.reason, fault.stage),
            (DeviceId(B::WRITER), reason, stage)
        );
        assert_eq!(fault.iova, Some(Iova(iova & !0xfff)));
        assert!(fault.write);
    }

    /// The write arrives in the test's memory at `offset`.
    fn arrives(&mut self, iova: u64, offset: u64) {
        let at = (B::RAM + offset) & !7;
        self.bench.store(at, 0);
        self.bench.write(iova);
        let expected = u64::from(WORD) << (offset % 8 * 8);
        assert_eq!(self.bench.load(at), expected, "{iova:#x}");
        assert!(self.drain().0.is_empty());
    }

    fn is_untouched(&self, offset: u64) {
        assert_eq!(self.bench.load(B::RAM + offset), 0, "{offset:#x}");
    }
}

fn start<B: Bench>(bench: &B) -> Driver<B> {
    let setup = setup::<B>();
    let driver = Vtd::start(IommuIndex(0), bench.registers(), bench.platform(), setup);
    driver.expect("it starts")
}

fn span(at: u64, len: u64) -> Span<Iova> {
    Span::<Iova>::new(Iova(at), len).expect("no wrap")
}

fn stage_two<P: Platform>(table: &PageTable<P, SecondStage>, tag: u16) -> StreamConfig {
    StreamConfig::StageTwo(StageTwo {
        tag: CacheTag(tag),
        root: table.root(),
        input_bits: table.input_bits(),
        ats: false,
    })
}

/// The scenarios, as tests of a bench.
macro_rules! scenarios {
    ($bench:ty, $attribute:tt) => {
        scenarios!(@each $bench, $attribute,
            every_source_is_refused_and_recorded_from_the_start,
            a_device_reaches_what_the_second_stage_maps_and_nothing_else,
            blocks_and_every_level_translate,
            what_is_read_only_is_read_and_not_written,
            what_is_unmapped_is_gone_once_it_is_invalidated,
            a_source_that_is_closed_is_closed_without_a_word,
            a_source_moves_to_another_table_and_domain,
            two_sources_keep_to_their_own_tables,
            a_driver_that_is_dropped_leaves_everything_closed,
            a_unit_is_taken_over_by_a_second_driver,
            a_batch_longer_than_the_queue_is_complete,
            losses_of_faults_are_told_and_got_over,
        );
    };
    (@each $bench:ty, $attribute:tt, $($name:ident,)*) => {
        $(scenarios!(@one $bench, $attribute, $name);)*
    };
    (@one $bench:ty, [$($attribute:meta)?], $name:ident) => {
        #[test]
        $(#[$attribute])?
        fn $name() {
            vtd_bench::$name::<$bench>();
        }
    };
}

const TAG: u16 = 7;

pub fn every_source_is_refused_and_recorded_from_the_start<B: Bench>() {
    let mut set = Set::<B>::new();
    set.bench.store(B::RAM, 0);
    set.refused(B::RAM, FaultReason::BadDeviceEntry, Stage::None);
    assert_eq!(set.bench.read(B::RAM), 0);
    set.is_untouched(0);
}

pub fn a_device_reaches_what_the_second_stage_maps_and_nothing_else<B: Bench>() {
    let mut set = Set::<B>::new();
    let mut table = set.table(39);
    set.map(&mut table, 0x10_0000, 0, 2 * PAGE);
    set.attach(B::WRITER, stage_two(&table, TAG));
    set.attach(B::READER, stage_two(&table, TAG));
    set.arrives(0x10_0000, 0);
    set.arrives(0x10_1ffc, 0x1ffc);
    set.bench.store(B::RAM + 0x1000, 0xfeed_f00d);
    assert_eq!(set.bench.read(0x10_1000), 0xfeed_f00d);
    for outside in [0xf_f000, 0x10_2000, B::RAM, 0, (1 << 39) - PAGE] {
        set.refused(outside, FaultReason::Translation, Stage::Two);
    }
    set.refused(1 << 39, FaultReason::AddressSize, Stage::Two);
}

pub fn blocks_and_every_level_translate<B: Bench>() {
    let mut set = Set::<B>::new();
    let high = 0xab_1234_4000_0000;
    for (tag, bits, base) in [(1, 39, 0x12_3440_0000), (2, 48, high & ((1 << 48) - 1))] {
        let mut table = set.table(bits);
        // A block in the middle, pages around it.
        set.map(
            &mut table,
            base - PAGE,
            0x20_0000 - PAGE,
            0x20_0000 + 2 * PAGE,
        );
        let leaf = table.walk(Iova(base)).expect("mapped");
        assert_eq!(leaf.size, 0x20_0000);
        set.attach(B::WRITER, stage_two(&table, tag));
        set.arrives(base - 4, 0x20_0000 - 4);
        set.arrives(base, 0x20_0000);
        set.arrives(base + 0x12_3458, 0x32_3458);
        set.arrives(base + 0x20_0ffc, 0x40_0ffc);
        set.refused(base + 0x20_1000, FaultReason::Translation, Stage::Two);
        set.attach(B::WRITER, StreamConfig::Refuse);
    }
}

pub fn what_is_read_only_is_read_and_not_written<B: Bench>() {
    let mut set = Set::<B>::new();
    let mut table = set.table(39);
    set.map_as(&mut table, 0, 0, PAGE, READ_ONLY);
    set.attach(B::WRITER, stage_two(&table, TAG));
    set.attach(B::READER, stage_two(&table, TAG));
    set.bench.store(B::RAM, 0);
    set.refused(0, FaultReason::Translation, Stage::Two);
    set.is_untouched(0);
    set.bench.store(B::RAM, 0x600d);
    assert_eq!(set.bench.read(0), 0x600d);
}

pub fn what_is_unmapped_is_gone_once_it_is_invalidated<B: Bench>() {
    let mut set = Set::<B>::new();
    let mut table = set.table(48);
    set.map(&mut table, 0, 0, 0x40_0000);
    set.attach(B::WRITER, stage_two(&table, TAG));
    for at in [0, 0x1000, 0x20_0000, 0x3f_f000] {
        set.arrives(at, at);
    }
    // A page out of a block, a block, and what lies across both.
    set.unmap(&mut table, 0x1000, PAGE, TAG);
    set.refused(0x1000, FaultReason::Translation, Stage::Two);
    set.arrives(0, 0);
    set.arrives(0x2000, 0x2000);
    set.unmap(&mut table, 0x1f_f000, 0x20_1000, TAG);
    set.refused(0x1f_f000, FaultReason::Translation, Stage::Two);
    set.refused(0x20_0000, FaultReason::Translation, Stage::Two);
    set.refused(0x3f_f000, FaultReason::Translation, Stage::Two);
    set.arrives(0x1f_e000, 0x1f_e000);
}

pub fn a_source_that_is_closed_is_closed_without_a_word<B: Bench>() {
    let mut set = Set::<B>::new();
    let mut table = set.table(39);
    set.map(&mut table, 0, 0, PAGE);
    set.attach(B::WRITER, stage_two(&table, TAG));
    set.arrives(0, 0);
    set.attach(B::WRITER, StreamConfig::Abort);
    set.bench.store(B::RAM, 0);
    set.bench.write(0);
    assert_eq!(set.drain(), (Vec::new(), false));
    set.is_untouched(0);
    // And with a word where nobody asked for silence.
    set.attach(B::WRITER, StreamConfig::Refuse);
    set.refused(0, FaultReason::BadDeviceEntry, Stage::None);
    set.is_untouched(0);
}

pub fn a_source_moves_to_another_table_and_domain<B: Bench>() {
    let mut set = Set::<B>::new();
    let mut first = set.table(39);
    let mut second = set.table(48);
    set.map(&mut first, 0, 0, PAGE);
    set.map(&mut second, 0, 0x1000, PAGE);
    set.attach(B::WRITER, stage_two(&first, 1));
    set.arrives(0, 0);
    set.attach(B::WRITER, stage_two(&second, 2));
    set.arrives(0, 0x1000);
    set.attach(B::WRITER, stage_two(&first, 1));
    set.arrives(0, 0);
    // The same again changes nothing.
    set.attach(B::WRITER, stage_two(&first, 1));
    set.arrives(0, 0);
}

pub fn two_sources_keep_to_their_own_tables<B: Bench>() {
    let mut set = Set::<B>::new();
    let mut first = set.table(39);
    let mut second = set.table(39);
    set.map(&mut first, 0, 0, PAGE);
    set.map(&mut second, 0, 0x1000, PAGE);
    set.attach(B::WRITER, stage_two(&first, 1));
    set.attach(B::READER, stage_two(&second, 2));
    set.arrives(0, 0);
    set.bench.store(B::RAM + 0x1000, 0xabcd);
    assert_eq!(set.bench.read(0), 0xabcd);
    set.attach(B::WRITER, StreamConfig::Refuse);
    assert_eq!(set.bench.read(0), 0xabcd, "the other goes on");
}

pub fn a_driver_that_is_dropped_leaves_everything_closed<B: Bench>() {
    let mut set = Set::<B>::new();
    let mut table = set.table(39);
    set.map(&mut table, 0, 0, PAGE);
    set.attach(B::WRITER, stage_two(&table, TAG));
    set.arrives(0, 0);
    let Set { driver, bench } = set;
    drop(driver);
    bench.store(B::RAM, 0);
    bench.write(0);
    bench.write(B::RAM);
    assert_eq!(bench.load(B::RAM), 0);
}

pub fn a_unit_is_taken_over_by_a_second_driver<B: Bench>() {
    let set = Set::<B>::new();
    let Set { driver, bench } = set;
    drop(driver);
    let mut set = Set {
        driver: start(&bench),
        bench,
    };
    let mut table = set.table(39);
    set.map(&mut table, 0, 0, PAGE);
    set.refused(0, FaultReason::BadDeviceEntry, Stage::None);
    set.attach(B::WRITER, stage_two(&table, TAG));
    set.arrives(0, 0);
}

pub fn a_batch_longer_than_the_queue_is_complete<B: Bench>() {
    let mut set = Set::<B>::new();
    let mut table = set.table(39);
    set.map(&mut table, 0, 0, 600 * PAGE);
    set.attach(B::WRITER, stage_two(&table, TAG));
    set.arrives(0, 0);
    set.arrives(599 * PAGE, 599 * PAGE);
    let cut = table.unmap(span(0, 600 * PAGE));
    let batch: Vec<_> = (0..600)
        .map(|page| Invalidation::StageTwoRange {
            tag: CacheTag(TAG),
            range: span(page * PAGE, PAGE),
            leaf: false,
        })
        .collect();
    let before = set.driver.counters();
    set.driver.invalidate(&batch).expect("complete");
    let after = set.driver.counters();
    assert_eq!(after.descriptors - before.descriptors, 600);
    // All places of a page but two, of 16 or of 32 bytes.
    let turns = if B::SCALABLE { 5 } else { 3 };
    assert_eq!(after.waits - before.waits, turns);
    table.release(cut, Invalidated::complete());
    set.refused(0, FaultReason::Translation, Stage::Two);
    set.refused(599 * PAGE, FaultReason::Translation, Stage::Two);
}

pub fn losses_of_faults_are_told_and_got_over<B: Bench>() {
    let mut set = Set::<B>::new();
    for page in 0..40 {
        set.bench.write(page * PAGE);
        set.bench.read(page * PAGE);
    }
    let (faults, lost) = set.drain();
    assert!(lost && !faults.is_empty() && faults.len() < 80);
    assert_eq!(faults[0].iova, Some(Iova(0)), "the oldest is kept");
    assert_eq!(set.drain(), (Vec::new(), false), "told once");
    set.refused(0x5000, FaultReason::BadDeviceEntry, Stage::None);
}
