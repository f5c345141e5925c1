//! Access tokens of an Item: candidates first, one of them current (I5). A token that is neither is kept as a
//! fingerprint only, so that its late return is recognised.

use crate::items::Declaration;
use crate::sql::{built, get, is_set, number, opt_text, sql, text};
use crate::{Error, Tx};
use domain::item::{TokenCause, TokenStanding};
use domain::work::Subject;
use domain::{AccessToken, Fingerprint, ItemId, Millis};
use secrecy::ExposeSecret;
use sqlx::any::AnyRow;
use std::fmt::Display;

/// Tokens of one Item that are remembered, so that a source that misbehaves can't grow the table without end.
const REMEMBERED: i64 = 16;

/// An access token that waits for its proof.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub fingerprint: Fingerprint,
    pub token: AccessToken,
    /// `push`, `import` or `lookup`.
    pub source: String,
    /// When it last reached Rekey.
    pub seen_at: Millis,
    /// A push, which says more than the token.
    pub declares: bool,
}

/// The access token that is the Item's. What can't be read of it is an error of its own, which does not matter where a candidate
/// takes its place.
#[derive(Debug)]
pub struct Current {
    pub fingerprint: Fingerprint,
    pub token: Result<AccessToken, Error>,
    pub proved_at: Option<Millis>,
    /// What was pushed with it and is not judged yet.
    pub declaration: Result<Option<Declaration>, Error>,
}

/// What a token that reached us is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It waits for its proof from now on.
    Candidate,
    /// It waits already.
    KnownCandidate,
    IsCurrent,
    /// A lookup repeats what was refused or is past: a lagging replica does so every time. `gone`: refused because
    /// the Item behind it is gone; true: revoked.
    RefusedBefore {
        gone: Option<bool>,
    },
}

/// An access token as operators see it: never the token.
#[derive(Debug, Clone)]
pub struct TokenView {
    pub fingerprint: Fingerprint,
    pub standing: TokenStanding,
    /// `push`, `import` or `lookup`.
    pub source: String,
    /// What decides; `why` is for people.
    pub cause: Option<TokenCause>,
    pub why: Option<String>,
    /// When it last reached Rekey.
    pub seen_at: Millis,
    /// When Plaid's answer settled what it is.
    pub judged_at: Option<Millis>,
    /// What was pushed with it is not judged yet.
    pub declaration_waits: bool,
    /// When what was pushed with the current token was refused.
    pub refused_at: Option<Millis>,
}

/// No push has ever been in force for the Item `i`.
const UNDECLARED: &str = "i.business_id IS NULL AND i.only_listed = 0";

pub(crate) fn place(item: impl Display, fingerprint: impl Display) -> String {
    format!("access_tokens/{item}/{fingerprint}")
}

pub(crate) fn declared_at(item: impl Display, fingerprint: impl Display) -> String {
    format!("access_tokens/{item}/{fingerprint}/declaration")
}

impl Tx {
    /// Stores a token before anything else happens with it. An explicit push may try again a token that was refused
    /// before, and its declaration waits for the token's proof; what a lookup repeats is not tried again.
    pub async fn add_candidate(
        &mut self,
        item: &ItemId,
        token: &AccessToken,
        source: &str,
        push: Option<&Declaration>,
    ) -> Result<News, Error> {
        let fingerprint = self.fingerprints.of_access(token);
        let (standing, cause) = self.standing(item, &fingerprint).await?;
        match standing {
            Some(TokenStanding::Current) => return Ok(News::IsCurrent),
            Some(TokenStanding::Candidate) if push.is_none() => return Ok(News::KnownCandidate),
            Some(TokenStanding::Rejected | TokenStanding::Superseded) if push.is_none() => {
                return Ok(News::RefusedBefore { gone: cause.and_then(TokenCause::gone) });
            }
            _ => {}
        }
        let sealed = self.keys.seal(&place(item, &fingerprint), token.expose())?;
        let waiting = self.waiting_declaration(item, &fingerprint).await?;
        let declared = match push {
            Some(said) => Some(said.clone().over(waiting.unwrap_or_default())).filter(|d| !d.is_empty()),
            None => None,
        };
        let declaration = declared.map(|d| d.seal(&self.keys, &declared_at(item, &fingerprint))).transpose()?;
        let sql = "INSERT INTO access_tokens (item_id, fingerprint, standing, sealed, source, seen_at, declaration)
            VALUES ($1, $2, 'candidate', $3, $4, $5, $6)
            ON CONFLICT (item_id, fingerprint) DO UPDATE SET standing = 'candidate', sealed = $3, source = $4,
                seen_at = $5, declaration = $6, why = NULL, cause = NULL, judged_at = NULL";
        self.run(sql!(sql, item, fingerprint, sealed, source, self.now(), declaration)).await?;
        self.forget_oldest(item).await?;
        Ok(News::Candidate)
    }

