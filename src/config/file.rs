//! Finds and reads the file.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::diagnose::Problems;

/// The variable that names the file.
pub const FILE_VARIABLE: &str = "DYNAFERRY_CONFIG";

/// Where the file is looked for, in this order, when neither `--config` nor [`FILE_VARIABLE`] names one.
pub const DEFAULT_FILES: [&str; 2] = ["./dynaferry.toml", "/etc/dynaferry/dynaferry.toml"];

/// A file and its text.
pub(super) struct Read {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// Reads the file that was named, else the first of the defaults that exists; `None` when there is none.
pub(super) fn find(named: Option<(&Path, &str)>, defaults: &[&str]) -> Result<Option<Read>, Problems> {
    if let Some((path, by)) = named {
        let text = read(path)?;
        return text.map(|text| Some(Read { path: path.to_owned(), text })).ok_or_else(|| {
            Problems::one(format!("config file {} does not exist", path.display()), format!("named by {by}"))
        });
    }
    for path in defaults {
        if let Some(text) = read(Path::new(path))? {
            return Ok(Some(Read { path: path.into(), text }));
        }
    }
    Ok(None)
}

/// The one place that reads a settings file. `None` when it does not exist.
fn read(path: &Path) -> Result<Option<String>, Problems> {
    let unreadable = |why: String| Problems::one(format!("read config file {}: {why}", path.display()), "");
    match std::fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            unreadable(format!("byte {at} is not UTF-8"))
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(error.to_string())),
    }
}
