//! Rows of work: due, claimed, held, blocked, and what is told about them.

use super::{
    LONG, Place, SWEEP, acme, blocked, claim, done, finish, item, limits, mark, marked, open, push, save_account,
};
use domain::budget::Call;
use domain::item::ItemState;
use domain::permit::{Objection, Permit};
use domain::queue::{Blocked, Finish, Mark};
use domain::work::{Block, Class, Code, Kind};
use domain::{AccountId, BusinessId, Fingerprint, ItemId};
use std::time::{Duration, Instant};
use store::{BusinessMark, Declaration, Error, Page};
use tests::Parts;

on_both_parts!(
    i4_a_row_is_claimed_by_one_and_an_event_during_a_look_survives_it,
    a_row_follows_the_trace_of_its_event_until_that_is_served,
    i7_a_lost_lease_writes_nothing,
    i4_only_the_leases_of_what_is_in_flight_are_kept,
    a_lease_that_expires_is_taken_over,
    many_claimers_share_without_overlap,
    what_waited_long_has_one_claim_in_eight,
    backoff_and_parking_wait_for_the_right_events,
    items_of_a_list_that_was_begun_come_first,
    a_pause_stops_claims_and_frees_the_wronged,
    what_cannot_touch_a_token_is_no_signal,
    figures_tell_who_waits_and_for_what,
    what_waits_for_a_person_is_listed_page_by_page,
    i10_a_sweep_is_owed_until_every_row_is_due,
);

async fn i4_a_row_is_claimed_by_one_and_an_event_during_a_look_survives_it(parts: Parts) {
    let (store, _place) = open(parts).await;
    assert_eq!(marked(&store, &mark("x")).await, 1);
    let first = claim(&store, "one", LONG).await.remove(0);
    assert!(claim(&store, "two", LONG).await.is_empty(), "leased");
    assert_eq!(marked(&store, &mark("x")).await, 2, "an event during the look");
    finish(&store, &first, &done()).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    let row = tx.work(&item("x")).await.unwrap().unwrap();
    assert_eq!((row.wanted, row.done), (2, 1), "a waiter for the second event is not told that it is served");
    tx.rollback().await.unwrap();
    let second = claim(&store, "two", LONG).await.remove(0);
    assert_eq!((second.wanted, second.taken_over), (2, None));
    finish(&store, &second, &done()).await.unwrap();
    assert!(claim(&store, "one", LONG).await.is_empty(), "served");
    let mut tx = store.begin().await.unwrap();
    let row = tx.work(&item("x")).await.unwrap().unwrap();
    assert_eq!((row.wanted, row.done, row.reason.as_str()), (2, 2, "sweep"));
}

async fn a_row_follows_the_trace_of_its_event_until_that_is_served(parts: Parts) {
    let (store, _place) = open(parts).await;
    let of = |trace| Mark { traceparent: Some(trace), unblocks: true, ..mark("x") };
    let look = async || claim(&store, "one", LONG).await.remove(0);
    marked(&store, &of("first")).await;
    let first = look().await;
    finish(&store, &first, &Finish { again_after: Duration::ZERO, ..blocked(Block::Backoff) }).await.unwrap();
    let retry = look().await;
    marked(&store, &of("second")).await;
    finish(&store, &retry, &done()).await.unwrap();
    let second = look().await;
    finish(&store, &second, &Finish::done(Duration::ZERO, Class::Sweep)).await.unwrap();
    let sweep = look().await;
    let followed = [first, retry, second, sweep].map(|claim| claim.traceparent);
    assert_eq!(followed, [Some("first".into()), Some("first".into()), Some("second".into()), None]);
}

