//! Stored verdicts are what the facts say, whatever happened in whatever order (I11).

use super::{LONG, SWEEP, acme, blocked, claim, done, finish, item, limits, mark, marked, open, push, save_account};
use domain::accounts::MintRefused;
use domain::item::ItemState;
use domain::queue::{Finish, Mark};
use domain::verdict::State;
use domain::work::{Block, Class, Kind, Subject};
use domain::{AccountId, BusinessId, Millis, ProcessorToken, Provider};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::time::Duration;
use store::{Declaration, MintFault, Page, Saved, Store};
use tests::Parts;

on_both_parts!(
    i11_the_figure_is_the_number_of_verdicts_that_are_not_good,
    i11_two_changes_of_one_business_are_judged_together,
    what_an_earlier_release_wrote_is_judged_when_it_is_found,
);

const ITEMS: [&str; 4] = ["i0", "i1", "i2", "i3"];
const BUSINESSES: [&str; 3] = ["acme", "globex", "initech"];

fn business(n: &str) -> BusinessId {
    BusinessId::parse(n).unwrap()
}

/// One act of whoever may act, on rows drawn by the generator.
async fn act(store: &Store, rng: &mut StdRng) {
    let id = ITEMS[rng.random_range(0..ITEMS.len())];
    let of = BUSINESSES[rng.random_range(0..BUSINESSES.len())];
    let account = AccountId::parse(format!("acc-{id}")).unwrap();
    let mut tx = store.begin().await.unwrap();
    match rng.random_range(0..16) {
        0 => {
            tx.rollback().await.unwrap();
            let said = Declaration { business: Some(business(of)), ..acme() };
            return push(store, id, &format!("token-{}", rng.random_range(0..3)), said).await;
        }
        1 => {
            if let Some(candidate) = tx.candidates(&item(id)).await.unwrap().first() {
                tx.promote(&item(id), &candidate.fingerprint).await.unwrap();
                tx.apply_declaration(&item(id), &candidate.fingerprint).await.unwrap();
            }
        }
        2 => {
            let state = ItemState::ALL[rng.random_range(0..ItemState::ALL.len())];
            tx.set_item_state(&item(id), state, None, None).await.unwrap();
        }
        3 => {
            let known = tx.accounts(&item(id)).await.unwrap();
            if let (Some(_), None) = (tx.item(&item(id)).await.unwrap(), known.first()) {
                tx.ensure_business(&business(of), None).await.unwrap();
                save_account(&mut tx, id, of).await;
                tx.item_was_read(&item(id)).await.unwrap();
            }
        }
        4 => {
            let fault = MintFault {
                refused: MintRefused::Other,
                code: "X".into(),
                why: "because".into(),
                generation: rng.random_range(0..3),
                tries: 1,
                again_at: Millis(0),
            };
            tx.set_mint_fault(&item(id), &account, rng.random_bool(0.5).then_some(&fault)).await.unwrap();
        }
        5 | 6 => {
            let kind = if rng.random_bool(0.5) { Kind::Item } else { Kind::Business };
            let subject = Subject::parse(kind, if kind == Kind::Item { id } else { of }).unwrap();
            let quiet = rng.random_bool(0.3).then_some(SWEEP);
            tx.mark(&Mark { subject, quiet, unblocks: rng.random_bool(0.3), ..mark(id) }).await.unwrap();
        }
        7..=9 => {
            tx.rollback().await.unwrap();
            let kind = if rng.random_bool(0.5) { Kind::Item } else { Kind::Business };
            let by = Block::ALL[rng.random_range(0..Block::ALL.len())];
            let end: Finish = if rng.random_bool(0.5) { done() } else { blocked(by) };
            for held in store.claim(kind, "one", LONG, 1, &limits()).await.unwrap() {
                finish(store, &held, &Finish { again_after: Duration::ZERO, ..end.clone() }).await.unwrap();
            }
            return;
        }
        10 => {
            tx.rollback().await.unwrap();
            for held in claim(store, "one", LONG).await.into_iter().take(1) {
                let mut tx = store.begin().await.unwrap();
                if let Some(row) = tx.item(&item(held.subject.id())).await.unwrap() {
                    let account = AccountId::parse(format!("acc-{}", held.subject.id())).unwrap();
                    let intent = tx.intend(&held, &row.id, &account, row.generation).await.unwrap();
                    let token = ProcessorToken::new(format!("p-{}", rng.random::<u64>()));
                    if let Saved::Live(token) = tx.save_minted(&intent, &token).await.unwrap() {
                        for business in tx.businesses_of_item(&row.id).await.unwrap() {
                            tx.record_accepted(&business, std::slice::from_ref(&token), &[]).await.unwrap();
                        }
                    }
                }
                tx.finish(&held, &done()).await.unwrap();
                tx.commit().await.unwrap();
            }
            return;
        }
        11 => tx.record_converged(&business(of), rng.random_bool(0.7), &[], "test").await.unwrap(),
        12 => drop(tx.remove_item(&item(id)).await.unwrap()),
        13 => drop(tx.release(&item(id), Class::Person).await.unwrap()),
        14 => drop(tx.pause(Provider::ALL[rng.random_range(0..2)], "test", "test", LONG).await.unwrap()),
        _ => {
            for provider in Provider::ALL {
                tx.resume(*provider).await.unwrap();
            }
        }
    }
    tx.commit().await.unwrap();
}

