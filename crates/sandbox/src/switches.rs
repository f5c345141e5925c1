//! One switch for each fact about the providers that nobody has confirmed.

use serde::{Deserialize, Serialize};

/// What Layer does with a PUT that holds a token it can't use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadToken {
    FailsAll,
    IsSkipped,
    IsAccepted,
}

/// What List Plaid Accounts shows of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shows {
    Full,
    Masked,
    Omitted,
}

/// Whether `/accounts/get` answers while the Item needs a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoginRequiredReads {
    Fail,
    AnswerFromCache,
}

/// The switches, at the answers that Rekey's documentation takes for likely.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Switches {
    /// Plaid: a rotation kills the processor tokens of the old access token.
    pub rotation_kills_processor_tokens: bool,
    /// Plaid: minting again for the same access token and account gives the same processor token.
    pub repeated_create_gives_same_token: bool,
    pub login_required_reads: LoginRequiredReads,
    /// Plaid: minting works while the Item needs a login.
    pub mint_while_login_required: bool,
    pub bad_token: BadToken,
    /// Layer: the list is checked for dead tokens only by this much later; here at once or never.
    pub layer_checks_tokens: bool,
    pub list_shows: Shows,
    /// Layer: rows of removed tokens stay in the list as ARCHIVED.
    pub removed_rows_stay_archived: bool,
    /// Layer: a token swap keeps the account's row; else the old row is archived or dropped and a new one made.
    pub swap_keeps_row: bool,
    /// Layer: rows a page, 0 for no pagination.
    pub list_page_size: usize,
    /// Layer: bare objects instead of the `{data}` envelope.
    pub bare_envelope: bool,
    /// Limits that answer 429 when exceeded, over a window that slides; 0 for none.
    pub item_get_per_minute: u32,
    pub item_get_per_minute_per_item: u32,
    pub accounts_get_per_minute: u32,
    pub accounts_get_per_minute_per_item: u32,
    pub mints_per_minute: u32,
    /// Layer's bucket, and the one for creating businesses.
    pub layer_per_second: u32,
    pub layer_creates_per_second: u32,
}

impl Switches {
    /// Plaid's limits of one endpoint: for the client, for one Item, and the code of the refusal.
    pub(crate) fn plaid_limits(&self, endpoint: &str) -> (u32, u32, &'static str) {
        match endpoint {
            "/item/get" => (self.item_get_per_minute, self.item_get_per_minute_per_item, "ITEM_GET_LIMIT"),
            "/accounts/get" => (self.accounts_get_per_minute, self.accounts_get_per_minute_per_item, "ACCOUNTS_LIMIT"),
            "/processor/token/create" => (self.mints_per_minute, 0, "RATE_LIMIT"),
            _ => (0, 0, ""),
        }
    }
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            rotation_kills_processor_tokens: true,
            repeated_create_gives_same_token: false,
            login_required_reads: LoginRequiredReads::AnswerFromCache,
            mint_while_login_required: true,
            bad_token: BadToken::FailsAll,
            layer_checks_tokens: true,
            list_shows: Shows::Full,
            removed_rows_stay_archived: false,
            swap_keeps_row: true,
            list_page_size: 0,
            bare_envelope: false,
            item_get_per_minute: 0,
            item_get_per_minute_per_item: 0,
            accounts_get_per_minute: 0,
            accounts_get_per_minute_per_item: 0,
            mints_per_minute: 0,
            layer_per_second: 0,
            layer_creates_per_second: 0,
        }
    }
}
