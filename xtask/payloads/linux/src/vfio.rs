//! VFIO with a container and a group (Linux `include/uapi/linux/vfio.h`): one function, and what it may reach.

use crate::system::{Errno, File, Text, read_link};
use core::ffi::CStr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

// Requests: _IO(';', 100 + n).
const GET_API_VERSION: usize = 0x3b64;
const CHECK_EXTENSION: usize = 0x3b65;
const SET_IOMMU: usize = 0x3b66;
const GROUP_GET_STATUS: usize = 0x3b67;
const GROUP_SET_CONTAINER: usize = 0x3b68;
const GROUP_GET_DEVICE: usize = 0x3b6a;
const DEVICE_GET_REGION: usize = 0x3b6c;
const MAP_DMA: usize = 0x3b71;
const UNMAP_DMA: usize = 0x3b72;

/// VFIO_TYPE1v2_IOMMU.
const TYPE1_V2: usize = 3;
/// VFIO_GROUP_FLAGS_VIABLE.
const VIABLE: u32 = 1;
/// VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX.
const BAR0: u32 = 0;
const CONFIG: u32 = 7;
/// Device reads, device writes.
pub const READ: u32 = 1;
/// See [`READ`].
pub const WRITE: u32 = 2;

#[repr(C)]
struct GroupStatus {
    size: u32,
    flags: u32,
}

#[repr(C)]
struct Region {
    size: u32,
    flags: u32,
    index: u32,
    capabilities: u32,
    len: u64,
    offset: u64,
}

#[repr(C)]
struct Map {
    size: u32,
    flags: u32,
    address: u64,
    iova: u64,
    len: u64,
}

#[repr(C)]
struct Unmap {
    size: u32,
    flags: u32,
    iova: u64,
    len: u64,
}