async fn i7_a_lost_lease_writes_nothing(parts: Parts) {
    let (store, _place) = open(parts).await;
    marked(&store, &mark("x")).await;
    let mut lost = claim(&store, "one", Duration::from_millis(1)).await.remove(0);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let held = claim(&store, "two", LONG).await.remove(0);
    assert!(held.epoch > lost.epoch);
    let mut tx = store.begin().await.unwrap();
    tx.ensure_business(&BusinessId::parse("ghost").unwrap(), None).await.unwrap();
    assert!(matches!(tx.finish(&lost, &done()).await, Err(Error::Stale { .. })));
    tx.rollback().await.unwrap();
    let mut tx = store.begin().await.unwrap();
    assert!(tx.business(&BusinessId::parse("ghost").unwrap()).await.unwrap().is_none(), "the whole look is undone");
    assert!(matches!(tx.renew(&mut lost, LONG).await, Err(Error::Stale { .. })));
    assert!(matches!(tx.check_lease(&lost).await, Err(Error::Stale { .. })));
    assert!(tx.check_lease(&held).await.is_ok());
    tx.rollback().await.unwrap();
    // The same process may claim a row again whose lease it lost: only the epoch tells the two reconciliations apart.
    finish(&store, &held, &done()).await.unwrap();
    marked(&store, &mark("x")).await;
    let mut lost = claim(&store, "one", Duration::from_millis(1)).await.remove(0);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let held = claim(&store, "one", LONG).await.remove(0);
    let mut tx = store.begin().await.unwrap();
    assert!(matches!(tx.finish(&lost, &done()).await, Err(Error::Stale { .. })));
    assert!(matches!(tx.renew(&mut lost, LONG).await, Err(Error::Stale { .. })));
    assert!(matches!(tx.check_lease(&lost).await, Err(Error::Stale { .. })));
    assert!(tx.check_lease(&held).await.is_ok());
}

/// A row that this process holds and does not work on, because the answer to its claim was lost, comes back.
async fn i4_only_the_leases_of_what_is_in_flight_are_kept(parts: Parts) {
    const SHORT: Duration = Duration::from_millis(400);
    let (store, _place) = open(parts).await;
    for id in ["kept", "lost"] {
        marked(&store, &mark(id)).await;
    }
    let claims = claim(&store, "one", SHORT).await;
    let kept = claims.iter().find(|c| c.subject.id() == "kept").unwrap();
    let keep = [(kept.subject.clone(), kept.epoch)];
    // Under an epoch that is past, a lease is another reconciliation's.
    store.keep_leases("one", LONG, &[(kept.subject.clone(), kept.epoch - 1)]).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    let until = async |tx: &mut store::Tx| tx.work(&kept.subject).await.unwrap().unwrap().lease.unwrap().until;
    assert!(until(&mut tx).await.since(tx.now()) <= SHORT);
    tx.rollback().await.unwrap();
    store.keep_leases("one", LONG, &keep).await.unwrap();
    let (began, mut taken) = (Instant::now(), Vec::new());
    while taken.is_empty() {
        assert!(began.elapsed() < tests::PATIENCE, "a lease that nobody keeps does not run out");
        taken = claim(&store, "two", LONG).await;
    }
    assert_eq!(taken.iter().map(|c| c.subject.id()).collect::<Vec<_>>(), ["lost"]);
    let mut tx = store.begin().await.unwrap();
    assert!(tx.check_lease(kept).await.is_ok());
}

async fn a_lease_that_expires_is_taken_over(parts: Parts) {
    let (store, _place) = open(parts).await;
    marked(&store, &mark("x")).await;
    let first = claim(&store, "one", Duration::from_millis(1)).await.remove(0);
    assert!(first.remaining() <= Duration::from_millis(1));
    tokio::time::sleep(Duration::from_millis(20)).await;
    let second = claim(&store, "two", LONG).await.remove(0);
    assert!(second.taken_over.is_some(), "what the first one sent may still be on its way");
    let blocked = Blocked::new(Block::Backoff, "x", "x");
    let failed = Finish::blocked(Duration::ZERO, Class::Retry, blocked);
    finish(&store, &second, &failed).await.unwrap();
    let third = claim(&store, "one", LONG).await.remove(0);
    assert!(third.taken_over.is_some(), "the take-over failed: the later look is still owed");
    finish(&store, &third, &Finish { owes_another: true, ..done() }).await.unwrap();
    marked(&store, &mark("x")).await;
    let fourth = claim(&store, "one", LONG).await.remove(0);
    assert!(fourth.taken_over > third.taken_over, "an event came before the later look, which is owed all the same");
    finish(&store, &fourth, &done()).await.unwrap();
    marked(&store, &mark("x")).await;
    assert!(claim(&store, "one", LONG).await.remove(0).taken_over.is_none());
}

