//! A partition's files, put into its RAM as the arm64 boot protocol wants them (Linux booting.rst).

use crate::bundle::Bundle;
use crate::config::{self, ImageError, ImageHeader, NoRoom};
use crate::guest_tree::{GuestTree, Pcie};
use crate::life::Entry;
use crate::machine::GuestRam;
use crate::platform::Assigned;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use iommu::addr::Gpa;

/// What a partition is started with, again at each restart.
#[derive(Clone, Debug)]
pub struct Files {
    kernel: &'static [u8],
    initrd: &'static [u8],
    name: String,
    bootargs: String,
    vcpus: usize,
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
    /// The device tree became larger than the boot protocol allows; its length.
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
            pcie,
            smmus,
        })
    }

    /// Clears `ram` and puts everything in, with `platform` in the device tree; where vCPU 0 starts.
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
        let tree = tree.build();
        if tree.len() as u64 > place.dtb.len {
            return Err(LoadError::Tree(tree.len()));
        }
        ram.clear();
        put(ram, place.kernel.base, self.kernel)?;
        put(ram, place.initrd.base, self.initrd)?;
        put(ram, place.dtb.base, &tree)?;
        // The guest starts with its caches off: what we wrote must be in memory, and so must the zeros.
        ram.publish();
        Ok(Entry {
            pc: place.kernel.base.0,
            argument: place.dtb.base.0,
        })
    }
}

fn put(ram: &GuestRam, at: Gpa, bytes: &[u8]) -> Result<(), LoadError> {
    ram.fill(at, bytes)
        .map_err(|error| LoadError::Outside(error.0))
}
