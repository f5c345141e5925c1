//! A customer is forgotten, and nothing that is still needed is.

use super::{LONG, Place, blocked, claim, done, dump, finish, item, limits, open, push, save_account};
use domain::queue::{Finish, Mark};
use domain::work::{Block, Class, Kind, Subject};
use domain::{AccountId, BusinessId, ItemId, ProcessorToken};
use std::time::Duration;
use store::{Act, AuditFilter, Claim, Declaration, Erasure, Error, OutcomeFilter, Page, Saved, Store};
use tests::Parts;

on_both_parts!(
    what_is_erased_leaves_only_the_audit_under_a_pseudonym,
    an_item_that_nobody_pushed_is_erased_too,
    what_nobody_needs_any_more_is_forgotten,
);

/// A business with one Item, minted, listed and read back; then the platform removed it.
struct Customer {
    store: Store,
    place: Place,
    id: ItemId,
    business: BusinessId,
    /// A reconciliation of the Item of before.
    held: Claim,
}

impl Customer {
    async fn new(parts: Parts) -> Self {
        let (store, place) = open(parts).await;
        let (id, business) = (item("item-gone"), BusinessId::parse("acme-gone").unwrap());
        let account = AccountId::parse("acc-item-gone").unwrap();
        let declaration = Declaration { business: Some(business.clone()), ..Declaration::default() };
        push(&store, id.as_str(), "token-1", declaration).await;
        let held = claim(&store, "one", LONG).await.remove(0);
        let mut tx = store.begin().await.unwrap();
        tx.promote(&id, &store.fingerprints().of("token-1")).await.unwrap();
        tx.apply_declaration(&id, &store.fingerprints().of("token-1")).await.unwrap();
        save_account(&mut tx, id.as_str(), business.as_str()).await;
        let intent = tx.intend(&held, &id, &account, 1).await.unwrap();
        let Saved::Live(token) = tx.save_minted(&intent, &ProcessorToken::new("p-1")).await.unwrap() else { panic!() };
        tx.record_accepted(&business, &[token], &[]).await.unwrap();
        tx.record_converged(&business, true, &[], "changed").await.unwrap();
        tx.audit(&act("item.sync", &id)).await.unwrap();
        let became = Some(serde_json::json!({"business": business.as_str(), "replaces": id.as_str()}));
        tx.audit(&Act { became, ..act("item.put", &item("another")) }).await.unwrap();
        let accounts = [serde_json::json!({"account_id": account.as_str(), "business": business.as_str()})];
        let became = Some(serde_json::json!({"accounts": accounts}));
        tx.audit(&Act { became, ..act("item.put", &id) }).await.unwrap();
        tx.audit(&act("business.sync", &business)).await.unwrap();
        tx.book_removals(&business, 1, 10, LONG).await.unwrap();
        for subject in [Subject::from(&id), Subject::from(&business)] {
            let named = serde_json::json!({"account_id": account.as_str(), "why": format!("{id} left {business}")});
            tx.note(&subject, "test", named, None);
        }
        tx.finish(&held, &done()).await.unwrap();
        tx.commit().await.unwrap();
        Self { store, place, id, business, held }
    }

