//! A bundle that was cut or changed anywhere is refused or read within its bounds, never past them.

use super::*;
use crate::config::{Bytes, Identity, OnFault, Partition, Tables};
use alloc::string::ToString;
use alloc::vec;

fn machine() -> Machine {
    Machine {
        machine: Identity {
            name: "m".to_string(),
            qemu: None,
            board: None,
            sriov: vec![crate::config::Sriov {
                address: "0001:02:03.0".parse().unwrap(),
                vfs: 3,
            }],
        },
        partitions: vec![Partition {
            name: "p".to_string(),
            memory: Bytes(32 << 20),
            base: Some(Bytes(0x8000_0000)),
            cpus: vec![1, 0],
            kernel: Some("k".to_string()),
            initrd: None,
            cmdline: Some("quiet".to_string()),
            payload: None,
            autostart: false,
            viommu: false,
            tables: Tables::DeviceTree,
            restart: true,
            on_fault: OnFault::default(),
            devices: vec![crate::config::Device {
                address: "0001:02:03.4".parse().unwrap(),
                guest: Some("00:05.0".parse().unwrap()),
                reset: crate::config::ResetPolicy::BestEffort,
                dma: false,
                manages_vfs: true,
                ats: true,
                reserved_memory: true,
            }],
            dma_windows: vec![crate::config::DmaWindow {
                base: Bytes(0x4000_0000),
                size: Bytes(4096),
            }],
        }],
    }
}

fn bundle() -> Vec<u8> {
    let mut builder = Builder::new();
    builder.config(&machine()).unwrap();
    builder.file("k", vec![0xaa; 5000]).unwrap();
    builder.file("initrd", vec![0x55; 100]).unwrap();
    builder.symbols(vec![1, 2, 3]).unwrap();
    builder.finish()
}

/// Touches all that a reader can reach.
fn read_all(bytes: &[u8]) -> Result<usize, BundleError> {
    let bundle = Bundle::parse(bytes)?;
    let sum = bundle
        .entries()
        .map(|e| e.data.len() + e.name.len() + e.offset)
        .sum::<usize>();
    bundle.config()?;
    Ok(sum)
}

#[test]
fn what_goes_in_comes_out() {
    let bytes = bundle();
    let bundle = Bundle::parse(&bytes).unwrap();
    assert_eq!(bundle.config().unwrap(), machine());
    assert_eq!(bundle.file("k").unwrap(), vec![0xaa; 5000]);
    assert_eq!(bundle.file("initrd").unwrap(), vec![0x55; 100]);
    assert_eq!(bundle.file("symbols"), None);
    assert_eq!(bundle.symbols().unwrap(), [1, 2, 3]);
    assert_eq!(bundle.len(), bytes.len());
    assert!(bundle.entries().all(|e| e.offset % FILE_ALIGN == 0));
}

#[test]
fn the_layout_is_the_documented_one() {
    let bytes = bundle();
    assert_eq!(&bytes[..8], b"SLUICEB1");
    assert_eq!(bytes[8..16], [3, 0, 0, 0, 4, 0, 0, 0]);
    assert_eq!(bytes[16..24], (bytes.len() as u64).to_le_bytes());
    // Second entry: file "k" at 0x2000, 5000 bytes.
    let entry = &bytes[24 + 72..24 + 144];
    assert_eq!(entry[..9], [2, 0, 0, 0, 1, 0, 0, 0, b'k']);
    assert_eq!(entry[56..64], [0, 0x20, 0, 0, 0, 0, 0, 0]);
    assert_eq!(entry[64..72], [0x88, 0x13, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn every_truncation_is_refused() {
    let bytes = bundle();
    for len in 0..bytes.len() {
        assert!(read_all(&bytes[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn what_follows_the_bundle_is_ignored() {
    let mut bytes = bundle();
    let len = bytes.len();
    bytes.extend_from_slice(&[0xff; 77]);
    assert_eq!(Bundle::parse(&bytes).unwrap().len(), len);
}

#[test]
fn no_mutation_panics() {
    let good = bundle();
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (mut refused, mut read) = (0, 0);
    for _ in 0..50_000 {
        let mut bytes = good.clone();
        for _ in 0..1 + random() % 4 {
            // Tables and configuration only: nothing interprets what the files hold.
            let at = random() as usize % (4096 + 200);
            bytes[at] = random() as u8;
        }
        match read_all(&bytes) {
            Ok(_) => read += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(
        refused > 1000 && read > 1000,
        "{refused} refused, {read} read"
    );
}

#[test]
fn the_extreme_value_of_each_field_is_refused() {
    let good = bundle();
    let with = |at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        Bundle::parse(&bytes).map(|_| ())
    };
    let max = u64::MAX.to_le_bytes();
    assert_eq!(with(0, b"X"), Err(BundleError::Magic));
    assert_eq!(with(8, &[1]), Err(BundleError::Version(1)));
    assert_eq!(with(12, &max[..4]), Err(BundleError::Entries(u32::MAX)));
    assert_eq!(with(16, &max), Err(BundleError::Length(u64::MAX)));
    let file = 24 + 72;
    assert_eq!(with(file, &[9]), Err(BundleError::Kind(1, 9)));
    assert_eq!(with(file + 4, &[49]), Err(BundleError::Name(1)));
    assert_eq!(with(file + 4, &max[..4]), Err(BundleError::Name(1)));
    assert_eq!(with(file + 8, &[0xff]), Err(BundleError::Name(1)));
    assert_eq!(with(file + 10, b"x"), Err(BundleError::Name(1)));
    assert_eq!(with(file + 56, &max), Err(BundleError::Bounds(1)));
    assert_eq!(with(file + 56, &[0; 8]), Err(BundleError::Bounds(1)));
    assert_eq!(with(file + 56, &[1]), Err(BundleError::Align(1)));
    assert_eq!(with(file + 64, &max), Err(BundleError::Bounds(1)));
}

#[test]
fn two_entries_of_one_name_are_refused() {
    let mut builder = Builder::new();
    builder.file("a", vec![]).unwrap();
    assert_eq!(builder.file("a", vec![]), Err(BuildError::Twice));
    builder.file("b", vec![]).unwrap();
    let mut bytes = builder.finish();
    bytes[24 + 72 + 8] = b'a';
    assert_eq!(
        Bundle::parse(&bytes).map(|_| ()),
        Err(BundleError::Twice(1))
    );
}

#[test]
fn a_configuration_with_bytes_left_over_is_refused() {
    let mut data = record::write(&machine());
    data.push(0);
    let mut builder = Builder::new();
    builder.add(Kind::Config, "config", data).unwrap();
    let bytes = builder.finish();
    let bundle = Bundle::parse(&bytes).unwrap();
    assert_eq!(bundle.config(), Err(BundleError::Config));
}

#[test]
fn names_that_do_not_fit_are_refused() {
    let mut builder = Builder::new();
    let long = "n".repeat(49);
    assert_eq!(
        builder.file(&long, vec![]),
        Err(BuildError::NameTooLong(49))
    );
    assert_eq!(builder.file(&long[..48], vec![]), Ok(()));
}
