//! The console's pages, as a browser gets them: who is let in, what is shown, what a form may do, and what another site may not.

use sandbox::{Announce, NewAccount, NewItem};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use tests::{Parts, World, holds};

on_both_parts!(who_reads_sees_everything_and_changes_nothing);

stories!(
    nobody_is_let_in_without_a_token,
    every_page_shows_and_nothing_in_it_comes_from_elsewhere,
    a_person_releases_what_is_held_and_only_what_was_seen on likely ending parked,
    i3_another_site_and_a_made_up_form_do_nothing on likely ending parked,
    a_bank_s_words_are_text,
    an_open_page_is_told_what_has_changed,
);

/// A person at a browser.
struct Person {
    http: reqwest::Client,
    base: String,
    cookie: String,
}

struct Shown {
    status: u16,
    headers: reqwest::header::HeaderMap,
    html: String,
}

impl Shown {
    fn to(&self) -> &str {
        self.headers.get("location").map_or("", |v| v.to_str().unwrap())
    }
    /// The paths of its forms that change something, with their tokens.
    fn forms(&self) -> BTreeMap<String, String> {
        let forms = self.html.split("<form method=\"post\" action=\"").skip(1);
        let value = |form: &str| {
            let token = form.split("name=\"token\" value=\"").nth(1).and_then(|t| t.split('"').next());
            token.unwrap_or_default().to_owned()
        };
        forms
            .map(|form| {
                let body = form.split("</form>").next().unwrap();
                (form.split('"').next().unwrap().to_owned(), value(body))
            })
            .collect()
    }
}

impl Person {
    fn at(world: &World) -> Self {
        let console = world.rekeys.iter().find_map(|r| r.console).unwrap();
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { http, base: format!("http://{console}"), cookie: String::new() }
    }