async fn many_claimers_share_without_overlap(parts: Parts) {
    let (store, _place) = open(parts).await;
    let mut tx = store.begin().await.unwrap();
    for n in 0..60 {
        tx.mark(&mark(&format!("x{n:02}"))).await.unwrap();
    }
    tx.commit().await.unwrap();
    let mut claimers = tokio::task::JoinSet::new();
    for n in 0..4 {
        let store = store.clone();
        claimers.spawn(async move {
            let mut mine = Vec::new();
            for _ in 0..6 {
                mine.extend(store.claim(Kind::Item, &format!("w{n}"), LONG, 5, &limits()).await.unwrap());
            }
            mine.into_iter().map(|c| c.subject.id().to_owned()).collect::<Vec<_>>()
        });
    }
    let mut all: Vec<String> = claimers.join_all().await.into_iter().flatten().collect();
    all.extend(claim(&store, "last", LONG).await.into_iter().map(|c| c.subject.id().to_owned()));
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!((count, all.len()), (60, 60));
}

async fn backoff_and_parking_wait_for_the_right_events(parts: Parts) {
    let (store, _place) = open(parts).await;
    for by in [Block::Backoff, Block::Parked] {
        let id = by.as_str();
        marked(&store, &mark(id)).await;
        let held = claim(&store, "one", LONG).await.remove(0);
        finish(&store, &held, &blocked(by)).await.unwrap();
        marked(&store, &mark(id)).await;
        assert!(claim(&store, "one", LONG).await.is_empty(), "{by}: an ordinary event does not hasten it");
        marked(&store, &Mark { unblocks: true, ..mark(id) }).await;
        let again = claim(&store, "one", LONG).await.remove(0);
        assert_eq!(again.attempts, 0, "{by}: a new token starts afresh");
        finish(&store, &again, &done()).await.unwrap();
    }
    // What unblocks arrives during the reconciliation that is about to fail: the failure is about the past.
    for by in [Block::Backoff, Block::Parked] {
        let id = format!("late-{by}");
        marked(&store, &mark(&id)).await;
        let held = claim(&store, "one", LONG).await.remove(0);
        marked(&store, &Mark { unblocks: true, ..mark(&id) }).await;
        finish(&store, &held, &blocked(by)).await.unwrap();
        let mut tx = store.begin().await.unwrap();
        let row = tx.work(&item(&id)).await.unwrap().unwrap();
        assert_eq!((row.blocked, row.attempts), (None, 0), "{by}");
        tx.rollback().await.unwrap();
        let again = claim(&store, "one", LONG).await.remove(0);
        finish(&store, &again, &done()).await.unwrap();
    }
    // Held by a guard: every event looks again, because what it objected to may be gone.
    marked(&store, &mark("hold")).await;
    let held = claim(&store, "one", LONG).await.remove(0);
    finish(&store, &held, &blocked(Block::Hold)).await.unwrap();
    marked(&store, &mark("hold")).await;
    let again = claim(&store, "one", LONG).await.remove(0);
    assert!(again.permit.is_none());
    let (account, token) = (AccountId::parse("b").unwrap(), Fingerprint::from_stored("fp1_x".into()));
    let objection =
        Objection { guards: [Code::ShrinkGuard].into(), accounts: [account].into(), tokens: [token].into() };
    let mut says = blocked(Block::Hold);
    says.blocked.as_mut().unwrap().objection = objection.clone();
    finish(&store, &again, &says).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    assert!(tx.release(&item("hold"), Class::Person).await.unwrap());
    assert!(!tx.release(&item("nobody"), Class::Person).await.unwrap());
    tx.commit().await.unwrap();
    let permit = claim(&store, "one", LONG).await.remove(0).permit;
    assert_eq!(permit, Some(Permit(objection)), "a release permits once, and what the guard had said");
}

