//! What the driver does, whatever SMMU it drives: each scenario runs on the crate's model and on QEMU's SMMU.

mod commands;
mod stage_one;
mod stage_two;

use std::sync::Arc;

use iommu::addr::{Hpa, Iova, Span};
use iommu::fault::{Fault, FaultReason, Stage};
use iommu::hal::{Mmio, Platform};
use iommu::id::{CacheTag, DeviceId, IommuIndex};
use iommu::physical::{Drained, Invalidated, Invalidation, PhysicalIommu, StageTwo, StreamConfig};
use iommu::smmuv3::{Smmu, event};
use iommu::table::{Attributes, StageTwoTable};

pub const PAGE: u64 = 4096;

/// What the device that writes writes.
pub const WORD: u32 = 0x1234_5678;

/// An SMMU out of reset with two devices behind it, one that writes and one that reads, and 16 MiB of memory of the
/// test's own.
pub trait Bench {
    type Platform: Platform + 'static;
    type Registers: Mmio + 'static;

    /// Where the memory is.
    const RAM: u64;
    /// The stream that writes.
    const WRITER: u32;
    /// The stream that reads.
    const READER: u32;

    fn new() -> Self;
    fn platform(&self) -> Arc<Self::Platform>;
    fn registers(&self) -> Self::Registers;
    fn load(&self, at: u64) -> u64;
    /// Visible to devices on return.
    fn store(&self, at: u64, value: u64);
    /// The first device writes [`WORD`]; whether it could.
    fn write(&self, iova: u64) -> bool;
    /// The other device reads; 0 if it could not.
    fn read(&self, iova: u64) -> u32;
}

type Driver<B> = Smmu<<B as Bench>::Platform, <B as Bench>::Registers>;
type Table<B> = StageTwoTable<<B as Bench>::Platform>;

/// A bench and a driver on it, which goes first.
struct Set<B: Bench> {
    driver: Driver<B>,
    bench: B,
}

impl<B: Bench> Set<B> {
    fn new() -> Self {
        let bench = B::new();
        let driver = Smmu::start(IommuIndex(0), bench.registers(), bench.platform());
        Self {
            driver: driver.expect("it starts"),
            bench,
        }
    }

    fn table(&self) -> Table<B> {
        let coherent = self.driver.features().coherent;
        StageTwoTable::new(self.bench.platform(), 39, coherent).expect("memory is there")
    }

    /// Maps `len` bytes of the test's memory, from `offset` on, at `at`.
    fn map(&self, table: &mut Table<B>, at: u64, offset: u64, len: u64, attributes: Attributes) {
        table
            .map(span(at, len), Hpa(B::RAM + offset), attributes)
            .expect("mapped");
    }

    fn attach(&mut self, stream: u32, config: StreamConfig) {
        self.driver
            .attach(DeviceId(stream), config)
            .expect("attached");
    }

    fn unmap(&mut self, table: &mut Table<B>, at: u64, len: u64, tag: u16) {
        let cut = table.unmap(span(at, len));
        let stale = cut.invalidation(CacheTag(tag));
        self.invalidate(stale);
        table.release(cut, Invalidated::complete());
    }

    fn invalidate(&mut self, entry: Invalidation) {
        self.driver.invalidate(&[entry]).expect("complete");
    }

    /// All records, and whether some were lost.
    fn drain(&mut self) -> (Vec<Fault>, bool) {
        let (mut all, mut any_lost) = (Vec::new(), false);
        loop {
            let mut faults = [event::decode(IommuIndex(0), [0; 4]); 16];
            let Drained { count, lost, more } = self.driver.drain_faults(&mut faults);
            all.extend_from_slice(&faults[..count]);
            any_lost |= lost;
            if !more {
                return (all, any_lost);
            }
        }
    }