    async fn signed_in(world: &World, token: &str) -> Self {
        let mut person = Self::at(world);
        let shown = person.post("/sign-in", &[("token", token), ("next", "/")]).await;
        assert_eq!((shown.status, shown.to()), (303, "/"), "{}", shown.html);
        let cookie = shown.headers["set-cookie"].to_str().unwrap();
        for part in ["__Host-rekey=", "Path=/", "Secure", "HttpOnly", "SameSite=Strict", "Max-Age="] {
            assert!(cookie.contains(part), "{part}: {cookie}");
        }
        assert!(!cookie.contains(token), "I3");
        person.cookie = cookie.split(';').next().unwrap().to_owned();
        person
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Shown {
        let answer = request.header("cookie", &self.cookie).send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Shown { status, headers, html: answer.text().await.unwrap() }
    }

    async fn get(&self, path: &str) -> Shown {
        self.send(self.http.get(format!("{}{path}", self.base))).await
    }

    async fn post(&self, path: &str, form: &[(&str, &str)]) -> Shown {
        self.post_as("same-origin", path, form).await
    }

    async fn post_as(&self, site: &str, path: &str, form: &[(&str, &str)]) -> Shown {
        let request = self.http.post(format!("{}{path}", self.base)).header("sec-fetch-site", site).form(form);
        self.send(request).await
    }
}

async fn nobody_is_let_in_without_a_token(world: &World) {
    let mut stranger = Person::at(world);
    for path in ["/", "/businesses/acme", "/audit", "/live?of=status"] {
        let shown = stranger.get(path).await;
        assert_eq!(shown.status, 303, "{path}");
        assert!(shown.to().starts_with("/sign-in?next="), "{}", shown.to());
    }
    assert_eq!(stranger.get("/sign-in").await.status, 200);
    let wrong = stranger.post("/sign-in", &[("token", "rekey_guess")]).await;
    assert!(wrong.status == 403 && !wrong.html.contains("rekey_guess"), "{}", wrong.html);
    assert!(wrong.headers.get("set-cookie").is_none());
    let elsewhere = stranger.post("/sign-in", &[("token", &world.local.admin_token), ("next", "//elsewhere")]).await;
    assert_eq!((elsewhere.status, elsewhere.to()), (303, "/"));
    let from_elsewhere = stranger.post_as("cross-site", "/sign-in", &[("token", &world.local.admin_token)]).await;
    assert_eq!(from_elsewhere.status, 403);
    // A cookie that is not ours, or not whole, is none.
    let person = Person::signed_in(world, &world.local.admin_token).await;
    for cookie in ["__Host-rekey=1.a.bm90IG91cnM", &person.cookie[..person.cookie.len() - 3], "rekey=x"] {
        stranger.cookie = cookie.to_owned();
        assert_eq!(stranger.get("/").await.status, 303, "{cookie}");
    }
    assert_eq!(person.get("/").await.status, 200);
    let out = person.post("/sign-out", &[]).await;
    assert!(out.headers["set-cookie"].to_str().unwrap().contains("Max-Age=0"), "{:?}", out.headers);
    // A page's cookie is no key to the API, and the API's header none to a page.
    let api = person.get("/v1/items").await;
    assert_eq!(api.status, 401);
    let bearer =
        person.http.get(format!("{}/", person.base)).bearer_auth(&world.local.admin_token).send().await.unwrap();
    assert_eq!(bearer.status(), 303);
}

async fn every_page_shows_and_nothing_in_it_comes_from_elsewhere(world: &World) {
    let person = Person::signed_in(world, &world.local.admin_token).await;
    assert!(person.get("/").await.html.contains("no business is known yet"), "an empty world is not right");
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    world.until_state("/v1/businesses/acme", "converged").await;
    let right = || async { person.get("/").await.html.contains("every business&#39;s list is right") };
    assert!(holds(right).await, "{}", person.get("/").await.html);
    let of_item = format!("/items/{item}");
    let pages = [
        ("/", "Providers"),
        ("/needs", "Nothing does"),
        ("/businesses", "acme"),
        ("/businesses?verdict=converged", "acme"),
        ("/businesses?verdict=held", "There are none"),
        ("/items", &*item),
        ("/businesses/acme", "The next list"),
        (&of_item, "Access tokens"),
        ("/flow", "The providers"),
        ("/audit", "item.put"),
        ("/search?q=nobody", "Nothing is known here"),
    ];
    for (path, part) in pages {
        let shown = person.get(path).await;
        assert_eq!(shown.status, 200, "{path}: {}", shown.html);
        assert!(shown.html.contains(part), "{path} has no {part:?}: {}", shown.html);
        let policy = shown.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(shown.headers["cache-control"], "no-store");
        for inline in ["style=", "onclick", "<style", "javascript:", "=\"http://", "=\"https://", "url("] {
            assert!(!shown.html.contains(inline), "{path}: {inline}");
        }
        assert_eq!(shown.html.matches("<script").count(), 1, "{path}");
    }
    for (asked, to) in [("acme", "/businesses/acme"), (&*item, &*of_item)] {
        assert_eq!(person.get(&format!("/search?q={asked}")).await.to(), to);
    }
    for path in ["/businesses/nobody", "/items/nobody"] {
        let shown = person.get(path).await;
        assert!(shown.status == 404 && shown.html.contains("There is nothing to show"), "{path}: {}", shown.html);
    }
    let css = person.get("/").await.html.split("href=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let asset = person.get(&css).await;
    assert!(asset.status == 200 && asset.headers["cache-control"].to_str().unwrap().contains("immutable"), "{css}");
}

async fn who_reads_sees_everything_and_changes_nothing(parts: Parts) {
    let mut world = World::without_rekey(parts, "").await;
    let (reader, hash) = console::new_token();
    let entries = world.local.environment["REKEY_CONSOLE__TOKENS"].clone();
    world.local.environment.insert("REKEY_CONSOLE__TOKENS".into(), format!("{entries},reader:read:{hash}"));
    world.start_rekey(domain::Role::ALL_IN_ONE, "").await;
    world.link("acme", 1).await;
    world.until_exact().await;
    let operator = Person::signed_in(&world, &world.local.admin_token).await;
    let person = Person::signed_in(&world, &reader).await;
    let shown = person.get("/businesses/acme").await;
    assert!(shown.status == 200 && shown.html.contains("reader (read)"), "{}", shown.html);
    assert_eq!(shown.forms().into_keys().collect::<Vec<_>>(), ["/sign-out"]);
    let forms = operator.get("/businesses/acme").await.forms();
    let (path, token) = forms.iter().find(|(path, _)| path.contains("/sync/")).unwrap();
    let refused = person.post(path, &[("token", token)]).await;
    assert!(refused.status == 403 && refused.html.contains("may only read"), "{}", refused.html);
    let done = operator.post(path, &[("token", token), ("reason", "a customer called")]).await;
    assert_eq!((done.status, done.to()), (303, "/businesses/acme?told=sync"), "{}", done.html);
    assert!(operator.get(done.to()).await.html.contains("It is due now"));
    let audit = world.admin("GET", "/v1/audit?subject=business/acme", None).await.1;
    let entry = &audit["data"][0];
    assert_eq!(
        (&entry["action"], &entry["became"]),
        (&json!("business.sync"), &json!({"reason": "a customer called"}))
    );
    world.end_with_parked().await;
}

/// A business with a token at Layer that nobody knows.
async fn held(world: &World) {
    world.business("acme");
    world.sandbox.foreign_token("acme", None).unwrap();
    world.link("acme", 1).await;
    world.until_blocked("business", "acme", "unknown_tokens").await;
}

async fn a_person_releases_what_is_held_and_only_what_was_seen(world: &World) {
    held(world).await;
    let person = Person::signed_in(world, &world.local.admin_token).await;
    let needs = person.get("/needs").await;
    assert!(needs.html.contains("unknown_tokens") && needs.html.contains("/businesses/acme"), "{}", needs.html);
    let page = person.get("/businesses/acme").await;
    assert!(page.html.contains("At Layer, and unknown here"), "{}", page.html);
    let forms = page.forms();
    let (path, token) = forms.iter().find(|(path, _)| path.contains("/release/")).expect("a release is offered");
    let done = person.post(path, &[("token", token), ("reason", "theirs")]).await;
    assert_eq!((done.status, done.to()), (303, "/businesses/acme?told=release"), "{}", done.html);
    world.until("both are listed", || world.sandbox.listed_tokens("acme").len() == 2).await;
    // A double click, or a page of yesterday: what was seen is not so any more.
    let again = person.post(path, &[("token", token)]).await;
    assert!(matches!(again.status, 404 | 409), "{}: {}", again.status, again.html);
    let released = world.admin("GET", "/v1/audit?subject=business/acme", None).await.1;
    let acts = released["data"].as_array().unwrap().iter().filter(|e| e["action"] == "parked.release").count();
    assert_eq!(acts, 1, "{released}");
    // The API takes the same version.
    let (status, _) = world.admin("POST", "/v1/businesses/acme/sync?version=hold.unknown_tokens.1", None).await;
    assert_eq!(status, 409);
}

async fn i3_another_site_and_a_made_up_form_do_nothing(world: &World) {
    held(world).await;
    let person = Person::signed_in(world, &world.local.admin_token).await;
    let other = Person::signed_in(world, &world.local.admin_token).await;
    let forms = person.get("/businesses/acme").await.forms();
    let of =
        |act: &str| forms.iter().find(|(path, _)| path.contains(act)).map(|(p, t)| (p.clone(), t.clone())).unwrap();
    let ((release, token), (_, of_sync)) = (of("/release/"), of("/sync/"));
    for site in ["cross-site", "same-site", "none"] {
        assert_eq!(person.post_as(site, &release, &[("token", &token)]).await.status, 403, "{site}");
    }
    for (who, token) in [(&other, &*token), (&person, &*of_sync), (&person, "made-up"), (&person, "")] {
        let refused = who.post(&release, &[("token", token)]).await;
        assert_eq!(refused.status, 403, "{}", refused.html);
    }
    let another = release.replace("acme", "globex");
    assert_eq!(person.post(&another, &[("token", &token)]).await.status, 403, "made for another row");
    let secret = world.sandbox.listed_tokens("acme").remove(0);
    let leaky = person.post(&release, &[("token", &token), ("reason", &secret)]).await;
    assert!(leaky.status == 400 && !leaky.html.contains(&secret), "{}: {}", leaky.status, leaky.html);
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 1, "nothing was released");
}

async fn a_bank_s_words_are_text(world: &World) {
    world.business("acme");
    let name = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>";
    let account = NewAccount { name: name.into(), ..NewAccount::checking("0001") };
    let item = NewItem { business: "acme".into(), accounts: vec![account], announce: Announce::Push };
    let item = world.sandbox.link(&item).await.unwrap();
    world.until_exact().await;
    let person = Person::signed_in(world, &world.local.admin_token).await;
    for path in ["/businesses/acme", &format!("/items/{item}")] {
        let shown = person.get(path).await;
        assert!(!shown.html.contains("<img") && !shown.html.contains("<script>"), "{path}: {}", shown.html);
        assert!(shown.html.contains("alert(1)"), "{path}: it is shown all the same");
    }
    let search = person.get("/search?q=%3Cimg%20src%3Dx%3E").await;
    assert!(search.status == 200 && !search.html.contains("<img"), "{}", search.html);
}

async fn an_open_page_is_told_what_has_changed(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    world.until_state("/v1/businesses/acme", "converged").await;
    let person = Person::signed_in(world, &world.local.admin_token).await;
    let page = person.get("/businesses/acme").await.html;
    assert!(page.contains("data-live=\"business/acme\""), "{page}");
    let seen = page.split("data-seen=\"").nth(1).unwrap().split('"').next().unwrap();
    // Before the page has begun to listen: that is told as well.
    world.rotate(&item, Announce::Push).await;
    world.until_exact().await;
    let live = format!("{}/live?of=business/acme&seen={seen}", person.base);
    let mut events = person.http.get(live).header("cookie", &person.cookie).send().await.unwrap();
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    let told = async {
        let mut text = String::new();
        while let Some(chunk) = events.chunk().await.unwrap() {
            text.push_str(&String::from_utf8_lossy(&chunk));
            if text.contains("event: changed") && text.contains("data: ") {
                return true;
            }
        }
        false
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), told).await.unwrap());
    world.until_exact().await;
}