/// What does not work, and why.
#[derive(Clone, Copy, Debug)]
pub struct Failed(pub &'static str, pub Errno);

fn at(step: &'static str) -> impl Fn(Errno) -> Failed {
    move |error| Failed(step, error)
}

/// A function that this program drives, alone in its group and its container.
pub struct Device {
    /// First, so that it is closed first.
    device: File,
    _group: File,
    container: File,
    registers: usize,
}

impl Device {
    /// Takes the function at `address` (`0000:00:02.0`) from whichever driver has it, and lets it do DMA: none of its
    /// addresses is mapped.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn take(address: &CStr) -> Result<Self, Failed> {
        let group = bind(address)?;
        let container = File::open(c"/dev/vfio/vfio").map_err(at("the container"))?;
        let path = Text::new(format_args!("/dev/vfio/{group}"));
        let group = File::open(path.path()).map_err(at("the group"))?;
        // SAFETY: takes no argument.
        let version = unsafe { container.ioctl(GET_API_VERSION, 0) };
        if version != Ok(0) {
            return Err(Failed("version 0 of the interface", Errno(0)));
        }
        // SAFETY: takes a number.
        let type1 = unsafe { container.ioctl(CHECK_EXTENSION, TYPE1_V2) };
        if type1 != Ok(1) {
            return Err(Failed("an IOMMU", Errno(0)));
        }
        let mut status = GroupStatus {
            size: size_of::<GroupStatus>() as u32,
            flags: 0,
        };
        // SAFETY: takes such a record.
        unsafe { group.ioctl(GROUP_GET_STATUS, &raw mut status as usize) }.map_err(at("status"))?;
        if status.flags & VIABLE == 0 {
            return Err(Failed("a group that is viable", Errno(0)));
        }
        let descriptor = container.descriptor() as i32;
        // SAFETY: takes a pointer to a descriptor.
        unsafe { group.ioctl(GROUP_SET_CONTAINER, &raw const descriptor as usize) }
            .map_err(at("the group in the container"))?;
        // SAFETY: takes a number.
        unsafe { container.ioctl(SET_IOMMU, TYPE1_V2) }.map_err(at("the IOMMU"))?;
        // SAFETY: takes a string with a NUL.
        let device = unsafe { group.ioctl(GROUP_GET_DEVICE, address.as_ptr() as usize) };
        let device = File::of_descriptor(device.map_err(at("the device"))?);

        let config = region(&device, CONFIG)?;
        // PCI command register: memory space and bus mastering.
        const COMMAND: u64 = 4;
        let command = device
            .read16(config.offset + COMMAND)
            .map_err(at("config"))?;
        device
            .write16(config.offset + COMMAND, command | 6)
            .map_err(at("config"))?;
        let bar = region(&device, BAR0)?;
        let registers = device
            .map(bar.offset, bar.len as usize)
            .map_err(at("BAR 0"))?;
        Ok(Self {
            device,
            _group: group,
            container,
            registers,
        })
    }

    /// Lets the device reach `memory` at `iova`; `access` is of [`READ`] and [`WRITE`].
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn map_dma(
        &self,
        iova: u64,
        memory: &'static [AtomicU64],
        access: u32,
    ) -> Result<(), Failed> {
        let mut map = Map {
            size: size_of::<Map>() as u32,
            flags: access,
            address: memory.as_ptr() as u64,
            iova,
            len: size_of_val(memory) as u64,
        };
        // SAFETY: takes such a record; the memory stays for as long as the program, and devices may write it.
        let mapped = unsafe { self.container.ioctl(MAP_DMA, &raw mut map as usize) };
        mapped.map(drop).map_err(at("mapping"))
    }

    /// Takes `len` bytes at `iova` away again.
    ///
    /// # Errors
    /// What the kernel refuses; fewer bytes than that were mapped.
    pub fn unmap_dma(&self, iova: u64, len: u64) -> Result<(), Failed> {
        let mut unmap = Unmap {
            size: size_of::<Unmap>() as u32,
            flags: 0,
            iova,
            len,
        };
        // SAFETY: takes such a record.
        let unmapped = unsafe { self.container.ioctl(UNMAP_DMA, &raw mut unmap as usize) };
        unmapped.map_err(at("unmapping"))?;
        match unmap.len == len {
            true => Ok(()),
            false => Err(Failed("unmapping all of it", Errno(0))),
        }
    }

    /// Reads 32 bits of BAR 0.
    pub fn read32(&self, offset: usize) -> u32 {
        // SAFETY: BAR 0 is mapped for as long as the program, and every scenario's registers lie in it, aligned; atomics,
        // because it changes by itself.
        unsafe { &*((self.registers + offset) as *const AtomicU32) }.load(Ordering::Relaxed)
    }

    /// Writes 32 bits of BAR 0.
    pub fn write32(&self, offset: usize, value: u32) {
        // SAFETY: as in `read32`.
        let register = unsafe { &*((self.registers + offset) as *const AtomicU32) };
        register.store(value, Ordering::Relaxed);
    }

    /// The device's own file.
    pub fn file(&self) -> &File {
        &self.device
    }
}

/// Has vfio-pci drive the function; the number of its group.
fn bind(address: &CStr) -> Result<u32, Failed> {
    let name = address.to_str().unwrap_or_default();
    let of = |file: &str| Text::new(format_args!("/sys/bus/pci/devices/{name}/{file}"));
    File::put(of("driver_override").path(), b"vfio-pci").map_err(at("choosing the driver"))?;
    // Fails where it has none.
    let _ = File::put(of("driver/unbind").path(), address.to_bytes());
    File::put(c"/sys/bus/pci/drivers_probe", address.to_bytes()).map_err(at("binding"))?;
    let mut buffer = [0; 128];
    let link = read_link(of("iommu_group").path(), &mut buffer).map_err(at("a group"))?;
    let number = link.rsplit(|byte| *byte == b'/').next();
    number
        .and_then(|number| core::str::from_utf8(number).ok()?.parse().ok())
        .ok_or(Failed("the number of the group", Errno(0)))
}

fn region(device: &File, index: u32) -> Result<Region, Failed> {
    let mut region = Region {
        size: size_of::<Region>() as u32,
        flags: 0,
        index,
        capabilities: 0,
        len: 0,
        offset: 0,
    };
    // SAFETY: takes such a record.
    unsafe { device.ioctl(DEVICE_GET_REGION, &raw mut region as usize) }.map_err(at("a region"))?;
    Ok(region)
}
