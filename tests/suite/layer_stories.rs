//! What Layer answers that is odd: it costs at most the business it is about, and what is everybody's is Layer's.

use sandbox::{Announce, Fault, FaultKind};
use serde_json::json;
use tests::{World, holds};

stories!(
    i4_a_mishap_of_layers_as_a_whole_parks_nobody in "[consumer]\nagree = 3\n",
    i8_a_list_that_may_be_incomplete_is_no_basis_for_a_put,
    i8_a_masked_token_is_never_sent_back on likely in "[layer]\nunknown_tokens = \"keep\"\n",
);

fn raw(status: u16, kind: &str, body: &str) -> FaultKind {
    let headers = vec![("content-type".into(), kind.into()), ("location".into(), "/elsewhere".into())];
    FaultKind::Raw { status, headers, body: body.into() }
}

async fn i4_a_mishap_of_layers_as_a_whole_parks_nobody(world: &World) {
    let mut items = Vec::new();
    for n in 0..5 {
        world.business(&format!("b{n}"));
        items.push(world.link(&format!("b{n}"), 1).await);
    }
    world.until_exact().await;
    let errors = json!({"errors": [{"type": "Unknown", "description": "d"}]}).to_string();
    let gone =
        json!({"errors": [{"type": "Unknown", "description": "d", "error_enum": "SpecifiedIdNotFound"}]}).to_string();
    let mishaps = [
        raw(302, "text/html", "moved"),
        raw(405, "text/html", "<html>not allowed</html>"),
        raw(413, "text/html", "<html>too large</html>"),
        raw(400, "text/html", "<html>bad request</html>"),
        raw(200, "application/json", &errors),
        raw(404, "application/json", &gone),
    ];
    for mishap in mishaps {
        for item in &items {
            world.rotate(item, Announce::Silent).await;
        }
        world.sandbox.fault(Fault::new("GET /v1/businesses/{id}/plaid/accounts", mishap.clone()));
        for item in &items {
            world.notice(item).await;
        }
        for item in &items {
            world.sandbox.announce(item, Announce::Push).await.unwrap();
        }
        let paused = || async {
            let (_, pauses) = world.admin("GET", "/v1/pauses", None).await;
            pauses.as_array().unwrap().iter().any(|p| p["provider"] == "layer")
        };
        // Probes succeed meanwhile, for they ask for something else: it is paused again and again.
        for _ in 0..4 {
            assert!(holds(paused).await, "{mishap:?}");
            assert!(world.parked().await.is_empty(), "{mishap:?}: {:?}", world.parked().await);
            assert!(holds(|| async { !paused().await }).await, "{mishap:?}");
        }
        world.sandbox.heal();
        world.until_exact().await;
        world.forget_suspicions().await;
    }
}

async fn i8_a_list_that_may_be_incomplete_is_no_basis_for_a_put(world: &World) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    let pages = [
        json!({"data": [], "meta": {"pagination": {"has_more": true}}}),
        json!({"data": [], "meta": {"pagination": {"has_more": true, "cursor": "same"}}}),
    ];
    for page in pages {
        let puts = world.puts();
        let page = raw(200, "application/json", &page.to_string());
        world.sandbox.fault(Fault::new("GET /v1/businesses/{id}/plaid/accounts", page));
        world.rotate(&item, Announce::Push).await;
        world.until_blocked("business", "acme", "malformed").await;
        assert_eq!(world.puts(), puts, "nothing is put on such a list");
        world.sandbox.heal();
        world.until_exact().await;
    }
}

/// Whatever `layer.listed_tokens` says: what Layer crosses out is no token.
async fn i8_a_masked_token_is_never_sent_back(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let account = world.accounts(&item).remove(0);
    for masked in ["****1234", "", "processor-sandbox-xxxxxxxx1234"] {
        let row = |account: &str| {
            json!({"id": format!("row-{account}"), "type": "Plaid_Account_With_Processor_Token", "plaid_account_id": account,
                   "plaid_processor_token": masked, "status": "ACTIVE"})
        };
        let list = json!({"data": [row(&account), row("a-stranger")], "meta": {}}).to_string();
        world.sandbox.fault(Fault::new("GET /v1/businesses/{id}/plaid/accounts", raw(200, "application/json", &list)));
        let before = world.sandbox.listed_tokens("acme");
        world.rotate(&item, Announce::Silent).await;
        world.sandbox.announce(&item, Announce::Push).await.unwrap();
        // The stranger's token can't be sent along, for nobody knows it: that is the reason, and nothing is sent.
        world.until_blocked("business", "acme", "hidden_tokens").await;
        assert_eq!(world.sandbox.listed_tokens("acme"), before, "{masked:?}");
        world.sandbox.heal();
        world.sync_business("acme").await;
        world.until_exact().await;
    }
}
