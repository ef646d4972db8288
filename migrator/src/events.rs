//! What is told to whoever listens: plans, assignments of hosts, isolation.
//!
//! Signals are entries of one log in the store, written in the same transaction as what they tell
//! of: none is lost, and none tells of what did not happen. The control API gives the log; webhooks
//! follow it.

use domain::{HostId, InstanceId, Plan, PlanId, Timestamp};
use serde::{Deserialize, Serialize};
use store::{LogName, StoreError, Transaction};

/// Something that others may act on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "signal", rename_all = "snake_case")]
pub enum Signal {
    /// A plan was made.
    Plan {
        /// When.
        at: Timestamp,
        /// Its name.
        plan: PlanId,
        /// The plan before it.
        parent: Option<PlanId>,
        /// In a sentence.
        summary: String,
    },
    /// An instance is to go to a host.
    Assignment {
        /// When.
        at: Timestamp,
        /// The plan it belongs to.
        plan: PlanId,
        /// The instance.
        instance: InstanceId,
        /// From where.
        from: HostId,
        /// To where.
        target: HostId,
    },
    /// A host was isolated, or given back, by somebody.
    Isolation {
        /// The host.
        host: HostId,
        /// Who.
        owner: String,
        /// Why, if it was isolated.
        reason: Option<String>,
        /// Whether it takes no new instances now.
        isolated: bool,
        /// Whether it is to be emptied.
        drain: bool,
    },
}

/// The log of signals.
pub fn log_name() -> LogName {
    LogName("signals".to_owned())
}

/// A plan and its assignments, added to a transaction.
///
/// # Errors
/// The store's.
pub fn of_plan(mut transaction: Transaction, plan: &Plan) -> Result<Transaction, StoreError> {
    let at = plan.decision.at;
    let made = Signal::Plan {
        at,
        plan: plan.id.clone(),
        parent: plan.parent.clone(),
        summary: plan.decision.summary.clone(),
    };
    transaction = transaction.append(log_name(), &made)?;
    for intent in &plan.decision.moves {
        let assigned = Signal::Assignment {
            at,
            plan: plan.id.clone(),
            instance: intent.instance.clone(),
            from: intent.from.clone(),
            target: intent.target.clone(),
        };
        transaction = transaction.append(log_name(), &assigned)?;
    }
    Ok(transaction)
}
