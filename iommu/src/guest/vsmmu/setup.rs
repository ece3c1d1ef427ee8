//! What a guest's SMMU is made of: what there is, what of it is offered, and the ID registers that say so.

use super::contexts::ContextCopies;
use super::spec;
use crate::id::VirtDeviceId;
use crate::smmuv3::spec::registers::{IDR0_FIELDS, IDR1_FIELDS};
use crate::smmuv3::{Identity, Offer};

/// What a guest's SMMU is to be.
#[derive(Debug)]
pub struct Setup<B> {
    /// The ID registers of the hardware.
    pub hardware: Identity,
    /// What of it the guest is offered.
    pub offer: Offer,
    /// Interrupts and CMD_SYNCs may be messages.
    pub messages: bool,
    /// CMD_SYNC may wake CPUs.
    pub wake: bool,
    /// Bits of the guest's StreamIDs: 1 to 32.
    pub stream_bits: u8,
    /// log2 of the entries of the largest command queue: 1 to 19.
    pub command_queue_log2: u8,
    /// log2 of the entries of the largest event queue: 0 to 19.
    pub event_queue_log2: u8,
    /// log2 of the entries of the largest page request queue: 0 to 19. Only where page requests are offered.
    pub request_queue_log2: u8,
    /// What one call does at most, at least 1, in units of an invalidation or a CMD_SYNC without a signal. Any other
    /// command counts as 4, as 12 where others are to be complete before it, each of the two steps of a stream's
    /// configuration (to read it, to put it in force), the copy of a context and what is told to a device as 16 more, an event as 4. What is more than the whole is done by itself.
    pub budget: u32,
    /// Stalls and groups of page requests that can wait for the guest at once.
    pub waiting: u16,
    /// Nanoseconds that one of them may wait.
    pub patience_ns: u64,
    /// Memory for copies of contexts, where the hardware must not see the guest's own
    /// ([`Errata::copied_contexts`](crate::smmuv3::errata::Errata::copied_contexts)). There are no substreams then.
    pub contexts: Option<ContextCopies<B>>,
}

/// One device of the slice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Behind {
    /// Its StreamID for the guest.
    pub stream: VirtDeviceId,
    /// It may cache translations: what it says to be translated is believed.
    pub ats: bool,
}

/// Why there is no such SMMU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetupError {
    /// The hardware has no stage 1; its IDR0.
    NoStageOne(u32),
    /// A size that registers do not have.
    Size(u8),
    /// No budget.
    Budget,
    /// A stream twice, or wider than StreamIDs are.
    Stream(VirtDeviceId),
    /// More devices than there are copies of contexts.
    Devices(usize),
    /// No memory.
    OutOfMemory,
}

impl core::fmt::Display for SetupError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (what, value) = match *self {
            Self::NoStageOne(idr) => ("no stage 1: IDR0", Some(idr.into())),
            Self::Size(size) => ("a size that registers do not have:", Some(size.into())),
            Self::Budget => ("no budget", None),
            Self::Stream(stream) => ("a stream twice, or too wide:", Some(stream.0.into())),
            Self::Devices(count) => ("more devices than copies of contexts:", Some(count as u64)),
            Self::OutOfMemory => ("out of memory", None),
        };
        crate::text::write(f, what, value)
    }
}

impl core::error::Error for SetupError {}

/// What the guest's ID registers are.
pub(super) fn identity<B>(setup: &Setup<B>) -> Result<Identity, SetupError> {
    let idr0 = setup.hardware.idr[0];
    if idr0 & IDR0_FIELDS::S1P::SET.value == 0 {
        return Err(SetupError::NoStageOne(idr0));
    }
    let mut identity = setup.hardware.offered(&setup.offer);
    let sizes = [
        (setup.stream_bits, 1, 32),
        (setup.command_queue_log2, 1, 19),
        (setup.event_queue_log2, 0, 19),
        (setup.request_queue_log2, 0, 19),
    ];
    if let Some((size, ..)) = sizes
        .iter()
        .find(|(size, least, most)| !(least..=most).contains(&size))
    {
        return Err(SetupError::Size(*size));
    }
    if setup.budget == 0 {
        return Err(SetupError::Budget);
    }
    let [first, second, .., last] = &mut identity.idr;
    let flag = |on: bool, field: tock_registers::fields::Field<u32, IDR0_FIELDS::Register>| {
        field.val(on.into()).value
    };
    *first |= flag(setup.messages, IDR0_FIELDS::MSI)
        | flag(setup.wake, IDR0_FIELDS::SEV)
        | IDR0_FIELDS::ST_LEVEL::LinearAndTwoLevel.value;
    *second |= (IDR1_FIELDS::SIDSIZE.val(setup.stream_bits.into())
        + IDR1_FIELDS::EVENTQS.val(setup.event_queue_log2.into())
        + IDR1_FIELDS::CMDQS.val(setup.command_queue_log2.into()))
    .value;
    if *first & IDR0_FIELDS::PRI::SET.value != 0 {
        *second |= IDR1_FIELDS::PRIQS
            .val(setup.request_queue_log2.into())
            .value;
    }
    if setup.contexts.is_some() {
        *first &= !IDR0_FIELDS::CD2L::SET.value;
        *second &= !(IDR1_FIELDS::SSIDSIZE.mask << IDR1_FIELDS::SSIDSIZE.shift);
    }
    let terminate = IDR0_FIELDS::STALL_MODEL.mask << IDR0_FIELDS::STALL_MODEL.shift;
    if *first & terminate != IDR0_FIELDS::STALL_MODEL::Terminate.value {
        *last |= u32::from(setup.waiting) << spec::STALL_MAX_SHIFT;
    }
    Ok(identity)
}