async fn items_of_a_list_that_was_begun_come_first(parts: Parts) {
    let (store, _place) = open(parts).await;
    for (id, business) in [("a", "one"), ("b", "two"), ("c", "one"), ("d", "one")] {
        push(&store, id, &format!("token-{id}"), Declaration::default()).await;
        let mut tx = store.begin().await.unwrap();
        save_account(&mut tx, id, business).await;
        tx.commit().await.unwrap();
    }
    let next = async |these: &[ItemId]| {
        let claims = store.claim_beside(these, Kind::Item, "w", LONG, 1, &limits()).await.unwrap();
        claims.first().map(|claim| claim.subject.id().to_owned())
    };
    assert_eq!(next(&[]).await.as_deref(), Some("a"), "the oldest");
    assert_eq!(next(&[item("a")]).await.as_deref(), Some("c"), "of the same list as the first one");
    let mut tx = store.begin().await.unwrap();
    tx.mark(&Mark::new(&item("e"), Class::Person, "a person waits")).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(next(&[]).await.as_deref(), Some("b"), "by age");
    assert_eq!(next(&[item("a"), item("c")]).await.as_deref(), Some("d"));
    assert_eq!(next(&[item("d")]).await.as_deref(), Some("e"));
    assert_eq!(next(&[item("d")]).await, None);
}

async fn a_pause_stops_claims_and_frees_the_wronged(parts: Parts) {
    use domain::Provider;
    let (store, _place) = open(parts).await;
    for id in ["a", "b"] {
        marked(&store, &mark(id)).await;
    }
    let held = store.claim(Kind::Item, "one", LONG, 1, &limits()).await.unwrap().remove(0);
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.suspect(Provider::Plaid, "KEYS", &held.subject, LONG).await.unwrap().rows, 1);
    tx.finish(&held, &blocked(Block::Parked)).await.unwrap();
    assert!(tx.pause(Provider::Plaid, "why", "KEYS", Duration::ZERO).await.unwrap());
    assert!(!tx.pause(Provider::Plaid, "why", "KEYS", Duration::ZERO).await.unwrap(), "once");
    tx.commit().await.unwrap();
    assert!(claim(&store, "one", LONG).await.is_empty(), "paused");
    let mut tx = store.begin().await.unwrap();
    assert!(
        tx.list_parked(&Page { after: None, limit: 9 }).await.unwrap().is_empty(),
        "I4: nobody stays parked for it"
    );
    assert_eq!(tx.due_probes(LONG).await.unwrap().len(), 1);
    assert!(tx.due_probes(LONG).await.unwrap().is_empty(), "one process probes");
    assert!(tx.resume(Provider::Plaid).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(claim(&store, "one", LONG).await.len(), 2, "everybody goes on");
}

/// A webhook about transactions comes during a reconciliation: the row is looked at again, but nobody's books have been at
/// risk since.
async fn what_cannot_touch_a_token_is_no_signal(parts: Parts) {
    let (store, _place) = open(parts).await;
    for (quiet, signalled) in [(Some(LONG), false), (None, true)] {
        let id = format!("x{signalled}");
        marked(&store, &mark(&id)).await;
        let first = claim(&store, "a", Duration::from_millis(300)).await.remove(0);
        marked(&store, &Mark { quiet, ..mark(&id) }).await;
        finish(&store, &first, &done()).await.unwrap();
        let again = async || !claim(&store, "b", LONG).await.iter().all(|c| c.signal_at.is_some() != signalled);
        assert!(tests::holds(again).await, "quiet {quiet:?}");
    }
}