    /// The write is refused, and its one record says why.
    fn refused(&mut self, iova: u64, reason: FaultReason, stage: Stage) {
        assert!(!self.bench.write(iova), "{iova:#x} passes");
        let (faults, lost) = self.drain();
        assert!(!lost);
        assert_eq!(faults.len(), 1, "{faults:?}");
        let fault = faults[0];
        assert_eq!(
            (fault.device, fault.reason, fault.stage),
            (DeviceId(B::WRITER), reason, stage)
        );
        if stage != Stage::None {
            assert_eq!(fault.iova, Some(Iova(iova)));
            // Where a context or its table could not be reached, QEMU has RnW of that fetch.
            let input = fault.raw[1] >> 40 & 3 == 2;
            assert!(fault.write || !input);
        }
    }

    /// The write passes and arrives in the test's memory at `offset`.
    fn arrives(&mut self, iova: u64, offset: u64) {
        let at = (B::RAM + offset) & !7;
        self.bench.store(at, 0);
        assert!(self.bench.write(iova), "{iova:#x} is refused");
        let expected = u64::from(WORD) << (offset % 8 * 8);
        assert_eq!(self.bench.load(at), expected, "{iova:#x}");
        assert!(self.drain().0.is_empty());
    }
}

fn span(at: u64, len: u64) -> Span<Iova> {
    Span::<Iova>::new(Iova(at), len).expect("no wrap")
}

fn stage_two<P: Platform>(table: &StageTwoTable<P>, tag: u16) -> StageTwo {
    StageTwo {
        tag: CacheTag(tag),
        root: table.root(),
        input_bits: table.input_bits(),
        ats: false,
    }
}

/// The scenarios, as tests of a bench.
macro_rules! scenarios {
    ($bench:ty, $attribute:tt) => {
        scenarios!(@each $bench, $attribute,
            every_stream_is_refused_and_recorded_from_the_start,
            a_device_reaches_what_stage_2_maps_and_nothing_else,
            what_is_read_only_is_read_and_not_written,
            what_is_unmapped_is_gone_once_it_is_invalidated,
            a_stream_that_is_closed_is_closed_without_a_word,
            a_stream_moves_to_another_table_and_tag,
            two_streams_keep_to_their_own_tables,
            a_driver_that_is_dropped_leaves_everything_closed,
            an_smmu_is_taken_over_by_a_second_driver,
            a_table_of_the_hosts_own_translates,
            a_context_changes_and_is_seen_to,
            both_stages_translate_and_each_fault_is_of_its_stage,
            each_invalidation_of_a_stage_1_takes_its_entry,
            what_stage_2_unmaps_is_gone_from_both_stages,
            what_could_not_be_read_is_told_with_its_address,
            a_refused_command_is_told_and_got_over,
            a_batch_longer_than_the_queue_is_complete,
            a_storm_of_faults_is_bounded_and_its_losses_are_told,
        );
    };
    (@each $bench:ty, $attribute:tt, $($name:ident,)*) => {
        $(scenarios!(@one $bench, $attribute, $name);)*
    };
    (@one $bench:ty, [$($attribute:meta)?], $name:ident) => {
        #[test]
        $(#[$attribute])?
        fn $name() {
            bench::run::$name::<$bench>();
        }
    };
}

/// All of them in one place.
pub mod run {
    pub use super::commands::{
        a_batch_longer_than_the_queue_is_complete, a_refused_command_is_told_and_got_over,
        a_storm_of_faults_is_bounded_and_its_losses_are_told,
    };
    pub use super::stage_one::{
        a_context_changes_and_is_seen_to, a_table_of_the_hosts_own_translates,
        both_stages_translate_and_each_fault_is_of_its_stage,
        each_invalidation_of_a_stage_1_takes_its_entry,
        what_could_not_be_read_is_told_with_its_address,
        what_stage_2_unmaps_is_gone_from_both_stages,
    };
    pub use super::stage_two::{
        a_device_reaches_what_stage_2_maps_and_nothing_else,
        a_driver_that_is_dropped_leaves_everything_closed, a_stream_moves_to_another_table_and_tag,
        a_stream_that_is_closed_is_closed_without_a_word, an_smmu_is_taken_over_by_a_second_driver,
        every_stream_is_refused_and_recorded_from_the_start, two_streams_keep_to_their_own_tables,
        what_is_read_only_is_read_and_not_written, what_is_unmapped_is_gone_once_it_is_invalidated,
    };
}
