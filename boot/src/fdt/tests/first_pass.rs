//! The first pass: what it finds, and what it does not go on with.

use super::*;
use crate::fdt::early::smmus;

fn bytes(edit: impl FnOnce(&mut DeviceTree)) -> Vec<u8> {
    let mut tree = DeviceTree::from_fdt(&Fdt::new(QEMU).unwrap());
    edit(&mut tree);
    tree.to_dtb()
}

fn found(edit: impl FnOnce(&mut DeviceTree)) -> Result<Vec<Span<Hpa>>, FdtError> {
    smmus(&bytes(edit)).map(|smmus| smmus.registers().to_vec())
}

fn wrong(name: &'static str) -> Result<Vec<Span<Hpa>>, FdtError> {
    Err(FdtError::Property(Item::Smmu, name))
}

/// A tree of these tokens, with no strings but `x`.
fn raw(tokens: &[u32]) -> Vec<u8> {
    let len = tokens.len() as u32 * 4;
    let header = [0xd00d_feed, 42 + len, 40, 40 + len, 40, 17, 16, 0, 2, len];
    let words = header.iter().chain(tokens);
    let mut bytes: Vec<u8> = words.flat_map(|word| word.to_be_bytes()).collect();
    bytes.extend(b"x\0");
    bytes
}

#[test]
fn finds_qemu_s() {
    assert_eq!(found(|_| {}), Ok(Vec::from([span(0x905_0000, 0x2_0000)])));
}

#[test]
fn what_is_disabled_or_below_it_is_none() {
    let disabled = found(|tree| set(tree, SMMU, "status", "disabled"));
    assert_eq!(disabled, Ok(Vec::new()));
    let above = found(|tree| set(tree, ROOT, "status", "fail"));
    assert_eq!(above, Ok(Vec::new()));
    let okay = found(|tree| set(tree, SMMU, "status", "okay"));
    assert_eq!(okay.map(|spans| spans.len()), Ok(1));
}

#[test]
fn one_behind_buses_is_where_they_put_it() {
    let behind = |ranges: &[u32], base: u32| {
        found(|tree| {
            let mut smmu = tree.root.remove_child("smmuv3@9050000").unwrap();
            smmu.add_property(DeviceTreeProperty::new("reg", [base, 0x2_0000]).unwrap());
            let mut inner = node("inner");
            inner.add_property(DeviceTreeProperty::new("#address-cells", 1u32).unwrap());
            inner.add_property(DeviceTreeProperty::new("#size-cells", 1u32).unwrap());
            let mut outer = inner.clone();
            inner.add_property(DeviceTreeProperty::new("ranges", &[][..] as &[u8]).unwrap());
            outer.add_property(DeviceTreeProperty::new("ranges", ranges).unwrap());
            inner.add_child(smmu);
            outer.add_child(inner);
            tree.root.add_child(outer);
        })
    };
    let shift = [0x1000, 0, 0x905_0000, 0x10_0000];
    let there = Ok(Vec::from([span(0x906_0000, 0x2_0000)]));
    assert_eq!(behind(&shift, 0x1_1000), there);
    assert_eq!(
        behind(&shift, 0x10_0000),
        wrong("ranges"),
        "its end is outside"
    );
    assert_eq!(behind(&shift, 0), wrong("ranges"));
    assert_eq!(behind(&shift[..3], 0x1_1000), wrong("ranges"));
}

#[test]
fn registers_that_cannot_be_told_are_refused() {
    assert_eq!(found(|tree| unset(tree, SMMU, "reg")), wrong("reg"));
    for reg in [
        &[0u32, 0x905_0000, 0][..],
        &[0, 0x905_0000, 0, 0],
        &[0, 0x905_0004, 0, 0x2_0000],
    ] {
        assert_eq!(
            found(|tree| set(tree, SMMU, "reg", reg)),
            wrong("reg"),
            "{reg:x?}"
        );
    }
    assert_eq!(
        found(|tree| set(tree, ROOT, "#address-cells", 5u32)),
        wrong("reg")
    );
}

#[test]
fn more_than_are_stopped_are_refused() {
    let many = |count: u32| {
        found(|tree| {
            for index in 1..count {
                let mut smmu = tree.find_node_mut(SMMU).unwrap().clone();
                let reg = [1, index << 20, 0, 0x2_0000];
                smmu.add_property(DeviceTreeProperty::new("reg", reg).unwrap());
                let mut bus = node(&std::format!("bus{index}"));
                bus.add_property(DeviceTreeProperty::new("#address-cells", 2u32).unwrap());
                bus.add_property(DeviceTreeProperty::new("#size-cells", 2u32).unwrap());
                bus.add_property(DeviceTreeProperty::new("ranges", &[][..] as &[u8]).unwrap());
                bus.add_child(smmu);
                tree.root.add_child(bus);
            }
        })
    };
    assert_eq!(many(16).map(|spans| spans.len()), Ok(16));
    assert_eq!(many(17), Err(FdtError::TooManySmmus(16)));
}

#[test]
fn other_smmus_than_the_first_pass_found_are_noticed() {
    let early = smmus(QEMU).unwrap();
    let info = parse(QEMU).unwrap();
    assert!(early.are(&info.smmus));
    assert!(!early.are(&[]));
    assert!(!early.are(&[info.smmus[0], info.smmus[0]]));
    let mut elsewhere = info.smmus[0];
    elsewhere.registers.base.0 += 0x1000;
    assert!(!early.are(&[elsewhere]));
}

#[test]
fn tokens_are_taken_in_their_order_only() {
    const NODE: [u32; 2] = [1, 0];
    let tree =
        |tokens: &[&[u32]]| smmus(&raw(&tokens.concat())).map(|smmus| smmus.registers().len());
    let malformed = Err(FdtError::Malformed);
    let property: &[u32] = &[3, 4, 0, 7];
    assert_eq!(tree(&[&NODE, property, &NODE, &[2, 4, 2, 9]]), Ok(0));
    assert_eq!(
        tree(&[&NODE, &NODE, &[2], property, &[2, 9]]),
        malformed,
        "behind a child"
    );
    assert_eq!(tree(&[property, &NODE, &[2, 9]]), malformed, "outside");
    assert_eq!(tree(&[&NODE, &[2, 2, 9]]), malformed, "closed twice");
    assert_eq!(tree(&[&NODE, &[9]]), malformed, "never closed");
    assert_eq!(tree(&[&NODE, &[2]]), malformed, "without an end");
    assert_eq!(
        tree(&[&NODE, &[3, u32::MAX, 0, 2, 9]]),
        malformed,
        "too long"
    );
    assert_eq!(
        tree(&[&NODE, &[3, 0, 3, 2, 9]]),
        malformed,
        "a name outside"
    );
    assert_eq!(tree(&[&NODE, &[5, 2, 9]]), malformed, "no token");
    let deep = NODE.repeat(33);
    assert_eq!(tree(&[&deep, &[2; 33], &[9]]), Ok(0));
    let deeper = NODE.repeat(34);
    assert_eq!(tree(&[&deeper, &[2; 34], &[9]]), Err(FdtError::TooDeep(32)));
}