async fn what_waits_for_a_person_is_listed_page_by_page(parts: Parts) {
    let (store, _place) = open(parts).await;
    let mut expected = Vec::new();
    for n in 0..3 {
        let business = BusinessId::parse(format!("b{n}")).unwrap();
        let mut tx = store.begin().await.unwrap();
        let due = BusinessMark { changed: false, ..BusinessMark::changed(business.clone(), Class::Rotation) };
        tx.mark_businesses(&[due], "test", None).await.unwrap();
        tx.commit().await.unwrap();
        marked(&store, &mark(&format!("i{n}"))).await;
        expected.extend([format!("business/b{n}"), format!("item/i{n}")]);
    }
    for kind in Kind::ALL {
        let by = if *kind == Kind::Item { Block::Parked } else { Block::Hold };
        for held in store.claim(*kind, "one", LONG, 9, &limits()).await.unwrap() {
            finish(&store, &held, &blocked(by)).await.unwrap();
        }
    }
    expected.sort();
    let mut tx = store.begin_read().await.unwrap();
    for limit in [1, 2, 4, 9] {
        let (mut found, mut after): (Vec<String>, _) = (Vec::new(), None);
        loop {
            let rows = tx.list_parked(&Page { after: after.clone(), limit }).await.unwrap();
            assert!(rows.len() <= limit as usize);
            let Some(last) = rows.last() else { break };
            after = Some(last.subject.to_string());
            found.extend(rows.iter().map(|r| r.subject.to_string()));
        }
        assert_eq!(found, expected, "{limit} a page");
    }
}

/// What is due, what a worker could take, and whose books are at risk are three questions.
async fn figures_tell_who_waits_and_for_what(parts: Parts) {
    let (store, _place) = open(parts).await;
    let ms = Duration::from_millis(20);
    let figures = async |spent: Option<Call>| {
        tokio::time::sleep(ms).await;
        let mut tx = store.begin_read().await.unwrap();
        let due: i64 = tx.due_rows(Kind::Item).await.unwrap().iter().map(|d| d.rows).sum();
        let claimable = tx.claimable_oldest(Kind::Item, |call| spent == Some(call)).await.unwrap();
        let risk = tx.not_good(Kind::Business).await.unwrap();
        (due, claimable >= ms, risk.iter().map(|r| r.rows).sum::<i64>())
    };
    assert_eq!(figures(None).await, (0, false, 0));
    push(&store, "x", "access-sandbox-1", acme()).await;
    assert_eq!(figures(None).await, (1, true, 0), "what a push says of its business holds once its token is proved");
    let mut tx = store.begin().await.unwrap();
    let pushed = tx.candidates(&item("x")).await.unwrap().remove(0);
    tx.promote(&item("x"), &pushed.fingerprint).await.unwrap();
    tx.apply_declaration(&item("x"), &pushed.fingerprint).await.unwrap();
    tx.set_item_state(&item("x"), ItemState::Active, None, None).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(figures(None).await, (1, true, 1), "an Item whose accounts nobody has read yet");
    assert_eq!(figures(Some(Call::AccountsGet)).await, (1, false, 1), "more workers would not help");
    assert_eq!(figures(Some(Call::Mint)).await, (1, true, 1), "it does not mint yet");

    let held = claim(&store, "one", LONG).await.remove(0);
    assert_eq!(figures(None).await, (0, false, 1), "somebody looks");
    finish(&store, &held, &Finish::unfinished(Duration::ZERO, Class::Rotation, Call::Mint)).await.unwrap();
    assert_eq!(figures(Some(Call::Mint)).await, (1, false, 1), "it waits for a mint");
    let held = claim(&store, "one", LONG).await.remove(0);
    finish(&store, &held, &blocked(Block::Parked)).await.unwrap();
    assert_eq!(figures(None).await, (0, false, 1), "it waits for a person");
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.blocked_counts(Kind::Item).await.unwrap(), [(Block::Parked, "test".to_owned(), 1)]);
    assert!(tx.release(&item("x"), Class::Person).await.unwrap());
    tx.pause(domain::Provider::Plaid, "test", "test", LONG).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(figures(None).await, (1, false, 1), "it waits for its provider");
    let mut tx = store.begin().await.unwrap();
    tx.resume(domain::Provider::Plaid).await.unwrap();
    tx.commit().await.unwrap();
    let held = claim(&store, "one", LONG).await.remove(0);
    finish(&store, &held, &done()).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    tx.item_was_read(&item("x")).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(figures(None).await, (0, false, 0), "served");

    // What can't have touched a token puts nothing at risk, and is no beginning of a change that comes hours later.
    marked(&store, &Mark { quiet: Some(SWEEP), class: Class::Sweep, ..mark("x") }).await;
    assert_eq!(figures(None).await, (0, false, 0));
    marked(&store, &mark("x")).await;
    let held = claim(&store, "one", LONG).await.remove(0);
    assert!(held.signal_at.is_some());
    finish(&store, &held, &done()).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    tx.set_item_state(&item("x"), ItemState::AwaitingToken, None, None).await.unwrap();
    save_account(&mut tx, "x", "acme").await;
    tx.commit().await.unwrap();
    assert_eq!(figures(None).await, (0, false, 1), "rotated, and nobody told us the new token");
}