    async fn remove(&self) {
        let mut tx = self.store.begin().await.unwrap();
        tx.remove_item(&self.id).await.unwrap();
        tx.mark(&Mark::new(&self.business, Class::Rotation, "test")).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// The next reconciliation of the business ends like this.
    async fn look(&self, end: &Finish) {
        let sql = "UPDATE work SET due_at = 0, blocked_by = NULL WHERE kind = 'business'";
        self.sql(sql).await;
        let looking = self.store.claim(Kind::Business, "one", LONG, 1, &limits()).await.unwrap().remove(0);
        self.item_waits_for("is being looked at").await;
        finish(&self.store, &looking, end).await.unwrap();
    }

    async fn converge(&self) {
        let mut tx = self.store.begin().await.unwrap();
        tx.record_accepted(&self.business, &[], &[]).await.unwrap();
        tx.record_converged(&self.business, true, &[], "changed").await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn item(&self, unconfirmed: bool) -> Erasure {
        let mut tx = self.store.begin().await.unwrap();
        let erasure = tx.erase_item(&self.id, unconfirmed).await.unwrap();
        tx.rollback().await.unwrap();
        erasure
    }
    async fn business(&self, unconfirmed: bool) -> Erasure {
        let mut tx = self.store.begin().await.unwrap();
        let erasure = tx.erase_business(&self.business, unconfirmed).await.unwrap();
        tx.rollback().await.unwrap();
        erasure
    }

    async fn item_waits_for(&self, what: &str) {
        let erasure = self.item(false).await;
        assert!(matches!(&erasure, Erasure::Refused(why) if why.contains(what)), "{what}: {erasure:?}");
    }
    async fn business_waits_for(&self, what: &str) {
        let erasure = self.business(false).await;
        assert!(matches!(&erasure, Erasure::Refused(why) if why.contains(what)), "{what}: {erasure:?}");
    }

    /// What only time does.
    async fn sql(&self, sql: &str) {
        sqlx::any::install_default_drivers();
        let pool = sqlx::any::AnyPoolOptions::new().connect(&self.place.url).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&pool).await.unwrap();
        pool.close().await;
    }
}

async fn what_is_erased_leaves_only_the_audit_under_a_pseudonym(parts: Parts) {
    let customer = Customer::new(parts).await;
    customer.item_waits_for("remove it first").await;
    // As an earlier release writes it, also beside this one.
    customer
        .sql("INSERT INTO audit (id, actor, action, subject, detail, at) VALUES ('00', 'somebody', 'item.sync', 'item-gone', '', 1)")
        .await;
    customer.remove().await;
    customer.item_waits_for("try again in 15 minutes").await;
    assert!(matches!(customer.item(true).await, Erasure::Refused(_)), "whatever is not confirmed");
    customer.sql("UPDATE items SET state_since = state_since - 900000").await;
    // Converged before, and never since.
    customer.sql("UPDATE businesses SET converged_at = 1").await;
    customer.item_waits_for("acme-gone is due").await;
    customer.look(&blocked(Block::Hold)).await;
    customer.item_waits_for("waits (test: because)").await;
    customer.look(&Finish { owes_another: true, ..done() }).await;
    customer.sql("UPDATE work SET taken_over = due_at WHERE kind = 'business'").await;
    customer.item_waits_for("may still arrive").await;
    customer.look(&done()).await;
    customer.item_waits_for("no reconciliation of acme-gone has ended well").await;
    assert_eq!(customer.item(true).await, Erasure::Done, "an operator knows that Layer has no such business");
    customer.converge().await;
    assert_eq!(customer.item(false).await, Erasure::Done);

    customer.business_waits_for("item-gone").await;
    assert!(matches!(customer.business(true).await, Erasure::Refused(_)), "its Items come first");
    let mut tx = customer.store.begin().await.unwrap();
    assert_eq!(tx.erase_item(&customer.id, false).await.unwrap(), Erasure::Done);
    assert_eq!(tx.erase_item(&customer.id, false).await.unwrap(), Erasure::Unknown);
    tx.commit().await.unwrap();
    customer.business_waits_for("its list was sent a short time ago").await;
    customer.sql("UPDATE businesses SET put_at = put_at - 900000").await;
    customer.sql("UPDATE work SET wanted = wanted + 1, due_at = 0 WHERE kind = 'business'").await;
    customer.business_waits_for("is due").await;
    let looking = customer.store.claim(Kind::Business, "one", LONG, 1, &limits()).await.unwrap().remove(0);
    customer.business_waits_for("is being looked at").await;
    finish(&customer.store, &looking, &done()).await.unwrap();
    let mut tx = customer.store.begin().await.unwrap();
    assert_eq!(tx.erase_business(&customer.business, false).await.unwrap(), Erasure::Done);
    assert_eq!(tx.erase_business(&customer.business, false).await.unwrap(), Erasure::Unknown);
    tx.commit().await.unwrap();
    // What was told of it leaves through the outbox, and is no memory.
    customer.sql("DELETE FROM outbox").await;
    let dump = dump(&customer.place.url).await;
    assert!(!dump.contains("gone"), "{dump}");
    // Whoever has the id finds what was done.
    let mut tx = customer.store.begin_read().await.unwrap();
    let of_item = ["item.put", "item.sync", "item.sync"];
    for (of, actions) in [("item/item-gone", &of_item[..]), ("business/acme-gone", &["business.sync"])] {
        let filter = AuditFilter { subject: Some(of.to_owned()), by: None };
        let entries = tx.audit_page(&filter, &Page { after: None, limit: 9 }).await.unwrap();
        assert_eq!(entries.iter().map(|e| e.action.as_str()).collect::<Vec<_>>(), actions, "{of}");
    }
    for subject in [Subject::from(&customer.id), Subject::from(&customer.business)] {
        let page = Page { after: None, limit: 99 };
        let noted = tx.history(std::slice::from_ref(&subject), &page).await.unwrap();
        let ours = noted.iter().find(|entry| entry.what == "test").unwrap();
        let account = customer.store.fingerprints().of("acc-item-gone");
        assert_eq!(ours.detail["account_id"], account.as_str(), "{subject}: {noted:?}");
        let of =
            OutcomeFilter { subjects: Some(vec![subject.clone()]), oldest_first: true, ..OutcomeFilter::default() };
        let outcomes = tx.list_outcomes(&of, &page).await.unwrap();
        assert!(outcomes.contains(ours) && outcomes.iter().all(|o| o.what != "rekey.reconciled"), "{outcomes:?}");
    }
    let filter = AuditFilter { subject: Some("item/another".to_owned()), by: None };
    let mention = tx.audit_page(&filter, &Page { after: None, limit: 9 }).await.unwrap().remove(0).became.unwrap();
    let named = |id: &str| customer.store.fingerprints().of(id).to_string();
    assert!(mention.contains(&named("acme-gone")) && mention.contains(&named("item-gone")), "{mention}");
    drop(tx);

    // A row of the same name is no row of before: what was claimed then is stale.
    let acme = Declaration { business: Some(customer.business.clone()), ..Declaration::default() };
    push(&customer.store, customer.id.as_str(), "token-2", acme).await;
    let again = claim(&customer.store, "one", LONG).await.remove(0);
    assert!(again.epoch > customer.held.epoch, "{} after {}", again.epoch, customer.held.epoch);
    assert!(matches!(finish(&customer.store, &customer.held, &done()).await, Err(Error::Stale { .. })), "I7");
}

fn act<'a>(action: &'a str, subject: impl Into<Subject>) -> Act<'a> {
    Act { by: "somebody", from: None, action, subject: subject.into().to_string(), was: None, became: None }
}

