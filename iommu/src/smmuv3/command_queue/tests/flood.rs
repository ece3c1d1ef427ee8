//! What a batch waits for where others never stop: an exact number of commands of the SMMU's (B21).

use super::steps::world;
use super::*;

/// Others that each have a batch in the queue, and the next one as soon as that is done.
const OTHERS: usize = 3;
/// Commands of a batch, its CMD_SYNC included.
const EACH: usize = 2;

/// The SMMU consumes one command more, and whoever is done adds its next batch.
fn step(world: &mut World, others: &mut [Ticket]) {
    world.hardware_steps(1);
    world.advance();
    for ticket in others {
        if world.queue.is_done(*ticket) {
            world.queue.close(*ticket);
            *ticket = world.send(&[command(1)]);
        }
    }
}

#[test]
fn a_batch_waits_for_one_of_each_other_and_no_more_however_long_they_go_on() {
    let mut longest = 0;
    for before in 0..100 {
        let mut world = world(&[]);
        let mut others: Vec<_> = (0..OTHERS).map(|_| world.send(&[command(1)])).collect();
        for _ in 0..before {
            step(&mut world, &mut others);
        }
        let own = world.send(&[command(2)]);
        let mut steps = 0;
        while !world.queue.is_done(own) {
            step(&mut world, &mut others);
            steps += 1;
        }
        assert_eq!(world.progress(own), (1, None));
        assert!(steps <= (OTHERS + 1) * EACH, "{steps} after {before}");
        longest = longest.max(steps);
    }
    assert_eq!(longest, (OTHERS + 1) * EACH);
}