/// More rows than one transaction marks.
async fn i10_a_sweep_is_owed_until_every_row_is_due(parts: Parts) {
    let (store, place) = open(parts).await;
    let ids: Vec<String> = (0..2100).map(|n| format!("item-{n}")).collect();
    let marks: Vec<Mark<'_>> = ids.iter().map(|id| mark(id)).collect();
    let mut tx = store.begin().await.unwrap();
    tx.mark_each(&marks).await.unwrap();
    assert!(!tx.owes_sweep().await.unwrap());
    tx.owe_sweep().await.unwrap();
    tx.commit().await.unwrap();
    set_due(&place, "due_at + 3600000").await;
    assert!(store.begin_read().await.unwrap().owes_sweep().await.unwrap());
    assert_eq!(store.mark_all(Kind::Business, Duration::ZERO, "test").await.unwrap(), 0);
    assert!(store.begin_read().await.unwrap().owes_sweep().await.unwrap(), "Items were not marked");
    assert_eq!(store.mark_all(Kind::Item, Duration::ZERO, "test").await.unwrap(), 2100);
    let mut tx = store.begin_read().await.unwrap();
    assert!(!tx.owes_sweep().await.unwrap());
    assert_eq!(tx.due_rows(Kind::Item).await.unwrap().iter().map(|r| r.rows).sum::<i64>(), 2100);
}

async fn set_due(place: &Place, at: &'static str) {
    sqlx::any::install_default_drivers();
    let pool = sqlx::any::AnyPoolOptions::new().connect(&place.url).await.unwrap();
    let sql = format!("UPDATE work SET due_at = {at}");
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    pool.close().await;
}

/// An import that waits since yesterday is as urgent as a rotation by now. It must not stand before it, nor wait for ever.
async fn what_waited_long_has_one_claim_in_eight(parts: Parts) {
    let (store, place) = open(parts).await;
    const EACH: usize = 200;
    let mark_all = async |class, kind: &str| {
        let mut tx = store.begin().await.unwrap();
        for n in 0..EACH {
            tx.mark(&Mark { class, ..mark(&format!("{kind}-{n}")) }).await.unwrap();
        }
        tx.commit().await.unwrap();
    };
    mark_all(Class::NewAccount, "import").await;
    set_due(&place, "0").await;
    mark_all(Class::Rotation, "rotation").await;
    let mut imports = 0;
    for _ in 0..EACH {
        let held = store.claim(Kind::Item, "one", LONG, 1, &limits()).await.unwrap();
        imports += usize::from(held[0].subject.id().starts_with("import"));
    }
    assert_eq!(imports, EACH / 8, "of {EACH} claims");
}
