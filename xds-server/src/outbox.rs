//! What waits to be sent on a stream: a few responses, or one large one. A client that does not
//! read finds the newest state when it does, never a queue of old ones.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;
use tokio_stream::Stream;
use tonic::Status;

use crate::wire::Frame;

/// Most responses that wait.
const MAX_FRAMES: usize = 8;
/// Most bytes that wait; one response that is larger waits alone.
pub(crate) const MAX_BYTES: usize = 256 * 1024;

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Frame>,
    bytes: usize,
    end: Option<Status>,
    is_ended: bool,
    waker: Option<Waker>,
    is_closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    closed: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole values only: whatever interrupted their writer left them whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sending half.
#[derive(Debug, Clone)]
pub(crate) struct Outbox(Arc<Shared>);

/// The receiving half: the stream of responses.
#[derive(Debug)]
pub(crate) struct Inbox(Arc<Shared>);

/// A new pair.
pub(crate) fn outbox() -> (Outbox, Inbox) {
    let shared = Arc::<Shared>::default();
    (Outbox(Arc::clone(&shared)), Inbox(shared))
}

impl Outbox {
    /// Whether another response may be put in now.
    pub(crate) fn has_room(&self) -> bool {
        let state = self.0.lock();
        state.frames.is_empty() || (state.frames.len() < MAX_FRAMES && state.bytes < MAX_BYTES)
    }

    /// Puts a response in.
    pub(crate) fn send(&self, frame: Frame) {
        let waker = {
            let mut state = self.0.lock();
            if state.is_closed || state.is_ended {
                return;
            }
            state.bytes += frame.len();
            state.frames.push_back(frame);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ends the stream; with a status at once, without after what waits.
    pub(crate) fn end(&self, status: Option<Status>) {
        let waker = {
            let mut state = self.0.lock();
            if state.is_ended {
                return;
            }
            if status.is_some() {
                state.frames.clear();
                state.bytes = 0;
            }
            state.end = status;
            state.is_ended = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        // The reader must not go on either.
        self.0.closed.notify_one();
    }

    /// Resolves when the client is gone or the stream was ended.
    pub(crate) async fn closed(&self) {
        loop {
            {
                let state = self.0.lock();
                if state.is_closed || state.is_ended {
                    return;
                }
            }
            self.0.closed.notified().await;
        }
    }
}

impl Stream for Inbox {
    type Item = Result<Frame, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.lock();
        if let Some(frame) = state.frames.pop_front() {
            state.bytes -= frame.len();
            if state.frames.is_empty() {
                // Most streams are silent most of the time.
                state.frames.shrink_to_fit();
            }
            return Poll::Ready(Some(Ok(frame)));
        }
        if state.is_ended {
            return Poll::Ready(state.end.take().map(Err));
        }
        let same = state
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(context.waker()));
        if !same {
            state.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_closed = true;
        state.frames = VecDeque::new();
        drop(state);
        self.0.closed.notify_one();
    }
}
