//! A customer is forgotten, and nothing that is still needed is.

use super::{LONG, Place, blocked, claim, done, dump, finish, item, limits, mark, open, push};
use domain::accounts::{AccountState, Traits};
use domain::work::{Block, Kind};
use domain::{AccountId, BusinessId, ItemId, ProcessorToken};
use store::{AccountUpdate, Claim, Declaration, Erasure, Error, Finish, Mark, Saved, Store};
use tests::Parts;

stories!(what_is_erased_leaves_only_the_audit, an_item_that_nobody_pushed_is_erased_too);

/// A business with one Item, minted, listed and read back; then the platform removed it.
struct Customer {
    store: Store,
    place: Place,
    id: ItemId,
    business: BusinessId,
    /// A look at the Item of before.
    held: Claim,
}

impl Customer {
    async fn new(parts: Parts) -> Self {
        let (store, place) = open(parts).await;
        let (id, business) = (item("item-gone"), BusinessId::parse("acme-gone").unwrap());
        let account = AccountId::parse("acc-gone").unwrap();
        let declaration = Declaration { business: Some(business.clone()), ..Declaration::default() };
        push(&store, id.as_str(), "token-1", declaration).await;
        let held = claim(&store, "one", LONG).await.remove(0);
        let mut tx = store.begin().await.unwrap();
        tx.promote(&id, &store.fingerprints().of("token-1")).await.unwrap();
        let traits = Traits { kind: "depository".into(), ..Traits::default() };
        let update = AccountUpdate {
            item: &id,
            id: &account,
            traits: &traits,
            state: AccountState::Active,
            business: Some(&business),
            missing_since: None,
            proof: None,
            outside: None,
        };
        tx.save_account(&update).await.unwrap();
        let intent = tx.intend(&held, &id, &account, 1).await.unwrap();
        let Saved::Live(token) = tx.save_minted(&intent, &ProcessorToken::new("p-1")).await.unwrap() else { panic!() };
        tx.record_accepted(&business, &[token]).await.unwrap();
        tx.record_converged(&business, true, "changed").await.unwrap();
        tx.audit("somebody", "item.sync", id.as_str(), "").await.unwrap();
        tx.audit("somebody", "parked.release", &format!("item/{id}"), "").await.unwrap();
        tx.count_removals(&business, 1, 10, LONG).await.unwrap();
        tx.finish(&held, &done()).await.unwrap();
        tx.commit().await.unwrap();
        Self { store, place, id, business, held }
    }

    async fn remove(&self) {
        let mut tx = self.store.begin().await.unwrap();
        tx.remove_item(&self.id, store::REMOVED_BY_PLATFORM).await.unwrap();
        tx.mark(&Mark { kind: Kind::Business, id: self.business.as_str(), ..mark("") }).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// The next look at the business ends like this.
    async fn look(&self, end: &Finish) {
        let sql = "UPDATE work SET due_at = 0, blocked_by = NULL WHERE kind = 'business'";
        self.sql(sql).await;
        let looking = self.store.claim(Kind::Business, "one", LONG, 1, &limits()).await.unwrap().remove(0);
        self.item_waits_for("is being looked at").await;
        finish(&self.store, &looking, end).await.unwrap();
    }

    async fn converge(&self) {
        let mut tx = self.store.begin().await.unwrap();
        tx.record_accepted(&self.business, &[]).await.unwrap();
        tx.record_converged(&self.business, true, "changed").await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn item(&self, unconfirmed: bool) -> Erasure {
        self.store.begin().await.unwrap().erase_item(&self.id, unconfirmed).await.unwrap()
    }
    async fn business(&self, unconfirmed: bool) -> Erasure {
        self.store.begin().await.unwrap().erase_business(&self.business, unconfirmed).await.unwrap()
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
    async fn sql(&self, sql: &'static str) {
        sqlx::any::install_default_drivers();
        let pool = sqlx::any::AnyPoolOptions::new().connect(&self.place.url).await.unwrap();
        sqlx::query(sql).execute(&pool).await.unwrap();
        pool.close().await;
    }
}

async fn what_is_erased_leaves_only_the_audit(parts: Parts) {
    let customer = Customer::new(parts).await;
    customer.item_waits_for("remove it first").await;
    customer.remove().await;
    customer.item_waits_for("try again in 15 minutes").await;
    assert!(matches!(customer.item(true).await, Erasure::Refused(_)), "whatever is not confirmed");
    customer.sql("UPDATE items SET state_since = state_since - 900000").await;
    // Converged before, and never since.
    customer.sql("UPDATE businesses SET converged_at = 1").await;
    customer.item_waits_for("acme-gone is due").await;
    customer.look(&blocked(Block::Hold)).await;
    customer.item_waits_for("waits (test: because)").await;
    customer.look(&Finish { owes_look: true, ..done() }).await;
    customer.sql("UPDATE work SET taken_over = due_at WHERE kind = 'business'").await;
    customer.item_waits_for("may still arrive").await;
    customer.look(&done()).await;
    customer.item_waits_for("no look at acme-gone has ended well").await;
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
    let dump = dump(&customer.place.url).await;
    assert!(!dump.contains("gone"), "{dump}");

    // A row of the same name is no row of before: what was claimed then is stale.
    let acme = Declaration { business: Some(customer.business.clone()), ..Declaration::default() };
    push(&customer.store, customer.id.as_str(), "token-2", acme).await;
    let again = claim(&customer.store, "one", LONG).await.remove(0);
    assert!(again.epoch > customer.held.epoch, "{} after {}", again.epoch, customer.held.epoch);
    assert!(matches!(finish(&customer.store, &customer.held, &done()).await, Err(Error::Stale { .. })), "I7");
}

async fn an_item_that_nobody_pushed_is_erased_too(parts: Parts) {
    let customer = Customer::new(parts).await;
    customer.sql("INSERT INTO unknown_items (item_id, first_seen, last_seen, seen) VALUES ('nobody', 1, 1, 1)").await;
    let mut tx = customer.store.begin().await.unwrap();
    assert_eq!(tx.erase_item(&item("nobody"), false).await.unwrap(), Erasure::Done);
    assert_eq!(tx.erase_item(&item("nobody"), false).await.unwrap(), Erasure::Unknown);
    tx.commit().await.unwrap();
    assert!(!dump(&customer.place.url).await.contains("nobody"));
}
