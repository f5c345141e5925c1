//! The platform: links Items, rotates tokens, tells Rekey or forgets to, keeps its own database.

use crate::world::{Account, Item, ItemStatus, LayerBusiness};
use crate::{Error, Sandbox};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Rekey's admin API, with a token that may operate.
#[derive(Debug, Clone)]
pub struct Admin {
    pub url: String,
    pub token: SecretString,
}

/// How a changed token becomes known to Rekey.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Announce {
    /// `PUT /v1/items/{item_id}`.
    Push,
    /// Written to the platform's database and nothing else.
    Database,
    /// Nobody is told; only the simulated Plaid knows.
    Silent,
}

/// A business to be made.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct NewBusiness {
    pub external_id: String,
    /// Whether Layer has it already.
    #[serde(default)]
    pub at_layer: bool,
    #[serde(default)]
    pub phone: Option<String>,
    #[serde(default)]
    pub archived: bool,
}

/// An account to be opened at the bank.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewAccount {
    pub name: String,
    #[serde(default = "depository")]
    pub kind: String,
    pub mask: String,
    /// Another business than the Item's.
    #[serde(default)]
    pub business: Option<String>,
}

fn depository() -> String {
    "depository".into()
}

impl NewAccount {
    /// An ordinary account whose number ends so.
    pub fn checking(mask: &str) -> Self {
        Self { name: "Checking".into(), kind: depository(), mask: mask.into(), business: None }
    }
}

/// An Item to be linked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewItem {
    pub business: String,
    pub accounts: Vec<NewAccount>,
    pub announce: Announce,
}

pub(crate) async fn open(url: &SecretString) -> Result<Option<sqlx::AnyPool>, Error> {
    if url.expose_secret().is_empty() {
        return Ok(None);
    }
    sqlx::any::install_default_drivers();
    let pool = sqlx::any::AnyPoolOptions::new().max_connections(4).connect(url.expose_secret()).await?;
    let table = "CREATE TABLE IF NOT EXISTS plaid_items (item_id TEXT PRIMARY KEY, access_token TEXT NOT NULL)";
    sqlx::query(table).execute(&pool).await?;
    Ok(Some(pool))
}

impl Sandbox {
    /// Tells the platform where Rekey's admin API is, once it is known.
    pub fn set_admin(&self, admin: Admin) {
        *self.admin.lock() = Some(admin);
    }

    fn admin(&self) -> Result<Admin, Error> {
        let admin = self.admin.lock().clone();
        admin.ok_or_else(|| Error::Admin("set admin.url and admin.token of the sandbox, or announce otherwise".into()))
    }

    /// Where webhooks of Items linked from now on go.
    pub fn set_webhook_url(&self, url: String) {
        self.world().webhook_url = Some(url);
    }

    /// Makes it known to the platform and, if it says so, to Layer. One that is there stays as it is.
    pub fn create_business(&self, new: &NewBusiness) {
        let mut world = self.world();
        if !world.businesses.contains(&new.external_id) {
            world.businesses.push(new.external_id.clone());
        }
        if new.at_layer && world.layer_by_external(&new.external_id).is_none() {
            let (external_id, phone, archived) = (new.external_id.clone(), new.phone.clone(), new.archived);
            world.add_to_layer(LayerBusiness { external_id, phone, archived, ..LayerBusiness::default() });
        }
    }

    /// A person links a bank: a new Item with its access token.
    pub async fn link(&self, new: &NewItem) -> Result<String, Error> {
        if new.announce == Announce::Push {
            // Asked first: an Item that exists but was never announced would be one that nobody expects.
            self.admin()?;
        }
        let id = {
            let mut world = self.world();
            let id = world.opaque("item");
            let token = world.secret("access-sandbox");
            let mut accounts = Vec::new();
            for account in &new.accounts {
                accounts.push(make_account(&mut world, account, &new.business));
            }
            let item = Item {
                id: id.clone(),
                business: new.business.clone(),
                access_token: token,
                generation: 1,
                status: ItemStatus::Good,
                accounts,
                webhook_url: world.webhook_url.clone(),
                last_webhook: None,
                consent_until: None,
                offboarded: false,
                assigned: false,
                pushed: false,
            };
            world.items.insert(id.clone(), item);
            id
        };
        self.announce(&id, new.announce).await?;
        Ok(id)
    }

