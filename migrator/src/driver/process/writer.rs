//! Handing a single writer's writing over.
//!
//! The replicas themselves keep the fence: each holds, on its disk, the highest epoch that it knows
//! of, and takes writes only under one that it was opened with. So a call that comes late, from
//! whomever, opens nobody: whoever took the writes back has raised the epoch first.

use std::time::Duration;

use domain::Replica;
use domain::migration::Frozen;
use hyper::{Method, StatusCode};
use serde::Deserialize;

use super::hooks;
use super::record::Record;
use super::{ProcessDriver, failed, transient};
use crate::driver::{DriverError, OpContext, Opened};

/// What a writer's hooks answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct Standing {
    /// The highest epoch that it knows of.
    writer: u64,
    /// Where its own writes, or those that it follows, end.
    position: u64,
    /// Whether it has ever taken writes itself.
    wrote: bool,
}

impl ProcessDriver {
    pub(super) async fn freeze(
        &self,
        ctx: &OpContext,
        original: &Replica,
    ) -> Result<Frozen, DriverError> {
        const OPERATION: &str = "freeze writes";
        let record = self.writer_of(OPERATION, original)?;
        let standing = self.freeze_now(OPERATION, ctx, &record).await?;
        Ok(Frozen {
            writer: standing.writer,
            position: standing.position,
        })
    }

    pub(super) async fn reach(
        &self,
        ctx: &OpContext,
        original: &Replica,
        shadow: &Replica,
        frozen: Frozen,
    ) -> Result<(), DriverError> {
        const OPERATION: &str = "catch up";
        let original = self.writer_of(OPERATION, original)?;
        let shadow = self.writer_of(OPERATION, shadow)?;
        self.equal_at(OPERATION, ctx, &original, &shadow, frozen.position)
            .await?;
        // The way back, before there is anything to bring back.
        let from = serde_json::json!({ "from": shadow.endpoint().to_string() });
        self.tell(OPERATION, ctx, &original, "follow", &from.to_string())
            .await?;
        Ok(())
    }

    pub(super) async fn open_writer(
        &self,
        ctx: &OpContext,
        replica: &Replica,
        writer: u64,
    ) -> Result<(), DriverError> {
        const OPERATION: &str = "open writes";
        let record = self.writer_of(OPERATION, replica)?;
        let body = serde_json::json!({ "writer": writer }).to_string();
        self.tell(OPERATION, ctx, &record, "open", &body).await?;
        Ok(())
    }

    pub(super) async fn back(
        &self,
        ctx: &OpContext,
        original: &Replica,
        shadow: Option<&Replica>,
        opened: Opened,
    ) -> Result<Frozen, DriverError> {
        const OPERATION: &str = "take writes back";
        let original = self.writer_of(OPERATION, original)?;
        // Whether or not it was reached before: from here on the original is frozen.
        let standing = self.freeze_now(OPERATION, ctx, &original).await?;
        let mut back = Frozen {
            writer: standing.writer + 1,
            position: standing.position,
        };
        let shadow = shadow.and_then(|shadow| self.writer_of(OPERATION, shadow).ok());
        let Some(shadow) = shadow else {
            return match opened {
                Opened::Never => Ok(back),
                Opened::Perhaps => {
                    let reason = "the shadow, which may have taken writes, does not run any more: \
                                  what it took would be lost";
                    Err(failed(OPERATION, &original.tag, reason))
                }
            };
        };
        // Above every epoch that it may have been given, also by a call that is still under way.
        let body = serde_json::json!({ "at_least": back.writer }).to_string();
        let standing = self.tell(OPERATION, ctx, &shadow, "freeze", &body).await?;
        back.writer = standing.writer;
        if standing.wrote {
            let from = serde_json::json!({ "from": shadow.endpoint().to_string() });
            self.tell(OPERATION, ctx, &original, "follow", &from.to_string())
                .await?;
            back.position = standing.position;
            self.equal_at(OPERATION, ctx, &shadow, &original, standing.position)
                .await?;
        }
        Ok(back)
    }