/// Every surface counts alike: the stored verdicts, what the facts say, the lists, and the figures of the metrics.
async fn every_surface_agrees(store: &Store, what: &str) {
    let mut tx = store.begin_read().await.unwrap();
    let stale = tx.stale_verdicts().await.unwrap();
    assert!(stale.is_empty(), "{what}: {stale:?}");
    for kind in Kind::ALL {
        let all = Page { after: None, limit: 100 };
        let ids: Vec<String> = match kind {
            Kind::Item => tx.list_items(&all).await.unwrap().iter().map(|r| r.id.to_string()).collect(),
            Kind::Business => tx.list_businesses(&all).await.unwrap().iter().map(|r| r.id.to_string()).collect(),
        };
        let judged = tx.verdicts(*kind, &ids).await.unwrap();
        assert_eq!(judged.len(), ids.len(), "{what}: everybody has a verdict");
        let not_good = judged.iter().filter(|j| !j.verdict.state.is_good()).count();
        let figures = tx.not_good(*kind).await.unwrap();
        assert_eq!(figures.iter().map(|f| f.rows).sum::<i64>(), not_good as i64, "{what}: {kind}");
        for state in State::ALL {
            let so: Vec<String> =
                judged.iter().filter(|j| j.verdict.state == *state).map(|j| j.subject.id().to_owned()).collect();
            assert_eq!(tx.list_by_state(*kind, *state, &all).await.unwrap(), so, "{what}: {kind} {state}");
            let figure = figures.iter().find(|f| f.state == *state).map_or(0, |f| f.rows);
            assert_eq!(figure, if state.is_good() { 0 } else { so.len() as i64 }, "{what}: {kind} {state}");
        }
    }
}

async fn i11_the_figure_is_the_number_of_verdicts_that_are_not_good(parts: Parts) {
    let seed: u64 = rand::random();
    let mut rng = StdRng::seed_from_u64(seed);
    let (store, _place) = open(parts).await;
    for step in 0..150 {
        act(&store, &mut rng).await;
        every_surface_agrees(&store, &format!("seed {seed}, step {step}")).await;
    }
}

/// Two transactions change facts of one business at the same time: whoever ends last has seen both.
async fn i11_two_changes_of_one_business_are_judged_together(parts: Parts) {
    let (store, _place) = open(parts).await;
    for id in ITEMS {
        push(&store, id, &format!("token-{id}"), acme()).await;
        let mut tx = store.begin().await.unwrap();
        tx.promote(&item(id), &store.fingerprints().of(&format!("token-{id}"))).await.unwrap();
        tx.apply_declaration(&item(id), &store.fingerprints().of(&format!("token-{id}"))).await.unwrap();
        save_account(&mut tx, id, "acme").await;
        tx.item_was_read(&item(id)).await.unwrap();
        tx.commit().await.unwrap();
    }
    for round in 0..20 {
        let state = if round % 2 == 0 { ItemState::AwaitingToken } else { ItemState::Active };
        let changes = ITEMS.map(|id| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut tx = store.begin().await.unwrap();
                tx.set_item_state(&item(id), state, None, None).await.unwrap();
                tx.commit().await.unwrap();
            })
        });
        for change in changes {
            change.await.unwrap();
        }
        every_surface_agrees(&store, &format!("round {round}")).await;
    }
}

async fn what_an_earlier_release_wrote_is_judged_when_it_is_found(parts: Parts) {
    let (store, place) = open(parts).await;
    push(&store, "x", "token", acme()).await;
    marked(&store, &Mark { class: Class::Sweep, ..mark("x") }).await;
    sqlx::any::install_default_drivers();
    let pool = sqlx::any::AnyPoolOptions::new().connect(&place.url).await.unwrap();
    sqlx::query("UPDATE verdicts SET state = 'unknown'").execute(&pool).await.unwrap();
    pool.close().await;
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.not_good(Kind::Item).await.unwrap()[0].state, State::Unknown, "and shown as that");
    assert_eq!(tx.judge_unknown(10, 0).await.unwrap(), 1);
    tx.commit().await.unwrap();
    every_surface_agrees(&store, "judged").await;
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.judge_unknown(10, 0).await.unwrap(), 0);
}
