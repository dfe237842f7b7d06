use std::convert::Infallible;

use super::*;
use crate::wire::{Name, RecordType};

fn question() -> Question {
    Question::new(Name::from_text("www.example.com").unwrap().as_ref(), RecordType::A, true)
}

fn start(table: &Table) -> (SlotId, Vec<u8>) {
    let mut sent = Vec::new();
    let slot = table.start::<Infallible>(&question(), false, |bytes| {
        sent = bytes.to_vec();
        Ok(())
    });
    (slot.unwrap().unwrap(), sent)
}

fn deliver(table: &Table, message: &[u8]) -> Option<Unexpected> {
    let mut heard = None;
    table.deliver(std::iter::once((message, false)), |why| heard = Some(why));
    heard
}

fn poll(table: &Table, slot: SlotId) -> Poll<Result<Received, UpstreamError>> {
    table.poll(slot, &mut Context::from_waker(Waker::noop()))
}

#[test]
fn an_answer_finds_who_asked_once() {
    let table = Table::new();
    let (slot, mut message) = start(&table);
    let (other, _) = start(&table);
    assert!(poll(&table, slot).is_pending());
    message[2] |= 0x80;
    assert_eq!(deliver(&table, &message), None);
    assert!(matches!(poll(&table, slot), Poll::Ready(Ok(received)) if received.bytes == message));
    assert!(poll(&table, other).is_pending());
    assert_eq!(deliver(&table, &message), Some(Unexpected::Id));
    table.release(slot);
    table.release(other);
    assert!(table.is_empty());
}

#[test]
fn forged_and_late_answers_are_told_apart() {
    let table = Table::new();
    let (slot, mut message) = start(&table);
    message[2] |= 0x80;
    let mut forged = message.clone();
    forged[1] ^= 1;
    assert_eq!(deliver(&table, &forged), Some(Unexpected::Id));
    let mut forged = message.clone();
    forged[13] = b'x';
    assert_eq!(deliver(&table, &forged), Some(Unexpected::Question));
    assert!(poll(&table, slot).is_pending());
    table.release(slot);
    assert_eq!(deliver(&table, &message), Some(Unexpected::Late));
    assert_eq!(deliver(&table, &message), Some(Unexpected::Id));
}

#[test]
fn the_table_is_bounded_and_its_slots_are_used_again() {
    let table = Table::new();
    let slots: Vec<_> = (0..MAX_IN_FLIGHT).map(|_| start(&table).0).collect();
    assert!(table.start::<Infallible>(&question(), false, |_| Ok(())).is_none());
    slots.into_iter().for_each(|slot| assert!(!table.release(slot)));
    assert!(start(&table).0.0 < MAX_IN_FLIGHT as u32);
    table.fail_all(&UpstreamError::Lost);
    assert!(table.is_empty());
}

#[test]
fn what_cannot_be_sent_is_not_in_flight() {
    let table = Table::new();
    assert_eq!(table.start(&question(), false, |_| Err("no route")), Some(Err("no route")));
    assert!(table.is_empty());
}

#[test]
fn what_is_queued_is_sent_together_but_for_what_was_given_up() {
    let table = Table::new();
    let (first, is_first) = table.queue(&question(), false).unwrap();
    let (second, is_second) = table.queue(&question(), false).unwrap();
    let (third, _) = table.queue(&question(), false).unwrap();
    assert!(is_first && !is_second);
    table.release(second);
    let mut sent = 0;
    assert!(table.flush(|messages| {
        sent += messages.len();
        Ok(messages.len())
    }));
    assert_eq!(sent, 2);
    assert!(table.flush(|_| Err(UpstreamError::Lost)), "nothing is left to send");
    let (fourth, is_first) = table.queue(&question(), false).unwrap();
    assert!(is_first && !table.flush(|_| Err(UpstreamError::Lost)));
    assert!(matches!(poll(&table, fourth), Poll::Ready(Err(UpstreamError::Lost))));
    assert!(poll(&table, first).is_pending() && poll(&table, third).is_pending());
    assert_eq!(table.len(), 2);
}

/// Off-path forgeries: whoever sees neither id nor question is never believed, however often they try.
#[test]
fn guesses_are_never_accepted_but_by_the_right_id_and_question() {
    let table = Table::new();
    let (slot, message) = start(&table);
    let mut forged = message.clone();
    forged[2] |= 0x80;
    forged[question().end() - 3] = 28;
    for id in 0..=u16::MAX {
        forged[..2].copy_from_slice(&id.to_be_bytes());
        assert!(deliver(&table, &forged).is_some());
    }
    assert!(poll(&table, slot).is_pending());
}
