//! What operators do to a row, in one place for the API and the pages: audited with its reason, and refused where the row is not
//! what they had seen.

use crate::Console;
use crate::auth::Caller;
use crate::businesses::no_business;
use crate::error::ApiError;
use crate::items::no_item;
use domain::queue::{Mark, Row};
use domain::redact::shows_any_token;
use domain::words;
use domain::work::{Class, Subject};
use serde::Deserialize;
use serde_json::json;
use store::Act;
use utoipa::IntoParams;

words!(
    /// What an operator can order.
    Order {
        /// Look at it now, whatever it waits for.
        Sync => "sync",
        /// Let a held or parked row go on, with a permit for once.
        Release => "release",
    }
);

impl Order {
    /// What a page tells afterwards.
    pub(crate) fn done(self) -> &'static str {
        match self {
            Self::Sync => "It is due now: this page shows what comes of it.",
            Self::Release => "Released: it is due now, and this page shows what comes of it.",
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ActQuery {
    /// Why, for the audit trail.
    pub(crate) reason: Option<String>,
    /// The `version` of the row that an explanation showed: refused with 409 if what keeps the row is another thing by now.
    pub(crate) version: Option<String>,
}

/// What an act rests on: what keeps the row, since when, and in which words: a guard that now objects to forty accounts is not
/// the one that objected to two. Not how often the row was looked at meanwhile.
pub(crate) fn version(row: Option<&Row>) -> String {
    let Some(blocked) = row.and_then(|r| r.blocked.as_ref()) else { return "free".to_owned() };
    let since = row.and_then(|r| r.blocked_at).map_or(0, |at| at.0);
    format!("{}.{}.{since}.{}", blocked.by, blocked.code, &crate::hash_token(&blocked.why)[..12])
}

const LONGEST_REASON: usize = 500;

/// Carries it out. `seen`: the version that it was decided on.
pub(crate) async fn carry_out(
    console: &Console,
    caller: &Caller,
    order: Order,
    subject: &Subject,
    reason: Option<&str>,
    seen: Option<&str>,
) -> Result<(), ApiError> {
    if reason.is_some_and(|r| r.chars().count() > LONGEST_REASON || r.contains('\0')) {
        return Err(ApiError::bad_request("a reason has 500 characters at most, and no NUL"));
    }
    if reason.is_some_and(shows_any_token) {
        return Err(ApiError::bad_request("the reason has a token in it: it would stand in the audit trail"));
    }
    let mut tx = console.store.begin().await?;
    // A sync of a business locks its Items first.
    if order == Order::Release {
        tx.lock_row(subject).await?;
    }
    let known = match subject {
        Subject::Item(id) => tx.item(id).await?.map(drop).ok_or_else(no_item),
        Subject::Business(id) => tx.business(id).await?.map(drop).ok_or_else(no_business),
    };
    let row = tx.work(subject).await?;
    let refused = match known {
        Err(unknown) => Some(unknown),
        Ok(()) if seen.is_some_and(|seen| seen != version(row.as_ref())) => {
            Some(ApiError::conflict("what keeps it is another thing by now than when it was decided: look again"))
        }
        Ok(()) => None,
    };
    if let Some(refused) = refused {
        tx.rollback().await?;
        return Err(refused);
    }
    let was = row.and_then(|r| r.blocked).map(|b| json!({"blocked_by": b.by.as_str(), "code": b.code}));
    let action = match (order, subject) {
        (Order::Release, _) => {
            if !tx.release(subject).await? {
                tx.rollback().await?;
                return Err(ApiError::not_found(
                    "blocked row",
                    "`rekey parked list` shows those that wait for a person",
                ));
            }
            "parked.release"
        }
        (Order::Sync, Subject::Item(_)) => {
            tx.mark(&sync_mark(subject)).await?;
            "item.sync"
        }
        (Order::Sync, Subject::Business(id)) => {
            tx.mark_unminted(id, "an operator asked").await?;
            tx.mark(&sync_mark(subject)).await?;
            "business.sync"
        }
    };
    let was = was.filter(|_| order == Order::Release);
    let became = reason.map(|reason| json!({"reason": reason}));
    tx.audit(&Act { was, became, ..caller.act(action, subject) }).await?;
    tx.commit().await?;
    tracing::info!(kind = %subject.kind(), id = subject.id(), by = caller.name, order = %order, "ordered by an operator");
    Ok(())
}

fn sync_mark(subject: &Subject) -> Mark<'static> {
    Mark { unblocks: true, ..Mark::new(subject, Class::Person, "an operator asked") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::queue::Blocked;
    use domain::work::Block;

    #[test]
    fn i8_a_release_is_for_the_words_that_were_seen() {
        let free = Row::new(Subject::Item(domain::ItemId::parse("item").unwrap()), domain::Millis(0));
        let held = |why: &str| {
            let blocked = Blocked { by: Block::Hold, code: "shrink_guard".into(), why: why.into() };
            Row { blocked: Some(blocked), blocked_at: Some(domain::Millis(1)), ..free.clone() }
        };
        let of = |row: &Row| version(Some(row));
        assert_eq!(of(&held("it would lose 2 accounts")), of(&held("it would lose 2 accounts")));
        assert_ne!(of(&held("it would lose 2 accounts")), of(&held("it would lose 40 accounts")));
        assert_eq!((version(None), of(&free)), ("free".to_owned(), "free".to_owned()));
    }
}
