//! The answers to what nobody has confirmed about Plaid and Layer that are not the likely ones.
//!
//! `make answers` runs every story under each of them; a story that is about the likely answers
//! says so with [`crate::World::likely`].

use sandbox::{BadToken, LoginRequiredReads, Shows, Switches};

/// One answer, and what an operator would set for it.
#[derive(Debug)]
pub struct Answer {
    pub name: &'static str,
    pub switch: fn(&mut Switches),
    pub settings: &'static str,
}

const fn answer(name: &'static str, switch: fn(&mut Switches)) -> Answer {
    Answer { name, switch, settings: "" }
}

/// The likely ones are the sandbox's defaults.
pub const ANSWERS: [Answer; 13] = [
    answer("rotation_leaves_processor_tokens_alive", |s| s.rotation_kills_processor_tokens = false),
    answer("a_repeated_create_gives_the_same_token", |s| s.repeated_create_gives_same_token = true),
    answer("a_bad_token_is_skipped", |s| s.bad_token = BadToken::IsSkipped),
    answer("a_bad_token_is_accepted", |s| s.bad_token = BadToken::IsAccepted),
    answer("layer_does_not_check_tokens", |s| s.layer_checks_tokens = false),
    answer("removed_rows_stay_archived", |s| s.removed_rows_stay_archived = true),
    answer("a_swap_makes_a_new_row", |s| {
        s.swap_keeps_row = false;
        s.removed_rows_stay_archived = true;
    }),
    answer("the_list_is_paginated", |s| s.list_page_size = 1),
    answer("answers_have_no_envelope", |s| s.bare_envelope = true),
    answer("reads_fail_while_login_is_required", |s| s.login_required_reads = LoginRequiredReads::Fail),
    answer("nothing_is_minted_while_login_is_required", |s| s.mint_while_login_required = false),
    Answer {
        settings: "[layer]\nlisted_tokens = \"omitted\"\n",
        ..answer("the_list_omits_tokens", |s| s.list_shows = Shows::Omitted)
    },
    Answer {
        settings: "[layer]\nlisted_tokens = \"masked\"\n",
        ..answer("the_list_masks_tokens", |s| s.list_shows = Shows::Masked)
    },
];

impl Answer {
    /// Panics at a name that is not in the table.
    pub fn named(name: &str) -> &'static Self {
        let names = || ANSWERS.iter().map(|a| a.name).collect::<Vec<_>>().join(", ");
        ANSWERS.iter().find(|a| a.name == name).unwrap_or_else(|| panic!("no answer {name}: there are {}", names()))
    }

    /// The one that TEST_ANSWER names for every story of this run.
    pub(crate) fn of_this_run() -> Option<&'static Self> {
        let name = std::env::var("TEST_ANSWER").ok().filter(|n| !n.is_empty())?;
        Some(Self::named(&name))
    }
}
