//! Bounded queues with sequence numbers: what is lost is counted and said.

use super::super::{Errno, Item, MAX_DEPTH, MAX_SEQUENCE, Ring};
use super::errno;

fn record(sequence: u32, record: char) -> Option<Item<char>> {
    Some(Item::Record { sequence, record })
}

fn lost(sequence: u32) -> Option<Item<char>> {
    Some(Item::Lost { sequence })
}

#[test]
fn a_full_queue_marks_the_last_record_lost() {
    let mut ring = Ring::new(2).unwrap();
    assert!(ring.is_empty());
    assert!(ring.push('a') && ring.push('b'));
    assert!(!ring.push('c') && !ring.push('d'));
    assert_eq!([ring.pop(), ring.pop()], [record(0, 'a'), record(1, 'b')]);
    // The mark has the number of the last one lost, and is read once.
    assert_eq!([ring.pop(), ring.pop()], [lost(3), None]);
    assert!(ring.push('e'));
    assert_eq!(ring.pop(), record(4, 'e'));
}

#[test]
fn an_accepted_record_takes_the_mark_away_and_the_gap_shows() {
    let mut ring = Ring::new(1).unwrap();
    assert!(ring.push('a'));
    assert!(!ring.push('b') && !ring.push('c'));
    assert_eq!(ring.pop(), record(0, 'a'));
    assert!(ring.push('d'));
    assert_eq!([ring.pop(), ring.pop()], [record(3, 'd'), None]);
    // Again and again.
    for round in 0..3 {
        assert!(ring.push('x'));
        assert!(!ring.push('y'));
        assert_eq!(ring.pop(), record(4 + round * 2, 'x'));
    }
    assert_eq!(ring.pop(), lost(9));
}

#[test]
fn sequence_numbers_wrap_to_0() {
    let mut ring = Ring::new(2).unwrap();
    ring.set_sequence(MAX_SEQUENCE);
    assert!(ring.push('a') && ring.push('b'));
    assert!(!ring.push('c'));
    let read = [ring.pop(), ring.pop(), ring.pop()];
    assert_eq!(read, [record(MAX_SEQUENCE, 'a'), record(0, 'b'), lost(1)]);
    ring.set_sequence(MAX_SEQUENCE);
    ring.push_lost();
    assert_eq!(ring.pop(), lost(MAX_SEQUENCE));
    assert!(ring.push('d'));
    assert_eq!(ring.pop(), record(0, 'd'));
}

#[test]
fn depths_have_bounds() {
    assert_eq!(errno(Ring::<u8>::new(0)), Errno::EINVAL);
    assert_eq!(errno(Ring::<u8>::new(MAX_DEPTH + 1)), Errno::EINVAL);
    Ring::<u8>::new(MAX_DEPTH).unwrap();
}