    /// The access token changes; the old one is dead at once.
    pub async fn rotate(&self, item: &str, announce: Announce) -> Result<(), Error> {
        {
            let mut world = self.world();
            world.rotate(item)?;
            world.counts.rotations += 1;
        }
        self.announce(item, announce).await
    }

    /// Tells Rekey the Item's access token of now.
    pub async fn announce(&self, item: &str, how: Announce) -> Result<(), Error> {
        match how {
            Announce::Silent => Ok(()),
            Announce::Database => self.write_database(item).await,
            Announce::Push => {
                self.write_database(item).await?;
                let is_known = self.world().item(item)?.pushed;
                let pushed = if is_known { self.push_token(item).await } else { self.push(item, &json!({})).await };
                taken(pushed?.0)
            }
        }
    }

    async fn write_database(&self, item: &str) -> Result<(), Error> {
        let Some(pool) = &self.platform_db else { return Ok(()) };
        let token = self.world().item(item)?.access_token.clone();
        let sql = "INSERT INTO plaid_items (item_id, access_token) VALUES ($1, $2)
            ON CONFLICT (item_id) DO UPDATE SET access_token = $2";
        sqlx::query(sql).bind(item.to_owned()).bind(token).execute(pool).await?;
        Ok(())
    }

    /// What the platform pushes about an Item; `with` overrides or adds fields.
    pub fn push_body(&self, item: &str, with: &Value) -> Result<Value, Error> {
        let mut world = self.world();
        let item = world.item(item)?;
        let mut body = json!({"access_token": item.access_token, "business": item.business});
        if item.accounts.iter().any(|a| a.business.as_ref() != Some(&item.business)) {
            body["accounts"] = item
                .accounts
                .iter()
                .filter(|a| a.business.is_some())
                .map(|a| json!({"account_id": a.id, "business": a.business}))
                .collect();
        } else if item.assigned {
            body["accounts"] = "all".into();
        }
        if let (Some(body), Value::Object(with)) = (body.as_object_mut(), with) {
            body.extend(with.clone());
        }
        Ok(body)
    }

    /// Pushes to Rekey's admin API; the status and the answer.
    pub async fn push(&self, item: &str, with: &Value) -> Result<(u16, Value), Error> {
        let body = self.push_body(item, with)?;
        self.send_push(item, &body).await
    }

    /// The everyday push: here is the new access token.
    pub async fn push_token(&self, item: &str) -> Result<(u16, Value), Error> {
        let body = json!({"access_token": self.world().item(item)?.access_token});
        self.send_push(item, &body).await
    }

    async fn send_push(&self, item: &str, body: &Value) -> Result<(u16, Value), Error> {
        // Sooner than our own patience with the answer.
        let path = format!("/v1/items/{item}?timeout=8");
        let answer = self.admin_call(reqwest::Method::PUT, &path, Some(body)).await?;
        if answer.0 < 300 {
            self.world().item(item)?.pushed = true;
        }
        Ok(answer)
    }

    /// Calls Rekey's admin API as the platform does.
    pub async fn admin_call(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value), Error> {
        let admin = self.admin()?;
        let mut request =
            self.http.request(method, format!("{}{path}", admin.url)).bearer_auth(admin.token.expose_secret());
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|e| Error::Admin(e.without_url().to_string()))?;
        let status = answer.status().as_u16();
        let text = answer.text().await.map_err(|e| Error::Admin(e.without_url().to_string()))?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// The platform removes the Item at Plaid and, if `tell`, at Rekey.
    pub async fn offboard(&self, item: &str, tell: bool) -> Result<(), Error> {
        {
            let mut world = self.world();
            let item = world.item(item)?;
            item.status = ItemStatus::Removed;
            item.offboarded = true;
        }
        if tell {
            let path = format!("/v1/items/{item}");
            taken(self.admin_call(reqwest::Method::DELETE, &path, None).await?.0)?;
        }
        Ok(())
    }
}

fn taken(status: u16) -> Result<(), Error> {
    if status < 300 { Ok(()) } else { Err(Error::Admin(format!("status {status}"))) }
}

pub(crate) fn make_account(world: &mut crate::world::World, new: &NewAccount, business: &str) -> Account {
    Account {
        id: world.opaque("acc"),
        kind: new.kind.clone(),
        subtype: "checking".into(),
        mask: new.mask.clone(),
        name: new.name.clone(),
        open: true,
        business: Some(new.business.clone().unwrap_or_else(|| business.to_owned())),
        unsupported: false,
    }
}
