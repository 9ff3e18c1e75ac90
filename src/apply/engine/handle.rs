//! The way to the engine: what others may ask of it.

use tokio::sync::{mpsc, oneshot};

use crate::checkpoint::book::Token;
use crate::lanes::PageNumber;
use crate::model::{Change, Key, RawItem};

pub(super) enum Message {
    Changes(Vec<(Change, Token)>),
    OpenPage(oneshot::Sender<PageNumber>),
    Page(PageNumber, Vec<(Key, Option<RawItem>, Token)>),
    AbandonPage(PageNumber),
    Idle(oneshot::Sender<()>),
}

/// The engine is gone; the reason is what its task returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine has stopped")]
pub(crate) struct EngineGone;

/// The way to the engine. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    pub(super) inbox: mpsc::Sender<Message>,
}

impl Engine {
    /// Hands over changes that the bookkeeper admitted, in the order of their shard.
    pub(crate) async fn apply(&self, changes: Vec<(Change, Token)>) -> Result<(), EngineGone> {
        if changes.is_empty() { Ok(()) } else { self.tell(Message::Changes(changes)).await }
    }

    /// Opens a page of the load, before it is requested.
    pub(crate) async fn open_page(&self) -> Result<PageNumber, EngineGone> {
        let (ack, number) = oneshot::channel();
        self.tell(Message::OpenPage(ack)).await?;
        number.await.map_err(|_| EngineGone)
    }

    /// Hands over the items of an open page; one without an image is gone.
    pub(crate) async fn load(
        &self,
        page: PageNumber,
        items: Vec<(Key, Option<RawItem>, Token)>,
    ) -> Result<(), EngineGone> {
        self.tell(Message::Page(page, items)).await
    }

    /// Closes a page that was not received.
    pub(crate) async fn abandon_page(&self, page: PageNumber) -> Result<(), EngineGone> {
        self.tell(Message::AbandonPage(page)).await
    }

    /// Resolves when nothing is out and nothing waits to be sent, and keys in doubt are not due.
    pub(crate) async fn idle(&self) -> Result<(), EngineGone> {
        let (ack, is_idle) = oneshot::channel();
        self.tell(Message::Idle(ack)).await?;
        is_idle.await.map_err(|_| EngineGone)
    }

    async fn tell(&self, message: Message) -> Result<(), EngineGone> {
        self.inbox.send(message).await.map_err(|_| EngineGone)
    }
}
