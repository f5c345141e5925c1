//! What one cause keeps, and the orders for all of it.

use super::{LONG, SWEEP, acme, finish, item, limits, mark, marked, open, push, save_account};
use domain::accounts::MintRefused;
use domain::queue::{Blocked, Finish};
use domain::work::{BatchState, Block, Class, Kind};
use domain::{AccountId, BusinessId};
use std::time::Duration;
use store::{BusinessMark, LeftAlone, MintFault, NewBatch, OfCause};
use tests::Parts;

on_both_parts!(what_one_cause_keeps_is_counted_and_listed_page_by_page, orders_for_all_of_a_cause_take_turns);

async fn what_one_cause_keeps_is_counted_and_listed_page_by_page(parts: Parts) {
    let (store, _place) = open(parts).await;
    for n in 0..3 {
        let mut tx = store.begin().await.unwrap();
        let business = BusinessId::parse(format!("b{n}")).unwrap();
        tx.mark_businesses(&[BusinessMark::changed(business, Class::Rotation)], "test", None).await.unwrap();
        tx.commit().await.unwrap();
        marked(&store, &mark(&format!("i{n}"))).await;
    }
    for kind in Kind::ALL {
        for held in store.claim(*kind, "one", LONG, 9, &limits()).await.unwrap() {
            let code = if held.subject.id().ends_with('2') { "another" } else { "test" };
            let finish_by = Finish::blocked(SWEEP, Class::Retry, Blocked::new(Block::Parked, code, "because"));
            finish(&store, &held, &finish_by).await.unwrap();
        }
    }
    // Nothing keeps this one but a mint that Plaid refuses, for the same code.
    let refused = || MintFault {
        refused: MintRefused::Other,
        code: "test".into(),
        why: "because".into(),
        generation: 1,
        tries: 1,
        again_at: domain::Millis(1),
    };
    push(&store, "i0a", "token", acme()).await;
    let mut tx = store.begin().await.unwrap();
    for id in ["i0a", "i1"] {
        save_account(&mut tx, id, "acme").await;
        let account = AccountId::parse(format!("acc-{id}")).unwrap();
        tx.set_mint_fault(&item(id), &account, Some(&refused())).await.unwrap();
    }
    tx.keep_back(&BusinessId::parse("b1").unwrap(), Some("ours")).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = store.begin_read().await.unwrap();
    let now = tx.now();
    assert_eq!(tx.count_of_cause("test", now).await.unwrap(), OfCause { items: 3, businesses: 2, held: 1 });
    for limit in [1, 2, 9] {
        let (mut found, mut after): (Vec<String>, Option<String>) = (Vec::new(), None);
        loop {
            let rows = tx.rows_of_cause("test", now, after.as_deref(), limit).await.unwrap();
            assert!(rows.len() <= limit as usize);
            let Some(last) = rows.last() else { break };
            after = Some(last.to_string());
            found.extend(rows.iter().map(ToString::to_string));
        }
        assert_eq!(found, ["business/b0", "business/b1", "item/i0", "item/i0a", "item/i1"], "{limit} a page");
    }
    let before = now.minus(LONG);
    assert_eq!(tx.count_of_cause("test", before).await.unwrap(), OfCause::default());
    assert!(tx.rows_of_cause("test", before, None, 9).await.unwrap().is_empty(), "they were not kept yet");
}

async fn orders_for_all_of_a_cause_take_turns(parts: Parts) {
    let (store, _place) = open(parts).await;
    let mut tx = store.begin().await.unwrap();
    let (from, seen_at) = (std::net::IpAddr::from([127, 0, 0, 1]), tx.now());
    let new = |code| NewBatch { code, reason: None, by: "ops", from, seen_at, meant: 1 };
    let first = tx.order_batch(&new("a")).await.unwrap().unwrap();
    assert!(tx.order_batch(&new("a")).await.unwrap().is_none(), "one of a cause at a time");
    let second = tx.order_batch(&new("b")).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    let turn = async || {
        let mut tx = store.begin().await.unwrap();
        let taken = tx.take_batch(LONG).await.unwrap();
        tx.commit().await.unwrap();
        taken
    };
    let (one, two) = (turn().await.unwrap(), turn().await.unwrap());
    assert_eq!((&one.id, &two.id), (&first, &second));
    assert!(turn().await.is_none(), "others work on both");
    let mut tx = store.begin().await.unwrap();
    tx.advance_batch(&one, Some("item/x"), LeftAlone { paused: 1, held: 0, failed: 0 }).await.unwrap();
    tx.put_batch_off(&two, Duration::ZERO).await.unwrap();
    tx.commit().await.unwrap();
    tokio::time::sleep(Duration::from_millis(2)).await;
    let again = turn().await.unwrap();
    assert_eq!((&again.id, again.position.as_deref()), (&first, Some("item/x")), "it waits longest");
    let mut tx = store.begin().await.unwrap();
    assert!(!tx.count_released(&one, LONG).await.unwrap(), "by whoever had it before");
    assert!(tx.count_released(&again, LONG).await.unwrap());
    tx.advance_batch(&again, None, LeftAlone::default()).await.unwrap();
    let ended = tx.batch(&first).await.unwrap().unwrap();
    assert_eq!((ended.state, ended.released, ended.left.paused), (BatchState::Done, 1, 1));
    tx.commit().await.unwrap();
    assert_eq!(turn().await.unwrap().id, second);
}
