//! What the cluster can offer: nodes, bounded by the namespace's limit ranges and quotas, and kept
//! fresh by watches.
//!
//! Nodes are cluster-scoped, and reading them may be forbidden. Then the bounds of the namespace are
//! all that is known, and a job that no node can take is told `Unschedulable` by its worker. The same
//! goes for quotas and limit ranges; what may not be read is said in the answer.
//!
//! | module | what it answers |
//! |---|---|
//! | `placement` | which nodes the configuration lets a worker on to |
//! | `node`, `bounds` | what is kept of a node, a quota, a limit range |
//! | `inventory`, `state` | what there is now, by watch |
//! | `answer` | what that offers, and yes or no |
//! | `survey` | the same of objects that somebody else has read |

mod answer;
mod bounds;
mod inventory;
mod node;
mod placement;
mod state;
mod survey;

use std::time::{Duration, Instant};

use hodei_core::{
    failure::{Failure, FailureCause},
    provider::{Fulfilment, ProviderCapabilities, ProviderError, Requirements, Staleness},
};

pub use self::survey::{Headroom, headroom, why_closed};
use self::{
    answer::{answer, summarize},
    bounds::Demand,
};
pub(crate) use self::{
    inventory::{Inventory, Shared},
    node::digest,
};
use crate::provider::{KubernetesProvider, SYNC_DEADLINE};

const OPERATION: &str = "read capabilities";

impl KubernetesProvider {
    /// What can be offered, as last seen.
    pub(crate) async fn offer(&self) -> Result<ProviderCapabilities, ProviderError> {
        self.inventory.await_known(SYNC_DEADLINE).await;
        let state = self.inventory.state();
        if let Some((missing, trouble)) = state.missing() {
            return Err(self.unseen(missing, SYNC_DEADLINE, trouble));
        }
        let age = state.oldest().map_or(Duration::ZERO, |(_, age, _)| age);
        Ok(ProviderCapabilities {
            unknown: state.forbidden(),
            staleness: Staleness(age),
            ..summarize(&state.known(Instant::now()))
        })
    }

    /// Whether these requirements can be met, as last seen. An old view is not answered from: a no
    /// ends a job, and a yes would send it where nothing answers.
    pub(crate) async fn judge(&self, needs: &Requirements) -> Result<Fulfilment, ProviderError> {
        self.inventory.await_known(SYNC_DEADLINE).await;
        let state = self.inventory.state();
        if let Some((missing, trouble)) = state.missing() {
            return Err(self.unseen(missing, SYNC_DEADLINE, trouble));
        }
        if let Some((oldest, age, trouble)) = state.oldest()
            && age > self.inventory.stale
        {
            return Err(self.unseen(oldest, age, trouble));
        }
        let demand = Demand::of(&self.config, &needs.resources);
        let known = state.known(Instant::now());
        Ok(answer(&known, &demand, needs, self.config.node_autoscaling))
    }

    fn unseen(&self, resource: &str, since: Duration, trouble: Option<&str>) -> ProviderError {
        let trouble = trouble.unwrap_or("no answer");
        let message =
            format!("nothing was heard of {resource} for {} s: {trouble}", since.as_secs());
        ProviderError {
            operation: OPERATION,
            subject: format!("namespace {}", self.config.namespace),
            failure: Failure { cause: FailureCause::ApiUnavailable, message },
            retry_after: None,
            source: None,
        }
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
