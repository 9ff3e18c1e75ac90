//! A link begins: it is waited for and taken, what its load is made of is found, and its books are opened. Nothing is sent.

use std::sync::Arc;

use super::Link;
use super::chaining::Load;
use super::leading::Lead;
use super::looking::division_of;
use crate::aws::Clients;
use crate::checkpoint::LinkState;
use crate::checkpoint::book::Book;
use crate::checkpoint::lease::Session;
use crate::checkpoint::rows::Fence;
use crate::config::OnGap;
use crate::error::{Error, Exit, Result};
use crate::load::export::ExportSource;
use crate::model::{StreamArn, ViewType, WallTime};
use crate::runtime::fleet::{Held, LinkGuard, Wait};
use crate::runtime::open::Opened;
use crate::runtime::prepare::{Accounts, Needs, Prepared, prepare};
use crate::stream::part::Elsewhere;

/// How a link is found when it is held.
pub(super) enum Start {
    Whole(Box<Begun>),
    Divided(Box<Lead>),
    /// A part that nobody is to work on any more.
    Recalled,
    /// The lease was over before that.
    Lapsed,
}

/// A link whose books are open, and that has not sent anything yet.
pub(super) struct Begun {
    pub(super) prepared: Prepared,
    pub(super) fence: Fence,
    pub(super) opened: Opened,
    pub(super) export: Option<ExportSource>,
    /// The stream was pinned, and then waits, or waited, for an export.
    pub(super) waited_for_load: bool,
    pub(super) stream: StreamArn,
    pub(super) view: ViewType,
    pub(super) hold: Hold,
    /// Of a part: what it leaves alone.
    pub(super) elsewhere: Option<Elsewhere>,
}

/// What may end a link's work besides its own faults: another worker.
#[derive(Default)]
pub(super) struct Hold {
    pub(super) session: Option<Arc<Session>>,
    /// It was another worker's before; whether that one had drained.
    pub(super) takeover: Option<bool>,
}

impl Link {
    /// Both sides, and the books that this process owns from now on; or what it finds instead.
    pub(super) async fn begin(&self) -> Result<Start> {
        let context = &self.shared.context;
        let guard = Arc::new(LinkGuard::default());
        let clients = Clients {
            guard: self.shared.fleet.as_ref().map(|_| guard.of_clients(context)),
            ..self.shared.clients.clone()
        };
        let connect = || Accounts::connect(&self.config, &clients, Some(self.observer()));
        // Before the link is this worker's, so that a hand-over does not wait for it: asks who we are, reads nothing. Of parts
        // there are many, and most stay with others.
        let early = if self.part.is_none() { Some(connect().await?) } else { None };
        let accounts = async {
            match early {
                Some(accounts) => Ok(accounts),
                None => connect().await,
            }
        };
        let Some(fleet) = &self.shared.fleet else {
            let accounts = accounts.await?;
            let found = self.shared.store.read(&self.config.name).await?;
            self.check_names(found.link.as_ref())?;
            if division_of(found.link.as_ref()).is_some() {
                return Err(Error::bug(format!("link `{}` is divided, and nobody shares its state", self.config.name)));
            }
            let load = Box::pin(self.find_load(&accounts, &found)).await?;
            let needs = Needs { stream: true, target: found.link.is_some() || load.is_import() };
            let prepared = prepare(&self.config, accounts, &self.by_aws(), needs).await?;
            let (fence, state) = self.shared.store.take(&self.config.name, context.worker()).await?;
            let begun = self.open_books((prepared, load), fence, state, (Hold::default(), None)).await?;
            return Ok(Start::Whole(Box::new(begun)));
        };
        let waits = |wait: Wait<'_>| match wait {
            Wait::For(holder) => self.stands_by(Some(holder)),
            Wait::Blind => self.stands_by(None),
        };
        let Held { fence, state, session, takeover } =
            fleet.acquire(&self.config.name, self.shared.mode, waits).await?;
        self.stands_by(None);
        if self.part.is_none() {
            self.shared.metrics.holds(&self.config.name);
        }
        guard.open(Arc::clone(&session));
        let hold = Hold { session: Some(Arc::clone(&session)), takeover };
        let elsewhere = match &self.part {
            None => None,
            Some(part) => match self.elsewhere(part, &state).await? {
                None => return Ok(Start::Recalled),
                elsewhere => elsewhere,
            },
        };
        let opening = async {
            self.check_names(state.link.as_ref())?;
            let accounts = accounts.await?;
            if let (Some(row), Some(division)) = (&state.link, division_of(state.link.as_ref())) {
                let needs = Needs { stream: true, target: true };
                let prepared = prepare(&self.config, accounts, &self.by_aws(), needs).await?;
                let (row, session) = (row.clone(), Arc::clone(&session));
                return Ok(Start::Divided(Box::new(Lead { prepared, fence, row, division, session })));
            }
            let load = Box::pin(self.find_load(&accounts, &state)).await?;
            let needs = Needs { stream: true, target: state.link.is_some() || load.is_import() };
            let prepared = prepare(&self.config, accounts, &self.by_aws(), needs).await?;
            self.open_books((prepared, load), fence, state, (hold, elsewhere))
                .await
                .map(|begun| Start::Whole(Box::new(begun)))
        };
        tokio::select! {
            biased;
            // From then on nothing of this would be sent, and what waits for it would wait for ever.
            () = session.lapse(context) => Ok(Start::Lapsed),
            start = Box::pin(opening) => start,
        }
    }

    async fn open_books(
        &self,
        (mut prepared, load): (Prepared, Load),
        fence: Fence,
        mut state: LinkState,
        (hold, elsewhere): (Hold, Option<Elsewhere>),
    ) -> Result<Begun> {
        let gates = self.open_gates(&prepared, &fence, &mut state).await?;
        let (mut opened, stream, view) = self.open(&prepared, &load, state).await?;
        remember_expiry(&prepared, &mut opened.book, self.aws_now());
        if self.config.stream.on_gap == OnGap::Stop && opened.book.gap_rows().any(|gap| gap.healed.is_none()) {
            self.write_down(opened.book, &fence).await?;
            return Err(Error::new(
                Exit::Lost,
                format!("link `{}` has an open gap and on_gap is \"stop\"", self.config.name),
            )
            .hint("set `stream.on_gap = \"heal\"`, or load again with a fresh state"));
        }
        self.go_through(gates, &mut prepared, &mut opened.book, &fence).await?;
        let waited_for_load = load.is_by_export();
        Ok(Begun {
            prepared,
            fence,
            opened,
            export: load.into_export(),
            waited_for_load,
            stream,
            view,
            hold,
            elsewhere,
        })
    }

    /// Makes durable what opening the books has found, where nothing is sent after it.
    async fn write_down(&self, mut book: Book, fence: &Fence) -> Result<()> {
        book.update_link(|link| link.clean = true);
        Ok(self.shared.store.commit(&self.config.name, fence, book.take_writes()).await?)
    }
}

/// What expires at the source is told by its state, too, and what is found now is remembered.
fn remember_expiry(prepared: &Prepared, book: &mut Book, now: WallTime) {
    let Some(expiry) = &prepared.expiry else { return };
    expiry.remember(&book.link().expiry_attributes, now);
    if expiry.all() != book.link().expiry_attributes {
        book.update_link(|link| link.expiry_attributes = expiry.all());
    }
}
