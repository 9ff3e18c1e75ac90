//! A link that may be divided, as whoever does not work on it sees it: its rows with those of its parts.

use crate::checkpoint::division::together;
use crate::checkpoint::rows::{DeadLetterRow, Division, LinkRow, Stage};
use crate::checkpoint::{LinkState, PartName, StateStore, StoreResult, all_letters};
use crate::error::{Error, Exit, Result};

/// How the link is divided, if it is.
pub(super) fn division_of(row: Option<&LinkRow>) -> Option<Division> {
    match row.map(|row| row.stage) {
        Some(Stage::Divided(division)) => Some(division),
        Some(Stage::Loading | Stage::Streaming) | None => None,
    }
}

/// The name of a part.
pub(super) fn part_name(link: &str, division: Division, number: u32) -> PartName {
    PartName { link: link.to_owned(), epoch: division.epoch, number }
}

/// The names of a link's parts, if it is divided and they are worked on.
pub(crate) async fn parts_at_work(store: &dyn StateStore, link: &str) -> StoreResult<Vec<String>> {
    let Some(leases) = store.leases() else { return Ok(Vec::new()) };
    let division = division_of(leases.link_row(link).await?.as_ref());
    Ok(division.filter(|division| !division.is_recalled).map_or_else(Vec::new, |division| names(link, division)))
}

/// The names of a link's parts, if it is divided.
pub(crate) async fn parts_of(store: &dyn StateStore, link: &str) -> StoreResult<Vec<String>> {
    let Some(leases) = store.leases() else { return Ok(Vec::new()) };
    let Some(division) = division_of(leases.link_row(link).await?.as_ref()) else { return Ok(Vec::new()) };
    Ok(names(link, division))
}

/// What the rows of a link say, with those of its parts if it is divided, and the names of these.
pub(crate) async fn read_with_parts(store: &dyn StateStore, link: &str) -> StoreResult<(LinkState, Vec<String>)> {
    loop {
        let parts = parts_of(store, link).await?;
        let mut states = Vec::new();
        for part in &parts {
            states.push(store.read(part).await?);
        }
        let state = store.read(link).await?;
        let division = division_of(state.link.as_ref());
        // Else it was divided or put together meanwhile.
        if division.map_or_else(Vec::new, |division| names(link, division)) == parts {
            let state = match division {
                Some(division) => together(state, division, states),
                None => state,
            };
            return Ok((state, parts));
        }
    }
}

/// The dead letters of a link, and of its parts if it is divided, each with the name of what has it.
pub(crate) async fn letters_with_parts(
    store: &dyn StateStore,
    link: &str,
) -> StoreResult<Vec<(String, DeadLetterRow)>> {
    let Some(leases) = store.leases() else {
        let letters = all_letters(store, link).await?;
        return Ok(letters.into_iter().map(|letter| (link.to_owned(), letter)).collect());
    };
    loop {
        let division = division_of(leases.link_row(link).await?.as_ref());
        let mut of_parts = Vec::new();
        for part in division.map_or_else(Vec::new, |division| names(link, division)) {
            let letters = all_letters(store, &part).await?;
            of_parts.extend(letters.into_iter().map(|letter| (part.clone(), letter)));
        }
        let own = all_letters(store, link).await?;
        let after = division_of(leases.link_row(link).await?.as_ref());
        // Else it was divided or put together meanwhile.
        if after.map(|after| after.epoch) == division.map(|division| division.epoch) {
            // Others of the link's are copies: they were written when it was to be put together, and that broke off.
            let is_own = |letter: &DeadLetterRow| division.is_none_or(|division| letter.id < division.first_letter);
            let own = own.into_iter().filter(is_own).map(|letter| (link.to_owned(), letter));
            return Ok(own.chain(of_parts).collect());
        }
    }
}

fn names(link: &str, division: Division) -> Vec<String> {
    (0..division.parts).map(|number| part_name(link, division, number).to_string()).collect()
}

/// Refuses a link that is divided: its rows are not how far it is.
pub(crate) fn check_whole(link: &str, row: Option<&LinkRow>) -> Result<()> {
    if division_of(row).is_none() {
        return Ok(());
    }
    Err(Error::new(Exit::Held, format!("the shards of link `{link}` are shared by workers"))
        .hint("run the command again; or stop the workers, or set `checkpoint.sharing = false`, first"))
}
