use super::*;
use crate::BusinessId;
use crate::accounts::Outside;
use crate::item::ItemState;
use crate::queue::Blocked;
use crate::token_list::OurAccount;
use crate::verdict::{AccountFacts, ItemFacts, WorkFacts, of_business};
use std::collections::BTreeSet;

fn acme() -> BusinessId {
    BusinessId::parse("acme").unwrap()
}
fn id(account: &str) -> AccountId {
    AccountId::parse(account).unwrap()
}
fn token(account: &str) -> Fingerprint {
    Fingerprint::from_stored(format!("token of {account}"))
}

/// A business whose accounts all have their tokens, which Layer accepted.
fn business(accounts: &[&str]) -> BusinessFacts {
    let account = |name: &&str| AccountFacts {
        id: id(name),
        business: Some(acme()),
        moving_from: None,
        missing: false,
        token: Some((token(name), 1)),
        refusal: None,
    };
    let item = ItemFacts {
        id: ItemId::parse("item").unwrap(),
        state: ItemState::Active,
        generation: 1,
        business: Some(acme()),
        doubted: false,
        work: WorkFacts::default(),
        accounts: accounts.iter().map(account).collect(),
        left_out: Vec::new(),
        was_read: true,
    };
    BusinessFacts {
        id: acme(),
        items: vec![item],
        work: WorkFacts::default(),
        was_listed: true,
        read_back: true,
        accepted: accounts.iter().map(|a| token(a)).collect(),
        archived: BTreeSet::new(),
    }
}

fn row(account: &str, shown: Option<Fingerprint>, may_leave: bool) -> Listed {
    Listed {
        token: shown,
        account: Some(id(account)),
        status: RowStatus::Active,
        layer_owned: false,
        ours: Some(OurAccount { account: id(account), may_leave }),
        word: None,
    }
}

/// Each account with its standing.
fn told(facts: &BusinessFacts, listed: Option<&[Listed]>) -> Vec<(String, Standing)> {
    let lines = side_by_side(facts, &of_business(facts), listed);
    lines.into_iter().map(|line| (line.account.to_string(), line.standing)).collect()
}

#[test]
fn i11_nothing_is_right_that_layer_did_not_show() {
    let facts = business(&["a", "b", "c"]);
    let of = |standings: [Standing; 3]| -> Vec<(String, Standing)> {
        ["a", "b", "c"].map(str::to_owned).into_iter().zip(standings).collect()
    };
    use Standing::{Accepted, Doubled, Hidden, NotShown, Right};
    assert_eq!(told(&facts, None), of([Accepted, Accepted, Accepted]), "never read since");
    let archived = Listed { status: RowStatus::Archived, ..row("c", Some(token("c")), false) };
    let listed = [row("a", Some(token("a")), false), row("b", Some(token("older")), false), archived];
    assert_eq!(told(&facts, Some(&listed)), of([Right, NotShown, NotShown]), "another token, and an archived row");
    let twice = [row("b", Some(token("b")), false), row("b", Some(token("older")), false), row("a", None, false)];
    assert_eq!(told(&facts, Some(&twice)), of([Hidden, Doubled, NotShown]), "hidden, and listed twice");
}

#[test]
fn what_does_not_belong_there_is_told_with_its_proof() {
    let facts = business(&["a"]);
    let listed = [row("a", Some(token("a")), false), row("gone", Some(token("gone")), true), row("lost", None, false)];
    let told = told(&facts, Some(&listed));
    let expected = [("a", Standing::Right), ("gone", Standing::Leaving), ("lost", Standing::Unproved)];
    assert_eq!(told, expected.map(|(account, standing)| (account.to_owned(), standing)));
}

#[test]
fn i11_whoever_must_act_is_told_how() {
    type Change = fn(&mut BusinessFacts);
    let held = |code: Code| WorkFacts {
        blocked: Some(Blocked::new(Block::Hold, code.as_str(), "because")),
        ..WorkFacts::default()
    };
    let mut shrinks = business(&["a"]);
    shrinks.work = held(Code::ShrinkGuard);
    let table: &[(&str, Change, Option<&str>)] = &[
        ("all is well", |_| {}, None),
        ("no token came", |b| b.items[0].state = ItemState::AwaitingToken, Some("rekey item put item --token-file -")),
        ("the user must log in", |b| b.items[0].state = ItemState::LoginRequired, Some("rekey item sync item")),
        (
            "nobody named a business",
            |b| b.items[0].left_out = vec![(id("x"), Outside::Nowhere)],
            Some("rekey item put item --business BUSINESS --token-file -"),
        ),
        ("a mint is refused", |b| b.items[0].accounts[0].token = None, Some("rekey business sync acme")),
        ("archived at Layer", |b| b.archived.extend([id("a")]), Some("rekey item mint item")),
        ("an event waits", |b| b.work.signalled = true, Some("rekey business sync acme")),
    ];
    let subject = Subject::from(&acme());
    let first = |facts: &BusinessFacts| remedies(&subject, &of_business(facts)).into_iter().next().map(|r| r.command);
    for (name, change, command) in table {
        let mut facts = business(&["a"]);
        change(&mut facts);
        assert_eq!(first(&facts).as_deref(), *command, "{name}");
    }
    let told = remedies(&subject, &of_business(&shrinks));
    assert_eq!(told[0].command, "rekey parked release business acme");
    assert!(told[0].effect.contains("without the accounts that nobody proved gone"), "{told:?}");
}

#[test]
fn unknown_tokens_are_named_where_they_are_known() {
    let told = |tokens: &[&str]| {
        let mut facts = business(&["a"]);
        let mut blocked = Blocked::new(Block::Hold, Code::UnknownTokens.as_str(), "strangers");
        blocked.objection.tokens = tokens.iter().map(|t| Fingerprint::from_stored((*t).into())).collect();
        facts.work.blocked = Some(blocked);
        let told = remedies(&Subject::from(&acme()), &of_business(&facts)).into_iter().map(|r| r.command);
        told.filter(|command| command.contains("token")).collect::<Vec<_>>()
    };
    assert_eq!(
        told(&["fp1_b", "fp1_a"]),
        ["rekey business token acme fp1_a remove", "rekey business token acme fp1_b remove"]
    );
    assert_eq!(told(&[]), ["rekey business token acme FINGERPRINT remove"]);
    assert_eq!(told(&["1", "2", "3", "4", "5", "6"]).len(), MOST_TOKENS);
}

#[test]
fn a_command_can_be_pasted_whatever_the_ids_are() {
    for (id, told) in [("acme", "acme"), ("org/42", "org/42"), ("a;rm$(x)", "'a;rm$(x)'"), ("o'neill", r"'o'\''neill'")]
    {
        assert_eq!(pasted(id), told);
    }
}

#[test]
fn a_business_of_thousands_is_told_in_a_few_remedies() {
    let names: Vec<String> = (0..5000).map(|n| format!("a{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut facts = business(&names);
    facts.items[0].state = ItemState::AwaitingToken;
    assert_eq!(remedies(&Subject::from(&acme()), &of_business(&facts)).len(), 1, "one Item, one remedy");
    facts.items =
        (0..100).map(|n| ItemFacts { id: ItemId::parse(format!("i{n}")).unwrap(), ..facts.items[0].clone() }).collect();
    assert_eq!(remedies(&Subject::from(&acme()), &of_business(&facts)).len(), MOST);
}
