//! A partition's files, put into its RAM as the arm64 boot protocol wants them (Linux booting.rst).

use crate::bundle::Bundle;
use crate::config::{self, ImageError, ImageHeader, NoRoom, Tables};
use crate::guest_acpi::{self, Places};
use crate::guest_ram::GuestRam;
use crate::guest_tree::{GuestTree, Pcie};
use crate::life::Entry;
use crate::platform::Assigned;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use iommu::addr::{Gpa, Span};

/// What a partition is started with, again at each restart.
#[derive(Clone, Debug)]
pub struct Files {
    kernel: &'static [u8],
    initrd: &'static [u8],
    name: String,
    bootargs: String,
    vcpus: usize,
    tables: Tables,
    pcie: Option<Pcie>,
    smmus: Vec<Vec<u16>>,
}

/// Why a partition cannot be loaded. Validation has refused all of these before, on the same files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoadError {
    /// The bundle lacks its kernel, payload or initrd.
    Missing,
    /// The kernel or payload cannot be booted.
    Image(ImageError),
    /// The files do not fit.
    NoRoom(NoRoom),
    /// The device tree, or a part of the ACPI tables, became larger than its place; its length.
    Tree(usize),
    /// A file would lie outside RAM, at this address.
    Outside(Gpa),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("a file is missing"),
            Self::Image(error) => error.fmt(f),
            Self::NoRoom(NoRoom { needed }) => write!(f, "its files need {needed:#x} bytes"),
            Self::Tree(len) => write!(f, "its device tree has {len:#x} bytes"),
            Self::Outside(at) => write!(f, "a file would lie at {at}"),
        }
    }
}

impl Files {
    /// Finds the files that `partition` names. `smmus`: requester IDs behind each SMMU that it sees.
    pub fn find(
        bundle: &Bundle<'static>,
        partition: &config::Partition,
        pcie: Option<Pcie>,
        smmus: Vec<Vec<u16>>,
    ) -> Result<Self, LoadError> {
        let file = |name: &Option<String>| match name {
            Some(name) => bundle.file(name).ok_or(LoadError::Missing),
            None => Ok(&[][..]),
        };
        let code = partition
            .kernel
            .clone()
            .or_else(|| partition.payload.clone());
        Ok(Self {
            kernel: file(&code)?,
            initrd: file(&partition.initrd)?,
            name: partition.name.clone(),
            bootargs: partition.cmdline.clone().unwrap_or_default(),
            vcpus: partition.cpus.len(),
            tables: partition.tables,
            pcie,
            smmus,
        })
    }

    /// Clears `ram` and puts everything in, with `platform` in a device tree; where vCPU 0 starts.
    pub fn load(&self, ram: &GuestRam, platform: &[Assigned]) -> Result<Entry, LoadError> {
        let header = ImageHeader::parse(self.kernel).map_err(LoadError::Image)?;
        let guest = ram.guest();
        let place = config::place(guest.len, header, self.initrd.len() as u64)
            .map_err(LoadError::NoRoom)?;
        let memory = [guest];
        let tree = GuestTree {
            name: &self.name,
            vcpus: self.vcpus,
            memory: &memory,
            bootargs: &self.bootargs,
            initrd: (place.initrd.len != 0).then_some(place.initrd),
            pcie: self.pcie,
            smmus: &self.smmus,
            platform,
        };
        let tables = match self.tables {
            Tables::DeviceTree => device_tree(&tree, place.dtb)?,
            Tables::Acpi => acpi(&tree, place.dtb)?,
        };
        ram.clear();
        put(ram, place.kernel.base, self.kernel)?;
        put(ram, place.initrd.base, self.initrd)?;
        for (at, bytes) in &tables {
            put(ram, *at, bytes)?;
        }
        // The guest starts with its caches off: what we wrote must be in memory, and so must the zeros.
        ram.publish();
        Ok(Entry {
            pc: place.kernel.base.0,
            argument: place.dtb.base.0,
        })
    }
}

/// What goes into a guest's RAM to describe it, and where; the tree that it starts with comes first.
type Described = Vec<(Gpa, Vec<u8>)>;

fn device_tree(guest: &GuestTree<'_>, room: Span<Gpa>) -> Result<Described, LoadError> {
    let tree = guest.build();
    if tree.len() as u64 > room.len {
        return Err(LoadError::Tree(tree.len()));
    }
    Ok(alloc::vec![(room.base, tree)])
}

fn acpi(guest: &GuestTree<'_>, room: Span<Gpa>) -> Result<Described, LoadError> {
    let places = Places::from(room.base);
    let built = guest_acpi::build(guest, &places);
    if let Some(len) = built.too_large() {
        return Err(LoadError::Tree(len));
    }
    Ok(alloc::vec![
        (places.tree, built.tree),
        (places.acpi.base, built.acpi),
        (places.efi.base, built.efi),
    ])
}

fn put(ram: &GuestRam, at: Gpa, bytes: &[u8]) -> Result<(), LoadError> {
    ram.fill(at, bytes)
        .map_err(|error| LoadError::Outside(error.0))
}