    async fn standing(
        &mut self,
        item: &ItemId,
        fingerprint: &Fingerprint,
    ) -> Result<(Option<TokenStanding>, Option<TokenCause>), Error> {
        let sql = "SELECT standing, cause FROM access_tokens WHERE item_id = $1 AND fingerprint = $2";
        match self.row(sql!(sql, item, fingerprint)).await? {
            Some(row) => Ok((Some(get(&row, "standing")?), get(&row, "cause")?)),
            None => Ok((None, None)),
        }
    }

    async fn forget_oldest(&mut self, item: &ItemId) -> Result<(), Error> {
        let sql = "DELETE FROM access_tokens WHERE item_id = $1 AND standing <> 'current' AND fingerprint NOT IN (
            SELECT fingerprint FROM access_tokens WHERE item_id = $1 ORDER BY seen_at DESC, fingerprint LIMIT $2)";
        self.run(sql!(sql, item, REMEMBERED)).await.map(drop)
    }

    /// Candidates, the newest first.
    pub async fn candidates(&mut self, item: &ItemId) -> Result<Vec<Candidate>, Error> {
        let sql =
            "SELECT fingerprint, sealed, source, seen_at, CASE WHEN declaration IS NULL THEN 0 ELSE 1 END AS declares
            FROM access_tokens WHERE item_id = $1 AND standing = 'candidate' ORDER BY seen_at DESC, fingerprint";
        let rows = self.rows(sql!(sql, item)).await?;
        let read = |row: &AnyRow| {
            let (fingerprint, token) = self.opened(item, row)?;
            let (source, seen_at) = (text(row, "source")?, get(row, "seen_at")?);
            Ok(Candidate { fingerprint, token, source, seen_at, declares: get(row, "declares")? })
        };
        rows.iter().map(read).collect()
    }

    /// The access token that Plaid proved to be the Item's.
    pub async fn current(&mut self, item: &ItemId) -> Result<Option<Current>, Error> {
        let sql = "SELECT fingerprint, sealed, judged_at, declaration FROM access_tokens
            WHERE item_id = $1 AND standing = 'current'";
        let Some(row) = self.row(sql!(sql, item)).await? else { return Ok(None) };
        let fingerprint: Fingerprint = get(&row, "fingerprint")?;
        Ok(Some(Current {
            token: self.opened(item, &row).map(|(_, token)| token),
            proved_at: get(&row, "judged_at")?,
            declaration: self.declaration_in(&row, item, &fingerprint),
            fingerprint,
        }))
    }

    fn opened(&self, item: &ItemId, row: &AnyRow) -> Result<(Fingerprint, AccessToken), Error> {
        let fingerprint = get(row, "fingerprint")?;
        let sealed = text(row, "sealed")?;
        let secret = self.keys.open(&place(item, &fingerprint), &sealed)?;
        Ok((fingerprint, AccessToken::new(secret.expose_secret())))
    }

    /// Plaid proved the candidate: it becomes current and the generation grows. An Item has one live token, so the
    /// current one and candidates that are not newer are dead; one that arrived while Plaid was being asked is not
    /// judged by this, nor is what an older push said, unless the candidate says something itself. Fails when the candidate
    /// was settled by somebody else meanwhile. Returns the new generation.
    pub async fn promote(&mut self, item: &ItemId, candidate: &Fingerprint) -> Result<i64, Error> {
        let id = item.as_str().to_owned();
        let now = self.now().0;
        // The Item's row first, as a push does: two orders of locking would end in a deadlock.
        let sql = "UPDATE items SET generation = generation + 1 WHERE item_id = $1 RETURNING generation";
        let row = self.row(sql!(sql, id)).await?;
        let row = row.ok_or_else(|| Error::Corrupt(format!("the Item {item} has a token but no row")))?;
        self.touch_item(item.as_str());
        // What was said under the token that was current and is not judged yet, because a reconciliation was cut short or the
        // user must log in, is not dead with it.
        let waiting = self.declaration_of_current(item).await?.map(|(_, declaration)| declaration);
        let sql = "UPDATE access_tokens SET standing = 'superseded', sealed = NULL, declaration = NULL, judged_at = $3,
            cause = $4, why = $5 WHERE item_id = $1 AND fingerprint <> $2
            AND (standing = 'current' OR standing = 'candidate' AND EXISTS (
                SELECT 1 FROM access_tokens c WHERE c.item_id = $1 AND c.fingerprint = $2
                AND c.seen_at >= access_tokens.seen_at
                AND (c.declaration IS NOT NULL OR access_tokens.declaration IS NULL)))";
        self.run(sql!(sql, id, candidate, now, TokenCause::NewerProved, TokenCause::NewerProved.sentence())).await?;
        let sql = "UPDATE access_tokens SET standing = 'current', why = NULL, cause = NULL, judged_at = $3
            WHERE item_id = $1 AND fingerprint = $2 AND standing = 'candidate' AND sealed IS NOT NULL";
        if self.run(sql!(sql, id, candidate, now)).await? == 0 {
            return Err(Error::Stale { subject: Subject::from(item).to_string(), epoch: 0 });
        }
        // What came with it waits for its own judgement, and is newer than what waited already: a push under the current token
        // clears what older ones said.
        match (self.waiting_declaration(item, candidate).await?, waiting) {
            (own, Some(waiting)) => {
                self.set_declaration(item, candidate, &own.unwrap_or_default().over(waiting)).await?;
            }
            (Some(_), None) => {}
            (None, None) => self.apply_kept_declaration(item).await?,
        }
        number(&row, "generation")
    }

    /// A push whose token died before it could be proved was the last that was said about an Item of which nothing else is
    /// known: without it the Item would belong to nobody.
    async fn apply_kept_declaration(&mut self, item: &ItemId) -> Result<(), Error> {
        let sql = "SELECT fingerprint FROM access_tokens WHERE item_id = $1 AND standing = 'rejected'
            AND declaration IS NOT NULL AND EXISTS (SELECT 1 FROM items i WHERE i.item_id = $1 AND $UNDECLARED)
            ORDER BY seen_at DESC, fingerprint LIMIT 1"
            .replace("$UNDECLARED", UNDECLARED);
        if let Some(row) = self.row(sql!(built(sql), item)).await? {
            self.apply_declaration(item, &get(&row, "fingerprint")?).await?;
        }
        Ok(())
    }

    /// The platform said something under the current token: the newest declaration, which waits for its judgement. What an
    /// older push said must not be found to hold later. With no current token there is no list to protect yet.
    pub(crate) async fn say_of_current(&mut self, item: &ItemId, said: &Declaration) -> Result<(), Error> {
        let sql = "SELECT fingerprint FROM access_tokens WHERE item_id = $1 AND standing = 'current'";
        let current = self.row(sql!(sql, item)).await?;
        let Some(current) = current else {
            let sql = "UPDATE access_tokens SET declaration = NULL WHERE item_id = $1";
            self.run(sql!(sql, item)).await?;
            return self.declare(item, said).await;
        };
        let current = get(&current, "fingerprint")?;
        let waiting = self.waiting_declaration(item, &current).await?;
        let sql = "UPDATE access_tokens SET declaration = NULL WHERE item_id = $1 AND fingerprint <> $2";
        self.run(sql!(sql, item, current)).await?;
        let is_so = self.item(item).await?.is_some_and(|i| said.is_so_of(&i));
        if waiting.is_none() && is_so {
            return Ok(());
        }
        self.set_declaration(item, &current, &said.clone().over(waiting.unwrap_or_default())).await
    }

    async fn set_declaration(
        &mut self,
        item: &ItemId,
        fingerprint: &Fingerprint,
        declaration: &Declaration,
    ) -> Result<(), Error> {
        let sealed = declaration.seal(&self.keys, &declared_at(item, fingerprint))?;
        let sql = "UPDATE access_tokens SET declaration = $3 WHERE item_id = $1 AND fingerprint = $2";
        self.run(sql!(sql, item, fingerprint, sealed)).await.map(drop)
    }

    /// What was pushed with the current token and is not judged yet.
    pub async fn declaration_of_current(&mut self, item: &ItemId) -> Result<Option<(Fingerprint, Declaration)>, Error> {
        let sql = "SELECT fingerprint, declaration FROM access_tokens
            WHERE item_id = $1 AND standing = 'current' AND declaration IS NOT NULL";
        let Some(row) = self.row(sql!(sql, item)).await? else { return Ok(None) };
        let fingerprint = get(&row, "fingerprint")?;
        Ok(self.declaration_in(&row, item, &fingerprint)?.map(|declaration| (fingerprint, declaration)))
    }

    /// What was pushed with the current token is refused: nothing of it is in force. The token stays.
    pub async fn refuse_declaration(
        &mut self,
        item: &ItemId,
        fingerprint: &Fingerprint,
        cause: TokenCause,
        why: &str,
    ) -> Result<(), Error> {
        let sql = "UPDATE access_tokens SET declaration = NULL, cause = $3, why = $4, refused_at = $5
            WHERE item_id = $1 AND fingerprint = $2 AND standing = 'current'";
        self.run(sql!(sql, item, fingerprint, cause, why, self.now())).await.map(drop)
    }

    /// What came with this candidate is what counts from now on, under the newer token that is current. Older words are
    /// past.
    pub async fn adopt_declaration(&mut self, item: &ItemId, fingerprint: &Fingerprint) -> Result<(), Error> {
        if let Some(declaration) = self.waiting_declaration(item, fingerprint).await? {
            self.say_of_current(item, &declaration).await?;
        }
        let sql = "UPDATE access_tokens SET standing = 'superseded', sealed = NULL, declaration = NULL, judged_at = $3, why = $4, cause = $5
            WHERE item_id = $1 AND standing = 'candidate' AND seen_at <= (
                SELECT c.seen_at FROM access_tokens c WHERE c.item_id = $1 AND c.fingerprint = $2)";
        let cause = TokenCause::DeclarationHolds;
        self.run(sql!(sql, item, fingerprint, self.now(), cause.sentence(), cause)).await.map(drop)
    }

    async fn waiting_declaration(
        &mut self,
        item: &ItemId,
        fingerprint: &Fingerprint,
    ) -> Result<Option<Declaration>, Error> {
        let sql = "SELECT declaration FROM access_tokens WHERE item_id = $1 AND fingerprint = $2";
        let Some(row) = self.row(sql!(sql, item, fingerprint)).await? else { return Ok(None) };
        self.declaration_in(&row, item, fingerprint)
    }

    fn declaration_in(
        &self,
        row: &AnyRow,
        item: &ItemId,
        fingerprint: &Fingerprint,
    ) -> Result<Option<Declaration>, Error> {
        let Some(sealed) = opt_text(row, "declaration")? else { return Ok(None) };
        Declaration::open(&self.keys, &declared_at(item, fingerprint), &sealed).map(Some)
    }

    /// What was pushed with this token is in force from now on.
    pub async fn apply_declaration(&mut self, item: &ItemId, fingerprint: &Fingerprint) -> Result<(), Error> {
        if let Some(declaration) = self.waiting_declaration(item, fingerprint).await? {
            self.declare(item, &declaration).await?;
            let sql = "UPDATE access_tokens SET declaration = NULL WHERE item_id = $1 AND fingerprint = $2";
            self.run(sql!(sql, item, fingerprint)).await?;
        }
        Ok(())
    }

    /// The candidate is not the Item's token; what is kept is its fingerprint and why. `keep_declaration`: what came with it
    /// is kept too, for an Item of which nothing else is known.
    pub async fn reject(
        &mut self,
        item: &ItemId,
        fingerprint: &Fingerprint,
        cause: TokenCause,
        why: &str,
        keep_declaration: bool,
    ) -> Result<(), Error> {
        let sql = "UPDATE access_tokens SET standing = 'rejected', sealed = NULL, why = $3, judged_at = $4, cause = $6,
            declaration = CASE WHEN $5 = 1 AND EXISTS (SELECT 1 FROM items i WHERE i.item_id = $1 AND $UNDECLARED)
                THEN declaration ELSE NULL END
            WHERE item_id = $1 AND fingerprint = $2 AND standing = 'candidate'"
            .replace("$UNDECLARED", UNDECLARED);
        self.run(sql!(built(sql), item, fingerprint, why, self.now(), keep_declaration, cause)).await.map(drop)
    }

    /// Whether Plaid said, under the newest token that reached us, that its Item is gone; true: revoked. None: it did not,
    /// or a token was proved since.
    pub async fn gone_under_newest(&mut self, item: &ItemId) -> Result<Option<bool>, Error> {
        let sql = "SELECT cause FROM access_tokens WHERE item_id = $1 ORDER BY seen_at DESC, fingerprint LIMIT 1";
        let row = self.row(sql!(sql, item)).await?;
        let cause: Option<TokenCause> = row.map_or(Ok(None), |r| get(&r, "cause"))?;
        Ok(cause.and_then(TokenCause::gone))
    }

    /// Every access token of the Item, for operators; the newest first.
    pub async fn token_views(&mut self, item: &ItemId) -> Result<Vec<TokenView>, Error> {
        let sql = "SELECT * FROM access_tokens WHERE item_id = $1 ORDER BY seen_at DESC, fingerprint";
        let rows = self.rows(sql!(sql, item)).await?;
        let read = |r: &AnyRow| {
            Ok(TokenView {
                fingerprint: get(r, "fingerprint")?,
                standing: get(r, "standing")?,
                source: text(r, "source")?,
                cause: get(r, "cause")?,
                why: get(r, "why")?,
                seen_at: get(r, "seen_at")?,
                judged_at: get(r, "judged_at")?,
                declaration_waits: is_set(r, "declaration")?,
                refused_at: get(r, "refused_at")?,
            })
        };
        rows.iter().map(read).collect()
    }
}
