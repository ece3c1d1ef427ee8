//! Rules on what a partition runs and what its devices may reach.

use super::super::placement::{NoRoom, place};
use super::super::{
    Bytes, Content, Key, MAX_CMDLINE, MAX_DMA_WINDOWS, MachineFacts, Partition, Path, Platform,
    Rule, Tables,
};
use super::Problems;
use iommu::addr::{Gpa, PAGE_SIZE, Span};

pub fn files(partition: &Partition, facts: &MachineFacts, at: Path, out: &mut Problems) {
    match (&partition.kernel, &partition.payload) {
        (None, None) => out.add(Rule::NoGuest, at),
        (Some(_), Some(_)) => {
            let kernel = Some(at.key(Key::Kernel));
            out.add_two(Rule::TwoGuests, at.key(Key::Payload), kernel);
        }
        _ => {}
    }
    if partition.kernel.is_none() && partition.initrd.is_some() {
        out.add(Rule::InitrdWithoutKernel, at.key(Key::Initrd));
    }
    let bootable = [
        (partition.kernel.as_deref(), Key::Kernel),
        (partition.payload.as_deref(), Key::Payload),
    ];
    let initrd = partition
        .initrd
        .as_deref()
        .and_then(|name| length(name, facts, at.key(Key::Initrd), out));
    for (name, key) in bootable {
        let Some(name) = name else { continue };
        if length(name, facts, at.key(key), out).is_none() {
            continue;
        }
        let Some(Content::Bytes { image, .. }) = facts.file(name).map(|f| f.content) else {
            continue;
        };
        // Of a PC's kernels [`crate::pc_boot`] says whether they can be started.
        if facts.platform() == Platform::X86_64 {
            continue;
        }
        match image {
            Err(error) => out.add(Rule::NotAnImage { error }, at.key(key)),
            Ok(image) => {
                let memory = partition.memory;
                if let Err(NoRoom { needed }) = place(memory.get(), image, initrd.unwrap_or(0)) {
                    let needed = Bytes(needed);
                    out.add(Rule::GuestTooLarge { needed, memory }, at.key(Key::Memory));
                }
            }
        }
    }
}

/// Length of a file that is there and not empty, if known.
fn length(name: &str, facts: &MachineFacts, at: Path, out: &mut Problems) -> Option<u64> {
    match facts.file(name).map(|f| f.content) {
        None => out.add(Rule::FileMissing, at),
        Some(Content::Bytes { len: 0, .. }) => out.add(Rule::FileEmpty, at),
        Some(Content::Bytes { len, .. }) => return Some(len),
        Some(Content::NotBuilt) => {}
    }
    None
}

pub fn cmdline(partition: &Partition, at: Path, out: &mut Problems) {
    let Some(cmdline) = &partition.cmdline else {
        return;
    };
    let at = at.key(Key::Cmdline);
    if cmdline.len() > MAX_CMDLINE {
        out.add(Rule::CmdlineTooLong { len: cmdline.len() }, at);
    }
    if let Some(character) = cmdline.chars().find(|c| c.is_control()) {
        out.add(Rule::CmdlineIllFormed { character }, at);
    }
}

pub fn tables(partition: &Partition, at: Path, out: &mut Problems) {
    if partition.tables == Tables::Acpi && partition.kernel.is_none() && partition.payload.is_some()
    {
        let other = Some(at.key(Key::Payload));
        out.add_two(Rule::AcpiForPayload, at.key(Key::Tables), other);
    }
}

pub fn dma_windows(partition: &Partition, platform: Platform, at: Path, out: &mut Problems) {
    let windows = &partition.dma_windows;
    let list = at.key(Key::DmaWindow);
    if windows.len() > MAX_DMA_WINDOWS {
        let count = windows.len();
        out.add(Rule::TooManyWindows { count }, list.index(MAX_DMA_WINDOWS));
    }
    if partition.memory.get() == 0 {
        return;
    }
    let [low, high] = platform.ram(partition.memory.get().min(platform.max_memory()));
    for (i, window) in windows.iter().enumerate() {
        let at = list.index(i);
        for (value, key) in [(window.base, Key::Base), (window.size, Key::Size)] {
            if !value.get().is_multiple_of(PAGE_SIZE) {
                out.add(Rule::WindowUnaligned { value }, at.key(key));
            }
        }
        let (base, len) = (window.base.get(), window.size.get());
        if len == 0 {
            out.add(Rule::WindowZero, at.key(Key::Size));
            continue;
        }
        let ram = match high.len != 0 && Gpa(base) >= high.base {
            true => high,
            false => low,
        };
        let span = Span::<Gpa>::new(Gpa(base), len).filter(|span| ram.covers(span));
        let Some(span) = span else {
            let end = base.saturating_add(len);
            let outside = match ram.contains(Gpa(base)) {
                true => at.key(Key::Size),
                false => at.key(Key::Base),
            };
            out.add(Rule::WindowOutsideRam { base, end, ram }, outside);
            continue;
        };
        let overlaps = windows[..i].iter().position(|other| {
            Span::<Gpa>::new(Gpa(other.base.get()), other.size.get())
                .is_some_and(|other| other.len != 0 && other.overlaps(&span))
        });
        if let Some(first) = overlaps {
            out.add_two(Rule::WindowOverlap, at, Some(list.index(first)));
        }
    }
}
