//! However much others ask of one SMMU, an unmap waits for one call's worth of each (B21).

mod flood;
mod light;

#[test]
fn an_unmap_waits_for_one_call_of_each_other_guest_and_no_more() {
    for others in [1, 3, 7] {
        let (longest, bound) = (flood::longest(others), flood::bound(others));
        assert!(longest <= bound, "{longest} with {others}, at most {bound}");
        // They are in its way.
        assert!(longest > bound / 2, "{longest} with {others}");
    }
    assert_eq!(flood::longest(0), 2, "alone, it waits for its own");
}
