//! Which business at Layer is meant, and making it when Layer does not have it yet.

use super::Reconciliation;
use crate::reconcile::Stop;
use crate::{Context, Mode};
use domain::budget::Call;
use domain::hold::Hold;
use domain::ids::BusinessRef;
use domain::work::Code;
use domain::{BusinessId, LayerId, ProcessorToken};
use layer::Meaning;

/// Layer's id of a business. None: Layer does not have it.
pub(crate) async fn layer_id_of(context: &Context, business: &BusinessId) -> Result<Option<LayerId>, layer::Error> {
    match business.reference() {
        BusinessRef::External(external_id) => context.layer.find_business(external_id).await,
        BusinessRef::Layer(id) => {
            let Ok(id) = LayerId::parse(id) else { return Ok(None) };
            Ok(context.layer.business_exists(&id).await?.then_some(id))
        }
    }
}

impl Reconciliation<'_> {
    /// None: it does not exist yet and nothing is minted that it could be created with.
    pub(super) async fn resolve(&mut self) -> Result<Option<LayerId>, Stop> {
        if let Some(id) = &self.row.layer_id {
            return Ok(Some(id.clone()));
        }
        self.wait_for_slot(Call::Layer).await?;
        match layer_id_of(self.context, &self.id).await {
            Ok(Some(id)) => {
                self.note(&id).await?;
                Ok(Some(id))
            }
            Ok(None) => self.create().await,
            Err(error) => Err(self.refused(&error).await),
        }
    }

    /// Two names for one business would be two writers of its list.
    async fn note(&self, id: &LayerId) -> Result<(), Stop> {
        let mut tx = self.context.store.begin().await?;
        tx.check_lease(&self.claim).await?;
        let other = tx.set_layer_id(&self.id, id).await?;
        tx.commit().await?;
        match other {
            None => Ok(()),
            Some(other) => Err(self.parked(
                Code::NamedTwice,
                format!("Layer's business {id} is already known here as {other}: push its Items under that name"),
            )),
        }
    }

    async fn create(&mut self) -> Result<Option<LayerId>, Stop> {
        let mut tx = self.read_our_side().await?;
        let details = tx.creation_details(&self.id).await?;
        let tokens = tx.open_live_tokens(&self.id).await?;
        let wanted = tx.wanted_accounts(&self.id).await?;
        drop(tx);
        let external_id = match self.id.reference() {
            BusinessRef::External(external_id) => external_id.to_owned(),
            BusinessRef::Layer(_) => return Err(self.unknown()),
        };
        let details = details.and_then(|d| serde_json::from_str::<serde_json::Map<_, _>>(&d).ok());
        let Some(details) = details else {
            // Nobody has an account here any more, and Layer does not have it either: nothing is left to do.
            return if wanted.is_empty() { Ok(None) } else { Err(self.unknown()) };
        };
        let listed = |f: &domain::Fingerprint| wanted.iter().any(|w| w.token.as_ref() == Some(f));
        let (fingerprints, tokens): (Vec<_>, Vec<ProcessorToken>) =
            tokens.into_iter().filter(|(f, _)| listed(f)).unzip();
        if tokens.is_empty() || self.context.settings.mode == Mode::Observe {
            return Ok(None);
        }
        if let Some((why, _)) = self.row.kept_back.clone() {
            return Err(Stop::Row(self.held(&Hold::Operator { why })));
        }
        if let Some(rehearsal) = &self.context.rehearsal {
            rehearsal.would_create(tokens.len());
            return Ok(None);
        }
        self.wait_under(self.context.lease_of_write(), Call::LayerCreate).await?;
        let made = match self.context.layer.create_business(&details, &external_id, &tokens).await {
            Ok(made) => made,
            Err(error) if error.meaning() == Meaning::RefusedContent => {
                return Err(self.parked(
                    Code::CreationRefused,
                    format!(
                        "Layer refuses to create the business ({}): check what the push says in `create` (a phone number \
                         that another business has is refused too), push it again",
                        error.code()
                    ),
                ));
            }
            Err(error) => return Err(self.refused(&error).await),
        };
        // The trap: Layer may answer with an archived business of the same phone number, whoever it is.
        if made.external_id.as_deref() != Some(external_id.as_str()) {
            return Err(self.parked(
                Code::AnotherBusinessReturned,
                "Layer answered the creation with another business (it has the same phone number and was archived until \
                 now): correct the phone number in `create` and push again, and archive the other business again at Layer"
                    .into(),
            ));
        }
        let Ok(id) = LayerId::parse(made.id) else { return Err(self.unknown()) };
        self.note(&id).await?;
        let mut tx = self.context.store.begin().await?;
        tx.check_lease(&self.claim).await?;
        tx.record_accepted(&self.id, &fingerprints, &[]).await?;
        // What Layer has by now; the rest of this reconciliation reads it back and reports it.
        if let Some(row) = tx.business(&self.id).await? {
            self.row = row;
        }
        tx.commit().await?;
        tracing::info!("business created at Layer with its tokens");
        Ok(Some(id))
    }

    fn unknown(&self) -> Stop {
        self.parked(
            Code::BusinessUnknownToLayer,
            format!(
                "Layer has no active business {}: unarchive it there, or create it, or push an Item of it with `create`; then \
                 release",
                self.id
            ),
        )
    }
}
