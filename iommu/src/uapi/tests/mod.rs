//! The ABI from outside: numbers, layouts and errors as they are written down for Linux, on the mock.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use std::cell::RefCell;

use super::{Caller, Queue, ioctl};
use crate::id::DeviceId;
use crate::object::driver::{DeviceInfo, Driver, Memory};
use crate::object::mock::{Mock, Pieces};
use crate::object::{Context, Device, Errno};

mod hwpt;
mod ioas;
mod layouts;
mod queues;
mod sizes;
mod slice;

/// Where the caller's own memory is, and what it can map.
const BASE: u64 = 0x1_0000;
const BYTES: usize = 0x1_0000;
const MAPPABLE: u64 = 0x100_0000;
const K4: u64 = 0x1000;

/// A caller.
struct Outside {
    memory: RefCell<Vec<u8>>,
    open: Vec<Queue>,
    descriptors: usize,
}

impl Caller for Outside {
    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        let memory = self.memory.borrow();
        bytes.copy_from_slice(part(&memory, at, bytes.len())?);
        Ok(())
    }
    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Errno> {
        let mut memory = self.memory.borrow_mut();
        part(&memory, at, bytes.len())?;
        let at = (at - BASE) as usize;
        memory[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
    fn memory(&self, at: u64, len: u64) -> Result<(Arc<dyn Memory>, u64), Errno> {
        let end = MAPPABLE + 64 * K4;
        if at < MAPPABLE || at + len > end {
            return Err(Errno::EFAULT);
        }
        Ok((Pieces::whole(0x8000_0000, 64 * K4), at - MAPPABLE))
    }
    fn file(&self, fd: i32) -> Result<Arc<dyn Memory>, Errno> {
        match fd {
            3 => Ok(Pieces::whole(0x9000_0000, 4 * K4)),
            _ => Err(Errno::EBADF),
        }
    }
    fn open(&mut self, queue: Queue) -> Result<i32, Errno> {
        if self.open.len() == self.descriptors {
            return Err(Errno::ENOSPC);
        }
        self.open.push(queue);
        Ok(self.open.len() as i32 + 10)
    }
}

fn part(memory: &[u8], at: u64, len: usize) -> Result<&[u8], Errno> {
    let at = at.checked_sub(BASE).ok_or(Errno::EFAULT)? as usize;
    memory.get(at..at.saturating_add(len)).ok_or(Errno::EFAULT)
}

/// A context with a device, and somebody outside.
struct World {
    context: Context,
    mock: Arc<Mock>,
    device: Device,
    outside: Outside,
}

/// Fields of an argument: offset, bytes, value.
type Fields<'a> = &'a [(usize, usize, u64)];

fn argument(size: usize, fields: Fields<'_>) -> Vec<u8> {
    let mut bytes = vec![0; size];
    bytes[..4].copy_from_slice(&(size as u32).to_le_bytes());
    for (at, len, value) in fields {
        bytes[*at..at + len].copy_from_slice(&value.to_le_bytes()[..*len]);
    }
    bytes
}

fn field(bytes: &[u8], at: usize, len: usize) -> u64 {
    let mut whole = [0; 8];
    whole[..len].copy_from_slice(&bytes[at..at + len]);
    u64::from_le_bytes(whole)
}

impl World {
    fn new() -> Self {
        let context = Context::new(1000, 16).unwrap();
        let mock = Mock::new(0);
        let device = bind(&context, &mock, 1);
        Self {
            context,
            mock,
            device,
            outside: Outside {
                memory: RefCell::new(vec![0; BYTES]),
                open: Vec::new(),
                descriptors: 8,
            },
        }
    }

    fn id(&self) -> u64 {
        self.device.id().into()
    }

    /// Makes a request; its argument afterwards.
    fn ask(&mut self, request: u32, mut bytes: Vec<u8>) -> (Result<(), Errno>, Vec<u8>) {
        let result = ioctl(&self.context, &mut self.outside, request, &mut bytes);
        (result, bytes)
    }

    /// A request that has to succeed.
    #[track_caller]
    fn done(&mut self, request: u32, size: usize, fields: Fields<'_>) -> Vec<u8> {
        let (result, bytes) = self.ask(request, argument(size, fields));
        assert_eq!(result, Ok(()), "{request:#x}");
        bytes
    }

    /// A request that has to fail; nothing of its argument changes.
    #[track_caller]
    fn errno(&mut self, request: u32, size: usize, fields: Fields<'_>) -> Errno {
        let before = argument(size, fields);
        let (result, after) = self.ask(request, before.clone());
        assert_eq!(before, after, "outputs of a failure");
        result.expect_err("this is to be refused")
    }

    fn store(&mut self, at: u64, bytes: &[u8]) {
        self.outside.write(at, bytes).unwrap();
    }

    fn load(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.outside.read(at, &mut bytes).unwrap();
        bytes
    }

    fn ioas(&mut self) -> u64 {
        field(&self.done(0x3b81, 12, &[]), 8, 4)
    }

    fn hwpt(&mut self, ioas: u64, flags: u64) -> u64 {
        let fields = [(4, 4, flags), (8, 4, self.id()), (12, 4, ioas)];
        field(&self.done(0x3b89, 48, &fields), 16, 4)
    }

    /// An address space with a nest parent, and a slice on that.
    fn slice(&mut self) -> (u64, u64, u64) {
        let ioas = self.ioas();
        let parent = self.hwpt(ioas, 1);
        let fields = [(8, 4, 0xdead_beef), (12, 4, self.id()), (16, 4, parent)];
        let slice = field(&self.done(0x3b90, 40, &fields), 20, 4);
        (ioas, parent, slice)
    }

    fn map(&mut self, ioas: u64, iova: u64, len: u64) {
        let fields = [
            (4, 4, 7),
            (8, 4, ioas),
            (16, 8, MAPPABLE),
            (24, 8, len),
            (32, 8, iova),
        ];
        self.done(0x3b85, 40, &fields);
    }
}

fn bind(context: &Context, mock: &Arc<Mock>, stream: u32) -> Device {
    let streams = [DeviceId(stream)];
    let info = DeviceInfo {
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
    context.bind(&info).unwrap()
}
