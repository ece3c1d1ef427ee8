//! Single steps of one queue, and what its registers may say at the wrong time.

use super::*;

/// A queue without producers of its own.
pub(super) fn world(refuses: &[(u64, u32)]) -> World {
    World::new(&[], refuses)
}

impl World {
    fn push(&mut self, ticket: Ticket, commands: &[Command]) {
        for command in commands {
            assert_eq!(self.queue.push(ticket, *command), Pushed::Done);
        }
    }

    pub(super) fn publish(&mut self) {
        self.queue.publish(&self.hardware, &self.registers);
    }

    /// A batch with its CMD_SYNC, published.
    pub(super) fn send(&mut self, commands: &[Command]) -> Ticket {
        let ticket = self.queue.open().expect("a place");
        self.push(ticket, commands);
        assert!(self.queue.end(ticket));
        self.publish();
        ticket
    }

    pub(super) fn hardware_steps(&mut self, count: usize) {
        for _ in 0..count {
            let mut state = self.hardware.0.lock().unwrap();
            assert!(state.can_step());
            state.step();
        }
    }

    pub(super) fn advance(&mut self) {
        self.queue.advance(&self.registers).expect("it is there");
    }

    pub(super) fn recover(&mut self) {
        let result = self.queue.recover(&self.hardware, &self.registers);
        result.expect("it goes on");
    }

    pub(super) fn progress(&self, ticket: Ticket) -> (u64, Option<u8>) {
        let progress = self.queue.progress(ticket);
        (progress.complete, progress.refused)
    }
}

pub(super) fn ask() -> Command {
    Command::atc_inv(DeviceId(8), None, None)
}

#[test]
fn a_run_that_was_cut_goes_on_behind_what_cut_it() {
    let mut world = world(&[]);
    let (first, second) = (world.queue.open().unwrap(), world.queue.open().unwrap());
    world.push(first, &[command(1)]);
    world.push(second, &[command(2)]);
    assert_eq!(world.queue.push(first, command(3)), Pushed::Cut);
    assert!(world.queue.end(first));
    world.publish();
    world.hardware_steps(3);
    world.advance();
    assert!(world.queue.is_done(first));
    assert_eq!(world.progress(first), (1, None));
    world.queue.next_run(first);
    assert!(!world.queue.is_done(first));
    assert_eq!(world.progress(first), (0, None));
    world.push(first, &[command(3), command(4)]);
    assert!(world.queue.end(first));
    world.publish();
    world.hardware_steps(3);
    world.advance();
    assert!(world.queue.is_done(first));
    assert_eq!(world.progress(first), (2, None), "of this run");
}

#[test]
fn what_lies_before_a_refused_command_is_complete_with_its_replacement() {
    let mut world = world(&[(command(2).0[0], 1)]);
    let ticket = world.send(&[command(1), command(2), command(3)]);
    world.hardware_steps(2);
    world.recover();
    assert_eq!(world.progress(ticket), (0, Some(1)), "a CMD_SYNC says so");
    // The CMD_SYNC in its place, and then nothing more.
    world.hardware_steps(1);
    world.advance();
    assert!(!world.queue.is_done(ticket));
    assert_eq!(world.progress(ticket), (1, Some(1)));
    world.hardware_steps(2);
    world.advance();
    assert!(world.queue.is_done(ticket));
    assert_eq!(world.progress(ticket), (1, Some(1)));
    let queue = &world.queue;
    // CMD_TLBI_S12_VMALL and CMD_SYNC; what took the place of a command was not sent.
    assert_eq!((queue.sent[0x28], queue.sent[0x46]), (3, 1));
    assert_eq!(queue.sent.iter().sum::<u64>(), 4);
    assert_eq!((queue.refusals, queue.stops), (1, 1));
}

#[test]
fn a_position_that_was_never_published_is_not_believed() {
    let mut world = world(&[]);
    let ticket = world.send(&[command(1), command(2), command(3)]);
    world.hardware_steps(2);
    world.advance();
    assert_eq!(world.queue.room(), 6);
    // Prod is 4, two of which are consumed.
    for nonsense in [5, 6, 7, 9, 15, 1] {
        world.hardware.0.lock().unwrap().cons = nonsense;
        world.advance();
        assert_eq!(world.queue.room(), 6, "{nonsense}");
        assert!(!world.queue.is_done(ticket));
    }
    world.hardware.0.lock().unwrap().cons = 4;
    world.advance();
    assert!(world.queue.is_done(ticket));
}

#[test]
fn an_error_of_an_empty_queue_replaces_nothing() {
    let mut world = world(&[]);
    let ticket = world.send(&[command(1)]);
    world.hardware_steps(2);
    world.advance();
    {
        let mut state = world.hardware.0.lock().unwrap();
        state.gerror ^= 1;
        state.cons |= 1 << 24;
    }
    world.recover();
    assert_eq!((world.queue.stops, world.queue.refusals), (1, 0));
    assert_eq!(world.progress(ticket), (1, None));
    world.queue.close(ticket);
    let ticket = world.send(&[command(2)]);
    world.hardware_steps(2);
    world.advance();
    assert_eq!(world.progress(ticket), (1, None));
    assert_eq!(consumed(&world, command(2)), 1);
}

#[test]
fn a_device_that_does_not_answer_is_not_that_of_batches_before_and_behind() {
    let mut world = world(&[]);
    let before = world.send(&[ask()]);
    world.hardware_steps(2);
    world.advance();
    assert!(
        world.queue.is_done(before),
        "and its holder has not looked yet"
    );
    let sync = Command::sync(Signal::None).0[0];
    world.hardware.0.lock().unwrap().refuses.push((sync, 3));
    let meant = world.send(&[ask()]);
    let behind = world.send(&[ask()]);
    // Up to the CMD_SYNC of the one that is meant.
    world.hardware_steps(2);
    world.recover();
    assert_eq!(world.progress(meant), (0, Some(3)));
    world.hardware_steps(3);
    world.advance();
    assert_eq!(world.progress(before), (1, None));
    assert_eq!(world.progress(behind), (1, None));
}

#[test]
fn a_long_batch_waits_for_half_of_the_queue() {
    let mut world = world(&[]);
    assert_eq!(world.queue.bytes(), 4096);
    let ticket = world.queue.open().unwrap();
    for number in 0..8 {
        assert_eq!(world.queue.has_room(), number <= 4);
        world.push(ticket, &[command(number)]);
    }
    assert_eq!(world.queue.push(ticket, command(8)), Pushed::Full);
    assert!(!world.queue.end(ticket), "no room for the CMD_SYNC either");
    world.publish();
    for consumed in 1..=8 {
        world.hardware_steps(1);
        world.advance();
        assert_eq!(world.queue.room(), consumed);
        assert_eq!(world.queue.has_room(), consumed >= 4);
    }
}