    /// Lets a new shadow follow its original's writes.
    pub(super) async fn follow(
        &self,
        ctx: &OpContext,
        original: &Replica,
        shadow: &Replica,
    ) -> Result<(), DriverError> {
        const OPERATION: &str = "follow";
        let shadow = self.writer_of(OPERATION, shadow)?;
        let from = serde_json::json!({ "from": original.endpoint.to_string() });
        self.tell(OPERATION, ctx, &shadow, "follow", &from.to_string())
            .await?;
        Ok(())
    }

    /// Freezes a replica under the epoch that it has now: a call that comes late, when it has been
    /// opened again, is refused.
    async fn freeze_now(
        &self,
        operation: &'static str,
        ctx: &OpContext,
        record: &Record,
    ) -> Result<Standing, DriverError> {
        let now = self.tell(operation, ctx, record, "standing", "{}").await?;
        let body = serde_json::json!({ "of": now.writer }).to_string();
        self.tell(operation, ctx, record, "freeze", &body).await
    }

    fn writer_of(&self, operation: &'static str, replica: &Replica) -> Result<Record, DriverError> {
        let record = self.record_of(operation, replica)?;
        if record.spec.hooks.writer.is_none() {
            let reason = "its specification has no hook by which writing is handed over";
            return Err(failed(operation, &replica.tag, reason));
        }
        Ok(record)
    }

    async fn tell(
        &self,
        operation: &'static str,
        ctx: &OpContext,
        record: &Record,
        verb: &str,
        body: &str,
    ) -> Result<Standing, DriverError> {
        let hook = record.spec.hooks.writer.as_deref().unwrap_or_default();
        let path = format!("{hook}/{verb}");
        let endpoint = record.endpoint();
        let sent = hooks::call(
            endpoint,
            Method::POST,
            &path,
            Some(body.to_owned()),
            ctx.deadline,
        );
        let (status, answer) = sent
            .await
            .map_err(|error| transient(operation, &record.tag, error))?;
        if status == StatusCode::CONFLICT {
            let said = String::from_utf8_lossy(&answer)
                .chars()
                .take(200)
                .collect::<String>();
            return Err(failed(operation, &record.tag, said));
        }
        if !status.is_success() {
            let reason = format!("POST {path} answered {status}");
            return Err(transient(operation, &record.tag, reason));
        }
        serde_json::from_slice(&answer)
            .map_err(|error| failed(operation, &record.tag, format!("POST {path}: {error}")))
    }

    /// Waits until both have reached a position, and compares their states exactly there.
    async fn equal_at(
        &self,
        operation: &'static str,
        ctx: &OpContext,
        ahead: &Record,
        behind: &Record,
        position: u64,
    ) -> Result<(), DriverError> {
        let Some(path) = &ahead.spec.hooks.state else {
            let reason = "its specification has no hook for the state: nothing can be compared";
            return Err(failed(operation, &ahead.tag, reason));
        };
        let limit = ctx.deadline.saturating_sub(Duration::from_millis(20));
        let query = format!("position={position}&timeout_ms={}", limit.as_millis());
        let asked = hooks::with_query(path, &query);
        let (theirs, ours) = tokio::join!(
            hooks::state(ahead.endpoint(), &asked, ctx.deadline),
            hooks::state(behind.endpoint(), &asked, ctx.deadline)
        );
        let error = |tag: &str, error: String| transient(operation, tag, error);
        let theirs = theirs.map_err(|reason| error(&ahead.tag, reason))?;
        let ours = ours.map_err(|reason| error(&behind.tag, reason))?;
        match (theirs, ours) {
            (Some(theirs), Some(ours))
                if theirs.position == position && ours.position == position =>
            {
                if theirs.digest == ours.digest {
                    return Ok(());
                }
                let reason = format!("its state at {position} is not that of {}", ahead.tag);
                Err(failed(operation, &behind.tag, reason))
            }
            _ => {
                let reason = format!("the state at {position} is not known any more");
                Err(failed(operation, &behind.tag, reason))
            }
        }
    }
}
