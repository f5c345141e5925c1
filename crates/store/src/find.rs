//! Who is meant: any id that a person may have at hand leads to the businesses and Items that it is about.

use crate::sql::{get, sql};
use crate::{Error, Tx};
use domain::work::{Kind, Subject};

/// A business or an Item that a text leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub subject: Subject,
    /// What the text is: `id`, `layer_id`, `account_id`, `mask`, `access_token` or `processor_token`.
    pub by: String,
}

/// What a text may be, and who it is about then. Each stands on an index.
const BY: &str = "
    SELECT 'business' AS kind, business_id AS id, 'id' AS found_by FROM businesses WHERE business_id = $1
    UNION SELECT 'item', item_id, 'id' FROM items WHERE item_id = $1
    UNION SELECT 'business', business_id, 'layer_id' FROM businesses WHERE layer_id = $1
    UNION SELECT 'item', item_id, 'account_id' FROM accounts WHERE account_id = $1
    UNION SELECT 'item', item_id, 'access_token' FROM access_tokens WHERE fingerprint = $1
    UNION SELECT 'item', item_id, 'processor_token' FROM processor_tokens WHERE fingerprint = $1
    ORDER BY 3, 2 LIMIT $2";

/// By itself, because many accounts have the same one: no more of them are read than are asked for.
const BY_MASK: &str =
    "SELECT DISTINCT 'item' AS kind, item_id AS id, 'mask' AS found_by FROM accounts WHERE mask = $1 LIMIT $2";

impl Tx {
    /// The businesses and Items that this text is about, `limit` at most.
    pub async fn find(&mut self, text: &str, limit: u32) -> Result<Vec<Found>, Error> {
        let mut rows = self.rows(sql!(BY, text, limit)).await?;
        rows.extend(self.rows(sql!(BY_MASK, text, limit)).await?);
        rows.truncate(limit as usize);
        let found = rows.iter().map(|row| {
            let (kind, id, by): (Kind, String, String) = (get(row, "kind")?, get(row, "id")?, get(row, "found_by")?);
            Ok(Found { subject: Subject::from_stored(kind, id), by })
        });
        found.collect()
    }
}