async fn an_item_that_nobody_pushed_is_erased_too(parts: Parts) {
    let customer = Customer::new(parts).await;
    customer.sql("INSERT INTO unknown_items (item_id, first_seen, last_seen, seen) VALUES ('stranger', 1, 1, 1)").await;
    let mut tx = customer.store.begin().await.unwrap();
    tx.audit(&act("item.erase", &item("stranger"))).await.unwrap();
    assert_eq!(tx.erase_item(&item("stranger"), false).await.unwrap(), Erasure::Done);
    assert_eq!(tx.erase_item(&item("stranger"), false).await.unwrap(), Erasure::Unknown);
    tx.commit().await.unwrap();
    assert!(!dump(&customer.place.url).await.contains("stranger"));
}

/// The audit by its age, Items that nobody pushed by age and number: neither grows for ever.
async fn what_nobody_needs_any_more_is_forgotten(parts: Parts) {
    let customer = Customer::new(parts).await;
    let day = Duration::from_hours(24);
    let mut tx = customer.store.begin().await.unwrap();
    let now = tx.now().0;
    assert_eq!(tx.forget_old_audit(day, 100).await.unwrap(), 0);
    assert_eq!(tx.forget_old_history(day, 100).await.unwrap(), 0);
    tx.commit().await.unwrap();
    customer.sql("UPDATE audit SET at = at - 2 * 86400000 WHERE action = 'item.put'").await;
    for (n, age) in [(1, 0), (2, 1000), (3, 2000), (4, 3 * 86_400_000)] {
        let sql = format!("INSERT INTO unknown_items VALUES ('unknown-{n}', 1, {}, 1)", now - age);
        customer.sql(&sql).await;
    }
    // Ids of a history begin with their times, as version 7 of UUIDs does.
    let id = |n: usize, at: i64| format!("{:08x}-{:04x}-7000-8000-{n:012}", at >> 16, at & 0xffff);
    for (n, age) in [200_000_000, 100_000_000, 0, 0, 0].into_iter().enumerate() {
        let (id, at) = (id(n, now - age), now - age);
        let sql = "INSERT INTO history (id, subject, at, what, detail) VALUES";
        customer.sql(&format!("{sql} ('{id}', 'item/old', {at}, 'test', '{{}}')")).await;
    }
    let mut tx = customer.store.begin().await.unwrap();
    assert_eq!(tx.forget_old_history(day, 1).await.unwrap(), 1, "some at a time");
    assert_eq!(tx.forget_old_history(day, 100).await.unwrap(), 1, "by age");
    let old = Subject::from(&item("old"));
    tx.shorten_history(&old, 2).await.unwrap();
    let left = tx.history(&[old], &Page { after: None, limit: 9 }).await.unwrap();
    let newest = [id(4, now), id(3, now)];
    assert_eq!(left.into_iter().map(|entry| entry.id).collect::<Vec<_>>(), newest, "by number: the newest stay");
    assert_eq!(tx.forget_old_audit(day, 100).await.unwrap(), 2);
    assert_eq!(tx.forget_unknown(day, 100).await.unwrap(), 1, "by age");
    assert_eq!(tx.forget_unknown(day, 3).await.unwrap(), 0);
    assert_eq!(tx.forget_unknown(day, 2).await.unwrap(), 1, "by number");
    let left = tx.list_unknown_items(&Page { after: None, limit: 9 }).await.unwrap();
    assert_eq!(left.iter().map(|u| u.item.as_str()).collect::<Vec<_>>(), ["unknown-1", "unknown-2"], "the newest stay");
    tx.commit().await.unwrap();
}
