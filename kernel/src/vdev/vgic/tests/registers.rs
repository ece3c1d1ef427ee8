//! Every offset, every size: nothing panics, and what is refused is counted.

use super::machine::Machine;
use crate::vdev::vgic::{Vgic, VgicError};

const VALUES: [u64; 4] = [0, u64::MAX, 0x5555_5555_5555_5555, 0x8000_0001];

#[test]
fn every_access_to_every_offset_is_survived() {
    let mut vgic = Vgic::new(&[0, 1], 70).unwrap();
    vgic.link_ppi(0, 27, 27).unwrap();
    vgic.link_spi(40, 40).unwrap();
    for size in [1, 2, 4, 8] {
        for value in VALUES {
            for offset in 0..0x1_0000 {
                vgic.write_distributor(1, offset, size, value);
                let read = vgic.read_distributor(offset, size).value;
                assert!(
                    size == 8 || read >> (8 * size) == 0,
                    "{offset:#x} reads more than {size} bytes"
                );
            }
            for offset in 0..0x4_1000 {
                vgic.write_redistributor(offset, size, value);
                let read = vgic.read_redistributor(offset, size).value;
                assert!(
                    size == 8 || read >> (8 * size) == 0,
                    "{offset:#x} reads more than {size} bytes"
                );
            }
        }
    }
    for offset in [u64::MAX, 1 << 40] {
        vgic.write_distributor(0, offset, 4, 1);
        vgic.write_redistributor(offset, 4, 1);
        vgic.read_redistributor(offset, 4);
    }
    // And it still works.
    let mut machine = Machine::new(2, 4, 0);
    machine.vgic.inject_spi(40);
}

#[test]
fn sizes_that_the_architecture_does_not_allow_read_as_zero_and_are_counted() {
    let mut vgic = Vgic::new(&[0], 0).unwrap();
    vgic.write_distributor(0, 0x84, 4, 0xffff_ffff);
    vgic.write_distributor(0, 0x6100, 8, 0x1_0000_0007);
    let before = vgic.misuse();
    let refused = [
        (0x84, 1),
        (0x84, 2),
        (0x84, 8),
        (0x85, 4),
        (0x420, 2),
        (0x422, 4),
        (0, 8),
        (0x6100, 2),
        (0x6104, 8),
    ];
    for (n, (offset, size)) in (1..).zip(refused) {
        assert_eq!(
            vgic.read_distributor(offset, size).value,
            0,
            "{offset:#x}/{size}"
        );
        assert_eq!(vgic.misuse(), before + n, "{offset:#x}/{size}");
    }
    assert_eq!(vgic.read_distributor(0x6100, 4).value, 7);
    assert_eq!(vgic.read_distributor(0x6104, 4).value, 1);
}

#[test]
fn registers_keep_what_they_are_given() {
    let mut vgic = Vgic::new(&[0, 0x0102_0304], 0).unwrap();
    vgic.write_distributor(0, 0x424, 4, 0xffff_ff1f);
    vgic.write_distributor(0, 0x425, 1, 0x47);
    assert_eq!(
        vgic.read_distributor(0x424, 4).value,
        0xf8f8_4018,
        "32 priority levels"
    );
    assert_eq!(vgic.read_distributor(0x427, 1).value, 0xf8);
    vgic.write_distributor(0, 0xc08, 4, 0xffff_ffff);
    assert_eq!(vgic.read_distributor(0xc08, 4).value, 0xaaaa_aaaa);
    vgic.write_distributor(0, 0x6108, 8, u64::MAX);
    assert_eq!(vgic.read_distributor(0x6108, 8).value, 0xff_80ff_ffff);
    vgic.write_distributor(0, 0x610c, 4, 0x12);
    assert_eq!(vgic.read_distributor(0x6108, 8).value, 0x12_80ff_ffff);
    assert_eq!(
        vgic.read_redistributor(0x2_0008, 8).value,
        0x0102_0304_0000_0110
    );
    assert_eq!(vgic.read_redistributor(0x2_000c, 4).value, 0x0102_0304);
    assert_eq!(
        vgic.read_redistributor(0x1_0c00, 4).value,
        0xaaaa_aaaa,
        "SGIs are edges"
    );
    vgic.write_redistributor(0x1_0c00, 4, 0);
    assert_eq!(vgic.read_redistributor(0x1_0c00, 4).value, 0xaaaa_aaaa);
    vgic.write_redistributor(0x1_0100, 4, 0x0800_8000);
    vgic.write_redistributor(0x1_0180, 4, 0x8000);
    assert_eq!(vgic.read_redistributor(0x1_0180, 4).value, 0x0800_0000);
    assert_eq!(
        vgic.read_redistributor(0x3_0100, 4).value,
        0,
        "the other CPU's own"
    );
    vgic.write_distributor(0, 0x100, 4, 0xffff_ffff);
    assert_eq!(
        vgic.read_distributor(0x100, 4).value,
        0,
        "private ones are not the distributor's"
    );
    vgic.write_redistributor(0x78, 8, 1 << 62 | 0x4000_0000);
    assert_eq!(
        vgic.read_redistributor(0x78, 8).value,
        0x4000_0000,
        "PTZ reads as zero"
    );
}

#[test]
fn without_an_its_there_are_no_lpis() {
    let mut vgic = Vgic::new(&[0], 0).unwrap();
    assert_eq!(vgic.read_distributor(4, 4).value >> 17 & 1, 0);
    assert_eq!(vgic.read_redistributor(8, 8).value & 1, 0);
    vgic.write_redistributor(0, 4, 1);
    assert_eq!(vgic.read_redistributor(0, 4).value & 1, 0);
}

#[test]
fn impossible_gics_are_refused() {
    assert_eq!(Vgic::new(&[], 0).err(), Some(VgicError::Cpus(0)));
    assert_eq!(Vgic::new(&[0; 65], 0).err(), Some(VgicError::Cpus(65)));
    assert_eq!(Vgic::new(&[0], 57345).err(), Some(VgicError::Lpis(57345)));
    assert!(Vgic::new(&[0; 64], 57344).is_ok());
}
