//! Batches that are stored, published and looked at under one lock.

use super::steps::{ask, world};
use super::*;

impl World {
    /// Puts a batch, publishes it, and looks after so many steps of the hardware.
    fn put(&mut self, commands: &[Command], steps: usize) -> Option<Ticket> {
        let words = commands.iter().map(|command| command.0);
        let words: Vec<_> = words.chain([SYNC]).collect();
        let run = self.queue.put(&words).expect("there is room");
        self.publish();
        self.hardware_steps(steps);
        let looked = self.queue.look(&self.registers, run);
        looked.expect("it is there")
    }
}

#[test]
fn what_is_consumed_at_once_takes_no_ticket_and_completes_what_was_before() {
    let mut world = world(&[]);
    let before = world.send(&[command(1)]);
    assert_eq!(world.put(&[command(2), command(3)], 5), None);
    assert!(world.queue.is_done(before));
    assert_eq!(world.progress(before), (1, None));
    for number in 1..=3 {
        assert_eq!(consumed(&world, command(number)), 1);
    }
    assert_eq!(consumed(&world, Command::sync(Signal::None)), 2);
    // Nothing of it is kept: all places are free once the other is closed.
    world.queue.close(before);
    for _ in 0..BATCHES {
        assert!(world.queue.open().is_some());
    }
    assert!(world.queue.open().is_none());
    assert!(
        world.queue.put(&[SYNC]).is_none(),
        "nobody could wait for it"
    );
}

#[test]
fn what_takes_longer_is_waited_for_up_to_its_own_cmd_sync() {
    for steps in 0..3 {
        let mut world = world(&[]);
        let ticket = world.put(&[command(1), command(2)], steps).expect("later");
        assert!(!world.queue.is_done(ticket));
        assert_eq!(world.progress(ticket), (0, None), "no CMD_SYNC yet");
        world.hardware_steps(3 - steps);
        world.advance();
        assert!(world.queue.is_done(ticket));
        assert_eq!(world.progress(ticket), (2, None));
    }
}

#[test]
fn a_refused_command_is_found_by_whoever_waits() {
    let mut world = world(&[(command(2).0[0], 1)]);
    let ticket = world.put(&[command(1), command(2), command(3)], 2);
    let ticket = ticket.expect("it has stopped");
    world.recover();
    world.hardware_steps(3);
    world.advance();
    assert!(world.queue.is_done(ticket));
    assert_eq!(world.progress(ticket), (1, Some(1)));
}

#[test]
fn a_device_that_does_not_answer_is_asked_by_the_first_that_asks() {
    let sync = Command::sync(Signal::None).0[0];
    for (commands, complete) in [
        (vec![command(1), ask(), command(2), ask()], 1),
        (vec![ask(), command(1)], 0),
    ] {
        let mut world = world(&[(sync, 3)]);
        let steps = commands.len() + 1;
        let ticket = world.put(&commands, steps).expect("it has stopped");
        world.recover();
        world.hardware_steps(1);
        world.advance();
        assert!(world.queue.is_done(ticket));
        assert_eq!(world.progress(ticket), (complete, Some(3)));
    }
    // And not by one that asked nobody.
    let mut world = world(&[(sync, 3)]);
    let ticket = world.put(&[command(1)], 2).expect("it has stopped");
    world.recover();
    world.hardware_steps(1);
    world.advance();
    assert_eq!(world.progress(ticket), (1, None));
}

#[test]
fn what_does_not_fit_is_not_begun() {
    let mut world = world(&[]);
    let words = (0..8).map(|number| command(number).0);
    let words: Vec<_> = words.chain([SYNC]).collect();
    assert!(world.queue.put(&words).is_none(), "no room for a CMD_SYNC");
    assert_eq!(world.queue.room(), 8);
    assert!(world.queue.put(&words[1..]).is_some());
    assert_eq!(world.queue.room(), 0);
    assert!(world.queue.put(&[SYNC]).is_none());
}

#[test]
fn a_run_over_the_end_of_the_queue_goes_on_at_its_start() {
    let mut world = world(&[]);
    assert_eq!(world.put(&(0..5).map(command).collect::<Vec<_>>(), 6), None);
    let run: Vec<_> = (10..15).map(command).collect();
    assert_eq!(world.put(&run, 6), None);
    let state = world.hardware.0.lock().unwrap();
    let seen = state.consumed[6..].to_vec();
    let sync = Command::sync(Signal::None);
    let wanted = run.iter().chain([&sync]).map(|command| command.0);
    assert!(wanted.eq(seen));
}
