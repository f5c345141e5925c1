//! Rekey, while a storm goes over it.

use domain::Role;
use rekey::local::Local;
use rekey::wiring::Running;
use std::sync::Arc;
use store::Store;
use tokio::runtime::Runtime;

/// Rekey in a runtime of its own, so that it can die at any await point, as a process does.
pub(crate) struct Life {
    runtime: Option<Runtime>,
    running: Option<Running>,
}

impl Life {
    /// At new ports: what the one before it held is let go when its runtime finds the time.
    pub(crate) async fn begin(local: &Arc<Local>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let mut life = Self { runtime: None, running: None };
        let starting = Arc::clone(local);
        let started = runtime.spawn(async move { starting.start(Role::ALL_IN_ONE, "").await });
        life.runtime = Some(runtime);
        let running = started.await??;
        if let Some(receiver) = running.receiver {
            local.sandbox.move_webhooks(&format!("http://{receiver}/webhooks/plaid"));
        }
        life.running = Some(running);
        Ok(life)
    }

    pub(crate) fn store(&self) -> Option<Store> {
        self.running.as_ref().and_then(|r| r.store.get().cloned())
    }

    /// Every task is dropped where it is.
    pub(crate) fn crash(self) {
        drop(self);
    }

    pub(crate) async fn stop(mut self) {
        if let (Some(runtime), Some(running)) = (self.runtime.take(), self.running.take()) {
            let stopped = runtime.spawn(running.stop()).await;
            self.runtime = Some(runtime);
            if stopped.is_err() {
                tracing::error!("the stop panicked");
            }
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        // A runtime may not be dropped inside another one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
