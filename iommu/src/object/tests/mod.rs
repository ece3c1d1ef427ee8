//! The objects on the mock: the error rows of each operation, what comes and goes with what, and every failure on the
//! way. Tests of a row are named by its command and errno.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

use super::driver::{Access, DeviceInfo, Driver, Memory, ReservedRegion, StageOne, UserData};
use super::mock::{Mock, Pieces};
use super::{Context, Device, Errno, Error, Ioas};
use crate::addr::{Iova, Span};
use crate::id::DeviceId;
use crate::physical::StageOneConfig;

mod attach;
mod events;
mod hwpt;
mod ioas;
mod lacks;
mod life;
mod lifecycle;
mod mappings;
mod nth;
#[cfg(loom)]
mod orders;
mod ring;
mod slice;
mod unit;

const K4: u64 = 0x1000;
const M2: u64 = 0x20_0000;
const NONE: UserData<'static> = UserData {
    kind: 0,
    bytes: &[],
};
const TABLE: StageOne = StageOne::Translate(StageOneConfig {
    format: 0,
    contexts: 0x4000,
    contexts_log2: 0,
    default_context: 0,
    inner: 0,
    outer: 0,
    shareability: 0,
    no_stall: false,
    ats: false,
});
const RW: Access = Access::READ.union(Access::WRITE);

/// One mock IOMMU and one context.
struct World {
    context: Context,
    mock: Arc<Mock>,
}

impl World {
    fn new() -> Self {
        Self {
            context: Context::new(1000, 16).unwrap(),
            mock: Mock::new(0),
        }
    }

    fn driver(&self) -> Arc<dyn Driver> {
        Arc::clone(&self.mock) as Arc<dyn Driver>
    }

    fn ioas(&self) -> Ioas {
        self.context.ioas().unwrap()
    }

    /// A device with one stream and a group of its own.
    fn device(&self, stream: u32) -> Device {
        self.device_like(stream, |_| {})
    }

    fn device_like(&self, stream: u32, change: impl FnOnce(&mut DeviceInfo<'_>)) -> Device {
        bind_to(&self.context, &self.mock, stream, change).unwrap()
    }

    /// All that the context and the hardware hold, to be compared.
    fn snapshot(&self) -> String {
        let inner = self.context.shared.lock();
        format!(
            "{:?} {:?} {}",
            inner.ids,
            inner.groups,
            self.mock.hardware()
        )
    }
}

fn bind_to(
    context: &Context,
    mock: &Arc<Mock>,
    stream: u32,
    change: impl FnOnce(&mut DeviceInfo<'_>),
) -> Result<Device, Error> {
    let streams = [DeviceId(stream)];
    let mut info = DeviceInfo {
        driver: Arc::clone(mock) as Arc<dyn Driver>,
        streams: &streams,
        group: stream,
        pasid_bits: 20,
        ats: false,
        reserved: &[],
        coherent: true,
        isolated_messages: true,
        shares_page_requests: false,
    };
    change(&mut info);
    context.bind(&info)
}

fn memory(base: u64, len: u64) -> Arc<dyn Memory> {
    Pieces::whole(base, len)
}

fn span(base: u64, len: u64) -> Span<Iova> {
    Span {
        base: Iova(base),
        len,
    }
}

const fn region(first: u64, last: u64, kind: super::driver::ReservedKind) -> ReservedRegion {
    ReservedRegion { first, last, kind }
}

/// The error number of a refusal.
#[track_caller]
fn errno<T>(result: Result<T, Error>) -> Errno {
    match result {
        Ok(_) => panic!("this is to be refused"),
        Err(error) => error.errno(),
    }
}
