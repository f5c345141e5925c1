//! Both answers to every unconfirmed fact: one journey under each.

use sandbox::{Announce, NewAccount, Shows};
use serde_json::json;
use tests::answers::{ANSWERS, Answer};
use tests::{Parts, World};

/// Link, rotate by push and by lookup, lose an account, need a login, off-board: the lists are exact all along.
async fn journey(answer: &str) {
    let world = World::answering(Answer::named(answer), Parts::Embedded).await;
    let (one, two) = (world.link("acme", 2).await, world.link("acme", 1).await);
    world.until_exact().await;
    world.rotate(&one, Announce::Push).await;
    world.until_exact().await;
    world.rotate(&two, Announce::Database).await;
    world.sync_item(&two).await;
    world.until_exact().await;
    world.sandbox.require_login(&one).unwrap();
    world.sync_item(&one).await;
    world.until_item(&one, "login_required").await;
    world.sandbox.repair(&one).unwrap();
    world.sandbox.add_account(&one, &NewAccount::checking("8888")).unwrap();
    world.sandbox.close_account(&world.accounts(&one)[0]).unwrap();
    world.sync_item(&one).await;
    world.until_exact().await;
    world.sandbox.offboard(&two, true).await.unwrap();
    world.until_exact().await;
    let verdict = world.sandbox.verdict();
    assert!(verdict.counts.mints <= verdict.mints_allowed, "I6: {verdict:?}");
    world.end().await;
}

macro_rules! journeys {
    ($($answer:ident)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $answer() {
            journey(stringify!($answer)).await;
        })+

        /// A new answer wants a journey, and is not forgotten here.
        #[test]
        fn every_answer_has_a_journey() {
            let journeys = [$(stringify!($answer)),+];
            assert_eq!(ANSWERS.map(|a| a.name), journeys);
        }
    };
}

journeys! {
    rotation_leaves_processor_tokens_alive
    a_repeated_create_gives_the_same_token
    a_bad_token_is_skipped
    a_bad_token_is_accepted
    layer_does_not_check_tokens
    removed_rows_stay_archived
    a_swap_makes_a_new_row
    the_list_is_paginated
    answers_have_no_envelope
    reads_fail_while_login_is_required
    nothing_is_minted_while_login_is_required
    the_list_omits_tokens
    the_list_masks_tokens
}

/// Where tokens are not shown, an accepted list is sent again by the sweep, because nobody could verify it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_cannot_be_verified_is_sent_again_by_the_sweep() {
    let settings = "[layer]\nlisted_tokens = \"omitted\"\n[consumer]\nsweep_period = \"600ms\"\n";
    let world = World::start(Parts::Embedded, settings).await;
    world.sandbox.switch(|s| s.list_shows = Shows::Omitted);
    world.link("acme", 1).await;
    world.until("it was sent again", || world.puts() >= 3).await;
    let body = world.business_at("acme").await;
    assert_eq!(body["verified"], json!(false), "{body}");
    for rekey in world.rekeys {
        rekey.stop().await;
    }
}
